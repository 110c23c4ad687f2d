"""Embedding models compared: methods x tasks x lengths; every text's vectors are computed once and kept."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from ropewalk import __version__
from ropewalk.common.command_lines import command, setting
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import code_fingerprint, ids_fingerprint
from ropewalk.common.lengths import show
from ropewalk.common.progress import Progress
from ropewalk.common.statistics import Tally, average, cluster_mean, mcnemar
from ropewalk.common.store import Records, content_key
from ropewalk.encoders.encoder import Encoder
from ropewalk.encoders.encoder_folder import TOKENIZER, EncoderFolder
from ropewalk.encoders.encoder_method import PLAIN, EncoderMethods, Growing, Reading, RopeMethod, TableMethod
from ropewalk.encoders.encoder_methods.pooled_chunks import PooledChunks
from ropewalk.encoders.encoder_methods.separate_chunks import SeparateChunks
from ropewalk.encoders.extended_encoder import ExtendedEncoder, refuse_other_pooling
from ropewalk.encoders.retrieval.long_retrieval import (
    TASKS,
    Retrieval,
    TooShort,
    first_right,
    ndcg,
    short_texts,
    similarities,
)
from ropewalk.report.schema import Average, Gain, Model, NotMeasured, Results, Row, Subject, Task, TaskFindings

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORT = "short"
RANKED, ALIKE = "-ndcg", "-likeness"  # end the ids of a task's other metrics
METRICS = {"": "accuracy@1", RANKED: "nDCG@10", ALIKE: "likeness to plain"}
COSINES = frozenset({"cosine", "cos_sim"})
QUARTERS = 4  # of a text's depth
TITLES = {
    "passkey": "Passkey retrieval",
    "needle": "Needle retrieval",
    SHORT: "Short texts as a folder reads them",
}


@dataclass(frozen=True)
class EncoderExperiment:
    """What is measured, and how.

    Attributes:
        model: folder or hub id.
        methods: that are compared; the plain model, if it is among them, is what the others are held against.
        to: target length in tokens.
        lengths: of texts; None means half the window, doubling to the target.
        tasks: of ``long_retrieval.TASKS``.
        samples: texts, and questions, of each task at each length and seed.
        seeds: of draws, which are pooled.
        rows: folder of a retrieval set; see ``retrieval_rows``. Empty: none.
        questions: of these, drawn at random among all its texts; None asks all.
    """

    model: str
    methods: tuple[EncoderMethods, ...]
    to: int
    lengths: tuple[int, ...] | None = None
    tasks: tuple[str, ...] = ("passkey", "needle")
    samples: int = 32
    seeds: tuple[int, ...] = (0,)
    rows: str = ""
    questions: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown:
            raise UserError(f"unknown task for encoders {unknown[0]!r}", f"There are {', '.join(TASKS)}.")
        ids = [one.id for one in self.methods]
        if len(set(ids)) < len(ids):
            raise UserError(f"a method is given twice in {', '.join(ids)}", "Name it once.")
        if not self.tasks and not self.rows:
            raise UserError("no tasks")
        most = 64
        if not 2 <= self.samples <= most:
            raise UserError(f"samples is {self.samples}, expected 2 to {most}: texts of a draw", "Add seeds for more.")
        if self.lengths and max(self.lengths) > self.to:
            raise UserError(
                f"length {max(self.lengths)} is not in 2..{self.to}", "Raise the target (--to) or leave the length out."
            )

    @property
    def key(self) -> str:
        """A hash of all that is asked."""
        asked = {one.name: repr(getattr(self, one.name)) for one in fields(self)}
        return content_key(asked | {"methods": [method.id for method in self.methods]})


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of texts, each computed once.

    Attributes:
        encoder: that runs.
        folder: its files.
        store: where they are kept.
    """

    encoder: Encoder
    folder: EncoderFolder
    store: Records

    @cached_property
    def facts(self) -> dict[str, str]:
        """What every vector depends on, besides the text and the methods."""
        return {
            "files": self.folder.digest,
            "code": code_fingerprint(("encoders", "methods", "attention", "rope")),
            "sentence-transformers": version("sentence_transformers"),
        }

    def of(self, extended: ExtendedEncoder, ids: Sequence[int], question: bool = False) -> NDArray[np.float32]:
        """float32 [k, e] of a text, or [1, e] of a question."""
        plain = not extended.changes(len(ids)) and (question or extended.methods.of(Reading) is None)
        on: dict[str, object] = {"methods": PLAIN}
        if not plain:
            on = {"methods": extended.methods.id, "to": extended.to, "as written": extended.as_written}
            on["question"] = question
        cut = list(ids[: extended.room]) if question or extended.methods.of(Reading) is None else list(ids)
        around = [ids_fingerprint(some) for some in self.encoder.around]
        key = content_key({**self.facts, **on, "around": around, "ids": ids_fingerprint(cut)})
        found = self.store.get([key]).get(key)
        if found is None:
            vectors = extended.question(ids) if question else extended.vectors(ids)
            if not np.isfinite(vectors).all():
                raise UserError(
                    f"{extended.methods.id} gives a text of {len(ids)} tokens a vector that is no number",
                    command("inspect", self.folder.name),
                )
            found = {"vectors": base64.b64encode(vectors.tobytes()).decode(), "of": vectors.shape[1]}
            self.store.put({key: found})
        flat = np.frombuffer(base64.b64decode(found["vectors"]), np.float32)
        return flat.reshape(-1, found["of"])


