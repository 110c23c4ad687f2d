"""``ropewalk evaluate --benchmark`` as a user meets it."""

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
KV: Row = {"context": '{"k": "v1"}', "question": "k", "answer": "v1", "demos": [["a", "b"], ["c", "d"], ["e", "f"]]}
NARRATIVE: Row = {"context": "Ann went home.", "question": "Who went?", "answers": ["Ann"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarked") / "rope"
    tiny("llama", vocab_size=VOCABULARY).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


def asked(checkpoint: Path, name: str, data: Path, out: Path, *more: object) -> dict[str, Any]:
    arguments = ["evaluate", checkpoint, "--benchmark", name, "--data", data, "--out", out, *more]
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
    assert list(found["results"]) == ["80", "400", "1024"]
    assert found["results"]["80"]["skipped"]["hotpotqa"].startswith("2 of 2 questions: hotpotqa/7 needs")
    assert found["results"]["80"]["table"] == {}
    for length in ("400", "1024"):
        here = found["results"][length]
        subset = here["subsets"]["hotpotqa"]
        assert subset["n"] == 2 and here["table"]["hotpotqa"] == pytest.approx(100 * subset["value"])
        assert not here["skipped"]
    printed = capsys.readouterr().out
    assert "n = 2" in printed and "skipped hotpotqa at 80: 2 of 2 questions" in " ".join(printed.split())
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
    assert len(counted) == 1 and parts["results"] == whole["results"]
    assert asked(checkpoint, "leval", data, tmp_path / "parts", "--lengths", "2k")["results"] == whole["results"]
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


def test_helmet_asks_a_judge_once_if_one_is_named(checkpoint: Path, tmp_path: Path, judge) -> None:
    pytest.importorskip("openai")
    url, seen = judge
    for name, row in (("json_kv", KV), ("narrativeqa", NARRATIVE)):
        jsonl(tmp_path / "data", name, row)
        jsonl(tmp_path / "data", f"{name}.demos", *(row | {"question": f"Other {i}?"} for i in range(3)))
    more = ["--lengths", "4k", "--subsets", "json_kv,narrativeqa"]
    plain = asked(checkpoint, "helmet", tmp_path / "data", tmp_path / "out", *more)["results"]["4096"]
    assert list(plain["table"]) == ["json_kv"] and "no judge was named" in plain["skipped"]["narrativeqa"]
    assert not seen
    more += ["--judge", url, "--judge-model", "j"]
    for _ in range(2):
        found = asked(checkpoint, "helmet", tmp_path / "data", tmp_path / "out", *more)
        assert found["settings"]["judge"] == {"url": url, "model": "j"} and not found["results"]["4096"]["skipped"]
        assert found["results"]["4096"]["table"]["narrativeqa"] == pytest.approx(100 / 3)
        assert len(seen) == 2 and seen[0]["model"] == "j"


def test_what_is_wrong_is_said(checkpoint: Path, tmp_path: Path, capsys) -> None:
    bad = jsonl(tmp_path, "hotpotqa", HOTPOT, HOTPOT | {"answers": []})
    data = ("evaluate", checkpoint, "--data", bad, "--out", tmp_path / "out")
    error = refused(capsys, *data, "--benchmark", "longbench", "--lengths", "1k")
    assert "hotpotqa.jsonl:2" in error and '"answers" is []' in error
    assert "did you mean 'longbench'" in refused(capsys, *data, "--benchmark", "longbenc")
    assert "no subset 'hotpot'" in refused(capsys, *data, "--benchmark", "longbench", "--subsets", "hotpot")
    assert "needs a name" in refused(capsys, *data, "--benchmark", "longbench", "--judge", "http://x/v1")
    assert "Add --benchmark" in refused(capsys, "evaluate", checkpoint, "--subsets", "hotpotqa")
    assert "belong to suites" in refused(capsys, *data, "--benchmark", "longbench", "--tasks", "niah")
    server = refused(capsys, "evaluate", "http://127.0.0.1:9/v1", "--benchmark", "longbench", "--data", bad)
    assert "Add --lengths" in server
