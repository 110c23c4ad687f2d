"""How a model in training reads long contexts: perplexity by position and pass keys, on the same texts and keys."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ropewalk.backends.nll import answer_match
from ropewalk.common import lengths
from ropewalk.common.statistics import Mean, Tally, average
from ropewalk.evaluation.perplexity import document_sums, perplexity, position_curve, position_edges
from ropewalk.evaluation.samples import spread_depths
from ropewalk.rope.config import trained_window
from ropewalk.tasks.passkey import Passkey
from ropewalk.tasks.task import TooShort
from ropewalk.texts.pieces import TokenUnits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Reading:
    """One measurement.

    Attributes:
        by_position: perplexity of the tokens at positions ``start <= t < end``.
        passkeys: length in tokens -> share of keys found.
        losses: mean loss of those tokens in each text, nats; to compare readings of the same texts by.
    """

    by_position: Mapping[tuple[int, int], Mean]
    passkeys: Mapping[int, Mean]
    losses: Mapping[tuple[int, int], Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LongContext:
    """What is measured.

    Attributes:
        documents: int64 [D, T]; with none, no perplexity is measured.
        units: of the model's tokenizer.
        to: T, tokens of the longest context.
        keys: pass keys per length: the window, its doubles, and the target, as far as these hold one.
        seed: of the keys.
    """

    documents: Tensor
    units: TokenUnits
    to: int
    keys: int = 10
    seed: int = 0

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], units: TokenUnits, to: int, used: int, **options: int) -> LongContext:
        """On the first ``to`` tokens of the first ``used`` texts, each at least so long."""
        rows = [list(ids[:to]) for ids in islice(texts, used)]
        return cls(torch.tensor(rows, dtype=torch.int64).reshape(-1, to), units, to, **options)

    def measure(self, model: PreTrainedModel) -> Reading:
        """Read the texts and ask for the keys; draws no number of anybody else's."""
        if not len(self.documents):
            return Reading({}, self._passkeys(model))
        edges = position_edges(self.to)
        sums = document_sums(model, self.documents, edges)
        by_position = {(one.start, one.end): perplexity(one.nll) for one in position_curve(sums, edges)}
        means = np.diff(sums, axis=1) / np.diff(edges)
        losses = {place: column.tolist() for place, column in zip(by_position, means.T, strict=True)}
        return Reading(by_position, self._passkeys(model), losses)

    def _passkeys(self, model: PreTrainedModel) -> dict[int, Mean]:
        found: dict[int, Mean] = {}
        for n in lengths.span(f"{min(trained_window(model.config), self.to)}..{self.to}") if self.keys else ():
            chance = random.Random(f"{self.seed}/{n}")
            try:
                asked = [Passkey().sample(n, chance, self.units, at) for at in spread_depths(self.keys, self.seed)]
            except TooShort:
                continue
            right = answer_match(model, [one.prompt for one in asked], [one.answer for one in asked])
            found[n] = average([Tally.of([[float(one)] for one, _ in right])])
        return found
