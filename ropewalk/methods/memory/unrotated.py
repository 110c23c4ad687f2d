"""A model whose layers attend by a function of ours, which is given queries and keys that were never rotated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import decoder
from ropewalk.rope.probe import identity_rotary, probe
from ropewalk.rope.rotation import Turn

NAME = "ropewalk_unrotated"  # of the registered attention and mask functions
SLOT = "_ropewalk_attends"  # attribute of the attention modules meanwhile

Attend = Callable[
    [int, Tensor, Tensor, Tensor, float], Tensor
]  # layer, q, k, v [B, heads, N, D], scale -> [B, H, N, D]


def turns(model: nn.Module) -> list[Turn | None]:
    """How every layer rotates, in their order; None where one does not.

    Raises:
        UserError: if frequencies change with the length, or a layer's rotation cannot be told.
    """
    for kind, spec in rope_config.read(model.config).items():  # type: ignore[arg-type]
        if spec.rope_type == "dynamic" or spec.switches:
            raise UserError(
                f"the frequencies of layer type {kind!r} change with the length of a text, and a memory keeps keys",
                "Write fixed ones into the model first: ropewalk extend, with ntk-aware or yarn.",
            )
    found: dict[int, Turn | None] = {}
    for how in probe(model):
        rotary = how.rotary
        found[how.index] = None
        if rotary is not None:
            inv_freq = rotary.inv_freq.float().clone()
            found[how.index] = Turn(inv_freq, rotary.attention_scaling, how.style, how.place)
    if sorted(found) != list(range(len(found))):
        raise UserError(f"layers {sorted(found)} of {type(model).__name__} attend, expected all of them once")
    return [found[index] for index in sorted(found)]


@contextmanager
def attending_by(model: nn.Module, attend: Attend, who: str) -> Iterator[None]:
    """Let every layer attend by ``attend``; all is as before on leaving.

    Args:
        model: a live transformers model.
        attend: gets no mask: who sees whom is its own.
        who: the method, for refusals.

    Raises:
        UserError: in a forward pass, if a layer has a window, a softcap, sinks or a mask of its own.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **more: Any,
    ) -> tuple[Tensor, None]:
        index, run = getattr(module, SLOT)
        own = {"dropout": dropout, "mask": attention_mask} | {
            name: more.get(name) for name in ("sliding_window", "softcap", "s_aux")
        }
        for name in (name for name, value in own.items() if value is not None and value is not False and value != 0.0):
            raise UserError(
                f"layer {index} has a {name.replace('_', ' ')} of its own in its attention, which {who} does not follow"
            )
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return run(index, query, key, value, scale).transpose(1, 2).contiguous(), None

    body = decoder(model)
    config: Any = body.config
    types = getattr(config, "layer_types", None) or []
    if other := sorted({*types} - {"full_attention"}):
        raise UserError(
            f"{type(model).__name__} has layers of type {other[0]}, and {who} takes layers that see everything"
        )
    with ExitStack() as stack:
        for how in probe(model):
            setattr(how.module, SLOT, (how.index, attend))
            stack.callback(delattr, how.module, SLOT)
        stack.enter_context(identity_rotary(model))
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, lambda *sizes, **more: None)
        stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
        config._attn_implementation = NAME
        yield
