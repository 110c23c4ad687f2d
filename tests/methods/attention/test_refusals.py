"""What the engine and the methods refuse, and that the message says the number and the formula."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ropewalk import UserError, method
from ropewalk.methods.attention.streaming import StreamingLLM
from ropewalk.rope.probe import probe
from tests.matrix import TARGET, logits
from tests.models import COMMON, THETA, shared, step, tiny, tokens


def refusal(action):
    with pytest.raises(UserError) as error:
        action()
    return error.value


def put_on(spelling, to=TARGET, **more):
    def action():
        with method(spelling).on(tiny("llama", **more), to=to):
            pass

    return refusal(action)


@pytest.mark.parametrize(
    ("spelling", "says", "mend"),
    [
        ("self-extend(window=64)", "leaves nothing of the trained 64 tokens", "below 64, for example 16"),
        ("self-extend(group=4, window=16)", "(L - W) G + W = 208", "a group of at least 5"),
        ("dca(chunk_size=65)", "chunk_size is 65, which is the largest position", "chunk_size <= 64"),
        ("dca(chunk_size=20, local_size=20)", "local_size is 20, expected less than chunk_size = 20", ""),
        ("rerope(window=64)", "window is 64, expected less than the 64 trained tokens", "such as 16"),
        ("leaky-rerope(window=64)", "window is 64, expected less than the 64 trained tokens", "such as 16"),
        ("leaky-rerope(window=16, slope_divisor=4.0)", "w + (T - w) / k = 76", "slope_divisor >= 5"),
        ("lm-infinite(window=65)", "window is 65, expected at most the 64 trained tokens", ""),
        ("streaming-llm(sinks=4, recent=61)", "sinks + recent = 4 + 61, expected at most the 64", ""),
        ("streaming-llm(sinks=64)", "at least one of them recent", ""),
        ("gali(local_window=64)", "local_window is 64, expected less than the trained 64", ""),
        ("rerope(effective_window=65)", "effective_window is 65, expected 1 to the trained window of 64", ""),
        ("log-n(effective_window=0)", "effective_window is 0, expected 1 to", ""),
        ("rerope(window=16, effective_window=16)", "expected less than the 16 trained tokens", "such as 4"),
    ],
)
def test_options_that_do_not_fit_the_model(spelling, says, mend):
    error = put_on(spelling)
    assert says in error.message and mend in error.mend


def test_the_divisor_that_is_offered_is_accepted():
    mend = put_on("leaky-rerope(window=15, slope_divisor=2.0)", to=250).mend
    least = float(mend.split(">= ")[1].rstrip("."))
    with method(f"leaky-rerope(window=15, slope_divisor={least})").on(tiny("llama"), to=250):
        pass


def test_the_group_that_is_offered_is_accepted_and_no_smaller_one_would_be():
    mend = put_on("self-extend(group=2, window=10)", to=1000).mend
    least = int(mend.split("least ")[1].rstrip("."))
    with method(f"self-extend(group={least}, window=10)").on(tiny("llama"), to=1000):
        pass
    put_on(f"self-extend(group={least - 1}, window=10)", to=1000)


def test_shifted_groups_of_one_head():
    assert "has one head" in put_on("s2-attention", num_attention_heads=1, num_key_value_heads=1).message


@pytest.mark.parametrize(
    "spelling",
    ["self-extend(group=0)", "self-extend(window=-3)", "dca(chunk_size=0)", "rerope(window=0)",
     "leaky-rerope(slope_divisor=0.0)", "lm-infinite(sinks=-1)", "streaming-llm(recent=0)", "gali(local_window=0)",
     "yarn-temperature(coefficient=0.0)", "s2-attention(group_size=1)"],
)  # fmt: skip
def test_options_that_fit_no_model(spelling):
    assert "expected a number above" in refusal(lambda: method(spelling)).message


# Inputs

IDS = tokens(2, 70)


def given(spelling="dca", family="llama", ids=IDS, **inputs):
    def action():
        with method(spelling).on(shared(family), to=TARGET):
            logits(shared(family), ids, **inputs)

    return refusal(action)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_masks_of_queries_by_keys(family):
    error = given(family=family, attention_mask=torch.ones(2, 1, 70, 70, dtype=torch.bool))
    assert "[2, 1, 70, 70]" in error.message and "document_ids" in error.mend


def test_attention_weights():
    assert "attention weights" in given(output_attentions=True).message


def test_falling_positions():
    error = given(position_ids=torch.arange(70)[None] % 35, attention_mask=torch.ones(2, 70))
    assert "fall within a text" in error.message and "document_ids" in error.mend


def test_positions_of_three_dimensions():
    assert (
        "position_ids have the shape [1, 1, 70], expected [batch, tokens]"
        in given(position_ids=torch.arange(70)[None, None]).message
    )


def test_dropout():
    model = tiny("llama", attention_dropout=0.1).train()

    def action():
        with method("dca").on(model, to=TARGET):
            model(IDS)

    error = refusal(action)
    assert "dropout is 0.1" in error.message and "attention_dropout = 0" in error.mend


@torch.no_grad()
def test_packed_documents_on_a_cache():
    model = shared("llama")

    def action():
        with method("dca").on(model, to=TARGET):
            _, cache = step(model, IDS)
            step(model, IDS[:, :2], cache, document_ids=torch.tensor([[0, 1]]))

    assert "on top of a cache" in refusal(action).message


@torch.no_grad()
@pytest.mark.parametrize("how", ["padding", "positions"])
def test_rows_of_different_positions_in_an_evicting_cache(how):
    model, chosen = shared("llama"), StreamingLLM(sinks=3, recent=10)
    mask = torch.ones_like(IDS)
    mask[0, :5] = 0
    inputs = {"attention_mask": mask} if how == "padding" else {"position_ids": 5 + torch.arange(70)[None]}

    def action():
        with chosen.on(model, to=TARGET):
            step(model, IDS, chosen.cache(model), **inputs)

    assert "a cache that evicts" in refusal(action).message


def test_layers_that_were_added_later():
    model = tiny("llama")

    def action():
        with method("dca").on(model, to=TARGET):
            model.model.layers.append(tiny("llama").model.layers[0])
            model.model.layers[-1].self_attn.config = model.config
            model.config.num_hidden_layers += 1
            logits(model, IDS)

    assert "was not seen when the method was put on" in refusal(action).message


# Models


def other(model_type, *without, **more):
    torch.manual_seed(0)
    values = {key: value for key, value in COMMON.items() if key not in without} | more
    config = AutoConfig.for_model(model_type, **values, rope_parameters=dict(THETA))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1 if "norm" in name else 0, 0.15)
    return model


def test_a_model_without_the_attention_interface():
    model = other("falcon", "head_dim", "num_key_value_heads", new_decoder_architecture=True, num_kv_heads=2)
    plain = logits(model, IDS)

    def action():
        with method("dca").on(model, to=TARGET):
            pass

    error = refusal(action)
    assert "AttentionInterface" in error.message and "frequencies" in error.mend
    assert torch.equal(logits(model, IDS), plain)


def test_a_norm_between_rotation_and_attention():
    model = other("hunyuan_v1_dense")
    assert "do not explain" in refusal(lambda: probe(model)).message


def test_a_norm_of_ones_between_rotation_and_attention_turns_no_head():
    model = other("hunyuan_v1_dense")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "query_layernorm" in name or "key_layernorm" in name:
                weight.fill_(1.0)
    assert {how.style for how in probe(model)} == {"half"}


def test_a_rotation_that_no_rotary_module_explains():
    model = tiny("llama")

    class Other(nn.Module):
        def __init__(self, rotary):
            super().__init__()
            self.rotary, self.register = rotary, None
            self.register_buffer("inv_freq", rotary.inv_freq * 2, persistent=False)

        def forward(self, x, position_ids):
            return self.rotary(x, position_ids)

    model.model.rotary_emb = Other(model.model.rotary_emb)
    del model.model.rotary_emb.rotary.inv_freq
    model.model.rotary_emb.rotary.inv_freq = model.model.rotary_emb.inv_freq / 2
    assert "do not explain" in refusal(lambda: probe(model)).message
