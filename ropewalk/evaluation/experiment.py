"""The one experiment: models x methods x tasks x lengths x seeds, planned, asked, and put together.

Every sample is computed once and kept in a store. What is in the store already is not computed again, so a run that was
stopped goes on where it was, and workers need do no more than fill it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ropewalk import __version__
from ropewalk.backends.backend import Backend
from ropewalk.common.errors import UserError
from ropewalk.common.progress import Progress
from ropewalk.common.store import Records, content_key
from ropewalk.evaluation.asking import Answer, Asking, Losses
from ropewalk.evaluation.contestants import AsItIs, Contestant, Live, about, reach
from ropewalk.evaluation.controls import controls, guessed
from ropewalk.evaluation.samples import Cell, RowCell, Skipped, cells, row_cells
from ropewalk.evaluation.sequential import Sprt, decide, search, settled
from ropewalk.methods.base import Method, require_beyond
from ropewalk.report.schema import PLAIN, Results
from ropewalk.tasks import registry
from ropewalk.tasks.benchmarks import grading
from ropewalk.tasks.benchmarks.question import Subset
from ropewalk.tasks.registry import PPL
from ropewalk.tasks.task import TooShort
from ropewalk.texts.documents import tokenise
from ropewalk.texts.opening import force_bos
from ropewalk.workflows.strategies.full_window import FullWindow
from ropewalk.workflows.strategy import Strategy

if TYPE_CHECKING:
    from ropewalk.tasks.benchmarks.judge import Judge

LENGTHS = 5  # of a server, whose window is not known: this many, doubling
SHORTEST = 1024
NO_TEXT = "its prompts are not a text and a question about it, so that there is nothing to read in parts"
DOCUMENTS = 2  # perplexity at a length wants at least so many texts of that length
Answers = dict[tuple[str, int], list[Answer]]


@dataclass(frozen=True)
class Experiment:
    """What is measured, and how.

    Attributes:
        models: folders, hub ids, ``demo``, or URLs of servers that speak OpenAI's protocol.
        methods: applied to each model; the plain model, if it is among them, is what the others are compared with.
        tasks: of the registry, "ppl", and subsets of benchmarks ("longbench/hotpotqa"; "longbench/all").
        lengths: context lengths in tokens; None means half the window, doubling to the target.
        to: target length of the methods, beyond the window; None means the longest of the lengths, else what the model
            promises.
        seeds: of prompts; each is another draw of samples, and all draws are pooled.
        samples: of each task at each length and seed.
        questions: of each subset of a benchmark, drawn at random; None asks all.
        contexts: at most so many for the samples, where a task asks several questions about one.
        depths: of grids, 0 (start) to 1 (end).
        documents: at most so many for perplexity.
        data: texts for perplexity: "stdlib", "topics", or a file or folder.
        rows: file or folder of a benchmark (of several: a folder with one folder each), or a hub id.
        qa: folder with ``qa_1.json`` (SQuAD) and ``qa_2.json`` (HotpotQA), for tasks that ask about these.
        sequential: stop asking where the outcome is clear.
        controls: measure ceiling, closed book and altered information too, at the shortest length.
        threshold: accuracy that counts as using the context, close to RULER's 0.856.
        judge: a language model that grades answers which no rule can score.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda".
        trust_remote_code: run code that comes with the model.
        bos: begin texts with BOS, also where the tokenizer does not.
        tokenizer: of a server: folder or hub id.
        served: of a server: the model's name there; None means the only one.
        strategies: ways to read a text in several calls of the plain model, beside the methods.
        spend: tokens of all calls for one question, in multiples of those that its prompt as it is and the answer may
            have; 0 is no bound.
        window: tokens that a call of a strategy may have; None means as many as the model reads.
        embed: folder or hub id of an embedding model, for strategies that compare meanings.
    """

    models: tuple[str, ...]
    methods: tuple[Method, ...]
    tasks: tuple[str, ...]
    lengths: tuple[int, ...] | None = None
    to: int | None = None
    seeds: tuple[int, ...] = (0,)
    samples: int = 20
    questions: int | None = None
    contexts: int | None = None
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    documents: int = 24
    data: str = "stdlib"
    rows: str = ""
    qa: str = ""
    sequential: bool = False
    controls: bool = True
    threshold: float = 0.85
    judge: Judge | None = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    bos: bool = False
    tokenizer: str = ""
    served: str | None = None
    strategies: tuple[Strategy, ...] = ()
    spend: float = 1.0
    window: int | None = None
    embed: str = ""

    def __post_init__(self) -> None:
        ids = [spelling(one) for one in self.ways]
        wrong = [
            (not self.models, "no model to measure"),
            (len(set(self.models)) < len(self.models), f"a model is given twice in {', '.join(self.models)}"),
            (not ids, "no methods"),
            (len(set(ids)) < len(ids), f"a method is given twice in {', '.join(ids)}"),
            (any(isinstance(one, FullWindow) for one in self.strategies), "full is what methods are asked"),
            *((one.reads != "text", f"{one.name} reads examples with their answers, which tasks do not have")
              for one in self.strategies),
            (not 0 <= self.spend < math.inf, f"spend is {self.spend}, expected 0 (no bound) or more"),
            (self.window is not None and self.window < 1, f"window is {self.window}, expected at least 1"),
            (not self.tasks, "no tasks"),
            (not self.seeds, "no seeds"),
            (self.samples < 1, f"samples is {self.samples}, expected at least 1"),
            (self.documents < 1, f"documents is {self.documents}, expected at least 1"),
            (self.lengths is not None and (not self.lengths or min(self.lengths) < 2),
             f"lengths are {list(self.lengths or ())}, expected numbers of tokens from 2 on"),
            (not self.depths or len(set(self.depths)) < len(self.depths) or not all(0 <= d <= 1 for d in self.depths),
             f"depths {list(self.depths)} must be different numbers from 0 to 1"),
        ]  # fmt: skip
        for is_wrong, message in wrong:
            if is_wrong:
                raise UserError(message)
        if self.to is not None and self.lengths and max(self.lengths) > self.to:
            raise UserError(
                f"length {max(self.lengths)} is not in 2..{self.to}", "Raise the target (--to) or leave the length out."
            )
        for name in self.tasks:
            if name != PPL and "/" not in name:
                registry.entry(name)

    @property
    def key(self) -> str:
        """A hash of all that is asked: equal for the same experiment."""
        asked = {one.name: repr(getattr(self, one.name)) for one in fields(self)}
        spelled = [strategy.spelling for strategy in self.strategies]
        return content_key(asked | {"methods": [method.id for method in self.methods], "strategies": spelled})

    @property
    def ways(self) -> list[Method | Strategy]:
        """What is put on a model, and how it is read: a subject each."""
        return [*self.methods, *self.strategies]

    @property
    def asks_rows_only(self) -> bool:
        return all("/" in name for name in self.tasks)

    def target(self, promised: int) -> int:
        """The target of the methods, for a model that promises so many tokens."""
        return self.to or max(self.lengths or [promised])

    def reach(self, contestant: Contestant) -> tuple[int | None, tuple[int, ...]]:
        """The target of the methods and the tested lengths for a model.

        Raises:
            UserError: if it does not say how much it reads and no lengths are given.
        """
        if contestant.window is None or contestant.length is None:
            if self.asks_rows_only and self.lengths is None:
                raise UserError("a server does not say how much it reads", "Add --lengths, for example --lengths 32k.")
            lengths = self.lengths or tuple(SHORTEST << i for i in range(LENGTHS))
            return self.to or max(lengths), tuple(sorted(set(lengths)))
        to = self.target(contestant.length)
        if self.lengths is None and self.asks_rows_only:
            return to, (to,)
        return to, tuple(sorted(set(self.lengths or default_lengths(contestant.window, to))))


def default_lengths(window: int, to: int) -> list[int]:
    """Half the window, then doubling up to the target, and the target."""
    lengths = {to}
    length = window // 2
    while length < to:
        lengths.add(length)
        length *= 2
    return sorted(lengths)


@dataclass(frozen=True)
class Material:
    """What the tasks of an experiment are made from, read once: texts, subsets of benchmarks, the user's questions."""

    documents: Mapping[str, str] = field(default_factory=dict)
    subsets: Mapping[str, Subset] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[tuple[str, str]] = ()  # tasks with bad rows or with questions that need a judge, and how many

    @classmethod
    def of(cls, experiment: Experiment, store: Records) -> Material:
        """Read the files that the tasks need.

        Raises:
            UserError: naming file, line and key, or the material that is missing.
        """
        from ropewalk.texts.documents import load

        given: Mapping[str, Any] = {}
        lost: list[tuple[str, str]] = []
        if experiment.qa:
            from ropewalk.tasks.ruler.qa_files import material

            bad: list[tuple[str, str]] = []
            given = material(experiment.qa, bad)
            lost = [(name, why) for name, why in bad if name in experiment.tasks]
        for name in experiment.tasks:
            if name != PPL and "/" not in name:
                registry.refuse_without(name, given)
        named = [name for name in experiment.tasks if "/" in name]
        subsets, left_out = grading.subsets(named, experiment.rows, experiment.judge, store)
        return cls(load(experiment.data) if PPL in experiment.tasks else {}, subsets, given, [*lost, *left_out])


