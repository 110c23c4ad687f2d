"""Comparing methods on a checkpoint, from what a user types to results.json and report.html."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk import __version__
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.files import explained, refuse_results, write_text
from ropewalk.common.lengths import show
from ropewalk.methods import catalogue

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ropewalk.evaluation.asking import Progress
    from ropewalk.methods.base import Method

TASKS = ("ppl", "passkey", "niah")


@dataclass(frozen=True)
class Request:
    """One comparison, as asked for.

    Attributes:
        model: folder, hub id or ``demo``.
        to: target length in tokens.
        methods: comma-separated spellings.
        tasks: of "ppl", "passkey", "niah".
        lengths: context lengths in tokens; None means half the window, doubling to the target.
        data: texts for perplexity: "stdlib", "topics", or a file or folder.
        samples: retrieval samples per depth and length.
        depths: number of needle depths, spread from start to end.
        max_documents: at most so many documents.
        seed: of prompts and intervals.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda".
        trust_remote_code: run code that comes with the model.
        command: the line that makes this comparison again.
    """

    model: str
    to: int
    methods: str
    tasks: tuple[str, ...] = TASKS
    lengths: tuple[int, ...] | None = None
    data: str = "stdlib"
    samples: int = 4
    depths: int = 5
    max_documents: int = 24
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    command: str = ""


def compare(request: Request, out: Path, progress: Callable[[Progress], None] = lambda _: None) -> dict[str, Any]:
    """Run (or go on with) a comparison; writes samples.sqlite, results.json and report.html into ``out``.

    Raises:
        UserError: for everything that a user can mend.
    """
    methods = catalogue.methods(request.methods)  # mistakes in names show before anything is loaded
    if request.depths < 1 or request.samples < 1:
        raise UserError(f"samples is {request.samples}, depths is {request.depths}, expected at least 1 of each")
    from ropewalk.checkpoint.checkpoint import Checkpoint, local
    from ropewalk.common.store import SampleStore
    from ropewalk.evaluation import compare as engine
    from ropewalk.report.page import write as write_report
    from ropewalk.texts.documents import load as load_documents

    started = time.monotonic()
    refuse_results(out, local([request.model], request.data))
    documents = load_documents(request.data) if "ppl" in request.tasks else {}
    checkpoint = Checkpoint.open(request.model, request.trust_remote_code)
    tokenizer, window = checkpoint.tokenizer(), checkpoint.window
    model = checkpoint.load(request.dtype, request.device)
    for method in methods:  # refusals come before the first forward
        method.fingerprint(model, request.to)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    found = engine.compare(
        model,
        tokenizer,
        methods,
        window=window,
        to=request.to,
        tasks=request.tasks,
        lengths=request.lengths,
        documents=documents,
        max_documents=request.max_documents,
        samples_per_cell=request.samples,
        depths=[0.5] if request.depths == 1 else [i / (request.depths - 1) for i in range(request.depths)],
        seed=request.seed,
        store=SampleStore(out / "samples.sqlite"),
        progress_callback=progress,
    ).to_dict()
    import torch
    import transformers

    measured = {made.id: made for made in [catalogue.method("none"), *methods]}
    described = {
        entry["id"]: _describe(measured[entry["id"]], model.config, request.to, window) for entry in found["methods"]
    }
    results = {
        "model": {**found["model"], "name": request.model, "window": window, "length": checkpoint.promised},
        **{key: found["settings"][key] for key in ("to", "tasks", "lengths", "depths", "threshold", "seed")},
        "settings": found["settings"],
        "command": request.command,
        "versions": {"ropewalk": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "methods": [description for description, _ in described.values()],
        "results": found["results"],
        "summary": [_flat(row) for row in found["summary"]],
        "skipped": found["skipped"],
        "rope": {name: _spectra(measured[name], model.config, request.to) for name in described},
        "config_diff": {name: change for name, (_, change) in described.items()},
    }
    write_text(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_report(results, out / "report.html")
    return results


def default_out(model: str, to: int) -> Path:
    """Where a comparison goes if the user names no folder; the same command finds its finished samples there."""
    return Path("runs") / f"compare-{Path(model).name}-{show(to)}"


def _describe(method: Method, config: PreTrainedConfig, to: int, window: int) -> tuple[dict[str, Any], str]:
    """What the report says of a method beside its results, and the change of config.json (or why there is none)."""
    from ropewalk.checkpoint.write import diff, extended_config

    parts = catalogue.split(method.id, "+")
    entries = [catalogue.entry(part.split("(")[0]) for part in parts]
    options = "".join(part[part.index("(") :] for part in parts if "(" in part)
    try:
        changed, saved = extended_config(config, method, to)
        exportable = "yes: " + " / ".join(sorted({str(p["rope_type"]) for p in saved.values()}))
        change = "unchanged" if method.id == "none" else diff(config, changed)
    except UserError as error:
        exportable, change = "no: " + error.message.partition(": ")[2], error.message
    described = {
        "id": method.id,
        "title": " + ".join(entry.title for entry in entries) + (f" {options}" if options else ""),
        "paper": next((entry.paper for entry in entries if entry.paper), None),
        "factor": 1.0 if method.id == "none" else to / window,
        "training_free": " / ".join(dict.fromkeys(entry.training_free for entry in entries)),
        "exportable": exportable,
        "note": "; ".join(entry.summary for entry in entries),
    }
    return described, change


def _spectra(method: Method, config: PreTrainedConfig, to: int) -> dict[str, Any] | None:
    """Layer type -> wavelengths at the target; None where heads differ or frequencies are not what is changed."""
    from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
    from ropewalk.rope.config import read

    if not isinstance(method, FrequencyMethod):
        return None
    specs = read(config)
    spectra: dict[str, Any] = {}
    for key, frequencies in method.plan(config, to).items():
        if frequencies.inv_freq.ndim != 1:
            return None
        spectra[key] = {
            "wavelengths": (2 * math.pi / frequencies.inv_freq.clamp_min(1e-30)).tolist(),
            "factors": frequencies.factors(specs[key]).tolist(),
            "attention_factor": frequencies.attention_factor,
            "window": specs[key].window,
        }
    return spectra


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A summary row with one level of keys, null where a task was not run; the tax is that of the window's length."""
    length, ppl, accuracy = row["effective_length"], row["perplexity_at_to"], row["accuracy_at_to"]
    tax = max(row["short_tax"], key=lambda change: change["length"], default=None)
    flat: dict[str, Any] = {"method": row["method"], "k_max": row["k_max"]}
    for name, source, bounds in (
        ("effective_length", length, ""),
        ("perplexity_at_target", ppl, "perplexity_"),
        ("accuracy_at_target", accuracy, "accuracy_"),
        ("short_tax", tax, "short_tax_"),
    ):
        flat[name] = source["value"] if source else None
        for end in ("low", "high"):
            flat[bounds + end] = source[end] if source else None
    return {**flat, "short_tax_by_length": row["short_tax"], "tail_perplexity": row["tail_perplexity"],
            "beyond_window": row["beyond_window"]}  # fmt: skip


def selected(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """A comma-separated choice among ``known``.

    Raises:
        UserError: for an unknown word; the nearest one is offered.
    """
    chosen = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for word in chosen:
        if word not in known:
            raise UserError(f"unknown task {word!r}{did_you_mean(word, known)}", f"Known: {', '.join(known)}.")
    if not chosen:
        raise UserError(f"no task named in {text!r}", f"Known: {', '.join(known)}.")
    return chosen
