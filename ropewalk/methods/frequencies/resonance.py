"""Resonance RoPE: whole-number wavelengths, so that positions past the window meet angles seen in it (2403.00071)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class Resonance(FrequencyMethod):
    """Round every wavelength to an integer; refines another method's frequencies (``resonance+yarn``) or the plain.

    Not a no-op inside the window: the fastest wavelength, 2 pi, becomes 6.
    """

    name: ClassVar[str] = "resonance"
    axes: ClassVar[frozenset[str]] = frozenset({"refinement"})
    exact_near: ClassVar[bool] = False

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return self.refine(Frequencies(rope.inv_freq))

    def refine(self, frequencies: Frequencies) -> Frequencies:
        wavelengths = (2 * math.pi / frequencies.inv_freq).round()
        return Frequencies(2 * math.pi / wavelengths, frequencies.attention_factor)
