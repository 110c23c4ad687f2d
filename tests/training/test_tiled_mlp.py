"""MLPs in pieces: the same gradients, less that is kept, and refusal where tokens meet."""

import pytest
import torch
from torch import nn

from ropewalk.common.errors import UserError
from ropewalk.training.one_shot import OneShot
from ropewalk.training.recurrent import Recurrent
from ropewalk.training.tiled_mlp import tiled_mlps
from ropewalk.training.training_batch import Batch
from tests.architectures import build
from tests.models import FAMILIES, tiny
from tests.training.passes import error, gradients, row
from tests.training.test_checkpointing import saved

LONG = Batch.of([row(150), row(131, 40, 91, seed=1)])


@pytest.mark.parametrize("family", ["llama", "gemma3", "glm4_moe"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_are_those_of_whole_mlps(family, checkpoint):
    model = (tiny if family in FAMILIES else build)(family).train()
    assert model.config.hidden_size < 75  # several pieces, the last one shorter
    loss, expected = gradients(model, OneShot(), LONG)
    for how in (OneShot(checkpoint, tiled_mlp=True), Recurrent(100, checkpoint, tiled_mlp=True)):
        got, found = gradients(model, how, LONG)
        assert got == pytest.approx(loss, rel=1e-6) and error(found, expected) <= 3e-6
    assert not any("forward" in vars(module) for module in model.modules())


def test_less_is_kept_and_somebody_elses_hook_comes_back():
    model = tiny("llama", intermediate_size=512, max_position_embeddings=512).train()
    everything = saved(model, 200)
    mlp = model.model.layers[0].mlp
    mlp.forward = hooked = mlp.forward
    with tiled_mlps(model):
        assert saved(model, 200) < everything / 2
        assert mlp.forward is not hooked
    assert mlp.forward is hooked


class Meeting(nn.Module):
    """Every token adds the one before it."""

    def forward(self, hidden):
        return hidden + hidden.roll(1, -2)


class Two(nn.Module):
    def forward(self, hidden):
        return hidden, hidden


@pytest.mark.parametrize(("module", "reason"), [(Meeting(), "in pieces"), (Two(), "more than hidden states")])
def test_what_is_no_mlp_is_refused(module, reason):
    model = tiny("llama")
    model.model.layers[1].mlp = module
    with pytest.raises(UserError, match=reason), tiled_mlps(model):
        model(torch.arange(3, 20)[None])


def test_a_model_without_mlps_by_name_is_refused():
    with pytest.raises(UserError, match="no layers with a module named mlp"), tiled_mlps(nn.Linear(2, 2)):
        pass
