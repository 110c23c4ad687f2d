"""Choosing keys needs blocks of queries by keys, never all queries by all keys."""

import pytest
import torch

from ropewalk import Squeezed, VerticalSlash, method
from tests.attention.test_memory import Largest, small
from tests.models import tokens

N = 8192
METHODS = {
    "infllm": method("infllm(sinks=16, topk=2)"),
    "longcache": method("longcache"),
    "longheads": method("longheads(block=128)"),
    "lm-infinite": method("lm-infinite(recalled=5, recall_from_layer=0)"),
    "vertical-slash": VerticalSlash(vertical=200, slash=200, threshold=1),
    "dca+vertical-slash": method("dca+vertical-slash(vertical=200, slash=200, threshold=1)"),
    "squeezed": Squeezed(prefix=4096, threshold=1e-4, iterations=1),
}


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_a_long_prompt_needs_memory_for_blocks_of_queries(name):
    model, ids = small(), tokens(1, N)
    with METHODS[name].on(model, to=N), Largest() as seen:
        model.model(ids, use_cache=False)
    assert 16 * N <= seen.elements <= N * N // 8
