"""LongGen's layers, and the cache of which the sparse ones hold a bounded part."""

from __future__ import annotations

import pytest
import torch

from ropewalk import LongGen, UserError
from ropewalk.attention.cache_argument import as_argument
from tests.matrix import TWICE, logits, near, subject, text
from tests.models import in_pieces, tiny

FOUR = {"num_hidden_layers": 4}
PATTERNS = pytest.mark.parametrize(
    "chosen",
    [
        LongGen(full=0.25, sinks=2, window=16),
        LongGen(full=0.25, sinks=2, window=8, pattern="blocks", block=4, stride=4),
    ],
    ids=["window", "blocks"],
)


@pytest.mark.parametrize(
    ("full", "layers", "which"),
    [
        (1 / 3, 6, [2, 3]),
        (1 / 3, 32, list(range(10, 21))),
        (0.0, 6, []),
        (0.5, 5, [1, 2]),
        (1 / 3, 80, list(range(26, 53))),
    ],
)
def test_the_full_layers_are_those_in_the_middle(full, layers, which):
    assert [i for i in range(layers) if LongGen(full=full).is_full(i, layers)] == which


@torch.no_grad()
@PATTERNS
@pytest.mark.parametrize("sizes", [[70, 1, 1, 26], [1] * 24, [190, 1, 30]], ids=["chunks", "tokens", "long"])
def test_its_cache_gives_the_same_and_sparse_layers_hold_what_they_see(chosen, sizes):
    model, ids = tiny("llama", vocab_size=300, **FOUR), text(2, sum(sizes))
    with chosen.begun().on(model, 2 * TWICE):
        cache = chosen.cache(model)
        assert near(in_pieces(model, ids, *sizes, cache=cache), logits(model, ids))
    held = [layer.keys.shape[2] for layer in cache.layers]
    blocks = sum(sizes) // 16 * 4 if chosen.pattern == "blocks" else 0  # the windows' own among them
    assert held[1] == sum(sizes) and len({held[i] for i in (0, 2, 3)}) == 1
    assert held[0] <= 2 + chosen.window + blocks and held[0] < sum(sizes)


def test_memory_of_a_sparse_layer_is_flat_and_generation_goes_on_from_it():
    model, chosen, counts = subject(), LongGen(full=0.0, sinks=2, window=16), []
    for n in (40, 80):
        ids = text(1, n)
        with chosen.begun().on(model, TWICE):
            cache = chosen.cache(model)
            options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1}
            mask = torch.ones_like(ids)
            found = model.generate(ids, attention_mask=mask, **options, **as_argument(model, cache))
            assert torch.equal(found, model.generate(ids, attention_mask=mask, use_cache=False, **options))
        counts.append(sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers))
    assert counts[0] == counts[1]


def test_layers_that_none_is_sparse_of_and_windows_beyond_training_are_refused():
    with pytest.raises(UserError, match=r"0.9 of 2 layers, and leaves none to be sparse"):
        LongGen(full=0.9).begun().on(subject(), TWICE).__enter__()
    with pytest.raises(UserError, match=r"window is 65, expected at most the 64"):
        LongGen(window=65, full=0.5).begun().on(subject(), TWICE).__enter__()
    with pytest.raises(UserError, match=r"full is 1.0"):
        LongGen(full=1.0)
