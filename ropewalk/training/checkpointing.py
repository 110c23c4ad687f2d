"""Activation checkpointing by transformers' own switch, on for one pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from ropewalk.common.errors import UserError

ATTENTION = tuple(  # kernels whose results are kept by a selective checkpoint
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
)
MUTATED = "has been mutated"  # torch's words for a kept result that was changed afterwards


@contextmanager
def checkpointed(model: nn.Module, on: bool = True, selective: bool = False) -> Iterator[None]:
    """Keep each layer's input alone and compute the rest again in the backward pass, which belongs inside.

    Args:
        model: a live transformers model, in training mode.
        on: False changes nothing.
        selective: what attention computed is kept too, and attention is not computed again.

    Raises:
        UserError: if the model cannot, or is in evaluation mode, in which transformers keeps everything; if selective,
            in the backward pass of an attention that changes its kernels' results in place.
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
    how: dict[str, Any] = {"use_reentrant": False}
    if selective:
        how["context_fn"] = partial(create_selective_checkpoint_contexts, list(ATTENTION))
    enable(how)
    try:
        yield
    except RuntimeError as error:
        if selective and MUTATED in str(error):
            raise UserError(
                f"attention of {type(model).__name__} changes in place what its kernels computed, so that it cannot be "
                "kept",
                "Take memory='checkpointed', which computes attention again.",
            ) from error
        raise
    finally:
        disable()
