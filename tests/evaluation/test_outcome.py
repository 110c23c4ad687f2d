"""Benchmarks of real texts, from a command to results.json, the page and answers.jsonl."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ropewalk.backends.local import LiveModel
from ropewalk.cli.main import run
from tests.models import tiny
from tests.tasks.benchmarks.files import Row, jsonl
from tests.tokenizers import VOCABULARY, byte_level

HOTPOT: Row = {
    "_id": "7", "input": "Who went?", "context": "Ann went home. " * 30, "answers": ["Ann"], "length": 90,
    "dataset": "hotpotqa", "language": "en", "all_classes": None,
}  # fmt: skip
COURSERA: Row = {"instructions": ["Q1?", "Q2?"], "outputs": ["AC", "B"], "input": "A document.", "source": "x"}
LCFO: Row = {
    "source": "Ann went home to her mother. " * 8, "summary_20": "Ann went home to her mother, it says.",
    "summary_10": "Ann went home.", "summary_5": "Ann left.", "qa": [{"question": "Who went?", "answer": "Ann"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarked") / "rope"
    tiny("llama", vocab_size=VOCABULARY).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


def asked(checkpoint: Path, name: str, data: Path, out: Path, *more: object) -> dict[str, Any]:
    arguments = ["evaluate", checkpoint, "--suite", name, "--rows", data, "--out", out, *more]
    assert run([str(argument) for argument in arguments]) == 0
    return json.loads((out / "results.json").read_text())


def refused(capsys, *arguments: object) -> str:
    code = run([str(argument) for argument in arguments])
    err = capsys.readouterr().err
    assert code == 2 and "error" in err and "Traceback" not in err, err
    return " ".join(err.split())


def test_longbench_is_asked_at_each_length(checkpoint: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("rouge_score")
    data = jsonl(tmp_path / "data", "hotpotqa", HOTPOT, HOTPOT | {"_id": "8", "answers": ["Bob"]}).parent
    found = asked(checkpoint, "longbench", data, tmp_path / "out", "--lengths", "80,400,1024")
    (lost,) = found["not_measured"]
    assert (lost["task"], lost["length"]) == ("longbench/hotpotqa", 80)
    assert lost["reason"].startswith("2 of 2 questions: hotpotqa/7 needs")
    assert [(row["length"], row["n"]) for row in found["rows"]] == [(400, 2), (1024, 2)]
    for row, table in zip(found["rows"], found["tables"], strict=True):
        assert table["points"]["hotpotqa"] == pytest.approx(100 * row["value"]) and table["length"] == row["length"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "longbench 400 1k" in printed and "Not measured: hotpotqa at 80 (2 of 2 questions" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What the benchmark reports" in page and "threshold 85%" not in page
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [(one["length"], one["id"]) for one in answers[:2]] == [(400, "hotpotqa/7"), (400, "hotpotqa/8")]
    assert answers[0]["source"].endswith("hotpotqa.jsonl:1") and answers[1]["references"] == ["Bob"]


def test_leval_goes_on_where_it_was(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = jsonl(tmp_path / "data", "coursera", COURSERA)
    whole = asked(checkpoint, "leval", data, tmp_path / "whole", "--lengths", "2k")
    ask = LiveModel.ask

    def killed(self, asks):
        for i, found in enumerate(ask(self, asks)):
            if i == 1:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(LiveModel, "ask", killed)
    with pytest.raises(BaseException):  # noqa: B017  what a stopped run ends with is the command line's affair
        asked(checkpoint, "leval", data, tmp_path / "parts", "--lengths", "2k")
    counted = []

    def counting(self, asks):
        counted.extend(asks)
        return ask(self, asks)

    monkeypatch.setattr(LiveModel, "ask", counting)
    parts = asked(checkpoint, "leval", data, tmp_path / "parts", "--lengths", "2k")
    assert len(counted) == 1 and parts["rows"] == whole["rows"] and parts["tables"] == whole["tables"]
    assert asked(checkpoint, "leval", data, tmp_path / "parts", "--lengths", "2k")["rows"] == whole["rows"]
    assert len(counted) == 1


@pytest.fixture
def judge() -> Iterator[tuple[str, list[Any]]]:
    """An endpoint that gives every answer grade 1, and what it was asked."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            message = {"role": "assistant", "content": "Score: 1"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()


