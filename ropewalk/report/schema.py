"""``results.json``: what was measured, as frozen values that are checked when a file is read.

A file holds models, subjects (one model with one method), tasks, and rows: one number each, with its 95 % interval.
Titles of methods and tasks stand in the file, so that who draws it needs nothing else.
"""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORDS
from ropewalk.common.outside import read_json
from ropewalk.common.whole import write_text
from ropewalk.report.numbers import Estimate

SCHEMA = "ropewalk results 2"
PLAIN = "none"
CONTROLS = ("ceiling", "closed book", "altered", "guess")

# Numbers are finite, whole ones count something and are not negative; these say more.
Size: TypeAlias = Annotated[float, (0.0, math.inf)]
Share: TypeAlias = Annotated[float, (0.0, 1.0)]
Sizes: TypeAlias = Annotated[Estimate, (0.0, math.inf)]
Shares: TypeAlias = Annotated[Estimate, (0.0, 1.0)]
Relative: TypeAlias = Annotated[float, (-1.0, math.inf)]
ROUNDING, LARGEST = 1e-9, sys.float_info.max


@dataclass(frozen=True)
class Model:
    """A measured model.

    Attributes:
        name: as asked for.
        window: tokens that it was trained on; None of a server.
        length: tokens that its configuration promises.
        to: target length of the methods.
        lengths: tested context lengths.
        facts: what a reader needs to get the same numbers.
        cut: tokens at which texts are cut, where its files cut them before the window ends.
    """

    name: str
    window: int | None
    length: int | None
    to: int | None
    lengths: list[int]
    facts: dict[str, Any] = field(default_factory=dict)
    cut: int | None = None


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        id: as in rows.
        title: what is asked.
        metric: "perplexity", "nll" (nats per token) or "score" (0 to 1, higher is better).
        scope: how much information is needed, "small" or "large"; empty where that is not known.
        diffusion: how hard it is to find, "low" or "high".
        benchmark: the benchmark of real texts that it belongs to.
    """

    id: str
    title: str
    metric: Literal["perplexity", "nll", "score"]
    scope: str = ""
    diffusion: str = ""
    benchmark: str = ""


@dataclass(frozen=True)
class Row:
    """One number with its 95 % interval.

    Attributes:
        model: name.
        method: canonical spelling.
        task: id.
        length: context length in tokens; of a position bucket, its end.
        value: in the metric of the task.
        low: lower end of the interval; None where one document gives none.
        high: upper end.
        n: documents of a loss, samples of a score.
        depth: where the needed information stands, 0 to 1; None over all depths.
        start: of a position bucket.
    """

    model: str
    method: str
    task: str
    length: int
    value: Size
    low: float | None
    high: float | None
    n: int
    depth: Share | None = None
    start: int | None = None

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.low, self.high, self.n)


@dataclass(frozen=True)
class Change:
    """Relative change of perplexity against the plain model at one length: 0.02 is 2 % worse."""

    length: int
    value: Relative
    low: Relative | None
    high: Relative | None
    n: int

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.low, self.high, self.n)


@dataclass(frozen=True)
class Gain:
    """Samples beyond the window that only this method, or only the plain model, answers; McNemar's p."""

    only_this: int
    only_none: int
    p: Share


@dataclass(frozen=True)
class Average:
    """Mean over tasks at one length, every task counting the same.

    Attributes:
        length: context length in tokens.
        value: the mean.
        low: lower end of the interval.
        high: upper end.
        n: samples.
        se: standard error.
        kind: "scope/diffusion" of the tasks; empty over all of them.
        passing: probability that the average passes here and at every shorter tested length.
        harmonic: harmonic mean over categories of tasks; None where there is one alone.
    """

    length: int
    value: Share
    low: Share | None
    high: Share | None
    n: int
    se: Size | None = None
    kind: str = ""
    passing: Share | None = None
    harmonic: Shares | None = None

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.low, self.high, self.n)


@dataclass(frozen=True)
class Reading:
    """What else generated answers show, as a rate with its 95 % interval.

    Attributes:
        name: what is counted.
        length: context length in tokens.
        value: how often, 0 to 1.
        low: lower end of the interval.
        high: upper end.
        n: answers that may show it.
    """

    name: str
    length: int
    value: Share
    low: Share | None
    high: Share | None
    n: int

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.low, self.high, self.n)


@dataclass(frozen=True)
class TaskFindings:
    """One task of one subject.

    Attributes:
        task: id.
        effective_length: longest tested length up to which every tested one passes, and by the bounds of the scores;
            None where no threshold is meant.
        controls: ceiling, closed book, altered, guess.
        checked: teacher-forced answers that were decoded as well.
        agreed: how many of these decoding confirmed.
        early: lengths at which not all samples were needed.
        readings: what else generated answers show, by length.
    """

    task: str
    effective_length: Sizes | None = None
    controls: dict[str, Shares] = field(default_factory=dict)
    checked: int = 0
    agreed: int = 0
    early: list[int] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)


