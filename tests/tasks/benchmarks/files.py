"""Files of hand-written rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored

Row = dict[str, Any]


def jsonl(folder: Path, name: str, *rows: Row) -> Path:
    """A JSON-lines file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def json_list(folder: Path, name: str, rows: Any) -> Path:
    """A JSON file, a list with one item per line."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return file


def refused(benchmark: Benchmark, source: Path, *words: str, **options: Any) -> None:
    """Loading fails with a message that has all these words."""
    with pytest.raises(UserError) as caught:
        benchmark.load(source, **options)
    for word in words:
        assert word in caught.value.message, caught.value.message


def table(benchmark: Benchmark, questions: Sequence[Question], values: Sequence[float]) -> dict[str, float]:
    """What the benchmark reports for given scores."""
    return benchmark.aggregate([Scored(q, "", value) for q, value in zip(questions, values, strict=True)])
