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
    """The threshold that drops so many of all (query, cluster) scores of the prefix's last ``observed`` tokens.

    The prefix is what the method says, ``squeezed(prefix=1024)``: the first tokens of every text. Without, it is what
    all texts start with, and where that is less than can be clustered, half of the target.

    Attributes:
        percentile: between 0 and 1; the paper uses 0.5 to 0.9.
    """

    percentile: float = 0.7

    @torch.no_grad()
    def search(self, method: Squeezed, ground: Ground) -> Found:
        """Prefix and threshold."""
        if not 0 < self.percentile < 1:
            raise UserError(f"{method.name}: percentile is {self.percentile}, expected a number between 0 and 1")
        shared = min(ground.shared(), ground.to)
        length = method.prefix or (shared if shared > method.observed else ground.to // 2)
        if not 0 < method.observed < length:
            raise UserError(
                f"{method.name}: the prefix has {length} tokens, observed is {method.observed}, expected "
                "prefix > observed > 0: what is observed chooses the threshold for the rest",
                f"Say --to {2 * method.observed + 2} or more, or a prefix: squeezed(prefix=1024).",
            )
        heads = dict.fromkeys(tuple(document[:length]) for document in ground.documents if len(document) >= length)
        if not heads:
            longest = max(map(len, ground.documents), default=0)
            raise UserError(f"no text has {length:,} tokens, the longest has {longest:,}", "Give longer texts: --data.")
        texts = torch.tensor(list(heads)[: ground.samples])
        observing = _Observing(**vars(replace(method, prefix=length, threshold=0.0)))
        with ground.with_method(observing):
            for ids in texts.to(ground.model.device).split(1):
                ground.model(ids, use_cache=False)
        scores = np.concatenate([score.flatten().cpu().numpy() for score in observing.scores])
        threshold = float(np.quantile(scores, self.percentile))
        return Found({"prefix": length, "threshold": threshold}, texts, {"tokens that all texts start with": shared})


@dataclass(frozen=True)
class _Observing(Squeezed):
    """Reads the prefix in full and notes what its last queries give the clusters."""

    scores: list[Tensor] = field(default_factory=list, compare=False)

    def recall(self, text: Text) -> Iterator[Recalled]:
        queries = text.queries(text.regions[0])[:, :, self.clustered :]
        self.scores.append(cluster_scores(queries, *self.clusters_of(text), text.scale))
        return iter(())
