"""How many tokens of a block each key head keeps, by one reading of some texts, for ``tca``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.attention.recall import Recalled, Text
from ropewalk.attention.regions import Layer, Region, same
from ropewalk.common.errors import UserError
from ropewalk.fitting.fitter import Found, Ground
from ropewalk.fitting.searching import SEEDS
from ropewalk.methods.attention.tca import TCA, Bounds, redundancy
from ropewalk.methods.attention.vertical_slash import probabilities

OBSERVED = 64  # queries that are compared
ALL = 2.0  # as a bound, keeps whole blocks: no cosine is larger


@dataclass(frozen=True)
class Budgets:
    """Per key head, the cheapest of some drawn (mu, sigma) whose error is tolerable; where none is, all is kept.

    The error is that of the last 64 queries' outputs, relative to full attention in all layers below; a mean over
    texts and, of the query heads that share a key head, the largest.

    Attributes:
        tolerance: of ||o_kept - o|| / ||o||.
        candidates: how many (mu, sigma) are drawn.
        seed: of the draw.
    """

    tolerance: float = 0.05
    candidates: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("tolerance", 0), ("candidates", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.seed >= SEEDS:
            raise UserError(f"seed is {self.seed}, expected 0 to {SEEDS - 1:,}", "Say --seed 1.")

    @torch.no_grad()
    def search(self, method: TCA, ground: Ground) -> Found:
        """The plan."""
        least = method.local + 3 * method.block + OBSERVED
        if ground.to < least:
            raise UserError(
                f"{method.name}: {ground.to} tokens to fit on, expected local + 3 block + {OBSERVED} = {least} or more",
                f"Say --to {least}, or smaller numbers: tca(block=16, local=64).",
            )
        texts = ground.texts(ground.to)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(self.candidates, 2, generator=generator, dtype=torch.float64)
        shapes = [(math.log2(method.block) * a, 0.5 + 1.5 * b) for a, b in drawn.tolist()]
        observing = _Observing(method.block, method.local, shapes=[distribution(method.budgets, *s) for s in shapes],
                               tolerance=self.tolerance, effective_window=method.effective_window)  # fmt: skip
        with ground.with_method(observing):
            ground.model(texts.to(ground.model.device), use_cache=False)
        heads = next(iter(observing.found.values()))
        whole = ((ALL,) * (len(method.budgets) - 1),) * len(heads)
        plan = tuple(observing.found.get(i, whole) for i in range(max(observing.found) + 1))
        thinned = sum(bounds != whole[0] for layer in plan for bounds in layer)
        if not thinned:
            raise UserError(
                f"{method.name}: no key head stays within a tolerance of {self.tolerance:g}, so that all is kept",
                "Tolerate more: --settings tolerance=0.2.",
            )
        kept = sum(sum(layer) for layer in observing.kept.values()) / sum(map(len, observing.kept.values()))
        seen = {"key heads": len(plan) * len(heads), "thinned": thinned, "kept of a block": kept / method.block}
        return Found({"plan": plan}, texts, seen)


def distribution(budgets: tuple[int, ...], mu: float, sigma: float) -> Tensor:
    """p_k = exp(-(log2 k - mu)^2 / 2 sigma^2), normalised, float64 [budgets]."""
    weight = (-((torch.tensor(budgets).double().log2() - mu) ** 2) / (2 * sigma**2)).exp()
    return weight / weight.sum()


@dataclass(frozen=True)
class _Observing(TCA):
    """Reads in full; finds every layer's bounds on the way, and how many tokens of a block they keep on average."""

    shapes: list[Tensor] = field(default_factory=list)
    tolerance: float = 0.0
    found: dict[int, tuple[Bounds, ...]] = field(default_factory=dict)
    kept: dict[int, list[float]] = field(default_factory=dict)

    measured = ()

    def check(self, layer: Layer) -> None:
        """Nothing to check: there is no plan yet."""

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        return (Region(k_pos=same),)

    def recall(self, text: Text) -> Iterator[Recalled]:
        group = text.query.shape[1] // text.key.shape[1]
        rows = slice(text.query.shape[2] - OBSERVED, None)
        seen = probabilities(text, rows)
        values = text.value.repeat_interleave(group, 1).to(seen.dtype)
        wanted = seen @ values
        first = self.first_local(torch.arange(text.past, text.length)[rows]).to(seen.device)
        n = text.arange(0, text.length)
        whole = (n >= first[:, None]) | (n < self.block)
        redundant = redundancy(text.key, self.block)
        blocks = redundant.mean(-1).transpose(0, 1).flatten(1)  # of all texts, [Hkv, blocks]
        best = [(float(self.block), (ALL,) * (len(self.budgets) - 1))] * text.key.shape[1]
        for shape in self.shapes:
            cost = float((shape * torch.tensor(self.budgets)).sum())
            at = (1 - shape.cumsum(0)[:-1]).clamp(0, 1).to(redundant)
            bounds = torch.quantile(blocks, at, dim=-1).T
            core = F.pad(self.core(redundant, bounds), (0, text.length % self.block))
            share = seen * (whole | core.repeat_interleave(group, 1)[:, :, None])
            got = share / share.sum(-1, keepdim=True) @ values
            off = ((got - wanted).square().sum(-1) / wanted.square().sum(-1)).sqrt().mean((0, 2))
            for head, error in enumerate(off.unflatten(0, (text.key.shape[1], -1)).amax(1).tolist()):
                if error <= self.tolerance and cost < best[head][0]:
                    best[head] = cost, tuple(bounds[head].tolist())
        self.found[text.layer.index] = tuple(bounds for _, bounds in best)
        self.kept[text.layer.index] = [cost for cost, _ in best]
        return iter(())
