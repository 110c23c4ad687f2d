"""Position Interpolation of ALiBi: biases at the target's length are those of the window's (arXiv 2310.13017)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ropewalk.carriers.slopes import Form, divisors
from ropewalk.methods.carriers.carrier_method import CarrierMethod
from ropewalk.methods.carriers.handed_slopes import HandedSlopes
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from ropewalk.carriers.carrier import Carrier


@dataclass(frozen=True)
class AlibiInterpolation(CarrierMethod):
    """Slopes over s = T / L, or what ``form`` makes of s for each head.

    Attributes:
        form: linear (all over s), ntk (the steepest stays, the flattest over s), geometric (between, evenly).
        follow: s = n / L for each text's own length n, and 1 within the window, which leaves its bits as they are. What
            was cached at a shorter length stays as it was computed then.
    """

    form: Form = "linear"
    follow: bool = False

    name: ClassVar[str] = "alibi-pi"

    @property
    def length_dependent(self) -> bool:  # type: ignore[override]
        return self.follow

    def why_not_saved(self) -> str:
        why = "engines compute slopes in code, and no key of a checkpoint says them"
        if self.form == "geometric":
            why += "; llama.cpp alone reads these, as max_alibi_bias of MPT's GGUF file, which is not written here"
        return why

    def ratios(self, lengths: Tensor, carrier: Carrier, to: int) -> Tensor:
        """What the slopes of texts are multiplied by, float64 [B, H].

        Args:
            lengths: of the texts, with what is cached, int64 [B].
            carrier: of the model.
            to: T.
        """
        window = self.window(carrier)
        scales = [max(1.0, n / window) if self.follow else to / window for n in lengths.tolist()]
        return 1 / torch.tensor([divisors(carrier.heads, s, self.form) for s in scales], dtype=torch.float64)

    def acting(self, model: nn.Module, carrier: Carrier, to: int) -> Iterator[None]:
        handed = HandedSlopes(decoder(model), carrier)
        handed.refuse_other()
        with handed.replaced(lambda lengths: self.ratios(lengths, carrier, to)):
            yield
