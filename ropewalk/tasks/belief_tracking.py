"""Belief tracking: who knows what after each step of a story (theory of mind in LongProc, arXiv 2501.05414).

The answer is the whole trace; a prediction earns the share of it before its first error.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ropewalk.tasks.context import (
    PLAIN,
    Background,
    Question,
    SharedContext,
    hidden_context,
    label,
    pose,
    share_before_first_error,
)
from ropewalk.tasks.names import FIRST
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

ROOMS = {"kitchen": ("cupboard", "basket"), "cellar": ("crate", "barrel"), "study": ("drawer", "chest")}
THINGS = {"kitchen": "spoon", "cellar": "lantern", "study": "letter"}
UNKNOWN = "unknown"
EVENT = re.compile(r"Step (\d+): (\w+) (goes to|moves the \w+ to) the (\w+)\.")
STEP = re.compile(r"- Step \d+: [^.]*\.")


class Beliefs:
    """Where things and people are, and where people think that things are.

    Everybody sees what happens in the own room, and on coming in what is in its containers.
    """

    def __init__(self, people: Sequence[str]):
        self.room: dict[str, str] = {}
        self.container = {thing: ROOMS[room][0] for room, thing in THINGS.items()}
        self.thought = {(who, thing): UNKNOWN for thing in THINGS.values() for who in people}
        self.people = people

    def enter(self, who: str, room: str) -> None:
        self.room[who] = room
        self.thought[who, THINGS[room]] = self.container[THINGS[room]]

    def move(self, who: str, container: str) -> None:
        room = self.room[who]
        self.container[THINGS[room]] = container
        for one, here in self.room.items():
            if here == room:
                self.thought[one, THINGS[room]] = container

    def line(self, step: str) -> str:
        """The state after a step."""
        states = (
            f"{thing} in {place}, " + ", ".join(f"{who} thinks {self.thought[who, thing]}" for who in self.people)
            for thing, place in self.container.items()
        )
        return f"- Step {step}: {'; '.join(states)}."


@dataclass(frozen=True)
class BeliefTracking(SharedContext):
    """Theory of mind: after each step of a scattered story, where every thing is and where everybody thinks it is.

    Attributes:
        steps: of the story.
        people: how many there are.
        background: what the story is scattered in.
    """

    steps: int = 10
    people: int = 3
    background: Background = PLAIN
    name: str = field(init=False, default="belief_tracking")
    scope: str = "large"
    diffusion: str = "high"

    introduction = (
        " A story is hidden in the text below. The spoon is in the kitchen and first in the cupboard there, the lantern"
        " is in the cellar and first in the crate there, the letter is in the study and first in the drawer there."
        " People see what happens in their own room, and on coming in they see what is in its containers."
    )

    def __post_init__(self) -> None:
        label(self, name=f"belief_tracking_{self.steps}")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """One question; the steps stand anywhere, in their order."""
        people = rng.sample(FIRST, self.people)
        world, story, trace = Beliefs(people), [], []
        for step in range(1, self.steps + 1):
            who = rng.choice([one for one in people if one not in world.room] or people)
            room = world.room.get(who)
            if room is None or rng.random() < 0.5:
                goal = rng.choice([one for one in ROOMS if one != room])
                world.enter(who, goal)
                story.append(f" Step {step}: {who} goes to the {goal}.")
            else:
                thing = THINGS[room]
                goal = next(one for one in ROOMS[room] if one != world.container[thing])
                world.move(who, goal)
                story.append(f" Step {step}: {who} moves the {thing} to the {goal}.")
            trace.append(world.line(str(step)))
        stem = (
            f" Where is each thing after each step, and where do {', '.join(people)} think that it is? Write {UNKNOWN}"
            f" for a thing that somebody has not seen, as in: {Beliefs(people).line('0')} The steps are:"
        )
        question = Question(stem, " ".join(trace), facts={"steps": self.steps})
        at = sorted(rng.random() for _ in story)
        context = hidden_context(
            self.name, n_tokens, units, self.introduction, story, at, [question], self.background, rng
        )
        return pose(context, [question], n_tokens, units)

    def solve(self, prompt_text: str) -> str:
        """The trace, by letting the story happen."""
        people = re.findall(r"where do (.+) think that", prompt_text)[-1].split(", ")
        world, trace = Beliefs(people), []
        for step, who, does, goal in EVENT.findall(prompt_text):
            (world.enter if does == "goes to" else world.move)(who, goal)
            trace.append(world.line(step))
        return " ".join(trace)

    def score(self, prediction: str, sample: Sample) -> float:
        """The share of steps up to the first wrong one."""
        return share_before_first_error(STEP.findall(prediction), STEP.findall(sample.text))
