"""Context rot: simple tasks that get worse with length alone (after the three experiments of chroma-core/context-rot).

Not as there: all that is added counts towards the length, rivals included; where a rival stands depends on the sample
alone; answers are read by rule and not by a judge; and the text to repeat is as long as the context allows, so an
answer is cut after it (``SPARE`` tokens), where the original lets models write twice the prompt.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from operator import itemgetter

from ropewalk.tasks.assembly import joined
from ropewalk.tasks.context import (
    PLAIN,
    SPARE,
    Background,
    Question,
    as_many_as_fit,
    context_tokens,
    hidden_context,
    label,
    pose,
    quiet,
)
from ropewalk.tasks.metrics import levenshtein_similarity
from ropewalk.tasks.names import distinct, person, thing
from ropewalk.tasks.task import Sample, Task, haystack_tokens
from ropewalk.tasks.words import NOUNS
from ropewalk.texts.pieces import TokenUnits

LEAST = 8  # words to repeat
REPEAT = " Repeat the text below exactly, word by word. The text is:"
AGAIN = " End of the text. Exactly the same text again, on one line:"

RANKS = ("best", "worst", "cheapest", "dearest", "rarest", "oldest", "smallest", "heaviest")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS, YEARS = range(1, 29), range(1900, 2000)
THING = re.compile(r"[a-z]+-[a-z]+-[a-z]+")
INTRODUCTION = " A fact is hidden in the text below. Others may look like it. Answer the question behind the text."


@dataclass(frozen=True)
class RotRepeat(Task):
    """One word, repeated as often as the context holds it twice, with one odd word at a depth: all is to be said again.

    The score is the similarity of characters, as in the original; who writes the common word throughout is nearly right
    by it, so that ``readings`` and the guess have to be looked at beside it.
    """

    name: str = "rot-repeat"
    scope: str = "large"
    diffusion: str = "low"
    free: bool = True

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A text whose odd word stands at ``depth`` (drawn uniformly if None).

        Raises:
            TooShort: if ``n_tokens`` does not hold ``LEAST`` words twice.
        """
        depth = rng.random() if depth is None else depth
        common = rng.choice(NOUNS)
        odd = f"{common}s"
        each, of_odd, head, stem = (units.ids(text) for text in (f" {common}", f" {odd}", REPEAT, AGAIN))
        least = [0] * (2 * (LEAST - 1) * len(each) + 2 * len(of_odd))
        n = LEAST + haystack_tokens(self.name, n_tokens, units.bos, head, stem, [0] * SPARE, least) // (2 * len(each))
        while True:
            index = round(depth * (n - 1))
            text = " ".join([common] * index + [odd] + [common] * (n - 1 - index))
            ids = joined([each] * index + [of_odd] + [each] * (n - 1 - index))
            answer = units.answer(AGAIN, f" {text}")
            room = len(answer) + SPARE
            if (rest := n_tokens - room - len(units.bos) - len(head) - len(ids) - len(stem)) >= 0:
                break
            n -= 1  # a tokenizer may need more for the answer as a whole than for its words
        front = units.bos + quiet(rest, units) + head
        facts = {"words": n, "index": index, "odd": odd}
        return Sample(front + ids + stem, answer, text, depth, (text,), room, facts, before=len(front), after=len(stem))

    def solve(self, prompt_text: str) -> str:
        """The text between the two instructions."""
        return prompt_text.rpartition(REPEAT.strip())[2].partition(AGAIN)[0].strip()

    def guess(self, prompt_text: str) -> str:
        """The common word throughout."""
        words = self.solve(prompt_text).split()
        return " ".join(Counter(words).most_common(1)[0][0] for _ in words)

    def score(self, prediction: str, sample: Sample) -> float:
        """1 - Levenshtein distance / longer length of the first line, over characters."""
        return levenshtein_similarity(first_line(prediction), sample.text)

    def readings(self, prediction: str, sample: Sample) -> dict[str, float]:
        """Whether all is right, where the odd word is, and the smaller by the larger number of words."""
        said, odd, n = first_line(prediction).split(), sample.facts["odd"], sample.facts["words"]
        return {
            "exact": float(" ".join(said) == sample.text),
            "odd word said": float(odd in said),
            "odd word in its place": float(said[sample.facts["index"] :][:1] == [odd]),
            "length of the shorter by the longer": min(len(said), n) / max(len(said), n),
        }


def first_line(prediction: str) -> str:
    return prediction.strip().partition("\n")[0].rstrip()


@dataclass(frozen=True)
class Fact:
    """What somebody said, with all that tells it from others."""

    who: str
    when: str
    rank: str
    value: str
    retracted: bool = False

    def __str__(self) -> str:
        named = "no longer named" if self.retracted else "named"
        return f" On {self.when}, {self.who} {named} the {self.value} as the {self.rank} present."


