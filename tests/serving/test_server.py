"""The server as clients meet it: the real ``openai`` client, and whatever else comes over the wire."""

# ruff: noqa: E402
from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

for package in ("openai", "starlette", "uvicorn", "httpx"):
    pytest.importorskip(package, reason="needs the extra: pip install -e '.[serve]' httpx")

import httpx
import openai
import uvicorn

from ropewalk import method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.cli.main import run
from ropewalk.common.extras import install
from ropewalk.rope.config import read
from ropewalk.serving import application as application_module
from ropewalk.serving import scheduler as scheduling
from ropewalk.serving import server
from ropewalk.serving.application import BYTES, BYTES_PER_TOKEN, Served, application
from ropewalk.serving.batch import Way
from ropewalk.serving.scheduler import Scheduler
from tests.models import THETA, tiny, tokens

LIMIT = 2048
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no such role: ' + m.role) }}{% endif %}# {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant:{% endif %}"
)
PROMPT = "def main(arguments):\n    "


@pytest.fixture(scope="module")
def demo():
    checkpoint = Checkpoint.open("demo")
    model, tokenizer = checkpoint.load("float32"), checkpoint.tokenizer()  # bfloat16 has ties between best tokens
    with method("self-extend").on(model, LIMIT):
        yield model, tokenizer


@contextmanager
def serving(demo, **more):
    """A server on a free port, in a thread; its address. The method is on already."""
    model, tokenizer = demo
    scheduler = Scheduler(model, tokenizer, 2 * LIMIT, Way(pieces=True, joined=True, shared=True))
    served = Served("demo", tokenizer, model.config.vocab_size, LIMIT, **more)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application(served, scheduler, ["127.0.0.1"]), log_level="critical", lifespan="on")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(demo):
    demo[1].chat_template = TEMPLATE
    with serving(demo) as address:
        yield address
    demo[1].chat_template = None


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def greedy(demo, prompt, max_tokens, **more):
    """What ``generate`` makes of the same prompt."""
    model, tokenizer = demo
    inputs = tokenizer(prompt, return_tensors="pt", **more)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def complete(client, prompt=PROMPT, **more):
    return client.completions.create(model="demo", prompt=prompt, **{"max_tokens": 12, "temperature": 0, **more})


def test_a_completion_is_what_generate_gives(demo, client):
    expected = greedy(demo, PROMPT, 12)
    done = complete(client)
    assert done.choices[0].text == expected
    assert done.choices[0].finish_reason == "length"
    prompt = len(demo[1](PROMPT)["input_ids"])
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (
        prompt,
        12,
        prompt + 12,
    )


def test_token_ids_and_a_list_of_one_text_are_prompts_too(demo, client):
    expected = complete(client).choices[0].text
    assert complete(client, prompt=demo[1](PROMPT)["input_ids"]).choices[0].text == expected
    assert complete(client, prompt=[PROMPT]).choices[0].text == expected


def test_a_prompt_beyond_the_window_is_read_by_the_method(demo, client):
    prompt = "x = 1\n" * 250
    assert len(demo[1](prompt)["input_ids"]) > 512
    assert complete(client, prompt=prompt).choices[0].text == greedy(demo, prompt, 12)


def test_a_stream_is_the_completion_in_pieces(client):
    whole = complete(client)
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 5
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_a_chat_goes_through_the_template(demo, client):
    messages = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    prompt = "# system: be short\n# user: hi\n# assistant:"
    done = client.chat.completions.create(model="demo", messages=messages, temperature=0, max_completion_tokens=8)
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].message.content == greedy(demo, prompt, 8, add_special_tokens=False)
    stream = client.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=8, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content for delta in deltas) == done.choices[0].message.content


def test_a_stop_string_ends_the_text_before_it(client):
    text = complete(client, max_tokens=30).choices[0].text
    stop = text[10:14]
    stopped = complete(client, max_tokens=30, stop=["never this", stop])
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_seed_repeats_a_text(client):
    texts = [complete(client, temperature=1.5, top_p=0.9, seed=seed).choices[0].text for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1] and len(set(texts)) > 1