@dataclass(frozen=True)
class Plan:
    """What every method of one model is asked.

    Attributes:
        to: target length of the methods.
        lengths: tested lengths.
        cells: samples, by task.
        controls: by task and name.
        guesses: by task, what the best guess scores on the samples about each text, where there is one.
        texts: token ids of documents, cut to the longest of ``text_lengths``.
        text_lengths: those that enough documents have.
        skipped: what is not asked.
    """

    to: int | None
    lengths: tuple[int, ...]
    cells: Mapping[str, Sequence[Cell]]
    controls: Mapping[str, Mapping[str, Cell]]
    guesses: Mapping[str, list[list[float]]]
    texts: Mapping[str, Sequence[int]]
    text_lengths: Sequence[int]
    skipped: Sequence[Skipped]

    @classmethod
    def of(cls, experiment: Experiment, contestant: Contestant, material: Material) -> Plan:
        """The samples and texts for one model; they depend on its tokenizer and on nothing else of it."""
        to, lengths = experiment.reach(contestant)
        tokenizer = contestant.tokenizer
        made = [name for name in experiment.tasks if name != PPL and "/" not in name]
        parts = registry.Material(tokenizer, material.given)
        found: list[Cell] = []
        skipped: list[Skipped] = [Skipped(name, n, reason) for name, reason in material.left_out for n in lengths]
        for seed in experiment.seeds:
            e = experiment
            some, short = cells(made, lengths, e.samples, e.depths, seed, tokenizer, parts, e.contexts)
            found += some
            skipped += short if seed == experiment.seeds[0] else []
        for subset in material.subsets.values():  # all questions are asked once, whatever the seeds
            for seed in experiment.seeds if experiment.questions else experiment.seeds[:1]:
                some, short = row_cells(subset, lengths, experiment.questions, seed, tokenizer)
                found += some
                skipped += short
        order = {name: i for i, name in enumerate([*made, *material.subsets])}
        found.sort(key=lambda cell: order[cell.name])
        by_task = {name: list(some) for name, some in groupby(found, lambda cell: cell.name)}
        checks = {name: _controls(some[0], experiment.samples) for name, some in by_task.items() if experiment.controls}
        guesses = {name: _guesses(some[0]) for name, some in by_task.items() if experiment.controls}
        texts, text_lengths, too_long = _texts(material.documents, tokenizer, lengths, experiment.documents)
        return cls(to, lengths, by_task, checks, guesses, texts, text_lengths, [*skipped, *too_long])

    def of_text(self) -> Plan:
        """What is asked about a text, without all else."""
        kept = {name: some for name, some in self.cells.items() if all(cell.of_text for cell in some)}
        return replace(self, cells=kept, controls={name: self.controls[name] for name in kept if name in self.controls})

    def __len__(self) -> int:
        """Samples of one method, without the passes over texts."""
        every = [cell for some in self.cells.values() for cell in some]
        return sum(map(len, every)) + sum(len(cell) for some in self.controls.values() for cell in some.values())


