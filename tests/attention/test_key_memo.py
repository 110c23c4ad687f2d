"""Rotated keys are kept exactly as long as the keys that they were made of."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from ropewalk.attention.key_memo import KeyMemo
from ropewalk.attention.sink_cache import SinkLayer, sink_cache
from tests.models import config

B, H, D = 2, 2, 4


class Rotation:
    """Stands for a rotation by position; counts the keys that it is asked to rotate."""

    def __init__(self):
        self.rotated = 0

    def __call__(self, new, have):
        self.rotated += new.shape[-2]
        return new * 2 + torch.arange(have, have + new.shape[-2], dtype=new.dtype)[:, None]


def whole(keys):
    return keys * 2 + torch.arange(keys.shape[-2], dtype=keys.dtype)[:, None]


def step(memo, layer, n, rotate, past, names=("map",)):
    """One forward pass over n new tokens; returns the rotated keys, which must be those made from scratch."""
    stable = layer.keys if layer.is_initialized else None
    memo.begin(stable, past)
    keys, _ = layer.update(torch.randn(B, H, n, D), torch.randn(B, H, n, D))
    written = keys[:, :, : past + n]
    for name in names:
        assert torch.equal(memo.rotated(name, written, rotate), whole(written))
    memo.end(keys)
    return past + n


def dynamic():
    cache = DynamicCache()
    step_keys = torch.randn(B, H, 1, D)
    cache.update(step_keys[:, :, :0], step_keys[:, :, :0], 0)
    return cache


def test_only_new_keys_are_rotated():
    memo, rotate, layer, past = KeyMemo(), Rotation(), dynamic().layers[0], 0
    for n in (5, 1, 1, 7, 300, 1):
        past = step(memo, layer, n, rotate, past)
    assert rotate.rotated == past == 315


def test_every_map_has_its_copy():
    memo, rotate, layer, past = KeyMemo(), Rotation(), dynamic().layers[0], 0
    for n in (5, 1, 1):
        past = step(memo, layer, n, rotate, past, names=("near", "far"))
    assert rotate.rotated == 2 * past


def test_a_static_cache_is_followed_slot_by_slot():
    cache = StaticCache(config=config("llama"), max_cache_len=40)
    memo, rotate, past = KeyMemo(), Rotation(), 0
    for n in (5, 1, 1, 7):
        past = step(memo, cache.layers[0], n, rotate, past)
    assert rotate.rotated == past


@pytest.mark.parametrize("sizes", [[1] * 40, [10, 1, 1, 9, 30, 1], [40, 1, 1]])
def test_a_sliding_cache_drops_old_keys_and_their_copies(sizes):
    window = 16
    cache, memo, past, rotated = DynamicCache(config=config("mistral", sliding_window=window)), KeyMemo(), 0, 0

    def rotate(new, have):
        nonlocal rotated
        rotated += new.shape[-2]
        return new * 2

    for n in sizes:
        layer = cache.layers[0]
        memo.begin(layer.keys if layer.is_initialized else None, past)
        keys, _ = layer.update(torch.randn(B, H, n, D), torch.randn(B, H, n, D))
        assert keys.shape[-2] == min(past, window - 1) + n
        assert torch.equal(memo.rotated("map", keys, rotate), keys * 2)
        memo.end(keys)
        past += n
    assert rotated == past


def test_cropped_keys_are_dropped_and_read_again():
    memo, rotate, cache = KeyMemo(), Rotation(), dynamic()
    step(memo, cache.layers[0], 10, rotate, 0)
    cache.crop(-4)
    step(memo, cache.layers[0], 3, rotate, 6)
    cache.crop(-2)
    step(memo, cache.layers[0], 5, rotate, 7)
    assert rotate.rotated == 10 + 3 + 5


@pytest.mark.parametrize("change", ["reorder", "select", "repeat"])
def test_other_rows_start_anew(change):
    memo, rotate, cache = KeyMemo(), Rotation(), dynamic()
    step(memo, cache.layers[0], 10, rotate, 0)
    if change == "reorder":
        cache.reorder_cache(torch.tensor([1, 1]))
    elif change == "select":
        cache.batch_select_indices(torch.tensor([1, 0]))
    else:
        cache.batch_repeat_interleave(1)
    step(memo, cache.layers[0], 1, rotate, 10)
    assert rotate.rotated == 10 + 11


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_that_others_write_are_noticed_in_inference_mode(dtype):
    rotate = Rotation()
    with torch.inference_mode():
        memo, keys = KeyMemo(), torch.randn(B, H, 10, D).to(dtype)
        memo.rotated("map", keys, rotate)
        memo.end(keys)
        memo.begin(keys[:, :, 2:9], 7)  # dropped at both ends
        assert torch.equal(memo.rotated("map", keys[:, :, 2:9], rotate), whole(keys)[:, :, 2:9])
        assert rotate.rotated == 10
        memo.end(keys[:, :, 2:9])
        keys.copy_(keys.flip(0))
        memo.begin(keys[:, :, 2:9], 7)
        assert torch.equal(memo.rotated("map", keys[:, :, 2:9], rotate), whole(keys[:, :, 2:9]))


def test_another_text_in_the_same_cache_starts_anew():
    memo, rotate = KeyMemo(), Rotation()
    step(memo, dynamic().layers[0], 10, rotate, 0)
    step(memo, dynamic().layers[0], 10, rotate, 0)
    assert rotate.rotated == 20


def test_a_forward_without_a_cache_leaves_nothing_behind():
    memo, rotate = KeyMemo(), Rotation()
    past = step(memo, dynamic().layers[0], 10, rotate, 0)
    memo.begin(None, 0)
    keys = torch.randn(B, H, past, D)
    assert torch.equal(memo.rotated("map", keys, rotate), whole(keys))


# The cache of StreamingLLM


@pytest.mark.parametrize("sizes", [[1] * 40, [7] * 6, [40], [3, 30, 1, 1, 20]])
def test_a_sink_layer_keeps_sinks_and_recent_keys(sizes):
    sinks, recent = 4, 9
    layer, seen = SinkLayer(sinks, recent), 0
    for n in sizes:
        new = torch.arange(seen, seen + n).float()[None, None, :, None].expand(B, H, n, D)
        keys, values = layer.update(new, -new)
        seen += n
        assert torch.equal(keys, -values)
        first_new_sees = max(0, seen - n - recent + 1)
        wanted = {p for p in range(seen) if p < sinks or p >= first_new_sees}
        assert wanted <= set(keys[0, 0, :, 0].long().tolist())
        kept = [p for p in range(seen) if p < sinks or p > seen - recent]
        assert layer.keys[0, 0, :, 0].tolist() == layer.values.neg()[0, 0, :, 0].tolist() == layer.kept.tolist() == kept
        assert layer.get_seq_length() == seen


def test_a_sink_cache_can_be_reset_and_not_cropped():
    cache = sink_cache(config("llama"), 4, 9)
    new = torch.randn(B, H, 30, D)
    for layer in range(2):
        cache.update(new, new, layer)
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.layers[0].kept.numel() == 0
    assert not cache.layers[0].is_croppable
