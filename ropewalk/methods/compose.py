"""One method out of several that decide different things."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ropewalk.attention.engine import engaged
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import AttentionMethod
from ropewalk.methods.base import Method, digest
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod, check_live
from ropewalk.methods.frequencies.none import Plain
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.rope import config as rope_config
from ropewalk.rope import live
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class _Joined(Method):
    """What a method of several says of itself."""

    parts: tuple[Any, ...]

    @property
    def id(self) -> str:
        return "+".join(part.id for part in self.parts)

    @property
    def spelling(self) -> str:
        return "+".join(part.spelling for part in self.parts)

    @property
    def unfitted(self) -> str:
        return "+".join(part.unfitted for part in self.parts)

    @property
    def axes(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(part.axes for part in self.parts))

    @property
    def exact_near(self) -> bool:  # type: ignore[override]
        return all(part.exact_near for part in self.parts)

    @property
    def length_dependent(self) -> bool:  # type: ignore[override]
        return any(part.length_dependent for part in self.parts)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return all(part.causal for part in self.parts)

    @property
    def target_free(self) -> bool:  # type: ignore[override]
        return all(part.target_free for part in self.parts)

    def require(self, model: nn.Module | PreTrainedConfig, to: int | None, whole: Method | None = None) -> None:
        for part in self.parts:
            part.require(model, to, whole or self)

    def begun(self) -> Method:
        return compose(*(part.begun() for part in self.parts))

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.installed(model))
            yield


@dataclass(frozen=True)
class ComposedFrequencies(_Joined, FrequencyMethod):  # type: ignore[override]
    """Frequencies of one part, refined and tempered by the others. Made by ``compose``."""

    parts: tuple[FrequencyMethod, ...]

    name: ClassVar[str] = "composed"

    @property
    def bare(self) -> Any:
        return ComposedFrequencies(tuple(part.bare for part in self.parts))

    @property
    def runtime(self) -> bool:  # type: ignore[override]
        return any(part.runtime for part in self.parts)

    @property
    def _source(self) -> FrequencyMethod:
        return next((part for part in self.parts if "frequencies" in part.axes), Plain())

    def at(self, rope: RopeSpec, target: int) -> Frequencies:
        found = self._source.at(rope, target)
        for part in self.parts:
            found = part.refine(found)
        return found

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return self.at(rope, target)

    def temperature(self, rope: RopeSpec, positions: Tensor) -> Tensor | None:
        values = [t for part in self.parts if (t := part.temperature(rope, positions)) is not None]
        return values[0] if values else None

    def frozen(self, rope: RopeSpec, target: int) -> FrequencyMethod | None:
        static = [part.frozen(rope, target) for part in self.parts]
        if any(part is None for part in static):
            return None
        return ComposedFrequencies(tuple(part for part in static if part is not None))

    def why_not_saved(self) -> str:
        return "; ".join(f"{part.id}: {part.why_not_saved()}" for part in self.parts if part.runtime)


@dataclass(frozen=True)
class Composed(_Joined):
    """Frequencies (or the model's own) under attention methods. Made by ``compose``.

    Where an attention method states an ``effective_window`` beyond the trained one, frequencies stretch the window to
    that length and the positions of the attention method do the rest; else both aim at the whole target.
    """

    frequencies: FrequencyMethod | None
    attention: tuple[AttentionMethod, ...]

    name: ClassVar[str] = "composed"

    @property
    def parts(self) -> tuple[Method, ...]:  # type: ignore[override]
        return (*(() if self.frequencies is None else (self.frequencies,)), *self.attention)

    @property
    def cache_exact(self) -> bool:  # type: ignore[override]
        return all(part.cache_exact for part in self.parts)

    def fingerprint(self, model: nn.Module, to: int, whole: Method | None = None) -> str:
        self.require(model, to, whole)
        reached = self._stretched(model) or to
        return digest(*(part.bare.fingerprint(model, reached) for part in self.parts), to)

    @contextmanager
    def applied(self, model: nn.Module, to: int | None) -> Iterator[None]:
        if self.frequencies is None:
            with engaged(model, to, self.attention):
                yield
            return
        check_live(model)
        with live.restored(model):
            window = self._stretched(model)
            rotations = self.frequencies.bare.written(model, window or to)
            with engaged(model, to, self.attention, rotations, window):
                yield

    def _stretched(self, model: nn.Module) -> int | None:
        """The length that frequencies are to reach, where that is not the target."""
        trained = rope_config.window_of(rope_config.read(model.config))  # type: ignore[arg-type]
        stated = [part.effective_window for part in self.attention if part.effective_window is not None]
        return max(stated) if stated and max(stated) > trained else None


@dataclass(frozen=True)
class ComposedMemory(_Joined):
    """A memory over a model with other frequencies. Made by ``compose``."""

    frequencies: FrequencyMethod
    memory: MemoryMethod

    name: ClassVar[str] = "composed"

    @property
    def parts(self) -> tuple[Method, ...]:  # type: ignore[override]
        return self.memory, self.frequencies

    @property
    def cache_exact(self) -> bool:  # type: ignore[override]
        return self.memory.cache_exact

    def costs(self, model: nn.Module) -> str:
        return self.memory.costs(model)

    def fingerprint(self, model: nn.Module, to: int, whole: Method | None = None) -> str:
        self.require(model, to, whole)
        return digest(*(part.bare.fingerprint(model, to) for part in self.parts), to)

    @contextmanager
    def applied(self, model: nn.Module, to: int | None) -> Iterator[None]:
        check_live(model)
        with live.restored(model):
            self.frequencies.bare.written(model, to)
            with self.memory.applied(model, to):
                yield


def compose(*methods: Method) -> Method:
    """Join methods on different axes into one; the order does not matter.

    Raises:
        UserError: if two methods decide the same thing, or a part cannot be joined.
    """
    parts = list(_flat(methods))
    if not parts:
        raise UserError("nothing to compose", "ropewalk methods")
    if len(parts) == 1:
        return parts[0]
    taken: dict[str, Method] = {}
    for part in parts:
        for axis in sorted(part.axes):
            if axis in taken:
                raise UserError(
                    f"{taken[axis].id} and {part.id} both set the {axis}, which one method decides",
                    "Choose one of them.",
                )
            taken[axis] = part
    setting = [part.id for part in parts if isinstance(part, AttentionMethod) and part.sets_regions]
    if len(setting) > 1:
        raise UserError(
            f"{' and '.join(setting)} both say which keys are seen where; one set of regions is all a softmax has",
            "Choose one of them.",
        )
    in_order = sorted(parts, key=lambda part: part.id)
    static = tuple(part for part in in_order if isinstance(part, FrequencyMethod))
    attention = tuple(part for part in in_order if isinstance(part, AttentionMethod))
    frequencies = static[0] if len(static) == 1 else ComposedFrequencies(static)
    if memories := [part for part in in_order if isinstance(part, MemoryMethod)]:
        return _over(memories[0], frequencies, attention)
    return Composed(frequencies if static else None, attention) if attention else frequencies


def _over(memory: MemoryMethod, frequencies: FrequencyMethod, attention: tuple[AttentionMethod, ...]) -> Method:
    """A memory over frequencies that are the same in every piece of a text."""
    engaging = [*attention, *([frequencies] if frequencies.runtime else [])]
    if engaging:
        raise UserError(
            f"{memory.id} reads a text in pieces of its own, and {engaging[0].id} changes what attention does with a "
            "whole one",
            "Join it with static frequencies, such as yarn or ntk-aware.",
        )
    return ComposedMemory(frequencies, memory)


def _flat(methods: Iterable[Method]) -> Iterable[Method]:
    for method in methods:
        if isinstance(method, (Composed, ComposedFrequencies, ComposedMemory)):
            yield from _flat(method.parts)
        elif isinstance(method, (FrequencyMethod, AttentionMethod, MemoryMethod)):
            yield method
        else:
            raise UserError(f"{method!r} is no method that can be composed", "ropewalk.method(NAME) makes one by name.")
