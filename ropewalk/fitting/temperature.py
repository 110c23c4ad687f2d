"""The tau at which attention over a long text is as sharp as over a short one, for ``attention-alignment``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ropewalk.attention.recall import Recalled, Text
from ropewalk.common.errors import UserError
from ropewalk.fitting.fitter import Found, Ground
from ropewalk.methods.attention.align import AttentionAlignment
from ropewalk.methods.attention.attention_method import SPARSITY, AttentionMethod
from ropewalk.methods.attention.vertical_slash import probabilities

By = Literal["max", "entropy"]
GRID = torch.linspace(0.2, 1.0, 81, dtype=torch.float64)  # of tau
ROWS = 8  # queries whose attention is held at once


@dataclass(frozen=True)
class Temperature:
    """Means over the last queries of all layers, heads and texts are compared, at the target and at the window.

    The long text is read once, at tau = 1 in all layers; temperatures are tried on the scores of that pass.

    Attributes:
        by: "entropy", or "max", the mean largest probability.
        queries: how many of the last queries are compared.
    """

    by: By = "entropy"
    queries: int = 64

    def search(self, method: AttentionAlignment, ground: Ground) -> Found:
        """tau, by interpolation on a grid from 0.2 to 1."""
        window, to = ground.window, ground.to
        if not 0 < self.queries <= window < to:
            raise UserError(
                f"{method.name}: queries is {self.queries}, the window is {window}, the target is {to}; expected "
                "queries <= window < target",
                "Say --to with a length beyond the window.",
            )
        texts = ground.texts(to)
        wanted = float(self._sharpness(ground, texts[:, :window])[-1])
        found = self._sharpness(ground, texts)  # for every tau of the grid
        sharp = found <= wanted if self.by == "entropy" else found >= wanted
        seen = f"mean {self.by} is {wanted:.4g} at {window} tokens, {float(found[-1]):.4g} at {to}"
        if bool(sharp[-1]):
            raise UserError(f"{method.name}: {seen}: as sharp as it is, so that tau = 1 and nothing is to be aligned")
        if not bool(sharp[0]):
            raise UserError(
                f"{method.name}: {seen}, {float(found[0]):.4g} with tau = {float(GRID[0]):g}; no tau does it"
            )
        above = int((~sharp).long().argmax())  # the first tau that is too flat; the one before it is sharp enough
        share = (wanted - found[above - 1]) / (found[above] - found[above - 1])
        tau = float(GRID[above - 1] + share * (GRID[above] - GRID[above - 1]))
        return Found({"tau": tau}, texts, {f"{self.by} at {window}": wanted, f"{self.by} at {to}": float(found[-1])})

    @torch.no_grad()
    def _sharpness(self, ground: Ground, texts: Tensor) -> Tensor:
        """Mean sharpness for every tau of the grid, float64."""
        measuring = _Measuring(by=self.by, queries=self.queries)
        with ground.with_method(measuring):
            for ids in texts.to(ground.model.device).split(1):
                ground.model(ids, use_cache=False)
        return torch.stack(measuring.found).mean(0)


@dataclass(frozen=True)
class _Measuring(AttentionMethod):
    """Changes nothing; notes how sharp the last queries attend at every tau of the grid."""

    by: By = "entropy"
    queries: int = 64
    found: list[Tensor] = field(default_factory=list)

    name: ClassVar[str] = "measuring"
    axes: ClassVar[frozenset[str]] = frozenset({SPARSITY})
    by_content: ClassVar[bool] = True

    def recall(self, text: Text) -> Iterator[Recalled]:
        sums = torch.zeros_like(GRID)
        end = text.query.shape[2]
        for start in range(end - self.queries, end, ROWS):
            logs = probabilities(text, slice(start, min(start + ROWS, end))).log()
            for i, tau in enumerate(GRID.tolist()):
                scaled = (logs / tau).log_softmax(-1)
                sharp = scaled.amax(-1).exp() if self.by == "max" else -(scaled.exp() * scaled.clamp_min(-1e4)).sum(-1)
                sums[i] += float(sharp.double().sum())
        self.found.append(sums / (text.query[:, :, :, 0].numel() * self.queries / end))
        return iter(())
