"""The key heads whose rotated keys have the least matrix entropy, for ``dope``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import ClassVar

import torch
from torch import Tensor

from ropewalk.attention.recall import Recalled, Text
from ropewalk.common.errors import UserError
from ropewalk.fitting.fitter import Found, Ground
from ropewalk.methods.attention.attention_method import SPARSITY, AttentionMethod
from ropewalk.methods.attention.dope import DoPE
from ropewalk.rope.config import text_config


@dataclass(frozen=True)
class NoisyHeads:
    """Texts of the target length are read once; entropies are means over them. No score of any task is looked at.

    How many heads the paper takes, and of which rank, could not be verified.

    Attributes:
        share: of all key heads that rotate, those with the least entropy; one at least.
        rank: eigenvalues that count, the largest first; 0 means all. With few, H is small where all of them are, too.
    """

    share: float = 0.1
    rank: int = 0

    @torch.no_grad()
    def search(self, method: DoPE, ground: Ground) -> Found:
        """The heads."""
        if not (0 < self.share < 1 and self.rank >= 0):
            raise UserError(f"{method.name}: {self}, expected a share between 0 and 1, and a rank of 0 or more")
        texts, looking = ground.texts(ground.to), _Looking(rank=self.rank)
        with ground.with_method(looking):
            for done, ids in enumerate(texts.to(ground.model.device).split(1)):
                ground.model(ids, use_cache=False)
                ground.progress(done + 1, len(texts))
        mean = {layer: torch.stack(found).mean(0).tolist() for layer, found in looking.found.items()}
        ranked = sorted((entropy, layer, head) for layer, heads in mean.items() for head, entropy in enumerate(heads))
        if not ranked:
            raise UserError(f"{method.name}: no layer of this model rotates its keys, so that there is nothing to stop")
        chosen = {(layer, head) for _, layer, head in ranked[: max(1, int(self.share * len(ranked)))]}
        layers = range(text_config(ground.model.config).num_hidden_layers)
        heads = tuple(tuple(head for head in range(len(mean.get(i, ()))) if (i, head) in chosen) for i in layers)
        seen = {
            "key heads": len(ranked),
            "not rotated": len(chosen),
            "least effective rank": math.exp(ranked[0][0]),
            "largest effective rank among these": math.exp(ranked[len(chosen) - 1][0]),
            "median effective rank": math.exp(median(entropy for entropy, _, _ in ranked)),
        }
        return Found({"heads": heads}, texts, seen)


def matrix_entropy(keys: Tensor, rank: int = 0) -> Tensor:
    """H = -sum l ln l over the largest eigenvalues l of K'K / tr K'K; its exponential is the effective rank.

    Keys that are all zero have none: H = 0.

    Args:
        keys: [.., n, D].
        rank: how many eigenvalues; 0 means all.

    Returns:
        float64 [..].
    """
    keys = keys.double()
    gram = keys.mT @ keys
    shares = torch.linalg.eigvalsh(gram) / gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).clamp_min(1e-300)
    return torch.special.entr(shares.clamp_min(0)[..., -rank:]).sum(-1)


@dataclass(frozen=True)
class _Looking(AttentionMethod):
    """Changes nothing; notes the entropy of every key head, [Hkv], per layer and text."""

    rank: int = 0
    found: dict[int, list[Tensor]] = field(default_factory=dict)

    name: ClassVar[str] = "looking"
    axes: ClassVar[frozenset[str]] = frozenset({SPARSITY})
    by_content: ClassVar[bool] = True

    def recall(self, text: Text) -> Iterator[Recalled]:
        if text.turn is not None:
            entropy = matrix_entropy(text.keys(text.regions[0]), self.rank)
            self.found.setdefault(text.layer.index, []).append(entropy.mean(0).cpu())
        return iter(())
