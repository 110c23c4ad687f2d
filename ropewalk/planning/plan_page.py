"""A plan as a page: whether it fits, on what, after which switches, and what is known of the methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ropewalk.planning.advice import ORDER
from ropewalk.planning.cost import show_hours
from ropewalk.planning.plan_view import GIB, count, parts_of, tokens_that_fit
from ropewalk.report import numbers, svg
from ropewalk.report.headline import listed
from ropewalk.report.page import (
    Cell,
    Column,
    Command,
    Folded,
    Item,
    KeyFigure,
    Page,
    Section,
    Table,
    Text,
    address,
    facts,
)

if TYPE_CHECKING:
    from ropewalk.planning.advice import Ladder, MethodAdvice
    from ropewalk.planning.planner import Plan

CLIPPED = 3  # rooms that a bar is long at most


def page_of_plan(made: Plan) -> Page:
    """What is on the page."""
    to = f"{made.target:,}"
    return Page(
        title=f"{made.model} to {to} tokens",
        subject=f"{made.model}, {count(made.shapes.parameters)} parameters, "
        + (
            f"from its window of {made.window:,} to {to} tokens" if made.scale > 1 else f"window {made.window:,} tokens"
        ),
        headline=f"One request of {to} tokens {_fits(made, made.serving, f' on {_devices(made)}')}",
        notes=list(_notes(made)),
        figures=list(_figures(made)),
        sections=list(_sections(made)),
    )


def _devices(made: Plan) -> str:
    return f"{made.gpus} x {made.device}" + (f" ({made.part})" if made.part else "")


def _fits(made: Plan, ladder: Ladder[Any], where: str = "") -> str:
    """``fits on 1 x rtx4090 with chunked prefill and fp8 weights: 16.2 of 21.8 GiB.``"""
    needed = listed([step.name for step in ladder.steps[1:]], len(ladder.steps))
    how = f"{' even' * (not ladder.fits)} with {needed}" if needed else ""
    share = f"{ladder.memory.total / GIB:,.1f} of {made.room / GIB:,.1f} GiB"
    return f"{'fits' if ladder.fits else 'does not fit'}{where}{how}: {share}{' on each' * (made.gpus > 1)}."


def _notes(made: Plan) -> Iterator[str]:
    needed = f" It fits on {made.devices_needed} x {made.device}." if made.devices_needed else ""
    yield f"Training on sequences of that length {_fits(made, made.training, ' there')}{needed}"
    if made.skip_wise:
        yield f"Skip-wise training (PoSE), {made.window:,} tokens at a time, {_fits(made, made.skip_wise)}"
    yield (
        f"Computed from the configuration, corrected by a step of {made.calibration.length:,} tokens on "
        f"{made.calibration.device}."
        if made.calibration
        else "Computed from the configuration; nothing was run."
    )


def _figures(made: Plan) -> Iterator[KeyFigure]:
    ladder, cost = made.serving, made.cost
    if made.scale > 1:
        yield KeyFigure("Stretch", f"{made.scale:.4g} times", f"{made.window:,} to {made.target:,} tokens", "stretch")
    yield KeyFigure("Memory holds a request of", tokens_that_fit(ladder.steps[-1].longest), "as the headline has it\n"
                    f"with every switch on: {tokens_that_fit(ladder.ceiling)}", "longest that fits")  # fmt: skip
    if cost.prefill_seconds is not None and cost.decode_tokens_per_second is not None:
        yield KeyFigure("First token after", show_hours(cost.prefill_seconds / 3600),
                        f"then up to {cost.decode_tokens_per_second:,.0f} tokens a second")  # fmt: skip
    if cost.training_hours is not None:
        yield KeyFigure(f"Training on {cost.tokens / 1e9:g}B tokens", show_hours(cost.training_hours),
                        f"at {made.mfu:.0%} of the peak", "device hours")  # fmt: skip


def _sections(made: Plan) -> Iterator[Section]:
    for title, ladder in (("Serving one request", made.serving), ("Training", made.training)):
        text = (
            f"At {made.target:,} tokens, on each device, a line per switch that is turned on; each keeps those above."
        )
        yield Section(title, text, [_ladder(made, ladder)], ["memory"])
    if made.methods:
        yield Section(
            "Methods",
            "What each would write into the configuration, and what was published of it nearest to this stretch. "
            "Settings differ: only a comparison on your model ranks methods.",
            [
                _methods([one for one in made.methods if one.results]),
                Folded(
                    "Methods without a published number here", [_methods([o for o in made.methods if not o.results])]
                ),
            ],
        )
    yield Section("What training costs", "", [_cost(made)])
    known = [*made.notes, *(f"Short-text tax of {one.method}: {one.result}; {one.setting} ({one.source})."
                            for one in made.short_tax)]  # fmt: skip
    if known:
        yield Section("What to know", "", [Text(one[:1].upper() + one[1:]) for one in known])
    if made.commands:
        yield Section("Next", "", [Command(one) for one in made.commands])
    yield Section("Assumed", "", [facts({
        "devices": _devices(made), "room for tensors on each": f"{made.room / GIB:,.1f} GiB",
        "share of the peak": f"{made.mfu:.0%}", "tokens to train on": f"{made.cost.tokens:,.0f}",
        "window": f"{made.window:,}", "promised by the configuration": f"{made.length:,}", "target": f"{made.target:,}",
    })])  # fmt: skip


def _ladder(made: Plan, ladder: Ladder[Any]) -> Table:
    most = min(max(made.room, *(step.bytes for step in ladder.steps)), CLIPPED * made.room)
    rows = [
        (
            Item(step.name if i else "as it is"),
            [
                Cell(f"{step.bytes / GIB:,.1f}", drawing=svg.amount_bar(step.bytes, made.room, most),
                     best=step.name == ladder.best and i > 0),
                Cell(f"{step.longest:,}" if step.longest else "none fits"),
            ],
        )
        for i, step in enumerate(ladder.steps)
    ]  # fmt: skip
    note = (
        f"The upright line is the room of {made.room / GIB:,.1f} GiB; a hollow bar exceeds it, and ends at "
        f"{CLIPPED} times that. Switches are {ORDER}. In the end: {parts_of(ladder.memory)}."
    )
    if ladder.one_more:
        note += f" One more switch, {ladder.one_more.name}, fits {tokens_that_fit(ladder.one_more.longest)}."
    columns = [Column("Memory", "memory", "GiB"), Column("Longest that fits", "longest that fits", "tokens")]
    return Table("Switch", columns, rows, note)


def _methods(methods: Sequence[MethodAdvice]) -> Table:
    rows = []
    for method in methods:
        results = "; ".join(f"at {one.scale:g} times{'*' * one.trained}: {one.result}" for one in method.results)
        source = next((one.source for one in method.results), "")
        rows.append((
            Item(method.title, method.id),
            [
                Cell(method.written or method.why_not, words=True), Cell(method.training_free, words=True),
                Cell(results or numbers.NOTHING, words=True),
                Cell(source.removeprefix("https://") or numbers.NOTHING, words=True,
                     link=address(source.removeprefix("arXiv ").removeprefix("https://"))),
            ],
        ))  # fmt: skip
    columns = [Column("Written as"), Column("Without training", "without training"),
               Column("Published result", "published result"), Column("Source")]  # fmt: skip
    return Table("Method", columns, rows, "*: after training.")


def _cost(made: Plan) -> Table:
    rows = []
    costs = [(f"Sequences of {made.target:,}", made.cost)]
    costs += [(f"Skip-wise on {made.window:,}", made.skip_wise_cost)] if made.skip_wise_cost else []
    for name, each in costs:
        timed = each.training_hours is not None and each.device_hours is not None
        times = [show_hours(each.training_hours or 0.0), f"{each.device_hours:,.2f}"] if timed else []
        share = f"{each.attention_share:.0%}"
        rows.append([f"{name} tokens", f"{each.training_flops:.3g}", share, *times])
    columns = [Column("Operations", "floating-point operations"), Column("Attention’s part", unit="of them"),
               *([Column("Time", unit="on all devices"), Column("Device hours", "device hours")]
                 if made.cost.training_hours is not None else [])]  # fmt: skip
    return Table.of(f"{made.cost.tokens / 1e9:g}B tokens", columns, rows)
