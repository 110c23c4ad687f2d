"""ALiBi with other slopes, on live models: against the formula, with padding, with a cache."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from ropewalk.attention.cache_argument import as_argument, of_output
from ropewalk.carriers.carrier import carrier_of
from ropewalk.common.errors import UserError
from ropewalk.methods.carriers.alibi_interpolation import AlibiInterpolation
from ropewalk.methods.carriers.plain_carrier import PlainCarrier
from tests.carriers.ropeless import ALIBI, WINDOW, ids, model

TARGET = 2 * WINDOW
FORMS = ("linear", "ntk", "geometric")


def logits(live, tokens, **more):
    with torch.no_grad():
        return live(input_ids=tokens, **more).logits


def with_slopes(live, kind, monkeypatch, factors):
    """The model with slopes times ``factors`` in transformers' own functions, which the method never calls."""
    from transformers.models.bloom import modeling_bloom as bloom
    from transformers.models.falcon import modeling_falcon as falcon
    from transformers.models.mpt import modeling_mpt as mpt

    own_mpt = mpt.build_mpt_alibi_tensor
    monkeypatch.setattr(
        mpt, "build_mpt_alibi_tensor", lambda h, n, *a, **k: own_mpt(h, TARGET, *a, **k) * factors[:, None, None]
    )

    scaled(falcon, monkeypatch, factors)
    scaled(bloom, monkeypatch, factors)
    return live


def scaled(module, monkeypatch, factors):
    """BLOOM's or Falcon's builder of biases, and BLOOM's of slopes where there is one, times a factor for each head."""
    own, slopes = module.build_alibi_tensor, getattr(module, "_get_alibi_slopes", None)

    def built(mask, heads, dtype):
        with monkeypatch.context() as as_it_comes:
            if slopes is not None:
                as_it_comes.setattr(module, "_get_alibi_slopes", slopes)
            found = own(mask, heads, dtype)
        return (found.view(len(mask), heads, 1, -1) * factors[:, None, None]).view_as(found)

    monkeypatch.setattr(module, "build_alibi_tensor", built)
    if slopes is not None:  # transformers 5.16 has none
        monkeypatch.setattr(module, "_get_alibi_slopes", lambda *a: slopes(*a) * factors)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ALIBI)
def test_it_is_the_model_whose_own_code_has_these_slopes(kind, form, monkeypatch):
    live, tokens = model(kind), ids(TARGET)
    heads, s = carrier_of(live.config).heads, TARGET / WINDOW
    steps = [-math.log2(slope) / 8 for slope in carrier_of(live.config).slopes]
    exponents = {"linear": [1] * heads, "geometric": steps,
                 "ntk": [(one - min(steps)) / (max(steps) - min(steps)) for one in steps]}[form]  # fmt: skip
    with AlibiInterpolation(form=form).on(live, TARGET):
        found = logits(live, tokens)
    with PlainCarrier().on(live, TARGET):
        plain = logits(live, tokens)
    factors = torch.tensor([s**-e for e in exponents])
    meant = logits(with_slopes(live, kind, monkeypatch, factors), tokens)
    assert torch.allclose(found, meant, atol=2e-5 * float(meant.abs().max()))
    assert float((found - plain).abs().max()) > 0.01 * float(plain.abs().max())


@pytest.mark.parametrize("kind", ALIBI)
def test_in_bfloat16_slopes_are_still_those(kind):
    live, tokens = model(kind), ids(TARGET)
    with AlibiInterpolation().on(live, TARGET):
        exact = logits(live, tokens)
    live.bfloat16()
    with AlibiInterpolation().on(live, TARGET):
        found = logits(live, tokens).float()
    with PlainCarrier().on(live, TARGET):
        plain = logits(live, tokens).float()
    assert float((found - exact).abs().mean()) < 0.5 * float((found - plain).abs().mean())


