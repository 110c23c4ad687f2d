"""How a loss changes with what a model rotates by: back to its cosines and sines, and from there by the chain rule."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ropewalk.common.errors import UserError
from ropewalk.common.statistics import LARGEST
from ropewalk.rope.config import text_config
from ropewalk.rope.live import Rotary, decoder, rotaries, still
from ropewalk.rope.spec import ALL, Frequencies
from ropewalk.training.loss import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COST = 3  # readings that a gradient takes: a backward pass is two
KEPT = 2**32  # bytes of what layers computed; where it would be more, they compute it again
NUMBERS = 34  # that a layer keeps of a token, as multiples of the hidden size (arXiv 2205.05198, and a gated MLP)
SCORES = 3  # that eager attention keeps of a head and two tokens
FOLLOWED = ("bitsandbytes",)  # quantisations whose activations are numbers, so that gradients pass
ROUNDED = 0.02  # of a cosine: half precision, and angles of far positions in float32
WITHOUT = "Search without gradients: --settings space=spline."


class Slope(NamedTuple):
    """Losses of a text, and how they change.

    Attributes:
        losses: mean losses of the pieces of its last tokens, in nats, float64 [pieces].
        by: of the mean of all these tokens, per nat of each frequency and, last, of the attention factor, [d/2 + 1].
    """

    losses: NDArray[np.float64]
    by: NDArray[np.float64]


class _Leaf(NamedTuple):
    """What a rotary module returned, as the place where gradients end."""

    rotary: Rotary
    cos: Tensor
    sin: Tensor


def slope(model: PreTrainedModel, ids: Tensor, keep: int, pieces: int, plan: Mapping[str, Frequencies]) -> Slope:
    """Read a text, and go back through it.

    Args:
        model: any causal language model of transformers that rotates by its rotary modules, as it is at the moment.
        ids: int64 [T].
        keep: how many of the last tokens count.
        pieces: of these.
        plan: layer type -> the frequencies that are moved, together where there are several.

    Raises:
        UserError: if the modules rotate otherwise than by these, at positions from 0 on, the model's head cannot be
            followed, or its layers may compute with codes of activations.

    What else may bend gradients on the way cannot be seen here: see ``Descent.check``.
    """
    if (kind := _quantised(model)) and kind not in FOLLOWED:
        raise UserError(f"{kind} may round gradients off: its layers may compute with codes of activations", WITHOUT)
    ids = ids.to(model.device)[None]
    head, targets = _head(model), ids[0, -keep:]
    with _frozen(model), _leaves(model, plan) as leaves, _recomputing(model, ids.numel()), torch.enable_grad():
        try:
            hidden = decoder(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0]
        except UserError as error:  # a method inside attention has no gradient
            raise UserError(error.message, WITHOUT) from None
        if not hidden.requires_grad:
            raise UserError(f"no attention of {type(model).__name__} takes what its rotary module computes", WITHOUT)
        parts = hidden[0, -keep - 1 : -1].tensor_split(pieces)
        goals = targets.tensor_split(pieces)
        sums = [head.loss(x, y, x.new_ones(len(y))) for x, y in zip(parts, goals, strict=True)]
        torch.stack(sums).sum().backward()
    losses = np.array([float(one.detach()) / len(goal) for one, goal in zip(sums, goals, strict=True)])
    turned = [leaf for leaf in leaves if leaf.cos.grad is not None]
    by = np.sum([_by(leaf, ids.shape[1], plan[leaf.rotary.layer_type].inv_freq) for leaf in turned], axis=0) / keep
    if not np.isfinite(by).all():
        raise UserError("the gradient is no finite number", f"Say --dtype float32. {WITHOUT}")
    return Slope(np.nan_to_num(losses, nan=LARGEST, posinf=LARGEST).clip(max=LARGEST), by)


def _quantised(model: PreTrainedModel) -> str:
    """How a model's weights are quantised, by transformers' name for it; empty: they are not."""
    how: Any = getattr(model.config, "quantization_config", None) or {}
    kind = how.get("quant_method", "") if isinstance(how, dict) else how.quant_method
    return str(getattr(kind, "value", kind))  # a word, or transformers' enumeration of them


def _head(model: PreTrainedModel) -> Head:
    try:
        return Head.of(model)
    except UserError as error:
        raise UserError(error.message, WITHOUT) from None


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Without dropout, and without gradients of weights."""
    wanted = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        with still(model):
            model.requires_grad_(False)
            yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)


