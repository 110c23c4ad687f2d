"""Synthetic results with the shape of a results.json: one with twelve methods, and small ones cut from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from ropewalk.report.schema import SCHEMA

WINDOW, TARGET, BASE, DIMENSIONS = 512, 4096, 10_000.0, 32
LENGTHS = [64, 128, 256, 512, 1024, 2048, 4096]
DEPTHS = [0.0, 0.25, 0.5, 0.75, 1.0]

# id, title, paper, how far it reaches, its tax on short texts, whether it has wavelengths of its own
METHODS = [
    ("none", "Plain model", None, 512, 0.0, True),
    ("pi", "Position Interpolation", "2306.15595", 1024, 0.31, True),
    ("ntk", "NTK-aware", None, 1024, 0.052, True),
    ("dynamic-ntk", "Dynamic NTK", None, 1024, 0.0, False),
    ("ntk-by-parts", "NTK-by-parts", "2309.00071", 2048, 0.034, True),
    ("yarn", "YaRN", "2309.00071", 4096, 0.021, True),
    ("longrope", "LongRoPE", "2402.13753", 4096, 0.018, True),
    ("resonance", "Resonance YaRN", "2403.00071", 4096, 0.024, True),
    ("self-extend", "SelfExtend", "2401.01325", 2048, 0.0, False),
    ("dca", "Dual Chunk Attention", "2402.17463", 2048, 0.0, False),
    ("rerope", "ReRoPE", None, 2048, 0.001, False),
    ("sink", "StreamingLLM", "2309.17453", 256, -0.0004, False),
]


def wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def loss(rank: int, reach: int, tax: float, position: float) -> float:
    """Nats at a position: falls with context, and rises again beyond the reach."""
    beyond = max(0.0, math.log2(position / reach))
    return 3.3 - 0.09 * math.log2(position) + tax + 0.004 * rank + (1.9 + 0.11 * rank) * beyond * (0.3 + 0.5 * beyond)


def accuracy(rank: int, reach: int, length: int, n: int, depth: float = 0.5) -> float:
    beyond = math.log2(length / reach)
    share = 1 / (1 + math.exp(4.2 * (beyond - 0.75 + 0.35 * (1 - depth) + 0.03 * rank)))
    return round(n * share) / n


def interval_row(value: float, spread: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + spread), "n": n}


def share_row(value: float, n: int) -> dict[str, Any]:
    low, high = wilson(value, n)
    return {"value": value, "low": low, "high": high, "n": n}


def spectrum(method: str, base: float = BASE, window: int = WINDOW) -> dict[str, Any]:
    """Wavelengths that differ by method in the way that the real ones do."""
    plain = [2 * math.pi * base ** (i / DIMENSIONS) for i in range(DIMENSIONS)]
    ramp = [min(1.0, max(0.0, (32 - window / w) / 31)) for w in plain]
    scale = TARGET / WINDOW
    factors = {
        "none": [1.0] * DIMENSIONS,
        "pi": [scale] * DIMENSIONS,
        "ntk": [scale ** (i / (DIMENSIONS - 1)) for i in range(DIMENSIONS)],
        "longrope": [1 + (scale - 1) * max(0.0, (i - 9) / 22) ** 0.7 for i in range(DIMENSIONS)],
    }.get(method, [1 + (scale - 1) * r for r in ramp])
    return {
        "wavelengths": [w * f for w, f in zip(plain, factors, strict=True)],
        "attention_factor": 1.2079 if method in ("yarn", "resonance", "longrope") else 1.0,
        "window": window,
    }


def results_of(rank: int, method: str, reach: int, tax: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for length in LENGTHS:
        value = math.exp(sum(loss(rank, reach, tax, length * (k + 0.5) / 8) for k in range(8)) / 8)
        row = {"model": "demo", "method": method, "task": "ppl", "length": length}
        rows.append(row | interval_row(value, 0.045, 20))
    edges = [1, 64, *(round(128 * 2 ** (k / 2)) for k in range(11))]
    for start, end in pairwise(edges):
        row = {"model": "demo", "method": method, "task": "position", "start": start, "length": end}
        rows.append(row | interval_row(loss(rank, reach, tax, (start + end) / 2), 0.03, 20))
    for length in LENGTHS:
        row = {"model": "demo", "method": method, "task": "passkey", "length": length}
        rows.append(row | share_row(accuracy(rank, reach, length, 20), 20))
    for length in LENGTHS[1:]:
        row = {"model": "demo", "method": method, "task": "niah", "length": length}
        shares = [accuracy(rank, reach, length, 4, depth) for depth in DEPTHS]
        rows.extend(row | {"depth": d} | share_row(share, 4) for d, share in zip(DEPTHS, shares, strict=True))
        rows.append(row | share_row(sum(shares) / len(shares), 4 * len(shares)))
    return rows


def make_results() -> dict[str, Any]:
    rows = [results_of(rank, key, reach, tax) for rank, (key, _, _, reach, tax, _) in enumerate(METHODS)]
    diff = (
        "--- config.json\n+++ config.json\n@@ -12,5 +12,9 @@\n"
        '   "rope_parameters": {{\n-    "rope_type": "default"\n+    "rope_type": "{}",\n+    "factor": 8.0\n   }}'
    )
    subjects = []
    for (key, title, paper, reach, tax, own), mine in zip(METHODS, rows, strict=True):
        whole = {(row["task"], row["length"]): row for row in mine if "depth" not in row}
        shares = {n: (whole["passkey", n]["value"] + whole["niah", n]["value"]) / 2 for n in LENGTHS[1:]}
        change = {"length": WINDOW, "value": tax, "low": tax - 0.01, "high": tax + 0.01, "n": 20}
        subject: dict[str, Any] = {
            "model": "demo", "method": key, "title": title, "factor": 1.0 if key == "none" else 8.0,
            "training_free": "weak" if key == "pi" else "yes",
            "exportable": "yes: longrope" if own else "no: works at run time",
            "note": "wants about a thousand steps of fine-tuning" if key == "pi" else "",
            "effective_length": {"value": reach, "low": reach // 2, "high": min(2 * reach, TARGET)},
            "perplexity_at_to": {name: whole["ppl", TARGET][name] for name in ("value", "low", "high", "n")},
            "averages": [{"length": n, **share_row(shares[n], 40)} for n in LENGTHS[1:]],
            "config_diff": diff.format(key)
            if own
            else "Positions are remapped at run time; no engine reads this from a config.",
        }  # fmt: skip
        if paper:
            subject["paper"] = paper
        if own:
            subject["rope"] = {"full_attention": spectrum(key)}
        if key == "none":
            del subject["config_diff"]
        else:
            subject["short_tax"] = [change]
        subjects.append(subject)
    facts = {"type": "llama", "parameters": 5475584, "dtype": "bfloat16"}
    return {
        "schema": SCHEMA,
        "settings": {"tasks": ["ppl", "passkey", "niah"], "depths": DEPTHS, "threshold": 0.85, "seeds": [0]},
        "models": [
            {"name": "demo", "window": WINDOW, "length": WINDOW, "to": TARGET, "lengths": LENGTHS, "facts": facts}
        ],
        "subjects": subjects,
        "tasks": [
            {"id": "ppl", "title": "Perplexity", "metric": "perplexity"},
            {"id": "position", "title": "Loss by position", "metric": "nll"},
            {"id": "passkey", "title": "Passkey", "metric": "score", "scope": "small", "diffusion": "low"},
            {"id": "niah", "title": "Needle in a haystack", "metric": "score", "scope": "small", "diffusion": "low"},
        ],
        "rows": [row for mine in rows for row in mine],
        "not_measured": [
            {"model": "demo", "task": "niah", "length": 64, "reason": "the question alone takes 71 tokens"}
        ],
        "command": f"ropewalk compare demo --to 4k --methods {','.join(m[0] for m in METHODS)}",
        "versions": {"ropewalk": "0.1.0", "torch": "2.11.0", "transformers": "5.16.0"},
        "created": "2026-01-01T00:00:00Z",
        "seconds": 123.4,
    }


@pytest.fixture(scope="session")
def _results() -> dict[str, Any]:
    return make_results()


@pytest.fixture
def raw(_results: dict[str, Any]) -> dict[str, Any]:
    """The full results, as a copy that a test may change."""
    return copy.deepcopy(_results)


def cut(
    raw: dict[str, Any],
    methods: list[str] | None = None,
    tasks: list[str] | None = None,
    lengths: list[int] | None = None,
) -> dict[str, Any]:
    """Results of some methods, tasks and lengths only."""

    def kept(row: dict[str, Any]) -> bool:
        wanted = (methods, row["method"]), (tasks, row["task"]), (lengths, row["length"])
        return all(some is None or value in some for some, value in wanted)

    return raw | {
        "subjects": [s for s in raw["subjects"] if methods is None or s["method"] in methods],
        "tasks": [task for task in raw["tasks"] if tasks is None or task["id"] in tasks],
        "rows": [row for row in raw["rows"] if kept(row)],
    }


@pytest.fixture
def keep(raw: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Cut the full results down to some methods, tasks and lengths."""
    return partial(cut, raw)
