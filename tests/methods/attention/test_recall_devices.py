"""Methods that choose keys give on a GPU what they give on the CPU."""

import pytest
import torch

from ropewalk import Squeezed, method
from tests.matrix import logits
from tests.methods.attention.pairs import TARGET, VOCABULARY, distinct
from tests.methods.attention.test_retrieval import EXACT, METHODS
from tests.models import tiny

CHOSEN = [
    *(method(spelling) for spelling in [*METHODS, *EXACT]),
    method("dca+vertical-slash(vertical=40, slash=40, sinks=4, near=8, last=16, threshold=64)"),
    Squeezed(prefix=100, threshold=0.01, clusters=0.2, observed=20),
]


@pytest.mark.gpu
@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda chosen: chosen.id)
def test_methods_that_choose_agree_with_the_cpu(chosen):
    model, ids = tiny("llama", num_hidden_layers=1, vocab_size=VOCABULARY), distinct(2, 200)
    with chosen.on(model, to=TARGET):
        expected = logits(model, ids)
    model = model.to("cuda")
    with chosen.on(model, to=TARGET):
        assert torch.allclose(logits(model, ids.to("cuda")).cpu(), expected, atol=1e-3)
