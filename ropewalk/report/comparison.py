"""A comparison as the reports read it: checked where it comes in, with the few questions that all of them ask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.report.numbers import Estimate, Printer, interval, pool, quantity, tokens

PLAIN = "none"
ACCURACY = "accuracy"
TASK_TITLES = {
    "ppl": "Perplexity",
    "position": "Loss by position",
    "passkey": "Passkey",
    "niah": "Needle in a haystack",
}


def _wrong(message: str) -> UserError:
    return UserError(f"This comparison cannot be reported: {message}.", "Write it again with `ropewalk compare`.")


def _need(data: Any, key: str, kind: type, where: str) -> Any:
    """``data[key]``, which has to be there and of ``kind``."""
    if not isinstance(data, Mapping):
        raise _wrong(f"{where} is {type(data).__name__}, expected an object")
    if key not in data:
        raise _wrong(f"{where} has no key '{key}'")
    if not isinstance(data[key], kind):
        raise _wrong(f"'{key}' in {where} is {data[key]!r}, expected {kind.__name__}")
    return data[key]


def _number(data: Any, key: str, where: str) -> float | None:
    """``data[key]`` as a float; absent, null and NaN all mean that there is no such number."""
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(f"'{key}' in {where} is {value!r}, expected a number or null")
    return None if math.isnan(value) else float(value)


def _length(data: Any, key: str, where: str) -> int:
    value = _need(data, key, int, where)
    if value < 1:
        raise _wrong(f"'{key}' in {where} is {value}, expected a number of tokens")
    return int(value)


def _estimate(data: Any, where: str, value: str = "value", bounds: str = "") -> Estimate:
    low, high, n = (_number(data, key, where) for key in (bounds + "low", bounds + "high", "n"))
    return Estimate(_number(data, value, where), low, high, None if n is None else int(n))


@dataclass(frozen=True)
class Method:
    """A method as it stands in the comparison, with its row of the summary."""

    id: str
    title: str
    paper: str | None
    factor: float | None
    training_free: str
    exportable: str
    note: str
    effective_length: Estimate
    k_max: float | None
    short_tax: Estimate
    perplexity: Estimate
    retrieval: Estimate

    @property
    def is_plain(self) -> bool:
        return self.id == PLAIN


@dataclass(frozen=True)
class Result:
    """One measured number of one method, and the cell it belongs to: a task, a length, perhaps a start or a depth."""

    method: str
    task: str
    metric: str
    length: int
    start: int | None
    depth: float | None
    estimate: Estimate


@dataclass(frozen=True)
class Spectrum:
    """The wavelengths of one layer type's rotary dimensions, in tokens, and what goes with them."""

    wavelengths: tuple[float, ...]
    attention_factor: float | None
    window: int | None

    @classmethod
    def read(cls, data: Any, where: str) -> Spectrum:
        waves = [_number({"w": w}, "w", f"the wavelengths of {where}") for w in _need(data, "wavelengths", list, where)]
        window = _number(data, "window", where)
        return cls(
            wavelengths=tuple(math.inf if w is None else w for w in waves),
            attention_factor=_number(data, "attention_factor", where),
            window=None if window is None else int(window),
        )

    def critical(self, window: int) -> int | None:
        """The first dimension that does not finish a turn within ``window``."""
        return next((i for i, wavelength in enumerate(self.wavelengths) if wavelength > window), None)


