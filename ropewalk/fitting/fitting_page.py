"""A search as one self-contained page: what was found, what else there is to choose, and how it was come by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ropewalk.common import naming
from ropewalk.common.files import is_page
from ropewalk.common.naming import counted
from ropewalk.common.whole import new_file
from ropewalk.fitting.fitter import exportable, fitted_part, loaded
from ropewalk.fitting.rope_factors import applies
from ropewalk.fitting.searching import GRADIENTS, LONG, OTHER_TEXTS, SHARE, SHORT, TOKENS, Searching
from ropewalk.methods.catalogue import BY_NAME
from ropewalk.methods.fit_file import DIGITS, DOCUMENTS, DOUBT, LIMIT, VERSUS, options_on
from ropewalk.report import numbers, svg
from ropewalk.report.headline import bounds, change, differs, listed, relative
from ropewalk.report.numbers import Estimate
from ropewalk.report.page import (
    LEADER_STYLES,
    Chart,
    Column,
    Facts,
    KeyFigure,
    Page,
    Section,
    Table,
    chart,
    facts,
    with_numbers,
)

if TYPE_CHECKING:
    from ropewalk.fitting.recommendation import Recommendation
    from ropewalk.methods.base import Method
    from ropewalk.methods.fit_file import Fit

AnyFound = TypeVar("AnyFound", "Fit", "Recommendation")
FOUND, *OTHERS = LEADER_STYLES
FRONT = svg.Style("plain", None, "circle")
QUIET = svg.Style("muted", None, "circle")
AROUND = 4.0  # what lies further from the front than so many times its width is left out of the drawing
LEAST = 0.03, math.log(1.02)  # widths of a front, of the tax and in nats, that it has at least for this purpose
ABOVE = 1.1  # times the first best perplexity: the upper end of a search's course


def page_of(file: Path) -> Path:
    """Where the page of a fit lies: beside its file, ``factors.html`` of ``factors.json``, else ``FILE.html``."""
    return file.with_suffix(".html") if file.suffix == ".json" else Path(f"{file}.html")


def has_page(method: Method) -> bool:
    """Whether the fit of a method, alone or composed with others, ends with a front.

    Raises:
        UserError: if there is nothing to fit.
    """
    return issubclass(loaded(fitted_part(method).name), Searching)


def write(found: AnyFound, page: Callable[[AnyFound], Page], path: Path, overwrite: bool = False) -> AnyFound:
    """Write a fit file, if there is one to write, and the page beside it: both or none.

    Args:
        found: what was found.
        page: what makes its page.
        path: of the fit file, as the user spells it.
        overwrite: replace what ropewalk wrote.

    Returns:
        What was found, which knows where it lies.

    Raises:
        UserError: if something is there already (with ``overwrite``, if ropewalk did not write it), or the place
            cannot be written.
    """
    beside = page_of(path)
    html = page(found.at(path)).render()
    with new_file(beside, is_page, [], overwrite) as file:
        file.write_text(html, "utf-8")
        found = found.written(path, overwrite)
    return replace(found, page=str(beside))


def page_of_fit(fit: Fit) -> Page:
    """The page of a fit that has a front."""
    method, to = _title(fit.method), numbers.tokens(fit.to)
    return Page(
        title=f"{method} for {fit.model['name']} to {to} tokens",
        subject=f"{method}, fitted to {fit.model['name']} for {to} tokens"
        + (f", beside {'+'.join(fit.beside.values())}" * bool(fit.beside)),
        headline=_headline(fit),
        notes=list(_notes(fit)),
        figures=list(_figures(fit)),
        command=replace(fit, exportable=exportable(fit.method, fit.found, fit.beside)).lines[-1],
        sections=[*(one for one in _sections(fit) if one.blocks), Section("Settings", "", [_settings(fit)])],
    )


def _title(method: str) -> str:
    """Of a spelling; options behind it."""
    name, bracket, options = method.partition("(")
    return f"{BY_NAME[name].title} {bracket}{options}".rstrip() if name in BY_NAME else method


def _what(fit: Fit) -> str:
    """What counts."""
    return LONG[fit.settings["by"]].removeprefix("perplexity of ")


def _versus(fit: Fit) -> dict[str, Estimate]:
    """Rivals, the best one first, and how many times their perplexity that of what was found is."""
    as_it_is = naming.spelled(fit.method, fit.options)
    itself = {as_it_is: f"{_title(as_it_is)} as it is"}
    found = {itself.get(name, _title(name)): Estimate(**one) for name, one in fit.seen.get(VERSUS, {}).items()}
    return dict(sorted(found.items(), key=lambda item: -(item[1].value or 0.0)))


def _differs(fit: Fit, one: Estimate) -> str:
    """Pieces of one document make nothing sure."""
    return "" if fit.seen.get(DOCUMENTS) == 1 else differs(one)


def _headline(fit: Fit) -> str:
    """A broken limit first; then against the best of the others: better or worse only where the interval says so."""
    over = fit.seen.get(LIMIT) == "over"
    return f"{_sentence(fit.limit)} {_against(fit)}" if over else _against(fit)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _against(fit: Fit) -> str:
    versus = _versus(fit)
    if not versus:
        reached = numbers.quantity(fit.seen[LONG[fit.settings["by"]]])
        return f"A perplexity of {reached} on {_what(fit)}; there were no other texts to check it on."
    name, one = next(iter(versus.items()))
    how = {"lower": "surely better than", "higher": "surely worse than"}.get(
        _differs(fit, one), "not surely better or worse than"
    )
    method, what = _title(fit.method), _what(fit)
    return f"{method} as fitted reads {what} of other texts {how} {name}: its perplexity is {change(one, f'{name}’s')}."


def _notes(fit: Fit) -> Iterator[str]:
    versus, seen, data = _versus(fit), fit.seen, fit.data
    if fit.limit and seen[LIMIT] != "over":
        yield _sentence(fit.limit)
    if versus:
        texts, documents = seen[OTHER_TEXTS], seen[DOCUMENTS]
        others = [change(one, f"{name}’s") for name, one in versus.items()][1:]
        unsure = [name for name, one in versus.items() if not _differs(fit, one)]
        worse = [name for name, one in versus.items() if _differs(fit, one) == "higher"]
        yield (
            f"The other texts, {texts} of {counted(documents, 'document')}, were not searched on; a lower "
            "perplexity is better, and in brackets are 95 % intervals."
            + (f" It is {listed(others)}." if others else "")
            + (f" It is surely worse than {listed(worse)}." if worse else "")
            + (
                f" Against {listed(unsure)} nothing is sure: more {'texts' if documents > 1 else 'documents'} tell."
                if unsure
                else ""
            )
        )
    if doubt := fit.seen.get(DOUBT):
        yield f"{DOUBT.capitalize()}: {doubt}."
    share = (
        f"{numbers.percent(seen[SHARE])} of what reading every text takes"
        if SHARE in seen
        else (f"{seen[GRADIENTS]:,} of them for gradients: a step along one is no candidate")
    )
    yield (
        f"{seen['candidates']:,} candidates were tried on {counted(data['texts'], 'text')} of "
        f"{data['tokens'] // data['texts']:,} tokens. They read {seen[TOKENS]:,} tokens, {share}."
    )


def _figures(fit: Fit) -> Iterator[KeyFigure]:
    """Of the texts that were searched on."""
    seen, searched = fit.seen, "on the texts that were searched on"
    yield KeyFigure(f"Perplexity of {_what(fit)}", _value(seen[LONG[fit.settings["by"]]]), searched, "long texts")
    within = f"the first {seen['window']:,} tokens of each"
    yield KeyFigure("Short texts", _tax(seen[SHORT] - 1), f"against the plain model,\n{within}", "short texts")
    for name, one in list(_versus(fit).items())[:1]:
        small = f"{bounds(one)}\non other texts"
        yield KeyFigure(f"Against {name}", relative(one.value, one.value), small, "relative perplexity")


def _tax(share: float | None) -> str:
    """A share with its sign, to three digits: ``+1.25%``."""
    return numbers.NOTHING if share is None else f"{100 * share:+.3g}%".replace("-", "\N{MINUS SIGN}")


def _value(perplexity: float) -> str:
    """To four digits: candidates differ by little."""
    return f"{perplexity:#.4g}".removesuffix(".") if 1 <= perplexity < 1e4 else numbers.quantity(perplexity)


def _sections(fit: Fit) -> Iterator[Section]:
    course = fit.seen.get("course", [])
    looks = dict(zip((one["name"] for one in course if "name" in one), chain(OTHERS, repeat(QUIET)), strict=False))
    yield _front(fit, course, looks)
    yield _choice(fit)
    if course:
        yield _course(fit, course)
    if "pairs" in fit.seen:
        yield _factors(fit, looks)


def _point(one: Mapping[str, Any], n: int, note: str = "") -> svg.Point:
    """A candidate of the front's chart."""
    tax, perplexity = one["tax"] - 1, one["perplexity"]
    said = f"{_tax(tax)} on short texts, {_value(perplexity)} on long ones{note}"
    if one.get("texts", n) < n:
        said += f", by {one['texts']} of {n} texts, after which it was dropped"
    return svg.Point(tax, Estimate(perplexity), said)


