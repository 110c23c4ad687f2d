"""Texts that go through the model together: read in pieces, joined with others, parted again.

Each row is padded on its left to the longest, and its last columns are its own, so that a row is known by its length
alone. Caches are lists of keys and values here; models that have another kind keep their own, and their texts stay
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ropewalk.attention import cache_argument, cache_owner
from ropewalk.attention.engine import SLOT
from ropewalk.attention.key_memo import KeyMemo
from ropewalk.backends.prefix import ROUNDING, TOLERANCE, RoomyLayer
from ropewalk.rope import live
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ropewalk.methods.base import Method
    from ropewalk.serving.profiles import Profile

States = list[tuple[Tensor, Tensor]]  # keys and values of every layer, [1, heads, tokens, dims]


@dataclass(frozen=True)
class Way:
    """What texts may do without changing each other's results.

    Attributes:
        pieces: be read in pieces, on top of a cache.
        joined: be decoded in one batch.
        shared: begin with keys and values that another text left.
        noted: the method remembers what it chose of each text, which goes with the text.
        new_cache: makes the method's own cache.
    """

    pieces: bool = False
    joined: bool = False
    shared: bool = False
    noted: bool = False
    new_cache: Callable[[], Cache] | None = None

    def __str__(self) -> str:
        """For whoever runs the server."""
        read = "in pieces" if self.pieces else "at once, so that others wait"
        decoded = "together" if self.joined else "one by one"
        kept = "kept" if self.shared else "not kept"
        return f"prompts are read {read}; answers are decoded {decoded}; beginnings are {kept}"


class Batch:
    """Texts in one cache.

    Args:
        model: in evaluation mode, its method on.
        way: what texts may do on it.
        cache: that holds them; None leaves it to the model to make one.
        lengths: tokens of each text that it holds.
        profile: the rotation that its texts are read with; None leaves the model's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        way: Way,
        cache: Cache | None,
        lengths: Sequence[int],
        profile: Profile | None = None,
    ):
        self.model, self.way, self.cache, self.lengths = model, way, cache, list(lengths)
        self.profile = profile
        attached = [one for module in model.modules() if (one := getattr(module, SLOT, None))]
        self._attached = attached if way.noted else []
        self._memos = [KeyMemo() for _ in self._attached]

    @classmethod
    def of(cls, model: PreTrainedModel, way: Way, room: int, texts: int = 1, profile: Profile | None = None) -> Batch:
        """A batch of texts of which nothing was read; each will have ``room`` tokens at the end."""
        cache = way.new_cache() if way.new_cache else _empty(model, room) if way.pieces else None
        return cls(model, way, cache, [0] * texts, profile)

    def read(self, texts: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Read the next tokens of every text, one or more: the same number, unless none was read before.

        Returns:
            float32 [texts, keep, vocabulary], the logits behind the last ``keep`` tokens.
        """
        more, device, past = max(map(len, texts)), self.model.device, max(self.lengths)
        self.lengths = [length + len(text) for length, text in zip(self.lengths, texts, strict=True)]
        columns = torch.arange(past + more)
        positions = columns - (past + more - torch.tensor(self.lengths))[:, None]
        for attached, memo in zip(self._attached, self._memos, strict=True):
            attached.memo = memo
        if self.profile is not None:
            live.put(self.profile.state)
        out = self.model(
            input_ids=torch.tensor([[0] * (more - len(text)) + list(text) for text in texts], device=device),
            attention_mask=(positions >= 0).long().to(device),
            position_ids=positions[:, past:].clamp_min(0).to(device),
            use_cache=True,
            logits_to_keep=keep,
            **cache_argument.as_argument(self.model, self.cache),
        )
        self._memos = [attached.memo for attached in self._attached]
        self.cache = cache_argument.of_output(out)
        logits: Tensor = out.logits[:, -keep:].float()
        return logits

    def begin(self, states: States) -> None:
        """Take keys and values of the first tokens of the one text that this is for, as this model read them."""
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            layer.update(keys, values)
        setting: str | None = getattr(decoder(self.model), cache_owner.SETTING, None)
        if setting is not None:
            cache_owner.claim(self._layers, setting)
        self.lengths = [states[0][0].shape[-2]]

    def states(self, row: int, start: int, end: int) -> States:
        """Copies of the keys and values of some tokens of a text."""
        left = max(self.lengths) - self.lengths[row]
        columns = slice(left + start, left + end)
        return [
            (layer.keys[row : row + 1, :, columns].clone(), layer.values[row : row + 1, :, columns].clone())
            for layer in self._layers
        ]

    @property
    def _layers(self) -> list[Any]:
        assert self.cache is not None
        return list(self.cache.layers)


def joined(texts: Sequence[tuple[Batch, int]], room: int) -> Batch:
    """One batch of texts out of several, each said by its batch and its row there.

    Args:
        texts: what to join, on one model, of one profile and in caches of one kind.
        room: tokens that the longest will have at the end.
    """
    lengths = [batch.lengths[row] for batch, row in texts]
    caches: list[tuple[Any, int]] = [(batch.cache, row) for batch, row in texts]
    of_layers = zip(*([(layer, row) for layer in cache.layers] for cache, row in caches), strict=True)
    layers: Any = [_joined(rows, lengths, room) for rows in of_layers]
    first = texts[0][0]
    return Batch(first.model, first.way, Cache(layers=layers), lengths, first.profile)


def _joined(rows: Sequence[tuple[Any, int]], lengths: list[int], room: int) -> DynamicLayer:
    width, like = max(lengths), rows[0][0]
    sliding = isinstance(like, DynamicSlidingWindowLayer)
    slots = min(width, like.sliding_window - 1) if sliding else width
    layer = DynamicSlidingWindowLayer(like.sliding_window) if sliding else RoomyLayer(max(room, width))
    padded = []
    for name in ("keys", "values"):
        _, heads, _, dims = getattr(like, name).shape
        states = getattr(like, name).new_zeros(len(rows), heads, slots, dims)
        for i, (source, row) in enumerate(rows):
            own = getattr(source, name)[row]
            last = min(lengths[i], slots, own.shape[-2])
            states[i, :, slots - last :] = own[:, own.shape[-2] - last :]
        padded.append(states)
    layer.update(*padded)
    if sliding:
        layer.cumulative_length = width  # type: ignore[attr-defined]
    cache_owner.inherit(layer, like)
    return layer


def _empty(model: PreTrainedModel, room: int) -> Cache:
    """A cache with buffers for ``room`` tokens: they never move, and growing copies nothing.

    Raises:
        TypeError: if the model's cache is no list of keys and values.
    """
    layers: list[Any] = []
    for layer in DynamicCache(config=model.config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise TypeError(type(layer).__name__)
        layers.append(RoomyLayer(room) if type(layer) is DynamicLayer else layer)
    return Cache(layers=layers)


def way_of(model: PreTrainedModel, method: Method, changes: bool, probe: Sequence[int]) -> Way:
    """What texts may do on a model with a method on it: what the method allows, as far as the model is seen to do it.

    Args:
        model: with the method on.
        method: which one.
        changes: whether the model rotates otherwise past some length.
        probe: the beginning of an ordinary text, 48 tokens or more.
    """
    cache: Any = getattr(method, "cache", None)
    parts = getattr(method, "parts", (method,))
    noted = any(getattr(part, "by_content", False) for part in parts)
    pieces = method.cache_exact and method.causal and not method.length_dependent and not changes
    plain = Way(noted=noted, new_cache=None if cache is None else lambda: cache(model))
    if not pieces:
        return plain
    ways = [replace(plain, pieces=True)]
    if cache is None and not noted and "chunked_attention" not in (getattr(_text(model), "layer_types", None) or ()):
        ways.insert(0, replace(plain, pieces=True, joined=True, shared=_shareable(model)))
    return next((way for way in ways if _holds(model, way, list(probe)[:48])), plain)


def _text(model: PreTrainedModel) -> Any:
    return model.config.get_text_config(decoder=True)


def _shareable(model: PreTrainedModel) -> bool:
    """Whether all layers keep all keys; layers with a window have forgotten those that a shorter beginning needs."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


@torch.no_grad()
def _holds(model: PreTrainedModel, way: Way, ids: list[int]) -> bool:
    """Whether a text that is read as ``way`` says, beside a shorter one, has the losses of one forward."""
    half, device = len(ids) // 2, model.device
    expected = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, half - 1 : -1].float()
    try:
        batch, other = Batch.of(model, way, len(ids)), Batch.of(model, way, len(ids))
        batch.read([ids[: half // 2]])
        if way.shared:
            states = batch.states(0, 0, half // 2)
            batch = Batch.of(model, way, len(ids))
            batch.begin(states)
        first = batch.read([ids[half // 2 : half]])[:, -1]
        other.read([ids[:3]])
        if way.joined:
            batch = joined([(other, 0), (batch, 0)], len(ids))
        found = [first, *(batch.read([[one]] * len(batch.lengths))[-1:, -1] for one in ids[half:-1])]
    except Exception:  # caches that are no list of keys and values fail in many ways
        return False
    targets = torch.tensor(ids[half:], device=device)
    losses = [torch.nn.functional.cross_entropy(x, targets, reduction="none") for x in (expected, torch.cat(found))]
    return bool((losses[0] - losses[1]).abs().mean() <= TOLERANCE.get(model.dtype, ROUNDING))
