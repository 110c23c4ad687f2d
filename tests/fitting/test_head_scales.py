"""Training one scale per head: only scales learn, by the right gradient, and the loss falls."""

import pytest
import torch

from ropewalk import HeadScale, UserError
from ropewalk.fitting.head_scales import HeadScales, next_token_loss
from tests.fitting.grounds import ground
from tests.matrix import logits
from tests.models import shared, tiny, tokens

IDS = tokens(2, 96)


def scales(model, **settings):
    return HeadScales(**settings).search(HeadScale(), ground(model, IDS)).options["scales"]


def loss(model, given):
    with torch.no_grad(), HeadScale(given).on(model, to=96):
        return float(next_token_loss(model, IDS))


def test_one_step_goes_along_the_gradient_of_finite_differences():
    model = tiny("llama")
    found = scales(model, steps=1, rate=0.01, start=1.2, least=0.1)
    for layer in range(2):
        for head in range(4):
            sides = []
            for change in (0.01, -0.01):
                given = [[1.2] * 4 for _ in range(2)]
                given[layer][head] += change
                with torch.no_grad(), HeadScale(tuple(map(tuple, given))).on(model, to=96):
                    sides.append(float(next_token_loss(model, IDS[:1])))
            downhill = -1 if sides[0] > sides[1] else 1
            assert found[layer][head] == pytest.approx(1.2 + 0.01 * downhill, abs=1e-5)  # Adam's first step


def test_the_loss_falls_and_nothing_else_learns():
    model = tiny("llama")
    before, trainable = logits(model, IDS), [p.requires_grad for p in model.parameters()]
    found = scales(model, steps=20, least=0.1)
    with torch.no_grad():
        plain = float(next_token_loss(model, IDS))
    assert loss(model, found) < plain - 0.01
    assert torch.equal(logits(model, IDS), before)
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(p.grad is None for p in model.parameters())


def test_no_scale_falls_below_the_least():
    found = scales(tiny("llama"), steps=10, start=1.5, least=1.4)
    assert min(min(layer) for layer in found) == pytest.approx(1.4, abs=1e-6)


def test_scales_that_all_end_at_one_are_refused():
    model = tiny("llama")
    free = scales(model, steps=10, start=1.0, least=0.1)
    flatter = [(layer, head) for layer in range(2) for head in range(4) if free[layer][head] < 1]
    assert flatter
    with torch.no_grad():  # heads that do nothing have no gradient
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    with pytest.raises(UserError, match="all scales ended at 1, the plain model"):
        scales(model, steps=3)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"rate": 0.0}, {"start": 0.5}, {"least": 0.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError, match="expected steps > 0, rate > 0 and 0 < least <= start"):
        scales(shared("llama"), **settings)
