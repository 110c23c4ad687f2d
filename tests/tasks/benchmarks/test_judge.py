from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks import judge as judging
from ropewalk.tasks.benchmarks.judge import EndpointJudge, ask


class Replies:
    """A judge with prepared replies that remembers its prompts."""

    name = "replies"

    def __init__(self, *replies: str):
        self.replies, self.prompts = list(replies), list[str]()

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.replies.pop(0)


def test_the_last_grade_of_a_reply_counts_and_one_bad_reply_is_asked_again() -> None:
    assert ask(Replies("Score: 1 at first, but\n**Score:** 3"), "p", 3) == 3
    assert ask(Replies("no idea", "score: 2"), "p", 3) == 2
    with pytest.raises(UserError, match=r'replied .Score: 9., expected "Score: N" with N from 0 to 3'):
        ask(Replies("none", "Score: 9"), "p", 3)


@pytest.mark.parametrize(
    ("replies", "value"),
    [(("1", "2"), 1.0), (("1", "1"), 0.5), (("0", "0"), 0.5), (("2", "1"), 0.0), (("1", "0"), 0.75)],
)
def test_a_judge_that_always_takes_the_first_answer_is_a_tie(replies: tuple[str, str], value: float) -> None:
    judge = Replies(*(f"Score: {reply}" for reply in replies))
    assert judging.preference(judge, "q", "r", "ours", "theirs") == value
    assert judge.prompts[0].index("ours") < judge.prompts[0].index("theirs")
    assert judge.prompts[1].index("ours") > judge.prompts[1].index("theirs")


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A local OpenAI-compatible server and what it was sent."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(body | {"path": self.path, "key": self.headers["Authorization"]})
            bad = body["model"] == "absent"
            message = {"role": "assistant", "content": "Score: 3"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            data = json.dumps({"error": {"message": "no such model"}} if bad else reply).encode()
            self.send_response(404 if bad else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()
    server.server_close()


def test_an_endpoint_is_asked_at_temperature_0(
    endpoint: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    url, seen = endpoint
    monkeypatch.setenv("MY_KEY", "secret")
    judge = EndpointJudge("grader", base_url=url, key="MY_KEY")
    assert ask(judge, "Grade this", 3) == 3
    [request] = seen
    assert request["path"] == "/v1/chat/completions" and request["key"] == "Bearer secret"
    assert request["model"] == "grader" and request["temperature"] == 0
    assert request["messages"] == [{"role": "user", "content": "Grade this"}]


def test_an_endpoint_that_fails_is_named(endpoint: tuple[str, list[dict[str, Any]]]) -> None:
    pytest.importorskip("openai")
    with pytest.raises(UserError, match=f"the judge absent at {endpoint[0]} failed: .*no such model"):
        EndpointJudge("absent", base_url=endpoint[0])("p")


def test_missing_key_and_library_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"-m pip install .*openai"):
        EndpointJudge("m")("p")
    monkeypatch.undo()
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="needs an API key in OPENAI_API_KEY"):
        EndpointJudge("m")("p")
