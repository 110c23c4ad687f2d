"""MRCR-like: one of several pieces that were asked for in the same words, again (openai/mrcr; arXiv 2409.12640).

The last request says which of them is meant, and a random string that has to stand before it. The score is the ratio of
difflib's ``SequenceMatcher`` as the data card has it (answer second, frequent characters left out of account), or 0
where the answer does not begin with the string. Space before the string is passed over, as some graders do and others
do not; strictly, it makes a 0.

Not as there: pieces are made of templates; all are a little longer than the 200 characters from which on that matcher
leaves characters out, and any two have a ratio below 0.5. The conversation is told as text, without a worked example.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from ropewalk.tasks.context import SPARE, Question, SharedContext, label, pose, records_context
from ropewalk.tasks.names import ADJECTIVES, COLOURS, FIRST, NOUNS
from ropewalk.tasks.passkey import FILLER
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

FORMS = ("poem", "letter", "riddle", "speech", "tale", "prayer", "toast", "review")
TOPICS = tuple(
    "autumn bridges candles clocks deserts dreams echoes fog glaciers harbours islands kitchens lighthouses markets "
    "mirrors moonlight music rain rivers silence storms summer trains winter".split()
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
VERBS = tuple(
    "admires awaits borrows carries chases cherishes conceals counts crosses defends describes envies escapes "
    "examines follows forgets guards hears hides imagines invents leaves mends misses mocks obeys outlives paints "
    "pities praises pursues remembers repairs rescues sketches teaches trusts visits watches welcomes".split()
)
WHEN = tuple(
    "at dawn|after supper|in silence|once a year|by candlelight|against all advice|before the frost|with great care|"
    "for no reason|on market days|in the rain|until midnight|without a word|every other week|under the stairs".split(
        "|"
    )
)
SENTENCES = (
    "The {adj} {noun} {verb} a {colour} {noun} {when}.",
    "{When}, {name} {verb} the {noun} and {verb} the {noun}.",
    "No {noun} {verb} {name}, yet some {adj} {noun} {verb} us all.",
    "{name} {verb} {topic} because the {noun} is {adj} and {colour}.",
    "Whoever {verb} {topic} {verb} a {noun} {when}.",
    "{When} a {colour} {noun} {verb} what the {adj} {noun} {verb}.",
    "Ask the {noun} who {verb} my {adj} {noun}, said {name}.",
    "Is it {colour}, is it {adj}? It {verb} the {noun} {when}.",
    "So {name} {verb} the {colour} {noun} that {verb} {topic}.",
    "Between {noun} and {noun}, only the {adj} one {verb} {name}.",
)
CHARACTERS = 210  # of a piece at least
STRING = 10  # characters before the piece
INTRODUCTION = " Below is what a user and an assistant said."
REQUEST = "Write a {form} about {topic}."
AGAIN = (
    " User: Write {string} and directly behind it, word for word, the {ordinal} {form} about {topic} that you wrote,"
    " and nothing else. Assistant:"
)
ASKED = re.compile(
    rf"User: Write (\w+) and directly behind it, word for word, the ({'|'.join(ORDINALS)}) (\w+) about (\w+) that"
)


@dataclass(frozen=True)
class Mrcr(SharedContext):
    """One of several pieces that were asked for in the same words.

    Attributes:
        needles: how many they are, at most eight.
    """

    needles: int = 2
    name: str = field(init=False, default="mrcr-like")
    scope: str = "small"
    diffusion: str = "high"
    free: bool = True  # a part of the piece counts

    def __post_init__(self) -> None:
        label(self, name=f"mrcr-like_{self.needles}")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """Up to one question per depth, each about another of the pieces; the depths are not used.

        The pieces stand one in each stretch of the conversation, anywhere in it.
        """
        form, topic = rng.choice(FORMS), rng.choice(TOPICS)
        pieces = [piece(topic, rng) for _ in range(self.needles)]
        at = [(i + rng.random()) / self.needles for i in range(self.needles)]
        questions = []
        for i in rng.sample(range(self.needles), min(self.needles, len(depths))):
            before = "".join(rng.choices(string.ascii_letters + string.digits, k=STRING))
            stem = AGAIN.format(string=before, ordinal=ORDINALS[i], form=form, topic=topic)
            references = (before, pieces[i], *pieces[:i], *pieces[i + 1 :])
            questions.append(
                Question(stem, before + pieces[i], at[i], references, {"needle": i + 1, "of": self.needles}, SPARE)
            )
        context, _ = records_context(
            self.name, n_tokens, units, INTRODUCTION, [turn(form, topic, one) for one in pieces], at, questions,
            others(form, topic, rng),
        )  # fmt: skip
        return pose(context, questions, n_tokens, units)

    def solve(self, prompt_text: str) -> str:
        """The piece, by counting the equal requests."""
        before, ordinal, form, topic = ASKED.findall(prompt_text)[-1]
        request = re.escape(f"User: {REQUEST.format(form=form, topic=topic)} Assistant: ")
        pieces = re.findall(rf"{request}(.+?)(?= User: |{re.escape(FILLER[0])})", prompt_text)
        return before + pieces[ORDINALS.index(ordinal)]

    def score(self, prediction: str, sample: Sample) -> float:
        """The ratio of the piece, without the string that both begin with, else 0."""
        return self.score_strictly(prediction.lstrip(), sample)

    def score_strictly(self, prediction: str, sample: Sample) -> float:
        """The same where nothing stands before the string."""
        before, wanted, *_ = sample.references
        return ratio(prediction.removeprefix(before), wanted) if prediction.startswith(before) else 0.0

    def another(self, prediction: str, sample: Sample) -> bool:
        """Whether another piece that was asked for in the same words is the likest one."""
        before, *pieces = sample.references
        said = prediction.strip().removeprefix(before)
        best = max(pieces, key=lambda one: ratio(said, one))
        return best != pieces[0] and ratio(said, best) >= DISTINCT

    def readings(self, prediction: str, sample: Sample) -> dict[str, float]:
        """The strict score, and how often another piece is given."""
        return super().readings(prediction, sample) | {"another piece": float(self.another(prediction, sample))}


DISTINCT = 0.5  # ratio that no two pieces reach


def ratio(response: str, answer: str) -> float:
    """How much of both matches, by difflib's rule; the order matters."""
    return SequenceMatcher(None, response, answer).ratio()


