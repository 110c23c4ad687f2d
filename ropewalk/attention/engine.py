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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ropewalk.attention.backends import backend_for, per_query_head
from ropewalk.attention.cache import KeyMemo
from ropewalk.attention.kernel import Part, attend
from ropewalk.attention.layout import Group, Layout, View
from ropewalk.attention.regions import PLAIN, Layer, Map, Region, extended_layers
from ropewalk.attention.tiles import tiles
from ropewalk.errors import UserError
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import Rotary, decoder, in_float32, restored
from ropewalk.rope.probe import Rotating, identity_rotary, probe
from ropewalk.rope.rotation import rotate, tables
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from ropewalk.attention.base import AttentionMethod

NAME = "ropewalk"  # of the registered attention and mask functions
SLOT = "_ropewalk_layer"  # attribute of the attention modules while an engine is on


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
    """The frequencies of one rotary embedding, and when they last changed."""

    rotary: Rotary
    rotation: Rotation | None = None
    length: int = 0
    epoch: int = 0
    inv_freq: Tensor | None = None
    scale: float = 1.0
    _live: tuple[Tensor, int, float] | None = None

    def update(self, length: int) -> None:
        """Take the frequencies of this length; called before each layer's first use in a forward pass."""
        if self.rotation is None:
            now = self.rotary.inv_freq, self.rotary.inv_freq._version, self.rotary.attention_scaling
            if self._live is None or self._live[0] is not now[0] or self._live[1:] != now[1:]:
                self._live, self.inv_freq, self.scale = now, now[0].float(), now[2]
                self.epoch += 1
        elif length != self.length:
            self.length = length
            inv_freq, scale = self.rotation.at(length, self.rotary)
            if self.inv_freq is None or scale != self.scale or not torch.equal(inv_freq, self.inv_freq):
                self.inv_freq, self.scale = inv_freq, scale
                self.epoch += 1


@dataclass(eq=False)
class _Attached:
    """An attention layer with all that the engine knows of it."""

    engine: Engine
    layer: Layer
    how: Rotating
    rope: _Rope | None
    kind: int  # layers of a kind have the same regions
    memo: KeyMemo = field(default_factory=KeyMemo)
    epoch: int = -1


