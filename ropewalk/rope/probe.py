"""How each layer of a live model rotates, found by watching it: never by the name of its class.

The model runs twice on a few tokens, once as it is and once with rotary modules that return cos = 1 and sin = 0. In
between, attention hands every token its own value, so that all layers see the same hidden states both times, and what
a layer does to its queries can be compared with every rotation that the model's rotary modules offer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.rope.live import Rotary, decoder, restored, rotaries, still
from ropewalk.rope.rotation import Place, Style, rotate, tables
from ropewalk.rope.spec import ALL

TOKENS = 16
PROBE = "ropewalk_probe"
NO_INTERFACE = "does not attend through transformers' attention interface (AttentionInterface)"


@dataclass(frozen=True, eq=False)
class Rotating:
    """One attention layer and its rotation.

    Attributes:
        module: the attention module that calls the registered attention function.
        index: place in the model.
        heads: query heads.
        kv_heads: key-value heads.
        rotary: where its frequencies come from; None if the layer does not rotate (NoPE).
        style: which dimensions form a pair.
        place: whether the rotated dimensions are the first or the last of a head.
    """

    module: nn.Module
    index: int
    heads: int
    kv_heads: int
    rotary: Rotary | None
    style: Style = "half"
    place: Place = "head"


_probed: WeakKeyDictionary[nn.Module, list[Rotating]] = WeakKeyDictionary()
_attending: WeakKeyDictionary[nn.Module, list[Rotating]] = WeakKeyDictionary()


def attending(model: nn.Module) -> list[Rotating]:
    """The same layers as ``probe``, however they rotate: ``rotary`` is None for all.

    Raises:
        UserError: if there is none.
    """
    if model not in _attending:
        seen, _ = watch(model, identity=False)
        if not seen:
            raise UserError(f"{type(model).__name__} {NO_INTERFACE}, so documents and chunks cannot be followed")
        _attending[model] = [_layer(order, one) for order, one in enumerate(seen)]
    return _attending[model]


def _layer(order: int, seen: Seen) -> Rotating:
    module, q, k = seen
    return Rotating(module, int(getattr(module, "layer_idx", order)), q.shape[1], k.shape[1], rotary=None)


def probe(model: nn.Module) -> list[Rotating]:
    """Every attention layer of the language model that attends through transformers' attention interface.

    Raises:
        UserError: if there is none, or a layer's queries or keys are turned in a way that no rotary module explains.
    """
    if model not in _probed:
        (plain, offered), (still, _) = watch(model, identity=False), watch(model, identity=True)
        if not plain:
            raise UserError(
                f"{type(model).__name__} {NO_INTERFACE}, so its positions cannot be remapped",
                "Methods of kind frequencies work on it: ropewalk methods",
            )
        _probed[model] = [_match(model, i, *pair, offered) for i, pair in enumerate(zip(plain, still, strict=True))]
    return _probed[model]


@contextmanager
def identity_rotary(model: nn.Module) -> Iterator[None]:
    """Rotary modules return cos = 1, sin = 0 (complex tables: 1); they still compute, and may update, their own."""

    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and output.is_complex():
            return torch.ones_like(output)
        if isinstance(output, tuple) and len(output) == 2:
            return torch.ones_like(output[0]), torch.zeros_like(output[1])
        raise UserError(f"{type(module).__name__} does not return (cos, sin); it cannot be rotated at attention time")

    with ExitStack() as stack:
        for module in {id(rotary.module): rotary.module for rotary in rotaries(model)}.values():
            stack.callback(module.register_forward_hook(hook).remove)
        yield


Seen = tuple[nn.Module, Tensor, Tensor]  # an attention module, its queries and keys
Offer = tuple[Rotary, Tensor, float]  # a rotation, its frequencies and attention factor


def watch(model: nn.Module, identity: bool) -> tuple[list[Seen], list[Offer]]:
    """Queries and keys of every layer as they reach attention, [1, H, TOKENS, D], and the rotations in use then."""
    from transformers import AttentionInterface, AttentionMaskInterface

    seen: list[Seen] = []

    def attention(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *mask: Any, **more: Any) -> tuple[Tensor, None]:
        seen.append((module, q.detach(), k.detach()))
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1).transpose(1, 2).contiguous(), None

    AttentionInterface.register(PROBE, attention)
    body = decoder(model)
    config: Any = body.config
    device = next(body.parameters()).device
    everything = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool, device=device)  # for attention that is not ours
    AttentionMaskInterface.register(PROBE, lambda *sizes, **more: everything)
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(still(body))  # dropout would make the two runs differ
        if identity:
            stack.enter_context(identity_rotary(model))
        stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
        config._attn_implementation = PROBE
        vocabulary = int(getattr(config, "vocab_size", TOKENS))
        body(input_ids=torch.arange(TOKENS, device=device)[None] % vocabulary, use_cache=False)
        offered = [(one, one.inv_freq.float().clone(), one.attention_scaling) for one in rotaries(model)]
    return seen, offered


def _match(model: nn.Module, order: int, plain: Seen, still: Seen, offered: list[Offer]) -> Rotating:
    _, q, k = still
    layer = _layer(order, still)
    index = layer.index
    if all(_equal(a, b) for a, b in zip(plain[1:], still[1:], strict=True)):
        return layer
    positions = torch.arange(TOKENS, device=q.device)[None]
    kinds = getattr(decoder(model).config, "layer_types", None) or [ALL] * (index + 1)
    likely_first = sorted(offered, key=lambda offer: offer[0].layer_type != kinds[index])
    for (rotary, inv_freq, scale), style, place in product(likely_first, get_args(Style), get_args(Place)):
        if 2 * inv_freq.shape[-1] > q.shape[-1]:
            continue
        table = tables(positions, inv_freq, scale)
        turned = (rotate(x, *table, style, place) for x in (q, k))
        if all(_equal(a, b) for a, b in zip(plain[1:], turned, strict=True)):
            return replace(layer, rotary=rotary, style=style, place=place)
    raise UserError(
        f"layer {index} of {type(model).__name__} turns its queries in a way that its rotary modules do not explain "
        "(tried half and interleaved pairs, at the head and the tail of the vector); its positions cannot be remapped",
        "Methods of kind frequencies work on it: ropewalk methods",
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    allowed = max(2e-5, 4 * torch.finfo(a.dtype).eps)
    return float((a - b).abs().max()) <= allowed * float(a.abs().max())
