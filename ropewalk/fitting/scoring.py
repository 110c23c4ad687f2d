"""What candidates of a search are told apart by: losses of far tokens, in texts that all of them read alike."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ropewalk.backends.nll import BATCH_TOKENS, token_nll
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import ROOMS, code_fingerprint, model_fingerprint
from ropewalk.common.statistics import LARGEST
from ropewalk.common.store import Record, content_key
from ropewalk.fitting.slope import COST, slope
from ropewalk.methods.base import Method
from ropewalk.methods.compose import compose
from ropewalk.tasks.niah import NeedleInHaystack

if TYPE_CHECKING:
    from ropewalk.fitting.fitter import Ground
    from ropewalk.methods.frequencies.frequency_method import FrequencyMethod

PIECES = 16  # of a text's far tokens; what is compared
NEEDLE_WITHIN = 0.3  # of the text: the needle stands near the start (LongRoPE2, arXiv 2502.20082)

Losses = NDArray[np.float64]


@dataclass(eq=False)
class Scoring:
    """Losses of methods on rows of the target length, each read once: what was read before comes out of the store.

    Attributes:
        ground: model, store and other methods.
        rows: int64 [D, T]. Of needles, the last tokens are the answer.
        scored: how many of a row's last tokens count.
        firsts: rows whose first windows are the short texts; None: the same rows.
        read: tokens of every reading, now or before, by its key in the store.
        back: tokens of those that were gone back through, for gradients.
        brought: keys of losses that came with a gradient.
    """

    ground: Ground
    rows: Tensor
    scored: int
    firsts: Tensor | None = None
    read: dict[str, int] = field(default_factory=dict, init=False)
    back: dict[str, int] = field(default_factory=dict, init=False)
    brought: set[str] = field(default_factory=set, init=False)

    @classmethod
    def of_texts(cls, ground: Ground, texts: Tensor) -> Scoring:
        """The tokens of the second half count: what a model reads behind far more than it was trained to."""
        return cls(ground, texts, texts.shape[1] // 2)

    @classmethod
    def of_needles(cls, ground: Ground, texts: Tensor, seed: int | str) -> Scoring:
        """Only the answers' tokens count: a code that was hidden near the start is asked for at the end.

        Raises:
            UserError: without a tokenizer, or where texts do not hold a needle.
        """
        if ground.units is None:
            raise UserError("needles cannot be planted without a tokenizer")
        chance, rows = random.Random(f"needles/{seed}"), []
        for text in texts.tolist():
            task = NeedleInHaystack(tuple(text[len(ground.bos) :]), start=0)
            sample = task.sample(ground.to, chance, ground.units, NEEDLE_WITHIN * chance.random())
            rows.append((sample.prompt, sample.answer))
        least = min(len(answer) for _, answer in rows)
        return cls(ground, torch.tensor([[*prompt, *answer] for prompt, answer in rows]), least)

    def every_other(self) -> Scoring:
        """Half of the rows, and the short texts of all."""
        return replace(self, rows=self.rows[::2], firsts=self.rows)

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return self.ground.model.dtype

    @property
    def tokens(self) -> int:
        """Of all readings; a backward pass costs what two more do."""
        return sum(self.read.values()) + (COST - 1) * sum(self.back.values())

    @property
    def of_gradients(self) -> int:
        """Of these, of the readings that were gone back through."""
        return COST * sum(self.back.values())

    @cached_property
    def _where(self) -> dict[str, object]:
        """All that a loss depends on, but for the method and the row."""
        beside = "+".join(other.id for other in self.ground.others)
        model, code = model_fingerprint(self.ground.model), code_fingerprint((*ROOMS, "training", "fitting"))
        return {"model": model, "code": code, "beside": beside, "to": self.ground.to}

    def far(self, method: Method, row: int) -> Losses:
        """Mean losses of a row's far tokens, in nats, piece by piece: [up to 16]."""
        return self._losses(method, self.rows[row : row + 1], self.scored, min(PIECES, self.scored))[0]

    def whole(self, method: Method) -> Losses:
        """Mean loss of every text's far tokens, in nats: [D]."""
        return np.array([self.far(method, row).mean() for row in range(len(self.rows))])

    def near(self, method: Method) -> Losses:
        """Mean loss of each text's first window, read by itself, in nats: [D]."""
        short = self._short
        return np.concatenate(
            [self._losses(method, some, short.shape[1] - 1, 1)[:, 0] for some in short.split(self._together)]
        )

    def far_slope(self, method: FrequencyMethod, rows: Sequence[int]) -> Losses:
        """How the mean loss of some rows' far tokens changes with every log frequency and the log attention factor.

        Float64 [d/2 + 1]. The losses themselves are read on the way.
        """
        return self._slopes(method, [self.rows[row] for row in rows], self.scored, min(PIECES, self.scored))

    def near_slope(self, method: FrequencyMethod, rows: Sequence[int]) -> Losses:
        """The same of some first windows."""
        return self._slopes(method, [self._short[row] for row in rows], self._short.shape[1] - 1, 1)

    @property
    def _short(self) -> Tensor:
        return (self.rows if self.firsts is None else self.firsts)[:, : self.ground.window]

    @property
    def _together(self) -> int:
        return max(1, BATCH_TOKENS // self.ground.window)

    def _losses(self, method: Method, ids: Tensor, keep: int, pieces: int) -> Losses:
        """Mean losses of the pieces of each row's last tokens: [rows, pieces]. Only these are kept."""
        key = self._key(method, ids, keep, pieces)
        if key not in self.brought:
            self.read[key] = ids.numel()
        if (known := self.ground.records.get([key]).get(key)) is None:
            with self.ground.with_method(method):
                losses = token_nll(self.ground.model, ids, keep=keep)
            whole = losses.nan_to_num(LARGEST, LARGEST).clamp(max=LARGEST).double().cpu().numpy()
            means = np.stack([part.mean(1) for part in np.array_split(whole, pieces, axis=1)], 1)
            known = {"losses": means.tolist()}
            self.ground.records.put({key: known})
        return _kept(known, "losses", len(ids), pieces)

    def _slopes(self, method: FrequencyMethod, rows: Sequence[Tensor], keep: int, pieces: int) -> Losses:
        worker, workers = self.ground.turn
        first = worker * len(rows) // workers  # what others read meanwhile is in the store
        by = [self._slope(method, row, keep, pieces) for row in (*rows[first:], *rows[:first])]
        return np.mean([*by[len(by) - first :], *by[: len(by) - first]], axis=0)

    def _slope(self, method: FrequencyMethod, row: Tensor, keep: int, pieces: int) -> Losses:
        """By log frequencies and log attention factor, [d/2 + 1]; the losses are kept as those of a reading."""
        plan = method.plan(self.ground.model.config, self.ground.to)
        key = self._key(method, row[None], keep, pieces)
        back, size = f"{key}/slope", next(iter(plan.values())).inv_freq.numel() + 1
        self.read[back] = self.back[back] = row.numel()
        self.brought.add(key)
        if (known := self.ground.records.get([back]).get(back)) is None:
            with self.ground.with_method(method):
                losses, by = slope(self.ground.model, row, keep, pieces, plan)
            known = {"slope": [by.tolist()]}
            self.ground.records.put({key: {"losses": [losses.tolist()]}, back: known})
        return _kept(known, "slope", 1, size)[0]

    def _key(self, method: Method, ids: Tensor, keep: int, pieces: int) -> str:
        return content_key({**self._where, "method": method.id, "ids": ids.tolist(), "keep": keep, "pieces": pieces})


def _kept(record: Record, name: str, rows: int, columns: int) -> Losses:
    """Numbers as they were kept.

    Raises:
        UserError: if something else was.
    """
    try:
        numbers = np.array(record[name], np.float64)
    except (KeyError, TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.shape != (rows, columns) or not np.isfinite(numbers).all():
        raise UserError(
            f"a candidate's {name} {'is' if name == 'slope' else 'are'} kept as {str(record)[:60]}, expected "
            f"{rows} x {columns} numbers",
            "Remove the file of candidates beside the one that is to be written (its name ends in .candidates).",
        )
    return numbers


def require_causal(methods: Sequence[Method]) -> None:
    """Refuse methods whose losses tell nothing.

    Raises:
        UserError: if one reads tokens that come later.
    """
    for method in methods:
        if not compose(method).causal:
            raise UserError(
                f"{method.id} sees tokens that come later, so that its losses tell nothing",
                "Let its queries choose one by one, where it has an option for that: longcache(block=1).",
            )
