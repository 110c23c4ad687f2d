"""A recipe that takes positions away, and trains at the pretrained window until the model does without them."""

from __future__ import annotations

from ropewalk.training.recipe import Recipe, Stage


def drope() -> Recipe:
    """DroPE: no rotation, 5,000 steps of 2 M tokens at the window that the model has (arXiv 2512.12167).

    These are Llama 2's, of the official code; whether its rows keep documents apart is not known.
    """
    return Recipe(
        name="drope",
        method="drope",
        packing="documents",
        steps=5000,
        stages=(Stage(5000, reach=0.0),),
        batch=512,
        learning_rate=1e-4,
        warmup=100,
        schedule="cosine",
    )
