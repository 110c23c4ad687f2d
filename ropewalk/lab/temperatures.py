"""Temperatures that are found on rows of the length that is read: those of heads, and one that aligns sharpness."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.lab.decoder import Decoder
from ropewalk.lab.encoding import ALIGN, TEMPERATURES
from ropewalk.lab.encodings.nope import NoPE
from ropewalk.lab.encodings.t5_bias import T5Bias
from ropewalk.training.optimizers import Optimizer
from ropewalk.training.schedule import factor

STEPS, ROWS, FIRST, LEAST, LEARNING_RATE, WARMUP = 200, 8, 1.6, 1.0, 0.1, 0.1
COLDEST, HALVINGS = 0.1, 12  # the lowest temperature, and how often the interval above it is halved

Rows = Callable[[int, int], tuple[Tensor, Tensor]]  # step, length -> bytes, and which of them count, [B, N]


def fit(model: Decoder, way: str, length: int, rows: Rows, steps: int = STEPS) -> None:
    """Find what a way needs, and leave it on the model's encodings.

    Args:
        model: trained; its weights stay as they are, and have no gradients afterwards.
        way: one that its encoding lists as fitted.
        length: that is read.
        rows: of training.
        steps: of what is learnt, at most.
    """
    if way == ALIGN:
        aligned(model, length, rows)
    else:
        learned(model, length, rows, min(steps, STEPS))


def learned(model: Decoder, length: int, rows: Rows, steps: int) -> None:
    """A multiplier of logits for every head of every layer, 1 at least, by gradient descent (arXiv 2404.12224)."""
    model.requires_grad_(False)
    tuned = {f"{i}": one.temperature for i, one in enumerate(model.each_encoding) if isinstance(one, NoPE)}
    for one in tuned.values():
        one.fill_(FIRST).requires_grad_(True)
    optimizer = Optimizer(tuned.items(), learning_rate=LEARNING_RATE)
    with model.extended(TEMPERATURES, length):
        for step in range(steps):
            ids, wanted = rows(step, length)
            losses = F.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
            ((losses * wanted[:, 1:]).sum() / wanted.sum()).backward()
            optimizer.step(factor(step, steps, warmup=int(WARMUP * steps)))
            for one in tuned.values():
                one.data.clamp_(min=LEAST)
    model.requires_grad_(False)


@torch.no_grad()
def aligned(model: Decoder, length: int, rows: Rows) -> None:
    """The temperature under which the largest weights of long rows are, in the mean, those of rows of the window."""
    (encoding,) = model.each_encoding
    assert isinstance(encoding, T5Bias)

    def sharpness(way: str, tokens: int) -> float:
        encoding.seen = []
        with model.extended(way, tokens):
            model(rows(0, tokens)[0])
        found, encoding.seen = encoding.seen, None
        return sum(found) / len(found)

    wanted, low, high = sharpness("", encoding.shape.window), COLDEST, 1.0
    for _ in range(HALVINGS):
        encoding.temperature = math.sqrt(low * high)
        if sharpness(ALIGN, length) > wanted:
            low = encoding.temperature
        else:
            high = encoding.temperature


def gaussian_temperature(deviation: float, window: int, length: int) -> float:
    """What aligns entropies where logits are normal with this standard deviation: a closed form to compare with."""
    return math.sqrt(deviation**2 / (deviation**2 + 2 * math.log(length / window)))