@dataclass(frozen=True)
class Measured:
    """All that one method did.

    Attributes:
        losses: of the texts.
        answers: by (task, length).
        controls: by task and name.
        early: by task, lengths at which not all samples were needed.
        unmeasured: what was not asked, or not answered.
        how: how prompts were read.
        tokens: asked and read.
        facts: of the model.
    """

    losses: Losses | None = None
    answers: Mapping[tuple[str, int], Sequence[Answer]] = field(default_factory=dict)
    controls: Mapping[str, Mapping[str, Sequence[Answer]]] = field(default_factory=dict)
    early: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unmeasured: Sequence[Skipped] = ()
    how: str = ""
    tokens: dict[str, int] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def measure(
    backend: Backend,
    plan: Plan,
    experiment: Experiment,
    store: Records,
    method: str = PLAIN,
    advance: Callable[[int, str, str, int], None] = lambda *_: None,
) -> Measured:
    """Ask one backend all that is planned; what ``store`` holds is not computed again.

    Args:
        backend: a live model with its method, a server, or a stand-in.
        plan: for its tokenizer.
        experiment: whose plan it is.
        store: where finished samples are kept.
        method: how records and progress name it.
        advance: called with (samples, method, task, length) whenever some have a result.
    """
    asking = Asking(backend, method, store, advance)
    wanted = plan.of_text() if backend.needs_text else plan
    unmeasured = [Skipped(PPL, None, backend.no_losses)] if plan.texts and backend.no_losses else []
    read = [n for n in plan.text_lengths if backend.reads is None or n <= backend.reads]
    texts = {name: ids[: read[-1]] for name, ids in plan.texts.items()} if read else {}
    losses = asking.losses(texts, read) if texts and not unmeasured else None
    beyond = [n for n in plan.text_lengths if n not in read]
    unmeasured += [Skipped(PPL, n, f"{backend.reads:,} tokens are all that it reads") for n in beyond]
    unmeasured += [Skipped(name, None, NO_TEXT) for name in plan.cells if name not in wanted.cells]
    answers: Answers = {}
    early: dict[str, list[int]] = {}
    for name, some in wanted.cells.items():
        if experiment.sequential:
            found, early[name] = _sequentially(asking, some, experiment)
            answers |= found
        else:
            answers |= asking.answers(some)
    checks = {
        name: {control: asking.ask([(cell, i) for i in range(len(cell))]) for control, cell in some.items()}
        for name, some in wanted.controls.items()
    }
    unmeasured += [Skipped(*cell, why) for cell, some in answers.items() if (why := _lost(some))]
    unmeasured += [
        Skipped(wanted.controls[name][one].name, None, why)
        for name, own in checks.items()
        for one, some in own.items()
        if (why := _lost(some))
    ]
    answers = {cell: some for cell, some in answers.items() if not _lost(some)}
    checks = {name: {one: some for one, some in own.items() if not _lost(some)} for name, own in checks.items()}
    return Measured(losses, answers, checks, early, unmeasured, backend.how, backend.tokens, backend.describe())


