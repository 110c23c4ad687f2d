"""transformers' switch, on for one pass."""

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.training.checkpointing import checkpointed
from tests.models import tiny, tokens


def on(model):
    """Whether any layer computes its activations again."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def saved(model):
    """Bytes that a forward pass keeps for the backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        model(tokens(1, 40), use_cache=False)
    return sum(kept)


def test_it_is_on_inside_and_as_before_behind():
    model = tiny("llama").train()
    everything = saved(model)
    with checkpointed(model):
        assert saved(model) < everything / 2
        with checkpointed(model):
            pass
        assert on(model)
    assert not on(model) and saved(model) == everything


def test_evaluation_mode_is_refused():
    with pytest.raises(UserError, match="training mode"), checkpointed(tiny("llama")):
        pass
