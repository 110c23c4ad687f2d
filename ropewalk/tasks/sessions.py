"""Chats with dates: facts that change, and facts that are not there (abilities of LongMemEval, arXiv 2410.10813).

The abilities are the paper's, "knowledge update" and "abstention"; text, values and scores are ours, by rule where the
original asks a judge. Chats stand in the order of their dates, and the question is asked behind all of them. Every chat
tells something of somebody, in the same words as what is asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter

from ropewalk.tasks.assembly import joined
from ropewalk.tasks.context import (
    SPARE,
    Context,
    Question,
    as_many_as_fit,
    context_tokens,
    label,
    mentions,
    pose,
    quiet,
)
from ropewalk.tasks.names import distinct, person, thing
from ropewalk.tasks.task import Sample, Task
from ropewalk.texts.pieces import TokenUnits

INTRODUCTION = " Below are chats of a user with an assistant, in the order of their dates."
PERSONS = ("dentist", "landlord", "piano teacher", "accountant", "doctor")
WORDS = ("gate code", "password", "alarm word", "locker code", "team name")
OWNERS = (
    "sister", "brother", "aunt", "uncle", "cousin", "neighbour", "boss", "colleague", "grandmother", "grandfather",
    "niece", "nephew", "tutor", "coach", "flatmate",
)  # fmt: skip
TALK = (
    ("How do I boil an egg?", "Seven minutes in boiling water, then cold water."),
    ("How should I start the day?", "A glass of water and a short walk are hard to beat."),
    ("What can I do against a draught?", "Put a folded blanket along the bottom of the door."),
    ("The bicycle squeaks.", "A drop of oil on the chain helps in most cases."),
    ("Is it going to rain?", "I cannot see the sky, but an umbrella does no harm."),
    ("Name a game for a long train ride.", "Name animals in turn, each beginning with the last letter."),
    ("I forgot what I wanted to ask.", "It will come back, and I am here."),
    ("How often does a cactus need water?", "Once in two weeks in summer, and hardly at all in winter."),
)
STATES = ("{Whose} {attribute} is {value}.", "Please note: {whose} {attribute} is {value}.")
CHANGES = ("{Whose} {attribute} is now {value}.", "Something changed: {whose} {attribute} is {value}.")
NOTED = ("Noted.", "I will remember that.", "Thank you, I have it.")
FIRST, MINUTES, AFTER = datetime(2015, 1, 1), 60 * 24 * 3000, range(1, 60)  # of chats; days until the question
OWNED = rf"([Mm]y(?: \w+'s)?) ({'|'.join((*PERSONS, *WORDS))})"
STATED = re.compile(rf"{OWNED} is (?:now )?([^.?]+)\.")
REFUSALS = (
    "unknown", "not mentioned", "not stated", "not said", "not told", "not given", "not provided", "not specified",
    "not known", "no information", "does not say", "doesn't say", "do not say", "don't say", "do not know",
    "don't know", "cannot be determined", "cannot tell", "can't tell",
)  # fmt: skip
UNKNOWN = REFUSALS[0]
Owned = tuple[str, str]  # whose ("my", "my sister's"), and what: a person or a word
NEXT: dict[str, Callable[[random.Random], str]] = {**dict.fromkeys(PERSONS, person), **dict.fromkeys(WORDS, thing)}


@dataclass(frozen=True)
class Told:
    """What a chat tells: when (minutes after the first), whose what, its value, and whether it says that it is new."""

    minute: int
    owned: Owned
    value: str
    new: bool = False


class Sessions(Task):
    """Chats, as many as the context holds; subclasses say what is asked, and what the chats tell for that."""

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A question whose answer is told at ``depth`` of all time (drawn uniformly if None).

        Raises:
            TooShort: if ``n_tokens`` does not hold the chats that are needed.
        """
        values = {what: distinct(lambda what=what: NEXT[what](rng)) for what in NEXT}  # type: ignore[misc]
        told, silent, question = self._case(rng.random() if depth is None else depth, values, rng)
        own = [(one.minute, units.ids(chat(one, rng))) for one in told]
        head = units.ids(INTRODUCTION)
        n_others = context_tokens(self.name, n_tokens, units, [question], units.bos, head, *(ids for _, ids in own))
        others = self._others({*silent, *(one.owned for one in told)}, values, rng)
        some = as_many_as_fit(n_others, others, itemgetter(1), units)
        chats = [*own, *((minute, units.ids(text)) for minute, text in some)]
        rest = n_others - sum(len(ids) for _, ids in chats[len(own) :])
        front = units.bos + quiet(rest, units) + head
        text = joined([ids for _, ids in sorted(chats, key=itemgetter(0))])
        return pose(Context(front + text, len(front)), [question], n_tokens, units)[0]

    def _case(
        self, depth: float, values: dict[str, Iterator[str]], rng: random.Random
    ) -> tuple[list[Told], Collection[Owned], Question]:
        """What chats tell for a question, what no chat may tell, and the question."""
        raise TypeError(f"{type(self).__name__} asks nothing")

    def _others(
        self, silent: Collection[Owned], values: dict[str, Iterator[str]], rng: random.Random
    ) -> Iterator[tuple[int, str]]:
        """Other chats without end, with their minutes; what is about anything else may change, too."""
        while True:
            owned = anything(rng)
            if owned not in silent:
                told = Told(rng.randrange(MINUTES), owned, next(values[owned[1]]), rng.random() < 0.5)
                yield told.minute, chat(told, rng)


