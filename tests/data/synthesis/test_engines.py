"""Real engines through the verb: a server that dies in the middle, one that serves the demo, and the demo itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("openai")

import ropewalk
from ropewalk.backends.chat import answering
from ropewalk.common.errors import UserError
from tests.data.synthesis.test_written_questions import say
from tests.data.synthesis.written import TOKENIZER, content
from tests.talkers import chat_body, endpoint

SAID = {"length": 2048, "tokenizer": "demo", "rows": 12, "engine_tokenizer": "demo"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch) -> None:
    monkeypatch.setattr(answering.Engine.__init__, "__defaults__", (4, 0.0, 0, 0.0))


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "texts"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.txt").write_text(" ".join(f"n{i}{k:04}" for k in range(600)))
    return folder


def answered(number: int, path: str, asked: dict) -> tuple[int, dict]:
    prompt = asked["messages"][0]["content"]
    text = say(prompt, 0)
    count = len(TOKENIZER(prompt).input_ids)
    return 200, chat_body(text, {"prompt_tokens": count, "completion_tokens": len(TOKENIZER(text).input_ids)})


def test_a_server_that_dies_in_the_middle_is_gone_on_with_to_the_same_rows(texts, tmp_path) -> None:
    def dying(number: int, path: str, asked: dict):
        return answered(number, path, asked) if number <= 7 else (503, {"error": {"message": "going down"}})

    with endpoint(answered) as server:
        whole = ropewalk.synth_data("in2", texts, out=tmp_path / "whole", engine=server.url, **SAID)
        first = len(server.requests)
        server.reply, server.requests[:] = dying, []
        with pytest.raises(UserError, match=r"answer in 1 seconds: code 503 [\d,]+; the last: .*going down") as error:
            ropewalk.synth_data("in2", texts, out=tmp_path / "part", engine=server.url, engine_patience=1, **SAID)
        assert "See what the log of tiny at 127.0.0.1" in error.value.mend
        stay = f"{tmp_path / 'part.shards'} and {tmp_path / 'part.answers'}"
        assert f"stays in {stay} for a further run" in error.value.mend
        assert not (tmp_path / "part").exists() and (tmp_path / "part.answers").is_dir()
        server.reply, server.requests[:] = answered, []
        part = ropewalk.synth_data("in2", texts, out=tmp_path / "part", engine=server.url, **SAID)
        assert first - 7 <= len(server.requests) <= first - 7 + part.about.told.get("failed: code 503", 0)
    ours, theirs = content(tmp_path / "part"), content(tmp_path / "whole")
    assert {name for name in ours if ours[name] != theirs[name]} <= {"arrangement.json"}
    differ = {name for name, n in part.about.told.items() if whole.about.told.get(name) != n}
    assert differ <= {"calls", "failed: code 503"}, "what failed before the last answer was counted"
    assert whole.about.told["prompt tokens"] == whole.about.told["our prompt tokens"] > 0
    assert whole.about.options["engine"].startswith("tiny at 127.0.0.1:")


def test_lies_about_usage_are_told_and_short_prompts_dropped(texts, tmp_path) -> None:
    def cutting(number: int, path: str, asked: dict):
        code, body = answered(number, path, asked)
        if "Passage 1" in asked["messages"][0]["content"]:
            body["usage"]["prompt_tokens"] = 200
        return code, body

    with endpoint(cutting) as server:
        told = ropewalk.synth_data(
            "in2", texts, out=tmp_path / "out", engine=server.url, **SAID | {"rows": 30}
        ).about.told
    assert told["nonsense: fewer tokens read than the prompt has"] == told["wrong usage"] == 4 * told["given up"] > 0
    assert told["dropped: no question"] == told["given up"] and told["draws"] == 30 + told["given up"]


def test_the_demo_itself_writes_nonsense_and_it_is_counted(texts, tmp_path) -> None:
    with pytest.raises(UserError, match=r"none of 1 draws gives a row: no question 1; demo: 1 prompts, 1 calls; .*"):
        ropewalk.synth_data(
            "in2", texts, out=tmp_path / "out", engine="demo", length=2048, tokenizer="demo", rows=1, draws=1
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_window_of_a_model_that_runs_here_is_told_with_what_makes_it_longer(texts, tmp_path) -> None:
    said = {"length": 2048, "tokenizer": "demo", "chunk": 1024, "rows": 32}
    with pytest.raises(UserError, match="failed 24 calls in turn: too long 24") as error:
        ropewalk.synth_data("selflong", texts, out=tmp_path / "out", engine="demo", **said)
    found = re.search(
        r"demo has 512 tokens, and ([\d,]+) are needed: ropewalk extend demo --to (\d+) -o EXTENDED", error.value.mend
    )
    assert found and int(found[1].replace(",", "")) == int(found[2]) > 1024
    assert not (tmp_path / "out.answers").exists() and "out.answers" not in error.value.mend
    ropewalk.extend("demo", to=int(found[2]), out=tmp_path / "EXTENDED")
    with pytest.raises(
        UserError, match=r"none of 1 draws gives a row: .*nonsense: cut off 1\n.*base model does not stop"
    ):
        ropewalk.synth_data(
            "selflong", texts, out=tmp_path / "out", engine=tmp_path / "EXTENDED", **said | {"rows": 1, "draws": 1}
        )


def test_options_that_change_nothing_are_refused(texts, tmp_path) -> None:
    for more, words in (
        ({"engine_model": "x"}, "--engine-model changes nothing without --engine"),
        ({"engine_deadline": 60}, "--engine-deadline changes nothing without --engine"),
        ({"engine": "demo", "engine_patience": 60}, "--engine-patience changes nothing of the model demo"),
        ({"engine": "demo", "engine_tokenizer": "demo"}, "of the model demo, which runs here"),
        ({"named": True}, "--named changes nothing in in2"),
        ({"engine": "demo", "tokenizer": ""}, "needs a tokenizer"),
        ({"engine": "http://127.0.0.1:9/v1"}, "nothing answers"),
    ):
        said = {"length": 2048, "tokenizer": "demo"} | more
        with pytest.raises(UserError, match=words):
            ropewalk.synth_data("in2", texts, out=tmp_path / "out", **said)
    assert not list(tmp_path.iterdir())


KILLED = """
import sys
import threading
import ropewalk

