"""Before and behind the loop: texts kept aside, a model whose weights can move, the rope that is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError
from ropewalk.rope.config import trained_window
from ropewalk.training.loop import ANY, Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.training.positions.training_positions import Ints
    from ropewalk.training.recipe import Recipe

LEFT = 3  # texts that are trained on for each that is kept aside, at least

Texts = dict[str, "Ints"]


def held_out(texts: Texts, length: int, most: int) -> tuple[Texts, Texts]:
    """Texts to train on, and texts to measure on: up to ``most`` long ones, a quarter of all at most.

    Which ones depends on their contents alone.

    Args:
        texts: token ids by name.
        length: tokens that a text to measure on must have.
        most: so many at most.
    """
    long = [name for name, ids in texts.items() if len(ids) >= length]
    long.sort(key=lambda name: hashlib.sha256(texts[name].tobytes()).digest())
    aside = set(long[: min(most, len(texts) // (LEFT + 1))])
    return (
        {name: ids for name, ids in texts.items() if name not in aside},
        {name: ids for name, ids in texts.items() if name in aside},
    )


def digest_of(texts: Mapping[str, Ints]) -> str:
    """A hash of token ids, in their order."""
    digest = hashlib.sha256()
    for ids in texts.values():
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    return digest.hexdigest()[:16]


def begun(checkpoint: Checkpoint, recipe: Recipe, device: str) -> PreTrainedModel:
    """The model of a checkpoint, with those weights trainable that the recipe says."""
    model = checkpoint.load(recipe.dtype, device)
    model.config.use_cache = False
    return model


def finished(run: Run, checkpoint: Checkpoint) -> list[str]:
    """Give the trained model the rope that it is written with; what to know about it.

    Raises:
        UserError: if its rope cannot be written.
    """
    notes = []
    last = run.parts[-1]
    rope = run.recipe.rope_method(last.stage)
    if run.recipe.layout(ANY).rope == "trained":
        rope.extend(run.model, run.to)
        notes.append(f"trained for every factor, and written with {rope.id} for {run.to:,} tokens")
    elif rope.name != "none" and trained_window(run.model.config) < last.rope:
        try:
            rope.saved(run.model.config, last.rope)  # type: ignore[attr-defined]
        except (UserError, AttributeError):
            notes.append(f"{rope.id} cannot be written into a configuration: put it on to read past the window")
    run.model.config.use_cache = True
    return notes