def anything(rng: random.Random) -> Owned:
    owner = rng.choice(("", *OWNERS))
    return f"my {owner}'s" if owner else "my", rng.choice(list(NEXT))


def chat(told: Told, rng: random.Random) -> str:
    """One chat: what is told stands among other talk."""
    whose, what = told.owned
    said = rng.choice(CHANGES if told.new else STATES)
    said = said.format(Whose=whose.capitalize(), whose=whose, attribute=what, value=told.value)
    talk = [*rng.sample(TALK, rng.randint(0, 2)), (said, rng.choice(NOTED))]
    lines = " ".join(f"User: {user} Assistant: {assistant}" for user, assistant in rng.sample(talk, len(talk)))
    return f" [{FIRST + timedelta(minutes=told.minute):%Y-%m-%d %H:%M}] {lines}"


def today(rng: random.Random) -> str:
    """A day after all chats."""
    return f"{FIRST + timedelta(minutes=MINUTES, days=rng.choice(AFTER)):%Y-%m-%d}"


def read(prompt_text: str) -> dict[Owned, list[str]]:
    """All that chats tell, each value behind the older ones."""
    table: dict[Owned, list[str]] = {}
    for whose, what, value in STATED.findall(prompt_text):
        table.setdefault((whose.lower(), what), []).append(value)
    return table


def answer_of(prediction: str) -> str:
    """What of a prediction is read: its first line, before any further chat."""
    return re.split(r"\n|\bUser:|\[", prediction.strip())[0]


UPDATES = {
    "current": "{Who} is {owned} today?",
    "earlier": "{Who} was {owned} just before the last change?",
    "changes": "How many times did {owned} change?",
}


