"""A training as a page: what it read before and after, and the loss on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ropewalk.common.naming import counted
from ropewalk.common.statistics import ratio
from ropewalk.report import numbers, svg
from ropewalk.report.headline import bounds, change, differs
from ropewalk.report.numbers import Estimate
from ropewalk.report.page import (
    LEADER_STYLES,
    PLAIN_STYLE,
    Block,
    Cell,
    Chart,
    Column,
    Command,
    Folded,
    Item,
    KeyFigure,
    Page,
    Section,
    Table,
    chart,
    facts,
    with_numbers,
)
from ropewalk.training.readings import CAME, named, stretch

if TYPE_CHECKING:
    from ropewalk.training.trained import Key, Trained

POINTS = 80  # on a line by step; a point is the mean of the steps around it
GIB = 2**30
UNTRAINED = 0  # the reading of a model that was extended, and not trained yet


def page_of_training(trained: Trained) -> Page:
    """What is on the page."""
    to = numbers.tokens(trained.to)
    short = trained.texts[1]
    repeat = "This command, where it was given, trains the same again into another folder (--out)."
    repeat += f" {short} of the texts are in no sample." if short else ""
    return Page(
        title=f"{trained.recipe.name}, {trained.model} to {to} tokens",
        subject=f"{trained.model}, trained by {trained.recipe.name} to {to} tokens",
        headline=_headline(trained),
        notes=[*_told(trained), *(note[:1].upper() + note[1:] for note in trained.notes)],
        figures=list(_figures(trained)),
        sections=[
            *(section for section in _sections(trained) if section.blocks),
            Section("Settings", repeat, [Command(trained.command), facts(trained.recipe.to_dict())]),
        ],
    )


def _farthest(trained: Trained, within: int | None = None) -> Key | None:
    """The last stretch of positions that was read, or the last one within the window that the model had."""
    found = [
        key for key in trained.lines
        if key[0] == "perplexity" and (within is None or int(key[1].split("-")[1]) <= within)
    ]  # fmt: skip
    return found[-1] if found else None


def _against(trained: Trained, key: Key, since: int) -> Estimate | None:
    """The last perplexity over an earlier one, paired by text; None where there are no two."""
    last = max(trained.readings)
    if since not in trained.readings or last <= since:
        return None
    found = ratio(*(trained.readings[step][key[0]][key[1]]["losses"] for step in (last, since)))
    return Estimate(found.value, found.low, found.high, found.n)


def _headline(trained: Trained) -> str:
    """What the steps did, apart from what the extension did before them."""
    far = _farthest(trained)
    since = next((step for step in (UNTRAINED, CAME) if far and _against(trained, far, step)), None)
    if far is None or since is None:
        return f"{len(trained.log):,} steps, a loss of {trained.log[-1].loss:.3f} at the end."
    one, last = _against(trained, far, since), max(trained.readings)
    assert one is not None
    came, before, after = (
        numbers.quantity(trained.estimate(step, far).value) if step in trained.readings else ""
        for step in (CAME, since, last)
    )
    as_it_came = f"; as the model came, it was {came}" if came and since != CAME else ""
    at = f"at positions {stretch(far[1])}"
    verb = {"lower": "lowered", "higher": "raised"}.get(differs(one))
    if verb is None:
        return f"Training did not surely change the perplexity {at}: {before} before, {after} after{as_it_came}."
    return f"Training {verb} the perplexity {at} from {before} to {after}{as_it_came}."


def _told(trained: Trained) -> Iterator[str]:
    """What the headline leaves out: how sure it is, what the model was before, and the price in its window."""
    far, near = _farthest(trained), _farthest(trained, trained.window) if trained.window else None
    if far is None:
        return
    sinces = ((UNTRAINED, "the extended, untrained model’s"), (CAME, "the model’s as it came"))
    found = [(which, one) for since, which in sinces if (one := _against(trained, far, since))]
    if found:
        said = ", and ".join(f"{change(one, which)}{_unsure(one)}" for which, one in found)
        yield f"There, on {counted(found[0][1].n or 0, 'text')} not trained on, the perplexity is {said}."
    if near and near != far and (one := _against(trained, near, CAME)):
        within = f"Within the window that it had, at positions {stretch(near[1])}"
        yield f"{within}, it is {change(one, 'the model’s as it came')}{_unsure(one)}."


def _unsure(one: Estimate) -> str:
    return "" if differs(one) else ", which may be chance"


def _figures(trained: Trained) -> Iterator[KeyFigure]:
    """The far perplexity through the training, and the pass keys found at the end."""
    last = max(trained.readings, default=CAME)
    if far := _farthest(trained):
        for step in sorted({CAME, UNTRAINED, last} & trained.readings.keys()):
            one = trained.estimate(step, far)
            small = f"at {stretch(far[1])}\n{numbers.interval(one, numbers.quantity)}"
            yield KeyFigure(f"Perplexity {named(step)}", numbers.quantity(one.value), small, "perplexity")
    for key in [key for key in trained.lines if key[0] == "passkey"][-1:]:
        one = trained.estimate(last, key)
        small = f"of {one.n}, in {int(key[1]):,} tokens\n{numbers.interval(one, numbers.percent)}"
        yield KeyFigure("Pass keys found", numbers.percent(one.value), small, "pass key")


def _sections(trained: Trained) -> Iterator[Section]:
    yield _read(trained, "perplexity", "Perplexity by position", numbers.quantity,
                "Of the tokens in each stretch of positions of texts that were not trained on; lower is better. The "
                "table has 95 % intervals, which are wide where texts are few; its last row is paired by text, and so "
                "is narrower.")  # fmt: skip
    yield _read(trained, "passkey", "Pass keys by length", numbers.percent,
                "The share of keys that stand somewhere in such texts and are found, with 95 % intervals.")  # fmt: skip
    yield Section("Loss by step", "Of the training's own samples, in nats; lower is better. A point is the mean of the "
                  "steps around it.", _by_step(trained, "loss", lambda one: one.loss), ["loss"])  # fmt: skip
    steps = (
        ("norm of the gradient", lambda one: one.norm),
        ("learning rate", lambda one: one.learning_rate),
        ("tokens a second", lambda one: one.tokens / max(one.seconds, 1e-9)),
        ("memory, GiB", lambda one: one.memory / GIB),
    )
    on_device = any(log.memory for log in trained.log)
    blocks: list[Block] = []
    for name, of in steps:
        if on_device or not name.startswith("memory"):
            blocks += [Folded(name.capitalize(), drawn)] if (drawn := _by_step(trained, name, of)) else []
    text = "The norm is taken before clipping, and padding is no token."
    if on_device:
        text += " Memory is the most that tensors took in a step."
    yield Section("By step", text, blocks, ["norm"])


def _short(value: float | None) -> str:
    return numbers.NOTHING if value is None else f"{value:.2g}"


def _read(trained: Trained, key: str, title: str, printer: numbers.Printer, text: str) -> Section:
    """One line per evaluation, over positions or lengths."""
    steps, losses = sorted(trained.readings), key == "perplexity"
    shown = steps if len(steps) <= 5 else [steps[0], *steps[1:-1][:: max(1, (len(steps) - 2) // 3)][:3], steps[-1]]
    series, rows = [], []
    for i, step in enumerate(shown):
        name = named(step)
        found = {float(p.split("-")[-1]): trained.estimate(step, (key, p)) for p in trained.readings[step][key]}
        style = PLAIN_STYLE if i == 0 else LEADER_STYLES[(i - 1) % len(LEADER_STYLES)]
        drawn = {x: Estimate(one.value, n=one.n) if losses else one for x, one in found.items()}
        points = [svg.Point(x, one, f"{name}: {numbers.in_full(found[x], printer)}") for x, one in drawn.items()]
        series.append(svg.Series("came" if step == CAME else f"step-{step}", name, style, points))
        rows.append((Item(name), [Cell.of(one, printer) for one in found.values()]))
    values = [(point.x, point.estimate.value) for one in series for point in one.points]
    if not values:
        return Section(title)
    places = list(trained.readings[steps[-1]][key])
    if losses and CAME in trained.readings:
        changes = [_against(trained, (key, place), CAME) for place in places]
        cells = [Cell(change(Estimate(one.value)), bounds(one)) if one else Cell("") for one in changes]
        rows.append((Item("Last against as it came"), cells))
    axis = f"{'position' if losses else 'length'} in tokens, log scale"
    x = svg.Axis.around(axis, [x for x, _ in values], numbers.short_tokens, base=2, pad=0.03)
    y = svg.Axis("keys found", 0, 1, printer)
    if losses:
        y = svg.Axis.around("perplexity, log scale", [y for _, y in values if y is not None], printer, base=10, pad=0.1)
    columns = [Column(stretch(place) if losses else f"{int(place):,}", unit="tokens") for place in places]
    charts, table = chart("", series, x, y, title, whiskers=not losses), Table("Evaluation", columns, rows)
    term = "perplexity" if losses else "pass key"
    return Section(title, text, with_numbers(charts, table, term), [term, "interval"])


def _by_step(trained: Trained, name: str, of: Callable[[Any], float]) -> list[Chart]:
    """A line over steps, each point the mean of those around it."""
    printer: numbers.Printer = _short if name == "learning rate" else numbers.quantity
    size = -(-len(trained.log) // POINTS)
    points = []
    for i in range(0, len(trained.log), size):
        some = trained.log[i : i + size]
        mean = sum(map(of, some)) / len(some)
        points.append(svg.Point(float(some[-1].step), Estimate(mean), f"step {some[-1].step:,}: {printer(mean)}"))
    series = [svg.Series(name, name, LEADER_STYLES[0], points)]
    x = svg.Axis.around("steps", [p.x for p in points], lambda value: f"{value or 0:,.0f}", pad=0.02)
    y = svg.Axis.around(name, [p.estimate.value or 0.0 for p in points], printer, pad=0.1)
    return chart("", series, x, y, name.capitalize())
