"""MLPs over pieces of tokens, each computed again in its backward pass (ALST, arXiv 2506.13996)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ropewalk.common.errors import UserError
from ropewalk.rope.live import decoder, still

NAMES = ("mlp", "feed_forward", "moe")  # in the name of a layer's child
TRIED = 7  # tokens that each is tried on, in two pieces
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the results' size; half precision: 0.02
TINY = 1e-30  # MLPs that begin with zeros give zeros
MEND = "Leave out tiled_mlp; memory='recurrent' bounds the MLP too."

_tried: WeakSet[nn.Module] = WeakSet()


@contextmanager
def tiled_mlps(model: nn.Module, on: bool = True) -> Iterator[None]:
    """MLPs of all layers over as many tokens at a time as the model is wide; the backward pass belongs inside.

    Args:
        model: a live transformers model.
        on: False changes nothing.

    Raises:
        UserError: if no layer has an MLP by that name; in a forward pass, if an MLP takes or gives more than hidden
            states, or a token's result depends on other tokens, which is tried on the first ones.
    """
    if not on:
        yield
        return
    layers = [one for one in decoder(model).modules() if isinstance(one, GradientCheckpointingLayer)]
    found = [child for layer in layers for name, child in layer.named_children() if any(n in name for n in NAMES)]
    if not found:
        raise UserError(f"{type(model).__name__} has no layers with a module named {', '.join(NAMES)}", MEND)
    with ExitStack() as stack:
        for module in found:
            former = vars(module).get("forward")  # of somebody else's hook
            vars(module)["forward"] = partial(_tiled, module, module.forward)
            stack.callback(_put_back, module, former)
        yield


def _put_back(module: nn.Module, former: Any) -> None:
    if former is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = former


def _tiled(module: nn.Module, forward: Callable[[Tensor], Tensor], hidden: Tensor, *more: Any, **named: Any) -> Tensor:
    """What ``forward`` makes of hidden states [..., N, D], a piece of D tokens at a time."""
    if more or named:
        raise UserError(f"{type(module).__name__} takes more than hidden states", MEND)
    if module not in _tried:
        _try(module, forward, hidden)
        _tried.add(module)
    pieces = hidden.split(hidden.shape[-1], -2)
    if len(pieces) == 1:
        return forward(hidden)

    def through(piece: Tensor) -> Tensor:
        return forward(piece.contiguous())  # as a whole text is: routers take views of it

    if not torch.is_grad_enabled():
        return torch.cat([through(piece) for piece in pieces], -2)
    return torch.cat([checkpoint(through, piece, use_reentrant=False) for piece in pieces], -2)


@torch.no_grad()
def _try(module: nn.Module, forward: Callable[[Tensor], Tensor], hidden: Tensor) -> None:
    some = hidden[..., :TRIED, :]
    with still(module):
        whole = forward(some.contiguous())
        parts = [forward(piece.contiguous()) for piece in some.split(TRIED // 2 + 1, -2)]
    if not isinstance(whole, Tensor) or whole.shape != some.shape:
        raise UserError(f"{type(module).__name__} gives more than hidden states", MEND)
    error = float((torch.cat(parts, -2) - whole).norm() / whole.norm().clamp_min(TINY))
    if not error <= TOLERANCE.get(whole.dtype, 0.02):
        raise UserError(f"results of {type(module).__name__} are off by {error:.2g} of their size in pieces", MEND)