@dataclass(frozen=True, eq=False)
class Scored:
    """What one method did on one task at one length, over all draws.

    Attributes:
        right: float64 [questions], accuracy@1.
        gained: float64 [questions], nDCG@10.
        depths: of each question's answer.
        asked: the questions; one that is asked in several draws counts as one that is asked again.
        alike: float64 [texts], cosine with the plain model's vector; None where it is not asked for.
    """

    right: NDArray[np.float64]
    gained: NDArray[np.float64]
    depths: Sequence[float | None]
    asked: Sequence[str]
    alike: NDArray[np.float64] | None = None

    @classmethod
    def joined(cls, some: Sequence[Scored]) -> Scored:
        """Several draws as one."""
        return cls(
            np.concatenate([one.right for one in some]),
            np.concatenate([one.gained for one in some]),
            [depth for one in some for depth in one.depths],
            [text for one in some for text in one.asked],
            some[0].alike,
        )

    def of(self, values: NDArray[np.float64]) -> list[list[float]]:
        """Values, one for each question, in a list for each that is another."""
        found: dict[str, list[float]] = {}
        for text, value in zip(self.asked, values.tolist(), strict=True):
            found.setdefault(text, []).append(value)
        return list(found.values())


def run(
    experiment: EncoderExperiment, store: Records, progress: Callable[[Progress], None] = lambda _: None
) -> Results:
    """Measure everything in this process.

    Args:
        experiment: what is measured.
        store: where finished vectors are kept, and taken from.
        progress: called whenever a text was read.

    Raises:
        UserError: for everything that a user can mend.
    """
    started = time.monotonic()
    folder = EncoderFolder.open(experiment.model)
    folder.refuse_unsound()
    window = folder.window or folder.reads
    if window is None:
        raise UserError(
            f"{folder.name} does not say how many tokens it reads",
            "Say it: " + setting(folder.name, {f"{TOKENIZER}:model_max_length": 512}),
        )
    for methods in experiment.methods:
        methods.refuse_elsewhere(folder.positions)
        methods.check(window, experiment.to)
        _refuse_idle(methods, window, experiment.to)
    if folder.compared not in COSINES and not folder.gives_length_one:
        raise UserError(
            f"{folder.name} compares vectors by {folder.compared!r} (similarity_fn_name), expected the cosine",
            "Only models that compare by the cosine are measured.",
        )
    progress(Progress(0, 0, f"opening {folder.name}"))
    encoder = Encoder(str(folder.path))
    for methods in experiment.methods:
        if methods.of(PooledChunks) is not None:
            refuse_other_pooling(encoder)
    vectors = Vectors(encoder, folder, store)
    found = Measuring(experiment, vectors, window, progress).all()
    return replace(
        found,
        versions=_versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
    )


