"""What a benchmark of real texts is: questions read from its files, a score per answer, and the table it reports."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.tasks.task import TooShort

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ropewalk.tasks.benchmarks.judge import Judge


@dataclass(frozen=True)
class Question:
    """One question about one context, as text.

    Attributes:
        id: unique within the benchmark.
        context: the long text; the only part that may be shortened.
        question: what is asked (for judges and reports; the model reads it as a part of ``after``).
        references: right answers; never empty.
        subset: the data set within the benchmark.
        metric: by which the answer is scored.
        before: what the model reads before the context (instruction, examples).
        after: what the model reads behind it, up to where the answer begins.
        max_new_tokens: room for the answer.
        source: file and line.
        choices: of a multiple-choice question.
        shorten: False where the answer holds for the whole context only, so that it must not be cut.
        chat: False where the benchmark asks without chat template (examples to continue, code).
        facts: what groups of the report and some scores need (length, category, classes, ...).
    """

    id: str
    context: str
    question: str
    references: tuple[str, ...]
    subset: str
    metric: str
    before: str
    after: str
    max_new_tokens: int
    source: str
    choices: tuple[str, ...] = ()
    shorten: bool = True
    chat: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, tokenizer: PreTrainedTokenizerBase, n_tokens: int, chat: bool = False) -> list[int]:
        """Token ids that leave room for the answer within ``n_tokens``.

        Where the whole is longer, tokens are taken out of the middle of the context; all else survives. They are the
        tokens of the whole prompt, never decoded and encoded again, so the length is exact.

        Args:
            tokenizer: with offsets (a fast one).
            n_tokens: of prompt and answer together.
            chat: whether to ask through the tokenizer's chat template (which brings its own BOS); without it BOS is
                put in front if the tokenizer has one.

        Raises:
            TooShort: if ``n_tokens`` does not hold what surrounds the context, or a context that must not be cut.
            UserError: if the tokenizer has no offsets, no chat template, or one that rewrites the message.
        """
        text, start = self.before + self.context + self.after, len(self.before)
        if chat:
            text, shift = _rendered(text, tokenizer)
            start += shift
        bos = [] if chat or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        if not tokenizer.is_fast:
            raise UserError("this tokenizer gives no character offsets", "use a fast one (tokenizer.json)")
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, room = list(encoded.input_ids), n_tokens - self.max_new_tokens - len(bos)
        if len(ids) <= room:
            return bos + ids
        stop = start + len(self.context)
        inside = [i for i, (a, b) in enumerate(encoded.offset_mapping) if start <= a < b <= stop]
        keep = len(inside) - (len(ids) - room) if self.shorten else 0
        if keep < 1:
            least = n_tokens + len(ids) - room - (len(inside) - 1 if self.shorten else 0)
            raise TooShort(f"{self.id} needs {least} tokens with this tokenizer, {n_tokens} were asked for")
        return bos + ids[: inside[(keep + 1) // 2]] + ids[inside[-1] + 1 - keep // 2 :]


@dataclass(frozen=True)
class Scored:
    """An answer and its score, 0 to 1."""

    question: Question
    prediction: str
    score: float


Score = Callable[[str, Question], float]
JudgedScore = Callable[["Judge", str, Question], float]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as on the command line and in results.
        load: reads its files: ``load(source, subsets=None, ...)``.
        score: of an answer, by rule.
        aggregate: the table that the benchmark reports, in points (0 to 100); a mean over groups is only there if
            every group is.
        judged: scores that a language model gives, by metric.
        sized: options of ``load`` that depend on the length of prompts, from that length in tokens and a function that
            counts the tokens of a text.
        hub: where its files are.
        licence: of the data, as the publisher states it.
    """

    name: str
    load: Callable[..., list[Question]]
    score: Score
    aggregate: Callable[[Sequence[Scored]], dict[str, float]]
    hub: str
    licence: str
    judged: Mapping[str, JudgedScore] = field(default_factory=dict)
    sized: Callable[[int, Callable[[str], int]], dict[str, Any]] = lambda n_tokens, count: {}


@dataclass(frozen=True)
class Grades:
    """What came out.

    Attributes:
        scored: every answer with a score.
        skipped: why questions were left out, by subset.
        table: as the benchmark reports it.
    """

    scored: tuple[Scored, ...]
    skipped: Mapping[str, str]
    table: Mapping[str, float]


def grade(
    benchmark: Benchmark, questions: Sequence[Question], predictions: Mapping[str, str], judge: Judge | None = None
) -> Grades:
    """Score predictions; what needs a judge is skipped, with the reason, where there is none.

    Args:
        benchmark: whose rules hold.
        questions: those asked.
        predictions: answers by question id.
        judge: a language model that grades; no request is made unless one is given.

    Raises:
        UserError: if a question has no prediction, or two have the same id.
    """
    scored, skipped, seen = [], {}, dict[str, str]()
    for question in questions:
        if question.id in seen:
            raise UserError(f"{question.source}: the id {question.id!r} was at {seen[question.id]} before")
        seen[question.id] = question.source
        if question.id not in predictions:
            raise UserError(f"no prediction for {question.id} ({question.source})")
        prediction = predictions[question.id]
        if question.metric not in benchmark.judged:
            scored.append(Scored(question, prediction, benchmark.score(prediction, question)))
        elif judge is None:
            skipped[question.subset] = f"{question.metric} is given by a language model, and no judge was named"
        else:
            value = benchmark.judged[question.metric](judge, prediction, question)
            scored.append(Scored(question, prediction, value))
    return Grades(tuple(scored), skipped, benchmark.aggregate(scored))


def around(template: str, **values: str) -> tuple[str, str]:
    """What stands before and after ``{context}`` in a template, with the other ``{names}`` filled in."""
    before, _, after = template.partition("{context}")
    return fill(before, **values), fill(after, **values)


def fill(template: str, **values: str) -> str:
    """A template with its ``{names}`` replaced in one pass; braces inside of values are left alone."""
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], template)


def lettered(choices: Iterable[str]) -> str:
    """Choices on lines that begin with "A. ", "B. ", ..."""
    return "\n".join(f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices))


def words(text: str) -> int:
    """Length in words."""
    return len(text.split())


def means(scored: Iterable[Scored], key: Callable[[Scored], str] = lambda s: s.question.subset) -> dict[str, float]:
    """Mean score in points by group, in order of appearance."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in scored:
        groups[key(item)].append(item.score)
    return {name: 100 * sum(values) / len(values) for name, values in groups.items()}


def mean_of(table: Mapping[str, float], names: Iterable[str]) -> float | None:
    """The mean of the named entries; None if one is missing."""
    names = tuple(names)
    return sum(table[name] for name in names) / len(names) if names and all(n in table for n in names) else None


def with_means(table: Mapping[str, float], groups: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """A table with the mean of each group added whose entries are all there; groups may name earlier groups."""
    table = dict(table)
    for name, members in groups.items():
        value = mean_of(table, members)
        if value is not None:
            table[name] = value
    return table


def _rendered(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, int]:
    """The message in the chat template, and by how much it moved; templates may strip it."""
    if tokenizer.chat_template is None:
        raise UserError("this tokenizer has no chat template", "ask without it")
    message = [{"role": "user", "content": text}]
    rendered = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    begin = rendered.find(text.strip())
    if begin < 0:
        raise UserError("the chat template rewrites the message, so its context cannot be found", "ask without it")
    return rendered, begin - (len(text) - len(text.lstrip()))