ropewalk.synth_data("in2", sys.argv[1], out=sys.argv[2], engine=sys.argv[3], length=2048, tokenizer="demo", rows=12,
                    engine_tokenizer="demo")
"""


@pytest.mark.slow
def test_killed_with_signal_9_it_goes_on_to_the_same_bytes(texts, tmp_path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(ropewalk.__file__).parents[1])}
    running: list[subprocess.Popen] = []

    def killing(number: int, path: str, asked: dict):
        if number == 9:
            running[0].kill()
        return answered(number, path, asked)

    with endpoint(answered) as server:

        def run(name: str) -> int:
            line = [sys.executable, "-c", KILLED, str(texts), str(tmp_path / name), server.url]
            running[:] = [subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)]
            return running[0].wait()

        assert run("whole") == 0
        whole = len(server.requests)
        server.reply, server.requests[:] = killing, []
        assert run("part") == -signal.SIGKILL
        journal = tmp_path / "part.answers" / "replies.jsonl"
        kept = journal.read_text().count('"key"') if journal.exists() else 0
        journal.write_bytes(journal.read_bytes()[:-20] if kept else b'[{"key": "torn')
        server.reply, server.requests[:] = answered, []
        assert run("part") == 0
        assert len(server.requests) == whole - max(kept - 1, 0) and whole > 8
    assert content(tmp_path / "part") == content(tmp_path / "whole")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["part", "whole"]


@pytest.mark.slow
def test_our_own_server_on_the_demo_is_an_endpoint_and_its_death_is_told(texts, tmp_path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(ropewalk.__file__).parents[1])}
    line = [sys.executable, "-m", "ropewalk", "serve", "demo", "--port", "0"]
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = server.stdout.readline().split(" at ")[1].strip()  # type: ignore[union-attr]
        for _ in range(100):
            with suppress(urllib.error.URLError):
                urllib.request.urlopen(f"{address}/models").read()
                break
            time.sleep(0.2)
        said = SAID | {"rows": 4, "draws": 4}
        with pytest.raises(UserError, match=r"none of 4 draws gives a row: no question 4; .*nonsense: .*cut off"):
            ropewalk.synth_data("in2", texts, out=tmp_path / "out", engine=address, **said)
        server.send_signal(signal.SIGKILL)
        server.wait()
        time.sleep(0.1)
        with pytest.raises(UserError, match=r"did not answer in 1 seconds?: no connection"):
            ropewalk.synth_data(
                "in2", texts, out=tmp_path / "other", engine=address, engine_model="demo", engine_patience=1,
                **SAID | {"rows": 32},
            )  # fmt: skip
    finally:
        server.kill()


@pytest.mark.slow
def test_ctrl_c_waits_for_no_answer_and_keeps_those_that_came(texts, tmp_path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(ropewalk.__file__).parents[1])}
    line = [sys.executable, "-m", "ropewalk", "data", "synth", "in2", str(texts), "-o", str(tmp_path / "rows")]
    line += "--length 2048 --rows 12 --tokenizer demo --engine-tokenizer demo --engine".split()
    released, waiting = threading.Event(), threading.Event()

    def hanging(number: int, path: str, asked: dict):
        if number > 7:
            waiting.set()
            released.wait(120)
        return answered(number, path, asked)

    with endpoint(answered) as server:
        server.reply = hanging
        run = subprocess.Popen([*line, server.url], env=environment, stderr=subprocess.PIPE, text=True)
        assert waiting.wait(60)
        time.sleep(0.5)
        began = time.monotonic()
        run.send_signal(signal.SIGINT)
        told = run.communicate(timeout=60)[1]
        assert time.monotonic() - began < 10 and run.returncode == 130 and "nothing is half written" in told
        released.set()
        assert (tmp_path / "rows.answers" / "replies.jsonl").read_text().count('"key"') == 7
        asked = len(server.requests)
        server.reply = answered
        assert subprocess.run([*line, server.url], env=environment, capture_output=True).returncode == 0
        assert len(server.requests) - asked == 12 - 7
