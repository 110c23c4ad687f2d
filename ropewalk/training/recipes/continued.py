"""Recipes that go on pretraining at a larger base, on packed documents."""

from __future__ import annotations

from ropewalk.training.recipe import Recipe, Stage


def entropy_abf() -> Recipe:
    """Entropy-aware ABF: six steps on 100 long samples (arXiv 2401.07004)."""
    return Recipe(
        name="entropy-abf",
        method="entropy-abf",
        steps=6,
        batch=32,
        learning_rate=2e-5,
        weight_decay=0.1,
        warmup=0,
        schedule="cosine",
    )


def harpe() -> Recipe:
    """HARPE: a base for every head, the target's length from the first step on; 6 G tokens of 128k (arXiv 2412.07171).

    Its batch and warmup are not known; here a step is of 4 M tokens.
    """
    return Recipe(
        name="harpe",
        method="harpe(base_min=1000000.0, base_max=5000000.0)",
        packing="documents",
        steps=1430,
        batch=32,
        learning_rate=2e-5,
    )


def prolong() -> Recipe:
    """ProLong: an eighth of the target, then all of it, documents apart (arXiv 2410.02660).

    Bases are those of 64k and 512k; the mix of data is the user's.
    """
    return Recipe(
        name="prolong",
        method="abf(base=128000000.0)",
        packing="documents",
        steps=7500,
        stages=(
            Stage(5000, rope=1 / 8, reach=1 / 8, method="abf(base=8000000.0)"),
            Stage(2500, batch=0.25),
        ),
        restart=True,
        batch=64,
        learning_rate=1e-5,
        weight_decay=0.1,
        warmup=500,
        schedule="cosine",
        floor=0.1,
    )


def llama_2_long() -> Recipe:
    """Llama 2 Long: base 500,000, 100,000 steps of 4 M tokens (arXiv 2309.16039)."""
    return Recipe(
        name="llama-2-long",
        method="abf(base=500000.0)",
        packing="documents",
        steps=100_000,
        batch=128,
        learning_rate=2e-5,
        weight_decay=0.1,
        warmup=2000,
        schedule="cosine",
        floor=0.1,
    )


def lwm() -> Recipe:
    """Large World Model's ladder: five lengths, each with its base; every sample counts the same (arXiv 2402.08268)."""
    ladder = (
        (1 / 32, 1200, 1e6, 32),
        (1 / 8, 3000, 1e7, 8),
        (1 / 4, 3000, 1e7, 4),
        (1 / 2, 720, 2.5e7, 2),
        (1, 450, 5e7, 1),
    )
    return Recipe(
        name="lwm",
        method="abf(base=50000000.0)",
        packing="documents",
        steps=sum(steps for _, steps, _, _ in ladder),
        stages=tuple(
            Stage(steps, rope=share, reach=share, batch=rows, method=f"abf(base={base})")
            for share, steps, base, rows in ladder
        ),
        restart=True,
        batch=4,
        learning_rate=4e-5,
        warmup=100,
        loss="sample",
    )
