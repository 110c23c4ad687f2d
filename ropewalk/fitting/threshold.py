"""The score that a cluster of a prefix's keys must exceed, one quantile over all layers and heads, for ``squeezed``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.recall import Recalled, Text
from ropewalk.common.errors import UserError
from ropewalk.fitting.fitter import Found, Ground
from ropewalk.methods.attention.squeezed import Squeezed, cluster_scores


@dataclass(frozen=True)
class Threshold:
    """The threshold above which so many of all keys do not score, by the prefix's last ``observed`` tokens.

    A key scores as its cluster does, on average over these tokens, in each layer and head; the quantile is over all
    keys, heads and layers.

    How long the prefix is, the method says, ``squeezed(prefix=1024)``. Without, it is what all texts start with; where
    that is too short to be clustered, or leaves nothing of the target behind it, half of the target. Where texts start
    with different tokens, many prefixes are looked at.

    Attributes:
        percentile: between 0 and 1; the paper uses 0.5 to 0.9.
    """

    percentile: float = 0.7

    @torch.no_grad()
    def search(self, method: Squeezed, ground: Ground) -> Found:
        """Prefix and threshold."""
        if not 0 < self.percentile < 1:
            raise UserError(f"{method.name}: percentile is {self.percentile}, expected a number between 0 and 1")
        shared = ground.shared()
        length = method.prefix or (shared if method.observed < shared < ground.to else ground.to // 2)
        if not 0 < method.observed < length < ground.to:
            raise UserError(
                f"{method.name}: the prefix has {length} tokens, observed is {method.observed}, the target is "
                f"{ground.to}, expected 0 < observed < prefix < target",
                f"Say --to {2 * method.observed + 2} or more, or a prefix: squeezed(prefix=1024).",
            )
        same = torch.tensor([ground.documents[0][:length]]) if shared >= length and len(ground.documents) > 1 else None
        texts = ground.texts(length) if same is None else same
        observing = _Observing(**vars(replace(method, prefix=length, threshold=0.0)))
        with ground.with_method(observing):
            for ids in texts.to(ground.model.device).split(1):
                ground.model(ids, use_cache=False)
        scores = torch.cat([score.flatten().cpu() for score in observing.scores]).numpy()
        seen = {"tokens that all texts start with": shared} if len(ground.documents) > 1 else {}
        threshold = float(np.quantile(scores, self.percentile))
        return Found({"prefix": length, "threshold": threshold}, texts, seen)


@dataclass(frozen=True)
class _Observing(Squeezed):
    """Reads the prefix in full and notes what its last queries give the keys, on average."""

    scores: list[Tensor] = field(default_factory=list, compare=False)

    def recall(self, text: Text) -> Iterator[Recalled]:
        queries = text.queries(text.regions[0])[:, :, self.clustered :]
        centroids, belongs = self.clusters_of(text)
        mean = cluster_scores(queries, centroids, belongs, text.scale).mean(2)
        self.scores.append(mean.gather(-1, belongs.repeat_interleave(mean.shape[1] // belongs.shape[1], 1)))
        return iter(())
