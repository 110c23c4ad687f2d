"""Optimizers against torch's own and a step written out; masters, guards, and states that come back bit for bit."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from ropewalk import UserError
from ropewalk.training.optimizers import EPSILON, OPTIMIZERS, Optimizer
from tests.models import tiny, tokens

HOW = dict(learning_rate=1e-2, betas=(0.9, 0.95), weight_decay=0.1)


def model_of(dtype=torch.float32):
    return tiny("llama", num_hidden_layers=1).to(dtype).train()


def backward(model, seed, scale=1.0):
    ids = tokens(2, 12, seed)
    (model(input_ids=ids, labels=ids).loss * scale).backward()


def run(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        backward(model, step)
        assert optimizer.step(1 / (step + 1)).taken


def weights(model):
    return {name: one.detach().clone() for name, one in model.named_parameters()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def made(model, name="adamw", **more):
    return Optimizer(model.named_parameters(), name, **(HOW | more))


def test_float32_is_torchs_adamw_bit_for_bit_and_keeps_no_copy():
    model = model_of()
    twin = copy.deepcopy(model)
    optimizer = made(model)
    assert all(optimizer.masters[name] is one for name, one in model.named_parameters())
    assert not optimizer.state_dict()["masters"]
    decayed = [one for one in twin.parameters() if one.ndim > 1]
    others = [one for one in twin.parameters() if one.ndim < 2]
    peer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1,
        fused=True,
    )  # fmt: skip
    for step in range(4):
        backward(model, step)
        backward(twin, step)
        norm = nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        for group in peer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        peer.step()
        peer.zero_grad()
        seen = optimizer.step(1 / (step + 1))
        assert seen.taken and seen.norm == pytest.approx(float(norm), rel=1e-6)
        assert all(one.grad is None for one in model.parameters())
    assert equal(weights(model), weights(twin))


def test_bfloat16_is_the_rounded_copy_of_masters_that_adamw_moves():
    """A step of AdamW written out in float64, over gradients of bfloat16 that added up in float32."""
    model = model_of(torch.bfloat16)
    optimizer = made(model, clip=None)
    exact = {name: one.detach().double() for name, one in model.named_parameters()}
    first = {name: torch.zeros_like(one) for name, one in exact.items()}
    second = {name: torch.zeros_like(one) for name, one in exact.items()}
    for step in range(1, 4):
        backward(model, step)
        backward(model, step + 10)
        for name, one in model.named_parameters():
            assert one.grad.dtype == torch.float32 and one.dtype == torch.bfloat16
            gradient = one.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient**2
            spread = (second[name] / (1 - 0.95**step)).sqrt() + EPSILON
            decay = 1 - 1e-2 * (0.1 if one.ndim > 1 else 0)
            exact[name] = exact[name] * decay - 1e-2 * first[name] / (1 - 0.9**step) / spread
        optimizer.step()
        for name, one in model.named_parameters():
            torch.testing.assert_close(optimizer.masters[name].double(), exact[name], rtol=1e-5, atol=1e-6)
            assert torch.equal(one, optimizer.masters[name].bfloat16())


def test_updates_below_half_a_last_bit_add_up():
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = Optimizer([("w", weight)], learning_rate=1e-4, clip=None)
    for _ in range(100):
        weight.grad = torch.ones(4)
        optimizer.step()
    torch.testing.assert_close(weight.detach().float(), torch.full((4,), 0.99), rtol=0, atol=2**-9)


def test_small_gradients_on_top_of_large_ones_are_not_lost():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    Optimizer([("w", weight)], learning_rate=1.0)
    for value in [256.0] + [1.0] * 100:
        (weight * value).sum().backward()
    assert weight.grad.item() == 356  # bfloat16 would stay at 256


def test_muon_is_orthogonal_in_layers_and_adamw_elsewhere():
    model = model_of()
    before, twin = weights(model), copy.deepcopy(model)
    optimizer = made(model, "muon", weight_decay=0.0)
    backward(model, 0)
    optimizer.step()
    plain = made(twin, "adamw", weight_decay=0.0)
    backward(twin, 0)
    plain.step()
    after, adamw = weights(model), weights(twin)
    alike = {name for name in after if torch.allclose(after[name], adamw[name], rtol=1e-6, atol=1e-7)}
    assert alike == {name for name in after if after[name].ndim == 1 or ".layers." not in name}
    for name in after.keys() - alike:
        moved = (after[name] - before[name]).square().mean().sqrt() / 1e-2
        assert 0.05 < moved < 0.25, (
            name
        )  # as AdamW's updates, of which 0.2 is usual; less where few directions are seen


def test_biases_of_experts_do_not_decay_and_are_no_matrices():
    torch.manual_seed(0)
    parts = {"layers.0.experts.up_proj_bias": (2, 8), "layers.0.q.weight": (4, 8), "layers.0.norm.weight": (8,)}
    given = [(name, nn.Parameter(torch.randn(shape))) for name, shape in parts.items()]
    matrices, rest = Optimizer(given, "muon", learning_rate=1.0, weight_decay=0.1)._inner
    assert [len(group["params"]) for group in matrices.param_groups] == [1]
    assert [(len(group["params"]), group["weight_decay"]) for group in rest.param_groups] == [(2, 0.0)]


def test_muons_update_stretches_all_directions_alike():
    weight = nn.Parameter(torch.zeros(16, 64))
    optimizer = Optimizer([("layers.0.weight", weight)], "muon", learning_rate=1.0)
    weight.grad = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(weight.grad, full_matrices=False)
    optimizer.step()
    stretched = torch.diag(left.T @ -weight.detach() @ right.T) / (0.2 * 64**0.5)
    assert stretched.min() > 0.6 and stretched.max() < 1.3  # as five steps of Newton-Schulz leave singular values


def test_muon_leaves_factors_of_adapters_and_is_refused_where_nothing_is_left():
    factors = [("layers.0.q.lora_A.weight", nn.Parameter(torch.randn(4, 8)))]
    with pytest.raises(UserError, match=r"none is trained\nTake optimizer adamw"):
        Optimizer(factors, "muon", learning_rate=1.0)
    with pytest.raises(UserError, match="none is trained"):
        Optimizer([("embed_tokens.weight", factors[0][1])], "muon", learning_rate=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_a_checkpoint_and_three_more_are_six_bit_for_bit(name, dtype, tmp_path):
    straight = model_of(dtype)
    whole = made(straight, name)
    run(straight, whole, 3)
    middle = weights(straight)
    dcp.save(whole.state_dict(), checkpoint_id=tmp_path / "state", no_dist=True)
    kept = copy.deepcopy(whole.state_dict())
    run(straight, whole, 3, first=3)

    for bring in ("checkpoint", "copy"):
        resumed = model_of(dtype)
        resumed.load_state_dict(middle)
        fresh = made(resumed, name)
        if bring == "checkpoint":
            state = fresh.state_dict()
            dcp.load(state, checkpoint_id=tmp_path / "state", no_dist=True)
        else:
            state = kept
        fresh.load_state_dict(state)
        run(resumed, fresh, 3, first=3)
        assert equal(weights(resumed), weights(straight)) and not equal(weights(resumed), middle)
        ours, theirs = fresh.state_dict(), whole.state_dict()
        assert all(equal(ours["state"][key], theirs["state"][key]) for key in theirs["state"])
        assert equal(ours["masters"], theirs["masters"]) and len(ours["masters"]) == (dtype != torch.float32) * 12


def test_weights_after_loading_are_those_of_the_masters():
    """A checkpoint of the optimizer alone is enough where weights have masters."""
    model = model_of(torch.bfloat16)
    optimizer = made(model)
    run(model, optimizer, 2)
    fresh = model_of(torch.bfloat16)
    made(fresh).load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert equal(weights(fresh), weights(model))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_offload_is_the_same_training(name):
    here, there = model_of(), model_of()
    run(here, made(here, name), 3)
    offloaded = made(there, name, offload=True)
    run(there, offloaded, 3)
    assert equal(weights(here), weights(there))
    assert all(offloaded.masters[key] is not one for key, one in there.named_parameters())


def test_8_bit_states_are_small_and_the_training_is_nearly_the_same():
    model, twin = model_of(), model_of()
    optimizer, plain = made(model, "adamw-8bit"), made(twin)
    before = weights(model)
    run(model, optimizer, 3)
    run(twin, plain, 3)
    states = optimizer.state_dict()["state"]
    assert states["model.embed_tokens.weight"]["state1"].dtype == torch.uint8
    assert states["model.norm.weight"]["state1"].dtype == torch.float32
    for name, one in weights(model).items():
        moved, peer = one - before[name], weights(twin)[name] - before[name]
        assert torch.cosine_similarity(moved.flatten(), peer.flatten(), dim=0) > 0.9, name


def test_gradients_are_clipped_to_the_global_norm():
    model = model_of()
    parameters = list(model.parameters())
    optimizer = Optimizer(model.named_parameters(), learning_rate=0.0, clip=0.25)
    backward(model, 0)
    exact = torch.cat([one.grad.flatten() for one in parameters])
    norm = optimizer.step().norm
    assert norm == pytest.approx(float(exact.norm()), rel=1e-5) and norm > 0.25
    moments = torch.cat([s["exp_avg"].flatten() for s in optimizer.state_dict()["state"].values()])
    torch.testing.assert_close(moments, 0.1 * exact * 0.25 / norm, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_without_finite_gradients_changes_nothing(name, bad):
    model = model_of(torch.bfloat16)
    optimizer = made(model, name, patience=3)
    run(model, optimizer, 1)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    backward(model, 1)
    model.model.norm.weight.grad[3] = bad
    seen = optimizer.step()
    assert not seen.taken and not seen.norm < float("inf") and optimizer.skipped == 1
    after = optimizer.state_dict()
    assert equal(weights(model), before) and equal(after["masters"], state["masters"])
    assert all(equal(after["state"][key], state["state"][key]) for key in state["state"])
    assert all(one.grad is None for one in model.parameters())


def test_too_many_of_them_in_a_row_end_the_training_and_a_resume_remembers_them():
    weight = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([("w", weight)], learning_rate=1.0, patience=3)

    def step(value, of=optimizer):
        weight.grad = torch.full((3,), value)
        return of.step()

    step(float("nan"))
    step(float("nan"))
    assert step(1.0).taken  # what is in a row begins anew
    step(float("inf"))
    step(float("nan"))
    resumed = Optimizer([("w", weight)], learning_rate=1.0, patience=3)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.skipped == 4
    for one in (optimizer, resumed):
        with pytest.raises(UserError, match=r"3 steps in a row were not finite"):
            step(float("nan"), one)


def test_what_cannot_be_trained_is_refused():
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        Optimizer([("w", weight)], "adam", learning_rate=1.0)
    with pytest.raises(UserError, match="all are frozen"):
        Optimizer([("w", nn.Parameter(torch.ones(3), requires_grad=False))], learning_rate=1.0)
    with pytest.raises(UserError, match=r"'w' is torch\.float16"):
        Optimizer([("w", nn.Parameter(torch.ones(3).half()))], learning_rate=1.0)
    with pytest.raises(UserError, match="none of the 1 trainable tensors has a gradient"):
        Optimizer([("w", weight)], learning_rate=1.0).step()


def test_a_state_of_something_else_is_refused():
    def of(name="adamw", *shape, key="layers.0.w", dtype=torch.float32):
        return Optimizer([(key, nn.Parameter(torch.ones(shape or (4, 4), dtype=dtype)))], name, learning_rate=1.0)

    mine = of()
    for other in (of("muon"), of(key="layers.1.w"), of(dtype=torch.bfloat16)):
        with pytest.raises(UserError, match="it is of another optimizer than adamw, or of other parameters"):
            mine.load_state_dict(other.state_dict())
    with pytest.raises(UserError, match=r"\[4, 5\], expected torch.float32 \[4, 4\]"):
        mine.load_state_dict(of("adamw", 4, 5).state_dict())


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        UserError, match=r"8-bit optimizers need the package 'bitsandbytes'\n.* -m pip install .*bitsandbytes"
    ):
        Optimizer([("w", nn.Parameter(torch.ones(3)))], "adamw-8bit", learning_rate=1.0)
