"""``read`` as a user calls it: on the bundled model, on a server, with wrong input, and killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import ropewalk
from ropewalk.backends.chat.chat import rendered
from ropewalk.backends.chat.chat_model import ChatModel
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.errors import UserError
from ropewalk.workflows.answered import PAGE, TRACE
from tests.report.test_experiment_page import Outline
from tests.talkers import chat_body, endpoint
from tests.verbs.typed import refused, said
from tests.workflows.readers import finds, text_with

FACTS = {"Oslo": 11111, "Lima": 22222}
QUESTION = "What are all codes?"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(text_with(FACTS, 120))
    return file


def reader(number: int, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
    """A server that reads by rule."""
    prompt = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
    return 200, chat_body(finds(prompt, 0))


def test_the_line_works_as_written(capsys, text: Path, tmp_path: Path) -> None:
    line = ["read", text, "--question", QUESTION, "--strategy", "rag", "--model", "demo", "--room", 8]
    out = json.loads(said(capsys, *line, "--json", "-o", tmp_path / "out"))
    assert out["strategy"] == "rag" and out["told"]["calls"] == 1 and out["window"] == 512
    assert out["calls"][0]["counted"] + 8 <= 512
    again = json.loads(said(capsys, *line, "--json", "-o", tmp_path / "out"))
    assert again["answer"] == out["answer"] and again["calls"][0]["kept"]


def test_in_python_the_answer_is_what_prints(text: Path, tmp_path: Path) -> None:
    with endpoint(reader) as server:
        answered = ropewalk.read(
            text,
            QUESTION,
            strategy="chain-of-agents",
            model=server.url,
            tokenizer="demo",
            window="1k",
            out=tmp_path / "o",
        )
    assert str(answered) == answered.answer and all(str(code) in answered.answer for code in FACTS.values())
    assert answered.answer in repr(answered) and len(server.requests) == answered.told["calls"]
    assert json.loads((tmp_path / "o" / TRACE).read_text())["answer"] == answered.answer
    page = Outline((tmp_path / "o" / PAGE).read_text("utf-8")).text
    assert answered.answer in page and QUESTION in page and "worker 1 of" in page


def test_in_a_notebook_there_is_a_loop_already(text: Path, tmp_path: Path) -> None:
    async def cell(server: Any) -> Any:
        return ropewalk.read(
            text, QUESTION, strategy="chain-of-agents", model=server.url, tokenizer="demo", window="1k",
            out=tmp_path / "o", overwrite=True,
        )  # fmt: skip

    with endpoint(reader) as server:
        first, asked = asyncio.run(cell(server)), len(server.requests)
        again = asyncio.run(cell(server))
    assert all(str(code) in first.answer for code in FACTS.values())
    assert again.answer == first.answer and len(server.requests) == asked


def test_several_files_are_read_as_one(tmp_path: Path) -> None:
    for name, number in FACTS.items():
        (tmp_path / f"{name}.md").write_text(text_with({name: number}, 10))
    with endpoint(reader) as server:
        answered = ropewalk.read(
            [tmp_path / "Oslo.md", str(tmp_path / "Lima.md")], QUESTION, strategy="full", model=server.url,
            tokenizer="demo", window="2k", out=tmp_path / "o",
        )  # fmt: skip
    assert all(str(code) in answered.answer for code in FACTS.values())
    assert [Path(name).name for name in answered.sources] == ["Oslo.md", "Lima.md"]


def test_a_server_that_tells_its_window_need_not_be_told(text: Path, tmp_path: Path) -> None:
    with endpoint(reader) as server:
        with pytest.raises(UserError, match="does not say how much it reads"):
            ropewalk.read(text, QUESTION, strategy="rag", model=server.url, tokenizer="demo", out=tmp_path / "a")
        server.windows = {"tiny": 777}
        answered = ropewalk.read(text, QUESTION, strategy="rag", model=server.url, tokenizer="demo", out=tmp_path / "b")
    assert answered.window == 777


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strategy", "rga", "--model", "demo"], "did you mean 'rag'"),
        (["--strategy", "rag", "--model", "http://127.0.0.1:9/v1"], "--tokenizer"),
        (["--strategy", "rag", "--model", "http://127.0.0.1:9/v1", "--tokenizer", "demo"], "nothing answers"),
        (["--strategy", "rag", "--model", "demo", "--method", "yarn"], "belong together"),
        (["--strategy", "rag", "--model", "demo", "--window", "4k"], "window is 4,096"),
        (["--strategy", "rag", "--model", "demo", "--served", "x"], "--served changes nothing"),
        (["--strategy", "rag", "--model", "demo", "--tokens", "100"], "does not hold the last answer"),
        (["--strategy", "rag(by='vectors')", "--model", "demo"], "--embed"),
        (["--strategy", "rag", "--model", "demo", "--embed", "x"], "--embed changes nothing in rag"),
        (["--strategy", "full", "--model", "demo"], "where the window has 512"),
        (["--strategy", "rag", "--model", "demo", "--room", "490"], "expected 32 or more"),
    ],
)
def test_wrong_input_is_a_sentence(capsys, text: Path, tmp_path: Path, more: list[str], message: str) -> None:
    assert message in refused(capsys, "read", text, "--question", QUESTION, "-o", tmp_path / "out", *more)


def test_no_question_and_no_file_are_said(capsys, text: Path, tmp_path: Path) -> None:
    rest = ["--strategy", "rag", "--model", "demo", "-o", tmp_path / "out"]
    assert "the question is empty" in refused(capsys, "read", text, "--question", " ", *rest)
    assert "no such file" in refused(capsys, "read", tmp_path / "none.txt", "--question", QUESTION, *rest)


def test_the_answer_to_another_question_is_not_replaced(capsys, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    line = ["read", text, "--strategy", "rag", "--model", "demo", "--room", 4, "-o", out]
    (out / TRACE).write_text("{}")
    assert "none that ropewalk wrote" in refused(capsys, *line, "--question", QUESTION, "--overwrite")
    (out / TRACE).unlink()
    said(capsys, *line, "--question", QUESTION)
    before = (out / TRACE).read_text()
    assert "another question" in refused(capsys, *line, "--question", "Why?")
    assert (out / TRACE).read_text() == before
    said(capsys, *line, "--question", "Why?", "--overwrite")
    assert json.loads((out / TRACE).read_text())["question"] == "Why?"


def test_the_trace_of_another_text_is_not_replaced(capsys, text: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.txt", tmp_path / "out"
    other.write_text("Another text. " * 50)
    rest = ["--question", QUESTION, "--strategy", "rag", "--model", "demo", "--room", 4, "-o", out]
    said(capsys, "read", text, *rest)
    assert "of another text" in refused(capsys, "read", other, *rest)
    said(capsys, "read", text, *rest)


def test_a_folder_is_itself_whatever_it_is_called_and_what_is_not_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "mine.txt").write_text(text_with(FACTS, 10))
    (tmp_path / "topics" / "mine.pdf").write_text("%PDF")
    with endpoint(reader) as server:
        answered = ropewalk.read(
            "topics", QUESTION, strategy="full", model=server.url, tokenizer="demo", window="2k", out=tmp_path / "o"
        )
    assert all(str(code) in answered.answer for code in FACTS.values())
    assert answered.notes == ("topics: 1 file of other kinds (.pdf 1) were not read",)


def test_signs_in_a_text_are_letters_here_and_told_of_where_a_server_reads(tmp_path: Path, monkeypatch: Any) -> None:
    tokenizer = Checkpoint.open("demo").tokenizer()
    sign, seen = str(tokenizer.eos_token), list[list[int]]()
    (file := tmp_path / "signs.txt").write_text(f"A turn ends with {sign} here. " * 90)
    ids_of = ChatModel._ids

    def ids(self: ChatModel, *more: Any) -> list[int]:
        seen.append(ids_of(self, *more))
        return seen[-1]

    monkeypatch.setattr(ChatModel, "_ids", ids)
    how = {"strategy": "rag(k=3)", "room": 8, "out": tmp_path / "out"}
    answered = ropewalk.read(file, QUESTION, model="demo", **how)
    (read,) = seen
    assert f"with {sign} here" in tokenizer.decode(read)
    assert read.count(tokenizer.eos_token_id) == list(rendered("", tokenizer)).count(tokenizer.eos_token_id)
    assert len(read) == answered.calls[0]["counted"] <= answered.window - 8
    with endpoint(reader) as server:
        answered = ropewalk.read(file, QUESTION, model=server.url, tokenizer="demo", window=512, overwrite=True, **how)
    assert any(f"as the end of a turn: {sign}" in note for note in answered.notes)


@pytest.mark.parametrize("name", ["tiny", "large", None])
def test_another_model_that_answers_is_told_of(text: Path, tmp_path: Path, name: str | None) -> None:
    def named(number: int, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        return 200, reader(number, path, asked)[1] | {"model": name}

    with endpoint(named) as server:
        how = {"model": server.url, "tokenizer": "demo", "window": 512, "out": tmp_path / "out"}
        answered = ropewalk.read(text, QUESTION, strategy="rag", **how)
    assert any("answered as 'large'" in note for note in answered.notes) == (name == "large")


def test_a_folder_that_cannot_be_written_costs_nothing(text: Path, tmp_path: Path) -> None:
    with endpoint(reader) as server, pytest.raises(UserError):
        ropewalk.read(text, QUESTION, strategy="rag", model=server.url, tokenizer="demo", window="1k", out=text / "o")
    assert server.requests == []


@pytest.mark.slow
def test_killed_ten_times_it_asks_no_finished_call_again(text: Path, tmp_path: Path) -> None:
    """Calls under way at a kill may be asked twice; no other is, and the answer is that of a run in one go."""
    answered: Counter[str] = Counter()

    def slowly(number: int, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.1)
        answered[json.dumps(asked, sort_keys=True)] += 1
        return reader(number, path, asked)

    script = (
        "import sys, ropewalk; print(ropewalk.read(sys.argv[1], sys.argv[2], strategy='chain-of-agents', "
        "model=sys.argv[3], tokenizer='demo', window=640, out=sys.argv[4]).answer)"
    )
    chance, kills = random.Random(0), 0
    with endpoint(slowly) as server:
        line = [sys.executable, "-c", script, str(text), QUESTION, server.url, str(tmp_path / "out")]
        while True:
            began = len(server.requests)
            process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
            if kills < 10:
                while len(server.requests) == began and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.25))
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    kills += 1
                    continue
            out, _ = process.communicate()
            break
        whole = ropewalk.read(
            text, QUESTION, strategy="chain-of-agents", model=server.url, tokenizer="demo", window=640,
            out=tmp_path / "whole",
        )  # fmt: skip
    calls = whole.told["calls"]
    assert kills == 10 and out.strip() == whole.answer and len(answered) == calls
    assert sum(answered.values()) <= 2 * calls + kills