class Engine:
    """One method, or several that compose, on one model."""

    def __init__(self, methods: Sequence[AttentionMethod], rotations: Mapping[str, Rotation], window: int | None):
        self.methods, self.rotations, self.window = methods, rotations, window
        self.attached: list[_Attached] = []
        self.layout = Layout(0, 0)
        self.length = 0
        self.caching = False
        self.kept: dict[int, Tensor] = {}  # layer -> positions of the keys that an evicting cache still has
        self._regions: dict[tuple[int, int, int], tuple[Region, ...]] = {}
        self._of_forward: dict[tuple[Any, ...], Any] = {}  # tables and tiles that layers share

    def attach(self, model: nn.Module, to: int | None, stack: ExitStack) -> None:
        """Find the layers, check the methods against each, and mark the modules."""
        config: Any = decoder(model).config
        specs = rope_config.read(model.config)  # type: ignore[arg-type]
        types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        extended = extended_layers(config)
        kinds: dict[Layer, int] = {}
        ropes: dict[int, _Rope] = {}
        for how in probe(model):
            key = how.rotary.layer_type if how.rotary else types[how.index]
            promised = (specs.get(key) or next(iter(specs.values()))).length
            window = promised if self.window is None else self.window
            layer = Layer(
                index=how.index,
                window=window,
                target=max(to or promised, window),
                heads=how.heads,
                kv_heads=how.kv_heads,
                chunk=config.attention_chunk_size if types[how.index] == "chunked_attention" else None,
                extended=extended[how.index],
            )
            rope = None
            if how.rotary is not None:
                rope = ropes.setdefault(id(how.rotary), _Rope(how.rotary, self.rotations.get(key)))
            kind = kinds.setdefault(replace(layer, index=0), len(kinds))
            for method in self.methods if layer.extended else ():
                method.check(method.seen_as(layer))
            self.attached.append(_Attached(self, layer, how, rope, kind))
            setattr(how.module, SLOT, self.attached[-1])
            stack.callback(delattr, how.module, SLOT)

    # Once per forward pass

    def begin(self, body: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Before the decoder's forward: take in positions, documents and the state of the cache."""
        documents = keywords.pop("document_ids", None)
        given = inspect.signature(body.forward).bind_partial(*arguments, **keywords).arguments
        given = given | given.get("kwargs", {})
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        cache = given.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        positions = given.get("position_ids")
        if positions is not None and positions.ndim != 2:
            raise UserError(f"position_ids have {positions.ndim} dimensions, expected [batch, tokens]")
        self.layout = Layout(
            past,
            tokens.shape[1],
            None if positions is None else positions.detach().cpu().long(),
            None if documents is None else documents.detach().cpu(),
        )
        self._of_forward.clear()
        self.length = 0
        self.caching = cache is not None or bool(given.get("use_cache", getattr(body.config, "use_cache", False)))
        layers = getattr(cache, "layers", [])
        self.kept = {i: kept for i, layer in enumerate(layers) if (kept := getattr(layer, "kept", None)) is not None}
        for attached in self.attached:
            index = attached.layer.index
            layer = layers[index] if index < len(layers) else None
            attached.memo.begin(_stable_keys(layer), past)
        return arguments, keywords

    # Once per layer

    def attend(
        self,
        attached: _Attached,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        sliding: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention of one layer, [B, H, Q, Dv]."""
        view = self._view(mask, key.shape[-2], attached.layer.index)
        key, value, cached = key[:, :, : view.keys], value[:, :, : view.keys], key
        layer = replace(attached.layer, sliding=sliding, length=self.length)
        regions = self._regions_of(attached, layer)
        if attached.rope is not None:
            attached.rope.update(self.length)
            if attached.rope.epoch != attached.epoch:
                attached.memo, attached.epoch = KeyMemo(), attached.rope.epoch
        query = self._tempered(attached, layer, query)
        rotated = _Rotated(self, attached, regions, view, query, key)
        out = self._groups(rotated, view, value, scale, softcap, sinks)
        if self.caching:
            attached.memo.end(cached)
        return out

    def _view(self, mask: Tensor | None, n_keys: int, index: int) -> View:
        """Positions of the keys; also settles the length of this forward pass."""
        name = ("visible", id(mask))
        if name not in self._of_forward:
            visible = None if mask is None else mask[:, 0, 0, : self.layout.total].cpu().bool()
            visible = None if visible is None or bool(visible.all()) else visible
            self._of_forward[name] = visible, mask  # the mask is held so that its id stays its own
        visible = self._of_forward[name][0]
        if not self.length:
            self.length = int(self.layout.q_positions(visible).max()) + 1
        return self.layout.view(visible, n_keys, self.kept.get(index))

    def _regions_of(self, attached: _Attached, layer: Layer) -> tuple[Region, ...]:
        varies = any(method.length_dependent for method in self.methods)
        name = (attached.kind, layer.sliding or 0, self.length if varies else 0)
        if name not in self._regions:
            if varies:
                self._regions.clear()
            regions: tuple[Region, ...] = PLAIN
            for method in self.methods if layer.extended else ():
                if "positions" in method.axes or "visibility" in method.axes:
                    regions = method.regions(method.seen_as(layer))
            self._regions[name] = layer.clip(regions)
        return self._regions[name]

    def _tempered(self, attached: _Attached, layer: Layer, query: Tensor) -> Tensor:
        """Queries times the temperatures of all methods."""
        name = ("temperature", attached.kind, id(attached.rope))
        if name not in self._of_forward:
            m = self.layout.q_positions(self._visible())
            found = [t for method in self.methods if (t := method.temperature(m, method.seen_as(layer))) is not None]
            if attached.rope is not None and attached.rope.rotation is not None:
                found += [t for t in [attached.rope.rotation.temperature(m)] if t is not None]
            shaped = [(t if t.ndim == 3 else t[:, None])[..., None] for t in found if layer.extended]
            product = None
            for t in shaped:  # [R, 1 or H, Q, 1]
                product = t if product is None else product * t
            self._of_forward[name] = None if product is None else product.to(query.device)
        factor = self._of_forward[name]
        return (
            query
            if factor is None
            else (query * factor.to(torch.promote_types(query.dtype, torch.float32))).to(query.dtype)
        )

    def _visible(self) -> Tensor | None:
        return next((value[0] for name, value in self._of_forward.items() if name[0] == "visible"), None)

    def _groups(
        self, rotated: _Rotated, view: View, value: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
    ) -> Tensor:
        query = rotated.query
        backend = backend_for(query, softcap)
        out: Tensor | None = None
        for i, group in enumerate(view.groups):
            parts = self._parts(rotated, view, i, group)
            maps = sorted({(part.query, part.key) for part in parts})
            asked = {q: j for j, q in enumerate(sorted({q for q, _ in maps}))}
            met = {k: j for j, k in enumerate(sorted({k for _, k in maps}))}
            parts = [replace(part, query=asked[part.query], key=met[part.key]) for part in parts]
            queries = [_pick(rotated.queries(q), group.rows, group.queries) for q in asked]
            keys = [_pick(rotated.keys(k), group.rows, group.keys) for k in met]
            values = _pick(value, group.rows, group.keys)
            if any(part.heads is not None for part in parts):
                keys, values = [per_query_head(k, query) for k in keys], per_query_head(values, query)
            found = attend(parts, queries, keys, values, scale, backend, sinks)
            if group.is_everything:
                return found
            if out is None:
                out = query.new_zeros(*query.shape[:-1], value.shape[-1])
            out = _placed(out, found, group)
        return query.new_zeros(*query.shape[:-1], value.shape[-1]) if out is None else out

    def _parts(self, rotated: _Rotated, view: View, index: int, group: Group) -> list[Part]:
        """Tiles of all regions, with the indices of their maps."""
        name = ("parts", id(view), index, id(rotated.regions))
        if name not in self._of_forward:
            m, n = group.m, group.n.contiguous()
            parts: list[Part] = []
            for region in rotated.regions:
                lo, hi = (np.asarray(torch.searchsorted(n, bound(m))) for bound in (region.lo, region.hi))
                q, k = (
                    rotated.q_maps.index(_map(region.q_pos, region)),
                    rotated.k_maps.index(_map(region.k_pos, region)),
                )
                parts += [Part(q, k, tile, region.heads) for tile in tiles(lo, hi)]
            self._of_forward[name] = parts
        found: list[Part] = self._of_forward[name]
        return found


_MapName = tuple[Map, bool]


def _map(positions: Map, region: Region) -> _MapName:
    return positions, region.blend


class _Rotated:
    """Queries and keys of one layer under the maps of its regions, made when they are asked for."""

    def __init__(
        self, engine: Engine, attached: _Attached, regions: tuple[Region, ...], view: View, query: Tensor, key: Tensor
    ):
        self.engine, self.attached, self.regions, self.view = engine, attached, regions, view
        self.query, self.key = query, key
        self.q_maps = list(dict.fromkeys(_map(region.q_pos, region) for region in regions))
        self.k_maps = list(dict.fromkeys(_map(region.k_pos, region) for region in regions))
        self._done: dict[tuple[str, int], Tensor] = {}

    def queries(self, i: int) -> Tensor:
        """All queries under their i-th map, [B, H, Q, D]."""
        if ("q", i) not in self._done:
            positions = self.engine.layout.q_positions(self.engine._visible())
            self._done["q", i] = self._turn(self.query, self.q_maps[i], "q", positions, 0)
        return self._done["q", i]

    def keys(self, i: int) -> Tensor:
        """All keys under their i-th map, [B, Hkv, K, D]; those of earlier steps are not rotated again."""
        if ("k", i) not in self._done:
            name = self.k_maps[i]

            def turn(new: Tensor, have: int) -> Tensor:
                return self._turn(new, name, "k", self.view.positions[:, have:], have)

            if self.engine.caching and not self.key.requires_grad and self.attached.rope is not None:
                self._done["k", i] = self.attached.memo.rotated(name, self.key, turn)
            else:
                self._done["k", i] = turn(self.key, 0)
        return self._done["k", i]

    def _turn(self, x: Tensor, name: _MapName, side: str, positions: Tensor, have: int) -> Tensor:
        rope, how = self.attached.rope, self.attached.how
        if rope is None or rope.inv_freq is None:
            return x
        shared = self.engine._of_forward
        key = ("table", id(rope), rope.epoch, name, side, have, id(self.view))
        if key not in shared:
            mapped = name[0](positions).to(x.device)
            shared[key] = tables(mapped, rope.inv_freq, rope.scale, blend=name[1])
        cos, sin = shared[key]
        return rotate(x, cos, sin, how.style, how.place)


def _pick(x: Tensor, rows: Any, tokens: Any) -> Tensor:
    """Rows and tokens of [B, H, P, D]; a view where both are slices."""
    x = x[rows]
    return x[:, :, tokens]


def _placed(out: Tensor, found: Tensor, group: Group) -> Tensor:
    """``out`` with a group's rows and tokens filled in; out of place, so that gradients pass."""
    rows, tokens = (x if isinstance(x, Tensor) else torch.arange(n)[x] for x, n in _sized(out, group))
    return out.transpose(1, 2).index_put((rows[:, None], tokens[None]), found.transpose(1, 2)).transpose(1, 2)


def _sized(out: Tensor, group: Group) -> list[tuple[Any, int]]:
    return [(group.rows, out.shape[0]), (group.queries, out.shape[2])]


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
        raise UserError(
            f"a mask of shape {list(attention_mask.shape)} was given, expected one value per token, [batch, tokens]",
            "Pass a 2-D attention_mask; packed documents go in as document_ids.",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves only values in half precision
    out = attached.engine.attend(attached, query, key, value, attention_mask, scale, sliding_window, softcap, s_aux)
    return out.transpose(1, 2).contiguous(), None


def _mask(
    batch_size: int, *sizes: Any, attention_mask: Tensor | None = None, use_vmap: bool = False, **keywords: Any
) -> Tensor | None:
    """Padding, bool [B, 1, 1, tokens] (four dimensions pass through generate() untouched), or None."""
    if use_vmap:
        raise UserError("this model adds a mask function of its own, which regions do not know")
    return None if attention_mask is None else attention_mask.bool()[:, None, None, :]


@contextmanager
def engaged(
    model: nn.Module,
    to: int | None,
    methods: Sequence[AttentionMethod] = (),
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
    from transformers import AttentionInterface, AttentionMaskInterface

    if not methods and not rotations:
        yield
        return
    engine = Engine(methods, rotations or {}, window)
    body = decoder(model)
    config: Any = body.config
    with ExitStack() as stack:
        stack.enter_context(restored(model))  # types that recompute do so in every forward
        engine.attach(model, to, stack)
        stack.enter_context(identity_rotary(model))
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _mask)
        stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
        config._attn_implementation = NAME
        stack.callback(body.register_forward_pre_hook(engine.begin, with_kwargs=True).remove)
        yield
