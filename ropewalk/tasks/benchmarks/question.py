"""What a benchmark of real texts is: questions read from its files, a score per answer, and the table it reports."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts import rows
from ropewalk.texts.opening import opening
from ropewalk.texts.pieces import TokenUnits
from ropewalk.texts.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ropewalk.tasks.benchmarks.judge import Judge


ALL = "all"  # BENCHMARK/all is every subset that is there
SENTENCE = 32  # tokens that an answer has at least: "The pass key is 27611." must fit


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
        max_new_tokens: room for the answer, where it continues the prompt.
        source: file and line.
        in_chat: room for the answer behind a chat template, where models speak in sentences; never less than the above.
        ends: texts at which an answer is over; what a model writes from there on is not read.
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
    in_chat: int = 0
    ends: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    shorten: bool = True
    chat: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        row: Row,
        subset: str,
        template: str,
        context: str,
        references: Iterable[str],
        metric: str,
        max_new_tokens: int,
        id: object = None,
        question: str = "",
        texts: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Question:
        """A question asked by a template.

        Args:
            row: where it stands.
            subset: the data set within the benchmark.
            template: with ``{context}``, ``{question}`` and the names of ``texts``.
            context: the long text.
            references: right answers.
            metric: by which the answer is scored.
            max_new_tokens: room for the answer; a sentence is the least.
            id: of the question within its subset; the line of the file unless given.
            question: what is asked.
            texts: what else the template names.
            **more: other attributes.
        """
        before, after = around(template, question=question, **(texts or {}))
        name = f"{subset}/{row.where.rpartition(':')[2] if id is None else id}"
        room = max(SENTENCE, max_new_tokens)
        return cls(name, context, question, tuple(references), subset, metric, before, after, room, row.where, **more)

    def room(self, chat: bool) -> int:
        """Tokens for the answer."""
        return max(self.max_new_tokens, self.in_chat) if chat else self.max_new_tokens

    def answer(self, text: str) -> str:
        """What was written, up to where the answer is over."""
        begin = len(text) - len(text.lstrip())
        return text[: min((place for end in self.ends if (place := text.find(end, begin)) >= 0), default=len(text))]

    def prompt(self, tokenizer: PreTrainedTokenizerBase, n_tokens: int, chat: bool = False) -> list[int]:
        """Token ids that leave room for the answer within ``n_tokens``; see ``parts``."""
        before, context, after = self.parts(tokenizer, n_tokens, chat)
        return before + context + after

    def parts(
        self, tokenizer: PreTrainedTokenizerBase, n_tokens: int, chat: bool = False
    ) -> tuple[list[int], list[int], list[int]]:
        """Token ids before the context, of it and behind it; together they leave room for the answer.

        Where the whole is longer, tokens are taken out of the middle of the context; all else survives. They are the
        tokens of the whole prompt, never decoded and encoded again, so the length is exact.

        Args:
            tokenizer: with offsets (a fast one).
            n_tokens: of prompt and answer together.
            chat: whether to ask through the tokenizer's chat template (which brings its own BOS); without it the
                prompt begins as the tokenizer begins texts.

        Raises:
            TooShort: if ``n_tokens`` does not hold what surrounds the context, or a context that must not be cut.
            UserError: if the tokenizer has no offsets, no chat template, or one that rewrites the message.
        """
        text, start = self.before + self.context + self.after, len(self.before)
        if chat:
            text, shift = _rendered(text, tokenizer)
            start += shift
        bos = [] if chat else opening(tokenizer)
        if not tokenizer.is_fast:
            raise UserError("this tokenizer gives no character offsets", "use a fast one (tokenizer.json)")
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, room = list(encoded.input_ids), n_tokens - self.room(chat) - len(bos)
        stop = start + len(self.context)
        inside = [i for i, (a, b) in enumerate(encoded.offset_mapping) if start <= a < b <= stop]
        if len(ids) <= room:
            first, last = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
            return bos + ids[:first], ids[first:last], ids[last:]
        keep = len(inside) - (len(ids) - room) if self.shorten else 0
        if keep < 1:
            least = n_tokens + len(ids) - room - (len(inside) - 1 if self.shorten else 0)
            raise TooShort(f"{self.id} needs {least} tokens with this tokenizer, {n_tokens} were asked for")
        last = inside[-1] + 1
        kept = ids[inside[0] : inside[(keep + 1) // 2]] + ids[last - keep // 2 : last]
        return bos + ids[: inside[0]], kept, ids[last:]


@dataclass(frozen=True)
class Scored:
    """An answer and its score, 0 to 1."""

    question: Question
    prediction: str
    score: float


Score = Callable[[str, Question], float]
Read = Callable[[Row, str], Iterable["Question | UserError"]]
JudgedScore = Callable[["Judge", str, Question], float]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as on the command line and in results.
        title: as in reports.
        subsets: names of its data sets; empty if its file names them.
        read: the questions of a row of a subset's file, with an error in the place of each bad one.
        score: of an answer, by rule.
        aggregate: the table that the benchmark reports, in points (0 to 100); a mean over groups is only there if
            every group is.
        home: where its files are published.
        licence: of the data, as the publisher states it.
        one_file: True if one file holds all subsets, so that rows say what they belong to.
        split: of a hub set; "{subset}" where subsets are splits there.
        ending: what follows the subset in the names of files and configurations.
        aliases: further names of files, and their subsets.
        met: whether the reader was tried on published rows; else its layout is that of the publisher's code or paper.
        judged: scores that a language model gives, by metric.
    """

    name: str
    title: str
    subsets: Sequence[str]
    read: Read
    score: Score
    aggregate: Callable[[Sequence[Scored]], dict[str, float]]
    home: str
    licence: str
    one_file: bool = False
    split: str = "test"
    ending: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    met: bool = False
    judged: Mapping[str, JudgedScore] = field(default_factory=dict)

    def load(
        self,
        source: str | Path,
        subsets: Sequence[str] | None = None,
        left_out: list[tuple[str, str]] | None = None,
    ) -> list[Question]:
        """Questions of its files.

        Args:
            source: a file, a folder with one file per subset (in subfolders too), or a hub id.
            subsets: those wanted; every one that is there unless given.
            left_out: where each subset's bad rows go, as (subset, how many and where); the subset is "all" where one
                file holds all. Without, the first bad row is raised.

        Raises:
            UserError: naming file and line, key, value seen and value expected.
        """
        if self.subsets:
            rows.check_known(subsets, self.subsets)
        bad: list[UserError] = []
        kept = None if left_out is None else bad
        if self.one_file:
            tables = iter([(ALL, rows.read(rows.only_file(source), split=self.split, left_out=kept))])
        else:
            known = tuple(self.subsets)
            tables = rows.tables(source, known, subsets, self.split, self.ending, self.aliases, kept)
        found: dict[str, Question] = {}
        for name, table in tables:
            before, n_before = len(found), len(bad)
            for one in rows.good(self._questions(name, table, strict=kept is None), kept):
                if found.setdefault(one.id, one) is not one:
                    error = UserError(f"{one.source}: the id {one.id!r} was at {found[one.id].source} before")
                    if kept is None:
                        raise error
                    kept.append(error)
            if left_out is not None and (here := bad[n_before:]):
                total = len(found) - before + len(here)
                left_out.append((name, rows.told(here, total, "rows or questions")))
        named = self.subsets or sorted({one.subset for one in found.values()})
        if found or not bad:
            rows.check_known(subsets, named)
        return [one for one in found.values() if not subsets or one.subset in subsets]

    def _questions(self, name: str, table: Iterator[Row], strict: bool) -> Iterator[Question | UserError]:
        """The questions of a table, each row's errors first; a file that ends badly is one error more."""
        try:
            for made in rows.each(table, lambda row: list(self.read(row, name))):
                some = [made] if isinstance(made, UserError) else made
                yield from sorted(some, key=lambda one: not isinstance(one, UserError))
        except UserError as error:
            if strict:
                raise
            yield error


