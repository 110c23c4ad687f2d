"""qTTT: query projections that are trained on spans of the text that was read, over its frozen keys and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.methods.memory.throwaway import Change, Learner, before, generator, step
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

QUERIES = "q_proj"


@dataclass(frozen=True)
class QTTT(MemoryMethod):
    """Queries that have learned to find their way in this text (arXiv 2512.13898).

    A prompt is read once. Then W_Q of every layer, and nothing else, takes ``steps`` steps on the loss of random spans
    of the prompt, each behind the keys and values that the model itself has cached before it; the last token is read
    again, and the answer is written with these queries. Where losses of a text are asked for, queries are adapted anew
    every ``every`` tokens, from the model's own, on what was read before, whose keys and values the model itself
    computes again; no token sees what was trained on tokens behind it. A text begins with the model's own queries.

    An adaptation trains on steps * span tokens. With the defaults that is 4,096, at each prompt, and for losses 8 times
    the tokens of a window of 512. Keys and values are those of the plain model, and as many.

    Attributes:
        steps: N, steps of an adaptation.
        span: k, tokens of each step; fewer where the text is shorter.
        learning_rate: of AdamW, which the authors choose per task, 1e-6 to 1e-5.
        weight_decay: of AdamW.
        clip: the largest norm of the gradients of all layers together.
        every: tokens between two adaptations while losses are taken, or an answer is written; None means the trained
            window.
        budget: tokens that are trained on, of a text, at most; None means no bound.
        seed: of the spans.
    """

    steps: int = 32
    span: int = 128
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    clip: float = 1.0
    every: int | None = None
    budget: int | None = None
    seed: int = 0

    name: ClassVar[str] = "qttt"

    def __post_init__(self) -> None:
        require_above(0, self, "span", "clip", "every")
        require_above(-1, self, "steps", "budget", "seed")
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{self.name}: {name} is {getattr(self, name)}, expected 0 or more")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return cls(steps=3, span=16, learning_rate=1e-3), cls(steps=2, span=200, learning_rate=1e-3, every=30)

    def costs(self, model: nn.Module) -> str:
        trained = self.steps * self.span
        return (
            f"{trained:,} tokens are trained on behind a prompt, forward and backward, and for losses "
            f"{trained / self._every(model):.3g} for each token, which is read twice"
        )

    def _every(self, model: nn.Module) -> int:
        return self.every or rope_config.trained_window(model.config)  # type: ignore[arg-type]

    def reader(self, model: nn.Module, to: int) -> _Reader:
        return _Reader(model, self, self._every(model))


@dataclass
class _Text:
    """A text that is being read.

    Attributes:
        ids: int64 [1, n], all that was read.
        cache: keys and values of these.
        frozen: tokens whose keys and values are the model's own; those of later ones are by adapted queries.
        weights: W_Q of each layer, float32; empty while they are the model's own.
        adapted: tokens that had been read when they were adapted.
        left: tokens that may be trained on.
    """

    ids: Tensor
    cache: Cache
    frozen: int
    weights: list[Tensor]
    adapted: int
    left: float


class _Reader(Learner):
    def __init__(self, model: nn.Module, method: QTTT, every: int):
        super().__init__(model, method.name)
        self.method, self.every = method, every
        named = dict(self.body.named_modules())
        self.layers = [one for name, one in named.items()
                       if name.rpartition(".")[2] == QUERIES and isinstance(one, nn.Linear)]  # fmt: skip
        count = self.body.config.num_hidden_layers
        if len(self.layers) != count or not all(one.weight.is_floating_point() for one in self.layers):
            other = sorted({name.rpartition(".")[2] for name, one in named.items() if isinstance(one, nn.Linear)})
            raise UserError(
                f"{method.name} trains a {QUERIES} in each of {count} layers, and {type(self.body).__name__} has "
                f"{len(self.layers)} of floating point; its linear layers are {', '.join(other) or 'none'}",
                "Choose a model with a projection of its own for queries (Llama, Qwen, Mistral, Gemma), or temp-lora.",
            )

    def begin(self, rows: int) -> _Text:
        self.require_still()
        nothing = torch.zeros(1, 0, dtype=torch.long, device=next(self.body.parameters()).device)
        left = math.inf if self.method.budget is None else self.method.budget
        return _Text(nothing, DynamicCache(), 0, [], 0, left)

    def read(self, ids: Tensor, state: _Text) -> Tensor:
        found = []
        while ids.shape[1]:
            n = state.ids.shape[1]
            if n and n % self.every == 0 and n != state.adapted:
                self._adapt(state)
            piece, ids = ids.tensor_split([self.every - n % self.every], 1)
            found.append(self._on(piece, state))
        return torch.cat(found, 1)

    def prompt(self, ids: Tensor, state: _Text, last: bool) -> Tensor:
        hidden = self._on(ids, state) if last and not state.weights else self.read(ids, state)
        self._adapt(state)
        if not state.weights:
            return hidden
        n = state.ids.shape[1]
        state.cache, state.ids, state.frozen = before(state.cache, n - 1), state.ids[:, :-1], min(state.frozen, n - 1)
        self.read_tokens -= 1
        return torch.cat([hidden[:, :-1], self._on(ids[:, -1:], state)], 1)

    def _on(self, ids: Tensor, state: _Text) -> Tensor:
        """Read tokens with the queries as they are."""
        hidden = self.hidden(ids, state.cache, self._asked(state.weights))
        self.read_tokens += ids.shape[1]
        state.ids = torch.cat([state.ids, ids], 1)
        if not state.weights:
            state.frozen = state.ids.shape[1]
        return hidden

    def _adapt(self, state: _Text) -> None:
        """Adapt the model's own queries to all that was read."""
        one, n = self.method, state.ids.shape[1]
        state.adapted = n
        span = min(one.span, n - 1)
        if not (one.steps and span) or one.steps * span > state.left:
            return
        state.left -= one.steps * span
        if state.frozen < n:
            state.cache = before(state.cache, state.frozen)
            self.hidden(state.ids[:, state.frozen :], state.cache, {})
            state.frozen = n
        weights = [layer.weight.detach().float().clone().requires_grad_() for layer in self.layers]
        optimizer = torch.optim.AdamW(weights, one.learning_rate, weight_decay=one.weight_decay)
        drawing = generator(one.seed, n, torch.device("cpu"))
        for _ in range(one.steps):
            start = int(torch.randint(n - span, (1,), generator=drawing))
            row = state.ids[:, start : start + span + 1]
            loss = self.loss(row, span, before(state.cache, start), self._asked(weights))
            step(loss, weights, optimizer, one.clip)
        state.weights = [weight.detach() for weight in weights]

    def _asked(self, weights: list[Tensor]) -> Mapping[nn.Module, Change]:
        if not weights:
            return {}
        return {layer: partial(_queries, layer, weight) for layer, weight in zip(self.layers, weights, strict=True)}


def _queries(layer: nn.Linear, weight: Tensor, x: Tensor, output: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.detach().float()
    return F.linear(x.float(), weight, bias).to(output.dtype)
