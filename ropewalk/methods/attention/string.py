"""STRING: far keys take well-trained distances inside the window a second time (arXiv 2410.18745)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import AttentionMethod
from ropewalk.methods.base import require_above

LOCAL = 128  # tokens; the paper tries 128, 256 and 512


@dataclass(frozen=True)
class STRING(AttentionMethod):
    """Distances d below S stay; further ones become d - S + W, so that W .. S - 1 occur twice.

    Distances near the trained window L are rare in training. The paper replaces them inside the window; here the method
    reaches L + S - W + 1 tokens, at most about 2 L. The official code also multiplies all logits by (0.1 ln 2 + 1)^2
    without a word, and its prefill counts distance S twice (its decoding does not); neither is done here.

    Attributes:
        shift: S in tokens; None means L / 3, or more where the target wants it.
        local: W, the distance of the nearest shifted key; None means 128, or less where the window or the target leave
            less room.
    """

    shift: int | None = None
    local: int | None = None

    name: ClassVar[str] = "string"

    def __post_init__(self) -> None:
        require_above(0, self, "shift", "local")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        s, w = self._sizes(layer)
        near = Region(lo=lambda m: m - s + 1)
        far = Region(hi=lambda m: m - s + 1, q_pos=lambda m: m - s + w)
        return near, far

    def check(self, layer: Layer) -> None:
        s, w = self._sizes(layer)
        if not w <= s <= layer.window:
            raise UserError(
                f"{self.name}: shift is {s}, local is {w}, expected local <= shift <= {layer.window} trained ones",
                f"Choose shift={layer.window // 3}.",
            )
        if layer.window + s - w + 1 < layer.target:
            raise UserError(
                f"{self.name}: shift={s}, local={w} reach L + S - W + 1 = {layer.window + s - w + 1} tokens with "
                f"L = {layer.window}, {layer.target} were asked for",
                "Choose a larger shift; beyond 2 L, stretch the window first: "
                f"yarn+string(effective_window={2 * layer.window})"
                if layer.target <= 4 * layer.window
                else "Choose another method: ropewalk plan.",
            )

    def _sizes(self, layer: Layer) -> tuple[int, int]:
        beyond = max(0, layer.target - layer.window - 1)  # S - W at least
        room = max(1, (layer.window if self.shift is None else self.shift) - beyond)
        w = min(LOCAL, max(1, layer.window // 8), room) if self.local is None else self.local
        return max(layer.window // 3, beyond + w) if self.shift is None else self.shift, w
