"""One method out of several that decide different things."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ropewalk.contract import Method
from ropewalk.errors import UserError
from ropewalk.frequencies.base import FrequencyMethod
from ropewalk.frequencies.none import Plain
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class Composed(FrequencyMethod):
    """Frequencies of one part, refined and tempered by the others. Made by ``compose``."""

    parts: tuple[FrequencyMethod, ...]

    name: ClassVar[str] = "composed"

    @property
    def id(self) -> str:
        return "+".join(part.id for part in self.parts)

    @property
    def axes(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(part.axes for part in self.parts))

    @property
    def runtime(self) -> bool:  # type: ignore[override]
        return any(part.runtime for part in self.parts)

    @property
    def length_dependent(self) -> bool:  # type: ignore[override]
        return any(part.length_dependent for part in self.parts)

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
        return Composed(tuple(part for part in static if part is not None))

    def why_not_saved(self) -> str:
        return "; ".join(f"{part.id}: {part.why_not_saved()}" for part in self.parts if part.runtime)


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
    taken: dict[str, FrequencyMethod] = {}
    for part in parts:
        for axis in sorted(part.axes):
            if axis in taken:
                raise UserError(
                    f"{taken[axis].id} and {part.id} both set the {axis}; a model has one {axis}",
                    "Choose one of them.",
                )
            taken[axis] = part
    return Composed(tuple(sorted(parts, key=lambda part: part.id)))


def _flat(methods: Iterable[Method]) -> Iterable[FrequencyMethod]:
    for method in methods:
        if isinstance(method, Composed):
            yield from method.parts
        elif isinstance(method, FrequencyMethod):
            yield method
        else:
            raise UserError(f"{method!r} is no method that can be composed")
