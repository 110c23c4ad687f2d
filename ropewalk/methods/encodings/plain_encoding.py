"""A model without a rope as it comes, for comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ropewalk.methods.encodings.encoding_method import EncodingMethod, encoding_in
from ropewalk.methods.encodings.handed_slopes import HandedSlopes
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from torch import nn

    from ropewalk.encodings.encoding import Encoding


@dataclass(frozen=True)
class PlainEncoding(EncodingMethod):
    """Nothing is changed, whatever the length; but that MPT's biases, made for ``max_seq_len`` tokens, go on beyond."""

    name: ClassVar[str] = "none"

    def check(self, encoding: Encoding, to: int) -> int:
        return encoding.window or to

    def reads(self, model: nn.Module) -> int | None:
        return encoding_in(model).reads

    def acting(self, model: nn.Module, encoding: Encoding, to: int) -> Iterator[None]:
        if encoding.model_type != "mpt":
            yield
            return
        handed = HandedSlopes(decoder(model), encoding)
        handed.refuse_other()
        ones = torch.ones(encoding.heads, dtype=torch.float64)
        with handed.replaced(lambda lengths: ones.expand(len(lengths), -1)):
            yield