def _front(fit: Fit, course: Sequence[Mapping[str, Any]], looks: Mapping[str, svg.Style]) -> Section:
    """Long texts against short ones."""
    front, n, what = fit.seen["front"], fit.data["texts"], _what(fit)
    known = [one for one in course if "name" in one and {"tax", "perplexity"} <= one.keys()]
    whole = [one for one in course if "name" not in one and one["texts"] == n and "tax" in one]
    chosen = [one for one in front if options_on(one) == fit.found]
    axes = []
    for i, of in enumerate((lambda one: one["tax"], lambda one: math.log(one["perplexity"]))):
        low, high = (end(map(of, front)) for end in (min, max))
        room = AROUND * max(high - low, LEAST[i])
        axes.append((of, low - room, high + room))
    near = [one for one in (*whole, *known) if all(low <= of(one) <= high for of, low, high in axes)]
    beyond = [f"{_title(one['name'])} ({_point(one, n).note})" for one in known if one not in near]
    series = [
        svg.Series("tried", "tried", QUIET, [_point(one, n) for one in whole if one in near], joined=False),
        svg.Series("front", "front", FRONT, [_point(one, n) for one in front]),
        *(svg.Series(one["name"], _title(one["name"]), looks[one["name"]], [_point(one, n)])
          for one in known if one in near),
        svg.Series("found", "found", FOUND, [_point(one, n) for one in chosen[:1]]),
    ]  # fmt: skip
    points = [point for one in series for point in one.points]
    x = svg.Axis.around("perplexity of short texts", [p.x for p in points], _tax, pad=0.06)
    y = svg.Axis.around(f"perplexity of {what}, log scale", [p.estimate.value or 1.0 for p in points], numbers.tick,
                        10, pad=0.08)  # fmt: skip
    text = (
        "The perplexity of short texts, against the plain model's, and that of long ones: lower is better, so the best "
        "is at the lower left. The front are those candidates that no other one beats in both. Faint points are the "
        "others that read all texts; what was dropped on the way has no place here, but for the methods that people "
        "know."
    )
    if beyond:
        text += f" Far off: {'; '.join(beyond)}."
    drawn = chart("", series, x, y, "Front", beside=True)
    return Section("Long texts against short ones", text, drawn, ["short texts", "long texts"])