@dataclass(frozen=True)
class Spectrum:
    """The wavelengths of one layer type's rotary dimensions, in tokens; None is infinite."""

    wavelengths: list[Size | None]
    attention_factor: Size | None = None
    window: int | None = None

    def critical(self, window: int) -> int | None:
        """The first dimension that does not finish a turn within ``window``."""
        waves = (math.inf if wave is None else wave for wave in self.wavelengths)
        return next((i for i, wave in enumerate(waves) if wave > window), None)


@dataclass(frozen=True)
class Cost:
    """What the questions at one length took, where they were read by a strategy.

    Attributes:
        length: context length in tokens.
        n: questions.
        tokens: of all prompts and answers by our own count, a question in the mean.
        share: of those of the whole prompt, the last answer at its longest on both sides, in the mean.
        calls: a question in the mean.
        chain: most calls that waited for one another.
        notes: what was noted, with n for numbers, and for how many questions.
    """

    length: int
    n: int
    tokens: Size
    share: Size
    calls: Size
    chain: int
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """One model with one method or strategy: what it is, and its findings; None where the task was not run.

    Attributes:
        model: name.
        method: canonical spelling, of the method or the strategy; "none" is the plain model.
        title: of either.
        paper: arXiv id or address.
        factor: target over window.
        training_free: "yes", "no", or how far.
        exportable: whether a checkpoint can say it.
        note: one line.
        causal: False where blocks of queries vote with tokens behind them: no losses are taken from one forward, and
            answers are decoded token by token.
        length_dependent: True where a token's loss changes with what follows it.
        fingerprint: hash of all that the method does to the model.
        how: how prompts were read.
        tokens: "asked" and "read" in the last run.
        effective_length: longest tested length at which, and below which, the average over tasks passes.
        k_max: longest tested length with a passkey accuracy of 0.2 or more up to it (arXiv 2306.15595).
        perplexity_at_to: of documents cut to the target length.
        tail_perplexity: of the tokens in the last position bucket.
        short_tax: change of perplexity at each tested length inside the window.
        beyond_window: against the plain model, on the same samples.
        averages: over tasks, by length and kind.
        area: under the curve of averages over the logarithm of length.
        tasks: one by one.
        rope: by layer type.
        config_diff: change of config.json, or why there is none.
        costs: of a strategy, by length; empty of a method.
    """

    model: str
    method: str
    title: str
    paper: str = ""
    factor: Size | None = None
    training_free: str = ""
    exportable: str = ""
    note: str = ""
    causal: bool = True
    length_dependent: bool = False
    fingerprint: str = ""
    how: str = ""
    tokens: dict[str, int] | None = None
    effective_length: Sizes | None = None
    k_max: Sizes | None = None
    perplexity_at_to: Sizes | None = None
    tail_perplexity: Sizes | None = None
    short_tax: list[Change] = field(default_factory=list)
    beyond_window: Gain | None = None
    averages: list[Average] = field(default_factory=list)
    area: Shares | None = None
    tasks: list[TaskFindings] = field(default_factory=list)
    rope: dict[str, Spectrum] = field(default_factory=dict)
    config_diff: str = ""
    costs: list[Cost] = field(default_factory=list)

    def average(self, length: int | None) -> Estimate:
        """Over all tasks at a length; empty where it was not measured."""
        return next((one.estimate for one in self.averages if (one.length, one.kind) == (length, "")), Estimate())


@dataclass(frozen=True)
class BenchmarkTable:
    """The table that a benchmark of real texts reports, in points, at one length of prompts."""

    model: str
    method: str
    benchmark: str
    length: int
    points: dict[str, Size]


@dataclass(frozen=True)
class NotMeasured:
    """What was asked for and is not there: of every method unless one is named, at every length unless one is."""

    model: str
    task: str
    reason: str
    length: int | None = None
    method: str | None = None


