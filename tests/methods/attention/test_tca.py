"""Context-adaptive attention: the budget distribution, the choice of core tokens, and what calibration finds."""

import pytest
import torch

from ropewalk import TCA, UserError
from ropewalk.methods.attention.tca import distribution
from tests.matrix import logits
from tests.methods.attention.choices import tca
from tests.methods.attention.pairs import TARGET, N, distinct, error, one_layer, read
from tests.models import shared, tiny, tokens

PLAN = (((0.5, 0.35, 0.2), (0.45, 0.4, 0.3)),)  # one layer, two key heads, budgets 1, 2, 4, 8


def test_budgets_have_the_distribution_of_the_paper():
    expected = torch.tensor([0.134470, 0.365530, 0.365530, 0.134470]).double()
    assert torch.allclose(distribution((1, 2, 4, 8), 1.5, 1.0), expected, atol=5e-7)
    assert TCA(block=8).budgets == (1, 2, 4, 8)


@pytest.mark.parametrize("ends", [[N], [37, 38, 90, *range(91, N + 1)]], ids=["at once", "pieces"])
def test_a_query_attends_to_the_core_of_every_earlier_block(ends):
    budgets = set()
    for seen in read(one_layer(), TCA(block=8, local=16, plan=PLAN), distinct(2), ends):
        distances = tca(seen, 8, 16, PLAN[0], budgets)
        assert error(seen, distances, range(0, N, 3)) <= 1e-6
    assert len(budgets) >= 3


@pytest.mark.parametrize("plan", [(), (((2.0, 2.0, 2.0),) * 2,) * 2], ids=["none", "full budgets"])
def test_full_budgets_are_dense_attention(plan):
    model, ids = shared("llama"), tokens(2, N)
    plain = logits(model, ids)
    with TCA(block=8, local=16, plan=plan).on(model, to=TARGET):
        got = logits(model, ids)
    assert float((got - plain).abs().max()) <= (2e-5 if plan else 0)


def kept(chosen, model, ids):
    """Keys that one layer's plan keeps."""
    from ropewalk.attention import recall

    counts = []
    original = recall.members
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ropewalk.methods.attention.tca.members", lambda x: counts.append(int(x.sum())) or original(x))
        with chosen.on(model, to=TARGET):
            logits(model, ids)
    return sum(counts)


def test_a_smaller_tolerance_keeps_more_and_none_keeps_all():
    model, ids = tiny("llama"), tokens(1, 300)
    plans = [TCA(block=8, local=16).calibrated(model, ids, tolerance=t) for t in (10.0, 0.5, 0.2, 0.0)]
    sizes = [kept(plan, model, ids) for plan in plans]
    assert sizes[0] < sizes[1] <= sizes[2] <= sizes[3] and sizes[0] < sizes[3] // 2
    plain = logits(model, ids)
    with plans[-1].on(model, to=TARGET):
        assert float((logits(model, ids) - plain).abs().max()) <= 2e-5
    off = []
    for plan in plans:
        with plan.on(model, to=TARGET):
            off.append(float((logits(model, ids) - plain)[:, -20:].norm()))
    assert off[0] > off[2] > off[3]


def test_the_calibrated_head_is_within_its_tolerance():
    model, ids = one_layer(), distinct(1, 280)
    chosen = TCA(block=8, local=16).calibrated(model, ids, tolerance=0.4)
    (full,), (sparse,) = (read(model, which, ids, [280]) for which in (TCA(block=8, local=16), chosen))
    relative = (full.out - sparse.out)[:, -64:].norm(dim=-1) / full.out[:, -64:].norm(dim=-1)
    assert float(relative.mean(-1).max()) <= 0.4 + 1e-4 and float(relative.max()) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TCA(block=12), "block is 12, expected a power of two"),
        (lambda: TCA(block=8, local=12), "local is 12, expected a multiple of block = 8"),
        (lambda: TCA(block=16, plan=PLAN), "the plan is for another block size, expected 4 bounds"),
        (lambda: TCA(block=8, local=16).calibrated(shared("llama"), tokens(1, 50)), "expected at least 104"),
        (lambda: TCA(block=8, local=16, plan=PLAN).on(shared("llama"), to=TARGET).__enter__(),
         "the plan has no 2 key heads for layer 1"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
