"""The budget distribution, and what a key head may drop."""

import math

import pytest
import torch

from ropewalk import TCA, UserError
from ropewalk.fitting.budgets import ALL, Budgets, distribution
from tests.fitting.grounds import ground
from tests.matrix import logits
from tests.methods.attention.pairs import TARGET, distinct, one_layer, read
from tests.models import shared, tiny, tokens

SMALL = TCA(block=8, local=16)
WHOLE = TCA(block=8, local=16, plan=(((ALL,) * 3,) * 2,))


def plan(model, ids, **settings):
    return Budgets(**settings).search(SMALL, ground(model, ids)).options["plan"]


def test_budgets_have_the_distribution_of_the_paper():
    expected = torch.tensor([0.134470, 0.365530, 0.365530, 0.134470]).double()
    assert torch.allclose(distribution((1, 2, 4, 8), 1.5, 1.0), expected, atol=5e-7)
    assert SMALL.budgets == (1, 2, 4, 8)


def kept(chosen, model, ids):
    """Keys that the plan keeps."""
    from ropewalk.attention import recall

    counts = []
    original = recall.members
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ropewalk.methods.attention.tca.members", lambda x: counts.append(int(x.sum())) or original(x))
        with chosen.on(model, to=TARGET):
            logits(model, ids)
    return sum(counts)


def test_a_smaller_tolerance_keeps_more_and_gives_less_error():
    model, ids = tiny("llama"), tokens(1, 300)
    plans = [TCA(8, 16, plan(model, ids, tolerance=t)) for t in (10.0, 0.5, 0.2)]
    plans.append(TCA(8, 16, (WHOLE.plan[0],) * 2))
    sizes = [kept(one, model, ids) for one in plans]
    assert sizes[0] < sizes[1] <= sizes[2] <= sizes[3] and sizes[0] < sizes[3] // 2
    plain, off = logits(model, ids), []
    for one in plans:
        with one.on(model, to=TARGET):
            off.append(float((logits(model, ids) - plain)[:, -20:].norm()))
    assert off[0] > off[2] > off[3]


def test_a_fitted_head_is_within_its_tolerance_over_all_texts():
    model, ids = one_layer(), distinct(2, 280)
    chosen = TCA(8, 16, plan(model, ids, tolerance=0.6))
    full, sparse = (read(model, which, ids, [280]) for which in (WHOLE, chosen))
    outputs = zip(full, sparse, strict=True)
    relative = torch.stack([(a.out - b.out)[:, -64:].norm(dim=-1) / a.out[:, -64:].norm(dim=-1) for a, b in outputs])
    assert float(relative.mean((0, -1)).max()) <= 0.6 + 1e-4 and float(relative.max()) > 0


def test_the_share_that_is_kept_is_that_of_the_plan():
    model, ids = one_layer(), distinct(1, 280)
    seen = Budgets(tolerance=10.0).search(SMALL, ground(model, ids)).seen
    costs = [float((shape * torch.tensor(SMALL.budgets)).sum()) for shape in drawn()]
    assert seen == {"key heads": 2, "thinned": 2, "kept of a block": pytest.approx(min(costs) / 8)}


def drawn():
    pairs = torch.rand(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    return [distribution(SMALL.budgets, math.log2(8) * a, 0.5 + 1.5 * b) for a, b in pairs]


def test_a_tolerance_that_nothing_meets_is_refused():
    with pytest.raises(UserError, match="no key head stays within a tolerance of 0"):
        plan(shared("llama"), tokens(1, 200), tolerance=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": -1}, "candidates is -1, expected at least 1"),
        ({"candidates": 0}, "candidates is 0, expected at least 1"),
        ({"tolerance": -1.0}, r"tolerance is -1\.0, expected at least 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616, expected 0 to 4,294,967,295"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Budgets(**settings)


def test_short_texts_are_refused():
    with pytest.raises(UserError, match=r"50 tokens to fit on, expected local \+ 3 block \+ 64 = 104 or more"):
        plan(shared("llama"), tokens(1, 50))
