"""Temperatures against dispersion: a softmax over more keys is flatter, so logits grow with the length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ropewalk.attention.regions import Layer
from ropewalk.methods.attention.attention_method import TEMPERATURE, AttentionMethod
from ropewalk.methods.base import require_above
from ropewalk.methods.ranges import Range


@dataclass(frozen=True)
class LogN(AttentionMethod):
    """Logits of the query at position m times max(1, ln(m + 1) / ln(L)) (arXiv 2202.12172)."""

    name: ClassVar[str] = "log-n"
    axes: ClassVar[frozenset[str]] = frozenset({TEMPERATURE})

    def temperature(self, m: Tensor, layer: Layer) -> Tensor:
        return (torch.log1p(m.double()) / math.log(layer.window)).clamp_min(1.0)


@dataclass(frozen=True)
class YaRNTemperature(AttentionMethod):
    """Logits times (a ln(s) + 1)^2, YaRN's temperature without its frequencies (arXiv 2309.00071).

    With ``growing``, s = (m + 1) / L of each query, as Qwen2.5-1M does it for the length of the moment
    (arXiv 2501.15383); else s = target / L for all.

    Attributes:
        coefficient: a.
        growing: whether s follows the query's position.
    """

    coefficient: float = 0.1
    growing: bool = False

    name: ClassVar[str] = "yarn-temperature"
    tunable: ClassVar[Mapping[str, Range]] = {
        "coefficient": Range(0.01, 1),
    }
    axes: ClassVar[frozenset[str]] = frozenset({TEMPERATURE})

    def __post_init__(self) -> None:
        require_above(0, self, "coefficient")

    def temperature(self, m: Tensor, layer: Layer) -> Tensor:
        reached = m.double() + 1 if self.growing else torch.full_like(m, layer.target, dtype=torch.float64)
        return (self.coefficient * (reached / layer.window).clamp_min(1.0).log() + 1) ** 2
