"""A plan, printed for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ropewalk.common.errors import cut
from ropewalk.common.lengths import show as length
from ropewalk.common.results import columns
from ropewalk.planning.advice import ORDER
from ropewalk.planning.cost import show_hours

if TYPE_CHECKING:
    from ropewalk.planning.advice import Ladder
    from ropewalk.planning.memory import Memory
    from ropewalk.planning.planner import Plan

GIB = 2**30


@dataclass(frozen=True)
class Choice:
    """One method, for a model of which no more is reckoned.

    Attributes:
        id: as ``extend`` and ``compare`` take it.
        what: it does.
        folder: whether a folder says it, and how.
    """

    id: str
    what: str
    folder: str


def show_choices(choices: Sequence[Choice], console: Console) -> None:
    """Print what there is to choose from."""
    listed = columns("method", "what it does", "in a folder")
    for one in choices:
        listed.add_row(one.id, one.what, one.folder)
    console.print(listed)


def show(made: Plan, console: Console) -> None:
    """Print a plan for a person."""
    shapes = made.shapes
    active = f", {count(shapes.active_parameters)} active" if shapes.active_parameters < shapes.parameters else ""
    console.print(
        Text(cut(made.architecture), "bold"), f"  {made.model}  {count(shapes.parameters)} parameters{active}", sep=""
    )
    line = f"window {made.window:,} ({length(made.window)}) -> {made.target:,} ({length(made.target)})"
    if made.scale > 1:
        line += f": the smallest factor that covers it is {made.scale:.4g}"
    console.print(line)
    if made.methods:
        _methods(made, console)
    part = f" ({made.part})" if made.part else ""
    where = f"{made.gpus} x {made.device}{part}, {made.room / GIB:.1f} GiB for tensors on each"
    if made.calibration:
        found = made.calibration
        factors = ", ".join(f"{key} x{value:.2f}" for key, value in vars(found.correction).items())
        where += f"; corrected by {found.length:,} tokens on {found.device}: {factors}"
    console.print(Text("\nMemory", "bold"), f"  {where}", sep="")
    _ladder(f"serving one request of {made.target:,} tokens", made.serving, console)
    _ladder(f"training on sequences of {made.target:,} tokens", made.training, console)
    if made.devices_needed:
        console.print(f"fits on {made.devices_needed} x {made.device}")
    if made.skip_wise:
        needed = ", ".join(step.name for step in made.skip_wise.steps[1:]) or "nothing"
        fits = "fits with" if made.skip_wise.fits else "does not fit even with"
        console.print(
            f"skip-wise training (PoSE) on {made.window:,} tokens at a time {fits} {needed}: "
            f"{parts_of(made.skip_wise.memory)}",
        )
    _cost(made, console)
    if made.notes:
        console.print("\nKnow", style="bold")
    for note in made.notes:
        console.print(f"- {note}")
    for tax in made.short_tax:
        console.print(f"- short-text tax, {tax.method}: {tax.result}; {tax.setting} ({tax.source})")
    if made.commands:
        console.print("\nNext", style="bold")
    for command in made.commands:
        console.print(command)
    if made.page:
        console.print(f"\nwritten to {made.page}")


def _methods(made: Plan, console: Console) -> None:
    table = columns("\nMethod", "\nwritten as", "without\ntraining", ">\nat", "published\nresult", "?\nsource", gap=1)
    silent: dict[str, list[str]] = {}
    for method in made.methods:
        if not method.results:
            silent.setdefault(method.written or method.why_not, []).append(method.id)
            continue
        reasons = method.why_not.replace(", ", "\n")
        head = (method.id, method.written or Text(reasons, "dim"), method.training_free)
        for result in method.results:
            source = result.source.removeprefix("arXiv ").removeprefix("https://github.com/")
            factor = f"x{result.scale:g}{'*' if result.trained else ' '}"
            table.add_row(*head, factor, result.result, Text(source, "dim"))
            head = ("", "", "")
    console.print(table)
    told = "*: after training; settings differ, so only compare ranks methods on one model"
    console.print(told, style="dim")
    if silent:
        said = "; ".join(f"{', '.join(names)} ({how})" for how, names in silent.items())
        console.print(f"no published number here: {said}", style="dim")


def _ladder(title: str, ladder: Ladder[Any], console: Console) -> None:
    needed = ", ".join(step.name for step in ladder.steps[1:])
    verdict = Text(f"fits{' with ' * bool(needed)}{needed}", "green") if ladder.fits else Text("does not fit", "red")
    console.print(f"\n{title}: ", verdict, f", {parts_of(ladder.memory)}", sep="")
    if len(ladder.steps) > 1:
        name, unit = unit_of(ladder.memory.total)
        table = columns("switch", f">{name} at the target", "?>longest that fits")
        for step in ladder.steps:
            style = "bold" if step.name == ladder.best else ""
            longest = f"{step.longest:,}" if step.longest else "none"
            table.add_row(step.name, f"{step.bytes / unit:,.1f}", longest, style=style)
        console.print(table)
        console.print(f"switches are {ORDER}", style="dim")
    else:
        console.print(f"longest that fits as it is: {ladder.steps[0].longest:,} tokens")
    if ladder.one_more:
        console.print(
            f"one more switch, {ladder.one_more.name}: {tokens_that_fit(ladder.one_more.longest)}", style="dim"
        )
    console.print(f"with every switch on: {tokens_that_fit(ladder.ceiling)}", style="dim")


def tokens_that_fit(longest: int) -> str:
    if not longest:
        return "no length fits"
    return f"{longest:,} tokens" if longest < 2**24 else f"more than {length(2**24)} tokens"


def _cost(made: Plan, console: Console) -> None:
    cost = made.cost
    timed = cost.training_hours is not None
    heads = [f"\nCost of {cost.tokens / 1e9:g}B tokens", ">\nFLOPs", "?>\nattention"]
    table = columns(*heads, *(["?>\ntime", "?>\ndevice hours"] if timed else []))
    rows = [(f"sequences of {made.target:,}", cost)]
    if made.skip_wise_cost:
        rows.append((f"skip-wise on {made.window:,}", made.skip_wise_cost))
    for name, each in rows:
        cells = [name, f"{each.training_flops:.3g}", f"{each.attention_share:.0%}"]
        if each.training_hours is not None and each.device_hours is not None:
            cells += [show_hours(each.training_hours), f"{each.device_hours:,.{0 if each.device_hours >= 10 else 2}f}"]
        table.add_row(*cells)
    console.print(table)
    if cost.prefill_seconds is not None and cost.decode_tokens_per_second is not None:
        console.print(
            f"one prompt of {made.target:,} tokens: {show_hours(cost.prefill_seconds / 3600)} prefill, then up to "
            f"{cost.decode_tokens_per_second:,.0f} tokens/s; times at {made.mfu:.0%} of {made.device}'s peak",
        )


def parts_of(memory: Memory) -> str:
    name, unit = unit_of(memory.total)
    parts = " + ".join(
        f"{part} {size / unit:,.1f}" for part, size in memory.parts.items() if size >= memory.total / 200
    )
    host = f", and {memory.host / unit:,.0f} {name} of the host's" if memory.host else ""
    return f"{memory.total / unit:,.1f} {name} = {parts}{host}"


def unit_of(size: int) -> tuple[str, int]:
    return ("GiB", GIB) if size >= GIB // 2 else ("MiB", 2**20)


def count(parameters: int) -> str:
    return f"{parameters / 1e9:,.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:,.1f}M"
