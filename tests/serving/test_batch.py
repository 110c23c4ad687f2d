"""What texts may do together on a model, for every method: whatever it is, each gets what it gets alone."""

from __future__ import annotations

import pytest
import torch

from ropewalk.serving import scheduler as scheduling
from ropewalk.serving.batch import Batch, Way, joined, way_of
from tests.matrix import TWICE, every_case
from tests.models import FAMILIES, tiny, tokens
from tests.serving.test_scheduler import PROBE, Client, alone, scheduler

BEGINNING = tokens(1, 70, seed=70)[0].tolist()
TEXTS = [BEGINNING + tokens(1, n, seed=n)[0].tolist() for n in (2, 31)] + [tokens(1, 25, seed=25)[0].tolist()]


@every_case
def test_every_method_gives_each_text_what_it_gets_alone(case, monkeypatch):
    """Read in pieces of 16 tokens, with a beginning in common, in turns with others, one of which leaves early."""
    monkeypatch.setattr(scheduling, "PIECE", 16)
    monkeypatch.setattr(scheduling, "SLICE", 2)
    model = tiny("llama", max_position_embeddings=64, eos_token_id=None)
    clients = [Client(text, 3 + 2 * i, temperature=0) for i, text in enumerate([*TEXTS, TEXTS[0]])]
    with case.on(model, TWICE) as chosen, torch.no_grad():
        way = way_of(model, chosen, False, PROBE)
        if way.pieces:
            expected = [alone(model, text, 3 + 2 * i) for i, text in enumerate([*TEXTS, TEXTS[0]])]
        else:  # token by token after one forward over the prompt, as the method defines an answer
            expected = [_decoded(model, chosen, text, 3 + 2 * i) for i, text in enumerate([*TEXTS, TEXTS[0]])]
        with scheduler(model, clients, way=way):
            assert [client.result() for client in clients] == expected
    assert way.pieces == (chosen.cache_exact and chosen.causal and not chosen.length_dependent)
    assert max(width for _, width in model.widths) <= (16 if way.pieces else 101)


def _decoded(model, chosen, prompt, max_tokens):
    batch = Batch.of(model, way_of(model, chosen, False, PROBE), len(prompt) + max_tokens)
    made = [int(batch.read([prompt])[0, -1].argmax())]
    while len(made) < max_tokens:
        made.append(int(batch.read([made[-1:]])[0, -1].argmax()))
    return made, "length"


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_is_read_in_pieces_and_joined_as_far_as_its_cache_allows(family, monkeypatch):
    monkeypatch.setattr(scheduling, "PIECE", 16)
    model = tiny(family)
    clients = [Client(text, 6, temperature=0) for text in TEXTS]
    expected = [alone(model, text, 6) for text in TEXTS]
    with scheduler(model, clients):
        assert [client.result() for client in clients] == expected


def test_texts_that_are_joined_and_parted_keep_their_keys():
    model = tiny("gemma3")
    way = Way(pieces=True, joined=True)
    texts = [Batch.of(model, way, 120) for _ in range(3)]
    with torch.no_grad():
        for batch, text in zip(texts, TEXTS, strict=True):
            batch.read([text])
        expected = [batch.read([[7]])[0, -1] for batch in (texts[1], texts[2])]
        again = [Batch.of(model, way, 120) for _ in range(3)]
        for batch, text in zip(again, TEXTS, strict=True):
            batch.read([text])
        together = joined([(batch, 0) for batch in again], 120)
        assert together.lengths == [72, 101, 25]
        parted = joined([(together, 1), (together, 2)], 120)
        torch.testing.assert_close(parted.read([[7], [7]])[:, -1], torch.stack(expected), rtol=1e-4, atol=1e-4)
        short = joined([(parted, 1)], 120)
    assert short.lengths == [26] and short.cache.get_seq_length() == 26


def test_a_model_whose_cache_forgets_or_does_not_count_is_read_at_once(monkeypatch):
    model = tiny("llama")
    forward = model.forward

    def forgetful(**given):
        return forward(**{name: v for name, v in given.items() if name not in ("cache", "past_key_values")})

    monkeypatch.setattr(model, "forward", lambda **given: forgetful(**given))
    from ropewalk import method

    assert way_of(model, method("none"), False, PROBE) == Way()
