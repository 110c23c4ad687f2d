"""Compares extension methods on one model: the same documents, the same prompts, every sample computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ropewalk.backends.local import Method, describe, length_dependent, live
from ropewalk.backends.nll import BATCH_TOKENS
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import model_fingerprint
from ropewalk.common.store import SampleStore
from ropewalk.evaluation.asking import Engine, Progress
from ropewalk.evaluation.findings import Comparison, Measured, rows, summarise
from ropewalk.evaluation.samples import cells
from ropewalk.methods.frequencies.none import Plain
from ropewalk.tasks.registry import PPL
from ropewalk.texts.documents import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS = (PPL, "passkey", "niah")
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
THRESHOLD = 0.85  # accuracy that counts as using the context, close to RULER's 0.856


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
    long_enough = tokenise(documents, tokenizer, to) if PPL in tasks else {}
    texts = {name: ids[:to] for name, ids in islice(long_enough.items(), max_documents)}
    asked, skipped = cells(
        [name for name in tasks if name != PPL], lengths, samples_per_cell * len(depths), depths, seed, tokenizer
    )
    records = SampleStore() if store is None else store  # an empty store is falsy
    model_hash = model_fingerprint(model)
    varies = {method.id: length_dependent(method, model) for method in contestants}
    forwards = sum(len(lengths) if varying else 1 for varying in varies.values())
    done, total = 0, forwards * len(texts) + len(contestants) * sum(map(len, asked))

    def advance(n: int, method: str, task: str, length: int) -> None:
        nonlocal done
        done += n
        progress_callback(Progress(done, total, method, task, length))

    measured: dict[str, Measured] = {}
    for method in contestants:
        with live(model, tokenizer, method, to, model_hash, batch_tokens) as backend:
            engine = Engine(backend, method.id, records, advance)
            losses = engine.losses(texts, lengths) if texts else None
            measured[method.id] = Measured(losses, engine.answers(asked))
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
        model=describe(model, tokenizer, model_hash),
        methods=[
            {"id": m.id, "length_dependent": varies[m.id], "fingerprint": m.fingerprint(model, to)} for m in contestants
        ],
        results=[row for method, found in measured.items() for row in rows(method, found)],
        summary=[
            summarise(method, found, plain, window=window, to=to, threshold=threshold, seed=seed)
            for method, found in measured.items()
        ],
        skipped=skipped,
    )


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
