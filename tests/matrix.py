"""What the tests run over: every entry of the catalogue, as its class builds itself, on families of tiny models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ropewalk.methods.base import Method
from ropewalk.methods.catalogue import CATALOGUE, Entry, method
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.rope import config as rope_config
from ropewalk.rope import live
from tests.models import FAMILIES, shared, tiny, tokens

WINDOW, TARGET = 64, 256  # of the tiny models
TWICE = 2 * WINDOW  # what every method reaches


# Methods


@dataclass(frozen=True)
class Case:
    """One of the ways in which the class of a catalogue entry builds itself.

    Attributes:
        entry: of the catalogue.
        number: among the examples of its class.
    """

    entry: Entry
    number: int

    def __str__(self) -> str:
        return self.entry.id + (f"-{self.number + 1}" if self.number else "")

    def made(self, model: PreTrainedModel) -> Method:
        """The method for ``model``."""
        return self.entry.load().examples(model.config)[self.number]

    @contextmanager
    def on(self, model: PreTrainedModel, to: int | None = TWICE) -> Iterator[Method]:
        """While the method is on."""
        chosen = self.made(model)
        with chosen.on(model, to=to):
            yield chosen


def cases(entries: list[Entry]) -> list[Case]:
    """Every example of some entries."""
    config = shared("llama").config
    return [Case(entry, i) for entry in entries for i in range(len(entry.load().examples(config)))]


MEMORIES = [entry for entry in CATALOGUE if issubclass(entry.load(), MemoryMethod)]  # readers, with tests of their own
ATTENDING = [entry for entry in CATALOGUE if entry not in MEMORIES]
every_entry = pytest.mark.parametrize("entry", ATTENDING, ids=lambda entry: entry.id)
every_case = pytest.mark.parametrize("case", cases(ATTENDING), ids=str)
every_memory = pytest.mark.parametrize("case", cases(MEMORIES), ids=str)

_FREQUENCIES = {entry.id: kind for entry in CATALOGUE if issubclass(kind := entry.load(), FrequencyMethod)}
METHODS = list(_FREQUENCIES)
_RUNTIME = tuple(name for name, kind in _FREQUENCIES.items() if kind.runtime)
_NOT_SAVED = [entry.id for entry in CATALOGUE if entry.id in METHODS and entry.exportable.startswith("no")]
RUNTIME, NOT_SAVED = (  # with the options that must be given
    [_FREQUENCIES[name].examples(shared("llama").config)[0].id for name in names] for names in (_RUNTIME, _NOT_SAVED)
)
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
SAVED = [spelling for spelling in METHODS + VARIANTS if spelling not in _NOT_SAVED]
NESTED = ("gemma3", "olmo3")  # rope parameters per layer type; sliding layers are left alone
FAMILY_NAMES = list(FAMILIES)
THREE = ("llama", "gemma3", "phi3")  # for variants: plain, a rope per layer type, part of a head in longrope's own keys


def across(spellings: list[str]) -> list[tuple[str, str]]:
    """Methods with every family, variants with three: (spelling, family)."""
    return [(s, f) for s in spellings for f in (THREE if s in VARIANTS else FAMILY_NAMES)]


def made(spelling: str, model: PreTrainedModel) -> Method:
    """The method of a spelling; options that it leaves out are those of its class's first example."""
    chosen: Any = method(spelling)
    example: Any = type(chosen).examples(model.config)[0] if "+" not in spelling else chosen
    stated = {f.name: getattr(chosen, f.name) for f in fields(chosen) if f"{f.name}=" in spelling}
    return replace(example, **stated)


# Models and what they give


@cache
def subject(family: str = "llama", **more: Any) -> PreTrainedModel:
    """One model per family for tests that leave it as it was, with a vocabulary that a text need not repeat."""
    return tiny(family, vocab_size=300, **more)


def text(batch: int, n: int, seed: int = 0) -> Tensor:
    """No token twice in a row: unrotated keys of equal tokens are equal in the first layer, and choices would tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([3 + torch.randperm(297, generator=generator)[:n] for _ in range(batch)])


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor, **keywords: object) -> Tensor:
    return model(ids, use_cache=False, **keywords).logits


class Near(int):
    """Whether two results agree; a failing assertion shows by how much they do not."""

    words: str

    def __repr__(self) -> str:
        return self.words


def near(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> Near:
    """Whether the largest difference is at most ``tolerance`` of the largest value of ``b``."""
    difference, limit = float((a - b).abs().max()), tolerance * float(b.abs().max())
    found = Near(difference <= limit)
    found.words = f"difference {difference:.3g}, limit {limit:.3g}"
    return found


def left_padded(ids: Tensor, pad: int) -> Tensor:
    """A mask that hides the first tokens of the first row."""
    mask = torch.ones_like(ids)
    mask[0, :pad] = 0
    return mask


def buffers(model: PreTrainedModel) -> dict[str, Tensor]:
    """Copies of all rotary state, by name."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers(remove_duplicate=False)}
    for i, rotary in enumerate(live.rotaries(model)):
        state[f"{i}.attention_scaling"] = torch.tensor(rotary.attention_scaling)
        state[f"{i}.rope_type"] = torch.tensor(list(rotary.rope_type.encode()))
    return state


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def traces(model: PreTrainedModel) -> tuple[object, ...]:
    """What a method might leave on a model beside its rotary state."""
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    attributes = [sorted(vars(module)) for module in model.modules()]
    return hooks, attributes, model.config._attn_implementation, model.config.to_dict()


def extended_layer_type(model: PreTrainedModel) -> str:
    """The layer type that an extension changes."""
    return next(key for key, spec in rope_config.read(model.config).items() if not spec.sliding)


SHORT, LONG = tokens(2, WINDOW), tokens(1, 200)