def test_the_models_are_one(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").max_model_len == LIMIT
    with pytest.raises(openai.NotFoundError, match="only 'demo'"):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError, match="only 'demo'"):
        client.completions.create(model="gpt-9", prompt="hi")


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(client):
    with pytest.raises(openai.BadRequestError, match=r"2,048.*3.*2,046.*2,049") as caught:
        complete(client, prompt=[5, 6, 7], max_tokens=2046)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=r"2,048.*3,000"):
        complete(client, prompt=[5] * 3000)
    with pytest.raises(openai.BadRequestError, match=r"limit is 2,048 tokens; the prompt has 2,048"):
        client.completions.create(model="demo", prompt=[5] * 2048)


GOOD = {"model": "demo", "prompt": "a", "max_tokens": 2}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
BAD_COMPLETIONS = {  # what is said of it -> body
    "not JSON: EOF": b'{"model": "demo", "prompt": "a"',
    "not JSON: expected": b"prompt=a",
    "not JSON: EOF while parsing a value": b"",
    "not JSON: invalid unicode": b'{"model": "demo", "prompt": "\xff\xfe"}',
    "not JSON: unexpected end of hex": b'{"model": "demo", "prompt": "\\ud800"}',
    "not JSON: recursion": b"[" * 100_000,
    'the body is ["demo"], expected an object': b'["demo"]',
    "model is missing": {"prompt": "a"},
    "prompt is missing": {"model": "demo"},
    "prompt is [], expected text, a list of token ids, or a list of 1 to 128 of either": {**GOOD, "prompt": []},
    "the prompt has no tokens": {**GOOD, "prompt": [[5, 6], []]},
    "prompt is 7, expected text, a list of token ids": {**GOOD, "prompt": 7},
    'prompt is [1, "b"], expected text': {**GOOD, "prompt": [1, "b"]},
    "token id 4096 is not in 0 to 4095": {**GOOD, "prompt": [4096]},
    "token id -1": {**GOOD, "prompt": [-1]},
    'prompt is ["a", 7], expected text': {**GOOD, "prompt": ["a", 7]},
    "more than 128 answers": {**GOOD, "prompt": ["a"] * 43, "n": 3},
    'max_tokens is "2", expected a whole number': {**GOOD, "max_tokens": "2"},
    "max_tokens is 0, expected at least 1": {**GOOD, "max_tokens": 0},
    "temperature is -1, expected at least 0": {**GOOD, "temperature": -1},
    "temperature is NaN, expected": b'{"model": "demo", "prompt": "a", "temperature": NaN}',
    "top_p is 0, expected more than 0": {**GOOD, "top_p": 0},
    "seed is 1180591620717411303424, expected less than 9223372036854775808": {**GOOD, "seed": 2**70},
    'stop is "", expected text of 1 to 256 characters': {**GOOD, "stop": ""},
    'stream is "yes", expected true or false': {**GOOD, "stream": "yes"},
    "n is 0, expected at least 1": {**GOOD, "n": 0},
    "best_of is 2, expected 1 or null, all that this server does": {**GOOD, "best_of": 2},
    "logprobs is 21, expected at most 20": {**GOOD, "logprobs": 21},
    "top_k is -2, expected at least -1": {**GOOD, "top_k": -2},
    "presence_penalty is 2.1, expected at most 2": {**GOOD, "presence_penalty": 2.1},
    "echo is true, expected false or null, all that this server does": {**GOOD, "echo": True},
    "unknown parameter 'maxtokens'": {**GOOD, "maxtokens": 3},
}
BAD_CHATS = {
    "messages is missing": {"model": "demo"},
    "messages is [], expected a list of at least 1": {**CHAT, "messages": []},
    'messages.0 is "a", expected an object': {**CHAT, "messages": ["a"]},
    "messages.0.role is \"wizard\", expected 'system', 'developer', 'user' or 'assistant'": {
        **CHAT,
        "messages": [{"role": "wizard", "content": "a"}],
    },
    "messages.0.content is missing": {**CHAT, "messages": [{"role": "user"}]},
    "messages.0.content is null, expected text, or a list of parts": {
        **CHAT,
        "messages": [{"role": "user", "content": None}],
    },
    "does not know tool_calls": {**CHAT, "messages": [{"role": "assistant", "content": "a", "tool_calls": [1]}]},
    'messages.0.content is [{"type": "image_url"': {
        **CHAT,
        "messages": [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}],
    },
    "top_logprobs needs logprobs": {**CHAT, "top_logprobs": 3},
    'tools is [{"type": "function"}], expected [] or null': {**CHAT, "tools": [{"type": "function"}]},
    'response_format is {"type": "json_object"}, expected {"type": "text"} or null': {
        **CHAT,
        "response_format": {"type": "json_object"},
    },
}


