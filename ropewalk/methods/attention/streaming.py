"""StreamingLLM: attention sinks and a recent window, in constant memory (arXiv 2309.17453)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, VISIBILITY, AttentionMethod
from ropewalk.methods.base import require_above
from ropewalk.methods.ranges import Range
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers.cache_utils import Cache


@dataclass(frozen=True)
class StreamingLLM(AttentionMethod):
    """The first S tokens and the last R are seen, at the places that they have in a cache of S + R slots.

    Recent keys keep their distance; a sink n is met at distance S + R - 1 - n once something lies between.

    Attributes:
        sinks: S.
        recent: R in tokens, the query's own among them; None means the trained window without the sinks.
    """

    sinks: int = 4
    recent: int | None = None

    name: ClassVar[str] = "streaming-llm"
    tunable: ClassVar[Mapping[str, Range]] = {
        "sinks": Range(1 / 512, 1 / 8, of="window", whole=True),
        "recent": Range(1 / 4, 7 / 8, of="window", whole=True),
    }
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})

    def __post_init__(self) -> None:
        require_above(-1, self, "sinks")
        require_above(0, self, "recent")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        s, r = self.sinks, self._recent(layer.window)
        near = Region(lo=lambda m: m - r + 1)
        first = Region(hi=lambda m: (m - r + 1).clamp(0, s), q_pos=lambda m: m.clamp_max(s + r - 1))
        return near, first

    def check(self, layer: Layer) -> None:
        recent = self._recent(layer.window)
        if recent < 1 or self.sinks + recent > layer.window:
            raise UserError(
                f"{self.name}: sinks + recent = {self.sinks} + {recent}, expected at most the {layer.window} trained "
                "tokens, at least one of them recent"
            )

    def _recent(self, window: int) -> int:
        return window - self.sinks if self.recent is None else self.recent

    def cache(self, model: nn.Module) -> Cache:
        """A cache that drops what no query will see again; memory stays constant however long the text becomes.

        Give it to ``model(..., cache=...)`` or ``model.generate`` while the method is on (``past_key_values`` before
        transformers 5.24).
        """
        from ropewalk.attention.sink_cache import sink_cache

        config: Any = model.config
        window = self.effective_window or rope_config.trained_window(config)
        return sink_cache(config.get_text_config(decoder=True), self.sinks, self._recent(window))
