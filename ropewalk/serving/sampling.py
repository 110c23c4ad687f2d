"""The next token out of logits, as one request wants it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ropewalk.serving.job import Request

GREEDY = 1e-4  # temperatures below it take the most likely token


class Sampler:
    """Chooses the tokens of one answer."""

    def __init__(self, request: Request, device: torch.device):
        self._request, self._made = request, Counter[int]()
        self._random = torch.Generator(device)
        if request.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(request.seed)
        self._warpers: list[Any] = [TemperatureLogitsWarper(float(request.temperature))] if self._samples else []
        if self._samples and request.top_k:
            self._warpers.append(TopKLogitsWarper(request.top_k))
        if self._samples and request.top_p < 1:
            self._warpers.append(TopPLogitsWarper(request.top_p))

    @property
    def _samples(self) -> bool:
        return self._request.temperature >= GREEDY

    def choose(self, logits: Tensor) -> int:
        """The next token.

        Args:
            logits: float32 [vocabulary].

        Raises:
            ArithmeticError: if they are no numbers.
        """
        if bool(logits.isnan().any()):
            raise ArithmeticError("the model's logits are not numbers")
        scores = self._penalised(logits)[None]
        for warper in self._warpers:
            scores = warper(None, scores)
        probable = scores.softmax(-1)
        token = int(torch.multinomial(probable, 1, generator=self._random) if self._samples else scores.argmax())
        self._made[token] += 1
        return token

    def _penalised(self, logits: Tensor) -> Tensor:
        presence, frequency = self._request.presence_penalty, self._request.frequency_penalty
        if not self._made or not (presence or frequency):
            return logits
        tokens = torch.tensor(list(self._made), device=logits.device)
        times = torch.tensor(list(self._made.values()), dtype=logits.dtype, device=logits.device)
        return logits.index_add(0, tokens, -(presence + frequency * times))
