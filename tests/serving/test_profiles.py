"""A request is read with the rotation of the least target that holds it, and with that alone."""

from __future__ import annotations

import random

import pytest
import torch

from ropewalk import UserError, method
from ropewalk.rope import live
from ropewalk.serving.profiles import chosen, lengths, profiles
from tests.models import tiny, tokens
from tests.serving.test_scheduler import Client, alone, scheduler

WINDOW, LIMIT = 64, 256
DOCUMENT = tokens(1, 200, seed=7)[0].tolist()


@pytest.mark.parametrize(("needed", "length"), [(1000, 1), (32768, 1), (32769, 2), (65536, 2), (65537, 4), (131072, 4)])
def test_the_least_profile_is_chosen(needed, length):
    class One:
        def __init__(self, length):
            self.length = length

    assert chosen([One(one) for one in lengths(32768, 131072)], needed).length == 32768 * length
    assert chosen([], needed) is None


def test_lengths_double_up_to_the_limit():
    assert lengths(64, 256) == [64, 128, 256]
    assert lengths(64, 200) == [64, 128, 200]
    assert lengths(64, 64) == [64]


@pytest.mark.parametrize(("spelling", "family"), [("yarn", "llama"), ("ntk-aware", "llama"), ("pi", "gemma3")])
def test_mixed_requests_get_what_each_target_gives_alone(spelling, family):
    model = tiny(family, max_position_embeddings=WINDOW)
    sizes = [(10, 8), (56, 8), (57, 8), (100, 20), (120, 9), (190, 30), (40, 6), (70, 50)]
    prompts = [tokens(1, n, seed=n)[0].tolist() for n, _ in sizes]
    expected, made = [], method(spelling)
    for prompt, (n, more) in zip(prompts, sizes, strict=True):
        target = next(one for one in (64, 128, 256) if n + more <= one)
        if target == WINDOW:  # the plain model, without a method
            expected.append(alone(model, prompt, more))
        else:
            with made.on(model, to=target):
                expected.append(alone(model, prompt, more))
    clients = [Client(prompt, more, temperature=0) for prompt, (_, more) in zip(prompts, sizes, strict=True)]
    choice = profiles(model, made, LIMIT)
    with made.on(model, LIMIT), scheduler(model, clients, spelling=spelling, profiles=choice):
        assert [client.result() for client in clients] == expected
    assert max(rows for rows, _ in model.widths) > 1  # some were answered together


def test_a_short_request_has_the_bits_of_the_plain_model_and_a_long_one_those_of_its_factor():
    model = tiny("llama", max_position_embeddings=WINDOW)
    ids, made = tokens(1, 60), method("yarn")
    with torch.no_grad():
        plain = model(ids).logits
        with made.on(model, 128):
            twice = model(ids).logits
        choice = profiles(model, made, LIMIT)
        with made.on(model, LIMIT):
            for profile, wanted in zip(choice, (plain, twice), strict=False):
                live.put(profile.state)
                assert torch.equal(model(ids).logits, wanted)
        assert torch.equal(model(ids).logits, plain)


def test_beginnings_are_not_shared_across_targets():
    model = tiny("llama", max_position_embeddings=WINDOW)
    made = method("yarn")
    asked = [(DOCUMENT[:50], 4), (DOCUMENT[:50], 70), (DOCUMENT[:50], 4), (DOCUMENT[:50], 71), (DOCUMENT[:50], 150)]
    random.Random(0).shuffle(asked)
    seen, cached = set(), []
    choice = profiles(model, made, LIMIT)
    with made.on(model, LIMIT), scheduler(model, spelling="yarn", profiles=choice) as running:
        for prompt, more in asked:
            client = Client(prompt, more, temperature=0)
            running.submit(client.job)
            client.result()
            cached.append(client.cached > 0)
            length = chosen(choice, len(prompt) + more).length
            assert cached[-1] == (length in seen)
            seen.add(length)
    assert sum(cached) == 2


@pytest.mark.parametrize("spelling", ["none", "dynamic-ntk", "self-extend", "yarn+dca", "log-n"])
def test_methods_without_a_factor_are_refused(spelling):
    with pytest.raises(UserError, match=r"no factor that could be chosen per request|none is named"):
        profiles(tiny("llama", max_position_embeddings=WINDOW), method(spelling), LIMIT)
