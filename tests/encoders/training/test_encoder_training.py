"""Steps of AdamW, and InfoNCE against sums that are written out."""

import math

import pytest
import torch
import transformers

from ropewalk.common.errors import UserError
from ropewalk.encoders.training.encoder_training import Pace, contrastive, descend


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_contrastive_loss_is_what_its_sums_say(smoothing):
    left, right = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for a, b in ((left, right), (right, left)):
        for i in range(5):
            logits = [3.0 * float(a[i] @ b[j]) for j in range(5)]
            norm = math.log(sum(map(math.exp, logits)))
            target = [smoothing / 5 + (1 - smoothing) * (j == i) for j in range(5)]
            total += sum(t * (norm - logit) for t, logit in zip(target, logits, strict=True)) / 10
    assert float(contrastive(left, right, 3.0, smoothing)) == pytest.approx(total)


def test_rows_that_are_alike_are_chosen_by_chance():
    assert float(contrastive(torch.ones(7, 3), torch.ones(7, 3), 9.0)) == pytest.approx(math.log(7))


def test_steps_go_down_and_what_does_not_learn_stays():
    weight, other = torch.nn.Parameter(torch.tensor([3.0])), torch.nn.Parameter(torch.tensor([1.0]), False)
    losses = descend([weight, other], lambda goal: (weight - goal).square().sum(), [1.0] * 60, Pace(0.2, warmup=5))
    assert losses[0] == 4 and losses[-1] < 0.01 and other.item() == 1
    assert losses[1] == 4  # the first step of a warm-up has the rate nought


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 7), (3, 20), (20, 10)])
def test_the_rate_is_that_of_transformers_schedule(warmup, steps):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = transformers.get_cosine_schedule_with_warmup(optimiser, warmup, steps)
    for step in range(steps):
        assert Pace(1.0, warmup=warmup).factor(step, steps) == pytest.approx(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()


def test_the_rate_is_held_and_falls_by_the_root():
    pace = Pace(1.0, warmup=2, hold=4, fall="root")
    assert [pace.factor(step, 10) for step in range(11)] == pytest.approx(
        [0, 0.5, 1, 1, 1, 1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0]
    )


def test_what_cannot_be_trained_is_refused():
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    with pytest.raises(UserError, match="0 batches and 1 weights"):
        descend([weight], lambda _: weight.sum(), [], Pace(0.1))
    with pytest.raises(UserError, match="0 weights that learn"):
        descend([torch.zeros(1)], lambda _: weight.sum(), [1], Pace(0.1))
    with pytest.raises(UserError, match="loss of step 2 is nan"):
        descend([weight], lambda factor: factor * weight.sum(), [1.0, math.nan], Pace(0.1))
    assert weight.isfinite().all()
    for wrong in ({"learning_rate": math.nan}, {"learning_rate": math.inf}, {"weight_decay": -1.0}, {"warmup": -1}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is .*, expected a finite number"):
            Pace(**{"learning_rate": 0.1} | wrong)
