"""CLEX: log-frequencies follow a learned flow in the scale (arXiv 2310.16450); here at one fixed scale.

As the official code has it, and published weights were trained, the NTK frequencies inside tanh are those of base
10,000, whatever base the model has; the flow starts from the model's own frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ZERO = "zero"
BASE = 10000.0  # of the NTK frequencies that the network sees


def rk4(slope: Callable[[float, Tensor], Tensor], z: Tensor, start: float, end: float, step: float) -> Tensor:
    """Integrate dz/dt = slope(t, z) from ``start`` to ``end`` by the classical Runge-Kutta method."""
    n = max(1, round((end - start) / step))
    h = (end - start) / n
    for i in range(n):
        t = start + i * h
        a = slope(t, z)
        b = slope(t + h / 2, z + h / 2 * a)
        c = slope(t + h / 2, z + h / 2 * b)
        z = z + h / 6 * (a + 2 * b + 2 * c + slope(t + h, z + h * c))
    return z


@dataclass(frozen=True)
class CLEX(FrequencyMethod):
    """d ln w / dt = tanh((ln w + ln w_ntk(t)) W_up) W_down + d ln w_ntk / dt, from t = 1 to ceil(target / window).

    w_ntk has the base 10,000 (2t - 1) ** (d / (d - 2)).

    Attributes:
        weights: safetensors file with ``up`` [d/2, k d] and ``down`` [k d, d/2], or "zero": NTK with alpha = 2t - 1.
        step: of the integration.
        max_factor: t goes no further, since weights were trained for no larger one: beyond so many windows frequencies
            stay as they are there. 16 in the official training.
    """

    weights: str = ""
    step: float = 0.01
    max_factor: int = 16

    name: ClassVar[str] = "clex"
    given: ClassVar[tuple[str, ...]] = ("weights",)
    how_given: ClassVar[str] = (
        "Give those that were trained with the model, clex(weights='FILE.safetensors'), or none: clex(weights='zero')"
    )

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(weights=ZERO),)

    def __post_init__(self) -> None:
        require_above(0, self, "step", "max_factor")

    def _parameters(self, half: int) -> tuple[Tensor, Tensor]:
        if self.weights == ZERO:
            return torch.zeros(half, 1, dtype=torch.float64), torch.zeros(1, half, dtype=torch.float64)
        if not Path(self.weights).is_file():
            raise UserError(f"clex: weights file {self.weights!r} does not exist")
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(self.weights)
        except SafetensorError as error:
            raise UserError(f"clex: {self.weights} is not a safetensors file: {error}") from None
        up, down = tensors.get("up"), tensors.get("down")
        if up is None or down is None or up.shape[0] != half or down.shape != up.shape[::-1]:
            shapes = {key: tuple(value.shape) for key, value in tensors.items()}
            raise UserError(f"clex: {self.weights} holds {shapes}, expected up [{half}, k] and down [k, {half}]")
        return up.double(), down.double()

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        d = rope.rotary_dim
        up, down = self._parameters(d // 2)
        # ln w_ntk(t) = -2i/d * ln 10000 - 2i/d * d/(d-2) * ln(2t - 1)
        even = torch.arange(0, d, 2, dtype=torch.float64)
        first, weight = -even / d * math.log(BASE), even / (d - 2)

        def slope(t: float, z: Tensor) -> Tensor:
            ntk = first - weight * math.log(2 * t - 1)
            return torch.tanh((z + ntk) @ up) @ down - weight * 2 / (2 * t - 1)

        end = float(min(math.ceil(rope.scale(target)), self.max_factor))
        return Frequencies(rk4(slope, rope.inv_freq.log(), 1.0, end, self.step).exp())