def raw(body):
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize(
    ("path", "says", "body"),
    [("/v1/completions", *bad) for bad in BAD_COMPLETIONS.items()]
    + [("/v1/chat/completions", *bad) for bad in BAD_CHATS.items()],
    ids=[*BAD_COMPLETIONS, *BAD_CHATS],
)
def test_a_malformed_request_is_told_what_is_wrong_with_it(address, path, says, body):
    answer = httpx.post(address + path, content=raw(body), timeout=60)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert len(error["message"]) < 400
    assert not re.search(
        r"Input should|Field required|Value error|pydantic|list\[|valid (string|integer)", error["message"]
    )


def test_fields_at_the_value_that_changes_nothing_are_accepted(client):
    neutral = {"n": 1, "best_of": 1, "echo": False, "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}}
    assert complete(client, user="me", suffix=None, logprobs=None, **neutral).choices[0].text


def test_other_paths_methods_and_hosts_are_refused(address):
    assert httpx.get(f"{address}/v1/nothing", timeout=60).json()["error"]["message"] == "Not Found"
    assert httpx.get(f"{address}/v1/completions", timeout=60).status_code == 405
    assert httpx.get(f"{address}/health", headers={"host": "attacker.example"}, timeout=60).status_code == 400
    assert httpx.get(f"{address}/health", timeout=60).json() == {"status": "ok"}


def test_a_huge_body_is_refused_before_it_is_read_to_the_end(address):
    sent = []

    def endless():
        for _ in range(100 * (BYTES + BYTES_PER_TOKEN * LIMIT) // 65536):
            sent.append(65536)
            yield b" " * 65536

    try:
        answer = httpx.post(f"{address}/v1/completions", content=endless(), timeout=60)
        assert answer.status_code == 413 and "larger than" in answer.json()["error"]["message"]
    except httpx.TransportError:  # the connection was cut while the body was under way
        pass
    assert sum(sent) < 50 * (BYTES + BYTES_PER_TOKEN * LIMIT)
    assert httpx.get(f"{address}/health", timeout=60).status_code == 200


def test_a_body_that_is_too_large_is_told_so_though_it_was_sent_to_the_end(address):
    for body in (b" " * (20 * 2**20), iter([b" " * 2**20] * 20)):  # with its length and without
        answer = httpx.post(f"{address}/v1/completions", content=body, timeout=60)
        assert answer.status_code == 413 and "larger than" in answer.json()["error"]["message"]


def test_a_declared_length_beyond_all_bounds_is_refused_unread(address):
    host = address.removeprefix("http://")
    with socket.create_connection(host.split(":"), timeout=20) as raw_connection:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {10**15}\r\n\r\n"
        raw_connection.sendall(head.encode())
        assert b" 413 " in raw_connection.recv(1000)


def test_a_body_that_does_not_come_is_waited_for_no_longer_than_the_limit(address, monkeypatch):
    monkeypatch.setattr(application_module, "SENDING", 0.3)
    host = address.removeprefix("http://")
    with socket.create_connection(host.split(":"), timeout=20) as raw_connection:
        raw_connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: " + host.encode() + b"\r\ncontent-length: 9\r\n\r\n{"
        )
        told = b"".join(iter(lambda: raw_connection.recv(1000), b""))
        assert b" 408 " in told and b"0.3 seconds" in told


def test_a_head_that_does_not_come_is_waited_for_no_longer_than_the_limit(monkeypatch):
    monkeypatch.setattr(server, "HEAD", 0.3)
    listening = socket.create_server(("127.0.0.1", 0))

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await asyncio.sleep(1)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    running = server._Server(uvicorn.Config(app, http="h11", log_level="critical", lifespan="off"), lambda: None)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        for sent in (b"", b"GET / HTTP/1.1\r\nhost: a", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"):
            with socket.create_connection(listening.getsockname(), timeout=20) as connection:
                connection.sendall(sent)
                answered = connection.recv(1000)  # nothing, as the connection is closed
                assert (b" 204 " in answered) == sent.endswith(b"\r\n\r\n")
    finally:
        running.should_exit = True
        thread.join()


def test_a_page_of_another_site_gets_nothing(address):
    for origin in ("http://attacker.example", "null", "http://127.0.0.1:1", "file://", "http://[", ""):
        for kind in ("text/plain", "application/json"):
            headers = {"origin": origin, "content-type": kind}
            answer = httpx.post(f"{address}/v1/completions", content=raw(GOOD), headers=headers, timeout=60)
            assert answer.status_code == 403 and answer.json()["error"]["code"] == "foreign_origin"
    own = httpx.post(f"{address}/v1/completions", json=GOOD, headers={"origin": address}, timeout=60)
    assert own.status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = httpx.post(f"{address}/v1/completions", content=raw(GOOD), headers={"content-type": kind}, timeout=60)
        assert answer.status_code == 415 and "application/json" in answer.json()["error"]["message"]


def test_a_megabyte_of_text_is_refused_after_a_part_of_it(demo, address, monkeypatch):
    read = []
    tokenise = type(demo[1]).__call__

    def watched(self, text, **more):
        read.append(len(text))
        return tokenise(self, text, **more)

    monkeypatch.setattr(type(demo[1]), "__call__", watched)
    text = "lorem ipsum " * 90_000
    for path, body in {
        "completions": {"prompt": text},
        "chat/completions": {"messages": [{"role": "user", "content": text}]},
    }.items():
        answer = httpx.post(f"{address}/v1/{path}", json={"model": "demo", **body}, timeout=60)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["code"] == "context_length_exceeded" and "2,048" in error["message"]
    assert max(read) == application_module.CHARACTERS * LIMIT < len(text) / 30
    monkeypatch.setattr(application_module, "CHARACTERS", 4)
    spaces = " " * (application_module.CHARACTERS * LIMIT + 1)  # few tokens, many characters
    assert len(tokenise(demo[1], spaces)["input_ids"]) < LIMIT - 2
    assert httpx.post(f"{address}/v1/completions", json={**GOOD, "prompt": spaces}, timeout=60).status_code == 200


@pytest.mark.parametrize("digits", [400, 4000, 6000, 100_000])
@pytest.mark.parametrize("field", ["max_tokens", "temperature", "seed", "prompt", "n", "logprobs", "stop"])
def test_numbers_of_any_length_are_refused(address, field, digits):
    number = b"9" * digits
    body = {**GOOD, field: "NUMBER"}
    for value in (number, b"[" + number + b"]"):
        answer = httpx.post(f"{address}/v1/completions", content=raw(body).replace(b'"NUMBER"', value), timeout=60)
        assert answer.status_code == 400 and len(answer.text) < 600


def test_several_prompts_and_several_answers_to_each(demo, client):
    prompts = [PROMPT, "x = 1\n", demo[1]("import os\n")["input_ids"]]
    expected = [complete(client, prompt=prompt).choices[0].text for prompt in prompts]
    done = complete(client, prompt=prompts[:2], n=2)
    assert [(choice.index, choice.text) for choice in done.choices] == list(
        enumerate([expected[0]] * 2 + [expected[1]] * 2)
    )
    read = sum(len(demo[1](prompt)["input_ids"]) for prompt in prompts[:2])
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (read, 48)
    assert [c.text for c in complete(client, prompt=[prompts[2], prompts[2]]).choices] == [expected[2]] * 2
    pieces = {}
    for chunk in complete(client, prompt=prompts[:2], stream=True):
        pieces.setdefault(chunk.choices[0].index, []).append(chunk.choices[0])
    assert {i: "".join(piece.text for piece in of) for i, of in pieces.items()} == dict(enumerate(expected[:2]))
    assert all(of[-1].finish_reason == "length" for of in pieces.values())
    seeds = complete(client, n=3, temperature=1.5, seed=4)
    alone = [complete(client, temperature=1.5, seed=4 + i).choices[0].text for i in range(3)]
    assert [choice.text for choice in seeds.choices] == alone
    messages = CHAT["messages"]
    chat = client.chat.completions.create(model="demo", messages=messages, n=2, temperature=0, max_tokens=4)
    assert chat.choices[0].message.content == chat.choices[1].message.content and chat.choices[1].index == 1


def test_logprobs_in_both_shapes(demo, client):
    done = complete(client, max_tokens=6, logprobs=3).choices[0]
    told = done.logprobs
    assert "".join(told.tokens) == done.text
    assert told.text_offset == [len("".join(told.tokens[:i])) for i in range(6)]
    assert all(
        len(of) <= 3 and of[token] == logprob
        for token, logprob, of in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True)
    )
    streamed = [chunk.choices[0].logprobs for chunk in complete(client, max_tokens=6, logprobs=3, stream=True)]
    assert [offset for one in streamed if one for offset in one.text_offset] == told.text_offset
    assert complete(client, max_tokens=2).choices[0].logprobs is None
    ask = {"model": "demo", "messages": CHAT["messages"], "temperature": 0, "max_tokens": 4, "logprobs": True}
    chat = client.chat.completions.create(**ask, top_logprobs=2).choices[0]
    assert "".join(one.token for one in chat.logprobs.content) == chat.message.content
    assert all(len(one.top_logprobs) == 2 and one.bytes == list(one.token.encode()) for one in chat.logprobs.content)
    assert client.chat.completions.create(**ask).choices[0].logprobs.content[0].top_logprobs == []


def test_what_was_read_for_an_earlier_request_is_counted_as_cached(client):
    prompt = "\n".join(f"row_{i} = {i * i}" for i in range(60))
    first, second = (complete(client, prompt=prompt + f"\nlast_{i} =") for i in "ab")
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens - second.usage.prompt_tokens_details.cached_tokens < 10


def test_every_request_leaves_one_line_without_what_was_said(address, client, caplog):
    caplog.set_level(logging.INFO, "ropewalk.serving")
    complete(client, prompt="secret word", max_tokens=3)
    httpx.post(f"{address}/v1/completions", content=b"{", timeout=60)
    httpx.get(f"{address}/v1/a%0Ab", timeout=60)
    lines: list[str] = []
    for _ in range(200):  # a line is written after its answer was sent
        lines = [record.getMessage() for record in caplog.records if record.name == "ropewalk.serving.gate"]
        if len(lines) == 3:
            break
        time.sleep(0.05)
    assert "POST /v1/completions 200, prompt" in lines[0] and re.search(r"answer 3 tokens, first \d", lines[0])
    assert re.search(r"POST /v1/completions 400, \d", lines[1]) and "'/v1/a\\nb' 404" in lines[2]
    assert len(lines) == 3 and not any("secret" in line or "\n" in line for line in lines)


def test_200_requests_and_20_malformed_ones_at_once_are_all_answered(address):
    async def everything():
        options = {"base_url": f"{address}/v1", "api_key": "none", "max_retries": 0, "timeout": 120}

        async def good(i):
            done = await complete(client, prompt=f"value_{i} = ", max_tokens=4, stream=i % 4 == 0)
            if i % 4:
                return done.choices[0].text
            return "".join([chunk.choices[0].text async for chunk in done])

        async def bad(body):
            return (await http.post(f"{address}/v1/completions", content=raw(body))).status_code

        async with httpx.AsyncClient(timeout=120) as http, openai.AsyncOpenAI(**options) as client:
            return await asyncio.gather(*map(good, range(200)), *map(bad, list(BAD_COMPLETIONS.values())[:20]))

    answers = asyncio.run(everything())
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        for i in (0, 77, 199):
            assert answers[i] == complete(client, prompt=f"value_{i} = ", max_tokens=4).choices[0].text
    assert all(isinstance(text, str) for text in answers[:200])
    assert answers[200:] == [400] * 20


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that the scheduler is given."""
    given = []
    submit = Scheduler.submit
    monkeypatch.setattr(Scheduler, "submit", lambda self, job: (given.append(job), submit(self, job))[1])
    return given


def becomes(true, seconds=20):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def test_a_client_that_leaves_a_stream_ends_the_generation(client, jobs):
    with complete(client, max_tokens=1500, stream=True) as stream:
        next(iter(stream))
    assert becomes(jobs[0].cancelled.is_set)
    assert complete(client, max_tokens=2).choices[0].text


def test_a_client_that_leaves_before_its_answer_ends_the_generation(client, jobs):
    with pytest.raises(openai.APITimeoutError):
        complete(client.with_options(timeout=0.3), max_tokens=1500)
    assert becomes(jobs[0].cancelled.is_set)
    assert complete(client, max_tokens=2).choices[0].text


def test_an_error_inside_is_told_without_its_inside(demo, client, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL, "ropewalk.serving.scheduler")
    forward = demo[0].forward
    monkeypatch.setattr(demo[0], "forward", lambda **_: 1 / 0)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            complete(client, stream=stream)
        assert "internal error" in caught.value.message
        assert "division" not in caught.value.response.text and "Traceback" not in caught.value.response.text
    steps = []

    def breaks_later(**keywords):
        steps.append(1)
        return forward(**keywords) if len(steps) < 4 else 1 / 0

    monkeypatch.setattr(demo[0], "forward", breaks_later)
    with pytest.raises(openai.APIError, match="internal error"):
        list(complete(client, stream=True))
    monkeypatch.setattr(demo[0], "forward", forward)
    assert complete(client).choices[0].text


def test_no_request_meets_a_connection_that_an_error_before_it_ended(demo, address, monkeypatch):
    monkeypatch.setattr(demo[0], "forward", lambda **_: 1 / 0)
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    for _ in range(2):  # the second one opens a connection of its own only if the first answer says that it must
        connection.request("POST", "/v1/completions", raw(GOOD))
        answer = connection.getresponse()
        assert answer.status == 500 and "internal error" in answer.read().decode()
        if connection.sock:
            select.select([connection.sock], [], [], 1)  # until the server ends it, if it does
    connection.close()


def test_a_full_queue_is_answered_503(client, monkeypatch):
    monkeypatch.setattr(scheduling, "WAITING", 0)
    with pytest.raises(openai.InternalServerError, match="waiting") as caught:
        complete(client)
    assert caught.value.status_code == 503


def test_an_api_key_keeps_others_out_and_a_missing_template_is_said(demo):
    template, demo[1].chat_template = demo[1].chat_template, None
    with serving(demo, api_key="secret ключ") as address:
        assert httpx.get(f"{address}/health", timeout=60).status_code == 200
        assert httpx.get(f"{address}/v1/models", timeout=60).status_code == 401
        wrong = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError, match="API key"):
            complete(wrong)
        headers = {"authorization": "Bearer secret ключ".encode()}
        answer = httpx.post(f"{address}/v1/chat/completions", json=CHAT, headers=headers, timeout=60)
    demo[1].chat_template = template
    assert answer.status_code == 400
    assert "no chat template; use /v1/completions" in answer.json()["error"]["message"]


@contextmanager
def process(*more):
    """A server of its own process, with the address that it printed."""
    command = [
        sys.executable,
        "-m",
        "ropewalk",
        "serve",
        "demo",
        "-m",
        "self-extend",
        "--to",
        "2k",
        "--port",
        "0",
        *more,
    ]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        running.address = running.stdout.readline().split()[-1].removesuffix("/v1")
        assert running.stdout.readline() == "Ctrl-C ends it\n"
        assert becomes(lambda: _answers(running.address), 60)
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_requests_end(how):
    with process() as running, openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as client:
        stream = iter(complete(client, max_tokens=60, stream=True))
        next(stream)
        running.send_signal(how)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
        rest = running.stdout.read()  # communicate() would leave out what readline() has read ahead
        running.wait(timeout=60)
    assert running.returncode == 0 and rest.endswith("\nstopped\n") and "Traceback" not in rest
    (line,) = [line for line in rest.splitlines() if "POST" in line]
    assert "/v1/completions 200" in line and "answer 60 tokens" in line
    assert "prompts are read in pieces; answers are decoded together; beginnings are kept" in rest


@pytest.mark.slow
def test_requests_that_do_not_end_in_time_are_told_503_when_the_server_is_stopped():
    with process() as running:
        body = {"model": "demo", "prompt": "a", "max_tokens": 2000, "stop": "\x00"}
        host = running.address.removeprefix("http://")
        half = socket.create_connection(host.split(":"))
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: " + host.encode() + b"\r\ncontent-length: 50\r\n\r\n{")
        told = []
        waiting = [threading.Thread(target=lambda: told.append(_post(running.address, body))) for _ in range(3)]
        address = f"{running.address}/v1/completions"
        with httpx.stream("POST", address, json=body | {"stream": True}, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            for one in waiting:  # behind it: there is room for two
                one.start()
            time.sleep(2)
            running.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            running.send_signal(signal.SIGTERM)  # in a hurry
            assert any("shutting down" in line for line in lines)
        for one in waiting:
            one.join()
        assert b" 503 " in half.recv(1000)
        half.close()
        rest, _ = running.communicate(timeout=60)
    assert [answer.status_code for answer in told] == [503] * 3
    assert all("shutting down" in answer.json()["error"]["message"] for answer in told)
    assert running.returncode == 0 and rest.endswith("\nstopped\n") and "Traceback" not in rest


def _post(address, body):
    return httpx.post(f"{address}/v1/completions", json=body, timeout=60)


@pytest.mark.slow
def test_memory_stays_level_over_3000_requests():
    def ask(i):
        chance = random.Random(i)
        prompt = [chance.randrange(5, 4000) for _ in range(chance.randrange(2, 150))]
        more = {"max_tokens": chance.randrange(1, 4), "temperature": chance.choice([0, 1]), "seed": i}
        return _post(running.address, {"model": "demo", "prompt": prompt, **more}).status_code

    def resident():
        with open(f"/proc/{running.pid}/status") as status:
            return int(next(line for line in status if line.startswith("VmRSS")).split()[1])

    with process("--dtype", "float32") as running, ThreadPoolExecutor(8) as clients:
        drain = threading.Thread(target=lambda: [None for _ in running.stdout], daemon=True)
        drain.start()
        assert set(clients.map(ask, range(1500))) == {200}  # what malloc keeps for reuse grows until about here
        level = resident()
        assert set(clients.map(ask, range(1500, 3000))) == {200}
        assert resident() < 1.05 * level
        running.kill()
        drain.join()


def _answers(address):
    try:
        return httpx.get(f"{address}/health", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


LONGROPE = {**THETA, "rope_type": "longrope", "short_factor": [1.0] * 8, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("spelling", "ropes", "pieces", "joined", "switches"),
    [
        ("none", THETA, True, True, []),
        ("yarn+dca", THETA, True, True, []),
        ("dynamic-ntk", THETA, False, False, []),
        ("s2-attention", THETA, False, False, []),
        ("streaming-llm", THETA, True, False, []),
        ("infllm(execution_block=1)", THETA, True, False, []),
        ("vertical-slash", THETA, False, False, []),
        ("none", {**LONGROPE, "long_factor": [4.0] * 8}, False, False, [64]),
        ("none", {**LONGROPE, "long_factor": [1.0] * 8}, True, True, []),
    ],
)
def test_requests_share_only_what_changes_nothing(monkeypatch, spelling, ropes, pieces, joined, switches):
    monkeypatch.setattr(server, "Scheduler", lambda *given: given[3:5])
    model = tiny("llama", rope_parameters=ropes, max_position_embeddings=256 if ropes is not THETA else 64)
    with method(spelling).on(model, 256 if ropes is THETA and spelling != "none" else None):
        probe = tokens(1, 48)[0].tolist()
        way, found = server._scheduler(model, None, method(spelling), 256, read(model.config), probe, [])
    assert (way.pieces, way.joined, way.shared, found) == (pieces, joined, joined, switches)
    assert (way.new_cache is not None) == (spelling == "streaming-llm")


@pytest.fixture
def never_listens(monkeypatch):
    monkeypatch.setattr("ropewalk.serving.server._listen", lambda *_: pytest.fail("it listens"))


def test_an_empty_key_is_no_key(capsys, never_listens, monkeypatch):
    assert run(["serve", "demo", "--port", "0", "--api-key", " "]) == 2
    monkeypatch.setenv("ROPEWALK_API_KEY", "")
    assert run(["serve", "demo", "--port", "0"]) == 2
    assert "the API key is empty" in (said := capsys.readouterr().err) and "unset ROPEWALK_API_KEY" in said


def test_what_cannot_be_served_is_refused_before_listening(capsys, never_listens):
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    for arguments, says in {
        ("demo", "--port", port): "cannot listen on",
        ("demo", "--port", "0", "--to", "4k"): "reads 512 tokens as it is, not 4,096",
        ("demo", "--port", "0", "-m", "warp"): "unknown method 'warp'",
        ("demo", "--port", "0", "--host", "256.1.1.1"): "cannot listen on",
        ("demo", "--port", "99999"): "is no whole number from 0 to 65,535",
    }.items():
        assert run(["serve", *arguments]) == 2
        assert says in capsys.readouterr().err


def test_an_extended_checkpoint_needs_no_method(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("ropewalk.serving.server._listen", lambda *_: None)
    assert run(["extend", "demo", "--to", "2k", "--out", str(tmp_path / "long")]) == 0
    assert run(["serve", str(tmp_path / "long"), "--port", "0", "--name", "long"]) == 0
    assert "long (none), 2,048 tokens, at http://127.0.0.1:" in capsys.readouterr().out


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_open_server_without_a_key_is_warned_about(capsys, monkeypatch, host):
    monkeypatch.setattr("ropewalk.serving.server._listen", lambda *_: None)
    assert run(["serve", "demo", "--port", "0", "--host", host]) == 0
    assert ("ROPEWALK_API_KEY" in capsys.readouterr().out) == (host == "0.0.0.0")


def test_a_missing_extra_is_said(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ropewalk.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(["serve", "demo"]) == 2
    shown = capsys.readouterr().err
    assert "serve needs uvicorn" in shown and install("serve") in shown


def test_a_dynamic_checkpoint_is_served_by_the_method_that_forgets_earlier_requests(capsys, tmp_path, never_listens):
    checkpoint = Checkpoint.open("demo")
    model, tokenizer = checkpoint.load(), checkpoint.tokenizer()
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert run(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "--method dynamic-ntk" in capsys.readouterr().err
