"""Attention methods on models in bfloat16: they run, with a cache too, and stay near float32."""

import pytest
import torch

from ropewalk.methods.catalogue import method
from tests.models import tiny, tokens

BY_POSITION = [
    "self-extend",
    "dca",
    "rerope",
    "leaky-rerope",
    "lm-infinite",
    "streaming-llm",
    "gali",
    "yarn+dca",
    "log-n",
]
BY_CONTENT = [  # choices may differ by rounding
    "infllm(window=32, sinks=4, block_size=8, topk=2, representatives=2, execution_block=16)",
    "longcache(sinks=4, local=28, span=4, recalled=4, block=16)",
    "longheads(chunk=8, attended=32, block=8)",
    "lm-infinite(window=32, recalled=4, recall_from_layer=0)",
    "dca+vertical-slash(threshold=32, vertical=20, slash=40, near=8, sinks=4, last=8)",
    "tca",
]


@torch.no_grad()
def last_logits(model, spelling):
    ids = tokens(1, 200)
    with method(spelling).on(model, to=256):
        prefix = model(ids[:, :199], use_cache=True)
        return model(ids[:, 199:], past_key_values=prefix.past_key_values, use_cache=True).logits[0, -1].float()


@pytest.mark.parametrize("spelling", [*BY_POSITION, *BY_CONTENT])
def test_half_precision_stays_near(spelling):
    exact, half = tiny("llama"), tiny("llama").to(torch.bfloat16)
    for name, buffer in exact.named_buffers():  # .to() rounds the frequencies too, from_pretrained does not
        half.get_buffer(name).data = buffer.clone()
    found, expected = last_logits(half, spelling), last_logits(exact, spelling)
    assert found.isfinite().all()
    if spelling in BY_POSITION:
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()
