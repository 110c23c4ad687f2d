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

COARSE = tuple(0.1 * i for i in range(2, 11))  # of tau; nine more lie between the two that are right
ROWS = 8  # queries whose attention is held at once


@dataclass(frozen=True)
class Temperature:
    """Means over the last queries of all layers, heads and texts are compared, at the target and at the window.

    Long texts are read at tau = 1 in all layers; temperatures are tried on the scores of that pass.

    Attributes:
        by: "entropy", or "max", the mean largest probability.
        queries: how many of the last queries are compared.
    """

    by: Literal["max", "entropy"] = "entropy"
    queries: int = 64

    def search(self, method: AttentionAlignment, ground: Ground) -> Found:
        """tau, from 0.2 to 1, interpolated between steps of 0.0125."""
        window, to = ground.window, ground.to
        if not 0 < self.queries <= window < to:
            raise UserError(
                f"{method.name}: queries is {self.queries}, the window is {window}, the target is {to}; expected "
                "queries <= window < target",
                "Say --to with a length beyond the window.",
            )
        texts = ground.texts(to)
        wanted = float(self._sharpness(ground, texts[:, :window], (1.0,)))
        taus, found = COARSE, self._sharpness(ground, texts, COARSE)
        sharp = self._sharp_enough(found, wanted)
        seen = f"mean {self.by} is {wanted:.4g} at {window} tokens, {float(found[-1]):.4g} at {to}"
        if bool(sharp[-1]):
            raise UserError(f"{method.name}: {seen}: as sharp as it is, so that tau = 1 and nothing is to be aligned")
        if not bool(sharp[0]):
            raise UserError(f"{method.name}: {seen}, {float(found[0]):.4g} with tau = 0.2; no tau does it")
        flat = float(found[-1])
        above = int((~sharp).long().argmax())  # the first tau that is too flat; the one before it is sharp enough
        taus = tuple(torch.linspace(taus[above - 1], taus[above], 9, dtype=torch.float64).tolist())
        found = self._sharpness(ground, texts, taus)
        above = int((~self._sharp_enough(found, wanted)).long().argmax())
        share = (wanted - found[above - 1]) / (found[above] - found[above - 1])
        tau = taus[above - 1] + float(share) * (taus[above] - taus[above - 1])
        return Found({"tau": tau}, texts, {f"{self.by} at {window}": wanted, f"{self.by} at {to}": flat})

    def _sharp_enough(self, found: Tensor, wanted: float) -> Tensor:
        return found <= wanted if self.by == "entropy" else found >= wanted

    @torch.no_grad()
    def _sharpness(self, ground: Ground, texts: Tensor, taus: tuple[float, ...]) -> Tensor:
        """Mean sharpness for every tau, float64."""
        measuring = _Measuring(by=self.by, queries=self.queries, taus=taus)
        with ground.with_method(measuring):
            for ids in texts.to(ground.model.device).split(1):
                ground.model(ids, use_cache=False)
        return torch.stack(measuring.found).mean(0)


@dataclass(frozen=True)
class _Measuring(AttentionMethod):
    """Changes nothing; notes how sharp the last queries attend at every tau."""

    by: Literal["max", "entropy"] = "entropy"
    queries: int = 64
    taus: tuple[float, ...] = (1.0,)
    found: list[Tensor] = field(default_factory=list)

    name: ClassVar[str] = "measuring"
    axes: ClassVar[frozenset[str]] = frozenset({SPARSITY})
    by_content: ClassVar[bool] = True

    def recall(self, text: Text) -> Iterator[Recalled]:
        sums = torch.zeros(len(self.taus), dtype=torch.float64)
        end = text.query.shape[2]
        for start in range(end - self.queries, end, ROWS):
            logs = probabilities(text, slice(start, min(start + ROWS, end))).log()
            for i, tau in enumerate(self.taus):
                scaled = logs / tau
                share = scaled.softmax(-1)
                entropy = scaled.logsumexp(-1) - (share * scaled.clamp_min(-1e4)).sum(-1)
                sums[i] += float((share.amax(-1) if self.by == "max" else entropy).double().sum())
        self.found.append(sums / (text.query[:, :, :, 0].numel() * self.queries / end))
        return iter(())
