"""transformers' switch, on for one pass."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ropewalk.common.errors import UserError
from ropewalk.training.checkpointing import ATTENTION, checkpointed
from ropewalk.training.one_shot import OneShot
from ropewalk.training.training_batch import Batch
from tests.models import tiny, tokens
from tests.training.passes import error, gradients, row


def on(model):
    """Whether any layer computes its activations again."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def saved(model, length=40):
    """Bytes that a forward pass keeps for the backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        model(tokens(1, length), use_cache=False)
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


class Counting(TorchDispatchMode):
    """How often attention is computed."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.seen += operator in ATTENTION
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [Batch.of([row(60)]), Batch.of([row(60, 23, 37)])], ids=["plain", "packed"])
def test_a_selective_checkpoint_computes_attention_once(batch):
    model = tiny("llama").train()
    loss, expected = gradients(model, OneShot(), batch)  # also: the head is tried
    counted = []
    for how in (OneShot(), OneShot(checkpoint=True, selective=True), OneShot(checkpoint=True)):
        with Counting() as counting:
            got, found = gradients(model, how, batch)
        counted.append(counting.seen)
        assert got == loss and error(found, expected) == 0
    once, selective, twice = counted
    assert once == selective < twice


def test_attention_that_is_changed_in_place_is_no_selective_checkpoint():
    model, how = tiny("gpt_oss").train(), OneShot(checkpoint=True, selective=True)
    with pytest.raises(UserError, match="in place"):
        gradients(model, how, Batch.of([row(60, 23, 37)]))
