"""Texts that are read as far as an encoder's positions go: to the last row of its table; a bias ends nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.encoders.encoder_method import Growing


@dataclass(frozen=True)
class Uncut(Growing):
    """Limits are raised, and nothing else: folders often cut long before the table of positions ends."""

    name: ClassVar[str] = "uncut"
    axis: ClassVar[str] = "limits"

    def check(self, window: int, to: int) -> None:
        """Nothing to refuse: limits are no more than what the encoder reads."""
