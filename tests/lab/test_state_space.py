"""The selective state space: its recurrence against a loop and numerical gradients, its layer against transformers'."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from ropewalk.lab.state_space import LinearScan, SelectiveStateSpace


def test_the_recurrence_is_a_loop_and_its_gradient_is_exact() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, 7, 3, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    state, states = torch.zeros(2, 3, dtype=torch.float64), []
    for t in range(7):
        state = a[:, t] * state + b[:, t]
        states.append(state)
    torch.testing.assert_close(LinearScan.apply(a, b), torch.stack(states, 1), rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(LinearScan.apply, (a.requires_grad_(), b.requires_grad_()))
    assert torch.autograd.gradcheck(LinearScan.apply, (a[:, :1], b[:, :1]))


def mixer(size: int = 8) -> tuple[MambaMixer, SelectiveStateSpace]:
    """A mixer of transformers, and ours with its weights."""
    torch.manual_seed(1)
    config = MambaConfig(hidden_size=size, state_size=5, expand=2, conv_kernel=4, time_step_rank=3, num_hidden_layers=1)
    theirs = MambaMixer(config, layer_idx=0).eval()
    ours = SelectiveStateSpace(2 * size, state=5, rank=3)
    own = ours.state_dict().keys()
    assert not ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in own}).missing_keys
    return theirs, ours


@pytest.mark.parametrize("real", [None, [5, 9]])
def test_the_layer_and_its_gradients_are_those_of_transformers(real) -> None:
    theirs, ours = mixer()
    x = torch.randn(2, 9, 8)
    mask = None if real is None else torch.arange(9) < torch.tensor(real)[:, None]
    found = nn.functional.linear(ours(theirs.in_proj(x), mask), theirs.out_proj.weight)
    wanted = theirs(x, attention_mask=None if mask is None else mask.long())
    kept = torch.ones(2, 9, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(found[kept], wanted[kept], rtol=0, atol=1e-6)
    weights = torch.randn(int(kept.sum()), 8)
    (found[kept] * weights).sum().backward()
    gradients = {name: one.grad.clone() for name, one in ours.named_parameters()}
    (wanted[kept] * weights).sum().backward()
    for name, one in theirs.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], one.grad, rtol=1e-4, atol=1e-6)
    assert len(gradients) == 7


def test_padding_at_either_end_changes_nothing() -> None:
    _, ours = mixer()
    rows = torch.randn(1, 6, 32)
    padded = torch.randn(2, 10, 32)  # what stands in padding is not nothing
    padded[0, :6], padded[1, 4:] = rows[0], rows[0]
    real = torch.zeros(2, 10, dtype=torch.bool)
    real[0, :6], real[1, 4:] = True, True
    found = ours(padded, real)
    for row in (found[0, :6], found[1, 4:]):
        torch.testing.assert_close(row, ours(rows)[0], rtol=0, atol=1e-6)
    assert (ours(padded)[1, 4:] - ours(rows)[0]).abs().max() > 1e-3


def test_first_steps_lie_where_the_paper_has_them() -> None:
    steps = nn.functional.softplus(SelectiveStateSpace(512).dt_proj.bias)
    assert 1e-3 <= steps.min() < 2e-3 and 0.05 < steps.max() <= 0.1 + 1e-6
    torch.testing.assert_close(SelectiveStateSpace(3, state=4).A_log.exp()[1], torch.tensor([1.0, 2, 3, 4]))
