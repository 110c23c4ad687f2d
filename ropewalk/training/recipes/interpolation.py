"""Recipes that train at the target's full length, at interpolated positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ropewalk.training.recipe import Recipe, Stage


def pi() -> Recipe:
    """Position interpolation: 1,000 steps at the target (arXiv 2306.15595)."""
    return Recipe(
        name="pi",
        method="pi",
        steps=1000,
        batch=64,
        learning_rate=2e-5,
        warmup=20,
        warmup_from=0.1,
    )


def yarn() -> Recipe:
    """YaRN: 400 steps to half of the target, then 200 at the whole factor on texts that stay short (arXiv 2309.00071).

    The official script clips nothing and takes torch's betas and weight decay; here are the paper's, and clipping.
    """
    return Recipe(
        name="yarn",
        method="yarn",
        steps=600,
        stages=(Stage(400, rope=0.5, reach=0.5), Stage(200, rope=1.0, reach=0.5)),
        restart=True,
        batch=64,
        learning_rate=2e-5,
        warmup=20,
        schedule="linear",
    )


def longrope(half: Sequence[float] | str = (), whole: Sequence[float] | str = ()) -> Recipe:
    """LongRoPE: 400 steps at half of the target, then 600 at the target, each with its own factors (arXiv 2402.13753).

    What follows in the paper is a search alone: for eight times as far, on the model that was trained.

    Args:
        half: one factor per pair of dimensions, as a search for half of the target found them, or its file.
        whole: the same for the target. A recipe without factors is refused before its first step.

    Raises:
        UserError: if a file is no fit of longrope.
    """
    first, last = map(_searched, (half, whole))
    return Recipe(
        name="longrope",
        method=last or "longrope",
        steps=1000,
        stages=(Stage(400, rope=0.5, reach=0.5, method=first), Stage(600)),
        restart=True,
        batch=32,
        learning_rate=2e-5,
        warmup=0,
        schedule="linear",
    )


def growlength() -> Recipe:
    """GrowLength: samples double from a 32nd of the target, tokens per step stay the same (arXiv 2310.00576).

    The paper's shares of the stages are not known; here all have the same number of tokens.
    """
    return Recipe(
        name="growlength",
        method="pi",
        steps=600,
        stages=tuple(Stage(100, reach=2.0**-k, batch=2.0**k) for k in (5, 4, 3, 2, 1, 0)),
        packing="documents",
        batch=16,
        learning_rate=2e-5,
        warmup=20,
        warmup_from=0.1,
    )


def _searched(factors: Sequence[float] | str) -> str:
    """LongRoPE with given factors, or those of a file: as values, for the weights are about to move."""
    if not factors:
        return ""
    from ropewalk.methods.fit_file import fitted
    from ropewalk.methods.frequencies.longrope import LongRoPE

    found = fitted(LongRoPE, factors, {}) if isinstance(factors, str) else LongRoPE(tuple(map(float, factors)))
    return replace(found).id  # type: ignore[type-var]
