"""Segmented sequences: pieces of a long text, at the positions that they have in it (arXiv 2310.14633)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.training.positions.training_positions import Picks, TrainingPositions, require_whole

Form = Literal["chunk", "prefix"]


@dataclass(frozen=True)
class Segmented(TrainingPositions):
    """Needs texts as long as the target. What stands right behind a gap could not be told, and has no loss.

    Attributes:
        form: "chunk": segments of equal length, every layout as likely; "prefix": one segment, and single tokens from
            anywhere before it, with a loss on the segment alone.
        segments: 1 / alpha of the paper; a segment is that part of the window.
    """

    form: Form = "chunk"
    segments: int = 4

    name: ClassVar[str] = "segmented"

    def __post_init__(self) -> None:
        require_whole(self, "segments", 2)
        if self.form not in get_args(Form):
            raise UserError(f"segmented: form is {self.form!r}, expected one of {', '.join(get_args(Form))}")

    @classmethod
    def examples(cls) -> tuple[TrainingPositions, ...]:
        return cls(), cls(form="prefix")

    def shortest(self, window: int, target: int) -> int:
        return target

    def require(self, window: int, target: int) -> None:
        super().require(window, target)
        if window % self.segments:
            raise UserError(
                f"{self.id}: a window of {window:,} tokens, expected a multiple of its {self.segments} segments"
            )

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        length = window // self.segments
        if self.form == "prefix":
            before = window - length
            start = int(rng.integers(before, target - length, endpoint=True))
            place = np.sort(rng.choice(start, before, replace=False, shuffle=False))
            place = np.concatenate([place, start + np.arange(length)])
            weight = np.arange(window) >= before
        else:
            places = rng.choice(target - window + self.segments, self.segments, replace=False, shuffle=False)
            starts = np.sort(places) + np.arange(self.segments) * (length - 1)
            place = (starts[:, None] + np.arange(length)).ravel()
            weight = np.ones(window, np.bool_)
        follows = np.diff(place, prepend=-1) == 1
        return Picks.of_text(place, place, weight & follows)
