"""TempScale: a softmax temperature below 1, against embeddings of long texts that grow alike (arXiv 2410.24200)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_method import LogitMethod

SMALLEST, LARGEST = 0.05, 20


@dataclass(frozen=True)
class TempScale(LogitMethod):
    """Logits of every layer over tau.

    The paper's best values are said to lie at 0.8 to 0.95 by model (not verified here); its code's own default is 1.

    Attributes:
        tau: temperature, 0.05 to 20; 1 is the plain model. Logits are of the order of 10: beyond, attention is a
            maximum or a mean, and half precision has no room for the projections.
    """

    tau: float = 0.9
    name: ClassVar[str] = "tempscale"

    @property
    def scale(self) -> float:
        return 1 / self.tau

    def check(self, window: int, to: int) -> None:
        if not (isinstance(self.tau, (int, float)) and SMALLEST <= self.tau <= LARGEST):
            raise UserError(
                f"tempscale: tau is {self.tau!r}, expected {SMALLEST} to {LARGEST}",
                "The paper's best values are 0.8 to 0.95: --method 'tempscale(tau=0.9)'.",
            )
