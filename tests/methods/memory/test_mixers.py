"""Attention taken apart is the model's own, or refused; mixers go with a reader and leave nothing behind."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from transformers import Ministral3Config, Ministral3ForCausalLM

from ropewalk.common.errors import UserError
from ropewalk.methods.memory.mixers import MixedReader, Parts, reader_on, taken_apart
from ropewalk.methods.memory.reader import reading
from ropewalk.rope import live
from tests.models import COMMON, in_pieces, tiny, tokens

NEAR = {"mistral": {"sliding_window": 32}}  # which its attention module does not know
TAKEN = ["llama", "qwen2", "qwen3", "mistral", "gemma3", "olmo2", "cohere", "gemma2", "smollm3"]


@dataclass
class Plain:
    """Attention out of the parts, whose state is all rotated keys and values."""

    parts: Parts

    def begin(self, rows):
        return None

    def mix(self, hidden, start, state):
        own, module = self.parts, self.parts.module
        q, k, v = own.queries(module.q_proj(hidden)), own.keys(module.k_proj(hidden)), own.values(module.v_proj(hidden))
        q, k = own.turned(q, start), own.turned(k, start)
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        return own.out(own.attended(q, k, v)), (k, v)


def plain(model):
    parts = taken_apart(model)
    return MixedReader(model, parts, [Plain(one) for one in parts], piece=20)


@pytest.mark.parametrize("family", TAKEN)
@torch.no_grad()
def test_plain_attention_out_of_its_parts_is_the_model(family):
    model, ids = tiny(family, **NEAR.get(family, {})), tokens(2, 50)
    before = model(ids).logits
    with reading(model, plain(model)):
        torch.testing.assert_close(model(ids).logits, before, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(in_pieces(model, ids, 23, 1, 26), before, atol=2e-5, rtol=1e-5)
    assert torch.equal(model(ids).logits, before)


@torch.no_grad()
def test_the_model_without_mixers_can_be_asked_in_between():
    model, ids = tiny("llama"), tokens(1, 30)
    parts = taken_apart(model)
    before, given = model(ids).logits, []
    hook = parts[1].module.register_forward_hook(lambda *seen: given.append((seen[2], seen[3])), with_kwargs=True)
    model(ids)
    hook.remove()

    class Nothing(Plain):
        def mix(self, hidden, start, state):
            return torch.zeros_like(hidden), None

    with reading(model, MixedReader(model, parts, [Nothing(one) for one in parts], piece=20)):
        nothing = model(ids).logits
        with reader_on(model).plainly():
            assert torch.equal(model(ids).logits, before)
        hidden, out = reader_on(model).taught(ids)[1]
        assert torch.equal(model(ids).logits, nothing) and not torch.equal(nothing, before)
    assert torch.equal(hidden, given[0][0]["hidden_states"]) and torch.equal(out, given[0][1][0])
    assert all("forward" not in vars(one.module) for one in parts)


@torch.no_grad()
def test_a_forward_that_a_module_had_of_its_own_comes_back():
    model, ids = tiny("llama"), tokens(1, 30)
    module = taken_apart(model)[1].module
    before, plainly = model(ids).logits, module.forward

    def own(*inputs, **more):
        out, weights = plainly(*inputs, **more)
        return 2 * out, weights

    module.forward = own
    twice = model(ids).logits
    with live.forward_of(module, plainly):
        assert torch.equal(model(ids).logits, before)
    assert module.forward is own and torch.equal(model(ids).logits, twice) and not torch.equal(twice, before)


@pytest.mark.parametrize(("family", "why"), [("phi3", "q_proj"), ("gpt_neox", "q_proj"), ("gpt_oss", "off by")])
def test_layers_that_are_something_else_are_refused(family, why):
    with pytest.raises(UserError, match=f"cannot be given another mixer.*{why}"):
        taken_apart(tiny(family))


def test_queries_that_are_scaled_far_on_are_refused():
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}  # fmt: skip
    for beta, is_refused in ((0.0, False), (0.5, True)):
        config = Ministral3Config(**COMMON, rope_parameters=rope | {"llama_4_scaling_beta": beta})
        with pytest.raises(UserError, match=r"off by .* at positions from") if is_refused else nullcontext():
            taken_apart(Ministral3ForCausalLM(config).eval())


def test_what_a_short_text_does_not_show_is_refused_by_the_configuration():
    with pytest.raises(UserError, match=r"attention_dropout is 0\.1"):
        taken_apart(tiny("llama", attention_dropout=0.1))
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(UserError, match="dynamic"):
        taken_apart(tiny("llama", rope_parameters=scaled))