@dataclass(frozen=True)
class SessUpdate(Sessions):
    """A value that changes; in half of the samples nothing but the order tells which one is the last.

    Attributes:
        asks: "current" for the last value, "earlier" for the one before it, "changes" for their number.
    """

    asks: str = "current"
    name: str = field(init=False, default="sess-update")
    scope: str = field(init=False, default="")
    diffusion: str = "high"
    free: bool = True

    def __post_init__(self) -> None:
        name = "sess-update" if self.asks == "current" else f"sess-update_{self.asks}"
        label(self, name=name, scope="small" if self.asks == "current" else "large")

    def _case(
        self, depth: float, values: dict[str, Iterator[str]], rng: random.Random
    ) -> tuple[list[Told], Collection[Owned], Question]:
        owned, words = anything(rng), rng.random() < 0.5
        n = rng.randint(1, 4) if self.asks == "changes" else rng.randint(2, 3)
        asked = n - 2 if self.asks == "earlier" else n - 1
        at = min(max(int(depth * MINUTES), n), MINUTES - 1 - n)
        minutes = [*rng.sample(range(at), asked), at, *rng.sample(range(at + 1, MINUTES), n - 1 - asked)]
        versions = tuple(next(values[owned[1]]) for _ in range(n))
        told = [
            Told(minute, owned, value, words and i > 0)
            for i, (minute, value) in enumerate(zip(sorted(minutes), versions, strict=True))
        ]
        whose, what = owned
        asks = UPDATES[self.asks].format(Who="Who" if what in PERSONS else "What", owned=f"{whose} {what}")
        answer = str(n - 1) if self.asks == "changes" else versions[asked]
        place = float("nan") if self.asks == "changes" else depth
        facts = {"versions": versions, "said to be new": words}
        stem = f" It is {today(rng)}. {asks} The answer is"
        return told, (), Question(stem, answer, place, facts=facts, spare=SPARE)

    def solve(self, prompt_text: str) -> str:
        """The value, or the number of changes, from a table of all that chats tell."""
        whose, what = re.findall(rf"(?:is|was|did) {OWNED}\b", prompt_text)[-1]
        versions = read(prompt_text)[whose, what]
        return {"current": lambda: versions[-1], "earlier": lambda: versions[-2],
                "changes": lambda: str(len(versions) - 1)}[self.asks]()  # fmt: skip

    def guess(self, prompt_text: str) -> str:
        """One change."""
        return "1" if self.asks == "changes" else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the last value that the answer names, or its first number, is the right one."""
        if self.asks == "changes":
            return float(re.findall(r"\d+", answer_of(prediction))[:1] == [sample.text])
        return float(last_named(prediction, sample) == sample.text)

    def readings(self, prediction: str, sample: Sample) -> dict[str, float]:
        """How often an old value is taken for the current one, or the current one for an old one."""
        said, versions = last_named(prediction, sample), sample.facts["versions"]
        if self.asks == "changes":
            return {}
        if self.asks == "current":
            return {"stale value": float(said in versions[:-1])}
        return {"value of today": float(said == versions[-1])}


def last_named(prediction: str, sample: Sample) -> str:
    """The version of the value that an answer names last; empty if none."""
    text = answer_of(prediction).lower()
    at = {one: text.rfind(one.lower()) for one in sample.facts["versions"] if mentions(text, one)}
    return max(at, key=at.__getitem__, default="")


@dataclass(frozen=True)
class SessAbstain(Sessions):
    """A pair of questions in one prompt about one person, of which chats answer one; both have to be right.

    Something else of the same kind is told about that person, which would be a wrong answer to the other. Asked in one
    prompt, where the original has questions of their own: so that a pair is one sample, and who always refuses gets 0.
    """

    name: str = "sess-abstain"
    scope: str = "small"
    diffusion: str = "high"
    free: bool = True

    def _case(
        self, depth: float, values: dict[str, Iterator[str]], rng: random.Random
    ) -> tuple[list[Told], Collection[Owned], Question]:
        whose = anything(rng)[0]
        told, bait, untold = rng.sample(rng.choice((PERSONS, WORDS)), 3)
        value, other = next(values[told]), next(values[bait])
        minutes = min(int(depth * MINUTES), MINUTES - 1), rng.randrange(MINUTES)
        chats = [Told(minutes[0], (whose, told), value), Told(minutes[1], (whose, bait), other)]
        pair = rng.sample([(told, value), (untold, UNKNOWN)], 2)
        asks = " and ".join(f"{whose} {what}" for what, _ in pair)
        stem = (
            f" It is {today(rng)}. What are {asks}? Give both answers in this order, with a semicolon between them, and"
            f" {UNKNOWN} for what no chat says. The answers are"
        )
        facts = {"value": value, "bait": other, "told first": pair[0][0] == told}
        answer = "; ".join(one for _, one in pair)
        return chats, {(whose, untold)}, Question(stem, answer, depth, facts=facts, spare=SPARE)

    def solve(self, prompt_text: str) -> str:
        """Both answers, from a table of all that chats tell."""
        question = prompt_text[prompt_text.rindex("What are") :]
        table = read(prompt_text)
        return "; ".join(table.get(owned, [UNKNOWN])[-1] for owned in re.findall(OWNED, question)[:2])

    def guess(self, prompt_text: str) -> str:
        """A refusal of both."""
        return f"{UNKNOWN}; {UNKNOWN}"

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if what is told is answered and what is not told is refused."""
        found = self.readings(prediction, sample)
        return min(found["told and answered"], found["not told and refused"])

    def readings(self, prediction: str, sample: Sample) -> dict[str, float]:
        """Each half of the pair by itself, and how often what was told of something else is given."""
        parts = parts_of(prediction)
        told, untold = parts if sample.facts["told first"] else reversed(parts)
        value, bait = sample.facts["value"], sample.facts["bait"]
        given = [one for one in (value, bait) if mentions(untold, one)]
        return {
            "told and answered": float(mentions(told, value) and not refused(told)),
            "not told and refused": float(refused(untold) and not given),
            "not told and something else given": float(bait in given),
        }


def parts_of(prediction: str) -> tuple[str, str]:
    """Two answers: with a semicolon or the end of a line between them, else with a comma or "and"."""
    text = re.split(r"\bUser:|\[", prediction.strip())[0]
    for between in (r"[;\n]", r",|\band\b"):
        parts = [*filter(str.strip, re.split(between, text))]
        if len(parts) > 1:
            return parts[0], parts[1]
    return text, ""


def refused(answer: str) -> bool:
    """Whether an answer says that the chats do not say it."""
    return any(mentions(answer, one) for one in REFUSALS)
