"""Visual context window extension: YaRN from the length up to which a model uses pictures (arXiv 2409.20018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.frequencies.yarn import YaRN
from ropewalk.methods.ranges import Range
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class VisualWindow(YaRN):
    """YaRN with L = the visual window, which is shorter than the trained one: s = target / L, for all tokens alike.

    Of the paper only the idea was at hand, not its formulas: that all of YaRN (bounds in turns, s, temperature) starts
    from the visual window is read from what others say of it. A visual window of L is YaRN bit for bit. Text within
    the trained window is rescaled as well, so that the tax on short texts is that of a larger s.

    Attributes:
        effective_window: the visual window, in positions: where the accuracy over the number of pictures or frames
            begins to fall. M-RoPE gives a picture of h x w tokens max(h, w) positions, and not h w.
    """

    effective_window: int | None = None

    name: ClassVar[str] = "visual-window"
    given: ClassVar[tuple[str, ...]] = ("effective_window",)
    how_given: ClassVar[str] = (
        "Measure up to where the model makes use of pictures, and give it: visual-window(effective_window=8192)"
    )
    tunable: ClassVar[Mapping[str, Range]] = {}  # texts say nothing of pictures
    exact_near: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(0, self, "effective_window")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(effective_window=rope_config.trained_window(config) // 2),)

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return super().frequencies(self._seen(rope), target)

    def at(self, rope: RopeSpec, target: int) -> Frequencies:  # a method that refines it asks here
        return super().at(self._seen(rope), target)

    def _targets(
        self, config: PreTrainedConfig, to: int | None, on_top: bool | None = None
    ) -> dict[str, tuple[RopeSpec, int]]:
        return {key: (self._seen(rope), n) for key, (rope, n) in super()._targets(config, to, on_top).items()}

    def _seen(self, rope: RopeSpec) -> RopeSpec:
        """The rope with the visual window in the place of the trained one."""
        window: Any = self.effective_window
        if type(window) is not int or window > rope.window:
            raise UserError(
                f"{self.name}: effective_window is {window!r}, expected a whole number up to the trained window of "
                f"{rope.window}",
                "Beyond the trained window, yarn is the method.",
            )
        return replace(rope, window=window)
