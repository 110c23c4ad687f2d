"""Many requests on one model: each gets the tokens that it would get alone, in turn, whatever happens to the others."""

from __future__ import annotations

import queue
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from ropewalk import method
from ropewalk.serving import scheduler as scheduling
from ropewalk.serving.batch import Way, way_of
from ropewalk.serving.job import Job, Request, Unavailable
from ropewalk.serving.scheduler import Scheduler, room
from tests.models import THETA, tiny, tokens


class Letters:
    """A tokenizer whose tokens are characters."""

    eos_token_id = None

    def decode(self, ids, **_):
        return "".join(chr(0x4E00 + token) for token in ids)


def ids_of(text):
    return [ord(character) - 0x4E00 for character in text]


class Client:
    """Submits one request and collects what comes back."""

    def __init__(self, prompt, max_tokens=8, **more):
        self.events = queue.Queue()
        self.job = Job(Request(tuple(prompt), max_tokens, **more), self.events.put)

    def result(self):
        """Token ids (or the error) and the reason of the end."""
        text = ""
        while True:
            piece = self.events.get(timeout=60)
            if isinstance(piece, Exception):
                return piece, None
            text += piece.text
            if piece.finish:
                return ids_of(text), piece.finish


EVERYTHING = Way(pieces=True, joined=True, shared=True)
PROBE = tokens(1, 48, seed=48)[0].tolist()


@contextmanager
def scheduler(model, clients=(), capacity=4096, spelling="none", way=None, **more):
    """Runs the clients' jobs, all of which are waiting when it begins; the method of that spelling is on."""
    way = way or way_of(model, method(spelling), bool(more.get("switches")), PROBE)
    model.widths = []
    hook = model.register_forward_pre_hook(
        lambda _, __, keywords: model.widths.append(tuple(keywords["input_ids"].shape)), with_kwargs=True
    )
    running = Scheduler(model, Letters(), capacity, way, **more)
    for client in clients:
        running.submit(client.job)
    running.start()
    try:
        yield running
    finally:
        running.close()
        hook.remove()


