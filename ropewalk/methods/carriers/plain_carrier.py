"""A model without a rope as it comes, for comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ropewalk.methods.carriers.carrier_method import CarrierMethod, carrier_in
from ropewalk.methods.carriers.handed_slopes import HandedSlopes
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from torch import nn

    from ropewalk.carriers.carrier import Carrier


@dataclass(frozen=True)
class PlainCarrier(CarrierMethod):
    """Nothing is changed, whatever the length; but that MPT's biases, made for ``max_seq_len`` tokens, go on beyond."""

    name: ClassVar[str] = "none"

    def check(self, carrier: Carrier, to: int) -> int:
        return carrier.window or to

    def reads(self, model: nn.Module) -> int | None:
        return carrier_in(model).reads

    def acting(self, model: nn.Module, carrier: Carrier, to: int) -> Iterator[None]:
        if carrier.model_type != "mpt":
            yield
            return
        handed = HandedSlopes(decoder(model), carrier)
        handed.refuse_other()
        ones = torch.ones(carrier.heads, dtype=torch.float64)
        with handed.replaced(lambda lengths: ones.expand(len(lengths), -1)):
            yield
