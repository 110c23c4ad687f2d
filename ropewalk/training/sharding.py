"""Parameters spread over the processes that train together (FSDP2), so that each holds a part of every tensor.

A decoder layer is whole while it computes; embeddings, last norm and head are whole inside a forward pass of the model
itself. Gradients come summed up over the processes, as parts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ropewalk.attention.engine import attending_plainly
from ropewalk.common.errors import UserError
from ropewalk.rope.live import decoder
from ropewalk.training.loss import Head
from ropewalk.training.processes import Processes
from ropewalk.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shard(model: PreTrainedModel, recipe: Recipe, processes: Processes) -> None:
    """Spread the parameters over all processes, in place; what looks at a whole model has looked at it before.

    Args:
        model: live, the same in all processes.
        recipe: that it is trained by.
        processes: two or more.

    Raises:
        UserError: if the recipe, or the model, is not trained so.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.modeling_layers import GradientCheckpointingLayer

    _refuse(recipe, processes)
    layers = [one for one in decoder(model).modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"{type(model).__name__} has no layers of transformers' kind", "Leave out --shard.")
    Head.of(model)
    with suppress(UserError), attending_plainly(model):  # finds the layers, which packed rows need
        pass
    mesh = init_device_mesh(model.device.type, (processes.count,))
    how: Any = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32)}
    for module in (*layers, model):
        fully_shard(module, **how, reshard_after_forward=True)
    for part in _parts(model):
        part.set_gradient_divide_factor(1.0)  # a loss is divided by the tokens of all processes already
        part.set_force_sum_reduction_for_comms(True)  # gloo has no other
    plain = [name for name, one in model.named_parameters() if not isinstance(one, DTensor)]
    if plain:
        raise UserError(f"{plain[0]} and {len(plain) - 1} more were not sharded", "Leave out --shard.")
    with torch.no_grad():
        inside(model, lambda: None)  # the model, and no layer of it, is where a forward pass begins


def _refuse(recipe: Recipe, processes: Processes) -> None:
    if processes.count == 1:
        raise UserError(
            "one process alone has nothing to share weights with", "torchrun --nproc-per-node 2 -m ropewalk train ..."
        )
    if recipe.recurrent:
        raise UserError(
            f"memory is {recipe.memory!r}, which reads a text in pieces; sharded weights are whole in one forward pass",
            "Say --memory checkpointed, or leave out --shard.",
        )
    if recipe.trainable != "all":
        raise UserError(
            f"trainable is {recipe.trainable!r}: adapters are small, and what they stand on is not sharded",
            "Leave out --shard.",
        )
    if "optimizer" in recipe.offload:
        raise UserError(
            "the optimizer is offloaded, and its parts are not moved", "Leave out --shard, or optimizer of --offload."
        )
    if recipe.optimizer != "adamw":
        raise UserError(
            f"the states of optimizer {recipe.optimizer!r} belong to whole tensors", "Say --optimizer adamw."
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters are spread over processes."""
    return isinstance(model, FSDPModule)


def inside(model: Any, forward: Callable[[], Any]) -> Any:
    """``forward()``; of a sharded model, inside of its own forward pass, where head and embeddings are whole."""
    if not is_sharded(model):
        return forward()
    model.forward = forward
    try:
        return model()
    finally:
        del model.forward


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """All parameters of a sharded model whole in every process, so that any part of it can be called.

    All must come here, and do the same: layers are gathered ahead in the order of the forward passes before.
    """
    parts = _parts(model)
    try:
        for one in parts:
            one.set_reshard_after_forward(False, recurse=False)
            one.unshard()
        yield
    finally:
        for one in parts:
            one.reshard()
            one.set_reshard_after_forward(True, recurse=False)


def weights(model: nn.Module) -> dict[str, Tensor] | None:
    """All weights in the first process, none in the others; None if the model is not sharded. All must come here."""
    if not is_sharded(model):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    how = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = get_model_state_dict(model, options=how)
    names: dict[int, str] = {}
    for name, one in model.named_parameters(remove_duplicate=False):  # tied ones are gathered one by one
        if names.setdefault(id(one), name) in found:
            found[name] = found[names[id(one)]]
    return found


def _parts(model: nn.Module) -> list[FSDPModule]:
    return [one for one in model.modules() if isinstance(one, FSDPModule)]
