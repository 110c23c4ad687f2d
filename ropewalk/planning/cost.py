"""Floating-point operations and time of training and serving at a length."""

from __future__ import annotations

from dataclasses import dataclass

from ropewalk.planning.hardware import GPU
from ropewalk.planning.memory import Serving, cache, weight_bytes
from ropewalk.planning.shapes import Shapes

MFU = 0.4  # share of the peak that a well-set-up run reaches, counted without recomputation
PLAIN = Serving()


@dataclass(frozen=True)
class Cost:
    """What a length costs.

    Attributes:
        flops_per_token: of the forward pass, averaged over the positions of one sequence of that length.
        attention_share: part of it that grows with the length.
        tokens: to train on.
        training_flops: forward and backward pass over ``tokens``; recomputation is not counted.
        training_hours: on all devices together; None without a known device.
        device_hours: hours times devices.
        prefill_seconds: for one prompt of that length on all devices.
        decode_tokens_per_second: of one request at that length, bound by reading weights and cache.
    """

    flops_per_token: float
    attention_share: float
    tokens: float
    training_flops: float
    training_hours: float | None = None
    device_hours: float | None = None
    prefill_seconds: float | None = None
    decode_tokens_per_second: float | None = None


def cost(
    shapes: Shapes,
    length: int,
    tokens: float,
    gpu: GPU | None,
    gpus: int = 1,
    mfu: float = MFU,
    serve: Serving = PLAIN,
) -> Cost:
    """Operations and times for sequences of ``length`` tokens.

    A matrix product with P parameters takes 2 P operations per token, attention 4 per query element and visible token;
    the backward pass takes twice the forward pass.
    """
    attention = sum(n * 4 * layer.query * _mean_seen(layer.seen(length), length) for layer, n in shapes.layers)
    forward = 2 * shapes.matrix_parameters + attention
    training = 3 * forward * tokens
    found = Cost(forward, attention / forward, tokens, training)
    if gpu is None:
        return found
    speed = gpu.tflops * 1e12 * mfu * gpus
    hours = training / speed / 3600
    active = weight_bytes(shapes, serve.weights) * shapes.active_parameters / shapes.parameters
    read = active / serve.tensor + cache(shapes, length, serve.cache_bytes, serve.tensor)
    return Cost(
        forward,
        attention / forward,
        tokens,
        training,
        hours,
        hours * gpus,
        forward * length / speed,
        gpu.bandwidth / read,
    )


def _mean_seen(window: int, length: int) -> float:
    """Visible tokens, averaged over the queries of a causal sequence."""
    return window - window * (window - 1) / (2 * length) if length else 0.0


def show_hours(hours: float) -> str:
    """Hours as people say them: 0.09 ms, 30 s, 40 min, 7.5 h, 12 days."""
    if hours * 3600 < 1:
        return f"{hours * 3.6e6:.2f} ms" if hours * 3.6e6 < 1 else f"{hours * 3.6e6:.0f} ms"
    if hours < 1:
        return f"{hours * 3600:.3g} s" if hours * 60 < 2 else f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"
