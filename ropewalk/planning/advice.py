"""What to switch on so that a length fits, and which methods reach it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ropewalk.common.errors import UserError
from ropewalk.methods.catalogue import CATALOGUE, Entry
from ropewalk.planning import memory
from ropewalk.planning.memory import Memory, Serving, Training
from ropewalk.planning.published import Published, nearest
from ropewalk.planning.shapes import Shapes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

How = TypeVar("How", bound=Training | Serving)
STOPPED = 1e30  # as a factor: the pair does not rotate
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128)
ORDER = "tried in the order of what they cost in quality, and left off where others are enough"
PREFILL_CHUNK = 8192  # tokens per prefill pass of an engine that splits prompts


@dataclass(frozen=True)
class Switch(Generic[How]):
    """One thing to turn on.

    Attributes:
        name: for people.
        tier: what it costs in quality: 0 nothing but time, then more and more; lower tiers are tried first.
        on: the settings with it.
    """

    name: str
    tier: int
    on: Callable[[How], How]


@dataclass(frozen=True)
class Step:
    """A row of a ladder.

    Attributes:
        name: what was switched on.
        bytes: on one device at the target length.
        longest: tokens that fit, all earlier switches included; 0 if none do.
    """

    name: str
    bytes: int
    longest: int


@dataclass(frozen=True)
class Ladder(Generic[How]):
    """From a plain start, switch after switch, to settings that fit.

    Attributes:
        how: the settings reached.
        memory: with them, at the target length.
        steps: the start, then one row per switch.
        fits: whether the target does.
        one_more: the switch that would lengthen most beyond these settings, with what it gives; None if none would.
        ceiling: tokens that fit with every switch on.
        best: name of the switch that saved most; empty if none was needed.
    """

    how: How
    memory: Memory
    steps: tuple[Step, ...]
    fits: bool
    one_more: Step | None
    ceiling: int

    @property
    def best(self) -> str:
        saved = [
            (before.bytes - after.bytes, after.name) for before, after in zip(self.steps, self.steps[1:], strict=False)
        ]
        return max(saved)[1] if saved else ""


def training_switches(shapes: Shapes, gpus: int) -> list[Switch[Training]]:
    """Everything that makes a training step smaller, on so many devices."""
    parallel = sequence_devices(shapes, gpus)
    several = [
        Switch[Training](f"FSDP over {gpus}", 0, lambda how: replace(how, shard=gpus)),
        Switch[Training](f"sequence parallel over {parallel}", 0, lambda how: replace(how, sequence=parallel)),
    ]
    return [
        Switch("gradient checkpointing", 0, lambda how: replace(how, checkpointing=True)),
        Switch("chunked loss", 0, lambda how: replace(how, chunked_loss=True)),
        *(several[:1] if gpus > 1 else []),
        *(several[1:] if parallel > 1 else []),
        Switch("tiled MLP", 0, lambda how: replace(how, tiled_mlp=True)),
        Switch("layer inputs offloaded", 1, lambda how: replace(how, offload=how.checkpointing)),
        Switch("8-bit AdamW", 1, lambda how: replace(how, optimizer="adamw-8bit")),
        Switch("paged 8-bit AdamW", 2, lambda how: replace(how, optimizer="paged-adamw-8bit")),
        Switch("LoRA", 3, lambda how: replace(how, trainable="lora")),
        Switch("QLoRA (4-bit base)", 4, lambda how: replace(how, trainable="qlora")),
    ]


def serving_switches(shapes: Shapes, gpus: int) -> list[Switch[Serving]]:
    """Everything that makes a request smaller, on so many devices.

    Eight bits of the cache round keys and values; of the weights, every product of every layer. Four bits of the
    weights come last: what they cost in short texts is little, and it grows with the text.
    """
    tensor = Switch[Serving](f"tensor parallel over {gpus}", 0, lambda how: replace(how, tensor=gpus))
    return [
        Switch("chunked prefill", 0, lambda how: replace(how, chunk=PREFILL_CHUNK)),
        *([tensor] if gpus > 1 and shapes.heads % gpus == 0 else []),
        Switch("fp8 cache", 1, lambda how: replace(how, cache="fp8")),
        Switch("fp8 weights", 2, lambda how: replace(how, weights="fp8")),
        Switch("int4 weights", 3, lambda how: replace(how, weights="int4")),
    ]


def sequence_devices(shapes: Shapes, gpus: int) -> int:
    """Devices that one sequence can be spread over: heads must divide evenly (Ulysses, arXiv 2309.14509)."""
    return next(n for n in range(gpus, 0, -1) if gpus % n == 0 and shapes.heads % n == 0)


def climb(
    start: How,
    switches: Sequence[Switch[How]],
    needs: Callable[[How, int], Memory],
    target: int,
    room: int,
) -> Ladder[How]:
    """Turn on switches, those that cost nothing first and the most saving one of a tier first, until ``target`` fits.

    What turns out not to be needed in the end is left off again.
    """

    def size(chosen: Sequence[Switch[How]]) -> int:
        return needs(settings(start, chosen), target).total

    chosen: list[Switch[How]] = []
    for tier in sorted({switch.tier for switch in switches}):
        left = [switch for switch in switches if switch.tier == tier]
        while left and size(chosen) > room:
            best = min(left, key=lambda switch: size([*chosen, switch]))
            if size([*chosen, best]) >= size(chosen):
                break
            chosen.append(best)
            left.remove(best)
    if size(chosen) <= room:
        for switch in sorted(chosen, key=lambda switch: -switch.tier):
            without = [other for other in chosen if other is not switch]
            if size(without) <= room:
                chosen = without

    def step(name: str, switches: Sequence[Switch[How]]) -> Step:
        return Step(name, size(switches), memory.longest(_fits(needs, settings(start, switches), room)))

    steps = [step("plain", []), *(step(switch.name, chosen[: i + 1]) for i, switch in enumerate(chosen))]
    further = [step(switch.name, [*chosen, switch]) for switch in switches if switch not in chosen]
    most = max(further, key=lambda found: found.longest, default=None)
    how = settings(start, chosen)
    return Ladder(
        how=how,
        memory=needs(how, target),
        steps=tuple(steps),
        fits=steps[-1].bytes <= room,
        one_more=most if most and most.longest > steps[-1].longest else None,
        ceiling=step("all", switches).longest,
    )


def devices_needed(fits: Callable[[int], bool], gpus: int) -> int | None:
    """The smallest usual number of devices above ``gpus`` for which ``fits`` holds; None if none does."""
    return next((n for n in DEVICES if n > gpus and fits(n)), None)


def settings(start: How, switches: Sequence[Switch[How]]) -> How:
    """``start`` with all ``switches`` on, in order."""
    for switch in switches:
        start = switch.on(start)
    return start


def _fits(needs: Callable[[How, int], Memory], how: How, room: int) -> Callable[[int], bool]:
    return lambda length: needs(how, length).total <= room


@dataclass(frozen=True)
class MethodAdvice:
    """One method of the catalogue for one model and target.

    Attributes:
        id: in the catalogue.
        title: the paper's name.
        written: what a configuration would say, in short; empty if it cannot.
        why_not: why it cannot.
        training_free: as in the catalogue, decided for this scale where the catalogue names a limit.
        results: published numbers nearest to this scale, untrained ones first.
        rope_parameters: layer type -> what would be written.
    """

    id: str
    title: str
    written: str
    why_not: str
    training_free: str
    results: tuple[Published, ...]
    rope_parameters: dict[str, dict[str, Any]]


def methods(config: PreTrainedConfig, target: int, scale: float) -> list[MethodAdvice]:
    """Every method of the catalogue that changes something on its own, in the catalogue's order."""
    listed = [entry for entry in CATALOGUE if entry.id != "none" and entry.training_free != "refinement"]
    return [_advice(entry, config, target, scale) for entry in listed if not entry.kind.startswith("refinement")]