def alone(model, prompt, max_tokens=8):
    """Greedy, without a cache: every token from a forward over all before it."""
    made, end = [], model.generation_config.eos_token_id
    with torch.no_grad():
        while len(made) < max_tokens:
            ids = torch.tensor([[*prompt, *made]])
            made.append(int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
            if made[-1] == end:
                return made[:-1], "stop"
    return made, "length"


PROMPTS = [tokens(1, n, seed=n)[0].tolist() for n in (3, 40, 90, 41, 17)]


@pytest.mark.parametrize(
    "spelling", ["none", "yarn", "self-extend(window=16, group=8)", "dca(chunk_size=48, local_size=16)", "lm-infinite"]
)
def test_requests_in_one_batch_get_the_tokens_that_they_get_alone(spelling):
    model = tiny("llama")
    clients = [Client(prompt, max_tokens=4 + i, temperature=0) for i, prompt in enumerate(PROMPTS)]
    with method(spelling).on(model, None if spelling == "none" else 256):
        expected = [alone(model, prompt, 4 + i) for i, prompt in enumerate(PROMPTS)]
        with scheduler(model, clients, spelling=spelling):
            assert [client.result() for client in clients] == expected
    assert model.widths[0] == (5, 90)


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt_neox"])
def test_families_with_sliding_windows_and_partial_rotation_can_be_batched(family):
    model = tiny(family)
    clients = [Client(prompt, temperature=0) for prompt in PROMPTS]
    expected = [alone(model, prompt) for prompt in PROMPTS]
    with scheduler(model, clients):
        assert [client.result() for client in clients] == expected


def test_rows_that_ended_are_computed_no_more():
    model = tiny("llama")
    clients = [Client(PROMPTS[0], max_tokens=n, temperature=0) for n in (2, 6)]
    with scheduler(model, clients):
        assert [len(client.result()[0]) for client in clients] == [2, 6]
    assert model.widths == [(2, 3), (2, 1), *[(1, 1)] * 4]


def test_no_more_is_run_than_the_capacity_holds_but_always_something():
    model = tiny("llama")
    clients = [Client(PROMPTS[0], max_tokens=5, temperature=0) for _ in range(5)] + [Client(PROMPTS[2], temperature=0)]
    with scheduler(model, clients, capacity=2 * room(8)):
        assert len({tuple(client.result()[0]) for client in clients[:5]}) == 1
        assert len(clients[5].result()[0]) == 8
    assert max(rows for rows, _ in model.widths) == 2
    with scheduler(model, clients := [Client(PROMPTS[2], temperature=0) for _ in range(2)], capacity=1):
        assert clients[0].result() == clients[1].result()
    assert {rows for rows, _ in model.widths} == {1}


def test_rooms_waste_no_more_than_a_fifth_of_what_is_long():
    assert [room(n) for n in (1, 256, 257, 2048, 2049, 4097)] == [256, 256, 512, 2048, 2560, 5120]
    assert all(n <= room(n) <= max(256, n + 255, 1.25 * n) for n in range(1, 20_000, 7))


def test_rows_that_depend_on_each_other_are_batches_of_their_own():
    model = tiny("llama")
    clients = [Client(prompt, max_tokens=1, temperature=0) for prompt in PROMPTS]
    with method("dynamic-ntk").on(model, 256):
        expected = [alone(model, prompt, 1) for prompt in PROMPTS]
        with scheduler(model, clients, spelling="dynamic-ntk"):
            assert [client.result() for client in clients] == expected
    assert sorted(model.widths) == sorted((1, len(prompt)) for prompt in PROMPTS)


def test_a_short_request_does_not_wait_for_the_end_of_a_long_one():
    model = tiny("llama", eos_token_id=None)
    long, short = Client(PROMPTS[0], 400, seed=0), Client(PROMPTS[1], 3, seed=0)
    with scheduler(model, [long]) as running:
        long.events.get(timeout=60)
        running.submit(short.job)
        assert len(short.result()[0]) == 3
        assert not any(piece.finish for piece in list(long.events.queue))
        long.job.cancelled.set()


def test_batches_that_take_turns_do_not_change_each_other():
    model = tiny("llama", eos_token_id=None)
    with method("self-extend(window=16, group=8)").on(model, 256):
        expected = alone(model, PROMPTS[0], 60), alone(model, PROMPTS[2], 60)
        first, second = (Client(prompt, 60, temperature=0) for prompt in (PROMPTS[0], PROMPTS[2]))
        with scheduler(model, [first]) as running:
            started = ids_of(first.events.get(timeout=60).text)
            running.submit(second.job)
            rest, finish = first.result()
            assert (started + rest, finish) == expected[0]
            assert second.result() == expected[1]
    assert 1 < model.widths.index((1, 90)) < 60


def test_a_seed_gives_the_same_text_in_any_company():
    model = tiny("llama")
    first, other = Client(PROMPTS[0], 12, seed=5), Client(PROMPTS[0], 12, seed=6)
    with scheduler(model, [first]):
        expected = first.result()
    again = Client(PROMPTS[0], 12, seed=5)
    with scheduler(model, [other, Client(PROMPTS[3], 12), again]):
        assert again.result() == expected
        assert other.result() != expected


def test_top_p_near_zero_is_greedy():
    model = tiny("llama")
    clients = [Client(PROMPTS[1], top_p=1e-6), Client(PROMPTS[1], temperature=0)]
    with scheduler(model, clients):
        assert clients[0].result() == clients[1].result()


def test_sampling_follows_the_distribution():
    model = tiny("llama")
    logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].detach()
    expected = (logits / 0.5).softmax(-1).max()
    clients = [Client(PROMPTS[0], 1, seed=i, temperature=0.5) for i in range(600)]
    best = int(logits.argmax())
    with scheduler(model, clients):
        share = sum(client.result()[0] == [best] for client in clients) / 600
    assert share == pytest.approx(float(expected), abs=4 * (float(expected) * (1 - float(expected)) / 600) ** 0.5)


