"""What can be asked: a live model, a server, or a stand-in with known results, all behind one seam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Ask:
    """A prompt, and what is wanted of its continuation.

    Attributes:
        prompt: token ids, at least one.
        answer: token ids that greedy decoding is to begin with; empty if that is not asked.
        room: how many tokens to decode greedily.
        ends: texts at which decoding may stop; what is written may hold one, with some characters behind it.
        before: tokens of the prompt before the text that is asked about.
        after: those of the question behind it; 0 where there is no such text.
    """

    prompt: Sequence[int]
    answer: Sequence[int] = ()
    room: int = 0
    ends: tuple[str, ...] = ()
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class Spent:
    """What an answer took that came of several calls.

    Attributes:
        tokens: of all prompts and answers, by our own count.
        share: those, of the tokens of the prompt as it is, the last answer at its longest on both sides.
        calls: that were made.
        chain: calls of the longest chain, each of which waited for the one before.
        notes: what a reader must know: text that nobody read, calls that came to nothing.
    """

    tokens: int
    share: float
    calls: int
    chain: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What a backend makes of an ``Ask``.

    Attributes:
        right: whether greedy decoding begins with the answer; None without an answer.
        logprob: mean log-probability of the answer's tokens; None without an answer, or where it was only decoded.
        written: decoded token ids, without the one that ends a text; empty where none were asked for, and where only
            the text is known.
        text: what was decoded, as text.
        spent: what it took, where that is more than the prompt and the answer.
        lost: why nothing was answered; empty if something was.
    """

    right: bool | None = None
    logprob: float | None = None
    written: tuple[int, ...] = ()
    text: str = ""
    spent: Spent | None = None
    lost: str = ""


class Backend:
    """Something that continues token ids.

    Attributes:
        tokenizer: makes the prompts.
        basis: what all results depend on (model, method, ...), by name; part of the key of every record.
        length_dependent: True if the loss of a token changes with the length of what follows it.
        no_losses: why ``rolling`` does not work; empty if it does.
        needs_text: True if prompts are asked only that can be told into a text and a question.
        reads: tokens that a prompt and its answer may have, where a server tells.
        checks: True if a sample of the teacher-forced answers should be decoded as well; where every answer is decoded
            anyway, or decoding is another computation, it is False.
    """

    tokenizer: PreTrainedTokenizerBase
    basis: dict[str, str]
    length_dependent: bool = False
    no_losses: str = ""
    reads: int | None = None
    needs_text: bool = False
    checks: bool = False

    @property
    def how(self) -> str:
        """How prompts are read, and why they are not read faster."""
        return "plain"

    @property
    def tokens(self) -> dict[str, int] | None:
        """Tokens "asked" for so far, and "read" for that; None where that is not known."""
        return None

    def describe(self) -> dict[str, Any]:
        """What a reader needs to know to get the same numbers."""
        raise TypeError(f"{type(self).__name__} does not describe itself")

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """Index and reply of every ask, each as soon as it is there, in any order."""
        raise TypeError(f"{type(self).__name__} answers no questions")

    def rolling(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, Losses]]:
        """Index and losses [T - 1] (nats) of every row of token ids, the first of which is not scored."""
        raise TypeError(f"{type(self).__name__} scores no texts")

    def loglikelihood(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """For each prompt and continuation, its total log-probability and whether greedy decoding would write it.

        Raises:
            ValueError: if the backend does not know probabilities.
        """
        found = dict(self.ask([Ask(prompt, answer) for prompt, answer in pairs]))
        likelihoods = []
        for i, (_, answer) in enumerate(pairs):
            if (logprob := found[i].logprob) is None:
                raise ValueError(f"{type(self).__name__} does not know probabilities")
            likelihoods.append((logprob * len(answer), bool(found[i].right)))
        return likelihoods

    def generate(self, prompts: Sequence[Sequence[int]], rooms: Sequence[int]) -> list[str]:
        """The greedy continuation of each prompt, at most ``rooms`` tokens long."""
        found = dict(self.ask([Ask(prompt, room=room) for prompt, room in zip(prompts, rooms, strict=True)]))
        return [found[i].text for i in range(len(prompts))]
