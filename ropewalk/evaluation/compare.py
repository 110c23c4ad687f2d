"""Compares extension methods on one model: the same documents, the same prompts, every sample computed once."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ropewalk.errors import UserError
from ropewalk.evaluation.cells import Cell, grid_depths, retrieval_task, spread_depths
from ropewalk.evaluation.comparison import Answer, Comparison, Losses, Measured, Skipped, rows, summarise
from ropewalk.evaluation.documents import tokenise
from ropewalk.evaluation.fingerprint import ids_fingerprint, model_fingerprint, tokenizer_fingerprint
from ropewalk.evaluation.nll import BATCH_TOKENS, answer_match
from ropewalk.evaluation.perplexity import Sums, document_sums, position_edges
from ropewalk.evaluation.store import Record, SampleStore, content_key
from ropewalk.evaluation.tasks.base import TooShort
from ropewalk.evaluation.units import TokenUnits
from ropewalk.frequencies.none import Plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS = ("ppl", "passkey", "niah")
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
THRESHOLD = 0.85  # accuracy that counts as using the context, close to RULER's 0.856


class Method(Protocol):
    """A context extension method, as far as evaluating it goes."""

    @property
    def id(self) -> str:
        """Canonical spelling; "none" is the plain model."""

    @property
    def length_dependent(self) -> bool:
        """Whether results of a prefix differ from the prefix of the results."""

    def on(self, model: PreTrainedModel, to: int) -> AbstractContextManager[object]:
        """Apply the method to the live model for contexts of ``to`` tokens; undone exactly on leaving."""

    def fingerprint(self, model: PreTrainedModel, to: int) -> str:
        """Hash of everything that the method does to the model."""


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` samples have a result; the last ones were of ``method``, ``task`` and ``length``."""

    done: int
    total: int
    method: str
    task: str
    length: int


def default_lengths(window: int, to: int) -> list[int]:
    """Half the window, then doubling up to the target, and the target."""
    lengths = {to}
    length = window // 2
    while length < to:
        lengths.add(length)
        length *= 2
    return sorted(lengths)


def compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    methods: Sequence[Method],
    *,
    window: int,
    to: int,
    tasks: Sequence[str] = TASKS,
    lengths: Sequence[int] | None = None,
    documents: Mapping[str, str],
    max_documents: int | None = None,
    samples_per_cell: int = 10,
    depths: Sequence[float] = DEPTHS,
    seed: int = 0,
    threshold: float = THRESHOLD,
    store: SampleStore | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress_callback: Callable[[Progress], None] = lambda progress: None,
) -> Comparison:
    """Measure each method and the plain model on the same documents and prompts.

    A sample that ``store`` holds is not computed again, so a run that was stopped goes on where it was.

    Args:
        model: the model, left as it was.
        tokenizer: its tokenizer.
        methods: what to compare; the plain model ("none") is measured first, whether it is among them or not.
        window: tokens that the model was trained on.
        to: the target length in tokens; it is always tested.
        tasks: of "ppl" (perplexity by length and loss by position), "passkey" and "niah".
        lengths: context lengths in tokens, up to ``to``; by default half the window, doubling.
        documents: texts by name, for "ppl"; those with fewer than ``to`` tokens are left out.
        max_documents: how many of the long enough documents to use; None means all.
        samples_per_cell: samples of each depth; at each length every retrieval task has ``samples_per_cell *
            len(depths)`` of them.
        depths: of the needles, 0 (start) to 1 (end); the passkeys are spread evenly instead.
        seed: of the samples and of the bootstrap.
        threshold: accuracy that counts as passing in the effective length.
        store: where finished samples are kept; by default in memory.
        batch_tokens: how many tokens to run at once.
        progress_callback: called after every batch.

    Raises:
        UserError: if an argument makes no sense, or no document has ``to`` tokens.
    """
    lengths = sorted({*(default_lengths(window, to) if lengths is None else lengths), to})
    _check(tasks, lengths, to, samples_per_cell, depths)
    contestants = _plain_first(methods)
    long_enough = tokenise(documents, tokenizer, to) if "ppl" in tasks else {}
    texts = dict(islice(long_enough.items(), max_documents))
    cells, skipped = _cells(tokenizer, tasks, lengths, samples_per_cell, depths, seed)
    records = SampleStore() if store is None else store  # an empty store is falsy
    engine = _Engine(model, to, lengths, texts, cells, records, batch_tokens, progress_callback)
    engine.total = sum(map(engine.work, contestants))
    measured = {method.id: engine.measure(method) for method in contestants}
    plain = measured[contestants[0].id]
    return Comparison(
        settings={
            "window": window,
            "to": to,
            "tasks": list(tasks),
            "lengths": lengths,
            "samples_per_cell": samples_per_cell,
            "depths": list(depths),
            "seed": seed,
            "threshold": threshold,
            "documents": list(texts),
            "documents_too_short": len(documents) - len(long_enough) if texts else 0,
        },
        model=_describe(model, tokenizer, engine.model_hash),
        methods=[
            {"id": m.id, "length_dependent": engine.varies(m), "fingerprint": m.fingerprint(model, to)}
            for m in contestants
        ],
        results=[row for method, found in measured.items() for row in rows(method, found)],
        summary=[
            summarise(method, found, plain, window=window, to=to, threshold=threshold, seed=seed)
            for method, found in measured.items()
        ],
        skipped=skipped,
    )


