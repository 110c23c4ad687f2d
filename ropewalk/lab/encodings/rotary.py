"""RoPE: queries and keys turn with their positions (arXiv 2104.09864), by this package's frequencies beyond the window.

HiRoPE (arXiv 2403.19115) is a way of it: near tokens meet as ever; further off, fast pairs turn by the place of a token
in its segment, and slow pairs by the segment's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.kernels import backend_for
from ropewalk.attention.merge import Part, attend
from ropewalk.attention.tiles import tiles
from ropewalk.lab.encoding import Encoding, Standing, float_like
from ropewalk.methods.catalogue import method
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.rotation import rotate
from ropewalk.rope.spec import Frequencies, RopeSpec

BASE = 10_000.0
STATIC = ("pi", "ntk-aware", "ntk-by-parts", "yarn", "mr-rope", "llama3", "giraffe", "dprope", "cope", "drope")
HIROPE = "hirope"
NEAR, SEGMENT = 4, 16  # of a window: in the proportion of HiRoPE's 512 and 128 tokens


class Rotary(Encoding):
    """Pairs (i, i + d/2) turn by 10000^(-2i/d) radians per token."""

    ways: ClassVar[Sequence[str]] = (*STATIC, HIROPE)

    @property
    def rope(self) -> RopeSpec:
        """As it is trained."""
        return RopeSpec.plain(BASE, self.shape.head_width, self.shape.window)

    def frequencies(self) -> Frequencies:
        """As it is read."""
        if self.way not in STATIC:
            return Frequencies(self.rope.inv_freq)
        way = method(self.way)
        assert isinstance(way, FrequencyMethod)
        return way.at(self.rope, self.reach)

    def query(self, q: Tensor, standing: Standing) -> Tensor:
        return turned(q, standing.queries, self.frequencies())

    def key(self, k: Tensor, standing: Standing) -> Tensor:
        return turned(k, standing.positions, self.frequencies())

    def attended(self, q: Tensor, k: Tensor, v: Tensor, standing: Standing) -> Tensor:
        if self.way != HIROPE:
            return super().attended(q, k, v, standing)
        near, segment = max(self.shape.window // NEAR, 1), max(self.shape.window // SEGMENT, 1)
        i = np.arange(standing.past, len(standing.positions))
        behind = np.maximum(i - near + 1, 0)
        parts = [Part(0, 0, tile) for tile in tiles(behind, i + 1)]
        parts += [Part(1, 1, tile) for tile in tiles(np.zeros_like(i), behind)]
        pairs = torch.arange(self.shape.head_width // 2, device=q.device)
        fast = pairs < len(pairs) // 2

        def places(positions: Tensor, further: int) -> Tensor:
            within, number = positions[:, None] % segment, positions[:, None] // segment
            return torch.where(fast, within, number + further)

        frequencies = self.frequencies()
        far_q = turned(q, places(standing.queries, near - 1), frequencies)
        far_k = turned(k, places(standing.positions, 0), frequencies)
        queries, keys = [self.query(q, standing), far_q], [self.key(k, standing), far_k]
        return attend(parts, queries, keys, v, self.scale, backend_for(q, None))


def turned(x: Tensor, positions: Tensor, frequencies: Frequencies) -> Tensor:
    """``x`` [B, H, P, d] rotated at ``positions``, [P], or [P, d/2] where pairs have their own."""
    inv_freq = frequencies.inv_freq.to(x.device)
    angles = (positions if positions.ndim == 2 else positions[:, None]) * inv_freq
    cos, sin = (
        one.to(**float_like(x))[None, None] * frequencies.attention_factor for one in (angles.cos(), angles.sin())
    )
    return rotate(x, cos, sin, "half")
