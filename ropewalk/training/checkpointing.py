"""Activation checkpointing by transformers' own switch, on for one pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ropewalk.common.errors import UserError


@contextmanager
def checkpointed(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Keep each layer's input alone and compute the rest again in the backward pass, which belongs inside.

    Args:
        model: a live transformers model, in training mode.
        on: False changes nothing.

    Raises:
        UserError: if the model cannot, or is in evaluation mode, in which transformers keeps everything.
    """
    live: Any = model
    old = not hasattr(live, "activation_checkpointing_enable")
    if not on or (live.is_gradient_checkpointing if old else live.is_activation_checkpointing):
        yield
        return
    if not model.training:
        raise UserError("activations are computed again in training mode alone", "Call model.train() first.")
    if not getattr(live, "supports_gradient_checkpointing", True):
        raise UserError(f"{type(model).__name__} has no activation checkpointing", "Use memory='recurrent'.")
    enable = live.gradient_checkpointing_enable if old else live.activation_checkpointing_enable
    disable = live.gradient_checkpointing_disable if old else live.activation_checkpointing_disable
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()
