"""A cell learns what it is shown, the same from the same seed, and its answers are those of decoding."""

import random

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.lab.battery import BY_COLUMN, PAD, Drawn, asked, draw
from ropewalk.lab.cell import Budget, Cell, answers, padded, trained

TINY = Budget(window=12, steps=3, batch=4, learning_rate=1e-2, width=16, layers=1, heads=2)


def test_rows_are_padded_behind_and_count_from_a_place_on():
    ids, counted = padded([Drawn([2, 9, 9, 3], 2, 2), Drawn([2, 8], 1, 1)], [2, 1])
    assert ids.tolist() == [[2, 9, 9, 3], [2, 8, PAD, PAD]]
    assert counted.tolist() == [[False, False, True, True], [False, True, False, False]]


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    one, two, other = (trained(Cell("randomized", "copy", seed), TINY).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_heads_have_an_even_width():
    with pytest.raises(UserError, match="width is 12, expected a multiple of 8"):
        Budget(window=12, steps=3, batch=4, learning_rate=1e-2, width=12, layers=1, heads=4)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_teaches_nothing_is_refused(rate):
    with pytest.raises(UserError, match="learning_rate is"):
        Budget(window=12, steps=3, batch=4, learning_rate=rate, width=16, layers=1, heads=2)


def test_it_learns():
    heard = []
    budget = Budget(window=9, steps=120, batch=16, learning_rate=1e-2, width=32, layers=2, heads=2)
    model = trained(Cell("nope", "sum", 0), budget, lambda step, loss: heard.append(loss))
    assert len(heard) == 120 and heard[-1] < 2 < heard[0]
    assert not model.training


def test_answers_are_those_of_decoding():
    budget = Budget(window=12, steps=60, batch=16, learning_rate=1e-2, width=32, layers=2, heads=2)
    model = trained(Cell("rope", "copy", 0), budget)
    found = answers(model, "copy", "", 8, 40)
    rights = []
    model.requires_grad_(False)
    for i in range(40):
        row = draw("copy", 8, random.Random(f"asked copy 8 {i}"), held_out=True)
        ids = torch.tensor([row.ids[: row.asked]])
        for _ in range(len(row.ids) - row.asked):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        rights.append(ids[0].tolist() == row.ids)
        logits = model(torch.tensor([row.ids])).logits[0, row.asked - 1 : -1].log_softmax(-1)
        nats = -sum(float(logits[j, one]) for j, one in enumerate(row.ids[row.asked :]))
        assert found[i][0] == pytest.approx(nats, rel=1e-4) and found[i][1] == len(row.ids) - row.asked
    assert [missed == 0 for *_, missed in found] == rights


def test_what_an_encoding_cannot_read_is_refused():
    model = trained(Cell("learned", "copy", 0), TINY)
    with pytest.raises(UserError, match="a table of 12 positions has no row"):
        answers(model, "copy", "", 40, 2)
    assert len(answers(model, "copy", "pi", 40, 2)) == 2


def test_a_sum_by_column_is_missed_where_a_column_is():
    model = trained(Cell("nope", BY_COLUMN, 0), TINY).requires_grad_(False)
    for length in (12, 60):
        found = answers(model, BY_COLUMN, "", length, 3)
        for i, (nats, count, missed) in enumerate(found):
            rows = asked(BY_COLUMN, length, random.Random(f"asked {BY_COLUMN} {length} {i}"))
            ids = torch.tensor([row.ids for row in rows])
            logits = model(ids).logits[:, 4:-1].log_softmax(-1)
            wanted = ids[:, 5:]
            assert count == 3 * len(rows) and missed == int((logits.argmax(-1) != wanted).sum())
            assert nats == pytest.approx(-float(logits.gather(-1, wanted[..., None]).sum()), rel=1e-4)


def test_primed_rows_come_in_training(monkeypatch):
    seen = []
    monkeypatch.setattr("ropewalk.lab.battery.SHARE", 0.5)
    monkeypatch.setattr("ropewalk.lab.cell.padded", lambda rows, first: seen.extend(rows) or padded(rows, first))
    trained(Cell("alibi", "addition_primed", 0), TINY)
    assert 12 < max(len(row.ids) for row in seen) <= 24
