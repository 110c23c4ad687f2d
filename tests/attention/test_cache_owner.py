"""A cache is continued by the setting that filled it, or refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache, StaticCache

from ropewalk import method
from ropewalk.common.errors import UserError
from tests.matrix import TARGET, TWICE, left_padded, logits, near, text
from tests.models import step, tiny

IDS = text(2, 100)
SPELLINGS = ["yarn", "pi", "self-extend", "dca", "streaming-llm", "dynamic-ntk", "log-n", "yarn+self-extend"]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request):
    return tiny(request.param, vocab_size=300)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def static(model):
    return StaticCache(config=model.config, max_cache_len=130)


def refused(model, cache):
    with pytest.raises(UserError) as error:
        step(model, IDS[:, 60:], cache)
    return error.value.message


@pytest.mark.parametrize("new", [lambda model: None, lambda model: DynamicCache(), static])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_cache_does_not_cross_the_edge_of_a_method(model, spelling, new):
    one = method(spelling)
    _, plain = step(model, IDS[:, :60], new(model))
    with one.on(model, to=TARGET):
        assert "the cache holds 60 tokens that were read by the model without a method" in refused(model, plain)
        _, cache = step(model, IDS[:, :60], new(model))
    message = refused(model, cache)
    assert message.startswith(f"the cache holds 60 tokens that were read by {one.id} for {TARGET} tokens, and is cont")
    assert near(step(model, IDS[:, 60:], plain)[0], logits(model, IDS)[:, 60:])  # a refusal changes nothing


def test_nor_from_a_setting_to_another(model):
    with method("dca").on(model, to=TARGET):
        first, cache = step(model, IDS[:, :60])
    for other, to in (("self-extend", TARGET), ("dca", TWICE)):
        with method(other).on(model, to=to):
            assert f"is continued by {other} for {to} tokens" in refused(model, cache)
    with method("dca").on(model, to=TARGET):  # the same one, put on again, goes on
        whole = logits(model, IDS)
        assert near(torch.cat([first, step(model, IDS[:, 60:], cache)[0]], 1), whole)


COPIES = {
    "the cache itself": lambda cache: cache,
    "a deep copy": copy.deepcopy,
    "a pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
}


@pytest.mark.parametrize("new", [lambda model: DynamicCache(), static], ids=["dynamic", "static"])
@pytest.mark.parametrize("copied", COPIES)
def test_what_is_done_to_a_cache_leaves_its_owner(new, copied):
    model = tiny("llama", vocab_size=300)
    with method("self-extend").on(model, to=TARGET):
        _, cache = step(model, IDS[:, :70], new(model))
        cache = COPIES[copied](cache)
        if not all(hasattr(layer, "crop") for layer in cache.layers):
            pytest.skip("this transformers cuts no such cache")
        cache.crop(-10)
        cache.reorder_cache(torch.tensor([1, 0]))
        if isinstance(cache, DynamicCache):
            cache.batch_select_indices(torch.tensor([1, 0]))
            cache.batch_select_indices(torch.tensor([1, 0]))
        kept = copy.deepcopy(cache)
        expected = logits(model, torch.cat([IDS[[1, 0], :60], IDS[:, 60:]], 1))[:, 60:]
        assert near(step(model, IDS[:, 60:], cache)[0], expected)
    refused(model, kept)


@pytest.mark.parametrize("new", [lambda model: DynamicCache(config=model.config), static], ids=["dynamic", "static"])
def test_an_emptied_cache_is_free(model, new):
    plain = logits(model, IDS)
    with method("self-extend").on(model, to=TARGET):
        whole = logits(model, IDS)
        _, cache = step(model, IDS[:, :60], new(model))
    kinds = [type(layer) for layer in new(model).layers]
    assert [type(layer) for layer in cache.layers] != kinds
    cache.reset()
    if any(int(layer.get_seq_length()) for layer in cache.layers):
        pytest.skip("this transformers fills it with zeros")
    assert near(step(model, IDS, cache)[0], plain)
    assert [type(layer) for layer in cache.layers] == kinds
    cache.reset()
    with method("self-extend").on(model, to=TARGET):
        assert near(step(model, IDS, cache)[0], whole)


def test_a_shallow_copy_of_a_layer_writes_into_no_other():
    model = tiny("llama", vocab_size=300)
    with method("self-extend").on(model, to=TARGET):
        _, cache = step(model, IDS[:, :60])
        layer = copy.copy(cache.layers[0])
        layer.keys = None
        assert cache.layers[0].keys.shape[-2] == 60


def test_a_forward_that_fails_leaves_a_cache_that_the_plain_model_refuses(monkeypatch):
    model, cache = tiny("llama", vocab_size=300), DynamicCache()

    def broken(*given, **more):
        raise RuntimeError("out of memory")

    with method("self-extend").on(model, to=TARGET):
        with monkeypatch.context() as patched, pytest.raises(RuntimeError):
            patched.setattr(model.model.layers[1].mlp, "forward", broken)
            step(model, IDS[:, :60], cache)
        with pytest.raises(UserError, match="without a call of the decoder"):
            model.model.forward(IDS)
    refused(model, cache)


# Positions


def test_positions_that_jump_on_a_cache_are_refused(model):
    places = torch.cat([torch.arange(20), torch.arange(50, 60)])[None]
    with method("self-extend").on(model, to=TARGET):
        _, cache = step(model, IDS[:, :20], position_ids=places[:, :20])
        with pytest.raises(UserError, match="position_ids begin at 50 on top of a cache of 20 tokens, expected 20"):
            step(model, IDS[:, 20:30], cache, position_ids=places[:, 20:])
        _, jumped = step(model, IDS[:, :30], position_ids=places)
        with pytest.raises(UserError, match="at positions that do not count up from 0"):
            step(model, IDS[:, 30:40], jumped)
        assert near(step(model, IDS[:, 20:40], cache)[0], logits(model, IDS[:, :40])[:, 20:])


def test_packed_documents_are_not_continued():
    model = tiny("llama", vocab_size=300)
    documents = (torch.arange(60) >= 30).long()[None].expand(2, -1)
    with method("self-extend").on(model, to=TARGET):
        places = torch.arange(60)[None] - 30 * documents
        _, cache = step(model, IDS[:, :60], document_ids=documents, position_ids=places)
        assert "at positions that do not count up from 0" in refused(model, cache)


def test_left_padding_goes_on_with_the_positions_that_generate_gives(model):
    mask = left_padded(IDS, 30)
    places = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    with method("self-extend").on(model, to=TARGET):
        _, cache = step(model, IDS[:, :80], attention_mask=mask[:, :80], position_ids=places[:, :80])
        found, _ = step(model, IDS[:, 80:], cache, attention_mask=mask, position_ids=places[:, 80:])
        assert near(found[0], logits(model, IDS[:1, 30:])[0, 50:])
        assert near(found[1], logits(model, IDS[1:])[0, 80:])


# The layout belongs to its forward pass


def test_a_forward_around_the_hooks_does_not_see_the_padding_of_the_last_one(model):
    with method("self-extend").on(model, to=TARGET):
        model.model(IDS, attention_mask=left_padded(IDS, 30), use_cache=False)
        with pytest.raises(UserError, match="without a call of the decoder"):
            model.model.forward(IDS, use_cache=False)