@dataclass(frozen=True)
class RotDistract(Task):
    """A fact at a depth of a text, among rivals: facts that differ from it in one thing, besides their value.

    Attributes:
        rivals: how many there are.
        share: of the text that rivals are, 0 to 1, in the place of their number; as many as it holds.
        shuffled: whether the sentences of the text stand in random order.
        background: the text.
    """

    rivals: int = 4
    share: float = 0.0
    shuffled: bool = False
    background: Background = PLAIN
    name: str = field(init=False, default="rot-distract")
    scope: str = "small"
    diffusion: str = field(init=False, default="")
    free: bool = True

    def __post_init__(self) -> None:
        kind = f"rival-share_{round(100 * self.share)}" if self.share else f"rot-distract_{self.rivals}"
        name = "rot-shuffle" if self.shuffled else kind
        label(self, name=name, diffusion="high" if self.rivals or self.share else "low")

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A fact at ``depth`` (drawn uniformly if None); its rivals stand anywhere.

        Raises:
            TooShort: if ``n_tokens`` does not hold the fact, its rivals and the question.
        """
        depth = rng.random() if depth is None else depth
        values = distinct(lambda: thing(rng))
        fact = Fact(person(rng), date(rng), rng.choice(RANKS), next(values))
        stem = f" What did {fact.who} name as the {fact.rank} present on {fact.when}? It was the"
        question = Question(stem, fact.value, depth, spare=SPARE)
        pin, head = units.ids(str(fact)), units.ids(INTRODUCTION)
        n_text = len(pin) + context_tokens(self.name, n_tokens, units, [question], units.bos, head, pin)
        kinds = rivals(fact, values, rng)
        if self.share:
            some = as_many_as_fit(int(self.share * n_text), kinds, lambda one: str(one[1]), units)
        else:
            some = list(islice(kinds, self.rivals))
        n_rivals = sum(len(units.ids(str(rival))) for _, rival in some)
        facts = {"rivals": {one.value: kind for kind, one in some}, "rival_share": n_rivals / n_text}
        placed = sorted([(depth, str(fact)), *((rng.random(), str(one)) for _, one in some)], key=itemgetter(0))
        at, sentences = [place for place, _ in placed], [sentence for _, sentence in placed]
        text = replace(self.background, shuffled=self.shuffled)
        context = hidden_context(self.name, n_tokens, units, INTRODUCTION, sentences, at, [question], text, rng)
        return pose(context, [replace(question, facts=facts)], n_tokens, units)[0]

    def solve(self, prompt_text: str) -> str:
        """The value of the only fact that is exactly as the question says."""
        who, rank, when = re.findall(r"What did (.+?) name as the (\w+) present on (\d+ \w+ \d+)\?", prompt_text)[-1]
        found = re.search(rf"On {when}, {who} named the (\S+) as the {rank} present\.", prompt_text)
        return found.group(1) if found else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the first value said is the right one."""
        return float(THING.findall(prediction.lower())[:1] == [sample.text])

    def readings(self, prediction: str, sample: Sample) -> dict[str, float]:
        """Whether the value stands anywhere in the answer, of which rival the first value is, and how much they are."""
        said, kinds = THING.findall(prediction.lower()), sample.facts["rivals"]
        first = kinds.get(said[0]) if said else None
        found = {"right value anywhere": float(sample.text in said)}
        if kinds:
            found |= {f"rival of {kind}": float(kind == first) for kind in sorted(set(kinds.values()))}
            found["share of the text that rivals are"] = sample.facts["rival_share"]
        return found


def date(rng: random.Random) -> str:
    """One of 33,600 days."""
    return f"{rng.choice(DAYS)} {rng.choice(MONTHS)} {rng.choice(YEARS)}"


def rivals(fact: Fact, values: Iterator[str], rng: random.Random) -> Iterator[tuple[str, Fact]]:
    """Kinds of rivals and rivals without end, of each kind as many: another person, day or rank, or taken back."""
    people, days = distinct(lambda: person(rng)), distinct(lambda: date(rng))
    for kind in cycle(rng.sample(("another person", "another day", "another rank", "what was taken back"), 4)):
        rival = replace(fact, value=next(values))
        if kind == "another person":
            yield kind, replace(rival, who=next(one for one in people if one != fact.who))
        elif kind == "another day":
            yield kind, replace(rival, when=next(one for one in days if one != fact.when))
        elif kind == "another rank":
            yield kind, replace(rival, rank=rng.choice([one for one in RANKS if one != fact.rank]))
        else:
            yield kind, replace(rival, retracted=True)
