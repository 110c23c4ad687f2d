"""What a comparison found: rows of results, a summary per method, and how to write both as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ropewalk.common.statistics import (
    EffectiveLength,
    LengthScore,
    Mean,
    cluster_mean,
    clustered_wilson,
    effective_length,
    mcnemar,
    paired_bootstrap,
)
from ropewalk.evaluation.asking import Answer, Losses
from ropewalk.evaluation.perplexity import perplexity, position_curve
from ropewalk.evaluation.samples import Skipped
from ropewalk.tasks import registry

K_MAX_ACCURACY = 0.2


@dataclass(frozen=True)
class Measured:
    """All that one method did; ``answers`` by (task, length)."""

    losses: Losses | None
    answers: Mapping[tuple[str, int], Sequence[Answer]]


@dataclass(frozen=True)
class Row:
    """One number of the results with its 95 % interval.

    Attributes:
        method: canonical spelling.
        task: "ppl", "position", or a retrieval task.
        metric: "perplexity", "nll" (nats per token) or "accuracy".
        length: context length in tokens; of a position bucket, its end.
        value: the number.
        low: lower end of the interval; None where one document gives none.
        high: upper end.
        n: documents of a loss, samples of an accuracy.
        depth: where the needle stands, 0 to 1; None over all depths.
        start: of a position bucket.
    """

    method: str
    task: str
    metric: str
    length: int
    value: float
    low: float | None
    high: float | None
    n: int
    depth: float | None = None
    start: int | None = None


@dataclass(frozen=True)
class Change:
    """Relative change of perplexity against the plain model at one length: 0.02 is 2 % worse."""

    length: int
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Gain:
    """Retrieval samples beyond the window that only this method, or only the plain model, answers; McNemar's p."""

    only_this: int
    only_none: int
    p: float


@dataclass(frozen=True)
class Summary:
    """A method in a few numbers; None where the task was not run.

    Attributes:
        method: canonical spelling.
        effective_length: longest tested length at which, and below which, the accuracy over the retrieval tasks passes
            the threshold.
        k_max: longest tested length with a passkey accuracy of 0.2 or more up to it (arXiv 2306.15595).
        accuracy_at_to: accuracy over the retrieval tasks at the target length.
        perplexity_at_to: of documents cut to the target length.
        tail_perplexity: of the tokens in the last position bucket.
        short_tax: change of perplexity at each tested length inside the pretrained window.
        beyond_window: against the plain model, on the same samples.
    """

    method: str
    effective_length: EffectiveLength | None
    k_max: EffectiveLength | None
    accuracy_at_to: Mean | None
    perplexity_at_to: Mean | None
    tail_perplexity: Mean | None
    short_tax: list[Change]
    beyond_window: Gain | None


