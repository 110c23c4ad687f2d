"""Stand-ins that read by rule: what a strategy answers, and what it costs, is known beforehand."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from ropewalk.common.store import SampleStore
from ropewalk.workflows.answered import asked_of
from ropewalk.workflows.metered import Metered
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategy import Reading, Strategy
from tests.talkers import Talker

FACT = re.compile(r"The code of (\w+) is (\d+)\.")
QUESTION = "What are all codes?"


def fact(name: str, number: int) -> str:
    return f"The code of {name} is {number}. "


def filler(first: int, count: int) -> str:
    """Sentences without facts, each another one."""
    days = range(first, first + count)
    return "".join(
        f"On day {day} the grass is green, the sky is blue, and nothing else is said of it. " for day in days
    )


def text_with(facts: dict[str, int], sentences: int) -> str:
    """Facts spread evenly over a text of so many other sentences."""
    every = sentences // (len(facts) + 1)
    parts = []
    for i, (name, number) in enumerate(facts.items()):
        parts += [filler(i * every, every), fact(name, number)]
    return "".join(parts) + filler(len(facts) * every, sentences - every * len(facts))


def examples_with(facts: dict[str, int], rows: int) -> str:
    """Facts spread evenly over the answers of rows of examples."""
    lines = [{"question": f"What is said of the grass in part {i}?", "answer": filler(i, 1)} for i in range(rows)]
    for i, (name, number) in enumerate(facts.items(), 1):
        lines[i * (rows - 1) // len(facts)]["answer"] = fact(name, number)
    return "\n".join(map(json.dumps, lines))


def finds(prompt: str, again: int) -> str:
    """All facts that stand in the prompt, each once."""
    return " ".join(dict.fromkeys(match.group() for match in FACT.finditer(prompt))) or "nothing"


def forgets(most: int) -> Any:
    """A reader that keeps the facts that it met last, ``most`` of them."""
    met: list[str] = []

    def say(prompt: str, again: int) -> str:
        here = {match.group() for match in FACT.finditer(prompt)}
        met.extend(sorted(here - {*met}, key=prompt.index))
        return " ".join([one for one in met if one in here][-most:]) or "nothing"

    return say


def metered(talker: Talker | None = None, window: int = 1024, **more: Any) -> Metered:
    """A model that reads by rule and does not pause."""
    talker = talker or Talker(finds)
    more.setdefault("records", SampleStore())
    return Metered(talker, talker.tokenizer, True, window, pause=0, **more)


def reading(text: str, question: str = QUESTION, room: int = 128) -> Reading:
    return asked_of(text, question, room)


def answer_of(strategy: Strategy, text: str, model: Metered | None = None, **more: Any) -> tuple[str, Metered]:
    """What is answered, and the model with its trace."""
    model = model or metered()
    return asyncio.run(strategy.read(model, reading(text, **more))), model


def budget(tokens: int | None = None, calls: int | None = None) -> Budget:
    return Budget(tokens, calls)
