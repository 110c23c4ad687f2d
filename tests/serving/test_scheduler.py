"""Many requests on one model: each gets the tokens that it would get alone, in turn, whatever happens to the others."""

from __future__ import annotations

import queue
import threading
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
        self.events, self.cached, self.told = queue.Queue(), 0, ()
        self.job = Job(Request(tuple(prompt), max_tokens, **more), self.events.put)

    def result(self):
        """Token ids (or the error) and the reason of the end."""
        text = ""
        while True:
            piece = self.events.get(timeout=60)
            if isinstance(piece, Exception):
                return piece, None
            text += piece.text
            self.cached, self.told = piece.cached, self.told + piece.told
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


def test_one_of_the_top_k_is_drawn():
    model = tiny("llama")
    logits = model(input_ids=torch.tensor([PROMPTS[1]])).logits[0, -1].detach()
    clients = [Client(PROMPTS[1], 1, seed=i, temperature=2.0, top_k=3) for i in range(60)]
    with scheduler(model, clients):
        drawn = {client.result()[0][0] for client in clients}
    assert drawn == set(logits.topk(3).indices.tolist())


def test_penalties_are_taken_off_the_logits_of_what_was_generated():
    model = tiny("llama", eos_token_id=None)
    presence, frequency, prompt = 0.3, 0.2, PROMPTS[1]
    made = []
    for _ in range(30):
        logits = model(input_ids=torch.tensor([[*prompt, *made]])).logits[0, -1].detach()
        for token in set(made):
            logits[token] -= presence + frequency * made.count(token)
        made.append(int(logits.argmax()))
    client = Client(prompt, 30, temperature=0, presence_penalty=presence, frequency_penalty=frequency)
    plain = Client(prompt, 30, temperature=0)
    with scheduler(model, [client, plain]):
        assert client.result()[0] == made
        assert plain.result()[0] != made


def test_logprobs_are_those_of_the_model_whatever_changes_the_choice():
    model = tiny("llama", eos_token_id=None)
    client = Client(PROMPTS[1], 5, seed=1, temperature=1.7, top_k=9, presence_penalty=1.0, logprobs=2)
    with scheduler(model, [client, Client(PROMPTS[2], 9)]):
        made, _ = client.result()
    logits = model(input_ids=torch.tensor([PROMPTS[1] + made])).logits[0, -6:-1].detach().log_softmax(-1)
    assert [ids_of(token.text)[0] for token in client.told] == made
    assert [token.logprob for token in client.told] == pytest.approx(logits[range(5), made].tolist(), abs=1e-4)
    best = logits.topk(2)
    assert [[ids_of(one.text)[0] for one in token.likely] for token in client.told] == best.indices.tolist()
    assert [one.logprob for one in client.told[0].likely] == pytest.approx(best.values[0].tolist(), abs=1e-4)


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


POISON, POISONED_IF = 96, 9  # a token that no prompt has otherwise; those with so many of them have no logits


def test_60_answers_beside_failing_cancelled_and_over_long_ones_are_those_alone(monkeypatch):
    model = tiny("llama", eos_token_id=None, max_position_embeddings=4096)
    plain = [[t % 90 for t in tokens(1, 3 + 7 * i % 120, seed=i)[0].tolist()] for i in range(60)]
    forward = model.forward

    def poisoned(**given):
        bad = given["input_ids"] == POISON
        if bool(((bad.sum(-1) > 0) & (bad.sum(-1) < POISONED_IF)).any()):
            raise RuntimeError("a text that cannot be read")
        out = forward(**given)
        out.logits[..., POISON] = -100.0  # nobody else generates it
        out.logits[bad.sum(-1) >= POISONED_IF] = float("nan")
        return out

    monkeypatch.setattr(model, "forward", poisoned)
    expected = [alone(model, prompt, 3 + i % 9) for i, prompt in enumerate(plain)]
    good = [Client(prompt, 3 + i % 9, temperature=0) for i, prompt in enumerate(plain)]
    failing = [Client([*plain[i], POISON], 20) for i in range(8)]
    failing += [Client([POISON] * POISONED_IF, 20, temperature=i % 2) for i in range(8)]
    long = [Client(plain[i] * 40, 3000 - 40 * len(plain[i]), seed=i) for i in (9, 10)]
    gone = [Client(plain[i], 500, seed=i) for i in range(8)]
    clients = [one for four in zip(good[::8], failing[::2], gone, failing[1::2], strict=True) for one in four]
    clients = [*long, *clients, *(one for one in good if one not in clients)]
    with scheduler(model, clients, capacity=20_000, way=EVERYTHING) as running:
        for client in gone:
            client.job.cancelled.set()
        assert [client.result() for client in good] == expected
        assert all(isinstance(client.result()[0], (RuntimeError, ArithmeticError)) for client in failing)
        assert running.alive
        for client in long:
            client.job.cancelled.set()
    assert max(rows for rows, _ in model.widths) > 20


def test_a_short_prompt_overtakes_a_long_one_and_does_not_hold_it_up_for_ever(monkeypatch):
    monkeypatch.setattr(scheduling, "PIECE", 32)
    model = tiny("llama", eos_token_id=None)
    started, go_on = threading.Event(), threading.Event()
    model.register_forward_pre_hook(lambda *_: (started.set(), go_on.wait(60))[0])
    long, short = Client([5] * 3200, 1, temperature=0), Client(PROMPTS[1], 1, temperature=0)
    with scheduler(model, [long], capacity=10_000, way=EVERYTHING) as running:
        assert started.wait(60)
        running.submit(short.job)  # while the first piece of the long one is read
        others = [Client([6 + i] * 320, 1, seed=i) for i in range(40)]
        go_on.set()
        short.result()
        assert [width for _, width in model.widths][:3] == [32, 32, 8] and not long.events.queue
        overtaking = 0
        while long.events.empty():  # each comes when the one before it has ended
            running.submit(others[overtaking].job)
            others[overtaking].result()
            overtaking += 1
        assert 5 < overtaking < 12  # as many as have 3,200 tokens together


def test_the_memory_of_a_method_goes_with_its_text():
    """Two texts in turns on InfLLM, which remembers the representatives of each."""
    model, chosen = (
        tiny("llama", eos_token_id=None),
        method("infllm(window=32, sinks=4, block_size=8, topk=2, execution_block=1)"),
    )
    with chosen.on(model, 256):
        expected = [alone(model, prompt, 16) for prompt in (PROMPTS[1], PROMPTS[2])]
        clients = [Client(prompt, 16, temperature=0) for prompt in (PROMPTS[1], PROMPTS[2])]
        with scheduler(model, clients, spelling=chosen.id):
            assert [client.result() for client in clients] == expected


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
