"""A race over the catalogue as a page: which method to take, how sure that is, and how all others did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ropewalk.common.command_lines import command
from ropewalk.common.lengths import show
from ropewalk.common.naming import counted
from ropewalk.methods.catalogue import entry
from ropewalk.report import numbers
from ropewalk.report.headline import bounds, change, relative
from ropewalk.report.numbers import Estimate
from ropewalk.report.page import Cell, Column, Item, KeyFigure, Page, Section, Table, address, facts

if TYPE_CHECKING:
    from ropewalk.common.statistics import Mean
    from ropewalk.fitting.recommendation import Family, Recommendation

COLUMNS = (
    Column("Perplexity", "relative perplexity", "against the plain model"),
    Column("On other texts", "relative perplexity", "against the plain model"),
    Column("Short texts", "short texts"),
    Column("In a checkpoint", "in a checkpoint"),
    Column("Tried", unit="candidates"),
    Column("Read", unit="tokens"),
)


def page_of_race(found: Recommendation) -> Page:
    """The page of a race."""
    to, model = numbers.tokens(found.to), found.model["name"]
    left_out = [[entry(name).title, why] for name, why in found.left_out.items()]
    return Page(
        title=f"The best method for {model} to {to} tokens",
        subject=f"The best method for {model} to {to} tokens",
        headline=_headline(found),
        notes=list(_notes(found)),
        figures=list(_figures(found)),
        command="\n".join(found.lines) or command("inspect", model),
        sections=[
            _race(found),
            *([Section("Left out", "Methods of the catalogue that took no part, and why.",
                       [Table.of("Method", [Column("Reason")], left_out, words=True)])] if left_out else []),
            Section("Settings", "", [facts({
                "model": f"{model}, {found.model['fingerprint'][:12]}", **found.settings,
                "texts": found.data["source"], "method, in full": found.method,
            })]),
        ],
    )  # fmt: skip


def _estimate(one: Mean) -> Estimate:
    return Estimate(one.value, one.low, one.high)


def _headline(found: Recommendation) -> str:
    if not found.lines:
        return f"For {show(found.to)} tokens, leave the model as it is."
    plain = next(one for one in found.rivals if one.method == "none")
    unsure = "" if plain.sure else ", which is not surely better"
    words = change(_estimate(plain.times), "the plain model’s")
    over = f"{_about_limit(found)} " * (found.limit == "over")
    return f"{over}Take {named(found.method)}: at {show(found.to)} tokens its perplexity is {words}{unsure}."


def _about_limit(found: Recommendation) -> str:
    said = f"{found.about_limit}{found.instead_said(named)}"
    return f"{said[:1].upper()}{said[1:]}."


def _notes(found: Recommendation) -> Iterator[str]:
    if found.about_limit and found.limit != "over":
        yield _about_limit(found)
    for one in found.rivals:
        if one.method != "none":
            sure = "surely better" if one.sure else "not surely better"
            who = named(one.method)
            words = change(_estimate(one.times), f"that of {who}")
            rank = "the runner-up, " * (one.method == found.runner_up)
            yield f"It is {sure} than {rank}{who}: its perplexity is {words}."
    yield (
        f"The numbers are of texts that nobody searched on; {found.intervals}. {found.candidates:,} candidates were "
        f"tried on {counted(found.data['searched'], 'text')}, reading {found.tokens:,} tokens."
    )


def _figures(found: Recommendation) -> Iterator[KeyFigure]:
    for one in found.rivals:
        who = "the plain model" if one.method == "none" else named(one.method)
        times = _estimate(one.times)
        small = f"perplexity\n{bounds(times)}"
        yield KeyFigure(f"Against {who}", relative(times.value, times.value), small, "relative perplexity")
    short = _estimate(found.short)
    small = f"against the plain model,\nwithin the window\n{bounds(short)}"
    yield KeyFigure("Short texts", relative(short.value, short.value), small, "short texts")


def named(spelling: str) -> str:
    """A method by its title, with its options in brackets; long lists of numbers are left to the command."""
    name, bracket, options = numbers.rounded(spelling).partition("(")
    return entry(name).title + (f" ({options}" if bracket and "=(" not in options else "")


def _race(found: Recommendation) -> Section:
    text = (
        "Every method by its best candidate, the best first: its perplexity against the plain model's, on the texts of "
        "the search that it read. Who surely loses reads no further; by few texts the best of many looks better than "
        "it is. On other texts were read the recommended one and the runner-up."
    )
    return Section("The race", text, [Table("Method", COLUMNS, [_row(one) for one in found.families])])


def _row(one: Family) -> tuple[Item, list[Cell]]:
    of = entry(one.method.partition("(")[0])
    other = _estimate(one.other) if one.other else Estimate()
    return Item(named(one.method), of.id, link=address(of.paper)), [
        Cell("over the tax" if one.plain is None else relative(one.plain, one.plain)),
        Cell(relative(other.value, other.value), bounds(other)),
        Cell(numbers.NOTHING if one.short is None else numbers.tax(one.short - 1)),
        Cell(of.exportable.partition(":")[0]),
        Cell(f"{one.candidates:,}"),
        Cell(numbers.tokens(one.read)),
    ]