@dataclass(frozen=True)
class Comparison:
    """Everything that ``compare`` found, in the order of the methods; the plain model ("none") is first."""

    settings: dict[str, Any]
    model: dict[str, Any]
    methods: list[dict[str, Any]]
    results: list[Row]
    summary: list[Summary]
    skipped: list[Skipped] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; ``depth`` and ``start`` only where a row has them."""
        whole = asdict(self)
        for row in whole["results"]:
            for name in ("depth", "start"):
                if row[name] is None:
                    del row[name]
        return whole

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def rows(method: str, measured: Measured) -> list[Row]:
    """The results of one method."""
    found: list[Row] = []
    if (losses := measured.losses) is not None:
        for length in losses.lengths:
            found.append(_mean_row(method, "ppl", "perplexity", length, perplexity_at(losses, length)))
        for bucket in position_curve(losses.by_edge, losses.edges):
            found.append(_mean_row(method, "position", "nll", bucket.end, bucket.nll, start=bucket.start))
    for (task, length), answers in measured.answers.items():
        found.append(_accuracy_row(method, task, length, answers))
        if registry.entry(task).asked in ("grid", "planted"):
            for depth in sorted({answer.depth for answer in answers if answer.depth is not None}):
                here = [answer for answer in answers if answer.depth == depth]
                found.append(_accuracy_row(method, task, length, here, depth))
    return found


def summarise(
    method: str, measured: Measured, plain: Measured, *, window: int, to: int, threshold: float, seed: int
) -> Summary:
    """One method against the plain model."""
    losses, answers = measured.losses, measured.answers
    scores = [LengthScore(n, *accuracy(_pooled(answers, [n]))) for n in sorted({length for _, length in answers})]
    passkeys = [LengthScore(n, *accuracy(some)) for (task, n), some in sorted(answers.items()) if task == "passkey"]
    at_to = _pooled(answers, [to])
    return Summary(
        method=method,
        effective_length=effective_length(scores, threshold) if scores else None,
        k_max=effective_length(passkeys, K_MAX_ACCURACY) if passkeys else None,
        accuracy_at_to=_accuracy_mean(at_to) if at_to else None,
        perplexity_at_to=perplexity_at(losses, to) if losses else None,
        tail_perplexity=perplexity(position_curve(losses.by_edge, losses.edges)[-1].nll) if losses else None,
        short_tax=_short_tax(losses, plain.losses, window, seed) if losses and plain.losses else [],
        beyond_window=_gain(answers, plain.answers, [length for _, length in answers if length > window]),
    )


def perplexity_at(losses: Losses, length: int) -> Mean:
    """Perplexity of the documents cut to ``length`` tokens."""
    return perplexity(cluster_mean(losses.at(length), length - 1))


def _short_tax(ours: Losses, plain: Losses, window: int, seed: int) -> list[Change]:
    changes = []
    for length in (n for n in ours.lengths if n <= window):
        delta = paired_bootstrap(ours.at(length), plain.at(length), np.asarray(length - 1.0), seed=seed)
        low, high = (None if bound is None else math.expm1(bound) for bound in (delta.low, delta.high))
        changes.append(Change(length, math.expm1(delta.value), low, high, delta.n))
    return changes


def _gain(
    ours: Mapping[tuple[str, int], Sequence[Answer]],
    plain: Mapping[tuple[str, int], Sequence[Answer]],
    lengths: Iterable[int],
) -> Gain | None:
    chosen = sorted(set(lengths))
    differences = [a.score - b.score for a, b in zip(_pooled(ours, chosen), _pooled(plain, chosen), strict=True)]
    if not differences:
        return None
    only_this, only_none = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Gain(only_this, only_none, mcnemar(only_this, only_none))


def _pooled(answers: Mapping[tuple[str, int], Sequence[Answer]], lengths: Iterable[int]) -> list[Answer]:
    wanted = set(lengths)
    return [answer for (_, length), some in answers.items() if length in wanted for answer in some]


def accuracy(answers: Sequence[Answer]) -> tuple[float, float, float]:
    """Mean score with its interval; samples about one text count together."""
    return sum(answer.score for answer in answers) / len(answers), *clustered_wilson(by_text(answers))


def by_text(answers: Sequence[Answer]) -> list[list[float]]:
    """The scores about each text."""
    texts: dict[str, list[float]] = {}
    for answer in answers:
        texts.setdefault(answer.context, []).append(answer.score)
    return list(texts.values())


def _accuracy_mean(answers: Sequence[Answer]) -> Mean:
    value, low, high = accuracy(answers)
    return Mean(value, None, low, high, len(answers))


def _accuracy_row(method: str, task: str, length: int, answers: Sequence[Answer], depth: float | None = None) -> Row:
    value, low, high = accuracy(answers)
    return Row(method, task, "accuracy", length, value, low, high, len(answers), depth)


def _mean_row(method: str, task: str, metric: str, length: int, mean: Mean, start: int | None = None) -> Row:
    return Row(method, task, metric, length, mean.value, mean.low, mean.high, mean.n, start=start)
