"""PoSE and EndPrompt together: chunks of a text with a jump, and a cue at the very end of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ropewalk.training.positions.endprompt import check_cue, with_cue
from ropewalk.training.positions.pose import in_chunks, require_chunks
from ropewalk.training.positions.training_positions import Picks, TrainingPositions, require_weight, require_whole


@dataclass(frozen=True)
class EndPromptPoSE(TrainingPositions):
    """The best of EndPrompt's own comparison: PoSE fills the gap that the cue leaves.

    Attributes:
        cue: token ids of the sentence that ends every sample; must be given.
        chunks: of the text, as in ``pose``.
        within: tokens are taken from the first ``within`` windows of a text.
        cue_weight: of the loss of the cue's tokens.
    """

    cue: tuple[int, ...] = ()
    chunks: int = 2
    within: int = 5
    cue_weight: float = 1.0

    name: ClassVar[str] = "endprompt-pose"

    def __post_init__(self) -> None:
        check_cue(self)
        require_whole(self, "chunks", 2)
        require_whole(self, "within", 1)
        require_weight(self, "cue_weight")

    @classmethod
    def examples(cls) -> tuple[TrainingPositions, ...]:
        return (cls(cue=(5, 6, 7)),)

    def shortest(self, window: int, target: int) -> int:
        return self.chunks

    def require(self, window: int, target: int) -> None:
        super().require(window, target)
        require_chunks(self, self.chunks, window - len(self.cue))

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        text, end = min(tokens, self.within * window), target - len(self.cue)
        n = min(text, window - len(self.cue))
        index, position = in_chunks(n, text, end, self.chunks, rng)
        return with_cue(index, position, tokens, end, self.cue, self.cue_weight)
