"""The learning rate by step, as a factor of its peak."""

from __future__ import annotations

import math

from ropewalk.common.errors import UserError, did_you_mean

SCHEDULES = ("constant", "linear", "cosine")


def factor(
    step: int, steps: int, *, warmup: int = 0, warmup_from: float = 0.0, schedule: str = "constant", floor: float = 0.0
) -> float:
    """What the peak learning rate is multiplied by in one step.

    It rises in a line from ``warmup_from`` at step 0 to 1 at step ``warmup``, and falls from there to ``floor`` at step
    ``steps``. Steps are counted by the updates made before them: the first update takes ``factor(0, ...)``, the last
    one ``factor(steps - 1, ...)``. Past the end it stays what it is there.

    Args:
        step: updates made before this one.
        steps: updates of the whole run.
        warmup: updates until the peak.
        warmup_from: share of the peak to begin with.
        schedule: "constant" (without a fall), "linear" or "cosine" (half a period).
        floor: share of the peak at the end.

    Raises:
        UserError: for an unknown schedule, a share outside [0, 1], or a negative number of steps.
    """
    if schedule not in SCHEDULES:
        raise UserError(
            f"schedule is {schedule!r}, expected one of {', '.join(SCHEDULES)}{did_you_mean(schedule, SCHEDULES)}"
        )
    for name, share in (("warmup_from", warmup_from), ("floor", floor)):
        if not 0 <= share <= 1:
            raise UserError(f"{name} is {share:g}, expected a share of the peak, from 0 to 1")
    for name, count in (("step", step), ("steps", steps), ("warmup", warmup)):
        if count < 0:
            raise UserError(f"{name} is {count}, expected a number of updates, 0 or more")
    if step < warmup:
        return warmup_from + (1 - warmup_from) * step / warmup
    if schedule == "constant":
        return 1.0
    passed = min((step - warmup) / (steps - warmup), 1.0) if steps > warmup else 1.0
    left = 1 - passed if schedule == "linear" else (1 + math.cos(math.pi * passed)) / 2
    return floor + (1 - floor) * left
