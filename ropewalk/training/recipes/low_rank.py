"""Recipes that train adapters, with or without a cheaper attention."""

from __future__ import annotations

from dataclasses import replace

from ropewalk.training.recipe import Recipe


def longlora() -> Recipe:
    """LongLoRA: shifted sparse attention in training, adapters of rank 8, embeddings and norms (arXiv 2309.12307)."""
    return Recipe(
        name="longlora",
        method="pi",
        attention="s2-attention",
        steps=1000,
        batch=64,
        learning_rate=2e-5,
        warmup=20,
        trainable="lora",
        rank=8,
        alpha=16,
        targets=("attention",),
        also=("embeddings", "norms"),
    )


def longqlora() -> Recipe:
    """LongQLoRA: the same on weights in four bits, adapters of rank 64 on all linear maps (arXiv 2311.04879).

    The paper's paged optimizer is AdamW here.
    """
    return replace(
        longlora(),
        name="longqlora",
        batch=16,
        learning_rate=2e-4,
        clip=0.3,
        rank=64,
        dropout=0.05,
        targets=("all",),
        also=(),
        quantise="nf4",
    )


def scca() -> Recipe:
    """SCCA: shifted cross chunk attention in training, and adapters (arXiv 2312.07305).

    The paper's numbers are not known; here are LongLoRA's.
    """
    return replace(longlora(), name="scca", attention="scca", also=())


def overnight() -> Recipe:
    """Llama-3 ten-fold overnight: a base of 2e8, QLoRA of rank 32 and embeddings, 20,000 samples (arXiv 2404.19553)."""
    return Recipe(
        name="overnight",
        method="abf(base=200000000.0)",
        steps=2500,
        batch=8,
        learning_rate=5e-5,
        warmup=0,
        trainable="lora",
        rank=32,
        alpha=16,
        targets=("attention",),
        also=("embeddings",),
        quantise="nf4",
    )