@dataclass(eq=False)
class Measuring:
    """One experiment as it runs.

    Attributes:
        experiment: what is measured.
        vectors: of texts.
        window: tokens that the encoder reads by itself.
        progress: called whenever a text was read.
        skipped: what no text was made for.
    """

    experiment: EncoderExperiment
    vectors: Vectors
    window: int
    progress: Callable[[Progress], None]
    skipped: list[NotMeasured] = field(default_factory=list)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        e = self.experiment
        if e.lengths:
            return tuple(sorted({*e.lengths, e.to}))
        doubled = [self.window // 2]
        while doubled[-1] * 2 < e.to:
            doubled.append(doubled[-1] * 2)
        return tuple(sorted({*doubled, e.to}))

    @cached_property
    def short(self) -> tuple[int, ...]:
        """Of texts that the folder reads whole as it comes: tokens, up to the last that it reads."""
        reads = min(self.vectors.folder.reads or self.window, self.window)
        return tuple(sorted({reads // 4, reads}))

    @cached_property
    def sets(self) -> list[Retrieval]:
        """All texts and questions, by task, length and seed."""
        e, encoder = self.experiment, self.vectors.encoder
        prompt = self._prompt(DOCUMENT_PROMPTS)
        before = encoder.ids(prompt) if prompt else []
        around = sum(map(len, encoder.around)) + len(before)
        found = []
        for task in e.tasks:
            for length in self.lengths:
                try:
                    made = [TASKS[task](encoder.ids, length, around, seed, e.samples) for seed in e.seeds]
                except TooShort as error:
                    self.skipped.append(NotMeasured(e.model, task, str(error), length))
                else:
                    found += [replace(one, documents=[[*before, *ids] for ids in one.documents]) for one in made]

        def ids(text: str) -> list[int]:
            return encoder.ids(prompt + text)

        if e.rows:
            from ropewalk.encoders.retrieval.retrieval_rows import drawn, retrieval

            found.append(drawn(retrieval(e.rows, ids), e.questions, e.seeds[0]))
        if not found:
            why = "".join(f": {one.task} at {one.length}: {one.reason}" for one in self.skipped[:1])
            raise UserError(f"no length holds a task{why}", "Give a longer target, such as --to 512.")
        found.append(short_texts(ids))
        for length in self.short:
            try:
                one = short_texts(encoder.ids, length, around, e.samples)
            except TooShort:
                continue  # the sentence alone is as long
            found.append(replace(one, documents=[[*before, *ids] for ids in one.documents]))
        return found

    def all(self) -> Results:
        e = self.experiment
        total = len(e.methods) * sum(len(one.documents) for one in self.sets)
        done = 0
        scored: dict[str, dict[tuple[str, int], Scored]] = {}
        for methods in e.methods:
            cells: dict[tuple[str, int], list[Scored]] = {}
            for one in self.sets:
                if one.task == SHORT and not methods.saved:
                    continue  # no folder reads so
                documents, length = [], one.length or _longest(one)
                extended = self._extended(methods, one)
                for ids in one.documents:
                    documents.append(self.vectors.of(extended, ids))
                    done += 1
                    self.progress(Progress(done, total, f"{methods.id}  {one.task} at {length:,}"))
                cells.setdefault((one.task, length), []).append(self._scored(extended, one, documents))
            scored[methods.id] = {cell: Scored.joined(some) for cell, some in cells.items()}
        return self._results(scored)

    def _extended(self, methods: EncoderMethods, one: Retrieval) -> ExtendedEncoder:
        v = self.vectors
        return ExtendedEncoder(v.encoder, v.folder, methods, self.experiment.to, as_written=one.task == SHORT)

    def _scored(self, extended: ExtendedEncoder, one: Retrieval, documents: Sequence[NDArray[np.float32]]) -> Scored:
        encoder, prompt = self.vectors.encoder, self._prompt(QUESTION_PROMPTS)
        asked = [self.vectors.of(extended, encoder.ids(prompt + text), question=True) for text in one.questions]
        scores = similarities(np.concatenate(asked), documents)
        alike = self._alike(one, documents) if one.task == SHORT else None
        right, gained = first_right(scores, one.relevant), ndcg(scores, one.relevant)
        return Scored(right, gained, one.depths, one.questions, alike)

    def _alike(self, one: Retrieval, documents: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        plain = self._extended(EncoderMethods(), one)
        before = [self.vectors.of(plain, ids) for ids in one.documents]
        pairs = zip(before, documents, strict=True)
        return np.asarray([float((a @ b.T).max()) for a, b in pairs], np.float64)

    def _prompt(self, names: Sequence[str]) -> str:
        """What stands before texts, or before questions.

        Raises:
            UserError: if the model pools without it, which is not done here.
        """
        folder, model = self.vectors.folder, self.vectors.encoder.model
        text = str(next((model.prompts[name] for name in names if name in model.prompts), "") or "")
        if text and not folder.pools_prompts:
            raise UserError(
                f"{folder.name} pools without its prompt {text!r} (include_prompt is false), which is not measured here"
            )
        return text

    def _results(self, scored: Mapping[str, Mapping[tuple[str, int], Scored]]) -> Results:
        e, folder = self.experiment, self.vectors.folder
        model = Model(
            folder.name, self.window, folder.reads, e.to, list(self.lengths),
            {"pooling": " ".join(folder.poolings) or "mean", "positions": folder.positions, **self.vectors.facts},
            folder.reads if (folder.reads or self.window) < self.window else None,
        )  # fmt: skip
        plain = scored.get(PLAIN)
        subjects, rows = [], []
        for methods in e.methods:
            own = scored[methods.id]
            rows += list(_rows(folder.name, methods.id, own))
            subjects.append(self._subject(methods, own, plain))
        there = {row.task for row in rows}
        tasks = [
            Task(task + end, f"{TITLES.get(task, task)}, {metric}", "score")
            for task in dict.fromkeys(task for own in scored.values() for task, _ in own)
            for end, metric in METRICS.items()
            if task + end in there
        ]
        settings = {
            "methods": [one.id for one in e.methods], "tasks": list(e.tasks), "seeds": list(e.seeds),
            "samples": e.samples, "rows": e.rows,
        }  # fmt: skip
        return Results(settings, [model], subjects, tasks, rows, not_measured=self.skipped)

    def _subject(
        self,
        methods: EncoderMethods,
        own: Mapping[tuple[str, int], Scored],
        plain: Mapping[tuple[str, int], Scored] | None,
    ) -> Subject:
        folder, entries = self.vectors.folder, methods.entries
        judged = [cell for cell in own if cell[0] in TASKS]
        means = []
        for length in sorted({length for _, length in judged}):
            tallies = [Tally.of(own[cell].of(own[cell].right)) for cell in judged if cell[1] == length]
            if len(tallies) == len(self.experiment.tasks):
                one = average(tallies)
                means.append(Average(length, one.value, one.low, one.high, one.n, one.se))
        return Subject(
            folder.name,
            methods.id,
            methods.title,
            paper=next((entry.paper for entry in entries if entry.paper), ""),
            factor=self.experiment.to / self.window if methods.of(Growing) else 1.0,
            training_free="yes",
            exportable=" / ".join(dict.fromkeys(entry.exportable for entry in entries)),
            note="; ".join(entry.summary for entry in entries),
            beyond_window=None if plain is None or methods.id == PLAIN else _gain(own, plain, self.experiment.to),
            averages=means,
            tasks=[TaskFindings(task) for task in dict.fromkeys(task for task, _ in own)],
        )


DOCUMENT_PROMPTS, QUESTION_PROMPTS = ("document", "passage", "corpus"), ("query",)  # sentence-transformers' names


def _refuse_idle(methods: EncoderMethods, window: int, to: int) -> None:
    """Refuse what would be the plain model under another name, since texts that it reads are read by it.

    Raises:
        UserError: naming the method that has nothing to do.
    """
    growing, chunks = methods.of(Growing), methods.of(SeparateChunks)
    if isinstance(growing, (TableMethod, RopeMethod)):
        if to <= window:
            raise UserError(
                f"{growing.id} has nothing to do for {to:,} tokens: up to {window:,} the plain model reads",
                f"Say --to {show(2 * window)}, or measure the folder that 'ropewalk extend' writes.",
            )
        if chunks is not None and chunks.size < window // 2:
            raise UserError(
                f"{growing.id} has nothing to do beside {chunks.id}: chunks of that size are read by the plain model",
                f"Leave it out, or choose late-chunking: --methods {growing.id}+late-chunking",
            )


def _longest(one: Retrieval) -> int:
    return max(map(len, one.documents))


def _rows(model: str, method: str, own: Mapping[tuple[str, int], Scored]) -> Iterator[Row]:
    for (task, length), one in own.items():
        yield _row(model, method, task, length, one.of(one.right))
        yield _share(model, method, task + RANKED, length, one.of(one.gained))
        if one.alike is not None:
            yield _share(model, method, task + ALIKE, length, [[value] for value in one.alike.tolist()])
        if None not in one.depths:
            quarter = (np.asarray(one.depths, np.float64) * QUARTERS).astype(int).clip(0, QUARTERS - 1)
            for i in sorted(set(quarter.tolist())):
                some = [[value] for value in one.right[quarter == i].tolist()]
                yield _row(model, method, task, length, some, (i + 0.5) / QUARTERS)


def _row(model: str, method: str, task: str, length: int, right: list[list[float]], depth: float | None = None) -> Row:
    mean = average([Tally.of(right)])
    return Row(model, method, task, length, mean.value, mean.low, mean.high, mean.n, depth)


def _share(model: str, method: str, task: str, length: int, values: list[list[float]]) -> Row:
    """The mean of what lies between 0 and 1, or very little besides."""
    sums = [sum(min(1.0, max(0.0, one)) for one in some) for some in values]
    mean = cluster_mean(sums, [len(some) for some in values])
    low, high = (None if bound is None else min(1.0, max(0.0, bound)) for bound in (mean.low, mean.high))
    return Row(model, method, task, length, min(1.0, max(0.0, mean.value)), low, high, mean.n)


def _gain(own: Mapping[tuple[str, int], Scored], plain: Mapping[tuple[str, int], Scored], to: int) -> Gain | None:
    """Questions at the target that only one of the two answers; each counts once, however often it is drawn."""
    cells = [cell for cell in own if cell[0] in TASKS and cell[1] == to]
    if not cells:
        return None
    more = [sum(some) for cell in cells for some in own[cell].of(own[cell].right - plain[cell].right)]
    only_this, only_none = sum(one > 0 for one in more), sum(one < 0 for one in more)
    return Gain(only_this, only_none, mcnemar(only_this, only_none))


def _versions() -> dict[str, str]:
    import sentence_transformers
    import torch
    import transformers

    return {
        "ropewalk": __version__, "torch": torch.__version__, "transformers": transformers.__version__,
        "sentence-transformers": sentence_transformers.__version__,
    }  # fmt: skip