@dataclass(frozen=True)
class Results:
    """The content of a ``results.json``; ``settings`` holds the experiment as it was asked for."""

    settings: dict[str, Any]
    models: list[Model]
    subjects: list[Subject]
    tasks: list[Task]
    rows: list[Row]
    tables: list[BenchmarkTable] = field(default_factory=list)
    not_measured: list[NotMeasured] = field(default_factory=list)
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    seconds: Size | None = None
    schema: str = SCHEMA

    @classmethod
    def of(cls, data: Any) -> Results:
        """Checked content of a file.

        Raises:
            UserError: if it follows another schema, a key is missing or unknown, or a value is of another type or
                impossible: no finite number, a negative count, a share above 1, an interval the wrong way round.
        """
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if schema != SCHEMA:
            raise _wrong(f"its schema is {schema!r}, expected {SCHEMA!r}")
        found: Results = _decode(cls, data, "results")
        if not found.subjects:
            raise _wrong("'subjects' is empty")
        for subject in found.subjects:
            for cost in subject.costs:
                most = cost.calls * cost.n + ROUNDING
                if not 1 <= cost.chain <= most or not all(1 <= k <= cost.n for k in cost.notes.values()):
                    raise _wrong(
                        f"the cost of {subject.method} at {cost.length} is impossible: {cost.n} questions, "
                        f"{cost.calls:g} calls each, a chain of {cost.chain}, notes {cost.notes}"
                    )
        known = {(one.model, one.method) for one in found.subjects}
        metrics = {task.id: task.metric for task in found.tasks}
        for i, row in enumerate(found.rows):
            if (row.model, row.method) not in known or row.task not in metrics:
                raise _wrong(f"a row of {row.model}, {row.method}, {row.task} has no entry in 'subjects' or 'tasks'")
            if metrics[row.task] == "score":
                _refuse_outside(row, 0.0, 1.0, f"rows[{i}]")
        return found

    @classmethod
    def read(cls, file: Path) -> Results:
        """A checked file.

        Raises:
            UserError: if it cannot be read, or is no file of this schema.
        """
        return cls.of(read_json(file, most=RECORDS, mend="Give a results.json."))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is as by default is left out."""
        return {"schema": self.schema, **{k: v for k, v in _encode(self).items() if k != "schema"}}

    def write(self, file: Path) -> None:
        """Write atomically.

        Raises:
            UserError: if the file cannot be written.
        """
        write_text(file, json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _wrong(message: str) -> UserError:
    return UserError(
        f"This is no results.json that can be read: {message}.",
        "Run its command again: finished samples are taken from samples.sqlite.",
    )


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        held = {f: getattr(value, f.name) for f in fields(value)}
        return {f.name: _encode(own) for f, own in held.items() if own != _default(f)}
    if isinstance(value, Mapping):
        return {str(key): _encode(own) for key, own in value.items()}
    return [_encode(own) for own in value] if isinstance(value, (list, tuple)) else value


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _decode(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``: a dataclass, a list, a mapping by string, one of several, or a plain type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _decode(next(one for one in inner if one is not type(None)), value, where)
    if origin is Annotated:
        kind, (low, high) = inner
        found = _decode(kind, value, where)
        _refuse_outside(found, low, high, where)
        return found
    if origin is Literal:
        if value not in inner:
            raise _wrong(f"{where} is {value!r}, expected one of {', '.join(inner)}")
        return value
    if is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if kind is Any:
        kind, inner = float if type(value) is int else type(value), (Any, Any)
        origin = kind if kind in (list, dict) else None
    expected = {float: (int, float)}.get(kind, origin or kind)
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(f"{where} is {value!r}, expected {getattr(origin or kind, '__name__', kind)}")
    if isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST:
        raise _wrong(f"{where} is no finite number")
    if kind is int and value < 0:
        raise _wrong(f"{where} is {value!r}, expected 0 or more")
    if origin is list:
        return [_decode(inner[0], own, f"{where}[{i}]") for i, own in enumerate(value)]
    if origin is dict:
        return {key: _decode(inner[1], own, f"{where}.{key}") for key, own in value.items()}
    return value


def _refuse_outside(found: Any, low: float, high: float, where: str) -> None:
    """Refuse a number, or a value with its interval, that does not lie within ``low`` to ``high``."""
    parts = {f"{where}.{key}": getattr(found, key) for key in ("value", "low", "high")} if is_dataclass(found) else {}
    for name, number in (parts or {where: found}).items():
        if number is not None and not low - ROUNDING <= number <= high + ROUNDING:
            raise _wrong(f"{name} is {number!r}, expected {low:g} {'or more' if high == math.inf else f'to {high:g}'}")


def _decode_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(f"{where} is {type(value).__name__}, expected an object")
    hints = get_type_hints(kind, include_extras=True)
    if unknown := set(value) - set(hints):
        raise _wrong(f"{where} has a key {min(unknown)!r} that the schema does not know")
    for f in fields(kind):
        if f.name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise _wrong(f"{where} has no key {f.name!r}")
    made = kind(**{name: _decode(hints[name], own, f"{where}.{name}") for name, own in value.items()})
    low, high = getattr(made, "low", None), getattr(made, "high", None)
    if low is not None and high is not None and low > high:
        raise _wrong(f"{where}.low is {low!r}, above {where}.high, which is {high!r}")
    return made