def _lost(answers: Sequence[Answer]) -> str:
    """Why some were not answered, so that the others say nothing; empty if all were."""
    lost = [answer.lost for answer in answers if answer.lost]
    return f"{len(lost)} of {len(answers)} questions: {lost[0]}" if lost else ""


def open_contestant(name: str, experiment: Experiment) -> Contestant:
    """A model of an experiment.

    Raises:
        UserError: if there is no such model or server, or it cannot be used.
    """
    if name.startswith(("http://", "https://")):
        for method in experiment.methods:  # before anybody is connected with
            AsItIs.refuse(method)
        from ropewalk.backends.openai import connect

        server = connect(name, experiment.tokenizer, experiment.served, experiment.trust_remote_code)
        if experiment.bos:
            force_bos(server.tokenizer)
        return AsItIs(server, f"{server.served} at {urlsplit(name).netloc}")
    from ropewalk.checkpoint.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(name, experiment.trust_remote_code)
    needs = checkpoint.unwritten
    if needs is not None and not needs.among(method.spelling for method in experiment.methods):
        needs.refuse(f"{needs.line('evaluate', '--methods')}   (to compare: have it among --methods)")
    window, length = reach(checkpoint.config)
    if window is not None and length is not None:  # before weights are read
        require_beyond(experiment.methods, experiment.target(length), window)
    tokenizer = checkpoint.tokenizer()
    if experiment.bos:
        force_bos(tokenizer)
    return Live(checkpoint.load(experiment.dtype, experiment.device), tokenizer, name)


