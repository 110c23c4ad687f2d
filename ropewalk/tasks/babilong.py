"""BABILong: what happened in a small world, told in sentences that are scattered over other text (arXiv 2406.10149).

The worlds follow the first eight bAbI tasks (arXiv 1502.05698) with people, places and wording of our own.

Not copied from the official code: an answer ends there at the first full stop, "<context>", "<example>" or "Question",
here at the first full stop or end of a line. A label counts there wherever its letters stand, here as a word; where
several are right (task 8), all have to be named.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ropewalk.tasks.context import (
    PLAIN,
    SPARE,
    Background,
    Question,
    SharedContext,
    hidden_context,
    label,
    mentions,
    pose,
)
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

PEOPLE = ("Ludmila", "Casimir", "Henrike", "Anselm", "Philippa", "Thaddeus")
PLACES = ("attic", "bakery", "cellar", "garden", "kitchen", "library", "stable", "workshop")
THINGS = ("apple", "candle", "hammer", "lantern", "pitcher", "violin")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
COUNTS = ("none", "one", "two", "three")
NOTHING = "nothing"

VERBS = {
    "move": ("went to", "moved to", "walked to", "hurried to"),
    "take": ("took", "picked up", "grabbed"),
    "drop": ("dropped", "put down", "left behind"),
    "give": ("gave", "handed", "passed"),
}
KIND = {verb: kind for kind, verbs in VERBS.items() for verb in verbs}
EVENT = re.compile(
    rf"({'|'.join(PEOPLE)}) ({'|'.join(KIND)}) the (\w+)(?: to ({'|'.join(PEOPLE)}))?\."
    rf"|The ({'|'.join(PLACES)}) is ({'|'.join(OPPOSITE)}) of the (\w+)\."
)


@dataclass
class World:
    """Who and what is where, after some events.

    Attributes:
        place: of each person who has moved.
        holder: of each thing that is carried.
        trail: the places where each thing has been, the last one is where it is.
        gifts: giver, thing and receiver, in time.
        had: everybody who ever took or got a thing.
        beside: (place, direction) -> the place that lies in that direction of it.
    """

    place: dict[str, str] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)
    trail: dict[str, list[str]] = field(default_factory=dict)
    gifts: list[tuple[str, str, str]] = field(default_factory=list)
    had: set[str] = field(default_factory=set)
    beside: dict[tuple[str, str], str] = field(default_factory=dict)

    def read(self, text: str) -> World:
        """Lets all events of a text happen."""
        for who, verb, what, receiver, near, direction, far in EVENT.findall(text):
            if near:
                self.beside[far, direction] = near
                self.beside[near, OPPOSITE[direction]] = far
            elif KIND[verb] == "move":
                self.place[who] = what
                for thing in self.carried(who):
                    self._comes_to(thing, what)
            elif KIND[verb] == "drop":
                self.holder.pop(what, None)
            elif KIND[verb] == "give":
                self.holder[what] = receiver
                self.gifts.append((who, what, receiver))
                self.had.add(receiver)
            else:
                self.holder[what] = who
                self.had.add(who)
                if who in self.place:
                    self._comes_to(what, self.place[who])
        return self

    def _comes_to(self, thing: str, place: str) -> None:
        trail = self.trail.setdefault(thing, [])
        if trail[-1:] != [place]:
            trail.append(place)

    def carried(self, who: str) -> list[str]:
        return [thing for thing, holder in self.holder.items() if holder == who]

    def possible(self, kinds: tuple[str, ...], rng: random.Random) -> list[str]:
        """One sentence of each kind of event that may happen next."""
        events = {}
        who = rng.choice(PEOPLE)
        here = self.place.get(who)
        events["move"] = f"the {rng.choice([one for one in PLACES if one != here])}"
        free = [one for one in THINGS if one not in self.holder and self.trail.get(one, [here])[-1] == here]
        if here and free and len(self.carried(who)) < len(COUNTS) - 1:
            events["take"] = f"the {rng.choice(free)}"
        near = [one for one in PEOPLE if one != who and here and self.place.get(one) == here]
        near = [one for one in near if len(self.carried(one)) < len(COUNTS) - 1]
        if self.carried(who):
            events["drop"] = f"the {rng.choice(self.carried(who))}"
            if near:
                events["give"] = f"the {rng.choice(self.carried(who))} to {rng.choice(near)}"
        return [f" {who} {rng.choice(VERBS[kind])} {events[kind]}." for kind in kinds if kind in events]


# A kind of question: what may be asked of a world, as (question, answers).
Asked = list[tuple[str, tuple[str, ...]]]


def where_people_are(world: World, rng: random.Random) -> Asked:
    return [(f"Where is {who}?", (place,)) for who, place in world.place.items()]


def where_things_are(world: World, rng: random.Random) -> Asked:
    return [(f"Where is the {thing}?", (trail[-1],)) for thing, trail in world.trail.items()]


def where_things_were(world: World, rng: random.Random) -> Asked:
    return [
        (f"Where was the {thing} before it was in the {trail[-1]}?", (trail[-2],))
        for thing, trail in world.trail.items()
        if len(trail) > 1
    ]


def what_lies_beside(world: World, rng: random.Random) -> Asked:
    return [(f"What is {direction} of the {place}?", (other,)) for (place, direction), other in world.beside.items()]


def who_gave(world: World, rng: random.Random) -> Asked:
    """About the last gift of each thing, to each receiver and by each giver."""
    last: dict[str, str] = {}
    for giver, thing, receiver in world.gifts:
        last[f"Who gave the {thing} to {receiver}?"] = giver
        last[f"What did {giver} give to {receiver}?"] = thing
        last[f"To whom did {giver} give the {thing}?"] = receiver
    return [(question, (answer,)) for question, answer in last.items()]


def whether_people_are(world: World, rng: random.Random) -> Asked:
    """Half of the answers are yes."""
    asked: Asked = []
    for who, place in world.place.items():
        elsewhere = rng.choice([one for one in PLACES if one != place])
        asked.append(rng.choice([(f"Is {who} in the {place}?", ("yes",)), (f"Is {who} in the {elsewhere}?", ("no",))]))
    return asked


def how_many_things(world: World, rng: random.Random) -> Asked:
    return [(f"How many things does {who} carry?", (COUNTS[len(world.carried(who))],)) for who in sorted(world.had)]


def which_things(world: World, rng: random.Random) -> Asked:
    return [(f"What does {who} carry?", tuple(world.carried(who)) or (NOTHING,)) for who in sorted(world.had)]


@dataclass(frozen=True)
class Kind:
    """One of the bAbI tasks.

    Attributes:
        events: what happens; none for a map of places.
        facts: how many sentences there may be.
        ask: the questions.
        labels: all possible answers.
        example: facts, question and answer, about other people and places.
        scope: "small" if one sentence is enough.
    """

    events: tuple[str, ...]
    facts: range
    ask: Callable[[World, random.Random], Asked]
    labels: tuple[str, ...]
    example: str
    scope: str = "large"


HANDLING = ("move", "take", "drop")
KINDS = {
    1: Kind(("move",), range(2, 11), where_people_are, PLACES,
            "Tom went to the office. Where is Tom? Answer: office.", "small"),
    2: Kind(HANDLING, range(2, 69), where_things_are, PLACES,
            "Tom went to the office. Tom took the key. Where is the key? Answer: office."),
    3: Kind(HANDLING, range(4, 33), where_things_were, PLACES,
            "Tom went to the office. Tom took the key. Tom moved to the hall. "
            "Where was the key before it was in the hall? Answer: office."),
    4: Kind((), range(2, 3), what_lies_beside, PLACES,
            "The office is north of the hall. What is south of the office? Answer: hall."),
    5: Kind((*HANDLING, "give"), range(2, 69), who_gave, PEOPLE + THINGS,
            "Tom gave the key to Ann. Who gave the key to Ann? Answer: Tom.", "small"),
    6: Kind(("move",), range(2, 27), whether_people_are, ("yes", "no"),
            "Tom went to the office. Is Tom in the hall? Answer: no.", "small"),
    7: Kind((*HANDLING, "give"), range(2, 53), how_many_things, COUNTS,
            "Tom took the key. Tom dropped the key. How many things does Tom carry? Answer: none."),
    8: Kind(HANDLING, range(2, 53), which_things, (*THINGS, NOTHING),
            "Tom took the key. Tom took the ring. What does Tom carry? Answer: key, ring."),
}  # fmt: skip
INTRODUCTION = (
    " Facts are hidden in the text below. Later facts replace earlier ones. Answer the question behind the text with as"
    " few words as possible. Example: "
)


@dataclass(frozen=True)
class Babilong(SharedContext):
    """A story whose sentences stand at random places of a text, in their order.

    Attributes:
        qa: which of the bAbI tasks, 1 to 8.
        background: what the sentences are hidden in.
    """

    qa: int = 1
    background: Background = PLAIN
    name: str = field(init=False, default="babilong")
    scope: str = field(init=False, default="")
    diffusion: str = "high"
    free: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        # Things may be listed in any order.
        label(self, name=f"babilong_qa{self.qa}", scope=KINDS[self.qa].scope, free=self.qa == 8)

    @property
    def labels(self) -> tuple[str, ...]:
        """All possible answers."""
        return KINDS[self.qa].labels

    @property
    def example(self) -> str:
        """Facts, question and answer, about other people and places."""
        return KINDS[self.qa].example

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """Up to one question per depth about one story; the depths are not used, facts are spread at random."""
        sentences, asked = self._story(n_tokens // 2, rng, units)
        questions = [
            Question(
                f" {question} Answer:", ", ".join(answers), references=answers, spare=SPARE if self.free else 0,
                facts={"question": question, "sentences": len(sentences)},
            )
            for question, answers in rng.sample(asked, min(len(asked), len(depths)))
        ]  # fmt: skip
        at = sorted(rng.random() for _ in sentences)
        introduction = INTRODUCTION + self.example
        context = hidden_context(
            self.name, n_tokens, units, introduction, sentences, at, questions, self.background, rng
        )
        return pose(context, questions, n_tokens, units)

    def _story(self, most_tokens: int, rng: random.Random, units: TokenUnits) -> tuple[list[str], Asked]:
        """Sentences until there are enough of them (or ``most_tokens``) and there is something to ask."""
        kind, world, n_tokens = KINDS[self.qa], World(), 0
        if not kind.events:
            sentences = directions(rng)
            return sentences, kind.ask(world.read(" ".join(sentences)), rng)
        wanted = rng.choice(kind.facts)
        story: list[str] = []
        asked: Asked = []
        while not asked or (len(story) < wanted and n_tokens < most_tokens):
            story.append(rng.choice(world.possible(kind.events, rng)))
            n_tokens += len(units.ids(story[-1]))
            world.read(story[-1])
            asked = kind.ask(world, rng)
        return story, asked

    def solve(self, prompt_text: str) -> str:
        """The answer, by letting everything happen that the prompt tells."""
        world = World().read(prompt_text)
        question = prompt_text.removesuffix(" Answer:")
        answers = KINDS[self.qa].ask(world, random.Random(0))
        if self.qa == 6:
            who, place = re.findall(r"Is (\w+) in the (\w+)\?", question)[-1]
            return "yes" if world.place.get(who) == place else "no"
        return next((", ".join(answer) for asked, answer in answers if question.endswith(asked)), "")

    def said(self, prediction: str) -> str:
        """What of a prediction is read: its first sentence."""
        return re.split(r"[.\n]", prediction.strip())[0]

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the labels in the first sentence, but for those of the question, are the right ones."""
        said = self.said(prediction)
        labels = (one for one in self.labels if not mentions(sample.facts["question"], one))
        return float({one for one in labels if mentions(said, one)} == set(sample.references))


def directions(rng: random.Random) -> list[str]:
    """Three places on a line, by two sentences."""
    first, second, third = rng.sample(PLACES, 3)
    direction = rng.choice(list(OPPOSITE))
    sentences = [
        f" The {a} is {direction} of the {b}."
        if rng.random() < 0.5
        else f" The {b} is {OPPOSITE[direction]} of the {a}."
        for a, b in ((first, second), (second, third))
    ]
    return rng.sample(sentences, len(sentences))
