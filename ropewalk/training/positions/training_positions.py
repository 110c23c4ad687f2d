"""What every way to lay out training samples is: a frozen value that picks tokens of a text, and their positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import inf
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.common.naming import spelled

Ints = NDArray[np.int64]
Numbers = NDArray[np.int64] | NDArray[np.float64]
REDRAWN = 1000  # draws of a sample, of which one has a token with a loss


@dataclass(frozen=True, eq=False)
class Picks:
    """One training sample of N tokens, as tensors that are never derived from one another.

    Attributes:
        index: int64 [N], the tokens, by their place in the text; places beyond its end are those of the cue.
        position: int64 or float64 [N], where the model is told that they stand.
        document: int64 [N], tokens of different documents do not see each other.
        weight: float32 [N], of the loss of predicting the token; 0 where nothing before it could tell.
    """

    index: Ints
    position: Numbers
    document: Ints
    weight: NDArray[np.float32]

    @classmethod
    def of_text(cls, index: Ints, position: Numbers, weight: NDArray[Any] | float = 1.0) -> Picks:
        """Picks out of one document, whose first token has no loss.

        Args:
            index: int64 [N].
            position: int64 or float64 [N].
            weight: [N], or one for all.
        """
        weights = np.full(len(index), weight, np.float32)
        weights[0] = 0.0
        return cls(index, position, np.zeros(len(index), np.int64), weights)


class TrainingPositions:
    """Base of all; subclasses are frozen dataclasses whose fields are the options.

    Attributes:
        name: the id in the catalogue.
        rope: the model that is trained, "extended" to the target, or as it was "trained".
        skips: whether tokens stand elsewhere than their number in the sample says.
        cue: token ids that are put behind every text; picks count on into them.
    """

    name: ClassVar[str]
    rope: ClassVar[Literal["extended", "trained"]] = "extended"
    skips: ClassVar[bool] = True
    cue: tuple[int, ...] = ()

    @classmethod
    def examples(cls) -> tuple[TrainingPositions, ...]:
        """As tests build them, for windows of 64 tokens and targets of 4 windows; the usual form comes first."""
        return (cls(),)

    @property
    def id(self) -> str:
        """Canonical spelling: the name, and options that differ from their defaults, e.g. ``pose(chunks=3)``."""
        own: Any = self
        return spelled(self.name, {f.name: v for f in fields(own) if (v := getattr(self, f.name)) != f.default})

    def window_for(self, trained: int, target: int) -> int:
        """Tokens per sample unless the user says otherwise; ``trained`` is the model's pretrained window."""
        return trained

    def reach(self, window: int, target: int) -> int:
        """One more than the largest position that training meets."""
        return target

    def shortest(self, window: int, target: int) -> int:
        """The fewest tokens that a text must have."""
        return 2

    def require(self, window: int, target: int) -> None:
        """Refuse windows and targets that the options do not fit.

        Raises:
            UserError: naming both.
        """
        if not 2 <= window <= target:
            raise UserError(
                f"{self.id}: samples of {window:,} tokens for a target of {target:,}, expected 2 <= window <= target"
            )

    def for_step(self, window: int, target: int, rng: np.random.Generator) -> TrainingPositions:
        """The same with all fixed that is drawn once for a step, whose samples share it."""
        return self

    def pick(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        """Draw one sample; all chance comes from ``rng``.

        Args:
            tokens: of the text.
            window: tokens of a sample at most, the cue included.
            target: tokens of the context that is trained for.
            rng: seeded by the caller.

        Returns:
            Picks of one text, in its order; positions rise inside ``[0, target)``.

        Raises:
            UserError: if the text is too short, or window, target and options do not fit.
        """
        self.require(window, target)
        if tokens < (shortest := self.shortest(window, target)):
            raise UserError(
                f"{self.id}: a text of {tokens:,} tokens, expected {shortest:,} or more for samples of {window:,} "
                f"tokens that reach {target:,}",
                f'Leave short texts out: dataset.filter(lambda row: len(row["input_ids"]) >= {shortest}).',
            )
        picks = self.draw(tokens, window, target, rng)
        self._check(picks, tokens, window, target)
        return picks

    def pick_some(
        self, tokens: int, window: int, target: int, rng: np.random.Generator, some: Callable[[Picks], bool]
    ) -> Picks:
        """The first of many draws in which ``some`` token has a loss; arguments as of ``pick``."""
        for _ in range(REDRAWN):
            picks = self.pick(tokens, window, target, rng)
            if some(picks):
                break
        return picks

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        """What ``pick`` does once everything fits."""
        raise TypeError(f"{type(self).__name__} draws nothing")

    def _check(self, picks: Picks, tokens: int, window: int, target: int) -> None:
        index, position = picks.index, picks.position
        inside = np.diff(picks.document) == 0
        rules = {
            f"take more than {window:,} tokens": len(index) > window,
            "take a token twice, or out of order": bool((np.diff(index) <= 0).any()),
            "take tokens that are not there": not 0 <= index[0] <= index[-1] < tokens + len(self.cue),
            f"stand outside 0 .. {target - 1:,}": not 0 <= position.min() <= position.max() < target,
            "do not rise": bool((np.diff(position)[inside] <= 0).any()),
        }
        for what, broken in rules.items():
            if broken:
                raise UserError(f"{self.id}: the picks {what}; that is no way to train a causal model")


def require_whole(positions: TrainingPositions, option: str, least: int) -> None:
    """Refuse an option that is not a whole number of at least ``least``.

    Raises:
        UserError: naming the option and its value.
    """
    value = getattr(positions, option)
    if type(value) is not int or value < least:
        raise UserError(f"{positions.name}: {option} is {value!r}, expected a whole number from {least} on")


def require_weight(positions: TrainingPositions, option: str) -> None:
    """Refuse an option that is no weight of a loss.

    Raises:
        UserError: naming the option and its value.
    """
    value = getattr(positions, option)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < inf:
        raise UserError(f"{positions.name}: {option} is {value!r}, expected a number from 0 on")