def test_a_judge_is_asked_once_if_one_is_named(checkpoint: Path, tmp_path: Path, judge) -> None:
    pytest.importorskip("openai")
    pytest.importorskip("rouge_score")
    url, seen = judge
    data = jsonl(tmp_path / "data", "lcfo", LCFO)
    more = ["--lengths", "1k", "--tasks", "lcfo/qa,lcfo/coverage_10"]
    plain = asked(checkpoint, "lcfo", data, tmp_path / "out", *more)
    assert [row["task"] for row in plain["rows"]] == ["lcfo/qa"] and not seen
    (lost,) = plain["not_measured"]
    assert lost["task"] == "lcfo/coverage_10" and "no judge was named" in lost["reason"]
    more += ["--judge", url, "--judge-model", "j", "--overwrite"]
    for _ in range(2):
        found = asked(checkpoint, "lcfo", data, tmp_path / "out", *more)
        assert url in found["settings"]["judge"] and "not_measured" not in found
        assert {row["task"]: row["value"] for row in found["rows"]}["lcfo/coverage_10"] == 1.0
        assert len(seen) == 1 and seen[0]["model"] == "j"


def test_a_benchmark_stops_when_its_mean_is_known(checkpoint: Path, tmp_path: Path) -> None:
    rows = (HOTPOT | {"_id": str(i), "context": f"Ann went home {i}."} for i in range(200))
    data = jsonl(tmp_path / "data", "hotpotqa", *rows)
    found = asked(checkpoint, "longbench", data, tmp_path / "out", "--lengths", "400", "--sequential")
    ((row,), (subject,)) = found["rows"], found["subjects"]
    assert row["n"] < 200 and row["high"] - row["low"] <= 0.1 and subject["tasks"][0]["early"] == [400]


def test_a_sample_of_questions_is_drawn(checkpoint: Path, tmp_path: Path) -> None:
    data = jsonl(tmp_path / "data", "hotpotqa", *(HOTPOT | {"_id": str(i)} for i in range(9)))
    found = asked(checkpoint, "longbench", data, tmp_path / "out", "--lengths", "400,500", "--samples", "3")
    assert [row["n"] for row in found["rows"]] == [3, 3]
    ids = [json.loads(line)["id"] for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert len(ids) == 6 and len(set(ids)) == 3, "the same ones at every length"


def test_a_bad_row_is_named_and_left_out(checkpoint: Path, tmp_path: Path, capsys) -> None:
    data = jsonl(tmp_path / "data", "hotpotqa", HOTPOT, HOTPOT | {"_id": "8", "answers": []}, HOTPOT | {"_id": "9"})
    jsonl(tmp_path / "data", "qasper", HOTPOT | {"context": 3})
    found = asked(checkpoint, "longbench", data.parent, tmp_path / "out", "--lengths", "400")
    assert [(row["task"], row["n"]) for row in found["rows"]] == [("longbench/hotpotqa", 2)]
    lost = {one["task"]: one["reason"] for one in found["not_measured"]}
    assert lost["longbench/hotpotqa"].startswith("1 of 3 rows or questions left out: ")
    assert 'hotpotqa.jsonl:2: "answers" is []' in lost["longbench/hotpotqa"]
    assert lost["longbench/qasper"].startswith("1 of 1 rows") and "qasper.jsonl:1" in lost["longbench/qasper"]
    assert "hotpotqa.jsonl:2" in "".join(capsys.readouterr().out.split())


def test_what_is_wrong_is_said(checkpoint: Path, tmp_path: Path, capsys) -> None:
    bad = jsonl(tmp_path, "hotpotqa", HOTPOT | {"answers": []})
    data = ("evaluate", checkpoint, "--rows", bad, "--out", tmp_path / "out")
    error = refused(capsys, *data, "--suite", "longbench", "--lengths", "1k")
    assert "hotpotqa.jsonl:1" in error and '"answers" is []' in error
    assert "no subset 'hotpot'" in refused(capsys, *data, "--tasks", "longbench/hotpot")
    files = refused(capsys, "evaluate", checkpoint, "--suite", "longbench", "--out", tmp_path / "out")
    assert "--rows FOLDER" in files and "data.zip of THUDM/LongBench" in files
    assert "needs a name" in refused(capsys, *data, "--suite", "longbench", "--judge", "http://x/v1")