def test_a_cancelled_job_is_dropped_and_the_others_go_on():
    model = tiny("llama", eos_token_id=None)
    left, stays = Client(PROMPTS[0], 3000, seed=1), Client(PROMPTS[1], 40, seed=2)
    never = Client(PROMPTS[2], 5)
    never.job.cancelled.set()
    with scheduler(model, [left, stays, never], capacity=100_000):
        left.events.get(timeout=60)
        left.job.cancelled.set()
        assert len(stays.result()[0]) == 40
    assert never.events.empty()
    assert (1, 1) in model.widths and len(model.widths) < 200


def test_a_batch_that_fails_ends_its_own_jobs_only(monkeypatch):
    model = tiny("llama")
    forward, calls = model.forward, []

    def broken(**keywords):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no luck")
        return forward(**keywords)

    monkeypatch.setattr(model, "forward", broken)
    unlucky, lucky = Client(PROMPTS[0], temperature=0), Client(PROMPTS[0], temperature=0)
    with scheduler(model, [unlucky], way=EVERYTHING) as running:
        error, _ = unlucky.result()
        assert str(error) == "no luck"
        running.submit(lucky.job)
        assert lucky.result()[1]


def test_running_out_of_memory_is_said_in_tokens(monkeypatch):
    model = tiny("llama")

    def full(**_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", full)
    client = Client(PROMPTS[2])
    with scheduler(model, [client], way=EVERYTHING):
        error, _ = client.result()
    assert isinstance(error, Unavailable) and "90 tokens" in str(error)


def test_closing_tells_whoever_waits():
    model = tiny("llama", eos_token_id=None)
    runs, waits = Client(PROMPTS[0], 100_000), Client(PROMPTS[1])
    with scheduler(model, [runs, waits], capacity=1) as running:
        runs.events.get(timeout=60)
    assert isinstance(runs.result()[0], Unavailable) and isinstance(waits.result()[0], Unavailable)
    with pytest.raises(Unavailable, match="shutting down"):
        running.submit(waits.job)


def test_a_full_queue_is_refused(monkeypatch):
    monkeypatch.setattr(scheduling, "WAITING", 0)
    with scheduler(tiny("llama")) as running, pytest.raises(Unavailable, match="waiting"):
        running.submit(Client(PROMPTS[0]).job)


def test_a_text_that_crosses_the_switch_of_a_longrope_model_is_read_again():
    ropes = {**THETA, "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
             "original_max_position_embeddings": 64}  # fmt: skip
    model = tiny("llama", rope_parameters=ropes, max_position_embeddings=256)
    prompt = tokens(1, 60, seed=9)[0].tolist()
    expected = alone(model, prompt, 20)
    client, stale = Client(prompt, 20, temperature=0), Client(prompt, 20, temperature=0)
    with scheduler(model, [client], switches=[64]):
        assert client.result() == expected
    with scheduler(model, [stale], way=Way()):
        assert stale.result() != expected


def test_streaming_llm_runs_in_its_own_cache():
    model = tiny("llama")
    chosen = method("streaming-llm(recent=20)")
    with chosen.on(model, 256):
        clients = [Client(prompt, 20, temperature=0) for prompt in PROMPTS[:3]]
        expected = [alone(model, prompt, 20) for prompt in PROMPTS[:3]]
        caches = []

        def new_cache():
            caches.append(chosen.cache(model))
            return caches[-1]

        way = replace(way_of(model, chosen, False, PROBE), new_cache=new_cache)
        assert way.pieces and not way.joined and not way.shared
        with scheduler(model, clients, way=way):
            assert [client.result() for client in clients] == expected
    assert len(caches) == 3 and max(cache.layers[0].keys.shape[-2] for cache in caches) <= 24
