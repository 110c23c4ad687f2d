"""M-RoPE++: the axes of M-RoPE are rescaled apart, time not at all (arXiv 2412.12735)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.ntk import ntk_base, rebased
from ropewalk.rope import architecture
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import AXES, Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class MRoPEPlusPlus(FrequencyMethod):
    """Pairs of time stay, so that frames next to each other are told apart; those of height and width are stretched.

    The authors train with it, and the code that they published is not their formula. In the code, height and width have
    the base b ((T - 1) / (L - 1)) ** (d / (d - 2)). In the paper, width is divided by s = T / L, and height goes over
    from 1 to that by its turns, as in NTK-by-parts; its last case is lost in the copy that was read, and taken to go on
    where the case before it ends. Time has the fast pairs where axes are laid out one after the other (Qwen2-VL,
    Qwen2.5-VL); where they take turns (Qwen3-VL), slow pairs of time are extrapolated too, and no measurement of that
    is known.

    Attributes:
        form: "code" or "paper".
        ntk_factor: share of the other base in the pairs of height, the rest being w / s; of the code.
        section: pairs for time, height and width, one after the other, of a model whose tokens have one position; none
            means the model's own.
    """

    form: Literal["code", "paper"] = "code"
    ntk_factor: float = 1.0
    section: tuple[int, ...] = ()

    name: ClassVar[str] = "mrope-pp"

    def __post_init__(self) -> None:
        if not 0 <= self.ntk_factor <= 1:
            raise UserError(f"{self.name}: ntk_factor is {self.ntk_factor!r}, expected a share from 0 to 1")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        rope = rope_config.full_attention(rope_config.starting_specs(config))[0]
        if rope.axes:
            return cls(), cls(form="paper")
        time, pairs = rope.rotary_dim // 8, rope.rotary_dim // 2
        section = time, (pairs - time) // 2, pairs - time - (pairs - time) // 2
        return cls(section=section), cls(form="paper", section=section)

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        time, height, width = (torch.tensor(self.axes_of(rope)) == axis for axis in range(len(AXES)))
        w, s = rope.inv_freq, rope.scale(target)
        if self.form == "paper":
            return Frequencies(torch.where(time, w, torch.where(width, w / s, w * self._by_turns(rope, height, s))))
        grown = (target - 1) / (rope.window - 1) if target > rope.window else 1.0
        ntk = rebased(rope, ntk_base(rope.base, rope.rotary_dim, grown)).inv_freq
        mixed = (1 - self.ntk_factor) * w / s + self.ntk_factor * ntk
        return Frequencies(torch.where(time, w, torch.where(width, ntk, mixed)))

    def _by_turns(self, rope: RopeSpec, height: Tensor, s: float) -> Tensor:
        """1 for the pair before the first of height, 1 / s for the last of height, linear in the turns; [d/2]."""
        turns, own = torch.tensor(rope.turns, dtype=torch.float64), height.nonzero()[:, 0].tolist()
        if not own:
            return torch.ones_like(turns)
        above, below = turns[max(own[0] - 1, 0)], turns[own[-1]]
        kept = (turns - below) / (above - below) if above > below else torch.zeros_like(turns)
        return 1 / s + (1 - 1 / s) * kept

    def axes_of(self, rope: RopeSpec) -> Sequence[int]:
        """The axis of each pair, [d/2].

        Raises:
            UserError: if the model has none and none are given, or has others than are given.
        """
        pairs = rope.rotary_dim // 2
        if not self.section:
            if not rope.axes:
                if rope.beside.get("mrope_section"):
                    raise UserError(
                        f"{self.name} rescales the axes of M-RoPE apart, and pairs of this model turn with two of them "
                        "each",
                        "Choose a method that stretches all pairs alike, such as yarn.",
                    )
                raise UserError(
                    f"{self.name} rescales the axes of M-RoPE apart, and tokens of this model have one position",
                    "Take it for a model that reads pictures by M-RoPE (ropewalk inspect shows its axes), or say which "
                    f"pairs are of time, height and width, such as {self.name}(section={_thirds(pairs)}).",
                )
            return rope.axes
        given = architecture.mrope_axes("chunked", self.section, pairs) if self._whole else ()
        if not given or (rope.axes and rope.axes != given):
            own = f"those of this model, which are {[rope.axes.count(axis) for axis in range(len(AXES))]}"
            raise UserError(
                f"{self.name}: section is {self.section!r}, expected "
                + (own if rope.axes else f"three whole numbers that sum to its {pairs} pairs"),
                "Leave it out; the model says its axes." if rope.axes else f"Such as section={_thirds(pairs)}.",
            )
        return given

    @property
    def _whole(self) -> bool:
        return all(type(size) is int and size >= 0 for size in self.section)


def _thirds(pairs: int) -> tuple[int, int, int]:
    """A division in Qwen2-VL's ratio of 2 : 3 : 3."""
    return pairs - 2 * (3 * pairs // 8), 3 * pairs // 8, 3 * pairs // 8
