"""The client against a server that fails in every way that servers do; needs the extra ``openai``."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("httpx")

from ropewalk.backends.chat.chat import Beginning, Failed
from ropewalk.backends.chat.endpoint import Endpoint, entropy_bound
from ropewalk.common.errors import UserError
from tests.talkers import chat_body, endpoint, engine

USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7}}


def asked_once(reply, patience: float = 5, **more):
    """What an engine makes of a server, whose usage is not compared."""
    with endpoint(reply) as server:
        some = engine(Endpoint(server.url, **more), served=False, tries=2, patience=patience)
        return some.answers(["Who walks there?"], 16, str), some.ledger, server.requests


def test_a_prompt_is_sent_as_a_users_turn_and_usage_is_taken() -> None:
    found, ledger, requests = asked_once(lambda *_: (200, chat_body("a rope", USAGE)))
    path, body = requests[0]
    assert found == ["a rope"] and path == "/v1/chat/completions" and len(requests) == 1
    assert body == {"model": "tiny", "max_tokens": 16, "temperature": 0,
                    "messages": [{"role": "user", "content": "Who walks there?"}]}  # fmt: skip
    assert (ledger.prompt_tokens, ledger.cached_tokens, ledger.completion_tokens) == (20, 7, 3)


@pytest.mark.parametrize(("said", "silent"), [
    (None, True), ({}, True), ({"prompt_tokens": 20}, True), (USAGE | {"completion_tokens": None}, True),
    ({"prompt_tokens": "x"}, False), (USAGE | {"prompt_tokens": -5}, False), (USAGE | {"prompt_tokens": "20"}, False),
    (USAGE | {"completion_tokens": math.nan}, False), (USAGE | {"completion_tokens": True}, False),
    (USAGE | {"completion_tokens": 3.0}, False), (USAGE | {"prompt_tokens": 10**50}, False),
    (USAGE | {"prompt_tokens_details": {"cached_tokens": -1}}, False),
])  # fmt: skip
def test_usage_that_is_not_told_and_usage_that_cannot_be_are_counted_apart(said, silent: bool) -> None:
    found, ledger, requests = asked_once(lambda *_: (200, chat_body("a rope", said)))
    assert found == ["a rope"] and len(requests) == 1 and ledger.prompt_tokens == ledger.completion_tokens == 0
    assert (ledger.without_usage, ledger.wrong_usage) == (silent, not silent)


def test_usage_beyond_the_room_is_wrong_and_the_answer_is_taken() -> None:
    found, ledger, _ = asked_once(lambda *_: (200, chat_body("a rope", USAGE | {"completion_tokens": 10**9})))
    assert found == ["a rope"] and ledger.wrong_usage == 1 and not ledger.nonsense
    assert (ledger.prompt_tokens, ledger.cached_tokens, ledger.completion_tokens) == (20, 7, 0)
    _, ledger, _ = asked_once(lambda *_: (200, chat_body("a rope", USAGE | {"prompt_tokens": 10**9})))
    assert ledger.wrong_usage == 1
    assert (ledger.prompt_tokens, ledger.cached_tokens, ledger.completion_tokens) == (0, 0, 3)


@pytest.mark.parametrize(("reply", "reason"), [
    ((500, {"error": {"message": "a bug"}}), "code 500"),
    ((408, {"error": {"message": "slower"}}), "code 408"),
    ((500, "<html>broken</html>"), "code 500"),
    ((200, "<html>log in first</html>"), "no JSON"),
    ((200, {"choices": []}), "no answer in it"),
    ((200, {"choices": None}), "no answer in it"),
    ((200, {"choices": 3}), "no answer in it"),
    ((200, []), "no answer in it"),
    ((200, chat_body(["a"])), "no answer in it"),
    ((200, chat_body(5)), "no answer in it"),
])  # fmt: skip
def test_what_is_no_answer_is_counted_and_tried_again(reply, reason: str) -> None:
    found, ledger, requests = asked_once(lambda number, *_: reply if number == 1 else (200, chat_body("a rope")))
    assert found == ["a rope"] and ledger.failed == {reason: 1} and ledger.calls == len(requests) == 2
    assert requests[1][1] == requests[0][1], "what failed is asked again as it was"
    found, ledger, _ = asked_once(lambda *_: reply)
    assert found == [None] and ledger.failed == {reason: 2} and ledger.given_up == 1


@pytest.mark.parametrize("said", ["\u00b2", "1.5", "Sun, 29 Nov 2026 20:00:00 GMT", "-1", "nan", "9" * 400])
def test_a_pause_that_is_no_number_of_seconds_is_not_kept(said: str) -> None:
    sent = said.encode("latin-1").decode("latin-1")
    first = (429, {"error": {"message": "slower"}}, {"Retry-After": sent})
    found, ledger, _ = asked_once(lambda number, *_: first if number == 1 else (200, chat_body("a rope")))
    assert found == ["a rope"] and ledger.failed == {"code 429": 1}


def test_after_nonsense_another_text_is_drawn() -> None:
    replies = iter([(503, {}), (200, chat_body("")), (200, chat_body("a rope"))])
    with endpoint(lambda *_: next(replies)) as server:
        found = engine(Endpoint(server.url), served=False, patience=5).answers(["Who walks there?"], 16, str)
    asked = [(body["temperature"] > 0, body.get("seed")) for _, body in server.requests]
    assert found == ["a rope"] and asked == [(False, None), (False, None), (True, 1)]


def test_a_body_that_is_too_deep_to_read_is_none() -> None:
    found, ledger, _ = asked_once(lambda number, *_: (200, b"[" * 100_000 if number == 1 else chat_body("a rope")))
    assert found == ["a rope"] and ledger.failed == {"no JSON": 1}


def test_texts_of_no_use_are_nonsense() -> None:
    for body, reason in (
        (chat_body(""), "empty"),
        (chat_body(None), "empty"),
        (chat_body("<think> let me see"), "a thought without an end"),
        (chat_body("a \x1b[31mrope"), "control characters"),
        (chat_body("a", None, "length"), "cut off"),
    ):
        found, ledger, _ = asked_once(lambda *_, body=body: (200, body))
        assert found == [None] and ledger.nonsense == {reason: 2}


def test_a_model_without_a_chat_template_is_asked_for_completions() -> None:
    def reply(number, path, body):
        if path.endswith("chat/completions"):
            return 400, {"error": {"message": "this model has no chat template"}}
        return 200, {"choices": [{"index": 0, "text": f" a {body['prompt']}", "finish_reason": "stop"}]}

    found, ledger, requests = asked_once(reply)
    assert found == ["a Who walks there?"] and ledger.calls == 1 and len(requests) == 2
    found, ledger, requests = asked_once(lambda *_: (400, {"error": {"message": "too long"}}))
    assert found == [None] and ledger.failed == {"code 400": 1} and len(requests) == 1


def test_what_no_prompt_changes_is_told_at_once(monkeypatch) -> None:
    for code in (401, 403, 404):
        with pytest.raises(UserError, match=f"refuses with {code}: .*who are you"):
            asked_once(lambda *_, code=code: (code, {"error": {"message": "who are you"}}))
    with pytest.raises(UserError, match="nothing answers"):
        Endpoint("http://127.0.0.1:9/v1")
    for address in ("localhost:8000", "http://me:secret@host/v1", "http://host/v1?key=3"):
        with pytest.raises(UserError, match="no address of a server"):
            Endpoint(address, "tiny")
    with endpoint(lambda *_: (200, {}), served=("a", "b")) as server, pytest.raises(UserError, match="--engine-model"):
        Endpoint(server.url)


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_a_prompt_that_nobody_takes_waits_and_has_all_its_tries_left(code: int) -> None:
    busy = code, {"error": {"message": "later"}}
    found, ledger, requests = asked_once(lambda number, *_: busy if number < 9 else (200, chat_body("a rope")))
    assert found == ["a rope"] and ledger.failed == {f"code {code}": 8} and ledger.calls == len(requests) == 9
    assert all(body == requests[0][1] for _, body in requests)
    with pytest.raises(
        UserError, match=rf"tiny at 127\S+ did not answer in 0\.1 seconds: code {code} [\d,]+; the last: lat"
    ):
        asked_once(lambda *_: busy, patience=0.1)


def test_a_server_that_is_gone_is_waited_for_until_it_is_there_again() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        with pytest.raises(
            UserError, match=r"did not answer in 0\.1 seconds: no connection [\d,]+; the last: http://127"
        ):
            engine(Endpoint(url, "tiny"), patience=0.1).answers(["Who?"], 8, str)
        some, told = engine(Endpoint(url, "tiny"), served=False, patience=60), []
        some.heard = lambda ledger, waiting: told.append(waiting)
        found: list[list[str | None]] = []
        asking = threading.Thread(target=lambda: found.append(some.answers(["Who?", "What?"], 16, str)))
        asking.start()
        while len(told) < 60:
            time.sleep(0.01)
    with endpoint(lambda *_: (200, chat_body("a rope")), port=int(url.split(":")[2].removesuffix("/v1"))):
        asking.join(30)
    assert found == [["a rope", "a rope"]] and some.ledger.failed["no connection"] >= 60
    assert told[0].startswith("nobody answers (no connection): ends in ") and told[-1] == ""


@contextmanager
def dripping(begin: bytes, part: bytes) -> Iterator[str]:
    """The address of a server that says ``begin``, and then ``part`` for ever, a little at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = threading.Event()

        def serve() -> None:
            listening.settimeout(0.05)
            while not ended.is_set():
                try:
                    talking, _ = listening.accept()
                except TimeoutError:
                    continue
                with talking:
                    try:
                        talking.sendall(begin)
                        while not ended.wait(0.02):
                            talking.sendall(part)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(("begin", "part"), [
    (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b" "),
    (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{", b" "),
    (b"HTTP/1.1 500 Oh\r\n\r\n", b" "),
    (b"HTTP/1.1 200 OK\r\nX-Rope: ", b"a"),
    (b"", b""),
])  # fmt: skip
def test_a_server_that_drips_is_left_at_the_deadline(begin: bytes, part: bytes) -> None:
    with dripping(begin, part) as url:
        some, began = engine(Endpoint(url, "tiny", timeout=0.3), served=False, tries=2), time.monotonic()
        assert some.answers(["Who walks there?"], 16, str) == [None]
    assert some.ledger.failed == {"no answer in time": 2} and 0.6 <= time.monotonic() - began < 5
    with dripping(begin, part) as url, pytest.raises(UserError, match=r"nothing answers at \S+: no answer in time"):
        Endpoint(url, timeout=0.1)


@pytest.mark.parametrize("code", [200, 500])
def test_a_reply_without_an_end_is_left_at_its_largest_size_and_asked_again(code: int) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        while True:
            sent.append(1)
            yield b" " * 2**16

    found, ledger, _ = asked_once(
        lambda number, *_: (code, endless()) if number == 1 else (200, chat_body("a rope")), body=2**20
    )
    assert found == ["a rope"] and ledger.failed == {"too large an answer": 1} and ledger.calls == 2
    assert len(sent) < 2**30 / 2**16, "what is sent is not taken in"


def test_a_reply_of_the_largest_size_is_taken() -> None:
    import json

    exact = json.dumps(chat_body("a rope")).encode()
    found, ledger, _ = asked_once(lambda *_: (200, exact), body=len(exact))
    assert found == ["a rope"] and not ledger.failed
    found, ledger, _ = asked_once(lambda *_: (200, exact), body=len(exact) - 1)
    assert found == [None] and ledger.failed == {"too large an answer": 2}


def test_a_connection_that_is_lost_is_a_try() -> None:
    found, ledger, _ = asked_once(lambda *_: (200, iter(())))
    assert found == [None] and ledger.failed == {"no JSON": 2}
    with dripping(b"nonsense\r\n\r\n", b" ") as url:
        some = engine(Endpoint(url, "tiny"), served=False, tries=2)
        assert some.answers(["Who walks there?"], 16, str) == [None] and some.ledger.failed == {"connection lost": 2}


def entropy(p) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@pytest.mark.parametrize("concentration", [0.01, 0.1, 1.0, 30.0])
def test_twenty_of_many_probabilities_bound_the_entropy_from_below(concentration: float) -> None:
    for seed in range(20):
        p = np.sort(np.random.default_rng(seed).dirichlet(np.full(200, concentration)))[::-1]
        least, mass = entropy_bound(np.log(np.maximum(p[:20], 1e-300)).tolist())
        assert least <= entropy(p) + 1e-9 and mass == pytest.approx(p[:20].sum())
        assert entropy_bound(np.log(np.maximum(p, 1e-300)).tolist())[0] == pytest.approx(entropy(p))
        spread = entropy(p[:20]) - (1 - mass) * np.log((1 - mass) / 180 or 1)  # the most that the rest can have
        assert least <= spread and (mass < 0.999 or spread - least < 0.02)
    uniform = [-math.log(200)] * 20
    assert entropy_bound(uniform) == (pytest.approx(math.log(200)), pytest.approx(0.1))


def test_a_token_that_is_said_to_be_impossible_says_nothing_of_the_rest() -> None:
    known = [math.log(0.9), math.log(0.05), -9999.0]
    assert entropy_bound(known) == entropy_bound(known[:2])


def likely(logprobs):
    body = chat_body("a")
    tokens = [{"token": str(i), "logprob": one, "bytes": None} for i, one in enumerate(logprobs)]
    body["choices"][0]["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens}]}
    return body


def test_certainty_is_asked_for_with_one_token_and_twenty_beside_it() -> None:
    logs = [math.log(0.5), math.log(0.25), math.log(0.25)]
    with endpoint(lambda *_: (200, likely(logs))) as server:
        sure = Endpoint(server.url).certainty("Who walks there?")
    path, body = server.requests[0]
    assert path == "/v1/chat/completions" and body["max_tokens"] == 1 and body["temperature"] == 0
    assert body["logprobs"] is True and body["top_logprobs"] == 20
    assert sure.nats == pytest.approx(-1.5 * math.log(2)) and sure.told == pytest.approx(1)


def test_a_text_that_is_gone_on_with_has_them_as_a_table() -> None:
    def reply(number, path, body):
        table = {"a": math.log(0.5), "b": math.log(0.25)}
        logprobs = {"tokens": ["a"], "token_logprobs": [table["a"]], "top_logprobs": [table], "text_offset": [0]}
        return 200, {"choices": [{"index": 0, "text": "a", "finish_reason": "length", "logprobs": logprobs}]}

    with endpoint(reply) as server:
        sure = Endpoint(server.url).certainty(Beginning("It is"))
    assert server.requests[0][1]["logprobs"] == 20
    assert sure.nats == pytest.approx(-1.5 * math.log(2)) and sure.told == pytest.approx(0.75)


@pytest.mark.parametrize(("body", "error", "message"), [
    (chat_body("a"), UserError, "tells no log-probabilities of the next token"),
    (chat_body(""), Failed, "no probabilities"),
    (likely([math.log(0.7), math.log(0.6)]), Failed, "no probabilities"),
    (likely([0.5]), Failed, "no probabilities"),
    (likely([math.nan]), Failed, "no probabilities"),
    (likely([True]), Failed, "no probabilities"),
])  # fmt: skip
def test_what_is_no_probability_is_not_taken(body, error, message: str) -> None:
    with endpoint(lambda *_: (200, body)) as server, pytest.raises(error, match=message):
        Endpoint(server.url).certainty("Who walks there?")
