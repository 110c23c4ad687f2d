"""Regions on encoders, in which a token sees those behind it too: mirrored, or refused."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, EuroBertConfig, EuroBertModel, LlamaConfig, LlamaModel

from ropewalk.attention import soundness
from ropewalk.attention.regions import ENDLESS, PLAIN, Layer, Region, first_above, same, zero
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.self_extend import SelfExtend
from ropewalk.methods.catalogue import CATALOGUE, Entry, method
from ropewalk.rope.probe import identity_rotary
from tests.encoders.rotating_models import MODELS, WINDOW

TARGET = 2 * WINDOW
BIDIRECTIONAL = [name for name in MODELS if name not in ("qwen3", "mistral")]
LAYER = Layer(index=0, window=8, target=10, heads=2, kv_heads=2)


def both(regions: tuple[Region, ...]) -> tuple[Region, ...]:
    return tuple(one for region in regions for one in region.both_ways)


def live(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name][0]().eval()


def ids(n: int, rows: int = 1) -> Tensor:
    return torch.randint(3, 600, (rows, n), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def states(model: nn.Module, tokens: Tensor, **more: Any) -> Tensor:
    if "token_type_ids" in inspect.signature(model.forward).parameters:  # older versions have them up to the window
        more["token_type_ids"] = torch.zeros_like(tokens)
    found: Tensor = model(input_ids=tokens, **more).last_hidden_state
    return found


def test_self_extend_looks_both_ways_as_longembed_says() -> None:
    regions = both(SelfExtend(group=2, window=4).regions(LAYER))
    every = torch.arange(10)
    met = {m: (-soundness._met(regions, torch.tensor([m]), every)[0]).tolist() for m in (0, 4)}
    assert met[0] == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6]  # n - m, as it writes distances
    assert met[4] == [-4, -3, -2, -1, 0, 1, 2, 3, 4, 4]


def test_plain_attention_is_one_region_of_all_keys() -> None:
    (whole,) = both(PLAIN)
    m = torch.arange(5)
    assert whole.lo(m).tolist() == [0] * 5 and bool((whole.hi(m) == ENDLESS).all())
    (window,) = both(Layer(0, 8, 8, 2, 2, sliding=3).clip(PLAIN))
    assert (window.hi(m) - m).tolist() == [3] * 5 and (m - window.lo(m)).tolist() == [0, 1, 2, 2, 2]


def test_a_bound_is_turned_round() -> None:
    m = torch.arange(40)
    steps = first_above(lambda n: n // 3)
    assert steps(m).tolist() == [3 * (i + 1) for i in range(40)]
    assert set(first_above(zero)(m).tolist()) == {ENDLESS}


def test_regions_that_cannot_be_mirrored_are_refused() -> None:
    falls = (Region(lo=lambda m: (m * 3) % 7 // 2, hi=lambda m: m + 1),)
    with pytest.raises(UserError, match="cannot be mirrored"):
        soundness.mirrored("falls", falls, 32)
    assert soundness.mirrored("plain", PLAIN, 32)[0].q_pos is same
    with pytest.raises(UserError, match="cannot be mirrored"), method("gali").on(live("eurobert"), TARGET):
        pass


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_groups_of_one_are_the_model_itself(name: str) -> None:
    model, tokens = live(name), ids(TARGET)
    own = states(model, tokens)
    with method("self-extend(group=1, window=63)").on(model, WINDOW):
        read = states(model, tokens[:, :WINDOW])
    torch.testing.assert_close(read, states(model, tokens[:, :WINDOW]), atol=2e-5, rtol=1e-4)
    assert torch.equal(states(model, tokens), own)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Halves of x [.., D] turned by angles [.., D/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


@torch.no_grad()
def written_out(model: Any, tokens: Tensor, apart: Tensor) -> Tensor:
    """The states of a EuroBERT whose queries and keys are turned by the distances [n, n] at which they meet."""
    inv_freq = model.rotary_emb.inv_freq

    def attention(module: Any, q: Tensor, k: Tensor, v: Tensor, *mask: Any, scaling: float, **more: Any) -> Any:
        meeting = turned(q[:, :, :, None], apart[..., None] * inv_freq)  # [B, H, Q, K, D]
        logits = (meeting * k[:, :, None]).sum(-1) * scaling
        return (logits.softmax(-1) @ v).transpose(1, 2), None

    AttentionInterface.register("written_out", attention)
    own = model.config._attn_implementation
    model.config._attn_implementation = "written_out"
    try:
        with identity_rotary(model):
            found: Tensor = model(input_ids=tokens).last_hidden_state
    finally:
        model.config._attn_implementation = own
    return found


def grouped(n: int, group: int, near: int) -> Tensor:
    """Distances of SelfExtend as LongEmbed writes them, pair by pair."""

    def distance(a: int, b: int) -> int:
        r, far = a - b, a // group - b // group
        if abs(r) < near:
            return r
        return far + (near - near // group) if r > 0 else far - (near - near // group)

    return torch.tensor([[float(distance(a, b)) for b in range(n)] for a in range(n)])


def test_self_extend_is_what_it_says_pair_by_pair() -> None:
    model, tokens = live("eurobert"), ids(TARGET)
    plain = states(model, tokens)
    with method("self-extend(group=3, window=16)").on(model, TARGET):
        read = states(model, tokens)
    torch.testing.assert_close(read, written_out(model, tokens, grouped(TARGET, 3, 16)), atol=2e-5, rtol=1e-4)
    assert float((read - plain).abs().max()) > 1e-2


ALONE = [one for one in CATALOGUE if one.kind == "positions" and one.id not in ("dope", "gali")]


@pytest.mark.parametrize("entry", ALONE, ids=lambda one: one.id)
def test_what_is_seen_from_behind_is_met_the_other_way_round(entry: Entry) -> None:
    model, tokens, chosen = live("eurobert"), ids(TARGET), entry.load()()
    layer = Layer(index=0, window=WINDOW, target=TARGET, heads=2, kv_heads=2, length=TARGET)
    back = soundness._met(chosen.regions(layer), torch.arange(TARGET), torch.arange(TARGET)).nan_to_num(0.0).tril()
    with chosen.on(model, TARGET):
        read = states(model, tokens)
    torch.testing.assert_close(read, written_out(model, tokens, (back - back.mT).float()), atol=3e-5, rtol=1e-3)


@pytest.mark.parametrize("spelling", ["self-extend", "rerope", "dual-chunk", "dynamic-ntk", "yarn+self-extend"])
def test_a_token_is_seen_from_before_it(spelling: str) -> None:
    model, tokens = live("eurobert"), ids(TARGET)
    other = tokens.clone()
    other[0, -1] = (tokens[0, -1] + 1) % 500
    with method(spelling).on(model, TARGET):
        first, second = states(model, tokens), states(model, other)
    assert float((first - second)[0, 0].abs().max()) > 1e-4


def test_a_frequency_of_the_length_leaves_all_else_as_it_was() -> None:
    model, tokens = live("modernbert"), ids(WINDOW)
    with method("dynamic-ntk").on(model, TARGET):
        read = states(model, tokens)
    torch.testing.assert_close(read, states(model, tokens), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["modernbert", "nomic_bert"])
def test_padding_is_no_part_of_a_text(name: str) -> None:
    model, tokens = live(name), ids(100, rows=2)
    visible = torch.ones(2, 100, dtype=torch.long)
    visible[1, 70:] = 0
    with method("self-extend").on(model, TARGET):
        padded = states(model, tokens, attention_mask=visible)[1, :70]
        alone = states(model, tokens[1:, :70])[0]
    torch.testing.assert_close(padded, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("spelling", ["lm-infinite", "log-n", "streaming-llm", "yarn+log-n"])
def test_what_has_no_mirror_image_is_refused(spelling: str) -> None:
    model = live("eurobert")
    with pytest.raises(UserError, match="sees those behind it too"), method(spelling).on(model, TARGET):
        pass


def test_a_mask_that_says_otherwise_than_the_layer_is_refused() -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    shape |= {"vocab_size": 600, "max_position_embeddings": WINDOW, "pad_token_id": 2}
    encoder = EuroBertModel(EuroBertConfig(**shape, mask_token_id=3)).eval()
    writer = LlamaModel(LlamaConfig(**shape)).eval()
    encoder.layers[0].self_attn.is_causal = True
    writer.layers[0].self_attn.is_causal = False
    for model in (encoder, writer):
        with method("self-extend").on(model, TARGET), pytest.raises(UserError, match="is_causal"):
            states(model, ids(TARGET))
