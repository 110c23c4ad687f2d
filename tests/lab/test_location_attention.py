"""Location attention: the paper's numbers, and a model that padding does not touch."""

import random

import pytest
import torch
from torch.nn import functional as F

from ropewalk.common.errors import UserError
from ropewalk.lab.location_attention import STEPS, LocationSeq2Seq, looked, reversed_rows, step
from ropewalk.lab.rewriting import EOS, REWRITINGS, SYMBOLS

SURE = torch.tensor(1.0)


@pytest.mark.parametrize(("kind", "r", "moved", "weights", "pointer"), [
    ("one-step", 0.3, 0.817574, [0, 0.001883, 0.998116, 0.000001, 0, 0], 0.399624),
    ("relu", 0.3, 0.3, [0, 0.981120, 0.018880, 0, 0, 0], 0.203776),
    ("soft-stair", 1.3, 1.017986, [0, 0.000036, 0.999891, 0.000073, 0, 0], 0.400007),
])  # fmt: skip
def test_known_steps_look_at_known_places(kind, r, moved, weights, pointer):
    steps = step(kind, torch.tensor([r]), SURE)
    assert float(steps) == pytest.approx(moved, abs=1e-6)
    found, there = looked(torch.tensor([0.2]), steps, torch.zeros(1), torch.tensor([6]), 6)
    assert found[0].tolist() == pytest.approx(weights, abs=1e-6) and float(there) == pytest.approx(pointer, abs=1e-6)


def test_weights_are_a_gaussian_over_the_places_that_there_are():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([2, 5, 9])
    pointer, steps, spread = (torch.rand(3, generator=generator, dtype=torch.float64) for _ in range(3))
    weights, there = looked(pointer, 3 * steps, spread, lengths, 9)
    for i, n in enumerate(lengths.tolist()):
        at = torch.arange(n, dtype=torch.float64) / (n - 1)
        sigma, mean = (spread[i] + 0.27) / n, pointer[i] + 3 * steps[i] / (n - 1)
        wanted = torch.exp(-((at - mean) ** 2) / (2 * sigma**2))
        wanted = wanted / wanted.sum()
        torch.testing.assert_close(weights[i, :n], wanted)
        assert not weights[i, n:].any() and float(there[i]) == pytest.approx(float((wanted * at).sum()))


def test_steps_of_one_reach_every_place_of_a_long_source():
    lengths, pointer = torch.tensor([300]), torch.zeros(1)
    for place in range(1, 300):
        weights, pointer = looked(pointer, torch.ones(1), torch.zeros(1), lengths, 300)
        assert int(weights.argmax()) == place
    weights, _ = looked(pointer, torch.full((1,), 400.0), torch.zeros(1), lengths, 300)  # past the end: no 0 / 0
    assert int(weights.argmax()) == 299 and bool(weights.isfinite().all())


def test_steps_are_between_their_bounds():
    r = torch.linspace(-3, 3, 121)
    assert float(step("one-step", r, SURE).min()) > 0 and float(step("one-step", r, SURE).max()) < 1
    assert torch.equal(step("monotonic", r, SURE), r.relu()) and torch.equal(step("relu", r, SURE), r.relu())
    torch.testing.assert_close(step("monotonic", r, 0 * SURE), step("one-step", r, SURE))
    assert float(step("soft-stair", r, SURE).min()) < -2 and torch.equal(step("free", r, SURE), r)
    with pytest.raises(UserError, match="kind is 'two-steps', expected one of one-step"):
        LocationSeq2Seq(5, "two-steps")


def test_rows_are_turned_in_their_length():
    x = torch.arange(10.0).reshape(2, 5, 1)
    assert reversed_rows(x, torch.tensor([3, 5]))[..., 0].tolist() == [[2, 1, 0, 3, 4], [9, 8, 7, 6, 5]]


@pytest.mark.parametrize("kind", STEPS)
def test_padding_changes_nothing_and_greedy_follows_the_logits(kind):
    torch.manual_seed(0)
    model = LocationSeq2Seq(7, kind, embedded=8, width=12).eval()
    sources, targets = torch.randint(0, 6, (3, 6)), torch.randint(0, 7, (3, 4))
    lengths = torch.tensor([2, 6, 4])
    found = model(sources, lengths, targets)
    for i, n in enumerate(lengths.tolist()):
        alone = model(sources[i : i + 1, :n], lengths[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], alone)
    for row, source, n in zip(model.greedy(sources, lengths, most=5), sources, lengths, strict=True):
        whole = torch.tensor([[*row, 6]])
        said = model(source[None, :n], n[None], whole)[0].argmax(-1).tolist()
        assert said[: len(row)] == row and (len(row) == 5 or said[len(row)] == 6)
    found.sum().backward()
    used = {name for name, one in model.named_parameters() if one.grad is not None}
    assert len(used) == len(list(model.parameters())) - (kind != "monotonic")


def batch(task, rng, shortest, longest, count):
    """Sources, their lengths, targets, and which of their symbols count."""
    pairs = [REWRITINGS[task](rng, rng.randint(shortest, longest)) for _ in range(count)]
    rows = [[SYMBOLS.index(one) for one in source] for source, _ in pairs]
    targets = [[SYMBOLS.index(one) for one in (*target, EOS)] for _, target in pairs]
    sources, said = (
        torch.nn.utils.rnn.pad_sequence([*map(torch.tensor, some)], batch_first=True) for some in (rows, targets)
    )
    counted = torch.arange(said.shape[1]) < torch.tensor([*map(len, targets)])[:, None]
    return sources, torch.tensor([*map(len, rows)]), said, counted, [one[:-1] for one in targets]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["copy", "reverse"])
def test_what_is_learnt_on_ten_digits_is_done_with_a_hundred(task):
    torch.manual_seed(0)
    model = LocationSeq2Seq(len(SYMBOLS), embedded=32, width=64, dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0)
    for i in range(600):
        sources, lengths, targets, counted, _ = batch(task, random.Random(i), 5, 10, 32)
        losses = F.cross_entropy(model(sources, lengths, targets).transpose(1, 2), targets, reduction="none")
        optimizer.zero_grad()
        ((losses * counted).sum() / counted.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
    sources, lengths, _, _, wanted = batch(task, random.Random("asked"), 100, 100, 32)
    found = model.eval().greedy(sources, lengths)
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) > 28
