"""The rotary embedding of one kind of layer, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # who asks for no tensor does not wait for torch
    from torch import Tensor

AXES = ("time", "height", "width")  # of M-RoPE (arXiv 2409.12191), which has a position in each for every token
ALL = "all"  # the layer type of models whose layers share one rotary embedding
STILL = 2e-30  # radians per token, above all that the factor of a pair that does not rotate, 1e30, leaves in float32

# Types whose shipped checkpoints were trained with the scaling in place: a further extension goes on top of it.
TRAINED_IN = frozenset({"llama3", "longrope", "proportional"})


ROUNDED = 1.01  # by how much lengths that are meant to be the same differ


@dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding of one layer type.

    Symbols as in the papers: d = ``rotary_dim``, i = 0 .. d/2 - 1, w_i = base ** (-2i/d), L = ``window``.

    Attributes:
        base: ``rope_theta``.
        rotary_dim: rotated dimensions per head (head_dim x partial_rotary_factor).
        head_dim: dimensions per head.
        window: pretrained window L in tokens.
        length: the length in tokens that the configuration promises now (= window unless it was extended).
        factors: f_i = w_i / frequency in use, [d/2]; all 1 in a plain model.
        long_factors: the second set of a ``longrope`` model, used past ``window``; None where there is one set.
        attention_factor: multiplier of cos and sin (logits grow by its square).
        rope_type: the type named by the configuration.
        style: "half" rotates (i, i + d/2), "interleaved" rotates (2i, 2i + 1).
        kv_heads: key-value heads per layer, for methods that treat heads differently.
        layer_type: as in ``config.layer_types``; ``ALL`` where the layers share one embedding.
        sliding: True if these layers see no further than they were trained to; extensions leave them alone.
        trained_in: True if the model is known to be trained with the scaling that its configuration states.
        yarn: what a trained-in YaRN has in the place of its defaults: ``beta_fast``, ``beta_slow``, ``truncate``, and
            the pair ``mscale``, ``mscale_all_dim``, whose ratio is its attention factor.
        logit_scale: multiplier of all logits that attention takes from the rope parameters besides (latent attention:
            the square of 0.1 mscale_all_dim ln(factor) + 1). Methods keep it.
        beside: other rope parameters that the model may read; they go wherever the rope goes.
        factor: of ``linear``, ``dynamic``, ``yarn`` or ``llama3`` as the configuration states it; else 0.
        axes: in M-RoPE, the axis (index into ``AXES``) whose position turns each pair, [d/2]; empty where tokens have
            one position, and where the architecture's layout is not known.
    """

    base: float
    rotary_dim: int
    head_dim: int
    window: int
    length: int
    factors: tuple[float, ...]
    long_factors: tuple[float, ...] | None = None
    attention_factor: float = 1.0
    rope_type: str = "default"
    style: Literal["half", "interleaved"] = "half"
    kv_heads: int = 1
    layer_type: str = ALL
    sliding: bool = False
    trained_in: bool = False
    yarn: dict[str, float] = field(default_factory=dict, hash=False)
    logit_scale: float = 1.0
    beside: dict[str, Any] = field(default_factory=dict, hash=False)
    factor: float = 0.0
    axes: tuple[int, ...] = ()

    @classmethod
    def plain(cls, base: float, rotary_dim: int, window: int, **more: object) -> RopeSpec:
        """An unscaled embedding: head_dim = rotary_dim and length = window unless given."""
        defaults: dict[str, object] = {"head_dim": rotary_dim, "length": window, "factors": (1.0,) * (rotary_dim // 2)}
        return cls(base=base, rotary_dim=rotary_dim, window=window, **(defaults | more))  # type: ignore[arg-type]

    @cached_property
    def base_inv_freq(self) -> Tensor:
        """w_i = base ** (-2i/d) in radians per token, float64 [d/2]."""
        import torch

        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float64) / self.rotary_dim
        return 1.0 / torch.tensor(self.base, dtype=torch.float64) ** exponents

    @cached_property
    def inv_freq(self) -> Tensor:
        """Frequencies in use inside the window, w_i / f_i, float64 [d/2]."""
        import torch

        return self.base_inv_freq / torch.tensor(self.factors, dtype=torch.float64)

    @cached_property
    def wavelengths(self) -> tuple[float, ...]:
        """Tokens per turn, 2 pi f_i / w_i, [d/2]."""
        d = self.rotary_dim
        return tuple(2 * math.pi * f * self.base ** (2 * i / d) for i, f in enumerate(self.factors))

    @cached_property
    def turns(self) -> tuple[float, ...]:
        """Turns made inside the pretrained window, r_i = L / wavelength_i, [d/2]."""
        return tuple(self.window / wavelength for wavelength in self.wavelengths)

    @property
    def critical_dimension(self) -> int:
        """First index that does not complete a turn inside the window; d/2 if all do."""
        return sum(turns >= 1 for turns in self.turns)

    @property
    def is_plain(self) -> bool:
        """True if nothing is scaled at any length."""
        scaled = self.long_factors is not None or any(f != 1.0 for f in self.factors)
        return not scaled and self.attention_factor == 1.0 and self.rope_type != "dynamic"

    @property
    def switches(self) -> bool:
        """True if other factors take over past the window."""
        return self.long_factors not in (None, self.factors)

    @property
    def scaling(self) -> str:
        """The scaling that is stated, for people."""
        return f"{self.rope_type} x{self.factor or self.length / self.window:g} of {self.window:,} tokens"

    @property
    def made_for(self) -> int:
        """Tokens that the scaling is for: of YaRN and linear the factor says it, and ``length`` may promise less."""
        far = round(self.factor * self.window) if self.rope_type in ("yarn", "linear") else 0
        return far if far > ROUNDED * self.length else self.length

    def scale(self, target: int) -> float:
        """S = target / L, never below 1: a window is not made shorter."""
        return max(1.0, target / self.window)

    def index_of_turns(self, turns: float) -> float:
        """The fractional index i at which a dimension makes ``turns`` turns inside the window.

        Closed form for plain frequencies; log-linear interpolation where the model was trained with scaled ones.
        """
        if all(f == 1.0 for f in self.factors):
            return self.rotary_dim * math.log(self.window / (2 * math.pi * turns)) / (2 * math.log(self.base))
        logs = [math.log(max(turns, 1e-300)) for turns in self.turns]
        right = next((i for i, value in enumerate(logs) if value < math.log(turns)), len(logs) - 1)
        right = max(right, 1)
        step = logs[right] - logs[right - 1]
        return right - 1 + (math.log(turns) - logs[right - 1]) / step if step else float(right)

    def to_extend(self, on_top: bool | None = None) -> RopeSpec:
        """The spec that an extension starts from.

        ``linear``, ``dynamic`` and ``yarn`` are replaced: the plain frequencies and the pretrained window. What a model
        was trained with (``llama3``, ``longrope``, and ``trained_in``) stays below the new factors, and the window
        is the length that it is for.

        Args:
            on_top: overrides that choice.
        """
        if self.is_plain:
            return self
        if self.rope_type in TRAINED_IN or self.trained_in if on_top is None else on_top:
            factors = self.factors if self.long_factors is None else self.long_factors
            far = self.made_for
            return replace(
                self, window=far, length=far, factors=factors, long_factors=None, trained_in=True, factor=0.0
            )
        ones = (1.0,) * len(self.factors)
        plain: dict[str, Any] = {"factors": ones, "long_factors": None, "attention_factor": 1.0, "factor": 0.0}
        return replace(self, length=self.window, rope_type="default", **plain)


@dataclass(frozen=True)
class Frequencies:
    """What a method puts in the place of a model's frequencies.

    Attributes:
        inv_freq: radians per token, float64 [d/2], or [heads, d/2] where heads differ; 0 removes a rotation.
        attention_factor: multiplier of cos and sin.
    """

    inv_freq: Tensor
    attention_factor: float = 1.0

    def factors(self, rope: RopeSpec) -> Tensor:
        """f_i relative to the unscaled frequencies of ``rope``, float64; 1e30 stands for "does not rotate"."""
        return (rope.base_inv_freq / self.inv_freq).clamp_max(1e30)


@dataclass(frozen=True, eq=False)
class Reading:
    """The rotation of one kind of layer, as one engine derives it.

    Attributes:
        inv_freq: radians per token, float64 [d/2].
        attention_factor: multiplier of cos and sin.
        max_length: tokens that the engine serves without being told to.
        logit_scale: multiplier of all logits besides, see ``RopeSpec``.
        stairs: (beta, length) by which queries grow with their position; None if they do not.
    """

    inv_freq: Tensor
    attention_factor: float
    max_length: int
    logit_scale: float = 1.0
    stairs: tuple[float, int] | None = None


def served(readings: Mapping[str, Reading]) -> int:
    """Tokens that an engine serves without being told to: what all of its layers can."""
    return min(reading.max_length for reading in readings.values())
