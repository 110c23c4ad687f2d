"""Layers whose attention is taken apart, so that something else can mix their tokens with the same projections.

The attention modules of a model stay where they are; for a while their forward is a mixer's, which carries a state from
piece to piece of a text. That a layer is what its parts say is seen on the model itself: plain attention out of the
parts is compared with what the module gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ropewalk.attention.kernels import backend_for
from ropewalk.attention.merge import Part, attend
from ropewalk.attention.tiles import tiles
from ropewalk.common.errors import UserError
from ropewalk.methods.memory.reader import Reader
from ropewalk.rope import architecture
from ropewalk.rope.config import trained_window
from ropewalk.rope.live import decoder, forward_of, still
from ropewalk.rope.probe import probe
from ropewalk.rope.rotation import Turn

SLOT = "_ropewalk_mixed"  # attribute of the decoder while a reader is on
NAME = "ropewalk-mixers"  # of the registered attention and mask functions
TRIED, FAR = 24, 4  # tokens on which a layer is compared with its parts; windows before them, a second time
UNKNOWN = ("clip_qkv", "attn_temperature_tuning", "attention_chunk_size", "attention_dropout")  # in configurations
BY_LENGTH = ("dynamic", "longrope")  # ropes that go by the length of what a forward pass is given
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, eq=False)
class Parts:
    """One layer's attention: what it is made of.

    Attributes:
        module: the attention module, with q_proj, k_proj, v_proj and o_proj.
        index: place in the model.
        heads: query heads.
        kv_heads: key-value heads.
        width: of a head.
        scale: of the logits.
        softcap: logits become softcap * tanh(logits / softcap), or None.
        sliding: the model's own sliding window in tokens, or None.
        turn: how queries and keys rotate; None if they do not.
    """

    module: Any
    index: int
    heads: int
    kv_heads: int
    width: int
    scale: float
    softcap: float | None
    sliding: int | None
    turn: Turn | None

    def queries(self, projected: Tensor) -> Tensor:
        """[B, H, n, D] of what q_proj gives, not rotated."""
        return self._split(projected, self.heads, "q_norm")

    def keys(self, projected: Tensor) -> Tensor:
        """[B, Hkv, n, D] of what k_proj gives, not rotated."""
        return self._split(projected, self.kv_heads, "k_norm")

    def values(self, projected: Tensor) -> Tensor:
        """[B, Hkv, n, D] of what v_proj gives."""
        return self._split(projected, self.kv_heads, "")

    def turned(self, x: Tensor, start: int) -> Tensor:
        """Queries or keys [B, H, n, D] rotated at the positions from ``start`` on."""
        if self.turn is None:
            return x
        return self.turn.by(x, self.turn.tables(torch.arange(start, start + x.shape[2])[None]))

    def out(self, mixed: Tensor) -> Tensor:
        """[B, n, hidden] of what the heads give, [B, H, n, D]."""
        found: Tensor = self.module.o_proj(mixed.transpose(1, 2).flatten(2))
        return found

    def attended(self, q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
        """Attention [B, H, n, D] of the last n tokens to all keys before them, or to the last ``window`` ones."""
        n, keys = q.shape[2], k.shape[2]
        window = min(window or keys, self.sliding or keys)
        last = np.arange(keys - n, keys)
        cut = tiles(np.maximum(last - window + 1, 0), last + 1)
        return attend([Part(0, 0, tile) for tile in cut], [q], [k], v, self.scale, backend_for(q, self.softcap))

    def per_query_head(self, projected: Tensor) -> Tensor:
        """What k_proj or v_proj gives, [B, n, Hkv * D], each head repeated for its queries, [B, n, H * D]."""
        heads = projected.unflatten(-1, (self.kv_heads, -1))
        return heads.repeat_interleave(self.heads // self.kv_heads, 2).flatten(2)

    def _split(self, projected: Tensor, heads: int, norm: str) -> Tensor:
        module: nn.Module | None = getattr(self.module, norm, None) if norm else None
        if module is not None and module.weight.numel() == projected.shape[-1]:  # type: ignore[union-attr, operator]
            return module(projected).unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]
        split = projected.unflatten(-1, (heads, -1))
        return (split if module is None else module(split)).transpose(1, 2)


class Mixer(Protocol):
    """What mixes a layer's tokens in place of its attention."""

    def begin(self, rows: int) -> Any:
        """Its state before any text."""

    def mix(self, hidden: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
        """What the layer's attention would give, [B, n, hidden], and the state behind it; ``state`` stays as it is.

        Args:
            hidden: the layer's normed input [B, n, hidden], of tokens ``start`` and on.
            start: tokens before them.
            state: behind those.
        """


@dataclass(eq=False)
class States:
    """What a text has left in every layer.

    Attributes:
        layers: one state per layer.
        seen: tokens that were read.
    """

    layers: list[Any]
    seen: int = 0


@dataclass(eq=False)
class MixedReader(Reader):
    """Reads with a mixer in every layer.

    Attributes:
        model: that is read with.
        parts: of its layers.
        mixers: one per layer.
        piece: tokens that are read at once where no gradient is asked for; None means all.
    """

    model: nn.Module
    parts: Sequence[Parts]
    mixers: Sequence[Mixer]
    piece: int | None = None
    start: int = 0  # of what is being read, or was last
    before: list[Any] = field(default_factory=list)  # states there; layers that are checkpointed ask a second time
    behind: list[Any] = field(default_factory=list)
    own_way: str = ""  # in which the model attends without mixers
    own: dict[int, Callable[..., Any]] = field(default_factory=dict)  # forwards of its attention modules

    def begin(self, rows: int) -> States:
        return States([mixer.begin(rows) for mixer in self.mixers])

    def read(self, ids: Tensor, state: States) -> Tensor:
        pieces = (ids,) if torch.is_grad_enabled() or self.piece is None else ids.split(self.piece, 1)
        return torch.cat([self._read(one, state) for one in pieces], 1)

    def _read(self, ids: Tensor, state: States) -> Tensor:
        self.start, self.before, self.behind = state.seen, list(state.layers), list(state.layers)
        end = state.seen + ids.shape[1]
        places = torch.arange(state.seen, end, device=ids.device)[None].expand(len(ids), -1)
        hidden: Tensor = decoder(self.model)(input_ids=ids, position_ids=places, use_cache=False)[0]
        state.layers, state.seen = self.behind, end
        return hidden

    @contextmanager
    def attached(self) -> Iterator[None]:
        AttentionInterface.register(NAME, _unmixed)
        AttentionMaskInterface.register(NAME, lambda *sizes, **more: None)
        body: Any = decoder(self.model)
        with ExitStack() as stack:
            setattr(body, SLOT, self)
            stack.callback(delattr, body, SLOT)
            stack.callback(setattr, body.config, "_attn_implementation", body.config._attn_implementation)
            self.own_way = body.config._attn_implementation
            body.config._attn_implementation = NAME
            for order, one in enumerate(self.parts):
                self.own[order] = one.module.forward
                stack.enter_context(forward_of(one.module, self._forward(order)))
            yield

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """The model as it is without mixers, for a while, with the reader still on; it reads texts whole."""
        config: Any = decoder(self.model).config
        piece, self.piece = self.piece, None
        config._attn_implementation = self.own_way
        with ExitStack() as stack:
            for order, one in enumerate(self.parts):
                stack.enter_context(forward_of(one.module, self.own[order]))
            try:
                yield
            finally:
                self.piece, config._attn_implementation = piece, NAME

    def taught(self, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of every layer, what its attention is given and what it gives, in the model as it is without mixers."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        with ExitStack() as stack:
            stack.enter_context(self.plainly())
            for one in self.parts:
                stack.callback(one.module.register_forward_hook(_noted(found), with_kwargs=True).remove)
            self.model(input_ids=ids, use_cache=False)
        return [found[id(one.module)] for one in self.parts]

    def _forward(self, order: int) -> Callable[..., tuple[Tensor, None]]:
        """The forward of a layer's attention module."""

        def forward(hidden_states: Tensor, *others: Any, **more: Any) -> tuple[Tensor, None]:
            out, self.behind[order] = self.mixers[order].mix(hidden_states, self.start, self.before[order])
            return out, None

        return forward


def reader_on(model: nn.Module) -> MixedReader:
    """The reader with mixers that is on a model."""
    found: MixedReader = getattr(decoder(model), SLOT)
    return found


Note = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]


def _noted(found: dict[int, Any]) -> Note:
    """A hook that keeps what an attention module is given, and the first of the two things that it gives."""

    def note(module: nn.Module, inputs: tuple[Any, ...], more: dict[str, Any], output: Any) -> None:
        hidden = more.get("hidden_states", inputs[0] if inputs else None)
        if isinstance(hidden, Tensor) and isinstance(output, tuple) and len(output) == 2:
            found[id(module)] = hidden, output[0]

    return note


def _unmixed(module: nn.Module, *arguments: Any, **more: Any) -> NoReturn:
    raise UserError(f"{type(module).__name__} attends by itself, and was not seen when the method was put on the model")


def taken_apart(model: nn.Module) -> list[Parts]:
    """The attention of every layer.

    Raises:
        UserError: if a layer is not what its parts say.
    """
    config: Any = decoder(model).config
    _refuse_unknown(config)
    kinds = architecture.layers(config)
    found = []
    for how in probe(model):
        module: Any = how.module
        missing = [name for name in PROJECTIONS if not isinstance(getattr(module, name, None), nn.Linear)]
        if missing:
            _refuse(model, f"layer {how.index} has no {missing[0]} of its own")
        turn = None
        if how.rotary is not None:
            if how.rotary.rope_type in BY_LENGTH:
                _refuse(
                    model, f"its rope ({how.rotary.rope_type}) goes by the length of what it reads, which is a piece"
                )
            turn = Turn(how.rotary.inv_freq.float().clone(), how.rotary.attention_scaling, how.style, how.place)
        width = module.q_proj.out_features // how.heads
        softcap = getattr(module, "attn_logit_softcapping", None)
        scale, sliding = getattr(module, "scaling", width**-0.5), architecture.bound(config, kinds[how.index])
        if getattr(module, "sliding_window", sliding) != sliding:
            _refuse(model, f"layer {how.index} has a window of {module.sliding_window}, its configuration {sliding}")
        found.append(Parts(module, how.index, how.heads, how.kv_heads, width, scale, softcap, sliding, turn))
    if len(found) != config.num_hidden_layers:
        _refuse(model, f"{len(found)} of {config.num_hidden_layers} layers attend; tokens meet in the others too")
    _compare(model, found)
    return found


def _refuse_unknown(config: Any) -> None:
    for name in UNKNOWN:
        if getattr(config, name, None):
            raise UserError(f"{name} is {getattr(config, name)!r}, which attention taken apart does not know")


def _refuse(model: nn.Module, what: str) -> NoReturn:
    raise UserError(f"{type(model).__name__} cannot be given another mixer: {what}")


def _compare(model: nn.Module, parts: Sequence[Parts]) -> None:
    """Refuse layers that give anything else than plain attention out of their parts, near the beginning or far on."""
    for start in (0, FAR * trained_window(decoder(model).config)):  # type: ignore[arg-type]
        _compare_at(model, parts, start)


@torch.no_grad()
def _compare_at(model: nn.Module, parts: Sequence[Parts], start: int) -> None:
    body: Any = decoder(model)
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    with ExitStack() as stack:
        stack.enter_context(still(body))
        for one in parts:
            stack.callback(one.module.register_forward_hook(_noted(seen), with_kwargs=True).remove)
        ids = torch.arange(3, 3 + TRIED, device=next(body.parameters()).device)[None] % int(body.config.vocab_size)
        places = torch.arange(start, start + TRIED, device=ids.device)[None]
        body(input_ids=ids, position_ids=places, use_cache=False)
    for one in parts:
        if id(one.module) not in seen:
            _refuse(model, f"layer {one.index} is not given hidden_states, or does not give two things back")
        hidden, output = seen[id(one.module)]
        q, k = one.queries(one.module.q_proj(hidden)), one.keys(one.module.k_proj(hidden))
        q, k = one.turned(q, start), one.turned(k, start)
        found = one.out(one.attended(q, k, one.values(one.module.v_proj(hidden))))
        off = float((found - output).float().norm() / output.float().norm().clamp_min(1e-30))
        if not off <= max(1e-4, 8 * torch.finfo(found.dtype).eps):
            _refuse(
                model,
                f"layer {one.index} is off by {off:.2g} of its size from plain attention out of its parts, "
                f"at positions from {start:,} on",
            )
