"""No tensor of queries by keys is ever made."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ropewalk import method
from tests.models import tiny, tokens

N = 32768


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        out = function(*arguments, **(keywords or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // max(1, x.element_size()))
        return out


def small():
    return tiny("llama", num_hidden_layers=1, hidden_size=16, intermediate_size=16, num_attention_heads=2,
                num_key_value_heads=1, head_dim=8, max_position_embeddings=2048)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("spelling", ["self-extend", "dca", "lm-infinite", "streaming-llm", "gali", "s2-attention"])
def test_a_long_prompt_needs_memory_in_proportion_to_its_length(spelling):
    model, ids = small(), tokens(1, N)
    with method(spelling).on(model, to=N), Largest() as seen:
        model.model(ids, use_cache=False)
    assert 16 * N <= seen.elements <= 64 * N
