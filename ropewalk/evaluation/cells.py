"""The samples of a retrieval task at one context length, the same for every method that is compared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ropewalk.evaluation.documents import token_ids
from ropewalk.evaluation.fingerprint import ids_fingerprint
from ropewalk.evaluation.tasks.base import Sample, Task
from ropewalk.evaluation.tasks.niah import NeedleInHaystack
from ropewalk.evaluation.tasks.passkey import Passkey
from ropewalk.evaluation.units import TokenUnits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Cell:
    """One task at one length; sample ``i`` depends on (seed, task, length, i) alone and is built when it is needed.

    Attributes:
        task: what is asked.
        length: prompt and answer have this many tokens together.
        depths: where the needed information of each sample stands, 0 to 1.
        seed: of the samples.
        units: the tokenizer's.
        hashes: sha256 of the token ids of each sample.

    Raises:
        TooShort: if ``length`` does not hold the fixed parts of the task.
    """

    task: Task
    length: int
    depths: tuple[float, ...]
    seed: int
    units: TokenUnits
    hashes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        samples = map(self.sample, range(len(self.depths)))
        object.__setattr__(self, "hashes", tuple(ids_fingerprint(one.prompt + one.answer) for one in samples))

    def sample(self, i: int) -> Sample:
        rng = random.Random(f"{self.seed}/{self.task.name}/{self.length}/{i}")
        return self.task.sample(self.length, rng, self.units, self.depths[i])


def grid_depths(depths: Sequence[float], repeats: int) -> tuple[float, ...]:
    """Every depth ``repeats`` times."""
    return tuple(depth for depth in depths for _ in range(repeats))


def spread_depths(n: int, seed: int) -> tuple[float, ...]:
    """``n`` depths that cover [0, 1] evenly: one drawn uniformly from each n-th of it."""
    rng = random.Random(f"{seed}/depths")
    return tuple((i + rng.random()) / n for i in range(n))


def retrieval_task(name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
    """The task called "passkey" or "niah"; needles are hidden in the language reference that Python ships."""
    if name == "passkey":
        return Passkey()
    from ropewalk.demo.corpus import topics

    haystack = tuple(token_ids(topics(), tokenizer))
    ends = frozenset(i for i in set(haystack) if str(tokenizer.decode([i])).rstrip().endswith((".", "!", "?")))
    return NeedleInHaystack(haystack, ends)
