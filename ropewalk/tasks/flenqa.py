"""FLenQA: a question that two facts decide, while the padding around them grows (arXiv 2402.14848).

The facts are drawn before anything that depends on the length: the same seed asks the same at every length.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from ropewalk.tasks.context import (
    PLAIN,
    Background,
    Question,
    SharedContext,
    hidden_context,
    label,
    pose,
    records_context,
)
from ropewalk.tasks.names import ADJECTIVES, COLOURS, distinct, person
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

INTRODUCTION = (
    " Read the text below and answer the question behind it. What does not follow from the text is false, too."
)
RELATIONS = ("older", "younger", "taller", "shorter", "richer", "poorer", "faster", "slower", "stronger", "weaker")
ROOMS = ("hall", "study", "parlour", "pantry", "studio", "gallery", "chapel", "lounge")
PROPERTIES = (
    "a marble floor", "a glass ceiling", "a stone fireplace", "an iron door", "oak panels", "velvet curtains",
    "a bay window", "a spiral staircase", "a tiled stove", "painted walls",
)  # fmt: skip
TRAITS = tuple("kind quiet brave clever patient honest cheerful careful generous modest curious polite".split())
NAME = r"[A-Z]\w+ [A-Z]\w+ [A-Z]\w+"


@dataclass(frozen=True)
class Item:
    """Two facts and a statement that is true or false because of both; ``rule`` comes with the question."""

    facts: tuple[str, str]
    statement: str
    truth: bool
    rule: str = ""


@dataclass(frozen=True)
class Names:
    """Names that nobody and no room has yet."""

    people: Iterator[str]
    rooms: Iterator[str]

    @classmethod
    def of(cls, rng: random.Random) -> Names:
        def room() -> str:
            return f"{rng.choice(ADJECTIVES)} {rng.choice(COLOURS)} {rng.choice(ROOMS)}"

        return cls(distinct(lambda: person(rng)), distinct(room))


def relation(new: Names, rng: random.Random) -> Item:
    """A is older than B, who is older than C; false statements are about C and A."""
    first, middle, last = next(new.people), next(new.people), next(new.people)
    how, truth = rng.choice(RELATIONS), rng.random() < 0.5
    facts = (f" {first} is {how} than {middle}.", f" {middle} is {how} than {last}.")
    return Item(facts, f"{first} is {how} than {last}" if truth else f"{last} is {how} than {first}", truth)


def room(new: Names, rng: random.Random) -> Item:
    """Somebody is in a room, which has something."""
    who, where, truth, (has, other) = next(new.people), next(new.rooms), rng.random() < 0.5, rng.sample(PROPERTIES, 2)
    facts = (f" {who} is in the {where}.", f" The {where} has {has if truth else other}.")
    return Item(facts, f"{who} is in a room that has {has}", truth)


def rule(new: Names, rng: random.Random) -> Item:
    """Somebody meets both conditions of a rule, or only one."""
    who, truth, (one, two, other, then) = next(new.people), rng.random() < 0.5, rng.sample(TRAITS, 4)
    facts = (f" {who} is {one}.", f" {who} is {two if truth else other}.")
    return Item(facts, f"{who} is {then}", truth, f" If somebody is {one} and {two}, then this person is {then}.")


MAKERS: dict[str, Callable[[Names, random.Random], Item]] = {"relations": relation, "rooms": room, "rules": rule}


@dataclass(frozen=True)
class Flenqa(SharedContext):
    """True or false, with equal chance.

    Attributes:
        kind: "relations" (MonoRel), "rooms" (people in rooms) or "rules" (simplified RuleTaker).
        padding: "text" for the background, "task" for facts of the same kind about others.
        together: whether both facts stand at the asked depth, side by side; else each stands anywhere.
        background: the text of "text".
    """

    kind: str = "relations"
    padding: str = "text"
    together: bool = False
    background: Background = PLAIN
    name: str = field(init=False, default="flenqa")
    scope: str = "small"
    diffusion: str = field(init=False, default="")

    def __post_init__(self) -> None:
        place = "_together" if self.together else ""
        diffusion = "high" if self.padding == "task" else "low"
        label(self, name=f"flenqa_{self.kind}_{self.padding}{place}", diffusion=diffusion)

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """Two facts of their own for each depth."""
        new, make = Names.of(rng), MAKERS[self.kind]
        items = [make(new, rng) for _ in depths]
        questions = [
            Question(
                f"{item.rule} Is it true or false that {item.statement}? It is", str(item.truth).lower(),
                depth=depth if self.together else float("nan"), facts={"facts": list(item.facts)},
            )
            for item, depth in zip(items, depths, strict=True)
        ]  # fmt: skip
        pairs = [[depth] * 2 if self.together else sorted((rng.random(), rng.random())) for depth in depths]
        placed = sorted(
            (pair for item, at in zip(items, pairs, strict=True) for pair in zip(at, item.facts, strict=True)),
            key=itemgetter(0),
        )
        at, facts = [depth for depth, _ in placed], [fact for _, fact in placed]
        if self.padding == "text":
            context = hidden_context(
                self.name, n_tokens, units, INTRODUCTION, facts, at, questions, self.background, rng
            )
        else:
            others = (fact for item in iter(lambda: make(new, rng), None) for fact in item.facts)
            context, _ = records_context(self.name, n_tokens, units, INTRODUCTION, facts, at, questions, others)
        return pose(context, questions, n_tokens, units)

    def solve(self, prompt_text: str) -> str:
        """Whether the statement follows from the sentences of the text."""
        text, _, question = prompt_text.rpartition(" Is it true or false that ")
        statement = question.rpartition("? It is")[0]
        return str({"relations": chained, "rooms": furnished, "rules": ruled}[self.kind](text, statement)).lower()

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the last "true" or "false" is right; "not true" is false."""
        said = re.findall(r"\b(not )?(true|false)\b", prediction.lower())
        return float(bool(said) and ((said[-1][1] == "true") != bool(said[-1][0])) == (sample.text == "true"))


def chained(text: str, statement: str) -> bool:
    """Whether a chain of comparisons leads from one person to the other."""
    first, how, last = re.findall(rf"({NAME}) is (\w+) than ({NAME})", statement)[0]
    then: dict[str, list[str]] = {}
    for one, other in re.findall(rf"({NAME}) is {how} than ({NAME})\.", text):
        then.setdefault(one, []).append(other)
    reached, left = set(), [first]
    while left:
        one = left.pop()
        reached.add(one)
        left += [other for other in then.get(one, []) if other not in reached]
    return last in reached


def furnished(text: str, statement: str) -> bool:
    """Whether somebody's room has something."""
    who, what = re.findall(rf"({NAME}) is in a room that has (.+)", statement)[0]
    rooms = re.findall(rf"{who} is in the ([\w ]+)\.", text)
    return any(f"The {room} has {what}." in text for room in rooms)


def ruled(text: str, statement: str) -> bool:
    """Whether somebody meets both conditions of the rule, the last sentence of the text."""
    [(one, two)] = re.findall(r"If somebody is (\w+) and (\w+), then", text)
    who = re.findall(NAME, statement)[0]
    return f"{who} is {one}." in text and f"{who} is {two}." in text
