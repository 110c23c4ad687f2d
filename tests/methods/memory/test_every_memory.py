"""What every method that reads with a memory must do: a file and one line of the catalogue meet all of this.

Exceptions are declared by the class: ``exact_near``, ``cache_exact``.
"""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from functools import cache

import pytest
import torch

import ropewalk
from ropewalk import UserError, compose, method
from ropewalk.serving.batch import Batch, way_of
from tests.matrix import (
    TWICE,
    WINDOW,
    buffers,
    every_memory,
    left_padded,
    logits,
    near,
    same,
    subject,
    text,
    traces,
)
from tests.models import in_pieces, step, tiny

IDS = text(2, 98)  # beyond the window of 64
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1}


@cache
def whole(case):
    """Logits of both rows in one forward."""
    with case.on(subject()):
        return logits(subject(), IDS)


@every_memory
def test_the_catalogue_says_what_the_class_is(case):
    kind, chosen = case.entry.load(), case.made(subject())
    assert kind.name == case.entry.id and {case.entry.kind} == kind.axes == {"memory"}
    assert getattr(ropewalk, kind.__name__) is kind and case.entry.exportable.startswith("no: needs code")
    told = " ".join(one.__doc__ or "" for one in kind.__mro__)
    assert [f.name for f in fields(kind) if f"{f.name}: " not in told] == []
    assert method(chosen.id) == chosen and {chosen: 1}[case.made(subject())] == 1
    assert copy.deepcopy(chosen) == chosen == pickle.loads(pickle.dumps(chosen))
    with pytest.raises(FrozenInstanceError):
        chosen.option = 1
    with pytest.raises(UserError, match=f"{kind.name} has no option 'optoin'"):
        method(f"{kind.name}(optoin=1)")


@every_memory
def test_numbers_that_are_none_are_refused(case):
    chosen = case.made(subject())
    for name in [f.name for f in fields(chosen) if str(f.type).split(" |")[0] in ("int", "float")]:
        for value in (math.nan, math.inf, -1):
            with pytest.raises(UserError, match=name):
                replace(chosen, **{name: value})


@every_memory
def test_the_beginning_of_a_text_is_read_as_by_the_plain_model(case):
    few = IDS[:, : WINDOW // 8]
    expected = logits(subject(), few)
    with case.on(subject()) as chosen:
        assert torch.equal(logits(subject(), few), expected) or not chosen.exact_near
    assert whole(case).isfinite().all() and not near(whole(case), logits(subject(), IDS), 1e-4)


@every_memory
def test_pieces_give_what_one_forward_gives_unless_the_class_says_otherwise(case):
    once = whole(case)
    with case.on(subject()) as chosen:
        assert near(in_pieces(subject(), IDS, 70, 22, *[1] * 6), once) == chosen.cache_exact


@every_memory
def test_no_token_sees_what_follows_it(case):
    other, once = IDS.clone(), whole(case)
    other[:, -8:] = text(2, 98, seed=1)[:, -8:]
    with case.on(subject()):
        found = logits(subject(), other)
        assert near(logits(subject(), IDS[:, :90]), once[:, :90])
    assert near(found[:, :-8], once[:, :-8]) and not near(found, once, 1e-2)


@every_memory
def test_texts_leave_nothing_for_the_next_and_rows_do_not_see_each_other(case):
    once = whole(case)
    with case.on(subject()):
        in_pieces(subject(), IDS[:, :80].flip(1), 70, 10)
        assert near(logits(subject(), IDS[1:]), once[1:])
        assert torch.equal(logits(subject(), IDS), once)


@torch.no_grad()
@every_memory
def test_a_padded_row_gives_what_it_gives_alone(case):
    model, mask, once = subject(), left_padded(IDS, 30), whole(case)
    with case.on(model):
        found = logits(model, IDS, attention_mask=mask)
        assert near(found[0, 30:], logits(model, IDS[:1, 30:])[0]) and near(found[1], once[1])


@torch.no_grad()
@every_memory
def test_generation_and_serving_give_the_tokens_of_single_steps(case):
    model, ids = subject(), IDS[:, :80]
    with case.on(model) as chosen:
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS)[:, 80:]
        expected, new, held = [], ids, None
        for _ in range(4):
            scores, held = step(model, new, held, logits_to_keep=1)
            new = scores[:, -1:].argmax(-1)
            expected.append(new)
        assert torch.equal(found, torch.cat(expected, 1))
        batch = Batch.of(model, way_of(model, chosen, False, ids[0, :48].tolist()), 90)
        served = [int(batch.read([ids[0].tolist()])[0, -1].argmax())]
        for _ in range(3):
            served.append(int(batch.read([served[-1:]])[0, -1].argmax()))
        assert served == found[0].tolist()


@every_memory
def test_all_is_put_back_bit_for_bit(case):
    model = tiny("llama", vocab_size=300)
    state, before = buffers(model), traces(model)
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    expected = logits(model, IDS)
    with case.on(model):
        logits(model, IDS)
    with pytest.raises(IndexError), case.on(model):
        logits(model, torch.full((1, 98), 10**6))
    assert same(buffers(model), state) and traces(model) == before
    assert all(torch.equal(one, weights[name]) and one.grad is None for name, one in model.named_parameters())
    assert all(one.requires_grad for one in model.parameters()) and torch.equal(logits(model, IDS), expected)


@every_memory
def test_fingerprints_and_refusals(case):
    model, twin = subject(), tiny("llama", vocab_size=300)
    chosen = case.made(model)
    assert chosen.fingerprint(model, TWICE) == chosen.fingerprint(twin, TWICE)
    assert chosen.fingerprint(model, TWICE) != method("none").fingerprint(model, TWICE)
    with pytest.raises(UserError, match="target 63 is shorter than the"), case.on(model, to=WINDOW - 1):
        pass
    with pytest.raises(UserError, match="cannot be saved in a configuration: "):
        chosen.extend(model, to=TWICE)
    with pytest.raises(UserError, match="both set the memory"):
        compose(chosen, chosen)


@torch.no_grad()
@every_memory
def test_it_goes_on_top_of_frequencies(case):
    model, joined = subject(), compose(case.made(subject()), method("yarn"))
    with joined.on(model, TWICE):
        found = logits(model, IDS)
    assert found.isfinite().all() and not near(found, whole(case), 1e-4)
    assert joined.cache_exact == case.made(model).cache_exact and joined.costs(model) == case.made(model).costs(model)
