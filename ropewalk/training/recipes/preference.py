"""Recipes that learn which of two answers is preferred."""

from __future__ import annotations

from ropewalk.training.recipe import Recipe


def longpo() -> Recipe:
    """LongPO: 45,000 pairs of 128k at a base of 10,000,000 (arXiv 2502.13922).

    Its warmup and schedule are not known to us.
    """
    return Recipe(
        name="longpo",
        method="abf(base=10000000.0)",
        steps=5625,
        batch=8,
        learning_rate=5e-7,
        loss="longpo",
        longpo_beta=0.1,
        longpo_lambda=0.01,
    )
