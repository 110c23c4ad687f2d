"""The client against a stub that speaks the protocol of completions over a tiny model; needs the extra ``server``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import ropewalk
from ropewalk.backends.backend import Ask
from ropewalk.backends.local import live
from ropewalk.backends.nll import token_nll
from ropewalk.backends.openai import Pace, Server, alike, connect
from ropewalk.common.errors import UserError
from ropewalk.methods.catalogue import method
from ropewalk.verbs.evaluate import EvaluateRequest
from tests.experiments import experiment
from tests.models import tiny
from tests.tokenizers import VOCABULARY, byte_level

needs_client = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("openai") is None, reason="the extra 'openai' is not installed"
)


class Stub(BaseHTTPRequestHandler):
    """/v1/models and /v1/completions; the server object holds the model and what should go wrong."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.served]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(asked)
        if self.server.failures:
            code = self.server.failures.pop(0)
            self._send(code, {"error": {"message": "too many"}}, {"Retry-After": "0"} if code == 429 else {})
            return
        if asked.get("echo") and not self.server.echoes:
            self._send(400, {"error": {"message": "echo is not supported"}})
            return
        if asked.get("logprobs") and not self.server.tells:
            self._send(400, {"error": {"message": "logprobs: 1 does not fit"}})
            return
        self._send(200, self._completion(asked))

    def _completion(self, asked: dict[str, Any]) -> dict[str, Any]:
        row, losses = list(asked["prompt"]), []
        with self.server.lock, torch.no_grad():
            for _ in range(asked["max_tokens"]):
                scores = self.server.model(torch.tensor([row])).logits[0, -1].log_softmax(-1)
                row.append(int(scores.argmax()))
                losses.append(float(scores.max()))
            if asked.get("echo"):
                ids = torch.tensor([asked["prompt"]])
                losses = [None, *(-token_nll(self.server.model, ids)[0]).tolist(), *losses]
        text = self.server.tokenizer.decode(row[len(asked["prompt"]) :], skip_special_tokens=True)
        logprobs = {"token_logprobs": losses, "tokens": [], "top_logprobs": [], "text_offset": []}
        told = logprobs if asked.get("logprobs") else None
        choice = {"index": 0, "text": text, "logprobs": told, "finish_reason": "length"}
        return {"id": "1", "object": "text_completion", "created": 1, "model": asked["model"], "choices": [choice]}

    def _send(self, code: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    tiny("llama", vocab_size=VOCABULARY).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


@pytest.fixture
def stub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.model, server.tokenizer = tiny("llama", vocab_size=VOCABULARY), byte_level()
    server.served, server.requests, server.failures, server.echoes = ["tiny"], [], [], True
    server.tells = True
    server.lock = threading.Lock()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@needs_client
def test_answers_are_judged_where_a_server_gives_no_likelihoods(stub, checkpoint) -> None:
    stub.tells = False
    server, prompt = connect(stub.url, str(checkpoint)), [3, 4, 5, 6, 7] * 4
    told = [int(token) for token in stub.model.generate(torch.tensor([prompt]), max_new_tokens=3, do_sample=False)[0]]
    (_, reply), *_ = server.ask([Ask(prompt, told[len(prompt) :])])
    assert reply.right and reply.logprob is None and server.no_losses


@needs_client
def test_a_server_gives_the_results_of_the_model_that_it_serves(stub, checkpoint, tokenizer) -> None:
    server = connect(stub.url, str(checkpoint))
    prompts = [[3, 4, 5, 6 + i, 7] * 4 for i in range(4)]
    with live(stub.model, tokenizer, method("none"), 64) as model:
        expected = model.generate(prompts, [5] * 4)
        assert server.generate(prompts, [5] * 4) == expected
        pairs = [(prompt, [9, 9]) for prompt in prompts]
        for (ours, right), (theirs, also) in zip(server.loglikelihood(pairs), model.loglikelihood(pairs), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3) and right is also
        written = [
            list(reply.written) for _, reply in sorted(dict(model.ask([Ask(p, room=3) for p in prompts])).items())
        ]
        for i, reply in server.ask([Ask(p, w) for p, w in zip(prompts, written, strict=True)]):
            assert reply.right and reply.logprob == pytest.approx(
                dict(model.ask([Ask(prompts[i], written[i])]))[0].logprob, abs=1e-3
            )
    ids = list(range(3, 60))
    assert dict(server.rolling([ids]))[0] == pytest.approx(
        token_nll(stub.model, torch.tensor([ids]))[0].numpy(), abs=1e-4
    )


@needs_client
def test_a_server_is_told_where_an_answer_ends(stub, checkpoint) -> None:
    server = connect(stub.url, str(checkpoint))
    list(server.ask([Ask([3, 4], room=2, ends=("\nQ:",)), Ask([5, 6], room=2)]))
    assert {tuple(one["prompt"]): one.get("stop") for one in stub.requests[-2:]} == {(3, 4): ["\nQ:"], (5, 6): None}


@needs_client
def test_busy_servers_are_asked_again_and_broken_ones_are_named(stub, checkpoint) -> None:
    server = connect(stub.url, str(checkpoint), retries=3)
    before = len(stub.requests)
    stub.failures = [429, 503]
    assert server.generate([[3, 4]], [2]) and len(stub.requests) == before + 3
    stub.failures = [400]
    with pytest.raises(UserError, match="refused a prompt of 2 tokens"):
        server.generate([[3, 4]], [2])
    with pytest.raises(UserError, match=r"nothing answers at http://127\.0\.0\.1:9/v1"):
        connect("http://127.0.0.1:9/v1", str(checkpoint), retries=0)
    with pytest.raises(UserError, match="told its tokenizer"):
        connect(stub.url, "")
    stub.served = ["a", "b"]
    with pytest.raises(UserError, match="serves 2 models: a, b"):
        connect(stub.url, str(checkpoint))


@needs_client
def test_a_server_without_echo_is_measured_without_perplexity(stub, checkpoint) -> None:
    stub.echoes = False
    server = connect(stub.url, str(checkpoint))
    assert server.no_losses
    found = experiment(server, tasks=["ppl", "passkey"], lengths=[300], samples=4, texts={"a": "word " * 400})
    (lost,) = found.not_measured
    assert (lost.task, lost.method, lost.reason) == ("ppl", "none", server.no_losses)
    assert {row.task for row in found.rows} == {"passkey"} and found.subjects[0].tokens is None
    prompts = [tuple(one["prompt"]) for one in stub.requests if "echo" not in one and len(one["prompt"]) > 100]
    assert all("temperature" in one and one["temperature"] == 0 for one in stub.requests)
    assert len(prompts) == len(set(prompts)), "no prompt is sent twice"


def test_prompts_that_begin_alike_follow_each_other() -> None:
    a, b = [1] * 50, [2] * 50
    rows = [[*a, 1], [*b, 1], [*a, 2, 9], [*b, 2], [5]]
    groups = alike(rows)
    assert sorted(map(sorted, groups)) == [[0, 2], [1, 3], [4]]


def test_requests_keep_their_pace() -> None:
    pace, began = Pace(per_minute=1200), time.monotonic()
    for _ in range(4):
        pace.wait()
    assert time.monotonic() - began >= 0.14
    Pace(None).wait()


def test_a_failing_request_ends_the_run(tokenizer) -> None:
    class Broken(Server):
        def __init__(self) -> None:
            self.workers, self.seen = 2, []

        def _reply(self, ask: Ask) -> Any:
            self.seen.append(ask.prompt[0])
            raise UserError("gone")

    broken = Broken()
    with pytest.raises(UserError, match="gone"):
        list(broken.ask([Ask([i] * 9) for i in range(50)]))
    assert len(broken.seen) < 50


@needs_client
def test_a_served_model_is_called_as_it_is_served(stub, checkpoint, tmp_path) -> None:
    done = ropewalk.evaluate(
        stub.url, tokenizer=str(checkpoint), tasks="passkey", lengths="128", samples=2, out=tmp_path / "out"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    host = stub.url.removeprefix("http://").removesuffix("/v1")
    assert done.results.subjects[0].title == "As served" and done.results.models[0].name == f"tiny at {host}"
    assert "Plain model" not in repr(done) + page
    for served, name in ((None, host.replace(":", "-")), ("org/tiny", "tiny")):
        request = EvaluateRequest(model=stub.url, served=served, tasks=("passkey",))
        numbers = {"to": None, "samples": 1, "documents": 1, "depths": 1, "controls": False}
        experiment = request.experiment(("none",), ("passkey",), **numbers)
        assert request.folder(experiment).name.startswith(f"evaluate-{name}-")
