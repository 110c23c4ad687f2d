"""How much memory training and serving take, by component, as a function of the length.

The model of a training step: what stays (weights, gradients, optimizer, layer inputs kept by gradient checkpointing),
and what comes and goes, of which only the larger moment counts: the loss, or the backward pass of one layer. Attention
is taken to be a fused kernel that never holds scores (flash attention, sdpa without a mask). Sizes are tensors alone;
what the CUDA context and a fragmented allocator add is in ``hardware.usable``. ``benchmarks/memory.py`` checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.planning.shapes import Layer, Shapes

WEIGHTS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "int4": 0.5 + 2 / 128, "nf4": 0.5 + 0.127 / 8}
# int4: a half-precision scale per 128 (GPTQ, AWQ); nf4: 0.127 bits of double-quantised scales (arXiv 2305.14314)
EMBEDDED = 8192  # tokens whose embeddings are held together in a recurrent pass
LOSS_CHUNK = 2048  # tokens per block of a chunked loss
LONGEST = 2**24  # past it float32 positions are no longer whole numbers


@dataclass(frozen=True)
class Optimizer:
    """Bytes per trained parameter.

    Attributes:
        states: on the device, the float32 master copy of half-precision weights included.
        host: in the host's memory.
        master: whether ``states`` counts a master copy, which float32 weights are themselves.
        spared: of ``states``, for matrices of layers; experts are stacked, and no matrices.
    """

    states: float
    host: float = 0.0
    master: bool = False
    spared: float = 0.0


OPTIMIZERS = {
    "adamw": Optimizer(12, master=True),  # float32 master weights and two float32 moments
    "muon": Optimizer(12, master=True, spared=4),  # one moment, and AdamW's two for the rest
    "adamw-8bit-master": Optimizer(6 + 8 / 256, master=True),
    "adamw-bf16": Optimizer(4),  # moments in the weights' type, no master copy
    "adamw-8bit": Optimizer(2 + 8 / 256),  # block-wise, one float32 scale per 256 (arXiv 2110.02861)
    "paged-adamw-8bit": Optimizer(0, 2 + 8 / 256),
    "adamw-offload": Optimizer(0, 12),
}


@dataclass(frozen=True)
class Training:
    """How a model is trained: one sequence per device and step.

    Attributes:
        dtype: of weights, gradients and activations.
        trainable: all weights, or low-rank adapters on every linear map, over weights in ``dtype`` or in 4 bits.
        rank: of the adapters.
        optimizer: key of ``OPTIMIZERS``.
        checkpointing: keep only the layers' inputs and compute the rest again in the backward pass.
        selective: of that rest, what attention computed is kept too.
        float32_gradients: whether gradients of half-precision weights add up in float32.
        chunked_loss: logits of ``LOSS_CHUNK`` tokens at a time.
        logits: numbers of a chunked loss's block, which holds one float32 buffer of them; 0: ``LOSS_CHUNK`` tokens, and
            what their softmax takes.
        tiled_mlp: the MLP over pieces of as many tokens as the model is wide.
        offload: keep the layers' inputs in the host's memory; where ``recurrent``, keys and values instead.
        host_optimizer: keep the optimizer and its master weights there, float32 weights' too, and gradients for a step.
        recurrent: tokens of a chunk, where a text is read and gone back through in chunks, and keys, values and their
            gradients are kept of all of it; 0: in one piece.
        shard: devices over which weights, gradients and optimizer are spread (FSDP, ZeRO-3).
        sequence: devices over which one sequence is spread (Ulysses or ring attention).
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    trainable: Literal["all", "lora", "qlora"] = "all"
    rank: int = 16
    optimizer: str = "adamw"
    checkpointing: bool = False
    selective: bool = False
    float32_gradients: bool = False
    chunked_loss: bool = False
    logits: int = 0
    tiled_mlp: bool = False
    offload: bool = False
    host_optimizer: bool = False
    recurrent: int = 0
    shard: int = 1
    sequence: int = 1


@dataclass(frozen=True)
class Serving:
    """How a model is served: one request at full length.

    Attributes:
        weights: key of ``WEIGHTS``.
        cache: key of ``WEIGHTS`` for keys and values.
        chunk: tokens that one prefill pass works on; None means the whole prompt.
        tensor: devices over which every layer is spread.
    """

    weights: str = "bfloat16"
    cache: str = "bfloat16"
    chunk: int | None = None
    tensor: int = 1

    @property
    def cache_bytes(self) -> float:
        """Bytes per element of the cache."""
        return WEIGHTS[self.cache]


@dataclass(frozen=True)
class Correction:
    """What measuring a short step taught: factors for the parts that come and go.

    Attributes:
        layer: for the backward pass of a layer.
        loss: for logits and loss.
        prefill: for the activations of a prefill.
    """

    layer: float = 1.0
    loss: float = 1.0
    prefill: float = 1.0


