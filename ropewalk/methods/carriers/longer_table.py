"""A decoder's table of positions made longer out of its own rows (arXiv 2310.14633, 2404.12096)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from ropewalk.carriers import table_rows
from ropewalk.common.errors import UserError
from ropewalk.common.outside import RESTORE
from ropewalk.methods.carriers.carrier_method import CarrierMethod, carrier_in
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from torch import Tensor

    from ropewalk.carriers.carrier import Carrier


@dataclass(frozen=True)
class LongerTable(CarrierMethod):
    """A table of T rows; rows before that of position 0 stay as they are."""

    def rows(self, window: int, to: int) -> Tensor:
        """Which row each position reads, float64 [to]; between two rows, both in proportion."""
        raise TypeError(f"{type(self).__name__} has no rows")

    def longer(self, pretrained: Tensor, carrier: Carrier, to: int) -> Tensor:
        """The table for ``to`` positions, [first + to, h], of the pretrained one, [first + L, h]."""
        first = carrier.family.first
        own = pretrained[first : first + self.check(carrier, to)]
        return torch.cat([pretrained[:first], table_rows.between_rows(own, self.rows(len(own), to))])

    def weights(self, carrier: Carrier, pretrained: Mapping[str, Tensor], to: int) -> dict[str, Tensor]:
        end = carrier.family.table
        tables = [name for name in pretrained if name.endswith(end)]
        if len(tables) != 1:
            raise UserError(f"the weights hold {len(tables)} tables of positions ({end}), expected one", RESTORE)
        return {tables[0]: self.longer(pretrained[tables[0]], carrier, to)}

    def reads(self, model: nn.Module) -> int | None:
        carrier = carrier_in(model)
        return len(_table(model, carrier).weight) - carrier.family.first

    def acting(self, model: nn.Module, carrier: Carrier, to: int) -> Iterator[None]:
        body, table = decoder(model), _table(model, carrier)
        bound = [name for name, one in body.named_buffers() if carrier.window in one.shape]
        if bound:
            raise UserError(
                f"buffer {bound[0]} of {type(body).__name__} is made for {carrier.window:,} tokens, so that a longer "
                "table alone does not make it read more",
                "Write a folder (ropewalk extend), and measure that as it is.",
            )
        own = table.weight
        table.weight = nn.Parameter(self.longer(own.detach(), carrier, to), requires_grad=False)
        try:
            yield
        finally:
            table.weight = own


def _table(model: nn.Module, carrier: Carrier) -> nn.Embedding:
    """The live table of positions."""
    body, end = decoder(model), carrier.family.table.removesuffix(".weight")
    found = [one for name, one in body.named_modules() if name.endswith(end) and isinstance(one, nn.Embedding)]
    if len(found) != 1:
        raise UserError(f"{type(body).__name__} has {len(found)} tables of positions ({end}), expected one")
    return found[0]


@dataclass(frozen=True)
class InterpolatedTable(LongerTable):
    """Position j reads row j / s, s = T / L."""

    name: ClassVar[str] = "pi"

    def rows(self, window: int, to: int) -> Tensor:
        return table_rows.interpolated(window, to)


@dataclass(frozen=True)
class GroupedTable(LongerTable):
    """Position j reads row floor(j L / T)."""

    name: ClassVar[str] = "grouped"

    def rows(self, window: int, to: int) -> Tensor:
        return table_rows.grouped(window, to)


@dataclass(frozen=True)
class RecurrentTable(LongerTable):
    """Position j reads row j mod L, so that a text of L tokens is read as before."""

    name: ClassVar[str] = "recurrent"

    def rows(self, window: int, to: int) -> Tensor:
        return table_rows.recurrent(window, to)
