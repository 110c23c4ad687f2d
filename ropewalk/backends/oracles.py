"""Stand-ins for models whose results are known beforehand: they test tasks, scores, statistics and reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.backends.backend import Ask, Backend, Losses, Reply
from ropewalk.common.fingerprints import tokenizer_fingerprint
from ropewalk.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WindowOracle(Backend):
    """Sees the end of a prompt and solves the task there by its own rules; without a window it is always right.

    Args:
        tokenizer: of the prompts.
        tasks: what may be asked; the first that finds an answer gives it.
        window: how many tokens of the prompt it sees; None is all of them.
    """

    no_losses = "an oracle does not know probabilities"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], window: int | None = None):
        self.tokenizer, self.tasks, self.window = tokenizer, tasks, window
        self.name = "solver" if window is None else f"solver of the last {window} tokens"
        self.basis = {"model": self.name, "method": "none"}

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "tokenizer_fingerprint": tokenizer_fingerprint(self.tokenizer)}

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for i, ask in enumerate(asks):
            seen = ask.prompt if self.window is None else ask.prompt[-self.window :]
            text = self._solve(str(self.tokenizer.decode(list(seen), skip_special_tokens=True)))
            wanted = str(self.tokenizer.decode(list(ask.answer))).strip()
            yield i, Reply(text == wanted if ask.answer else None, None, text=text if ask.room else "")

    def _solve(self, prompt: str) -> str:
        for task in self.tasks:
            try:
                found = task.solve(prompt)
            except Exception:  # a solver may rely on what a cut prompt has not
                continue
            if found:
                return found
        return ""


class ConstantModel(Backend):
    """Gives every token the same probability, and writes token 0: its perplexity is the size of the vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int):
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.basis = {"model": f"constant over {vocabulary} tokens", "method": "none"}

    def describe(self) -> dict[str, Any]:
        return {"name": self.basis["model"], "tokenizer_fingerprint": tokenizer_fingerprint(self.tokenizer)}

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for i, ask in enumerate(asks):
            right = not any(ask.answer) if ask.answer else None
            written = (0,) * ask.room
            logprob = -math.log(self.vocabulary) if ask.answer else None
            yield i, Reply(right, logprob, written, str(self.tokenizer.decode(list(written))))

    def rolling(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, Losses]]:
        for i, row in enumerate(rows):
            yield i, np.full(len(row) - 1, math.log(self.vocabulary))
