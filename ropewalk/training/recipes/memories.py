"""Recipes that train memories: methods with parameters of their own, or weights that read under them."""

from __future__ import annotations

from dataclasses import replace

from ropewalk.training.recipe import Recipe


def longgen() -> Recipe:
    """LongGen: 5 G tokens at the target's length, under sparse layers and a larger base (arXiv 2410.01485).

    Its batch, rate and base are not known to us; here a step is of 4 M tokens of 128k.
    """
    return Recipe(
        name="longgen",
        method="abf+longgen",
        packing="documents",
        steps=1200,
        batch=32,
        learning_rate=2e-5,
    )


def fot() -> Recipe:
    """Focused Transformer: 10 G tokens in texts of four windows, two of which are read together (arXiv 2307.03170).

    Its batch and rate are not known to us, and the paper adds negatives as it goes on; here a step is of 256k tokens of
    8k, and the number of negatives stays.
    """
    return Recipe(
        name="fot",
        method="fot",
        steps=38000,
        batch=32,
        micro=2,
        learning_rate=2e-5,
    )
def beacon() -> Recipe:
    """Activation Beacon: 1 G tokens of texts of up to 20,000, then 28,000 samples of tasks (arXiv 2401.03462).

    The rate is that of the second part, batch and warmup are ours; here is the first one alone.
    """
    return Recipe(
        name="beacon",
        method="beacon",
        steps=6250,
        batch=8,
        learning_rate=1e-5,
    )


def ext_tok() -> Recipe:
    """Extensible Tokenization: all weights of the small model, the model frozen (arXiv 2401.07793).

    Its steps, batch and rate are not known to us; here are those of the beacons.
    """
    return replace(beacon(), name="ext-tok", method="ext-tok")
