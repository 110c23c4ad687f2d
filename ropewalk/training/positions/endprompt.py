"""EndPrompt: a short text in one piece, and a cue at the very end of the target (github.com/clx1415926/EndPrompt)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.training.positions.training_positions import Ints, Picks, TrainingPositions, require_weight


@dataclass(frozen=True)
class EndPrompt(TrainingPositions):
    """Only near and very far distances are trained; between them is a gap.

    Attributes:
        cue: token ids of the sentence that ends every sample; must be given.
        anywhere: put the cue at a random place behind the text.
        cue_weight: of the loss of its tokens; the code has 1, the paper less, without saying how much.
    """

    cue: tuple[int, ...] = ()
    anywhere: bool = False
    cue_weight: float = 1.0

    name: ClassVar[str] = "endprompt"

    def __post_init__(self) -> None:
        check_cue(self)
        require_weight(self, "cue_weight")

    @classmethod
    def examples(cls) -> tuple[TrainingPositions, ...]:
        return cls(cue=(5, 6, 7)), cls(cue=(5, 6, 7), anywhere=True)

    def shortest(self, window: int, target: int) -> int:
        return 1

    def require(self, window: int, target: int) -> None:
        super().require(window, target)
        if window <= len(self.cue):
            raise UserError(f"{self.name}: a cue of {len(self.cue)} tokens leaves no text in samples of {window}")

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        text = np.arange(min(tokens, window - len(self.cue)))
        last = target - len(self.cue)
        start = int(rng.integers(len(text), last, endpoint=True)) if self.anywhere else last
        return with_cue(text, text, tokens, start, self.cue, self.cue_weight)


def check_cue(positions: TrainingPositions) -> None:
    """Refuse a cue that is no list of token ids; a list becomes a tuple.

    Raises:
        UserError: with a line that makes one.
    """
    try:
        cue = tuple(int(token) for token in positions.cue)
    except (TypeError, ValueError):
        cue = ()
    if not cue or min(cue) < 0:
        raise UserError(
            f"{positions.name}: cue is {positions.cue!r}, expected the token ids of a sentence that ends a sample",
            'cue=tokenizer(" The text ends here.", add_special_tokens=False).input_ids',
        )
    object.__setattr__(positions, "cue", cue)


def with_cue(index: Ints, position: Ints, tokens: int, start: int, cue: tuple[int, ...], weight: float) -> Picks:
    """Picks of a text of ``tokens`` tokens, and behind them the cue at ``start``."""
    ends = np.arange(len(cue))
    return Picks.of_text(
        np.concatenate([index, tokens + ends]),
        np.concatenate([position, start + ends]),
        np.repeat([1.0, weight], [len(index), len(cue)]),
    )
