"""LongGen: full attention in the middle third of the layers, partial contexts in all others (arXiv 2410.01485).

The paper makes layers sparse while a model is trained to a longer window, from both ends, and raises the base of the
rope for it; here that is another method beside this one, ``abf+longgen``. Its sizes of window, sinks and blocks are not
known to us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.memory.trained_memory import MEMORY, TrainedMemory
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from transformers.cache_utils import Cache


@dataclass(frozen=True)
class LongGen(TrainedMemory, AttentionMethod):
    """Sparse layers see the first S tokens and the last W, full ones everything; all keys at their true distance.

    With ``pattern='blocks'`` a sparse layer also sees every ``stride``-th block of ``block`` tokens, up to the target.
    Every weight of the base is trained; the method adds none.

    Attributes:
        full: share of the layers that attend to everything, those in the middle.
        sinks: S.
        window: W in tokens, the query's own among them; None means the trained window.
        pattern: "window", or "blocks".
        block: tokens of a block.
        stride: blocks from one that is seen to the next.
    """

    full: float = 1 / 3
    sinks: int = 4
    window: int | None = None
    pattern: Literal["window", "blocks"] = "window"
    block: int = 64
    stride: int = 8

    name: ClassVar[str] = "longgen"
    axes: ClassVar[frozenset[str]] = frozenset({VISIBILITY, MEMORY})
    by_layer: ClassVar[bool] = True
    target_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(-1, self, "sinks")
        require_above(0, self, "window", "block")
        require_above(1, self, "stride")
        if not 0 <= self.full < 1:
            raise UserError(f"{self.name}: full is {self.full}, expected a share of the layers below 1")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        some = cls(full=0.5, sinks=2, window=w // 4)
        return some.begun(), replace(some, pattern="blocks", block=w // 8, stride=2).begun()

    def learns(self, name: str) -> bool:
        return True

    def is_full(self, index: int, layers: int) -> bool:
        """Whether a layer of a model of so many attends to everything."""
        full = round(self.full * layers)
        first = (layers - full) // 2
        return first <= index < first + full

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        if self.is_full(layer.index, layer.layers):
            return (Region(),)
        s, w = self.sinks, self._window(layer.window)

        def ending(last: int) -> Callable[[Tensor], Tensor]:
            return lambda m: (m - w + 1).clamp(0, last)

        near, first = Region(lo=lambda m: m - w + 1), Region(hi=ending(s))
        between = [Region(lo=_always(start), hi=ending(end)) for start, end in self._blocks(layer.target)]
        return near, first, *between

    def check(self, layer: Layer) -> None:
        if layer.layers and round(self.full * layer.layers) == layer.layers:
            raise UserError(
                f"{self.name}: full is {self.full:g} of {layer.layers} layers, and leaves none to be sparse"
            )
        if self._window(layer.window) > layer.window:
            raise UserError(f"{self.name}: window is {self.window}, expected at most the {layer.window} trained tokens")

    def _window(self, trained: int) -> int:
        return trained if self.window is None else self.window

    def _blocks(self, target: int) -> list[tuple[int, int]]:
        """First key and end of every block that sparse layers see, behind the sinks."""
        if self.pattern == "window":
            return []
        starts = range(self._step - self.block, target, self._step)
        return [(max(start, self.sinks), start + self.block) for start in starts if start + self.block > self.sinks]

    @property
    def _step(self) -> int:
        return self.block * self.stride

    def cache(self, model: nn.Module) -> Cache:
        """A cache whose sparse layers drop what no query will see again; full layers keep everything.

        Give it to ``model(..., cache=...)`` or ``model.generate`` while the method is on (``past_key_values`` before
        transformers 5.24).
        """
        from ropewalk.attention.sink_cache import sparse_cache

        config: Any = model.config
        text = config.get_text_config(decoder=True)
        window = self._window(self.effective_window or rope_config.trained_window(config))

        def stays(positions: Tensor) -> Tensor:
            first = positions < self.sinks
            return first if self.pattern == "window" else first | (positions % self._step >= self._step - self.block)

        sparse = [not self.is_full(i, text.num_hidden_layers) for i in range(text.num_hidden_layers)]
        return sparse_cache(text, window, stays, sparse)


def _always(start: int) -> Callable[[Tensor], Tensor]:
    return lambda m: torch.full_like(m, start)
