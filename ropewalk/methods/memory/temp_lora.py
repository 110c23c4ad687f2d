"""Temp-LoRA: a low-rank adapter that is trained on every chunk of a text behind the reading, and thrown away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.methods.memory.throwaway import Change, Learner, generator, step
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BETAS, EPSILON = (0.9, 0.999), 1e-7  # of AdamW, without weight decay


@dataclass(frozen=True)
class TempLoRA(MemoryMethod):
    """What has left the window stays in an adapter (arXiv 2401.11504).

    A text is read in chunks, each behind the last ``context`` tokens before it, counted from 0: no token stands beyond
    context + chunk. Behind a chunk, the adapter takes ``epochs`` steps on the loss of its tokens, read in the same way,
    and keys and values are computed again with it. So a token's result depends on the tokens before it alone, and not
    on how the text is cut. A text begins with an adapter that does nothing.

    Every token is read (context + chunk) / chunk times, and trained on ``epochs`` times as often: with the defaults 4
    and 8 times, a training step being about three readings.

    Attributes:
        chunk: tokens between two trainings; None means a quarter of the trained window (the paper's 1,024 of 4,096).
        context: tokens before a chunk that are read with it; None means three quarters.
        rank: of the adapter of each linear layer.
        alpha: the adapter's output is multiplied by alpha / rank.
        dropout: share of the adapter's inputs that are left out in training.
        learning_rate: of AdamW.
        epochs: steps on each chunk.
        warmup: chunks over which the rate rises to its value, from 0 at the first.
        budget: tokens that are trained on, of a text, at most; None means no bound.
        seed: of the adapter's beginning and of dropout.
    """

    chunk: int | None = None
    context: int | None = None
    rank: int = 64
    alpha: float = 64.0
    dropout: float = 0.05
    learning_rate: float = 5e-5
    epochs: int = 2
    warmup: int = 2
    budget: int | None = None
    seed: int = 0

    name: ClassVar[str] = "temp-lora"
    cache_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_above(0, self, "chunk", "rank", "alpha")
        require_above(-1, self, "context", "epochs", "warmup", "budget", "seed")
        for name, most in (("dropout", 1.0), ("learning_rate", math.inf)):
            if not 0 <= getattr(self, name) < most:
                raise UserError(f"{self.name}: {name} is {getattr(self, name)}, expected 0 to less than {most:g}")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return cls(rank=4, learning_rate=1e-3, warmup=0), cls(chunk=24, context=0, rank=4, epochs=1, warmup=0)

    def costs(self, model: nn.Module) -> str:
        chunk, context = self._sizes(model)
        times = (context + chunk) / chunk
        trained = f"{self.epochs * times:.3g} times, forward and backward"
        return f"each token is read {times:.3g} times, and trained on {trained}"

    def _sizes(self, model: nn.Module) -> tuple[int, int]:
        """Tokens of a chunk, and before it."""
        window = rope_config.trained_window(model.config)  # type: ignore[arg-type]
        return self.chunk or max(1, window // 4), 3 * window // 4 if self.context is None else self.context

    def reader(self, model: nn.Module, to: int) -> _Reader:
        chunk, context = self._sizes(model)
        if chunk + context > to:
            raise UserError(
                f"{self.name}: context + chunk is {context} + {chunk}, expected at most the target of {to:,} tokens"
            )
        return _Reader(model, self, chunk, context)


@dataclass
class _Text:
    """A text that is being read.

    Attributes:
        before: int64 [1, context at most], tokens before the present chunk.
        chunk: int64 [1, chunk at most], its tokens so far.
        cache: keys and values of both; None where they have to be computed again.
        weights: A [r, in] and B [out, r] of each layer, in turns, float32.
        optimizer: of these.
        trainings: chunks that were trained on.
        left: tokens that may be trained on.
    """

    before: Tensor
    chunk: Tensor
    cache: DynamicCache | None
    weights: list[Tensor]
    optimizer: torch.optim.Optimizer
    trainings: int
    left: float


class _Reader(Learner):
    def __init__(self, model: nn.Module, method: TempLoRA, chunk: int, context: int):
        super().__init__(model, method.name)
        self.method, self.chunk, self.context = method, chunk, context
        self.layers = [one for one in self.body.modules() if isinstance(one, nn.Linear)]
        if not self.layers:
            raise UserError(f"{method.name} adapts linear layers, and {type(self.body).__name__} has none")

    def begin(self, rows: int) -> _Text:
        self.require_still()
        one, weights = self.method, []
        device = next(self.body.parameters()).device
        drawing = generator(one.seed, 0, device)
        for layer in self.layers:
            down, up = (torch.zeros(sizes, device=device) for sizes in ((one.rank, layer.in_features),
                                                                        (layer.out_features, one.rank)))  # fmt: skip
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=drawing)
            weights += [down.requires_grad_(), up.requires_grad_()]
        optimizer = torch.optim.AdamW(weights, one.learning_rate, BETAS, EPSILON, weight_decay=0.0)
        nothing = torch.zeros(1, 0, dtype=torch.long, device=device)
        left = math.inf if one.budget is None else one.budget
        return _Text(nothing, nothing, DynamicCache(), weights, optimizer, 0, left)

    def read(self, ids: Tensor, state: _Text) -> Tensor:
        found = []
        self.read_tokens += ids.shape[1]
        while ids.shape[1]:
            if state.chunk.shape[1] == self.chunk:
                self._learn(state)
            piece, ids = ids.tensor_split([self.chunk - state.chunk.shape[1]], 1)
            again = state.before[:, :0]
            if state.cache is None:
                state.cache, again = DynamicCache(), state.before
            hidden = self.hidden(torch.cat([again, piece], 1), state.cache, self._adapted(state))
            found.append(hidden[:, again.shape[1] :])
            state.chunk = torch.cat([state.chunk, piece], 1)
        return torch.cat(found, 1)

    def _learn(self, state: _Text) -> None:
        """Train on the chunk that was read, and go on to the next."""
        one, row = self.method, torch.cat([state.before, state.chunk], 1)
        targets = min(self.chunk, row.shape[1] - 1)
        cost = one.epochs * (row.shape[1] - 1)
        if targets and cost <= state.left:
            state.left -= cost
            risen = min(1.0, state.trainings / one.warmup) if one.warmup else 1.0
            state.optimizer.param_groups[0]["lr"] = one.learning_rate * risen
            drawing = generator(one.seed, 1 + state.trainings, row.device)
            for _ in range(one.epochs):
                loss = self.loss(row, targets, None, self._adapted(state, drawing))
                step(loss, state.weights, state.optimizer)
            state.trainings += 1
        state.before, state.chunk, state.cache = row[:, max(0, row.shape[1] - self.context) :], row[:, :0], None

    def _adapted(self, state: _Text, drawing: torch.Generator | None = None) -> Mapping[nn.Module, Change]:
        """What layers give with the adapter; with a generator, as in training."""
        if not state.trainings and drawing is None:
            return {}
        pairs = zip(state.weights[::2], state.weights[1::2], strict=True)
        return {layer: partial(self._added, *pair, drawing) for layer, pair in zip(self.layers, pairs, strict=True)}

    def _added(self, down: Tensor, up: Tensor, drawing: torch.Generator | None, x: Tensor, output: Tensor) -> Tensor:
        kept, rate = x.float(), self.method.dropout
        if drawing is not None and rate:
            mask = torch.rand(kept.shape, generator=drawing, device=kept.device) >= rate
            kept = kept * mask / (1 - rate)
        added = F.linear(F.linear(kept, down), up) * (self.method.alpha / self.method.rank)
        return output + added.to(output.dtype)