def _choice(fit: Fit) -> Section:
    """The points of the front, with what picks them."""
    rows = []
    for one in fit.seen["front"]:
        tax = fit.picking(one)
        rows.append([f"tax={tax:.{DIGITS}g}", _tax(one["tax"] - 1), _value(one["perplexity"])])
        if options_on(one) == fit.found:
            rows[-1][0] += ", as found"
    use = f"{fit.method}(fitted={fit.path}, {rows[0][0].partition(',')[0]})"
    text = (
        f"Say how much worse short texts may be read, and the best that keeps to it is taken, without another search: "
        f"{use}. Both columns are of the texts that were searched on. These are all that were found; a limit on the "
        "search itself (--settings tax=0.01) finds more below it."
    )
    columns = [Column("Short texts", "short texts"), Column(f"Perplexity of {_what(fit)}", "long texts")]
    return Section("Pick another", text, [Table.of("Option", columns, rows)])


def _course(fit: Fit, course: Sequence[Mapping[str, Any]]) -> Section:
    """The best so far."""
    n, limit = fit.data["texts"], fit.settings.get("tax")
    best, line, cloud = math.inf, [], []
    for i, one in enumerate(course, 1):
        value = one.get("perplexity")
        if value is None:
            continue
        if one["texts"] == n and (limit is None or one["tax"] <= 1 + limit):
            best = min(best, value)
        if best < math.inf:
            line.append(svg.Point(i, Estimate(best), f"candidate {i:,}: {_value(best)}"))
        note = f"candidate {i:,}, {one['texts']} of {n} texts: {_value(value)}"
        cloud.append(svg.Point(i, Estimate(value), note))
    top = ABOVE * max((point.estimate.value or 0.0 for point in line), default=1.0)
    inside = [point for point in cloud if (point.estimate.value or 0.0) <= top]
    series = [
        svg.Series("tried", "tried", QUIET, inside, joined=False),
        svg.Series("best", "best so far", FOUND, line),
    ]
    x = svg.Axis.around("candidates", [p.x for p in cloud], lambda value: f"{value or 0:,.0f}", pad=0.02)
    y = svg.Axis.around(f"perplexity of {_what(fit)}, log scale",
                        [p.estimate.value or 1.0 for p in (*line, *inside)], numbers.tick, 10, pad=0.08)  # fmt: skip
    left = Counter(one["texts"] for one in course)
    dropped = [f"{left[i]:,} after {i} of {n} texts" for i in sorted(left) if 0 < i < n]
    text = "Lower is better. " + (
        f"Dropped as surely worse than the best were {', '.join(dropped)}; {left[n]:,} read all."
        if dropped
        else f"{left[n]:,} candidates read all texts."
    )
    if left[0]:
        more = _tax(limit) if limit is not None else "a part of what the best one does, a limit to widen the front"
        text += f" {left[0]:,} tax short texts more than {more}, and read nothing else."
    text += (
        " A faint point is a candidate; of one that was dropped it is what the found one has, times the ratio of both "
        "on what it read."
    )
    if len(cloud) > len(inside):
        above = len(cloud) - len(inside)
        text += f" {above:,} lie{'s' * (above == 1)} above."
    return Section("The search", text, chart("", series, x, y, "Best so far"))


