"""Rotates queries and keys inside the attention call instead of in the model's rotary module.

The rotary module is made to return cos = 1, sin = 0, so that the cache holds keys that were never rotated; one
registered attention function then rotates queries and keys of a layer by frequencies chosen for the current length and
hands them to the model's own attention. So a query always meets keys rotated by its own frequencies, with a cache too,
heads may have frequencies of their own, and a temperature may depend on the query's position.

Frequencies that change with the length still make results depend on how a text is cut: what a deep layer caches was
computed by the layers below at the length of that moment. Chunks equal one forward while the length stays inside the
window, in the first layer, and for frequencies that do not depend on the length.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import UserError
from ropewalk.rope.live import Rotary, decoder, in_float32, restored, rotaries
from ropewalk.rope.spec import ALL, Frequencies, RopeSpec

SLOT = "_ropewalk_seam"  # attribute of the attention modules while a seam is active


@dataclass
class Rotation:
    """How one layer type rotates.

    Attributes:
        spec: the layer type's rotary embedding in use (style, rotary dimensions, frequencies).
        frequencies: current length in tokens -> Frequencies ([d/2] or [kv heads, d/2]).
        temperature: query positions int64 [B, Q] -> logit multiplier [B, Q], or None.
        positions: position ids of the current forward, int64 [B, Q]; set by the rotary module's hook.
        live: the rotary module's own ``inv_freq``, whose bits are kept where nothing changes.
    """

    spec: RopeSpec
    frequencies: Callable[[int], Frequencies]
    temperature: Callable[[Tensor], Tensor | None]
    positions: Tensor | None = None
    live: Tensor | None = None
    _tables: dict[int, tuple[Tensor, float]] = field(default_factory=dict)

    def inv_freq(self, length: int, device: torch.device) -> tuple[Tensor, float]:
        """float32 frequencies on ``device`` and the attention factor at ``length``; the last one is kept."""
        if length not in self._tables:
            frequencies = self.frequencies(length)
            live = frequencies.inv_freq.float() if self.live is None else self.live
            inv_freq = in_float32(frequencies.inv_freq, live, self.spec)
            self._tables = {length: (inv_freq.to(device), frequencies.attention_factor)}
        return self._tables[length]


def rotate(x: Tensor, positions: Tensor, inv_freq: Tensor, scale: float, style: str) -> Tensor:
    """Rotate the first 2 x len(inv_freq) dimensions of each head.

    Args:
        x: [B, H, N, D].
        positions: [B, N].
        inv_freq: float32 [d/2], or [G, d/2] with G dividing H (heads of a group share a row).
        scale: attention factor, multiplies the rotated dimensions.
        style: "half" or "interleaved".
    """
    with torch.autocast(x.device.type, enabled=False):
        per_head = inv_freq if inv_freq.ndim == 2 else inv_freq[None]
        angles = positions[:, None, :, None].float() * per_head[None, :, None, :]  # [B, G, N, d/2]
        if per_head.shape[0] > 1:
            angles = angles.repeat_interleave(x.shape[1] // per_head.shape[0], dim=1)
        cos, sin = (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)
        d = 2 * inv_freq.shape[-1]
        turned, rest = x[..., :d], x[..., d:]
        if style == "half":
            first, second = turned.chunk(2, dim=-1)
            turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        else:
            first, second = turned[..., ::2], turned[..., 1::2]
            turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


def _attention(base: Callable[..., Any] | None) -> Callable[..., Any]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        inner = base or sys.modules[type(module).__module__].eager_attention_forward
        rotation: Rotation | None = getattr(module, SLOT, None)
        if rotation is not None:
            query, key = _rotated(rotation, query, key)
        return inner(module, query, key, value, attention_mask, **kwargs)

    return attention


def _rotated(rotation: Rotation, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    positions, spec = rotation.positions, rotation.spec
    if positions is None or query.shape[-1] != spec.head_dim:
        raise UserError(f"this model's attention (head size {query.shape[-1]}) cannot be rotated at attention time")
    positions = positions.expand(query.shape[0], -1)
    length = int(positions.max()) + 1
    key_positions = positions  # nothing cached: also right where several documents are packed into a row
    if key.shape[-2] != query.shape[-2]:
        # Cached keys stand directly before the queries; pads on the left of a row are masked anyway.
        back = torch.arange(key.shape[-2] - 1, -1, -1, device=positions.device)
        key_positions = (positions[:, -1:] - back).clamp_min(0)
    inv_freq, t = rotation.inv_freq(length, query.device)
    query = rotate(query, positions, inv_freq, t, spec.style)
    temperature = rotation.temperature(positions)
    if temperature is not None:
        query = query * temperature[:, None, :, None].to(query.dtype)
    return query, rotate(key, key_positions, inv_freq, t, spec.style)


def _register(base: str) -> str:
    """Name of the registered pair (attention, mask) that wraps implementation ``base``."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = f"ropewalk_{base}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        inner = None if base == "eager" else ALL_ATTENTION_FUNCTIONS[base]
        ALL_ATTENTION_FUNCTIONS.register(name, _attention(inner))
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


@contextmanager
def rotating(model: nn.Module, rotations: Mapping[str, Rotation]) -> Iterator[None]:
    """Rotate the layer types in ``rotations`` at attention time; everything is put back on leaving.

    Raises:
        UserError: if the model does not fit (complex rotary tables, attention that is not looked up by name).
    """
    if not rotations:
        yield
        return
    body = decoder(model)
    config: Any = body.config
    base = config._attn_implementation
    if base not in ("sdpa", "eager"):
        raise UserError(f"attention implementation {base!r} cannot be wrapped", "Load with attn_implementation='sdpa'.")
    with ExitStack() as stack:
        stack.enter_context(restored(model))  # types that recompute do so in every forward
        stack.callback(body.register_forward_pre_hook(_no_static_cache, with_kwargs=True).remove)
        for rotary in rotaries(model):
            if rotary.layer_type in rotations:
                _hook(rotary, rotations[rotary.layer_type], stack)
        for module in body.modules():
            if hasattr(module, "layer_idx") and hasattr(module, "scaling"):
                kind = ALL if ALL in rotations else config.layer_types[module.layer_idx]
                if kind in rotations:
                    setattr(module, SLOT, rotations[kind])
                    stack.callback(delattr, module, SLOT)
        name = _register(base)
        config._attn_implementation = name
        stack.callback(setattr, config, "_attn_implementation", base)
        yield


def _no_static_cache(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    cache = keywords.get("past_key_values")
    if getattr(cache, "is_compileable", False):  # its keys do not end where the queries do
        raise UserError(
            f"{type(cache).__name__} is a static cache, which cannot be rotated at attention time",
            "Use the default cache (cache_implementation='dynamic').",
        )


def _hook(rotary: Rotary, rotation: Rotation, stack: ExitStack) -> None:
    """Record the positions that a rotary module sees and make it the identity."""

    def asked_type(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
        return str(keywords.get("layer_type", arguments[2] if len(arguments) > 2 else ALL) or ALL)

    def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
        if asked_type(arguments, keywords) != rotary.layer_type:
            return output
        if not (isinstance(output, tuple) and len(output) == 2):
            raise UserError(
                f"{type(module).__name__} does not return (cos, sin); it cannot be rotated at attention time"
            )
        rotation.positions = keywords.get("position_ids", arguments[1] if len(arguments) > 1 else None)
        return torch.ones_like(output[0]), torch.zeros_like(output[1])

    rotation.live = rotary.built
    handle = rotary.module.register_forward_hook(hook, with_kwargs=True)
    stack.callback(handle.remove)
