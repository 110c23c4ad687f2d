"""The cache is followed under any name, or the forward is refused; it is never computed without."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from transformers import DynamicCache

from ropewalk import method
from ropewalk.attention import cache_argument
from ropewalk.common.errors import UserError
from tests.matrix import TARGET, logits
from tests.models import tiny, tokens

SPELLINGS = ["self-extend", "dca", "lm-infinite", "streaming-llm", "dynamic-ntk"]


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def names(model):
    """The forward's own name for a cache, and an older one where it still takes that."""
    own = next(iter(cache_argument.as_argument(model, DynamicCache())))
    return [own, *({"past_key_values"} - {own})]


def in_pieces(model, ids, name, **first):
    """Logits of a text read in two pieces on a cache that is passed as ``name``."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # an older name
        parts = [model(piece, use_cache=True, **{name: cache}).logits for piece in ids.split([90, 30], 1)]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_cache_is_followed_under_every_name(model, spelling):
    ids = tokens(1, 120)
    one = method(spelling)
    with one.on(model, to=TARGET):
        whole = logits(model, ids)
        for name in names(model):
            read = in_pieces(model, ids, name)
            if one.length_dependent:  # the first piece is read at its own length
                assert float((read[:, -1] - in_pieces(model, ids, names(model)[0])[:, -1]).abs().max()) == 0
            else:
                assert float((read - whole).abs().max()) < 1e-4


def test_a_forward_that_hides_its_cache_is_refused(model, monkeypatch):
    monkeypatch.setattr(cache_argument, "among", lambda given: None)
    with method("self-extend").on(model, to=TARGET), pytest.raises(UserError) as error:
        in_pieces(model, tokens(1, 120), names(model)[0])
    assert "layer 0 was given 120 keys, expected 30: 0 that the cache held and 30 new ones" in error.value.message


def test_what_is_no_cache_is_refused(model):
    with method("self-extend").on(model, to=TARGET), pytest.raises(UserError, match="expected one transformers"):
        model(tokens(1, 8), **{names(model)[0]: ((torch.zeros(1), torch.zeros(1)),)})


def test_two_caches_are_refused():
    with pytest.raises(UserError, match="2 caches, expected one"):
        cache_argument.among({"cache": DynamicCache(), "other": DynamicCache()})


def test_a_layer_that_attends_elsewhere_is_refused(model):
    with method("self-extend").on(model, to=TARGET):
        model.config._attn_implementation = "sdpa"
        with pytest.raises(UserError, match=r"layers \[0, 1.* did not attend through the function"):
            logits(model, tokens(1, 8))


def test_a_decoder_without_positions_is_refused(monkeypatch):
    model = tiny("llama")

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, **more):
        raise AssertionError("was run")

    monkeypatch.setattr(type(model.model), "forward", forward)
    monkeypatch.setattr("ropewalk.attention.engine.probe", lambda model: [])
    with pytest.raises(UserError, match="has no argument 'position_ids'"), method("rerope").on(model, to=TARGET):
        raise AssertionError("was put on")


def test_the_name_is_the_forwards_own(model):
    (name,) = cache_argument.as_argument(model, DynamicCache())
    assert name in inspect.signature(type(model).forward).parameters
    assert cache_argument.as_argument(model, None) == {}
    with pytest.raises(UserError, match="takes none of cache, past_key_values, cache_params"):
        cache_argument.as_argument(torch.nn.Linear(2, 2), DynamicCache())


def test_the_cache_that_comes_back_is_found(model):
    out = model(tokens(1, 8), use_cache=True)
    assert isinstance(cache_argument.of_output(out), DynamicCache)
    with pytest.raises(UserError, match="holds no cache"):
        cache_argument.of_output(object())