@dataclass(frozen=True)
class Comparison:
    """What ``ropewalk compare`` measured. ``methods`` has the plain model first, then the best method first."""

    model: str
    window: int
    target: int
    methods: tuple[Method, ...]
    results: tuple[Result, ...]
    spectra: Mapping[str, Mapping[str, Spectrum]]  # layer type -> method -> spectrum
    raw: Mapping[str, Any]

    @classmethod
    def read(cls, raw: Any) -> Comparison:
        """Check ``raw`` (results.json) and order its methods.

        Raises:
            UserError: A key that the reports need is missing or has a wrong value.
        """
        model = _need(raw, "model", Mapping, "the comparison")
        target = _length(raw, "to", "the comparison")
        results = tuple(_results(_need(raw, "results", list, "the comparison")))
        summaries = {
            _need(row, "method", str, f"summary[{i}]"): row
            for i, row in enumerate(_need(raw, "summary", list, "the comparison"))
        }
        methods = []
        for i, data in enumerate(_need(raw, "methods", list, "the comparison")):
            key = _need(data, "id", str, f"methods[{i}]")
            at_target = [
                r.estimate for r in results if (r.method, r.metric, r.length, r.depth) == (key, ACCURACY, target, None)
            ]
            methods.append(_method(data, f"methods[{i}]", summaries.get(key, {}), pool(at_target)))
        if not methods:
            raise _wrong("'methods' is empty")
        unknown = {r.method for r in results} - {m.id for m in methods}
        if unknown:
            raise _wrong(f"results of {sorted(unknown)} have no entry in 'methods'")
        return cls(
            model=_need(model, "name", str, "model"),
            window=_length(model, "window", "model"),
            target=target,
            methods=tuple(sorted(methods, key=_rank)),
            results=results,
            spectra=_spectra(raw.get("rope") or {}),
            raw=raw,
        )

    @property
    def plain(self) -> Method | None:
        return next((m for m in self.methods if m.is_plain), None)

    @property
    def extended(self) -> tuple[Method, ...]:
        """The methods other than the plain model, the best first."""
        return tuple(m for m in self.methods if not m.is_plain)

    def tasks(self, metric: str) -> list[str]:
        """The tasks with results of this metric, in the order in which they were run."""
        return list(dict.fromkeys(r.task for r in self.results if r.metric == metric))

    @property
    def lengths(self) -> list[int]:
        """Every length at which something was measured, and the window and the target."""
        return sorted({r.length for r in self.results} | {self.window, self.target})

    def of(self, method: Method, task: str) -> list[Result]:
        """The results of one method on one task, by length."""
        rows = (r for r in self.results if (r.method, r.task) == (method.id, task))
        return sorted(rows, key=lambda r: (r.length, r.start or 0, -1.0 if r.depth is None else r.depth))

    def leads(self, method: Method, column: str, printer: Printer) -> bool:
        """Whether no method is better in a column of the summary, as far as the printed digits tell.

        Longer and more accurate is better, as is less perplexity and less tax. The plain model pays no tax by
        definition, so it is no contender there.
        """
        contenders = self.extended if column == "short_tax" else self.methods
        values = {m.id: value for m in contenders if (value := getattr(m, column).value) is not None}
        if method.id not in values:
            return False
        choose = max if column in ("effective_length", "retrieval") else min
        return printer(values[method.id]) == printer(choose(values.values()))

    def verdict(self) -> str:
        """The comparison in a sentence or two."""
        best, plain = next(iter(self.extended), None), self.plain
        if best is None:
            assert plain is not None
            return f"The plain model {_reach(plain)}; there is no method to compare it with."
        if best.effective_length.value is not None:
            spread = interval(best.effective_length, tokens)
            between = f" (effective length {spread})" if spread else ""
            if plain is None or plain.effective_length.value is None:
                return f"{best.title} {_reach(best)}{between}."
            if best.effective_length.value <= plain.effective_length.value:
                return f"No method reaches further than the plain model, which {_reach(plain)}."
            return f"{best.title} {_reach(best)}{between}, the plain model {tokens(plain.effective_length.value)}."
        if best.perplexity.value is not None:
            spread = interval(best.perplexity, quantity)
            against = f", the plain model’s is {quantity(plain.perplexity.value)}" if plain else ""
            return (
                f"{best.title} has the lowest perplexity at {tokens(self.target)} tokens: "
                f"{quantity(best.perplexity.value)}{f' ({spread})' if spread else ''}{against}."
            )
        return f"Nothing was measured at {tokens(self.target)} tokens, so the methods cannot be ranked."

    def caveat(self) -> str:
        """Which methods this run cannot tell apart from the best one; empty where there are none."""
        if not self.extended or self.extended[0].effective_length.low is None:
            return ""
        best, *others = self.extended
        close = [
            m.title
            for m in others
            if m.effective_length.high is not None and m.effective_length.high >= (best.effective_length.low or 0)
        ]
        if not close:
            return ""
        names = close[0] if len(close) == 1 else f"{len(close)} other methods"
        return f"The interval of {names} overlaps with that of {best.title}: this run does not settle their order."


def _reach(method: Method) -> str:
    length = method.effective_length.value
    if length is None:
        return "was not tested on retrieval"
    return f"reaches {tokens(length)} tokens" if length > 0 else "stays below the threshold at every length"


def _method(data: Any, where: str, summary: Mapping[str, Any], retrieval: Estimate) -> Method:
    return Method(
        id=data["id"],
        title=_need(data, "title", str, where),
        paper=data.get("paper"),
        factor=_number(data, "factor", where),
        training_free=str(data.get("training_free") or ""),
        exportable=str(data.get("exportable") or ""),
        note=str(data.get("note") or ""),
        effective_length=_estimate(summary, "summary", "effective_length"),
        k_max=_number(summary.get("k_max") or {}, "value", "k_max"),
        short_tax=_estimate(summary, "summary", "short_tax", "short_tax_"),
        perplexity=_estimate(summary, "summary", "perplexity_at_target", "perplexity_"),
        retrieval=retrieval,
    )


def _results(rows: list[Any]) -> Iterator[Result]:
    for i, row in enumerate(rows):
        where = f"results[{i}]"
        start = _number(row, "start", where) if isinstance(row, Mapping) else None
        yield Result(
            method=_need(row, "method", str, where),
            task=_need(row, "task", str, where),
            metric=_need(row, "metric", str, where),
            length=_length(row, "length", where),
            start=None if start is None else int(start),
            depth=_number(row, "depth", where),
            estimate=_estimate(row, where),
        )


def _spectra(rope: Any) -> dict[str, dict[str, Spectrum]]:
    if not isinstance(rope, Mapping):
        raise _wrong(f"'rope' is {type(rope).__name__}, expected an object")
    spectra: dict[str, dict[str, Spectrum]] = {}
    for method, layers in rope.items():
        for layer, data in (layers or {}).items():
            spectra.setdefault(layer, {})[method] = Spectrum.read(data, f"rope of {method}, {layer}")
    return spectra


def _rank(method: Method) -> tuple[bool, float, float, float]:
    """Sort key: plain model, then the longest effective length, the best retrieval, the lowest perplexity."""

    def known(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else value

    return (
        not method.is_plain,
        -known(method.effective_length.value, -1.0),
        -known(method.retrieval.value, -1.0),
        known(method.perplexity.value, math.inf),
    )
