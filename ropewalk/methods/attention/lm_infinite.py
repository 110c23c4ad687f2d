"""LM-Infinite: the first tokens and the last W, no distance above W (arXiv 2308.16137)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ropewalk.attention.recall import Recalled, Text
from ropewalk.attention.regions import Layer, Region, zero
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.ranges import Range
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class LMInfinite(AttentionMethod):
    """Keys less than W away keep their distance; of the further ones, only the first tokens are seen, at distance W.

    The last query of each forward pass may also see, in each head, the ``recalled`` keys of the hidden middle whose
    product with it is largest, all at distance W / 2 (2048 of 4096 in the official code). Which query is the last one
    depends on where the text ends, so the losses of one forward would be those of a model that recalls nothing.

    Attributes:
        window: W in tokens; None means the trained window.
        sinks: how many of the first tokens stay visible; the paper uses 10 to 100.
        recalled: middle keys that the last query sees; 0 as in the paper's main results.
        recall_from_layer: first layer that recalls.
    """

    window: int | None = None
    sinks: int = 10
    recalled: int = 0
    recall_from_layer: int = 4

    name: ClassVar[str] = "lm-infinite"
    tunable: ClassVar[Mapping[str, Range]] = {
        "window": Range(1 / 4, 1, of="window", whole=True),
        "sinks": Range(1, 100, whole=True),
    }
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})

    def __post_init__(self) -> None:
        require_above(0, self, "window")
        require_above(-1, self, "sinks", "recalled", "recall_from_layer")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        return cls(), cls(window=w // 2, sinks=3, recalled=4, recall_from_layer=0)

    @property
    def by_content(self) -> bool:  # type: ignore[override]
        return self.recalled > 0

    @property
    def length_dependent(self) -> bool:  # type: ignore[override]
        return self.recalled > 0

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        w, g = self._window(layer), self.sinks
        near = Region(lo=lambda m: m - w + 1)
        first = Region(hi=lambda m: (m - w + 1).clamp(0, g), q_pos=lambda m: torch.full_like(m, w), k_pos=zero)
        return near, first

    def picks(self, layer: Layer) -> bool:
        return self.by_content and layer.index >= self.recall_from_layer

    def recall(self, text: Text) -> Iterator[Recalled]:
        w = self._window(self.seen_as(text.layer))
        end = text.length - w  # of the middle, for the last query
        if end <= self.sinks:
            return
        last = slice(text.query.shape[2] - 1, None)
        half = torch.full((1,), w // 2, device=text.key.device)
        query = text.turned(text.query[:, :, last], half).unflatten(1, (text.key.shape[1], -1))[:, :, :, 0]
        score = (query @ text.keys(text.regions[1])[:, :, self.sinks : end].mT).flatten(1, 2)
        index = self.sinks + score.topk(min(self.recalled, end - self.sinks)).indices
        yield Recalled(last, index, (half, torch.zeros_like(index[0, 0])))

    def check(self, layer: Layer) -> None:
        if self._window(layer) > layer.window:
            raise UserError(
                f"{self.name}: window is {self._window(layer)}, expected at most the {layer.window} trained tokens"
            )

    def _window(self, layer: Layer) -> int:
        return layer.window if self.window is None else self.window