def asked(
    contestant: Contestant, one: Method | Strategy, experiment: Experiment, to: int | None, store: Records
) -> AbstractContextManager[Backend]:
    """The backend of a model with a method, or read by a strategy."""
    if isinstance(one, Strategy):
        return contestant.read(one, experiment.window, experiment.spend, store, experiment.embed)
    backend: AbstractContextManager[Backend] = contestant.asked(one, to)
    return backend


def spelling(one: Method | Strategy) -> str:
    """How results name a method or a strategy."""
    return one.spelling if isinstance(one, Strategy) else one.id


def run(
    experiment: Experiment,
    store: Records,
    progress: Callable[[Progress], None] = lambda _: None,
    opened: Callable[[str, Experiment], Contestant] = open_contestant,
    answered: Callable[[str, str, int, Iterable[Answer]], None] = lambda *_: None,
    material: Material | None = None,
) -> Results:
    """Measure everything in this process, and put the results together.

    Args:
        experiment: what is measured.
        store: where finished samples are kept, and taken from.
        progress: called when a model is opened, and whenever some samples have a result.
        opened: opens a model.
        answered: called with model, method, length and the answers to questions of files.
        material: what tasks are made from; read from the experiment's files unless given.

    Raises:
        UserError: for everything that a user can mend.
    """
    from ropewalk.evaluation.findings import Findings

    started = time.monotonic()
    material = Material.of(experiment, store) if material is None else material
    findings = Findings(experiment, material)
    for name in experiment.models:
        progress(Progress(0, 0, f"opening {name}"))
        contestant = opened(name, experiment)
        to, _ = experiment.reach(contestant)
        for method in experiment.methods:  # refusals come before the first forward
            contestant.check(method, to)
        if experiment.strategies:
            contestant.calls_of(experiment.window)
        plan = Plan.of(experiment, contestant, material)
        if not plan.cells and not plan.texts:
            why = "".join(f": {one.task} at {one.length}: {one.reason}" for one in plan.skipped[:1])
            raise UserError(f"nothing can be measured{why}", "Give other lengths, or longer documents.")
        advance = _counted(experiment, contestant, plan, progress)
        for one in experiment.ways:
            spelled = spelling(one)
            facts = about(one) if isinstance(one, Strategy) else contestant.describe(one, to)
            with asked(contestant, one, experiment, to, store) as backend:
                measured = measure(backend, plan, experiment, store, spelled, advance)
            for (task, length), some in measured.answers.items():
                if task in material.subsets:
                    answered(contestant.name, spelled, length, some)
            findings.add(contestant, spelled, facts, plan, measured)
    return replace(
        findings.results(),
        versions=_versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
    )