def turn(form: str, topic: str, text: str) -> str:
    """One record: a request and the piece."""
    return f" User: {REQUEST.format(form=form, topic=topic)} Assistant: {text}"


def others(form: str, topic: str, rng: random.Random) -> Iterator[str]:
    """Turns that share the form or the topic, or neither, but never both."""
    while True:
        other_form, other_topic = rng.choice((form, *FORMS)), rng.choice((topic, *TOPICS))
        other_form = form if rng.random() < 0.4 else other_form
        if (other_form, other_topic) != (form, topic):
            yield turn(other_form, other_topic, piece(other_topic, rng))


def piece(topic: str, rng: random.Random) -> str:
    """Sentences in which nearly every word is drawn."""
    words = {"adj": ADJECTIVES, "noun": NOUNS, "colour": COLOURS, "verb": VERBS, "name": FIRST, "when": WHEN}

    def word(place: re.Match[str]) -> str:
        if place[1] == "topic":
            return topic
        found = rng.choice(words[place[1].lower()])
        return found.capitalize() if place[1] == "When" else found

    said: list[str] = []
    for sentence in rng.sample(SENTENCES, len(SENTENCES)):
        said.append(re.sub(r"\{(\w+)\}", word, sentence))
        if sum(map(len, said)) + len(said) > CHARACTERS:
            break
    return " ".join(said)
