"""The closed formulas that vLLM, SGLang and llama.cpp share, in float64 and apart from transformers' functions.

They say what the engines compute, also where that is not what a method means; the methods have their own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plain(base: float, rotary_dim: int) -> Tensor:
    """w_i = base ** (-2i/d), [d/2]."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim
    return torch.tensor(float(base), dtype=torch.float64) ** -exponents


def yarn_ramp(
    base: float, rotary_dim: int, original: int, fast: float = 32.0, slow: float = 1.0, truncate: bool = True
) -> Tensor:
    """Share of each frequency that YaRN keeps, linear in the index, [d/2]."""
    low, high = (
        rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (fast, slow)
    )
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    index = torch.arange(rotary_dim // 2, dtype=torch.float64)
    return 1 - ((index - low) / max(high - low, 0.001)).clamp(0, 1)


def yarn(
    base: float,
    rotary_dim: int,
    factor: float,
    original: int,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> Tensor:
    """YaRN's frequencies, [d/2]."""
    kept = yarn_ramp(base, rotary_dim, original, fast, slow, truncate)
    return plain(base, rotary_dim) * ((1 - kept) / factor + kept)


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """0.1 m ln s + 1, YaRN's attention factor for m = 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def llama3(base: float, rotary_dim: int, factor: float, low: float, high: float, original: int) -> Tensor:
    """Llama 3's frequencies: kept above ``high`` turns, divided below ``low``, blended by turns between, [d/2]."""
    w = plain(base, rotary_dim)
    kept = ((original * w / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return w * ((1 - kept) / factor + kept)


def ntk(base: float, rotary_dim: int, alpha: float) -> Tensor:
    """Plain frequencies of the base b alpha ** (d / (d - 2)), [d/2]."""
    return plain(base * alpha ** (rotary_dim / (rotary_dim - 2)), rotary_dim)


def longrope_magnitude(length: int, original: int) -> float:
    """sqrt(1 + ln(T/L) / ln L), 1 where T does not pass L."""
    return math.sqrt(1 + math.log(length / original) / math.log(original)) if length > original else 1.0
