"""What is measured of a model in training: names of the moments, and of what was seen, for people."""

from __future__ import annotations

from ropewalk.common.statistics import Mean

CAME = -1  # key of the reading of a model before anything was done to it; others are steps done
AS_IT_CAME = "as it came"


def named(step: int) -> str:
    """A reading, for people."""
    return AS_IT_CAME if step == CAME else "extended, untrained" if step == 0 else f"step {step:,}"


def times(change: Mean | None) -> str:
    """0.312x (0.29 to 0.34)"""
    if change is None:
        return ""
    bounds = "" if change.low is None or change.high is None else f" ({change.low:.3g} to {change.high:.3g})"
    return f"{change.value:.3g}x{bounds}"


def stretch(place: str) -> str:
    """512-724, of which the end is not in it -> 512 to 723."""
    start, end = map(int, place.split("-"))
    return f"{start:,} to {end - 1:,}"