def _factors(fit: Fit, looks: Mapping[str, svg.Style]) -> Section:
    """By what each wavelength is stretched."""
    pairs, window = fit.seen["pairs"], fit.seen["window"]
    waves = [one["wavelength"] for one in pairs]
    found: dict[str, tuple[svg.Style, Sequence[float]]] = {"found": (FOUND, fit.found["factors"])} | {
        name: (looks.get(name, QUIET), [one[name] for one in pairs]) for name in pairs[0] if name != "wavelength"
    }
    series = [
        svg.Series(name, _title(name), style, [
            svg.Point(wave, Estimate(factor), f"a wavelength of {numbers.quantity(wave)}: {numbers.quantity(factor)}")
            for wave, factor in zip(waves, factors, strict=True)
        ])
        for name, (style, factors) in found.items()
    ]  # fmt: skip
    rows = [
        [f"{i}", numbers.quantity(wave), *(numbers.quantity(factors[i]) for _, factors in found.values())]
        for i, wave in enumerate(waves)
    ]
    x = svg.Axis.around("wavelength in tokens, log scale", waves, numbers.tick, 10, pad=0.02)
    y = svg.Axis.around("factor, log scale", [p.estimate.value or 1.0 for s in series for p in s.points],
                        numbers.tick, 10, pad=0.06)  # fmt: skip
    marks = [svg.Mark(window, f"window {numbers.tokens(window)}")]
    text = (
        "By what the wavelength of each rotated pair of dimensions is stretched. Pairs beyond the window have not been "
        "seen in a full turn."
    )
    columns = [Column("Wavelength", "wavelength", "tokens"), *(Column(_title(name), "factor") for name in found)]
    drawn: list[Chart] = chart("", series, x, y, "Factors", marks)
    table = Table.of("Pair", columns, rows)
    return Section("The factors", text, with_numbers(drawn, table, "factor"), ["wavelength"])


def _settings(fit: Fit) -> Facts:
    """What it was found by and for."""
    data = fit.data
    settings = {name: value for name, value in fit.settings.items() if applies(name, fit.settings)}
    return facts({
        "file": fit.path,
        "model": f"{fit.model['name']}, {fit.model['fingerprint'][:12]}",
        **fit.options,
        **settings,
        "texts": f"{data['source']}: {data['texts']:,}, {data['tokens']:,} tokens, {data['hash'][:12]}",
        **{name: f"{value:,}" if isinstance(value, int) else numbers.quantity(value)
           for name, value in fit.found.items() if not isinstance(value, tuple)},
        "ropewalk": fit.ropewalk,
    })  # fmt: skip
