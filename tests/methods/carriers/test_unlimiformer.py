"""Unlimiformer: chunks cover a text; exact where all states are looked up, plain within the window; and refusals."""

from __future__ import annotations

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.methods.carriers.unlimiformer import Unlimiformer, looked_up, segments
from tests.carriers.ropeless import T5, WINDOW, ids, model

KINDS = (*T5, "bart")
TARGET = 8 * WINDOW
ANSWER = ids(9, 2)


@pytest.mark.parametrize("overlap", [0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("tokens", [1, 8, 9, 15, 16, 17, 100])
def test_chunks_keep_every_token_once_and_away_from_their_edges(tokens, overlap):
    cut, margin = segments(tokens, 8, overlap), min(int(8 * overlap / 2), 3)
    assert [n for _, _, first, last in cut for n in range(first, last)] == list(range(tokens))
    for start, end, first, last in cut:
        assert start <= first < last <= end <= tokens and end - start == min(8, tokens)
        assert (first == 0 or first - start >= margin) and (last == tokens or end - last >= margin)


def test_the_halves_of_the_paper():
    assert segments(24, 8, 0.5) == [
        (0, 8, 0, 6), (4, 12, 6, 10), (8, 16, 10, 14), (12, 20, 14, 18), (16, 24, 18, 24)]  # fmt: skip


def test_of_the_best_states_the_mean_by_loops():
    rng = torch.Generator().manual_seed(0)
    queries, states = (torch.randn(*shape, generator=rng).double() for shape in ((2, 3, 4, 5), (2, 11, 5)))
    hidden = torch.zeros(2, 11, dtype=torch.bool)
    hidden[1, 7:] = True
    found = looked_up(queries, states, [3] * len(states), hidden)
    for b in range(2):
        for h in range(3):
            for q in range(4):
                logits = [(float(queries[b, h, q] @ states[b, n]), n) for n in range(11) if not hidden[b, n]]
                best = sorted(logits, reverse=True)[:3]
                weights = torch.tensor([one for one, _ in best]).double().exp()
                mean = sum(w * states[b, n] for w, (_, n) in zip(weights, best, strict=True)) / weights.sum()
                assert torch.allclose(found[b, h, q], mean)


@torch.no_grad()
def outputs(live, tokens, **more):
    return live(input_ids=tokens, decoder_input_ids=ANSWER[: len(tokens)], **more).logits


@pytest.mark.parametrize("kind", KINDS)
def test_within_the_window_it_is_the_plain_model_bit_for_bit(kind):
    live, tokens = model(kind), ids(WINDOW, 2)
    expected = outputs(live, tokens)
    with Unlimiformer(topk=3).on(live, TARGET):
        assert torch.equal(outputs(live, tokens), expected)
    assert not any("forward" in vars(module) for module in live.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_all_states_are_exact_cross_attention_and_few_are_not(kind):
    """Against the model's own decoder, given the states that chunks gave."""
    live, tokens = model(kind), ids(5 * WINDOW, 2)
    with Unlimiformer(topk=5 * WINDOW).on(live, TARGET):
        found = outputs(live, tokens)
        encoded = live.get_encoder()(input_ids=tokens)
    expected = outputs(live, tokens, encoder_outputs=encoded)
    assert torch.allclose(found, expected, atol=2e-5 * float(expected.abs().max()))
    with Unlimiformer(topk=WINDOW // 2).on(live, TARGET):
        assert not torch.allclose(outputs(live, tokens), expected, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_the_chunks_middles(kind):
    live, tokens = model(kind), ids(2 * WINDOW)
    with Unlimiformer().on(live, TARGET):
        found = live.get_encoder()(input_ids=tokens).last_hidden_state[0]
    middle = live.get_encoder()(input_ids=tokens[:, 16:48]).last_hidden_state[0, 8:24]
    assert torch.allclose(found[24:40], middle, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("short", [70, 28], ids=["long", "within the window"])
def test_padding_is_read_and_looked_up_nowhere(kind, short):
    live, tokens = model(kind), ids(3 * WINDOW, 2)
    mask = torch.ones_like(tokens)
    mask[0, short:] = 0
    with Unlimiformer(topk=20).on(live, TARGET):
        both = outputs(live, tokens, attention_mask=mask)
        alone = [outputs(live, tokens[:1, :short]), live(input_ids=tokens[1:], decoder_input_ids=ANSWER[1:]).logits]
    for row in (0, 1):
        assert torch.allclose(both[row], alone[row][0], atol=2e-5 * float(alone[row].abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_generate_goes_on_and_caches_no_keys_of_the_text(kind):
    live, tokens = model(kind), ids(6 * WINDOW)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0,
               "decoder_start_token_id": 0, "forced_bos_token_id": None}  # fmt: skip
    plain = [live.generate(tokens[:, :WINDOW], use_cache=one, **options) for one in (True, False)]
    with Unlimiformer(topk=20).on(live, TARGET):
        made = live.generate(tokens, return_dict_in_generate=True, **options)
        cache = getattr(made, "cache", None) or made.past_key_values
        again = live.generate(tokens, use_cache=False, **options)
        assert torch.equal(made.sequences, again) or not torch.equal(*plain)  # UMT5 of transformers 5.16
        assert live.generate(tokens, num_beams=3, **options).shape[1] <= 7
    held = sum(getattr(layer, "keys", None) is not None and layer.keys.numel() for layer in
               cache.cross_attention_cache.layers)  # fmt: skip
    assert held == 0 and cache.self_attention_cache.get_seq_length() == 6


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="overlap is 1"):
        Unlimiformer(overlap=1)
    with pytest.raises(UserError, match="topk is 0"):
        Unlimiformer(topk=0)
    live = model("gpt2")
    with pytest.raises(UserError, match="unlimiformer is for models"), Unlimiformer().on(live, TARGET):
        pass
    live = model("t5")
    with Unlimiformer().on(live, TARGET):
        with pytest.raises(UserError, match="output_attentions was asked for"):
            outputs(live, ids(2 * WINDOW), output_attentions=True)
        with pytest.raises(UserError, match="expected input_ids"):
            live(inputs_embeds=torch.zeros(1, 2 * WINDOW, 32), decoder_input_ids=ANSWER[:1])