class _Engine:
    """Runs methods over the planned samples, taking from the store what is there."""

    def __init__(
        self,
        model: PreTrainedModel,
        to: int,
        lengths: list[int],
        texts: Mapping[str, list[int]],
        cells: Sequence[Cell],
        store: SampleStore,
        batch_tokens: int,
        report: Callable[[Progress], None],
    ):
        self.model, self.to, self.lengths, self.cells = model, to, lengths, cells
        self.store, self.batch_tokens, self.report = store, batch_tokens, report
        self.names = list(texts)
        self.documents = torch.tensor([ids[:to] for ids in texts.values()])
        self.edges = position_edges(to)
        self.model_hash = model_fingerprint(model)
        self.done = self.total = 0

    def varies(self, method: Method) -> bool:
        """Whether one forward per length is needed: by the method, or by a plain model whose own rope is like that."""
        own_rope = str(self.model.config.to_dict())
        return method.length_dependent or (
            method.id == "none" and ("'dynamic'" in own_rope or "'longrope'" in own_rope)
        )

    def work(self, method: Method) -> int:
        """How many samples a method has."""
        forwards = len(self.lengths) if self.varies(method) else 1
        return len(self.documents) * forwards + sum(len(cell.depths) for cell in self.cells)

    def measure(self, method: Method) -> Measured:
        basis = {"model": self.model_hash, "method": method.fingerprint(self.model, self.to)}
        with method.on(self.model, self.to):
            losses = self._losses(method, basis) if len(self.documents) else None
            answers = {(cell.task.name, cell.length): self._answers(method, basis, cell) for cell in self.cells}
        return Measured(losses, answers)

    def _losses(self, method: Method, basis: dict[str, str]) -> Losses:
        """One forward per document, or one per document and length where the length matters."""
        cuts = sorted({*self.lengths, *self.edges})
        longest = self._prefix_sums(method, basis, self.documents, cuts)
        by_length = longest[:, [cuts.index(n) for n in self.lengths]]
        if self.varies(method):
            for j, n in enumerate(self.lengths[:-1]):
                by_length[:, j] = self._prefix_sums(method, basis, self.documents[:, :n], [n])[:, 0]
        return Losses(self.lengths, by_length, self.edges, longest[:, [cuts.index(edge) for edge in self.edges]])

    def _prefix_sums(self, method: Method, basis: dict[str, str], documents: Tensor, cuts: list[int]) -> Sums:
        """float64 [D, len(cuts)]"""
        length = documents.shape[1]
        facts = [{"task": "ppl", "document": name, "length": length, "cuts": cuts} for name in self.names]
        hashes = [ids_fingerprint(row) for row in documents.tolist()]

        def compute(indices: Sequence[int]) -> list[Record]:
            sums = document_sums(self.model, documents[list(indices)], cuts, batch_tokens=self.batch_tokens)
            return [{"sums": row} for row in sums.tolist()]

        keys = [content_key({**basis, "cuts": cuts, "ids": one}) for one in hashes]
        return np.array([record["sums"] for record in self._run(method, "ppl", length, keys, facts, compute)])

    def _answers(self, method: Method, basis: dict[str, str], cell: Cell) -> list[Answer]:
        name, length = cell.task.name, cell.length
        facts = [
            {"task": name, "length": length, "index": i, "seed": cell.seed, "depth": depth, "ids_sha256": one}
            for i, (depth, one) in enumerate(zip(cell.depths, cell.hashes, strict=True))
        ]

        def compute(indices: Sequence[int]) -> list[Record]:
            samples = [cell.sample(i) for i in indices]
            prompts, answers = [one.prompt for one in samples], [one.answer for one in samples]
            verdicts = answer_match(self.model, prompts, answers, self.batch_tokens)
            return [{"right": right, "logprob": logprob} for right, logprob in verdicts]

        keys = [content_key({**basis, "answer": True, "task": name, "ids": one}) for one in cell.hashes]
        records = self._run(method, name, length, keys, facts, compute)
        return [Answer(depth, record["right"]) for depth, record in zip(cell.depths, records, strict=True)]

    def _run(
        self,
        method: Method,
        task: str,
        length: int,
        keys: list[str],
        facts: list[dict[str, Any]],
        compute: Callable[[Sequence[int]], list[Record]],
    ) -> list[Record]:
        """The records of ``keys``: those in the store, and the others computed and kept batch by batch."""
        records = self.store.get(keys)
        missing = [i for i, key in enumerate(keys) if key not in records]
        self._advance(len(keys) - len(missing), method, task, length)
        for some in _batches(missing, max(1, self.batch_tokens // length)):
            new = {
                keys[i]: {"method": method.id, **facts[i], **result}
                for i, result in zip(some, compute(some), strict=True)
            }
            self.store.put(new)
            records |= new
            self._advance(len(some), method, task, length)
        return [records[key] for key in keys]

    def _advance(self, samples: int, method: Method, task: str, length: int) -> None:
        if samples:
            self.done += samples
            self.report(Progress(self.done, self.total, method.id, task, length))


def _batches(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _check(
    tasks: Sequence[str], lengths: Sequence[int], to: int, samples_per_cell: int, depths: Sequence[float]
) -> None:
    if unknown := [task for task in tasks if task not in TASKS]:
        raise UserError(f"unknown task {unknown[0]!r}", f"choose from {', '.join(TASKS)}")
    if not tasks:
        raise UserError("no tasks", f"choose from {', '.join(TASKS)}")
    if lengths[0] < 2 or lengths[-1] > to:
        wrong = lengths[0] if lengths[0] < 2 else lengths[-1]
        raise UserError(f"length {wrong} is not in 2..{to}", "raise the target (--to) or leave the length out")
    if samples_per_cell < 1:
        raise UserError(f"{samples_per_cell} samples per cell; at least 1 is needed")
    if not depths or not all(0 <= depth <= 1 for depth in depths) or len(set(depths)) < len(depths):
        raise UserError(f"depths {list(depths)} must be different numbers from 0 to 1")


def _plain_first(methods: Sequence[Method]) -> list[Method]:
    """The plain model, then the other methods."""
    ids = [method.id for method in methods]
    if twice := [one for one in ids if ids.count(one) > 1]:
        raise UserError(f"method {twice[0]} is given twice")
    plain: Method = next((method for method in methods if method.id == "none"), Plain())
    return [plain, *(method for method in methods if method.id != "none")]


def _cells(
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    lengths: Sequence[int],
    samples_per_cell: int,
    depths: Sequence[float],
    seed: int,
) -> tuple[list[Cell], list[Skipped]]:
    """Every retrieval task at every length that it fits in."""
    units = TokenUnits(tokenizer)
    cells, skipped = [], []
    for name in (task for task in tasks if task != "ppl"):
        task = retrieval_task(name, tokenizer)
        spread = spread_depths(samples_per_cell * len(depths), seed)
        where = spread if name == "passkey" else grid_depths(depths, samples_per_cell)
        for length in lengths:
            try:
                cells.append(Cell(task, length, where, seed, units))
            except TooShort as error:
                skipped.append(Skipped(name, length, str(error)))
    return cells, skipped


def _describe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fingerprint: str) -> dict[str, Any]:
    """What a reader needs to know to get the same numbers."""
    import transformers

    return {
        "name": model.config.name_or_path,
        "type": model.config.model_type,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention": getattr(model.config, "_attn_implementation", None),
        "fingerprint": fingerprint,
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
