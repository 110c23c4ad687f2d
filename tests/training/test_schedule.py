"""The learning rates of the recipes, step by step, and what no schedule can be."""

from __future__ import annotations

import pytest
import torch

from ropewalk import UserError
from ropewalk.training.schedule import SCHEDULES, factor

PI = dict(steps=1000, warmup=20, warmup_from=0.1)
YARN = dict(steps=400, warmup=20, schedule="linear")
PROLONG = dict(steps=5000, warmup=500, schedule="cosine", floor=0.1)
LLAMA_2_LONG = dict(steps=100_000, warmup=2000, schedule="cosine", floor=0.1)


@pytest.mark.parametrize(("recipe", "peak", "rates"), [
    (PI, 2e-5, {0: 2e-6, 10: 1.1e-5, 20: 2e-5, 999: 2e-5}),
    (YARN, 2e-5, {10: 1e-5, 20: 2e-5, 210: 1e-5, 400: 0.0}),
    (PROLONG, 1e-5, {250: 5e-6, 500: 1e-5, 2750: 5.5e-6, 5000: 1e-6}),
    (LLAMA_2_LONG, 2e-5, {1000: 1e-5, 2000: 2e-5, 51_000: 1.1e-5, 100_000: 2e-6}),
])  # fmt: skip
def test_rates_are_those_of_the_papers(recipe, peak, rates):
    assert {step: peak * factor(step, **recipe) for step in rates} == pytest.approx(rates, rel=1e-12, abs=1e-20)


def test_torch_says_the_same():
    """Warmup and fall as torch's own schedulers chain them."""
    steps, warmup = 50, 10
    for kind, start, floor in (("linear", 0.2, 0.0), ("cosine", 0.5, 0.1)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = torch.optim.lr_scheduler
        rise = scheduler.LinearLR(optimizer, start, 1.0, warmup)
        fall = (
            scheduler.LinearLR(optimizer, 1.0, floor, steps - warmup)
            if kind == "linear"
            else scheduler.CosineAnnealingLR(optimizer, steps - warmup, floor)
        )
        chained = scheduler.SequentialLR(optimizer, [rise, fall], [warmup])
        for step in range(steps):
            seen = factor(step, steps, warmup=warmup, warmup_from=start, schedule=kind, floor=floor)
            assert seen == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9), (kind, step)
            optimizer.step()
            chained.step()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_rises_then_falls_and_stays_at_the_end(schedule):
    rates = [factor(step, 60, warmup=7, warmup_from=0.3, schedule=schedule, floor=0.2) for step in range(90)]
    assert rates[0] == 0.3 and rates[7] == max(rates) == 1.0
    assert rates[:8] == sorted(rates[:8]) and rates[7:] == sorted(rates[7:], reverse=True)
    assert set(rates[60:]) == {1.0 if schedule == "constant" else rates[60]} and min(rates[7:]) >= 0.2 - 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_shorter_than_its_warmup_only_rises(schedule):
    assert [factor(step, 4, warmup=20, schedule=schedule) for step in range(4)] == [0, 0.05, 0.1, 0.15]


@pytest.mark.parametrize(("wrong", "said"), [
    ({"schedule": "cosin"}, "did you mean 'cosine'"), ({"floor": 1.5}, "floor is 1.5"), ({"floor": -0.1}, "floor"),
    ({"warmup_from": 2}, "warmup_from is 2"), ({"warmup": -1}, "warmup is -1"), ({"steps": -5}, "steps is -5"),
    ({"step": -1}, "step is -1"), ({"floor": float("nan")}, "floor is nan"),
])  # fmt: skip
def test_what_is_no_schedule_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        factor(**{"step": 3, "steps": 10} | wrong)
