"""What the tests run over: spellings of every catalogue entry, and families of tiny models."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ropewalk.methods.base import Method
from ropewalk.methods.catalogue import CATALOGUE, method
from ropewalk.rope import config as rope_config
from ropewalk.rope import live
from tests.models import FAMILIES, tokens

WINDOW, TARGET = 64, 256  # of the tiny models
RUNTIME = ("dynamic-ntk", "entropy-abf", "harpe")
METHODS = [entry.id for entry in CATALOGUE if entry.where.startswith("frequencies.")]
ATTENTION = [entry.id for entry in CATALOGUE if entry.where.startswith("attention.")]
VARIANTS = [  # options that choose another formula, another way of saving, or another part
    "abf(rule='bound')",
    "dynamic-ntk(form='hf')",
    "giraffe(basis='linear')",
    "giraffe(basis='power')",
    "longrope(attention_factor=1.2)",
    "ntk-aware(stretch=2.0)",
    "resonance+yarn",
    "yarn(attention_factor=1.3)",
    "yarn(beta_fast=2.0)",
    "yarn(ramp='paper')",
    "yarn(truncate=False)",
]
NOT_SAVED = ("entropy-abf", "harpe")
SAVED = [spelling for spelling in METHODS + VARIANTS if spelling not in NOT_SAVED]
NESTED = ("gemma3", "olmo3")  # rope parameters per layer type; sliding layers are left alone
FAMILY_NAMES = list(FAMILIES)


def made(spelling: str, model: PreTrainedModel, ones: bool = False) -> Method:
    """The method of a spelling; longrope gets factors that fit the model (rising from 1 to 4, or all 1)."""
    if not spelling.startswith("longrope"):
        return method(spelling)
    half = live.rotaries(model)[0].inv_freq.numel()
    factors = [1.0] * half if ones else torch.linspace(1, 4, half).tolist()
    options = spelling.removeprefix("longrope").strip("()")
    return method(f"longrope(factors={factors}{', ' + options if options else ''})")


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor, **keywords: object) -> Tensor:
    return model(ids, use_cache=False, **keywords).logits


def buffers(model: PreTrainedModel) -> dict[str, Tensor]:
    """Copies of all rotary state, by name."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers(remove_duplicate=False)}
    for i, rotary in enumerate(live.rotaries(model)):
        state[f"{i}.attention_scaling"] = torch.tensor(rotary.attention_scaling)
        state[f"{i}.rope_type"] = torch.tensor(list(rotary.rope_type.encode()))
    return state


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def extended_layer_type(model: PreTrainedModel) -> str:
    """The layer type that an extension changes."""
    return next(key for key, spec in rope_config.read(model.config).items() if not spec.sliding)


SHORT, LONG = tokens(2, WINDOW), tokens(1, 200)
