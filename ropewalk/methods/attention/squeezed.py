"""Squeezed Attention: of a fixed prefix, only the clusters of keys that a query asks for (arXiv 2411.09688)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.attention.recall import Recalled, Text, for_rows, members
from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ROWS = 64  # queries whose scores are held at once
POINTS = 4096  # keys whose distances to all centres are held at once


@dataclass(frozen=True)
class Squeezed(AttentionMethod):
    """Keys of a fixed prefix are clustered once; a query attends to those whose cluster scores above a threshold.

    The keys, rotated to where they stand and scaled to length 1, are clustered per layer and key head (k-means++,
    then Lloyd). A cluster's centroid is the mean of its keys as they are, and its score for a query its share of a
    softmax in which every key counts as its centroid. Keys of clusters that score above the threshold, the prefix's
    last ``observed`` tokens and all tokens behind the prefix are attended to exactly. The prefix itself is read in
    full. ``ropewalk fit`` measures the threshold; the first ``prefix`` tokens of any text are taken for its prefix.

    One level of clusters; the paper's second, coarser level only makes the lookup faster.

    Attributes:
        prefix: tokens of the fixed prefix.
        threshold: score that a cluster must exceed; one for all layers and heads.
        clusters: clusters per key, 0.05 in the paper.
        observed: last tokens of the prefix, which are not clustered.
        iterations: of Lloyd's algorithm, at most.
        seed: of k-means++.
    """

    prefix: int | None = None
    threshold: float | None = None
    clusters: float = 0.05
    observed: int = 100
    iterations: int = 300
    seed: int = 0

    name: ClassVar[str] = "squeezed"
    axes: ClassVar[frozenset[str]] = frozenset({VISIBILITY})
    measured: ClassVar[tuple[str, ...]] = ("prefix", "threshold")
    target_free: ClassVar[bool] = True
    by_content: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_above(-1, self, "observed", "threshold", "seed")
        require_above(0, self, "clusters", "iterations")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise UserError(f"{self.name}: threshold is {self.threshold}, expected at least 0 and below 1")
        if self.clusters > 1:
            raise UserError(f"{self.name}: clusters is {self.clusters}, expected at most 1 cluster per key")
        if self.prefix is not None and self.prefix <= self.observed:
            raise UserError(
                f"{self.name}: prefix is {self.prefix}, observed is {self.observed}, expected prefix > observed: the "
                "tokens before the observed ones are clustered"
            )

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        return (cls(prefix=w // 2, threshold=1 / w, clusters=0.25, observed=w // 8),)

    def check(self, layer: Layer) -> None:
        if self.prefix is not None and self.prefix >= layer.target:
            raise UserError(
                f"{self.name}: prefix is {self.prefix}, the target {layer.target} tokens, expected prefix < target: a "
                "prefix is read in full",
                f"Say --to with more than {self.prefix}.",
            )

    @property
    def clustered(self) -> int:
        """Keys that are clustered."""
        assert self.prefix is not None
        return self.prefix - self.observed

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        prefix, clustered = self.prefix or 0, self.clustered
        return (Region(lo=lambda m: torch.where(m < prefix, 0, clustered)),)

    def recall(self, text: Text) -> Iterator[Recalled]:
        assert self.prefix is not None and self.threshold is not None
        behind = max(0, self.prefix - text.past)  # the first query behind the prefix
        if behind >= text.query.shape[2]:
            return
        centroids, belongs = self.clusters_of(text)
        region = text.regions[0]
        group = text.query.shape[1] // text.key.shape[1]
        for start in range(behind, text.query.shape[2], ROWS):
            rows = slice(start, min(start + ROWS, text.query.shape[2]))
            kept = cluster_scores(text.queries(region)[:, :, rows], centroids, belongs, text.scale) > self.threshold
            of_key = belongs.repeat_interleave(group, 1)[:, :, None].expand(-1, -1, kept.shape[2], -1)
            shown = kept.gather(-1, of_key)
            index = members(shown.any(2))
            if index.shape[-1]:
                seen = shown.gather(-1, for_rows(index, text).clamp_min(0).expand(-1, -1, kept.shape[2], -1))
                yield Recalled(rows, index, region, seen)

    def clusters_of(self, text: Text) -> tuple[Tensor, Tensor]:
        """Centroids [B, Hkv, C, D] and the cluster of every clustered key, int64 [B, Hkv, clustered]."""
        assert self.prefix is not None
        if text.past < self.prefix:  # the prefix may be another one than in the pass before
            text.memory.pop("clusters", None)
        if "clusters" not in text.memory:
            keys = text.keys(text.regions[0])[:, :, : self.clustered]
            count = max(1, round(self.clusters * self.clustered))
            text.memory["clusters"] = clustered(keys, count, self.iterations, self.seed)
        found: tuple[Tensor, Tensor] = text.memory["clusters"]
        return found


def cluster_scores(queries: Tensor, centroids: Tensor, belongs: Tensor, scale: float) -> Tensor:
    """S_i = exp(q C_i) / sum_j N_j exp(q C_j), float32 at least.

    Args:
        queries: rotated, [B, H, Q, D].
        centroids: [B, Hkv, C, D].
        belongs: the cluster of every key, int64 [B, Hkv, keys]; N_j is how many keys cluster j has.
        scale: of the logits.

    Returns:
        [B, H, Q, C]; sum_i N_i S_i = 1.
    """
    sizes = torch.zeros(centroids.shape[:3], device=belongs.device, dtype=centroids.dtype)
    sizes.scatter_add_(-1, belongs, torch.ones_like(belongs, dtype=sizes.dtype))
    exact = torch.promote_types(queries.dtype, torch.float32)
    grouped = queries.to(exact).unflatten(1, (centroids.shape[1], -1))
    logits = grouped @ centroids.to(exact)[:, :, None].mT * scale
    total = (logits + sizes.to(exact).log()[:, :, None, None]).logsumexp(-1, keepdim=True)
    return (logits - total).exp().flatten(1, 2)


def clustered(keys: Tensor, count: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """k-means++ and Lloyd's algorithm on keys scaled to length 1.

    Args:
        keys: [B, Hkv, keys, D].
        count: clusters wanted; those that end up empty have a zero centroid.
        iterations: at most; fewer if nothing moves any more.
        seed: of the choice of starting points.

    Returns:
        Means of the keys as they are, float32 at least, [B, Hkv, count, D], and each key's cluster, int64
        [B, Hkv, keys].
    """
    exact = keys.to(torch.promote_types(keys.dtype, torch.float32))
    heads = [_k_means(F.normalize(x, dim=-1), count, iterations, seed) for x in exact.flatten(0, 1)]
    belongs = torch.stack(heads).unflatten(0, keys.shape[:2])
    return _means(exact, belongs, count), belongs


def _k_means(points: Tensor, count: int, iterations: int, seed: int) -> Tensor:
    """The cluster of every point [P, D], int64 [P]."""
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randint(len(points), (1,), generator=generator).to(points.device)]
    nearest = (points - centres).square().sum(-1)
    while len(centres) < count:  # far points are likely to become centres
        weight = nearest.cpu().double().cumsum(0)
        drawn = torch.rand((), generator=generator, dtype=torch.float64) * weight[-1]
        new = points[int(torch.searchsorted(weight, drawn, right=True).clamp_max(len(points) - 1))]
        centres = torch.cat([centres, new[None]])
        nearest = torch.minimum(nearest, (points - new).square().sum(-1))
    belongs = _nearest(points, centres)
    for _ in range(iterations):
        moved = _means(points[None], belongs[None], count)[0]
        sizes = belongs.bincount(minlength=count)
        centres = torch.where(sizes[:, None] > 0, moved, centres)  # empty clusters stay where they are
        again = _nearest(points, centres)
        if torch.equal(again, belongs):
            break
        belongs = again
    return belongs


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the centre next to each point; the first one among equals."""
    half = centres.square().sum(-1) / 2
    return torch.cat([(some @ centres.T - half).argmax(-1) for some in points.split(POINTS)])


def _means(x: Tensor, belongs: Tensor, count: int) -> Tensor:
    """Mean of each cluster's vectors: [..., P, D], [..., P] -> [..., count, D]; 0 where there is none."""
    sums = x.new_zeros(*x.shape[:-2], count, x.shape[-1]).scatter_add_(-2, belongs[..., None].expand_as(x), x)
    sizes = x.new_zeros(*x.shape[:-2], count).scatter_add_(-1, belongs, torch.ones_like(x[..., 0]))
    return sums / sizes.clamp_min(1)[..., None]