UNCORRECTED = Correction()


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the worst moment.

    Attributes:
        parts: component -> bytes, in the order to show; components of another moment than the worst are left out.
        host: bytes in the host's memory, per device.
        moment: when the peak is.
    """

    parts: dict[str, int] = field(default_factory=dict)
    host: int = 0
    moment: str = ""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def training(shapes: Shapes, how: Training, length: int, correction: Correction = UNCORRECTED) -> Memory:
    """Memory of one device in a training step on one sequence of ``length`` tokens.

    Raises:
        UserError: for an unknown optimizer.
    """
    size = 4 if how.dtype == "float32" else 2
    tokens = -(-length // how.sequence)
    if how.recurrent and how.recurrent < tokens:
        return _recurrent(shapes, how, size, tokens, correction)
    inputs = shapes.hidden * size * tokens
    staying, host = _resident(shapes, how, size)
    if how.checkpointing and how.offload:
        host += shapes.depth * inputs
    staying["layer inputs"] = inputs * (2 if how.checkpointing and how.offload else shapes.depth)
    if how.selective:
        each = sum(n * (size * layer.query + 4 * layer.heads) for layer, n in shapes.layers)  # and log-sum-exps
        staying["what attention computed"] = each * tokens

    works = [_backward(shapes, layer, size, tokens, how) for layer, _ in shapes.layers]
    worst = max(works, key=lambda work: sum(work.values()))
    kept = dict.fromkeys(worst, 0)
    if not how.checkpointing:  # all layers keep what they computed, and the last one is at work first
        parts = [(n, _kept(shapes, layer, size, tokens, how)) for layer, n in shapes.layers]
        kept = {name: sum(n * part[name] for n, part in parts) for name in worst}
        worst = {name: kept[name] + works[-1][name] - parts[-1][1][name] for name in worst}
    layer_work = {name: int(n * correction.layer) for name, n in worst.items()}
    loss_work = {name: int(n * correction.layer) for name, n in kept.items()}
    loss_work["logits and loss"] = int(_loss(shapes, how, size, tokens) * correction.loss)
    at_loss = sum(loss_work.values()) > sum(layer_work.values())
    everything = staying | (loss_work if at_loss else layer_work)
    moment = "the loss" if at_loss else "the backward pass of a layer"
    return Memory({name: n for name, n in everything.items() if n}, host, moment)


def _recurrent(shapes: Shapes, how: Training, size: int, tokens: int, correction: Correction) -> Memory:
    """A step on one chunk, beside what is kept of the whole text: embeddings, keys, values and their gradients."""
    chunk = training(shapes, replace(how, recurrent=0, sequence=1, offload=False), how.recurrent, correction)
    widths = [(n, _key_value(layer, how)) for layer, n in shapes.layers]
    stores = 2 * size * tokens * sum(n * width for n, width in widths)
    at_work = 2 * size * tokens * max(width for _, width in widths)  # of one layer, where the stores are on the host
    kept = {
        "embeddings and their gradient": 2 * shapes.hidden * size * min(tokens, EMBEDDED),
        "keys, values and gradients": at_work if how.offload else stores,
    }
    return Memory(chunk.parts | kept, chunk.host + how.offload * stores, chunk.moment)


def _resident(shapes: Shapes, how: Training, size: int) -> tuple[dict[str, int], int]:
    """What stays on a device through the whole step, by component; and in the host's memory.

    Raises:
        UserError: for an unknown optimizer.
    """
    optimizer = OPTIMIZERS.get(how.optimizer)
    if optimizer is None:
        raise UserError(f"unknown optimizer {how.optimizer!r}{did_you_mean(how.optimizer, OPTIMIZERS)}")
    full = how.trainable == "all"
    trained = shapes.parameters if full else how.rank * sum(n * layer.adaptable for layer, n in shapes.layers)
    weights = weight_bytes(shapes, "nf4" if how.trainable == "qlora" else how.dtype) + (0 if full else trained * size)
    own_master = 4 if size == 4 and optimizer.master else 0
    matrices = sum(n * (layer.parameters - layer.expert_parameters) for layer, n in shapes.layers) if full else 0
    spared = optimizer.spared * matrices
    states, host = trained * (optimizer.states - own_master) - spared, trained * optimizer.host
    if how.host_optimizer:
        more = optimizer.states + (0 if optimizer.master else 4) + 4
        states, host = 0.0, host + trained * more - spared
    return {
        "weights": weights // how.shard,
        "gradients": trained * (4 if how.float32_gradients else size) // how.shard,
        "optimizer": int(states / how.shard),
        "gathered layers": 0 if how.shard == 1 else _gathered(shapes, how, size),
    }, int(host / how.shard)


def _gathered(shapes: Shapes, how: Training, size: int) -> int:
    """Whole weights of the layer at work and of the one that is fetched; its whole gradients before they are spread."""
    each = WEIGHTS["nf4"] if how.trainable == "qlora" else size
    return int(shapes.largest_layer * (2 * each + (2 * size if how.trainable == "all" else 0)))


def _kept(shapes: Shapes, layer: Layer, size: int, tokens: int, how: Training) -> dict[str, int]:
    """What the forward pass of a layer leaves for its backward pass, its input aside."""
    projected = layer.query + _key_value(layer, how)
    attention = size * (projected + layer.query + layer.fused * (layer.query + layer.key_value // 2)) + 4 * layer.heads
    norms = dict(layer.norm_bytes)[size] - (size * shapes.hidden if size == 4 else 0)  # in float32 one is the input
    inputs = 2 * size * shapes.hidden  # of the attention's and the MLP's linear maps
    mlp = size * (layer.inner * layer.inner_kept + layer.routed_rows * shapes.hidden)
    return {"attention and norms": (attention + norms + inputs) * tokens, "MLP": 0 if how.tiled_mlp else mlp * tokens}


def _key_value(layer: Layer, how: Training) -> int:
    """Width of keys and values; heads are copied where a sequence is spread over more devices than there are heads."""
    return layer.key_value * max(1, how.sequence // layer.key_value_heads)


def _backward(shapes: Shapes, layer: Layer, size: int, tokens: int, how: Training) -> dict[str, int]:
    """The most that the backward pass of one layer holds, what its forward pass left included."""
    kept = _kept(shapes, layer, size, tokens, replace(how, tiled_mlp=False))
    stream = 2 * size * shapes.hidden * tokens  # the gradient that comes and the one that goes
    mlp = kept["MLP"] + size * layer.inner * (2 if layer.gated else 1) * tokens
    if how.tiled_mlp:
        mlp = mlp // max(1, -(-tokens // shapes.hidden)) + stream  # the pieces' results are gathered
    if how.trainable == "all":
        mlp += layer.expert_parameters // 3 * size  # the gradient of all experts' down projections, before it is added
    attention = size * (2 * layer.query + _key_value(layer, how)) * tokens  # gradients, when those of the MLP are gone
    return {"attention and norms": kept["attention and norms"] + stream, "MLP": max(mlp, attention)}


def _loss(shapes: Shapes, how: Training, size: int, tokens: int) -> int:
    """Logits, their float32 softmax and its gradient; the last hidden states with theirs."""
    block = how.logits // shapes.vocabulary if how.logits else LOSS_CHUNK
    rows = min(tokens, max(1, block)) if how.chunked_loss else tokens
    ends = shapes.hidden * (3 * size + (4 if size == 2 else 0)) * tokens
    logits = shapes.vocabulary * rows
    head = shapes.vocabulary * shapes.hidden * size if how.trainable == "all" else 0  # its gradient, before it is added
    if how.logits and how.chunked_loss:  # in float32: the head, if it is not, and its gradient, which adds up in place
        copies = (size == 2) + (how.trainable == "all")
        return 4 * logits + copies * 4 * shapes.vocabulary * shapes.hidden + ends
    if rows < tokens:  # the sum over earlier blocks is there as well
        return max(12 * logits + head, 8 * logits + 2 * head) + ends
    return max(12 * logits, 6 * logits + head) + ends


def serving(shapes: Shapes, how: Serving, length: int, correction: Correction = UNCORRECTED) -> Memory:
    """Memory of one device that holds a request of ``length`` tokens, at the worst moment of its prefill.

    Raises:
        UserError: for an unknown type of weights or cache.
    """
    for key in (how.weights, how.cache):
        if key not in WEIGHTS:
            raise UserError(f"unknown type {key!r}, expected one of {', '.join(WEIGHTS)}{did_you_mean(key, WEIGHTS)}")
    size = 4 if how.weights == "float32" else 2  # of activations
    tokens = length if how.chunk is None else min(length, how.chunk)
    layers = [layer for layer, _ in shapes.layers]
    inner = max(layer.inner * (3 if layer.gated else 2) + 3 * layer.routed_rows * shapes.hidden for layer in layers)
    projected = max(3 * layer.query + 2 * layer.key_value for layer in layers)
    stream = 4 * shapes.hidden + max(inner, projected) // how.tensor  # embeddings, layer input, residual, normed
    return Memory(
        {
            "weights": weight_bytes(shapes, how.weights) // how.tensor,
            "cache": cache(shapes, length, how.cache_bytes, how.tensor),
            "prefill": int((size * stream * tokens + 4 * shapes.vocabulary) * correction.prefill),
        },
        moment="the prefill",
    )


def weight_bytes(shapes: Shapes, kind: str) -> int:
    """Bytes of all weights; quantisation leaves the embedding and the output projection in half precision."""
    ends = shapes.embedding + shapes.head
    return int((shapes.parameters - ends) * WEIGHTS[kind] + ends * max(2.0, WEIGHTS[kind]))


def cache(shapes: Shapes, length: int, bytes_each: float = 2.0, devices: int = 1) -> int:
    """Bytes of keys and values on one device for a text of ``length`` tokens.

    Heads are spread over devices as far as there are heads; a latent (MLA) is held by every device.
    """
    held = 0
    for layer, n in shapes.layers:
        latent = layer.cached < layer.key_value
        parts = 1 if latent else min(devices, layer.key_value_heads)
        held += n * layer.cached * layer.seen(length) // parts
    return int(held * bytes_each)


def longest(fits: Callable[[int], bool], most: int = LONGEST) -> int:
    """The longest length in tokens for which ``fits`` holds, 0 if none; ``fits`` must not turn true again."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
