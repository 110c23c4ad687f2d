"""Who may be recommended, and why others may not: the catalogue under a user's limits, on one model and target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ropewalk.attention.attending import VISIBILITY
from ropewalk.checkpoint.write import extended_config
from ropewalk.common.errors import UserError
from ropewalk.engines.handover import refuse_unread
from ropewalk.fitting.fitter import Ground
from ropewalk.fitting.option_values import goes_on
from ropewalk.fitting.rope_factors import as_factors
from ropewalk.methods.base import Method
from ropewalk.methods.catalogue import entry
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.memory.memory_method import MEMORY
from ropewalk.planning import advice
from ropewalk.rope.spec import RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TRAINED = ("no", "100 samples")  # what the catalogue says of methods that change weights


@dataclass(frozen=True)
class Entrants:
    """Methods at their defaults that take part.

    Attributes:
        ground: model and target.
        exportable: whether a configuration must say them.
        engine: that must read it as meant; empty: any may.
        by_loss: whether the loss of far tokens decides.
    """

    ground: Ground
    exportable: bool
    engine: str
    by_loss: bool

    def sorted_out(self, rope: RopeSpec) -> tuple[list[Method], dict[str, str]]:
        """Those that take part, and of all others why they do not; LongRoPE stands for factors that are yet searched.

        Raises:
            UserError: if nobody is left.
        """
        found: list[Method] = []
        left_out: dict[str, str] = {}
        for one in advice.methods(self.ground.model.config, self.ground.to, rope.scale(self.ground.to)):
            cls = entry(one.id).load()
            method = cls.examples(self.ground.model.config)[0] if cls is LongRoPE else cls()
            why = self._unfit(one, method) or self.refusal(method)
            if why:
                left_out[one.id] = why
            else:
                found.append(method)
        if not found:
            said = [f"engine={self.engine}"] * bool(self.engine) + ["exportable=true"] * self.exportable
            reasons = "; ".join(dict.fromkeys(left_out.values()))
            raise UserError(
                f"no method is left{' under ' * bool(said)}{', '.join(said)}: {reasons}",
                f"Leave out {' and '.join(said)}." if said else "Choose a method: ropewalk methods.",
            )
        return found, left_out

    def _unfit(self, one: advice.MethodAdvice, method: Method) -> str:
        """Why a method is not to be raced, whatever the model takes; empty if it may be."""
        if one.training_free in TRAINED:
            return "it wants training"
        if method.measured and not isinstance(method, LongRoPE):
            return "it is measured by a fit of its own: --method NAME"
        if MEMORY in method.axes:
            return "it reads with a memory, which takes many times the work: compare it by its name"
        if method.absent(method.given):
            return "its options must be given"
        if (self.exportable or self.engine) and not isinstance(method, FrequencyMethod):
            return "it needs code at run time"
        if not method.causal:
            return "its queries see tokens that come later, so that losses tell nothing"
        if method.length_dependent:
            return "it reads every length otherwise, so that the losses of one reading are not its own"
        if self.by_loss and VISIBILITY in method.axes:
            return "it forgets what is far, which losses hardly tell (by=needles does)"
        return ""

    def refusal(self, method: Method) -> str:
        """Why the limits or the model forbid a method; empty if they do not."""
        config, to = self.ground.model.config, self.ground.to
        try:
            if self.engine:
                refuse_unread(config, method, to, self.engine)
            elif self.exportable:
                extended_config(config, method, to)
        except UserError as error:
            return error.message
        return goes_on(method, self.ground) or ""


def seed_for_factors(methods: Sequence[Method], config: PreTrainedConfig, to: int) -> list[LongRoPE]:
    """The first of some methods that one factor per pair says."""
    static = (one for one in methods if isinstance(one, FrequencyMethod) and not one.runtime)
    factors = (as_factors(one, config, to) for one in static)
    return [one for one in factors if np.isfinite(one.factors).all()][:1]
