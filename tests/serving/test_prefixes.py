"""Beginnings that were read are not read again, and take no more memory than they may."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.serving import prefixes as prefixing
from ropewalk.serving.prefixes import Prefixes
from tests.models import tiny, tokens
from tests.serving.test_scheduler import Client, alone, scheduler

DOCUMENT = tokens(1, 200, seed=200)[0].tolist()


class Read:
    """A batch whose key of a token is the token and its place."""

    profile = None

    def __init__(self, ids):
        place = torch.arange(len(ids)).float()
        self.keys = torch.stack([torch.tensor(ids).float(), place], -1)[None, None]

    def states(self, row, start, end):
        part = self.keys[:, :, start:end].clone()
        return [(part, -part)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 30)), max_size=12))
def test_what_is_found_is_what_was_read_and_no_more_is_held_than_allowed(texts):
    held, longest = Prefixes(), prefixing.SHORTEST
    prefixing.SHORTEST = 1
    try:
        for ids, most in texts:
            found = held.longest(ids)
            if found:
                (keys, values), n = found[0], found[0][0].shape[-2]
                assert torch.equal(keys, Read(ids).keys[:, :, :n]) and torch.equal(values, -keys)
            held.keep(ids, Read(ids), 0, most)
            assert held.size <= most
            assert held.size == _counted(held._roots[None])
            if most >= len(ids):
                assert held.longest(ids)[0][0].shape[-2] == len(ids)
    finally:
        prefixing.SHORTEST = longest


def _counted(node):
    assert all(keys.shape[-2] == len(node.tokens) for keys, _ in node.states)
    return len(node.tokens) + sum(map(_counted, node.children.values()))


def test_a_text_of_a_thousand_turns_is_held():
    held, ids = Prefixes(), []
    for turn in range(1100):
        ids += [turn % 7] * (40 if not turn else 1)
        held.keep(ids, Read(ids), 0, 10_000)
    assert held.size == len(ids)
    held.shrink(10)
    assert held.size == 10


def test_ten_questions_on_one_document_read_it_once():
    model = tiny("llama", max_position_embeddings=512)
    questions = [tokens(1, 5, seed=i)[0].tolist() for i in range(10)]
    expected = [alone(model, DOCUMENT + question, 4) for question in questions]
    with scheduler(model, capacity=4096) as running:
        answers, cached = [], []
        for question in questions:
            client = Client(DOCUMENT + question, 4, temperature=0)
            running.submit(client.job)
            first = client.events.queue[0] if client.events.queue else None
            answers.append(client.result())
            cached.append(client.cached)
            assert first is None or first.tokens
    assert answers == expected
    assert cached[0] == 0 and all(200 <= n <= 204 for n in cached[1:])
    assert sum(rows * width for rows, width in model.widths) < 205 + 9 * 5 + 40 + 10


@pytest.mark.parametrize("capacity", [1, 512, 1024])
def test_texts_and_beginnings_together_stay_within_the_capacity(capacity, monkeypatch):
    held = []
    model = tiny("llama", max_position_embeddings=512)
    with scheduler(model, capacity=capacity) as running:
        admit = running._admit

        def watched():
            going = admit()
            held.append((running._prefixes.size, running._capacity - running._free, len(running._reading)))
            return going

        monkeypatch.setattr(running, "_admit", watched)
        for i in range(12):
            client = Client(tokens(1, 150, seed=i)[0].tolist(), 4, temperature=0)
            running.submit(client.job)
            client.result()
    assert held and all(kept + taken <= max(capacity, 256) for kept, taken, _ in held)