@pytest.mark.parametrize("kind", ALIBI)
def test_within_the_window_following_leaves_every_bit(kind):
    live, tokens = model(kind), ids(WINDOW, 2)
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    plain = logits(live, tokens, attention_mask=mask)
    with AlibiInterpolation(follow=True).on(live, TARGET):
        assert torch.equal(logits(live, tokens, attention_mask=mask), plain)
    with AlibiInterpolation().on(live, TARGET):
        assert not torch.equal(logits(live, tokens, attention_mask=mask), plain)
    assert torch.equal(logits(live, tokens, attention_mask=mask), plain)


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("kind", ALIBI)
def test_padding_on_the_left_changes_nothing(kind, follow):
    live, text, n = model(kind), ids(TARGET - 9), TARGET
    padded = torch.cat([torch.full((1, 9), 2), text], 1)
    mask = torch.ones(1, n, dtype=torch.long)
    mask[:, :9] = 0
    with AlibiInterpolation(follow=follow).on(live, TARGET):
        alone, beside = logits(live, text), logits(live, padded, attention_mask=mask)[:, 9:]
    assert torch.allclose(alone, beside, atol=2e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("kind", ["bloom", "falcon"])
def test_rows_have_scales_of_their_own(kind):
    live, long, short = model(kind), ids(TARGET), ids(WINDOW)
    rows = torch.cat([long, torch.cat([torch.full((1, TARGET - WINDOW), 2), short], 1)])
    mask = torch.ones_like(rows)
    mask[1, : TARGET - WINDOW] = 0
    with AlibiInterpolation(follow=True).on(live, TARGET):
        both, alone = logits(live, rows, attention_mask=mask), [logits(live, one) for one in (long, short)]
    assert torch.allclose(both[:1], alone[0], atol=1e-4) and torch.allclose(both[1:, -WINDOW:], alone[1], atol=1e-4)


def test_mpt_refuses_rows_that_need_several_biases():
    live, rows = model("mpt"), ids(TARGET, 2)
    mask = torch.ones_like(rows)
    mask[0, : WINDOW + 3] = 0
    with AlibiInterpolation(follow=True).on(live, TARGET), pytest.raises(UserError, match="one bias for all texts"):
        logits(live, rows, attention_mask=mask)


@pytest.mark.parametrize("kind", ALIBI)
def test_a_cache_gives_what_one_forward_gives(kind):
    live, tokens = model(kind), ids(TARGET)
    with AlibiInterpolation(form="ntk").on(live, TARGET), torch.no_grad():
        whole = logits(live, tokens)
        out = live(input_ids=tokens[:, : WINDOW - 3], use_cache=True)
        parts = [out.logits]
        for j in range(WINDOW - 3, TARGET):
            out = live(input_ids=tokens[:, j : j + 1], use_cache=True, **as_argument(live, of_output(out)))
            parts.append(out.logits)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=2e-5 * float(whole.abs().max()))


@pytest.mark.parametrize(("kind", "cache"), [*((kind, "dynamic") for kind in ALIBI), ("bloom", "static"),
                                              ("mpt", "static")])  # fmt: skip
def test_generate_writes_what_single_forwards_would(kind, cache):
    live, tokens, n = model(kind), ids(WINDOW - 4), 12
    more = {"do_sample": False, "eos_token_id": 599, "pad_token_id": 2, "cache_implementation": cache}
    with AlibiInterpolation().on(live, TARGET), torch.no_grad():
        written = live.generate(tokens, max_new_tokens=n, **more)
        for _ in range(n):
            tokens = torch.cat([tokens, logits(live, tokens)[:, -1:].argmax(-1)], 1)
    assert torch.equal(written, tokens)


@pytest.mark.parametrize("kind", ["mpt", "mpt-6"])
def test_mpts_biases_grow_as_if_the_key_said_more(kind):
    tokens, longer = ids(TARGET), model(kind, max_seq_len=TARGET)
    live = model(kind)
    with PlainCarrier().on(live, TARGET):
        assert torch.equal(logits(live, tokens), logits(longer, tokens))


def test_the_geometric_form_is_mpts_own_with_another_bound():
    live = model("mpt", n_heads=8)
    ratios = AlibiInterpolation(form="geometric").ratios(torch.tensor([1]), carrier_of(live.config), 4 * WINDOW)[0]
    slopes = ratios * torch.tensor(carrier_of(live.config).slopes)
    bias = build_mpt_alibi_tensor(8, 3, alibi_bias_max=8 + math.log2(4))
    assert torch.allclose(-slopes.float(), bias[:, 0, 1], atol=1e-7)


def test_other_slopes_are_refused(monkeypatch):
    from transformers.models.bloom import modeling_bloom as bloom

    live = model("bloom")
    scaled(bloom, monkeypatch, torch.full((carrier_of(live.config).heads,), 1.1))
    with pytest.raises(UserError, match="not those of ALiBi's formula"), AlibiInterpolation().on(live, TARGET):
        pass


def test_falcons_eager_attention_is_refused():
    live, tokens = model("falcon", attn_implementation="eager"), ids(WINDOW)
    assert not torch.allclose(
        logits(live, tokens), logits(model("falcon"), tokens), atol=0.01
    )  # transformers adds the biases twice
    with pytest.raises(UserError, match="adds its biases twice"), AlibiInterpolation().on(live, TARGET):
        pass


def test_a_window_that_nothing_says_is_asked_for():
    live = model("bloom")
    del live.config.seq_length
    with pytest.raises(UserError, match="no key of this bloom says"), AlibiInterpolation().on(live, TARGET):
        pass
    with AlibiInterpolation(effective_window=WINDOW).on(live, TARGET):
        found = logits(live, ids(TARGET))
    with AlibiInterpolation().on(model("bloom"), TARGET):
        pass
    assert found.isfinite().all()


def test_within_the_window_there_is_nothing_to_do():
    with pytest.raises(UserError, match="not beyond the window"), AlibiInterpolation().on(model("bloom"), WINDOW):
        pass
    with (
        pytest.raises(UserError, match="carried by: alibi; of this one it is: table"),
        AlibiInterpolation().on(model("gpt2"), TARGET),
    ):
        pass
