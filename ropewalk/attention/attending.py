"""What the engine asks of a method; ``methods.attention.attention_method`` is the base that answers by default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Protocol

from ropewalk.attention.regions import Layer, Region

if TYPE_CHECKING:
    from torch import Tensor

    from ropewalk.attention.recall import Recalled, Text

POSITIONS, VISIBILITY, TEMPERATURE, SPARSITY = "positions", "visibility", "temperature", "sparsity"


class Attending(Protocol):
    """A method as the engine sees it."""

    name: ClassVar[str]

    @property
    def id(self) -> str: ...

    @property
    def fit(self) -> object | None: ...

    @property
    def axes(self) -> frozenset[str]: ...

    @property
    def length_dependent(self) -> bool: ...

    @property
    def by_content(self) -> bool: ...

    @property
    def by_layer(self) -> bool: ...

    @property
    def far(self) -> bool: ...

    @property
    def sets_regions(self) -> bool: ...

    def regions(self, layer: Layer) -> tuple[Region, ...]: ...

    def temperature(self, m: Tensor, layer: Layer) -> Tensor | None: ...

    def picks(self, layer: Layer) -> bool: ...

    def recall(self, text: Text) -> Iterable[Recalled]: ...

    def keep(self, text: Text) -> Iterable[Recalled] | None: ...

    def check(self, layer: Layer) -> None: ...

    def seen_as(self, layer: Layer) -> Layer: ...
