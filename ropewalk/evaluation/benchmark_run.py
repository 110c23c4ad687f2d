"""Asks a benchmark's questions, keeps every answer and every judge's grade, and makes the benchmark's table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ropewalk import __version__
from ropewalk.backends.backend import Ask, Backend
from ropewalk.common.fingerprints import ids_fingerprint
from ropewalk.common.statistics import clustered_wilson
from ropewalk.common.store import Records, content_key
from ropewalk.evaluation.asking import TOGETHER
from ropewalk.tasks.benchmarks.question import Benchmark, JudgedScore, Question, Scored, grade
from ropewalk.tasks.task import TooShort

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ropewalk.tasks.benchmarks.judge import Judge


@dataclass(frozen=True)
class SubsetScore:
    """Mean score of a subset, 0 to 1, with its 95 % interval; questions about one text count together."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Result:
    """A benchmark at one length of prompts.

    Attributes:
        table: as the benchmark reports it, in points.
        subsets: the mean score of each.
        skipped: why questions were left out, by subset.
        scored: every answer with its score.
    """

    table: dict[str, float]
    subsets: dict[str, SubsetScore]
    skipped: dict[str, str]
    scored: tuple[Scored, ...]


def measure(
    benchmark: Benchmark,
    questions: Sequence[Question],
    backend: Backend,
    n_tokens: int,
    store: Records,
    judge: Judge | None = None,
    advance: Callable[[Question, int], None] = lambda question, of: None,
) -> Result:
    """Answers and grades; an answer or a grade that ``store`` holds is not made again.

    Args:
        benchmark: whose rules hold.
        questions: of it.
        backend: what is asked.
        n_tokens: of a prompt and its answer together; what is longer loses tokens from the middle of its context.
        store: where answers and grades are kept.
        judge: a language model that grades; without one, questions that need it are not asked.
        advance: called with every answered question and how many there are.
    """
    left_out: dict[str, list[str]] = defaultdict(list)
    asked = []
    for one in questions:
        if judge is None and one.metric in benchmark.judged:
            left_out[one.subset].append(f"{one.metric} is given by a language model, and no judge was named")
        else:
            asked.append(one)
    predictions: dict[str, str] = {}
    for group in _groups(asked, backend.tokenizer, n_tokens, left_out):
        for question, text in _answers(benchmark.name, group, backend, store):
            predictions[question.id] = text
            advance(question, len(asked))
    answered = [one for one in asked if one.id in predictions]
    kept = {metric: _kept(score, store) for metric, score in benchmark.judged.items()}
    grades = grade(replace(benchmark, judged=kept), answered, predictions, judge)
    of = Counter(one.subset for one in questions)
    skipped = {name: f"{len(why)} of {of[name]} questions: {why[0]}" for name, why in left_out.items()}
    return Result(dict(grades.table), _by_subset(grades.scored), skipped, grades.scored)


def _groups(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    n_tokens: int,
    left_out: dict[str, list[str]],
) -> Iterator[list[tuple[Question, list[int]]]]:
    """Questions with their prompts, those about one text side by side, as many as memory holds; others are noted."""
    group: list[tuple[Question, list[int]]] = []
    tokens = 0
    for question in sorted(questions, key=lambda one: one.context):
        try:
            prompt = question.prompt(tokenizer, n_tokens, question.chat and tokenizer.chat_template is not None)
        except TooShort as error:
            left_out[question.subset].append(str(error))
            continue
        if group and tokens + len(prompt) > TOGETHER:
            yield group
            group, tokens = [], 0
        group.append((question, prompt))
        tokens += len(prompt)
    if group:
        yield group


def _answers(
    name: str, group: Sequence[tuple[Question, list[int]]], backend: Backend, store: Records
) -> Iterator[tuple[Question, str]]:
    """Every question's answer, those first that are there."""
    keys = [
        content_key({**backend.basis, "benchmark": name, "ids": ids_fingerprint(prompt), "room": one.max_new_tokens})
        for one, prompt in group
    ]
    records = store.get(keys)
    missing = [i for i, key in enumerate(keys) if key not in records]
    for (question, _), key in zip(group, keys, strict=True):
        if key in records:
            yield question, records[key]["text"]
    asks = [Ask(group[i][1], room=group[i][0].max_new_tokens) for i in missing]
    for n, reply in backend.ask(asks) if asks else ():
        question = group[missing[n]][0]
        store.put({keys[missing[n]]: {"benchmark": name, "id": question.id, "text": reply.text, "how": backend.how}})
        yield question, reply.text


def _kept(score: JudgedScore, store: Records) -> JudgedScore:
    """A judge's score that is asked for once."""

    def scored(judge: Judge, prediction: str, question: Question) -> float:
        about = repr(replace(question, source=""))
        key = content_key({"judge": repr(judge), "about": about, "prediction": prediction, "version": __version__})
        if key not in (records := store.get([key])):
            records[key] = {"judge": judge.name, "id": question.id, "score": score(judge, prediction, question)}
            store.put(records)
        return float(records[key]["score"])

    return scored


def _by_subset(scored: Sequence[Scored]) -> dict[str, SubsetScore]:
    texts: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in scored:
        texts[one.question.subset][one.question.context].append(one.score)
    found = {}
    for name, clusters in texts.items():
        scores = [score for cluster in clusters.values() for score in cluster]
        found[name] = SubsetScore(sum(scores) / len(scores), *clustered_wilson(list(clusters.values())), len(scores))
    return found