@contextmanager
def _recomputing(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Layers keep what they computed, or compute it again in the backward pass.

    transformers' own switch does so in training mode alone, in which some layers drop out.
    """
    config: Any = text_config(model.config)
    numbers = NUMBERS * tokens * config.hidden_size
    if model.config._attn_implementation == "eager":
        numbers += SCORES * tokens**2 * config.num_attention_heads
    kept = numbers * config.num_hidden_layers * model.dtype.itemsize
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    before = [(layer, vars(layer).get("forward")) for layer in layers if kept > KEPT]
    try:
        for layer, _ in before:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        yield
    finally:
        for layer, own in before:
            del layer.forward
            if own is not None:
                layer.forward = own


@contextmanager
def _leaves(model: nn.Module, layer_types: Collection[str]) -> Iterator[list[_Leaf]]:
    """What the rotary modules of some layer types return while this is on."""
    leaves: list[_Leaf] = []
    with ExitStack() as stack:
        for rotary in rotaries(model):
            if rotary.layer_type in layer_types:
                hook = rotary.module.register_forward_hook(partial(_cut, rotary, leaves), with_kwargs=True)
                stack.callback(hook.remove)
        yield leaves


def _cut(rotary: Rotary, leaves: list[_Leaf], module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    asked = kwargs.get("layer_type", args[2] if len(args) > 2 else ALL)
    if rotary.layer_type not in (ALL, asked):
        return output
    if not (isinstance(output, tuple) and len(output) == 2 and output[0].is_floating_point()):
        raise UserError(f"{type(module).__name__} returns no cosines and sines: no gradient can be taken", WITHOUT)
    leaf = _Leaf(rotary, *(table.detach().requires_grad_() for table in output))
    leaves.append(leaf)
    return leaf.cos, leaf.sin


def _by(leaf: _Leaf, length: int, moved: Tensor) -> NDArray[np.float64]:
    """The gradient by log frequencies and log attention factor, [d/2 + 1].

    Args:
        leaf: after the backward pass.
        length: of the text.
        moved: the frequencies, [d/2].

    Raises:
        UserError: if the buffer holds others, or the tables are not those of the buffer, at positions from 0 on.
    """
    if not torch.allclose(leaf.rotary.inv_freq.double().cpu(), moved.double().cpu(), rtol=1e-5, atol=0):
        raise UserError("a method beside this one changes its frequencies: no gradient can be taken", WITHOUT)
    rotary, device = leaf.rotary, leaf.cos.device
    inv_freq, factor, columns = rotary.inv_freq.float().to(device), rotary.attention_scaling, leaf.cos.shape[-1]
    pairs = len(inv_freq)
    if leaf.cos.shape == leaf.sin.shape and leaf.cos.shape[-2:] in ((length, pairs), (length, 2 * pairs)):
        assert leaf.cos.grad is not None and leaf.sin.grad is not None
        tables = leaf.cos.detach(), leaf.sin.detach(), leaf.cos.grad, leaf.sin.grad
        cos, sin, to_cos, to_sin = (table.reshape(-1, length, columns).float() for table in tables)
        column, position = torch.arange(columns, device=device), torch.arange(length, device=device)
        for pair in (column % pairs, column // (columns // pairs)):  # its dimensions are halves apart, or neighbours
            angles = position[:, None] * inv_freq[pair]
            if _near(cos, angles.cos() * factor) and _near(sin, angles.sin() * factor):
                to_angles = (to_sin * cos - to_cos * sin).sum(0)
                by = inv_freq.new_zeros(pairs).index_add_(0, pair, (to_angles * angles).sum(0))
                return torch.cat([by, (to_cos * cos + to_sin * sin).sum()[None]]).double().cpu().numpy()
    raise UserError(
        f"{type(rotary.module).__name__} does not turn every position by its buffer, or a method turns inside "
        "attention: no gradient can be taken",
        WITHOUT,
    )


def _near(table: Tensor, formula: Tensor) -> bool:
    return bool(((table - formula).abs() <= ROUNDED * formula.abs().max()).all())
