"""One decoder of one encoding, trained on one task: its training, and what it answers at any length."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.common.errors import UserError
from ropewalk.lab.battery import PAD, Drawn, asked, draw, taught
from ropewalk.lab.decoder import Decoder, DecoderConfig
from ropewalk.lab.temperatures import ROWS, STEPS, fit
from ropewalk.training.optimizers import Optimizer
from ropewalk.training.schedule import factor

WARMUP, FLOOR = 0.1, 0.1  # of the steps, and of the learning rate
AT_ONCE = 16  # rows that are read together at evaluation


@dataclass(frozen=True)
class Budget:
    """What a decoder is, and how long it is trained.

    Attributes:
        window: bytes of its longest row.
        steps: of training.
        batch: rows per step.
        learning_rate: at its peak.
        width: of hidden states.
        layers: of the decoder.
        heads: of attention.
    """

    window: int
    steps: int
    batch: int
    learning_rate: float
    width: int
    layers: int
    heads: int

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate is {self.learning_rate}, expected a finite one above 0", "Say --lr 0.003.")
        if self.width % (2 * self.heads):
            raise UserError(
                f"width is {self.width}, expected a multiple of {2 * self.heads}: {self.heads} heads of an even width",
                f"Say --width {-(-self.width // (2 * self.heads)) * 2 * self.heads}, or other --heads.",
            )


@dataclass(frozen=True)
class Cell:
    """An encoding, a task, and the seed of weights and rows."""

    encoding: str
    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.encoding} {self.task} {self.seed}"


def trained(cell: Cell, budget: Budget, heard: Callable[[int, float], None] = lambda step, loss: None) -> Decoder:
    """A decoder that has learnt a task on rows of up to its window, as they are taught.

    Rows depend on seed and step alone, and weights on the seed.

    Args:
        cell: what is trained.
        budget: how much.
        heard: told of every step, with its loss in nats per byte.

    Raises:
        UserError: if gradients stay without a finite norm.
    """
    torch.manual_seed(cell.seed)
    model = Decoder(
        DecoderConfig(
            encoding=cell.encoding,
            window=budget.window,
            hidden_size=budget.width,
            intermediate_size=3 * budget.width,
            num_hidden_layers=budget.layers,
            num_attention_heads=budget.heads,
        )
    ).train()
    optimizer = Optimizer(model.named_parameters(), learning_rate=budget.learning_rate)
    for step in range(budget.steps):
        rng = random.Random(f"{cell.seed} {step}")
        rows = [taught(cell.task, budget.window, cell.seed, rng) for _ in range(budget.batch)]
        ids, wanted = padded(rows, [row.learnt for row in rows])
        losses = F.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * wanted[:, 1:]).sum() / wanted.sum()
        loss.backward()
        optimizer.step(factor(step, budget.steps, warmup=int(WARMUP * budget.steps), schedule="cosine", floor=FLOOR))
        heard(step + 1, float(loss.detach()))
    return model.eval()


def answers(
    model: Decoder, task: str, way: str, length: int, samples: int, steps: int = STEPS, first: int = 0
) -> list[tuple[float, int, int]]:
    """What a decoder makes of problems of a length: of each, nats over the answer, bytes of it, and those it missed.

    A way that is fitted is fitted here, to other rows of the same length, in no more steps than the training had.

    The same rows are asked of every decoder, and none of them came in training; but by column, where all do.

    Args:
        model: trained.
        task: what it has learnt.
        way: of its encoding, or "".
        length: bytes of the rows.
        samples: problems.
        steps: of what is fitted, at most.
        first: number of the first problem; other numbers are other problems.

    Raises:
        UserError: if it cannot read so long a row in this way.
    """
    if way in model.each_encoding[0].fitted:

        def others(step: int, tokens: int) -> tuple[Tensor, Tensor]:
            rng = random.Random(f"fitted {task} {tokens} {step}")
            drawn = [draw(task, tokens, rng) for _ in range(ROWS)]
            return padded(drawn, [row.learnt for row in drawn])

        fit(model, way, length, others, steps)
    with torch.no_grad():
        return _asked(model, task, way, length, range(first, first + samples))


def _asked(model: Decoder, task: str, way: str, length: int, numbers: range) -> list[tuple[float, int, int]]:
    problems = [asked(task, length, random.Random(f"asked {task} {length} {i}")) for i in numbers]
    rows = [row for problem in problems for row in problem]
    found: list[tuple[float, int, int]] = []
    with model.extended(way, max(model.config.window, *(len(row.ids) for row in rows))):
        for some in (rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)):
            ids, counted = padded(some, [row.asked for row in some])
            logits = model(ids).logits[:, :-1].float()
            losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * counted[:, 1:]
            missed = (logits.argmax(-1) != ids[:, 1:]) & counted[:, 1:]
            found += zip(losses.double().sum(1).tolist(), counted.sum(1).tolist(), missed.sum(1).tolist(), strict=True)
    of_rows = iter(found)
    every = ([next(of_rows) for _ in problem] for problem in problems)
    return [(sum(nats for nats, _, _ in one), sum(n for _, n, _ in one), sum(m for *_, m in one)) for one in every]


def padded(rows: Sequence[Drawn], first: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Bytes, int64 [B, N], and which of them count, bool [B, N]: from each row's ``first`` to its end."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [PAD] * (longest - len(row.ids)) for row in rows])
    places = torch.arange(longest)
    return ids, torch.stack([(places >= one) & (places < len(row.ids)) for row, one in zip(rows, first, strict=True)])
