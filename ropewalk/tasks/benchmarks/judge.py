"""Grading by a language model, for answers that no rule can score. Nothing here runs unless a judge is given.

Prompts are our own; a number from a judge is comparable only with numbers from the same judge and prompts, so results
name both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ropewalk.common.errors import UserError
from ropewalk.common.extras import install

RECALL = """Count the key points that a summary contains. A point counts if the summary supports its facts.

Key points:
{points}

Summary: {answer}

Reply with one line: "Score: " and the number of key points that the summary contains."""

PREFERENCE = """Two answers to the same question; which one is better, going by the reference? Length is no merit.

Question: {question}
Reference: {reference}

Answer 1: {first}

Answer 2: {second}

Reply with one line: "Score: 1" or "Score: 2", or "Score: 0" for a tie."""


class Judge(Protocol):
    """A language model that grades."""

    @property
    def name(self) -> str:
        """For the record of results."""

    def __call__(self, prompt: str) -> str:
        """The model's reply."""


@dataclass(frozen=True)
class EndpointJudge:
    """A judge behind an OpenAI-compatible endpoint, asked at temperature 0.

    Attributes:
        name: the model.
        base_url: of the endpoint; that of OpenAI unless given.
        key: environment variable with the API key; endpoints without keys need none.
        max_tokens: of a reply.
    """

    name: str
    base_url: str | None = None
    key: str = "OPENAI_API_KEY"
    max_tokens: int = 1024

    def __call__(self, prompt: str) -> str:
        """The reply.

        Raises:
            UserError: if the openai library is missing or the endpoint does not answer.
        """
        try:
            from openai import OpenAI, OpenAIError
        except ImportError as error:
            raise UserError("asking a judge needs the openai library", install("openai")) from error
        key = os.environ.get(self.key)
        if key is None and self.base_url is None:
            raise UserError(f"the judge {self.name} needs an API key in {self.key}", f"export {self.key}=...")
        try:
            with OpenAI(base_url=self.base_url, api_key=key or "none") as client:
                reply = client.chat.completions.create(
                    model=self.name,
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0,
                    max_tokens=self.max_tokens,
                )
        except OpenAIError as error:
            raise UserError(f"the judge {self.name} at {self.base_url or 'OpenAI'} failed: {error}") from error
        return reply.choices[0].message.content or ""


def ask(judge: Judge, prompt: str, top: int) -> int:
    """The judge's grade, 0 to ``top``: the last "Score: N" of its reply.

    Raises:
        UserError: if two replies hold no such grade.
    """
    for _ in range(2):
        reply = judge(prompt)
        grades = [int(n) for n in re.findall(r"score:\s*(\d+)", reply.replace("*", ""), re.IGNORECASE)]
        if grades and grades[-1] <= top:
            return grades[-1]
    raise UserError(f'the judge {judge.name} replied {reply[:80]!r}, expected "Score: N" with N from 0 to {top}')


def preference(judge: Judge, question: str, reference: str, ours: str, theirs: str) -> float:
    """1 if the judge prefers ours, 0.5 for a tie, 0 otherwise; asked in both orders, because judges favour a place."""
    ask_for = {"question": question, "reference": reference}
    here = ask(judge, PREFERENCE.format(first=ours, second=theirs, **ask_for), 2)
    there = ask(judge, PREFERENCE.format(first=theirs, second=ours, **ask_for), 2)
    return ({1: 1.0, 0: 0.5, 2: 0.0}[here] + {2: 1.0, 0: 0.5, 1: 0.0}[there]) / 2


def listed(items: Sequence[str]) -> str:
    """Items on numbered lines."""
    return "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
