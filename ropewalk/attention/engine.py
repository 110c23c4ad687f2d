"""Puts regions into a live model: rotation happens inside attention, per region, over keys that were never rotated.

The rotary modules return cos = 1, sin = 0, so that the model's cache holds unrotated keys; one registered mask function
passes padding through instead of building a mask; one registered attention function rotates queries and keys for every
region and merges the regions into one softmax. Nothing of this is written into the configuration.

Frequencies or regions that change with the length make results depend on how a text is cut: what a deep layer caches
was computed by the layers below at the length of that moment. All others give the same in one forward, in chunks and
token by token.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ropewalk.attention import cache_argument, cache_owner, selftest, soundness
from ropewalk.attention.attending import POSITIONS, Attending
from ropewalk.attention.forward import Layout
from ropewalk.attention.kernels import backend_for
from ropewalk.attention.key_memo import KeyMemo
from ropewalk.attention.layer import Call
from ropewalk.attention.regions import PLAIN, Layer, Region, Told, extended_layers
from ropewalk.attention.spread import Spread
from ropewalk.common.errors import UserError
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import ON, Rotary, decoder, in_float32, restored
from ropewalk.rope.probe import Rotating, attending, identity_rotary, probe
from ropewalk.rope.rotation import Turn
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import Cache

    from ropewalk.attention.memory_cache import MemoryLayer

NAME = "ropewalk"  # of the registered attention and mask functions
SLOT = "_ropewalk_layer"  # attribute of the attention modules while an engine is on
LAYOUT = "_ropewalk_layout"  # attribute of the tensors that the mask function returns
BESIDE = frozenset({"position_ids", "cache_position"})  # tensors that decide nothing in an attention function
AHEAD = "_ropewalk_ahead"  # another, whether the model's own mask shows a query what stands behind it
WINDOW = "_ropewalk_window"  # another, the sliding window of the layers that are given the mask

_ENGINES: dict[int, Engine] = {}  # by the identity of the configuration that masks are made for


@dataclass
class Rotation:
    """Frequencies chosen at run time for one layer type.

    Attributes:
        spec: the rotary embedding in use.
        frequencies: current length in tokens -> Frequencies ([d/2] or [kv heads, d/2]).
        temperature: query positions int64 [R, Q] -> logit multiplier [R, Q], or None.
    """

    spec: RopeSpec
    frequencies: Callable[[int], Frequencies]
    temperature: Callable[[Tensor], Tensor | None]

    def at(self, length: int, live: Rotary) -> tuple[Tensor, float]:
        """float32 frequencies and the attention factor; what a method leaves alone keeps the bits of ``live``."""
        chosen = self.frequencies(length)
        inv_freq = in_float32(chosen.inv_freq, live.built, self.spec)
        return inv_freq.to(live.inv_freq.device), chosen.attention_factor


@dataclass(eq=False)
class _Rope:
    """The rotation of layers that share a rotary embedding, at the length of the moment."""

    how: Rotating
    rotary: Rotary
    rotation: Rotation | None
    turn: Turn | None = None
    _from: tuple[Any, ...] = ()
    _live: Tensor | None = None

    def at(self, length: int) -> Turn:
        """A new ``Turn`` where frequencies changed since the last call, else the same one."""
        if self.rotation is not None:
            if self._from != (length,):
                self._from = (length,)
                self._take(*self.rotation.at(length, self.rotary))
        else:  # some rotary modules replace or rewrite their buffer from one forward to the next
            live = self.rotary.inv_freq
            state = 0 if live.is_inference() else live._version, self.rotary.attention_scaling
            if live is not self._live or self._from != state:
                self._live, self._from = live, state
                self._take(live.float().clone(), self.rotary.attention_scaling)
        assert self.turn is not None
        return self.turn

    def _take(self, inv_freq: Tensor, scale: float) -> None:
        old = self.turn
        if old is None or old.scale != scale or not torch.equal(old.inv_freq, inv_freq):
            self.turn = Turn(inv_freq, scale, self.how.style, self.how.place)


@dataclass(eq=False)
class _Attached:
    """An attention layer and what the engine keeps for it."""

    engine: Engine
    layer: Layer
    kind: int  # the same for layers that differ in nothing but their place
    rope: _Rope | None
    choosing: tuple[Attending, ...]  # methods that pick keys by content
    ahead: bool = False  # whether queries see what stands behind them, as in encoders
    turn: Turn | None = None
    memo: KeyMemo = field(default_factory=KeyMemo)
    attended: bool = False  # in this forward


class Engine:
    """One method, or several that compose, on one model."""

    def __init__(self, methods: Sequence[Attending], rotations: Mapping[str, Rotation], window: int | None):
        self.methods, self.rotations, self.window = methods, rotations, window
        self.attached: list[_Attached] = []
        self.checked: list[tuple[Attending, Layer]] = []  # methods, on one layer of every kind that they tell apart
        self.sound = 0  # tokens up to which regions have been checked
        self.setting = ""  # what caches are filled under
        self.layout: Layout | None = None  # of the forward pass that is going on
        self.spread: Spread | None = None  # processes that the sequence is spread over
        self.cache: Cache | None = None  # that it was given
        self.names: list[str] = []  # of the arguments of the decoder's forward
        self.caching = False
        self.kept: dict[int, Tensor] = {}  # layer -> positions of the keys that an evicting cache still has
        self.held: dict[int, MemoryLayer] = {}  # layer -> that of a cache of which a method says what stays
        self.static = False  # whether the cache holds slots that are not written yet
        self.rolling: set[int] = set()  # layers whose cache keeps the last keys only
        self.by_layer = any(method.by_layer for method in methods)
        self.regions_by_layer = any(method.by_layer and method.sets_regions for method in methods)
        self.varies = any(method.length_dependent for method in methods)
        self.turns = bool(methods or rotations)  # else the model rotates by itself, as without an engine
        self.plain = not any(method.sets_regions or method.by_content for method in methods)
        self._regions: dict[tuple[int, int | None, int, int, bool], tuple[Region, ...]] = {}

    def attach(self, model: nn.Module, to: int | None, stack: ExitStack) -> None:
        """Find the layers, check the methods against each, and mark the modules.

        Raises:
            UserError: if a layer cannot be remapped, or a method's options do not fit it.
        """
        body = decoder(model)
        config: Any = body.config
        self.names = _argument_names(body)
        specs = rope_config.read(model.config)  # type: ignore[arg-type]
        types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        extended = extended_layers(config)
        ropes: dict[tuple[Any, ...], _Rope] = {}
        kinds: dict[Layer, int] = {}
        for how in probe(model) if self.turns else attending(model):
            key = how.rotary.layer_type if how.rotary else types[how.index]
            promised = (specs.get(key) or next(iter(specs.values()))).length
            window = promised if self.window is None else self.window
            if to is not None and to < window:
                raise UserError(
                    f"target {to:,} is shorter than the {window:,} tokens that the model reads as it is",
                    f"Choose a target of at least {window} tokens; shorter inputs already fit.",
                )
            layer = Layer(
                index=how.index,
                window=window,
                target=max(to or promised, window),
                heads=how.heads,
                kv_heads=how.kv_heads,
                chunk=config.attention_chunk_size if types[how.index] == "chunked_attention" else None,
                extended=extended[how.index],
                layers=len(types),
            )
            rope = None
            if how.rotary is not None:
                name = id(how.rotary), how.style, how.place
                rope = ropes.setdefault(name, _Rope(how, how.rotary, self.rotations.get(key)))
            ahead = getattr(how.module, "is_causal", True) is False
            if ahead:
                self._refuse_one_sided(layer.index)
            new = replace(layer, index=0) not in kinds
            kind = kinds.setdefault(replace(layer, index=0), len(kinds))
            for method in self.methods if layer.extended else ():
                method.check(method.seen_as(layer))
                if new or method.by_layer:
                    self._check(method, layer, layer.target)
                    if ahead:
                        asked = Told.to(method, replace(method.seen_as(layer), length=layer.target))
                        self._both_ways(layer.clip(method.regions(asked)), layer.target)
                    self.checked.append((method, layer))
            choosing = tuple(method for method in self.methods if layer.extended and method.picks(layer))
            self.attached.append(_Attached(self, layer, kind, rope, choosing, ahead))
            if hasattr(how.module, SLOT):
                raise UserError(
                    f"{type(how.module).__name__} of layer {how.index} attends more than once in a forward pass, which "
                    "regions do not follow"
                )
            setattr(how.module, SLOT, self.attached[-1])
            stack.callback(delattr, how.module, SLOT)
        self.sound = min((layer.target for _, layer in self.checked), default=0)
        put_on = getattr(body, ON, "+".join(method.id for method in self.methods) or "plain attention")
        self.setting = f"{put_on} for {max(attached.layer.target for attached in self.attached):,} tokens"

    @contextmanager
    def spreading(self, spread: Spread | None) -> Iterator[None]:
        """Forward passes are of a part of the tokens, and attention of a part of the heads.

        Raises:
            UserError: if a layer's heads cannot be shared out, or tokens meet elsewhere than in attention.
        """
        if spread is not None:
            self._refuse_undividable(spread.count)
        self.spread = spread
        try:
            yield
        finally:
            self.spread = None

    def _refuse_undividable(self, count: int) -> None:
        for attached in self.attached:
            layer = attached.layer
            if layer.kv_heads % count:
                raise UserError(
                    f"layer {layer.index} has {layer.heads} query heads and {layer.kv_heads} key-value heads, which "
                    f"{count} processes cannot share evenly",
                    "Take a --sequence-parallel that divides the key-value heads.",
                )
            if attached.choosing:
                raise UserError(
                    f"{attached.choosing[0].id} picks keys by all heads of a layer, of which a process has some",
                    "Leave out --sequence-parallel.",
                )

    def _refuse_one_sided(self, index: int) -> None:
        """Refuse what has no mirror image: keys left out or picked, and temperatures by position.

        Raises:
            UserError: naming the method.
        """
        for method in self.methods:
            if method.axes != {POSITIONS} or method.by_content:
                raise UserError(
                    f"{method.id} is for models in which a token sees those before it alone; in layer {index} of this "
                    "encoder it sees those behind it too",
                    "Choose a method of frequencies, or of positions alone, such as self-extend.",
                )

    def _check(self, method: Attending, layer: Layer, tokens: int) -> None:
        soundness.check(method, replace(method.seen_as(layer), length=tokens), tokens)

    def _outgrown(self, length: int) -> None:
        """A text past the target goes on as far as the methods are sound there.

        Raises:
            UserError: naming the rule that the first token too many breaks, or what was fitted for fewer.
        """
        for method, layer in self.checked:
            if method.fit is not None:
                raise UserError(
                    f"the text has {length} tokens, {method.id} was fitted and put on for {layer.target}",
                    f"Fit it for as many, with ropewalk fit and --to {length}.",
                )
        for tokens in (2 * length, length + 256, length):  # ahead, so that generating does not ask at every token
            try:
                for method, layer in self.checked:
                    self._check(method, layer, tokens)
                self.sound = tokens
                return
            except UserError as error:
                if tokens == length:
                    raise UserError(
                        f"the text has {length} tokens, the method was put on for {layer.target} and does not "
                        f"reach them: {error.message}",
                        f"Put it on for as many: to={length}.",
                    ) from None

    def begin(self, body: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Before the decoder's forward: take in positions, padding, documents and the state of the cache."""
        documents = keywords.pop("document_ids", None)
        given = dict(zip(self.names, arguments, strict=False)) | keywords
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        cache, positions = cache_argument.among(given), _of_text(given.get("position_ids"))
        if positions is not None and positions.is_floating_point() and not self.plain:
            raise UserError(
                f"position_ids are fractions ({positions.dtype}), and regions of positions count whole tokens",
                "Give whole positions, or leave out methods that set positions.",
            )
        past = 0 if cache is None else int(cache.get_seq_length())
        count = tokens.shape[1]
        if self.spread is not None:
            if past or positions is None or given.get("attention_mask") is not None:
                raise UserError(
                    "a part of a sequence is read with position_ids, and without a mask or a cache",
                    "Say documents in document_ids; padding is a document of its own.",
                )
            positions, count = self.spread.joined(positions), count * self.spread.count
            documents = None if documents is None else self.spread.joined(documents)
        self.cache = cache
        cache_owner.refuse_others(self._attended(cache), self.setting)
        mask = given.get("attention_mask")
        self.layout = Layout(
            past,
            count,
            _visible(mask, past + count),
            None if positions is None else _whole(positions.detach().cpu()),
            None if documents is None else documents.detach().cpu(),
            getattr(cache, "standing", None),
            self.plain,
        )
        if self.checked and self.layout.length > self.sound:
            self._outgrown(self.layout.length)
        for carrier in mask.values() if isinstance(mask, dict) else (mask,):
            if getattr(carrier, "ndim", 0) == 4:  # made by ``_mask`` before this forward pass
                setattr(carrier, LAYOUT, self.layout)
        layers = getattr(cache, "layers", [])
        fills = bool(given.get("use_cache", getattr(body.config, "use_cache", False)))
        self.caching = fills if cache is None else self.layout.cached is None
        if any(attached.ahead for attached in self.attached):
            if past:
                raise UserError(
                    f"the cache holds {past} tokens, expected none: in an encoder, those behind change what is in it",
                    "Read the text at once.",
                )
            self.caching = False
        self.static = any(getattr(layer, "is_compileable", False) for layer in layers)
        self.rolling = {i for i, layer in enumerate(layers) if getattr(layer, "is_sliding", False)}
        self.kept = {i: kept for i, layer in enumerate(layers) if (kept := getattr(layer, "kept", None)) is not None}
        self.held = {i: layer for i, layer in enumerate(layers) if hasattr(layer, "retain")}
        self._refuse_unread()
        cache_owner.reading.add(self.setting)
        for attached in self.attached:
            index = attached.layer.index
            attached.memo.begin(_stable_keys(layers[index]) if index < len(layers) else None, past)
            attached.attended = False
        return arguments, keywords

    def end(self, body: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        """After the decoder's forward, also after one that failed: its cache is this setting's; every layer came here.

        Raises:
            UserError: naming the layers that attended elsewhere, without rotation.
        """
        layout, given, self.layout, self.cache = self.layout, self.cache, None, None
        cache_owner.reading.discard(self.setting)
        if layout is None:  # it failed before it began
            return
        returned = dict(output if isinstance(output, Mapping) else enumerate(output or ()))
        elsewhere = [attached.layer.index for attached in self.attached if not attached.attended]
        setting = self.setting + ("" if layout.counted else ", at positions that do not count up from 0")
        for cache in (given, cache_argument.among(returned)):
            cache_owner.claim(self._attended(cache), setting)
        if elsewhere and output is not None:
            raise UserError(
                f"layers {elsewhere} of {type(body).__name__} did not attend through the function that the method "
                "registered; the result is not the method's",
                "Leave config._attn_implementation alone while a method is on.",
            )

    def _refuse_unread(self) -> None:
        """Refuse a cache of which no method says what stays, or that another picks keys from as if all were there.

        Raises:
            UserError: naming the layer.
        """
        for attached in self.attached:
            index, told = attached.layer.index, [getattr(method, "retains", False) for method in attached.choosing]
            if index in self.held and not (told and all(told)):
                raise UserError(
                    f"layer {index} of the cache keeps what one method tells it to, which {self.setting} is not",
                    "Leave out the cache, or put on the method that made it, by itself.",
                )

    def _attended(self, cache: Cache | None) -> list[Any]:
        """The layers of a cache that hold what attention reads."""
        layers = getattr(cache, "layers", [])
        return [layers[attached.layer.index] for attached in self.attached if attached.layer.index < len(layers)]

    def attend(
        self,
        attached: _Attached,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        scale: float,
        sliding: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention of one layer, [B, H, Q, Dv]."""
        spread, heads = self.spread, query.shape[1]
        if spread is not None:
            query, key, value = spread.to_heads(query), spread.to_heads(key), spread.to_heads(value)
            sinks = None if sinks is None else sinks[spread.heads(heads)]
        if query.shape[-2] != layout.queries:
            raise UserError(f"{query.shape[-2]} queries reached attention, {layout.queries} tokens went into the model")
        attached.attended = True
        kept = self.kept.get(attached.layer.index)
        self._refuse_unseen(attached.layer, key.shape[-2], layout, kept is not None or sliding is not None)
        view = layout.view(key.shape[-2], kept)
        turn = None if attached.rope is None else attached.rope.at(layout.length)
        if spread is not None and turn is not None and turn.inv_freq.ndim > 1:
            raise UserError(
                "heads rotate by frequencies of their own, and a process has some of the heads",
                "Leave out --sequence-parallel.",
            )
        if turn is not attached.turn:  # keys under the old frequencies are of no use
            attached.turn, attached.memo = turn, KeyMemo()
        caching = self.caching and not key.requires_grad
        own = None
        if layout.cached is not None and attached.rope is None and view.sliced:
            own = layout.cached.own(attached.layer.index, key, value)
        if own is not None:
            key, value = key.detach(), value.detach()
        slots = key
        if view.keys < key.shape[-2]:
            key, value = key[:, :, : view.keys], value[:, :, : view.keys]
        regions = self._regions_of(attached, sliding, layout.length)
        call = Call(
            self._tempered(attached, query, layout),
            key,
            value,
            regions if spread is None else spread.regions(regions, heads),
            layout,
            view,
            turn,
            attached.memo if caching else None,
            scale,
            backend_for(query, softcap),
            sinks,
            replace(attached.layer, sliding=sliding, length=layout.length),
            attached.choosing,
            own,
            self.held.get(attached.layer.index),
        )
        out = call.attend()
        if caching:
            attached.memo.end(slots)
        return out if spread is None else spread.to_tokens(out)

    def _refuse_unseen(self, layer: Layer, slots: int, layout: Layout, may_forget: bool) -> None:
        """Refuse keys that the cache which was seen does not account for.

        Raises:
            UserError: naming the layer, the keys that reached it and those expected.
        """
        fewer = may_forget or layer.chunk is not None or layer.index in self.rolling
        if slots == layout.total or (self.static and slots > layout.total) or (fewer and slots < layout.total):
            return
        raise UserError(
            f"layer {layer.index} was given {slots} keys, expected {layout.total}: {layout.past} that the cache held "
            f"and {layout.queries} new ones; the model reads from a cache that cannot be followed",
            "Pass one transformers.Cache to the model, or none; see README, Development, for the tested versions.",
        )

    def _regions_of(self, attached: _Attached, sliding: int | None, length: int) -> tuple[Region, ...]:
        """Regions of a layer; the same for layers that differ in nothing but their place."""
        place = attached.layer.index if self.regions_by_layer else -1
        name = attached.kind, sliding, length if self.varies else 0, place, attached.ahead
        if name not in self._regions:
            layer = replace(attached.layer, sliding=sliding, length=name[2])
            told = replace(layer, length=0)  # the window is told when attention is called
            regions: tuple[Region, ...] = PLAIN
            for method in self.methods if layer.extended else ():
                if method.sets_regions:
                    if sliding is not None or self.varies:
                        self._check(method, layer, length if self.varies else max(length, self.sound))
                        if sliding is not None and (method, told) not in self.checked:
                            self.checked.append((method, told))
                    seen = method.seen_as(layer)
                    regions = method.regions(Told.to(method, seen))
            if self.varies:  # those of other lengths are of no use
                self._regions = {known: made for known, made in self._regions.items() if known[2] == length}
            self._regions[name] = (
                self._both_ways(layer.clip(regions), max(length, self.sound)) if attached.ahead else layer.clip(regions)
            )
        return self._regions[name]

    def _both_ways(self, regions: tuple[Region, ...], tokens: int) -> tuple[Region, ...]:
        return soundness.mirrored("+".join(method.id for method in self.methods), regions, tokens)

    def _tempered(self, attached: _Attached, query: Tensor, layout: Layout) -> Tensor:
        """Queries times the temperatures of all methods."""
        kind = attached.layer if self.by_layer else attached.kind
        name = "temperature", kind, attached.rope, attached.ahead
        factor = layout.once(name, lambda: self._temperature(attached, layout.positions))
        if factor is None:
            return query
        if self.spread is not None and factor.shape[1] > 1:
            factor = factor[:, self.spread.heads(factor.shape[1])]
        precise = torch.promote_types(query.dtype, torch.float32)
        return (query * factor.to(query.device, precise)).to(query.dtype)

    def _temperature(self, attached: _Attached, m: Tensor) -> Tensor | None:
        """Product of all temperatures, [R, 1 or H, Q, 1], or None."""
        layer, rope = attached.layer, attached.rope
        seen = [(method, method.seen_as(layer)) for method in self.methods if layer.extended]
        found = [method.temperature(m, Told.to(method, one)) for method, one in seen]
        if rope is not None and rope.rotation is not None:
            found.append(rope.rotation.temperature(m))
        if attached.ahead and any(t is not None for t in found):
            raise UserError(
                f"{self.setting}: its temperature goes by how many tokens stand before a query, and in this encoder it "
                "sees those behind it too",
                "Choose a method without one.",
            )
        shaped = [(t if t.ndim == 3 else t[:, None])[..., None] for t in found if t is not None]
        return math.prod(shaped[1:], start=shaped[0]) if shaped else None


def _argument_names(body: nn.Module) -> list[str]:
    """Names of the arguments of a decoder's forward, in their order.

    Raises:
        UserError: if one is missing that the engine reads what it must know from.
    """
    names = list(inspect.signature(body.forward).parameters)
    missing = [name for name in ("attention_mask", "position_ids", "inputs_embeds") if name not in names]
    if missing:
        raise UserError(
            f"the forward of {type(body).__name__} has no argument {missing[0]!r}, expected one; padding and positions "
            "cannot be followed",
            "Methods of kind frequencies work on it: ropewalk methods",
        )
    return names


def _whole(positions: Tensor) -> Tensor:
    """Positions as int64, or float32 where they are fractions."""
    return positions.float() if positions.is_floating_point() else positions.long()


def _visible(mask: Any, total: int) -> Tensor | None:
    """Which tokens are no padding, bool [B, total] on the CPU, or None if all are.

    Raises:
        UserError: for masks that say more than that.
    """
    if isinstance(mask, dict):  # generate() asks for masks beforehand; they come from ``_mask``
        mask = next((carrier for carrier in mask.values() if carrier is not None), None)
    if mask is None:
        return None
    if mask.ndim == 4 and mask.shape[1:3] == (1, 1) and mask.dtype == torch.bool:
        mask = mask[:, 0, 0]
    if mask.ndim != 2:
        raise UserError(
            f"a mask of shape {list(mask.shape)} was given, expected one value per token, [batch, tokens]",
            "Pass a 2-D attention_mask; packed documents go in as document_ids.",
        )
    visible: Tensor = mask[:, :total].detach().cpu().bool()
    return None if bool(visible.all()) else visible


def _of_text(positions: Tensor | None) -> Tensor | None:
    """Positions [B, Q]; of M-RoPE's rows (time, height, width, and one of the text before them) the one that all say.

    Raises:
        UserError: if they differ, or are of another form.
    """
    if positions is None or positions.ndim == 2:
        return positions
    if positions.ndim != 3 or positions.shape[0] not in (3, 4):
        raise UserError(f"position_ids have the shape {list(positions.shape)}, expected [batch, tokens]")
    if not bool((positions == positions[:1]).all()):
        raise UserError(
            "position_ids hold other positions in time than in height or width (M-RoPE of a picture or a video), and "
            "what is computed at attention time knows one position per token",
            "Give it text alone; pictures are read under frequencies that are fixed, such as yarn's.",
        )
    return positions[0]


def _stable_keys(layer: Any) -> Tensor | None:
    """A cache layer's keys, if the tensor is only ever added to; static sliding windows are rolled in place."""
    keys = getattr(layer, "keys", None)
    rolled = getattr(layer, "is_sliding", False) and getattr(layer, "is_compileable", False)
    return None if rolled or not isinstance(keys, Tensor) or keys.ndim != 4 else keys


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    attached: _Attached | None = getattr(module, SLOT, None)
    if attached is None:
        raise UserError(f"{type(module).__name__} was not seen when the method was put on the model")
    if dropout:
        raise UserError(f"attention dropout is {dropout}, expected 0", "Set config.attention_dropout = 0.")
    if keywords.get("output_attentions"):
        raise UserError("attention weights are never held as a whole", "Leave out output_attentions.")
    if attention_mask is not None and attention_mask.shape[1:3] != (1, 1):
        raise UserError(f"layer {attached.layer.index} has a mask of its own, which regions do not know")
    strange = [name for name, value in keywords.items() if isinstance(value, Tensor) and name not in BESIDE]
    if strange:  # keys that an indexer picked, or whatever else decides who is seen
        raise UserError(f"layer {attached.layer.index} has {strange[0]!r} for its attention, which regions do not know")
    layout = getattr(attention_mask, LAYOUT, attached.engine.layout)
    if layout is None:
        raise UserError(
            f"layer {attached.layer.index} was reached without a call of the decoder, so that positions and cache are "
            "not known",
            "Call the module, model(...), not its forward(...).",
        )
    told = getattr(attention_mask, AHEAD, None)
    if told is not None and told != attached.ahead:
        raise UserError(
            f"layer {attached.layer.index} is {'no' if attached.ahead else 'a'} causal one by its attribute is_causal, "
            "and the model's mask says otherwise",
            "Leave is_causal as the model has it.",
        )
    if sliding_window is None and attached.layer.chunk is None:  # some models have their window in the mask alone
        sliding_window = getattr(attention_mask, WINDOW, None)
        if sliding_window is not None and attached.ahead:
            sliding_window += 1  # these masks show keys at that distance, those of causal models nearer ones
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves only values in half precision
    out = attached.engine.attend(attached, query, key, value, layout, scale, sliding_window, softcap, s_aux)
    return out.transpose(1, 2).contiguous(), None


def _mask(
    batch_size: int, *sizes: Any, attention_mask: Tensor | None = None, use_vmap: bool = False, **keywords: Any
) -> Tensor | None:
    """Padding, bool [B, 1, 1, tokens], or None; never a mask of queries by keys.

    It carries the layout of its forward pass, so that a layer that is computed again (gradient checkpointing) sees the
    one of its own forward, not of the latest. Four dimensions pass through generate() untouched.
    """
    if use_vmap:
        raise UserError("this model adds a mask function of its own, which regions do not know")
    engine = _ENGINES.get(id(keywords.get("config")))
    layout, window = None if engine is None else engine.layout, keywords.get("local_size")
    if attention_mask is None and layout is None and window is None:
        return None
    mask = torch.ones(batch_size, 1) if attention_mask is None else attention_mask
    carrier = mask.bool()[:, None, None, :]
    setattr(carrier, WINDOW, window)
    setattr(carrier, AHEAD, _shows_ahead(keywords.get("mask_function")))
    if layout is not None:
        setattr(carrier, LAYOUT, layout)
    return carrier


def _shows_ahead(mask_function: Callable[..., Any] | None) -> bool | None:
    """Whether a mask of the model's own shows the first query the second key; None if there is none to ask."""
    if mask_function is None:
        return None
    zero, one = torch.tensor(0), torch.tensor(1)
    return bool(mask_function(zero, zero, zero, one))


@contextmanager
def engaged(
    model: nn.Module,
    to: int | None,
    methods: Sequence[Attending] = (),
    rotations: Mapping[str, Rotation] | None = None,
    window: int | None = None,
) -> Iterator[None]:
    """Attend by ``methods``, at frequencies chosen at run time where ``rotations`` has some; put all back on leaving.

    With neither, nothing is touched.

    Args:
        model: a live transformers model.
        to: target length in tokens; None means the length that the configuration promises.
        methods: at most one that sets positions, and any number of temperatures.
        rotations: layer type -> frequencies by length.
        window: tokens that the frequencies in use are good for; None means what the configuration promises.

    Raises:
        UserError: if the model does not fit, or a method's options do not fit the model.
    """
    if not methods and not rotations:
        yield
        return
    with _on(model, Engine(methods, rotations or {}, window), to):
        yield


def engine_on(model: nn.Module) -> Engine | None:
    """What a model attends through at the moment; None if by itself."""
    return _ENGINES.get(id(decoder(model).config))


@contextmanager
def attending_plainly(model: nn.Module) -> Iterator[Engine]:
    """Attend as the model does, through the engine: with ``document_ids``, and caches that say where they stand.

    The model rotates by itself, and caches hold rotated keys. Where a method is on, nothing is touched: its engine
    takes documents and such caches already.

    Args:
        model: a live transformers model.

    Raises:
        UserError: if the model does not fit.
    """
    on = engine_on(model)
    if on is not None:
        yield on
        return
    with _on(model, Engine((), {}, None), None) as engine:
        yield engine


@contextmanager
def _on(model: nn.Module, engine: Engine, to: int | None) -> Iterator[Engine]:
    from transformers import AttentionInterface, AttentionMaskInterface

    selftest.once(model, engaged)
    body = decoder(model)
    config: Any = body.config
    with ExitStack() as stack:
        stack.enter_context(restored(model))  # types that recompute do so in every forward
        engine.attach(model, to, stack)
        if engine.turns:
            stack.enter_context(identity_rotary(model))
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _mask)
        stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
        config._attn_implementation = NAME
        if not hasattr(body, cache_owner.SETTING):  # static frequencies are on: caches are theirs, by any kernel
            setattr(body, cache_owner.SETTING, engine.setting)
            stack.callback(delattr, body, cache_owner.SETTING)
        _ENGINES[id(config)] = engine
        stack.callback(_ENGINES.pop, id(config))
        stack.callback(body.register_forward_pre_hook(engine.begin, with_kwargs=True).remove)
        stack.callback(body.register_forward_hook(engine.end, always_call=True).remove)
        yield engine
