"""Texts that are read whole by encoders whose positions end nowhere: a bias by distance has its last bin for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.encoders.encoder_method import Growing


@dataclass(frozen=True)
class Uncut(Growing):
    """Limits are raised to the target, and nothing else."""

    name: ClassVar[str] = "uncut"
    axis: ClassVar[str] = "limits"