def _advice(entry: Entry, config: PreTrainedConfig, target: int, scale: float) -> MethodAdvice:
    method = entry.load()()
    lacking = method.absent((*method.measured, *method.given))
    why = [] if entry.exportable.startswith(("yes", "frozen")) else ["run-time code"]
    if lacking:
        why.append("fit first" if method.measured else "options needed")
    parameters: dict[str, dict[str, Any]] = {}
    if not why:
        try:
            parameters = method.saved(config, target)  # type: ignore[attr-defined]
        except UserError:
            why.append("not here")
    found = (nearest(entry.id, scale, trained) for trained in (False, True))
    return MethodAdvice(
        id=entry.id,
        title=entry.title,
        written=describe(next(iter(parameters.values()))) if parameters else "",
        why_not=", ".join(why),
        training_free=training_free(entry, scale),
        results=tuple(result for result in found if result is not None),
        rope_parameters=parameters,
    )


def training_free(entry: Entry, scale: float) -> str:
    """The catalogue's word, decided where it names a limit: "to 8x" is "yes" for a scale of 4 and "no" for 16."""
    limit = re.fullmatch(r"to (\d+)x", entry.training_free)
    return entry.training_free if limit is None else "yes" if scale <= int(limit.group(1)) else "no"


def describe(parameters: dict[str, Any]) -> str:
    """Rope parameters in a few words: ``yarn x4``, ``theta 4.134e+06``."""
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return f"theta {parameters['rope_theta']:.4g}"
    if kind == "longrope":
        factors = parameters["long_factor"]
        most = "no rotation" if max(factors) >= STOPPED else f"{max(factors):.3g}"
        return f"longrope x{min(factors):.3g} to {most}"
    return f"{kind} x{parameters.get('factor', 1.0):g}"