@dataclass(frozen=True)
class Subset(Task):
    """A benchmark's data set as a task: its samples are the questions of a file.

    Attributes:
        benchmark: whose rules hold.
        subset: its name there.
        asked: questions of the file.
        grade: the score of an answer, by rule or by a judge.
        texts: number of each context.
    """

    benchmark: Benchmark
    subset: str
    asked: tuple[Question, ...] = field(repr=False)
    grade: Score = field(repr=False)
    texts: Mapping[str, int] = field(init=False, repr=False)
    scope: str = ""
    diffusion: str = ""
    free: bool = True

    def __post_init__(self) -> None:
        contexts = dict.fromkeys(one.context for one in self.asked)
        object.__setattr__(self, "texts", {context: i for i, context in enumerate(contexts)})
        object.__setattr__(self, "name", f"{self.benchmark.name}/{self.subset}")

    def prompted(self, question: Question, n_tokens: int, units: TokenUnits) -> Sample:
        """A question with its prompt.

        Raises:
            TooShort: if ``n_tokens`` does not hold it.
        """
        chat = question.chat and units.tokenizer.chat_template is not None
        before, context, after = question.parts(units.tokenizer, n_tokens, chat)
        return Sample(
            before + context + after, [], question.references[0], float("nan"), question.references,
            question.room(chat), before=len(before), after=len(after),
        )  # fmt: skip


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
