"""A race over the catalogue as one self-contained page: which method to take, and how all others did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ropewalk.common.lengths import show
from ropewalk.methods.catalogue import entry
from ropewalk.report import numbers
from ropewalk.report.numbers import Estimate
from ropewalk.report.page import Figure, Table, environment

if TYPE_CHECKING:
    from ropewalk.common.statistics import Mean
    from ropewalk.fitting.recommendation import Family, Recommendation

COLUMNS = (
    "times the plain model's perplexity", "on other texts", "on short texts", "in a checkpoint", "candidates",
    "tokens read",
)  # fmt: skip


def render(found: Recommendation) -> str:
    """The page of a race."""
    return (
        environment()
        .get_template("fit.html.j2")
        .render(
            method="The best method",
            model=found.model["name"],
            to=found.to,
            beside="",
            verdict=_verdict(found),
            notes=list(_notes(found)),
            command="\n".join(found.lines) or f"ropewalk inspect {found.model['name']}",
            figures=[figure for figure in (_race(found), _left_out(found)) if figure.table.rows],
            settings=list(_settings(found)),
        )
    )


def _times(one: Mean | None) -> str:
    """How many times, with an interval."""
    return numbers.NOTHING if one is None else numbers.in_full(Estimate(one.value, one.low, one.high), numbers.quantity)


def _verdict(found: Recommendation) -> str:
    if not found.lines:
        return f"For {show(found.to)} tokens, leave the model as it is."
    plain = next(one for one in found.rivals if one.method == "none")
    unsure = "" if plain.sure else ", which is not surely better"
    return (
        f"Take {named(found.method)}: at {show(found.to)} tokens {_times(plain.times)} times the plain model's "
        f"perplexity{unsure}."
    )


def _notes(found: Recommendation) -> Iterator[str]:
    texts, others = found.data["searched"], found.data["compared"]
    for one in found.rivals:
        if one.method != "none":
            verdict = "surely better" if one.sure else "not surely better"
            yield f"It is {verdict} than the runner-up, {named(one.method)}: {_times(one.times)} times its perplexity."
    yield (
        f"On texts within the window it has {_times(found.short)} times the plain model's perplexity. The numbers "
        f"are of {others:,} texts that nobody searched on, intervals 95 %, over documents, or over the texts of one."
    )
    yield f"{found.candidates:,} candidates were tried on {texts:,} texts, and {found.tokens:,} tokens read in all."


def named(spelling: str) -> str:
    """A method by its title, with its options in brackets; long lists of numbers are left to the command."""
    name, bracket, options = numbers.rounded(spelling).partition("(")
    return entry(name).title + (f" ({options}" if bracket and "=(" not in options else "")


def _race(found: Recommendation) -> Figure:
    text = (
        "Every method by its best candidate, the best first: how many times the plain model's perplexity it has, on "
        "the texts of the search that it read. Who surely loses reads no further; by few texts the best of many looks "
        "better than it is. On other texts were read the recommended one and the runner-up."
    )
    return Figure("The race", text, [], Table(COLUMNS, [_row(one) for one in found.families]))


def _row(one: Family) -> list[str]:
    return [
        named(one.method),
        "over the tax" if one.plain is None else numbers.quantity(one.plain),
        _times(one.other),
        numbers.NOTHING if one.short is None else numbers.tax(one.short - 1),
        entry(one.method.partition("(")[0]).exportable.partition(":")[0],
        f"{one.candidates:,}",
        numbers.tokens(one.read),
    ]


def _left_out(found: Recommendation) -> Figure:
    rows = [[entry(name).title, why] for name, why in found.left_out.items()]
    return Figure("Left out", "Methods of the catalogue that took no part, and why.", [], Table(["reason"], rows))


def _settings(found: Recommendation) -> Iterator[tuple[str, str]]:
    yield "model", f"{found.model['name']}, {found.model['fingerprint'][:12]}"
    yield from ((name, str(value)) for name, value in found.settings.items() if value not in (None, ""))
    yield "texts", str(found.data["source"])
    yield "method, in full", found.method
