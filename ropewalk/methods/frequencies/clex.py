"""CLEX: log-frequencies follow a learned flow in the scale (arXiv 2310.16450); here at one fixed scale."""

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

    w_ntk has the base b (2t - 1) ** (d / (d - 2)).

    Attributes:
        weights: safetensors file with ``up`` [d/2, k d] and ``down`` [k d, d/2], or "zero": NTK with alpha = 2t - 1.
        step: of the integration.
    """

    weights: str = ""
    step: float = 0.01

    name: ClassVar[str] = "clex"
    given: ClassVar[tuple[str, ...]] = ("weights",)
    how_given: ClassVar[str] = (
        "Give those that were trained with the model, clex(weights='FILE.safetensors'), or none: clex(weights='zero')"
    )

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(weights=ZERO),)

    def __post_init__(self) -> None:
        require_above(0, self, "step")

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
        # ln w_ntk(t) = ln w - 2i/d * d/(d-2) * ln(2t - 1)
        weight = torch.arange(0, d, 2, dtype=torch.float64) / (d - 2)
        start = rope.inv_freq.log()

        def slope(t: float, z: Tensor) -> Tensor:
            ntk = start - weight * math.log(2 * t - 1)
            return torch.tanh((z + ntk) @ up) @ down - weight * 2 / (2 * t - 1)

        return Frequencies(rk4(slope, start, 1.0, float(math.ceil(rope.scale(target))), self.step).exp())
