"""Recipes whose samples are as short as the pretrained window, and stand at positions up to the target."""

from __future__ import annotations

from dataclasses import replace

from ropewalk.training.recipe import Recipe


def pose() -> Recipe:
    """PoSE: 1,000 steps of two chunks with a jump between them (arXiv 2309.10400)."""
    return Recipe(
        name="pose",
        method="pi",
        positions="pose",
        steps=1000,
        batch=64,
        micro=8,
        learning_rate=2e-5,
        warmup=10,
        schedule="linear",
    )


def cream() -> Recipe:
    """CREAM: head, tail, and a middle drawn towards the middle of the target; 1,000 steps (arXiv 2406.07138)."""
    return replace(pose(), name="cream", positions="cream", batch=32)


def endprompt() -> Recipe:
    """EndPrompt: one piece, and a cue at the end of the target; 1 G tokens (github.com/clx1415926/EndPrompt)."""
    return replace(pose(), name="endprompt", positions="endprompt", steps=1900, warmup=20, schedule="constant")


def endprompt_pose() -> Recipe:
    """EndPrompt and PoSE together, the best of EndPrompt's own comparison (github.com/clx1415926/EndPrompt)."""
    return replace(endprompt(), name="endprompt-pose", positions="endprompt-pose")


def e2() -> Recipe:
    """E2-LLM: one training for every factor; interpolated when it is written (arXiv 2401.06951).

    30,000 steps of 16 samples. The largest factor is the target's, the paper does not say its own.
    """
    return replace(
        pose(), name="e2", positions="e2", steps=30_000, batch=16, learning_rate=1e-5, warmup=20, schedule="constant"
    )


def randpos() -> Recipe:
    """Randomised positions with PoSE's numbers, as PoSE compares itself with them: the control (arXiv 2305.16843)."""
    return replace(pose(), name="randpos", positions="randpos")


def segmented() -> Recipe:
    """Segments of long texts at their true positions, with PoSE's numbers (arXiv 2310.14633)."""
    return replace(pose(), name="segmented", positions="segmented")
