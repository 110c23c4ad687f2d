"""MEND's distiller: its losses by hand, what learns and what does not, and that it learns."""

import math

import pytest
import torch
from torch import nn

from ropewalk import UserError
from ropewalk.training.demonstration_distillation import (
    Distiller,
    answered,
    behind,
    distillation_loss,
    divergence,
    taught,
)
from tests.models import tiny, tokens


@pytest.fixture
def model():
    return tiny("llama").requires_grad_(False)


class Told(nn.Module):
    """A distiller that forgets nothing: the embeddings of the demonstrations themselves."""

    def __init__(self, model):
        super().__init__()
        self.words = model.get_input_embeddings()

    def forward(self, demonstrations):
        return self.words(demonstrations)


def test_vectors_that_are_the_demonstrations_leave_nothing_to_learn(model):
    ids = tokens(2, 30)
    demonstrations, prompts = ids[:, :20], ids[:, 20:]
    assert torch.allclose(behind(model, Told(model)(demonstrations), prompts), taught(model, demonstrations, prompts),
                          atol=1e-4)  # fmt: skip
    assert float(distillation_loss(Told(model), model, demonstrations, prompts)) == pytest.approx(0, abs=1e-6)
    without = torch.zeros(2, 0, 64)
    assert torch.allclose(behind(model, without, prompts), model(prompts).logits, atol=1e-5)


def test_the_losses_by_hand():
    teacher, student = torch.tensor([[[0.0, math.log(3)]]]), torch.tensor([[[0.0, 0.0]]])
    assert float(divergence(student, teacher)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, 2] = math.log(5)
    found = answered(logits, torch.tensor([[1, 3, 2]]), torch.tensor([[False, True, True]]))
    assert found.tolist() == pytest.approx([math.log(4), math.log(8 / 5)])


def test_the_second_stage_adds_what_the_answers_cost(model):
    ids, answers = tokens(2, 30), torch.zeros(2, 10, dtype=torch.bool)
    answers[:, 6:] = True
    distiller = Distiller(model, 3, 64)
    first = distillation_loss(distiller, model, ids[:, :20], ids[:, 20:])
    own = answered(behind(model, distiller(ids[:, :20]), ids[:, 20:]), ids[:, 20:], answers).mean()
    both = distillation_loss(distiller, model, ids[:, :20], ids[:, 20:], answers, weight=0.5)
    assert float(both) == pytest.approx(float(own + 0.5 * first), rel=1e-5)


def test_the_distiller_alone_learns_and_comes_nearer(model):
    ids = tokens(4, 30)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    distiller = Distiller(model, 4, 64)
    optimizer = torch.optim.Adam(distiller.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = distillation_loss(distiller, model, ids[:, :20], ids[:, 20:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert distiller.places.grad is not None and all(one.grad is None for one in model.parameters())


def test_another_width_goes_over_a_bridge_and_the_same_seed_begins_alike(model):
    one, other = Distiller(model, 5, 48, seed=3), Distiller(model, 5, 48, seed=3)
    found = one(tokens(2, 9))
    assert found.shape == (2, 5, 48) and torch.equal(found, other(tokens(2, 9))) and float(found.abs().max()) <= 1
    assert Distiller(model, 5, 64).bridge is None and not torch.equal(
        Distiller(model, 5, 48, seed=4).places, one.places
    )


def test_what_cannot_be_learnt_is_refused(model):
    ids = tokens(1, 10)
    with pytest.raises(UserError, match="count is 0"):
        Distiller(model, 0, 64)
    with pytest.raises(UserError, match="answers are empty, or begin a prompt"):
        answered(model(ids).logits, ids, torch.ones(1, 10, dtype=torch.bool))
    with pytest.raises(UserError, match="is not frozen"):
        distillation_loss(Distiller(model, 2, 64), tiny("llama"), ids, ids)
