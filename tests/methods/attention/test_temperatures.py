"""Scales per head, run or folded into weights; one temperature for all."""

import pytest
import torch

from ropewalk import AttentionAlignment, HeadScale, UserError, method
from tests.matrix import logits
from tests.methods.attention.pairs import TARGET, N, distinct, one_layer, read
from tests.models import shared, tiny, tokens

SCALES = ((1.0, 1.3, 0.7, 1.6), (1.1, 1.0, 2.0, 1.2))


def test_every_head_has_its_scale_in_every_layer():
    (seen,) = read(one_layer(), HeadScale(SCALES[:1]), distinct(1), [N])
    for head, scale in enumerate(SCALES[0]):
        for m in range(0, N, 9):
            row = (scale * seen.logits(head, m, {n: m - n for n in range(m + 1)})).softmax(0)
            assert float((row @ seen.v[head, : m + 1] - seen.out[head, m]).abs().max()) <= 1e-6


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "cohere"])
@pytest.mark.parametrize("padded", [False, True])
def test_folding_equals_scaling(family, padded):
    model, ids = tiny(family), tokens(2, 90)
    mask = torch.ones_like(ids)
    mask[0, : 20 if padded else 0] = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("q_proj.bias"):
                parameter.normal_()
    plain = logits(model, ids, attention_mask=mask)
    with HeadScale(SCALES).on(model, to=TARGET):
        scaled = logits(model, ids, attention_mask=mask)
    HeadScale(SCALES).fold(model)
    folded = logits(model, ids, attention_mask=mask)
    assert torch.allclose(folded[mask.bool()], scaled[mask.bool()], atol=2e-5)
    assert not torch.allclose(folded[mask.bool()], plain[mask.bool()], atol=1e-2)


def test_a_folded_model_is_saved_as_plain_weights(tmp_path):
    model = tiny("llama")
    HeadScale(SCALES).fold(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again, tokens(1, 40)), logits(model, tokens(1, 40)))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("qwen3", "layer 0 does not hand its queries on as q_proj gives them"),
        ("gemma3", "does not hand its queries on"),
        ("olmo2", "does not hand its queries on"),
        ("phi3", "layer 0 has no q_proj"),
        ("gpt_neox", "layer 0 has no q_proj"),
    ],
)
def test_what_cannot_be_folded_is_refused_and_left_alone(family, message):
    model = tiny(family)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        HeadScale(SCALES).fold(model)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    with HeadScale(SCALES).on(model, to=TARGET):  # at run time it works
        assert not torch.allclose(logits(model, tokens(1, 60)), logits(tiny(family), tokens(1, 60)), atol=1e-3)


@pytest.mark.parametrize("one", [HeadScale(((1.0,) * 4,) * 2), AttentionAlignment(1.0)], ids=lambda one: one.name)
def test_temperatures_of_one_are_refused(one):
    with pytest.raises(UserError, match="would be the plain model") as error, one.on(shared("llama"), to=TARGET):
        pass
    assert f"--method {one.name} --to {TARGET}" in error.value.mend


@pytest.mark.parametrize(
    ("scales", "message"),
    [(((1.0, 0.0, 1.0, 1.0),), "layer 0, head 1 has scale 0.0"), (SCALES[:1], "layer 1 has 4 heads"),
     (((2.0,) * 3,) * 2, "layer 0 has 4 heads, expected scales for each")],
)  # fmt: skip
def test_scales_that_do_not_fit_are_refused(scales, message):
    with pytest.raises(UserError, match=message), HeadScale(scales).on(shared("llama"), to=TARGET):
        pass


def test_one_temperature_per_model():
    with pytest.raises(UserError, match="both set the temperature"):
        method("head-scale+log-n")


def test_the_temperature_divides_the_logits():
    model, ids = tiny("llama"), tokens(2, 90)
    with AttentionAlignment(0.8).on(model, to=TARGET):
        got = logits(model, ids)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.div_(0.8)
    assert torch.allclose(got, logits(model, ids), atol=2e-5)
