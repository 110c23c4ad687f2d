"""DeciMamba on a Mamba of transformers: what stays the model's own, what is kept, and what kept tokens give."""

from __future__ import annotations

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from ropewalk.common.errors import UserError
from ropewalk.lab.decimamba import DeciMamba, _of, largest


@pytest.fixture
def model() -> MambaForCausalLM:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=30, hidden_size=16, state_size=4, num_hidden_layers=3, time_step_rank=2)
    return MambaForCausalLM(config).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(30, (3, 24), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_where_all_are_kept_the_logits_are_the_models_to_the_bit(model, ids) -> None:
    for base, least in ((24, 1), (100, 1), (2, 24)):
        found, places = DeciMamba(model, [0, 1], base=base, decay=1.0, least=least)(ids)
        assert (found == model(ids).logits).all() and (places == torch.arange(24)).all()


@torch.no_grad()
def test_kept_places_rise_and_shrink_by_layer(model, ids) -> None:
    found, places = DeciMamba(model, [0, 2], base=12, least=2)(ids)
    assert found.shape == (3, 6, 30) and (places.diff(dim=1) > 0).all() and (places[:, -1] == 23).all()
    assert len({tuple(row) for row in places.tolist()}) > 1, "rows have places of their own"
    for row in range(3):
        alone, where = DeciMamba(model, [0, 2], base=12, least=2)(ids[row : row + 1])
        torch.testing.assert_close(alone[0], found[row], rtol=0, atol=1e-6)
        assert (where[0] == places[row]).all()


@torch.no_grad()
def test_what_is_left_is_what_a_recurrence_without_the_others_gives(model, ids) -> None:
    """A token of step 0 is one that the recurrence does not see: so says transformers' own layer."""
    block, x = model.backbone.layers[0], model.backbone.embeddings(ids)
    block.mixer.dt_proj.weight[:, 0] = 1  # the first number that steps are made of moves all of them
    found, kept = DeciMamba(model, [0])._decimated(block, x, None, 10)
    low = torch.full((3, 24, 1), -1e4).scatter(1, kept[..., None], 0.0) * (torch.arange(10) == 0)
    hook = block.mixer.x_proj.register_forward_hook(lambda module, given, output: output + low)
    wanted = block(x)
    hook.remove()
    for row in range(3):
        torch.testing.assert_close(found[row], wanted[row, kept[row]], rtol=0, atol=1e-6)
        assert (block(x[row : row + 1, kept[row]])[0] - found[row]).abs().max() > 1e-5, "the convolution saw all"


@torch.no_grad()
def test_tokens_of_large_steps_survive(model, ids) -> None:
    block, planted = model.backbone.layers[0], torch.tensor([5, 17])
    block.mixer.conv1d.weight.copy_(torch.arange(4) == 3)  # each token for itself
    block.mixer.dt_proj.weight[:, 0] = 1
    x, *_ = _of(block.mixer).signals(block.mixer.in_proj(block.norm(model.backbone.embeddings(torch.tensor([[29]])))))
    block.mixer.x_proj.weight[0] = 50 * x[0, 0] / x.norm() ** 2
    ids = torch.where(ids == 29, 0, ids).index_fill(1, planted, 29)
    _, places = DeciMamba(model, [0], base=3, least=3)(ids)
    assert (places == torch.tensor([5, 17, 23])).all()
    assert (largest(torch.arange(24.0).flip(0)[None], 3) == torch.arange(3)).all()


@torch.no_grad()
def test_padding_is_dropped_first_and_changes_nothing(model, ids) -> None:
    deci = DeciMamba(model, [1], base=8, least=1)
    padded = torch.cat([torch.full((3, 6), 29), ids], 1)
    mask = torch.cat([torch.zeros(3, 6), torch.ones(3, 24)], 1).long()
    found, places = deci(padded, mask)
    alone, where = deci(ids)
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)
    assert (places - 6 == where).all()
    with pytest.raises(UserError, match="last token"):
        deci(padded, mask.flip(1))


def test_gradients_reach_the_weights_of_a_layer_that_decimates(model, ids) -> None:
    DeciMamba(model, [1], base=8, least=1)(ids)[0].sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in model.backbone.layers[1].parameters())


@pytest.mark.parametrize("wrong", [{"layers": [3]}, {"layers": [1, 0]}, {"layers": [0], "least": 0},
                                   {"layers": [0], "decay": 0.0}])  # fmt: skip
def test_what_makes_no_sense_is_refused(model, wrong) -> None:
    with pytest.raises(UserError, match="expected"):
        DeciMamba(model, **wrong)


def test_another_precision_or_another_layer_is_refused(model) -> None:
    with pytest.raises(UserError, match=r"torch\.bfloat16"):
        DeciMamba(model.bfloat16(), [1])
    other = MambaForCausalLM(MambaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, use_conv_bias=False))
    with pytest.raises(UserError, match="use_conv_bias False"):
        DeciMamba(other, [0])