def _counted(
    experiment: Experiment, contestant: Contestant, plan: Plan, progress: Callable[[Progress], None]
) -> Callable[[int, str, str, int], None]:
    """What is called after some samples: it counts all of one model's methods and strategies."""
    passes = sum(
        (len(plan.text_lengths) if contestant.varies(method) else 1) if method.causal else 0
        for method in experiment.methods
    )
    done, total = 0, passes * len(plan.texts) + len(experiment.methods) * len(plan)
    total += len(experiment.strategies) * len(plan.of_text())
    where = f"{contestant.name}  " if len(experiment.models) > 1 else ""
    progress(Progress(0, total, f"{where}the first of {total:,} samples"))

    def advance(n: int, method: str, task: str, length: int) -> None:
        nonlocal done
        done += n
        progress(Progress(done, total, f"{where}{method}  {task} at {length:,}"))

    return advance


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"ropewalk": __version__, "torch": torch.__version__, "transformers": transformers.__version__}


def _texts(
    documents: Mapping[str, str], tokenizer: Any, lengths: Sequence[int], most: int
) -> tuple[dict[str, list[int]], list[int], list[Skipped]]:
    """The documents' ids, cut to the longest length that enough of them have; the lengths up to it, and the others."""
    if not documents:
        return {}, [], []
    ids = tokenise(documents, tokenizer, 2)
    enough = min(DOCUMENTS, len(ids))
    fitting = [n for n in lengths if sum(len(row) >= n for row in ids.values()) >= enough]
    longest = max(map(len, ids.values()))
    reason = f"fewer than {enough} documents are that long; the longest has {longest} tokens"
    skipped = [Skipped(PPL, n, reason) for n in lengths if n not in fitting]
    if not fitting:
        return {}, [], skipped
    kept = [(name, row[: fitting[-1]]) for name, row in ids.items() if len(row) >= fitting[-1]]
    return dict(kept[:most]), fitting, skipped


def _controls(cell: Cell, samples: int) -> dict[str, Cell]:
    if isinstance(cell, RowCell):
        return {}
    try:
        return controls(cell, min(samples, len(cell)))
    except TooShort:
        return {}


def _guesses(cell: Cell) -> list[list[float]]:
    return [] if isinstance(cell, RowCell) else guessed(cell)


def _sequentially(asking: Asking, some: Sequence[Cell], experiment: Experiment) -> tuple[Answers, list[int]]:
    """One task's answers at the lengths that had to be tested, and where not all samples were needed."""
    by_length = {
        length: [(cell, i) for cell in alike for i in range(len(cell))]
        for length, alike in groupby(sorted(some, key=lambda cell: cell.length), lambda cell: cell.length)
    }
    name, of_file = some[0].name, isinstance(some[0], RowCell)
    answers: Answers = {}
    early = []

    def passes(length: int) -> bool:
        places = by_length[length]
        shuffle = random.Random(f"{experiment.seeds[0]}/order/{name}/{length}")
        order = shuffle.sample(range(len(places)), len(places))
        given: list[Answer] = []

        def ask(indices: Sequence[int]) -> list[float]:
            given.extend(asking.ask([places[i] for i in indices]))
            return [answer.score for answer in given[-len(indices) :]]

        if of_file:
            stopped, passed = settled(order, ask), True
        else:
            verdict = decide(Sprt(), order, ask, experiment.threshold)
            stopped, passed = verdict.early, verdict.passed
        answers[name, length] = given
        if stopped:
            early.append(length)
        return passed

    if of_file:  # no threshold is meant: every length is measured until its mean is known well enough
        for length in by_length:
            passes(length)
    else:
        search(sorted(by_length), passes)
    return dict(sorted(answers.items())), sorted(early)
