"""Recipes that train memories: methods with parameters of their own, or weights that read under them."""

from __future__ import annotations

from dataclasses import replace

from ropewalk.training.recipe import Recipe, Stage


def landmark() -> Recipe:
    """Landmark attention: 15,000 steps of 128 samples at the pretrained window (arXiv 2305.16300).

    Here a step is of 16 of them, and there are as many in all; in float32, which a CPU computes faster than bfloat16.
    """
    return Recipe(
        name="landmark",
        method="landmark",
        steps=120_000,
        stages=(Stage(120_000, reach=0.0),),
        batch=16,
        learning_rate=2e-5,
        weight_decay=0.1,
        warmup=3600,
        schedule="cosine",
        dtype="float32",
    )


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


def lact() -> Recipe:
    """LaCT: texts of the target's length at the paper's rate, of its 760M model (arXiv 2505.23884).

    The paper trains whole models, from scratch; here the added parameters alone learn, for fewer steps than its.
    """
    return Recipe(name="lact", method="lact", steps=1000, batch=32, learning_rate=1e-3, warmup=100, schedule="cosine")


def hylo() -> Recipe:
    """HyLo's three stages, with HALO's lengths, batches and rates (arXiv 2604.24715, 2601.22156).

    Outputs of layers, then predictions, both at the pretrained window, then texts of the target's length. HyLo's own
    numbers are not known to us; all that is trained is what is new.
    """
    return Recipe(
        name="hylo",
        method="hylo",
        steps=40500,
        stages=(
            Stage(20000, reach=0.0),
            Stage(20000, reach=0.0, batch=3.0, rate=0.1),
            Stage(500, batch=0.5, rate=0.01),
        ),
        restart=True,
        batch=32,
        learning_rate=1e-3,
        warmup=100,
        schedule="cosine",
        floor=0.01,
    )
