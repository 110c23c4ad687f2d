"""The loss in blocks against cross-entropy of all logits: numbers of the card, every kind of head, what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ropewalk.common.errors import UserError
from ropewalk.planning.measure import peak_bytes
from ropewalk.training.loss import Head
from tests.architectures import build
from tests.models import tiny, tokens

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.3},
    "capped": {"softcap": 2.0},
    "all": {"bias": True, "scale": 1.7, "softcap": 3.0},
}


def drawn(dtype=torch.float64, bias=False, **more):
    """Hidden states, targets, weights (the first seven have no target, three more no weight) and a head."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(64, 16, dtype=torch.float64), torch.randn(50, 16, dtype=torch.float64)
    targets = torch.randint(50, (64,))
    targets[:7] = -100
    weights = torch.rand(64) + 0.5
    weights[20:23] = 0
    leaves = [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
    if bias:
        leaves.append(torch.randn(50).to(dtype).requires_grad_())
    return leaves, targets, weights, Head(*leaves[1:], block=9, **more)


def written_out(head, hidden, targets, weights):
    losses = F.cross_entropy(head.logits(hidden), targets, reduction="none", ignore_index=-100)
    return (losses * weights).sum()


def test_the_numbers_of_the_card():
    leaves, targets, _, head = drawn()
    counted = (targets != -100).double()
    assert head.loss(leaves[0], targets, counted / counted.sum()).item() == pytest.approx(8.9162, abs=5e-5)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 0.02)])
def test_loss_and_gradients_are_those_of_all_logits(kind, dtype, allowed):
    leaves, targets, weights, head = drawn(dtype, **HEADS[kind])
    exact, *_, oracle = drawn(torch.float64, **HEADS[kind])
    (3 * written_out(oracle, exact[0], targets, weights)).backward()
    loss = 3 * head.loss(leaves[0], targets, weights)
    loss.backward()
    expected = 3 * written_out(oracle, exact[0], targets, weights).detach()
    assert abs(float(loss) - float(expected)) <= allowed * float(expected)
    for got, wanted in zip(leaves, exact, strict=True):
        assert got.grad.dtype == dtype
        assert (got.grad.double() - wanted.grad).norm() <= allowed * wanted.grad.norm()


def test_nothing_is_computed_for_what_is_frozen_and_nothing_at_all_without_targets():
    leaves, targets, weights, _ = drawn()
    frozen = Head(leaves[1].detach(), block=9)
    frozen.loss(leaves[0], targets, weights).backward()
    expected = leaves[0].grad.clone()
    leaves[0].grad = None
    head = Head(leaves[1], block=9)
    head.loss(leaves[0], targets, weights).backward()
    assert torch.equal(leaves[0].grad, expected)
    leaves[0].grad = None
    nothing = head.loss(leaves[0], torch.full_like(targets, -100), weights)
    nothing.backward()
    assert float(nothing) == 0 and not leaves[0].grad.any()
    with torch.no_grad():
        assert not head.loss(leaves[0], targets, weights).requires_grad


def test_under_autocast_products_are_in_half_precision_and_the_rest_is_not():
    leaves, targets, weights, head = drawn(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss(leaves[0], targets, weights)
    loss.backward()
    exact = written_out(head, leaves[0], targets, weights)
    assert loss.dtype == leaves[1].grad.dtype == torch.float32
    assert 0 < abs(float(loss - exact)) < 0.01 * float(exact)


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "granite", "phi", "mixtral", "nanochat"])
def test_the_head_of_a_model_gives_its_loss_and_gradients(name):
    model, ids = build(name), tokens(2, 12)
    ones = torch.ones_like(ids)
    model(input_ids=ids, attention_mask=ones, labels=ids, use_cache=False).loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    head = Head.of(model)
    hidden = model.get_decoder()(input_ids=ids, attention_mask=ones, use_cache=False)[0]
    head.loss(hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), torch.full((22,), 1 / 22)).backward()
    got = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_logits_of_one_block_are_held_at_a_time(softcap):
    hidden, weight = torch.randn(512, 8, requires_grad=True), torch.randn(4096, 8, requires_grad=True)
    head = Head(weight, block=64, softcap=softcap)
    targets, weights = torch.zeros(512, dtype=torch.long), torch.ones(512)
    held = peak_bytes(lambda: head.loss(hidden, targets, weights).backward())
    block = 64 * 4096 * 4
    assert block < held < (1.5 if softcap is None else 3.5) * block


class Bent(nn.Linear):
    def forward(self, x):
        return super().forward(x) ** 3


def test_a_head_that_does_something_else_is_refused():
    model = tiny("llama")
    model.lm_head = Bent(64, 97, bias=False)
    with pytest.raises(UserError, match="not those of its head"):
        Head.of(model)
    model.lm_head = nn.Sequential(nn.Linear(64, 97))
    with pytest.raises(UserError, match="is a Sequential"):
        Head.of(model)


def test_a_loss_of_routers_is_refused():
    with pytest.raises(UserError, match="output_router_logits"):
        Head.of(tiny("gpt_oss", output_router_logits=True))
