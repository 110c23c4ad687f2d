"""What a training will take, before it begins: tokens, steps, memory by component, and what would make more fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ropewalk.common.errors import UserError
from ropewalk.common.results import Result, columns
from ropewalk.planning import memory
from ropewalk.planning.cost import MFU, cost, show_hours
from ropewalk.planning.hardware import GIB, gpu, usable
from ropewalk.planning.memory import Memory, Training
from ropewalk.planning.shapes import Shapes, shapes
from ropewalk.training.loop import Part, parts, require_written
from ropewalk.training.loss import LOGITS
from ropewalk.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedConfig

SWITCHES: tuple[dict[str, Any], ...] = (
    {"memory": "selective"},
    {"memory": "checkpointed"},
    {"memory": "recurrent"},
    {"memory": "recurrent-checkpointed"},
    {"tiled_mlp": True},
    {"offload": ("optimizer",)},
    {"memory": "checkpointed", "offload": ("activations",)},
    {"memory": "recurrent-checkpointed", "offload": ("activations", "optimizer")},
    {"optimizer": "adamw-8bit"},
    {"trainable": "lora"},
    {"trainable": "lora", "quantise": "nf4"},
    {"micro": 1},
)
HERE = "this machine"
AGAIN = 4 / 3  # of forward and backward pass, where a forward pass is made twice


@dataclass(frozen=True)
class Switch:
    """Another value of a recipe that needs less.

    Attributes:
        options: as on the command line.
        bytes: that a step needs with it.
        longest: tokens of a sample that fit with it.
    """

    options: str
    bytes: int
    longest: int


@dataclass(frozen=True, repr=False)
class Forecast(Result):
    """A training that is yet to be.

    Attributes:
        recipe: as it was resolved.
        model: as the user named it.
        to: target length in tokens.
        parts: its stages, with lengths and samples.
        tokens: that are read in all.
        trained: parameters that move, of ``parameters``; None where they are a memory's own, which nobody has made yet:
            memory is then counted as if all of the model's moved, which is more.
        parameters: of the model.
        memory: of one device in the largest step.
        place: what the memory is of.
        room: bytes that tensors can have there.
        longest: tokens of a sample that fit as it is.
        switches: what would need less, the one that lengthens most first.
        hours: on accelerators that are named, at ``MFU`` of their peak; None for others.
        notes: what else to know.
    """

    recipe: Recipe
    model: str
    to: int
    parts: Sequence[Part]
    tokens: int
    trained: int | None
    parameters: int
    memory: Memory
    place: str
    room: int
    longest: int
    switches: Sequence[Switch]
    hours: float | None = None
    notes: Sequence[str] = ()

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.room

    def refuse_too_large(self) -> None:
        """Refuse what does not fit.

        Raises:
            UserError: with the switch that makes it fit.
        """
        if self.fits:
            return
        enough = next((one for one in self.switches if one.bytes <= self.room), None)
        raise UserError(
            f"a step needs {self.memory.total / GIB:,.1f} GiB, and {self.place} has {self.room / GIB:,.1f} GiB for it",
            f"Add {enough.options}, which needs {enough.bytes / GIB:,.1f} GiB." if enough else self._nearest(),
        )

    def _nearest(self) -> str:
        """What would come closest, where nothing fits."""
        best = max(self.switches, key=lambda one: one.longest, default=None)
        if best is None or best.longest <= self.longest:
            return f"Samples of {self.longest:,} tokens would fit: take a nearer target, --to."
        return f"Samples of up to {best.longest:,} tokens fit with {best.options}: take a nearer target, --to, as well."

    def show(self, console: Console) -> None:
        console.print(
            f"{self.recipe.name} to {self.to:,} tokens by {self.recipe.method}, on {self.model}", style="bold"
        )
        if self.trained is None:
            moving = f"new weights alone move, and none of {self.parameters:,}; memory is counted as if those did"
        else:
            moving = f"{self.trained:,} of {self.parameters:,} weights move"
        console.print(f"{self.recipe.steps:,} steps, {self.tokens:,} tokens; {moving}")
        if self.hours is not None:
            console.print(f"about {show_hours(self.hours)} on {self.place}, at {MFU:.0%} of its peak")
        table = columns("stage", ">steps", ">samples a step", ">tokens of one", ">positions to", ">rope for")
        for i, part in enumerate(self.parts):
            numbers = (part.steps, part.rows, part.window, part.reach, part.rope)
            table.add_row(str(i + 1), *(f"{n:,}" for n in numbers))
        console.print(table)
        console.print(f"\nmemory of a step, at {self.memory.moment}")
        table = columns("", ">GiB")
        for name, n in self.memory.parts.items():
            table.add_row(name, f"{n / GIB:.2f}")
        table.add_row("in all", f"{self.memory.total / GIB:.2f}", style="bold")
        if self.memory.host:
            table.add_row("beside, in the memory of the CPU", f"{self.memory.host / GIB:.2f}")
        console.print(table)
        console.print(
            f"{self.place} has {self.room / GIB:,.1f} GiB for it: {'it fits' if self.fits else 'it does not fit'}; "
            f"samples of up to {self.longest:,} tokens do",
        )
        if self.switches:
            console.print("\nwhat would make longer samples fit")
            table = columns("option", ">GiB", ">longest sample")
            for one in self.switches:
                table.add_row(one.options, f"{one.bytes / GIB:.2f}", f"{one.longest:,}")
            console.print(table)
        for note in self.notes:
            console.print(note)

    def to_dict(self) -> dict[str, Any]:
        own = {
            name: getattr(self, name)
            for name in ("model", "to", "tokens", "trained", "parameters", "place", "room", "hours")
        }
        return {
            **own,
            "steps": self.recipe.steps,
            "recipe": self.recipe.to_dict(),
            "stages": [asdict(part) for part in self.parts],
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "fits": self.fits,
            "longest": self.longest,
            "switches": [asdict(one) for one in self.switches],
            "notes": list(self.notes),
        }


def forecast(
    config: PreTrainedConfig,
    recipe: Recipe,
    to: int,
    trained: int,
    name: str,
    device: str = "",
    dtype: str = "",
    shard: int = 1,
    sequence: int = 1,
    devices: int = 1,
) -> Forecast:
    """What a recipe takes on a model; nothing is loaded.

    Args:
        config: of the model.
        recipe: resolved.
        to: target length in tokens.
        trained: the model's pretrained window.
        name: of the model.
        device: an accelerator, as ``plan`` takes it; empty: this machine.
        dtype: of the checkpoint.
        shard: processes that weights, gradients and optimizer are spread over.
        sequence: processes that share every sequence.
        devices: that train together.

    Raises:
        UserError: if model, recipe and target do not fit.
    """
    recipe.require(config, to)
    require_written(recipe, config, to)
    numbers, stages = shapes(config), parts(recipe, to, trained, cue=(0,))
    dtype = dtype if recipe.dtype == "auto" else recipe.dtype
    place, room = _place(device)
    largest, per = max(stages, key=lambda part: part.window), 2 if recipe.paired else 1

    def needs(other: Recipe, tokens: int) -> Memory:
        if place == HERE:
            other = replace(other, offload=())  # nothing moves
        rows = min(other.micro, largest.rows * per)
        return memory.training(numbers, how(other, dtype, shard, sequence), tokens * rows)

    def longest(other: Recipe) -> int:
        return memory.longest(lambda tokens: needs(other, tokens).total <= room)

    switches = []
    for changes in SWITCHES:
        try:
            other = recipe.with_changes(changes)
            other.require_memory()
        except UserError:  # does not go with what was asked for
            continue
        if place == HERE and "offload" in changes:
            continue
        taken = needs(other, largest.window).total
        if other != recipe and taken < needs(recipe, largest.window).total:
            options = " ".join(_typed(key, value) for key, value in changes.items() if getattr(recipe, key) != value)
            switches.append(Switch(options, taken, longest(other)))
    hours = None
    if device:
        works = [
            cost(numbers, part.window, part.steps * part.rows * per * part.window, gpu(device), devices)
            for part in stages
        ]
        again = 1 + (AGAIN - 1) * ((recipe.memory != "plain") + recipe.paired)
        hours = again * sum(work.training_hours or 0.0 for work in works)
    return Forecast(
        recipe=recipe,
        model=name,
        to=to,
        parts=stages,
        tokens=sum(part.steps * part.rows * per * part.window for part in stages),
        trained=moving(numbers, recipe),
        parameters=numbers.parameters,
        memory=needs(recipe, largest.window),
        place=place,
        room=room,
        longest=longest(recipe),
        switches=sorted(switches, key=lambda one: -one.longest),
        hours=hours,
    )


def how(recipe: Recipe, dtype: str, shard: int = 1, sequence: int = 1) -> Training:
    """A recipe as the planner counts it."""
    adapters = "qlora" if recipe.quantise == "nf4" else "lora"
    return Training(
        dtype="float32" if dtype == "float32" else "bfloat16",
        trainable="all" if recipe.trainable == "all" else adapters,  # type: ignore[arg-type]
        rank=recipe.rank,
        optimizer="adamw-8bit-master" if recipe.optimizer == "adamw-8bit" else recipe.optimizer,
        float32_gradients=True,
        checkpointing=recipe.memory not in ("plain", "recurrent"),
        selective=recipe.memory == "selective",
        chunked_loss=True,
        logits=LOGITS,
        recurrent=recipe.chunk if recipe.recurrent else 0,
        tiled_mlp=recipe.tiled_mlp,
        offload="activations" in recipe.offload,
        host_optimizer="optimizer" in recipe.offload,
        shard=shard,
        sequence=sequence,
    )


def moving(numbers: Shapes, recipe: Recipe) -> int | None:
    """Parameters that are trained; of adapters, as if they were on every linear map; None beside a frozen model."""
    memory = recipe.memory_method
    if memory is not None and memory.leaves_base:
        return None
    if recipe.trainable == "all":
        return numbers.parameters
    beside = numbers.embedding + numbers.head if "embeddings" in recipe.also else 0
    return beside + recipe.rank * sum(n * layer.adaptable for layer, n in numbers.layers)


def _typed(key: str, value: Any) -> str:
    """A field of a recipe as an option."""
    option = f"--{key.replace('_', '-')}"
    return option if value is True else f"{option} {','.join(value) if isinstance(value, tuple) else value}"


def _place(device: str) -> tuple[str, int]:
    """What the memory is of, and how much of it tensors can have."""
    if device:
        card = gpu(device)
        return card.name, usable(card.memory)
    if torch.cuda.is_available():
        free = torch.cuda.get_device_properties(0).total_memory
        return torch.cuda.get_device_name(0), usable(free)
    return HERE, usable(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
