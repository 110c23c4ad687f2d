"""The model as it comes, for comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from ropewalk.methods.frequencies.frequency_method import FrequencyMethod, check_live
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import restored
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Plain(FrequencyMethod):
    """Nothing is changed, whatever the length."""

    name: ClassVar[str] = "none"

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return Frequencies(rope.inv_freq)

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any]:
        return {"rope_type": "default"}

    def plan(self, config: PreTrainedConfig, to: int | None, on_top: bool | None = None) -> dict[str, Frequencies]:
        """Layer type -> the frequencies in use."""
        specs = rope_config.read(config).items()
        return {key: Frequencies(spec.inv_freq, spec.attention_factor) for key, spec in specs if not spec.sliding}

    @contextmanager
    def applied(self, model: nn.Module, to: int | None) -> Iterator[None]:
        check_live(model)
        with restored(model):  # types that recompute do so in every forward
            yield
