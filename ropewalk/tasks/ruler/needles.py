"""RULER's eight needle tasks: values of keys, hidden in noise, in an essay or among other needles (arXiv 2404.06654).

The kinds and numbers of keys, values and queries are RULER's, the wording is ours. Keys, values and sentences are
joined as tokens; each of these pieces begins with a space, where tokenizers part words anyway.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal

from ropewalk.common.errors import UserError
from ropewalk.tasks.assembly import NOISE, behind_sentence, fill, joined, plant, stretch
from ropewalk.tasks.ruler.matching import match_all
from ropewalk.tasks.task import Sample, Task, haystack_tokens
from ropewalk.tasks.words import draw, names, numbers, uuids
from ropewalk.texts.pieces import TokenUnits

ROOM = 128
KEYS: dict[str, Callable[[], tuple[str, ...]]] = {"words": names, "uuids": partial(uuids, "keys")}
VALUES: dict[str, Callable[[], tuple[str, ...]]] = {"numbers": numbers, "uuids": partial(uuids, "values")}
DEPTHS = tuple(round(100 * i / 39) / 100 for i in range(40))  # of needles in an essay; all of a sample's differ


@dataclass(frozen=True)
class RulerNeedles(Task):
    """Keys with values; the values of one key, or of several, are asked for.

    With ``questions``, each key (of those hidden among needles: any) is asked for once. Prompts that share a context
    leave room for the longest question, so a shorter one makes ``len(prompt) + room`` fall short of the asked length
    by the difference in tokens; a single ``sample`` is exact.

    Attributes:
        name: RULER's name of the configuration.
        hay: "noise", "essay" (needs ``haystack``) or "needles".
        key: kind of the keys, "words" or "uuids".
        value: kind of the values, "numbers" or "uuids".
        keys: how many are hidden (beside those of a haystack of needles).
        values: of each key.
        queries: keys asked for in one question.
        haystack: token ids of natural text for "essay"; it is repeated where it is too short.
        sentence_ends: ids after which a needle may stand in an essay.
        free: False where one value is asked for: then one continuation is right.

    Raises:
        UserError: if there is no text for an essay.
    """

    name: str
    hay: Literal["noise", "essay", "needles"]
    key: Literal["words", "uuids"] = "words"
    value: Literal["numbers", "uuids"] = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1
    haystack: tuple[int, ...] = field(default=(), repr=False)
    sentence_ends: frozenset[int] = field(default=frozenset(), repr=False)
    scope: str = "small"
    diffusion: str = "low"
    free: bool = field(init=False)

    def __post_init__(self) -> None:
        if self.hay == "essay" and not self.haystack:
            raise UserError(f"{self.name} hides its needles in natural text, none was given", "Give a haystack.")
        object.__setattr__(self, "free", self.values * self.queries > 1)

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """One question; where a single value is asked for it stands at ``depth``, all others at random.

        Raises:
            TooShort: if ``n_tokens`` does not hold the fixed parts.
        """
        return self._ask(n_tokens, rng, units, 1, depth)[0]

    def questions(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int) -> list[Sample]:
        return self._ask(n_tokens, rng, units, n, None)

    def _ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int, depth: float | None) -> list[Sample]:
        n_keys = max(self.keys, self.queries * (n if self.hay == "needles" else 1))
        other_keys, other_values = draw(KEYS[self.key](), n_tokens, rng), draw(VALUES[self.value](), n_tokens, rng)
        needles = {key: list(islice(other_values, self.values)) for key in islice(other_keys, n_keys)}
        keys = list(needles)
        groups = [keys[i : i + self.queries] for i in range(0, n_keys - self.queries + 1, self.queries)][:n]

        references = [tuple(value for key in group for value in needles[key]) for group in groups]
        stems = [self._stem(group, units) for group in groups]
        answers = [units.answer(self._stem_end(), f" {_listed(values)}") for values in references]
        room = max(ROOM, *map(len, answers))
        head = units.bos + units.ids(self._introduction())
        planted = [self._needle(key, value, units) for key in needles for value in needles[key]]
        n_hay = haystack_tokens(self.name, n_tokens, head, *planted, max(stems, key=len), [0] * room)

        hay, break_before = self._haystack(n_hay, zip(other_keys, other_values, strict=False), rng, units)
        depths = rng.sample(DEPTHS, len(planted)) if self.hay == "essay" else [rng.random() for _ in planted]
        if depth is not None and not self.free:
            depths[0] = depth
        places = [break_before(round(at * n_hay)) for at in depths]
        context = head + plant(hay, list(zip(places, planted, strict=True)))
        return [
            Sample(
                context + stem,
                answer,
                _listed(values),
                math.nan if self.free else at,
                values,
                room,
                before=len(head),
                after=len(stem),
            )
            for stem, answer, values, at in zip(stems, answers, references, depths, strict=False)
        ]

    def _haystack(
        self, n: int, others: Iterable[tuple[str, str]], rng: random.Random, units: TokenUnits
    ) -> tuple[list[int], Callable[[int], int]]:
        """``n`` tokens, and the function from a place in them to the last one before it where a needle may stand."""
        if self.hay == "noise":
            return units.filler(NOISE, n), partial(units.filler_break, NOISE)
        if self.hay == "essay":
            text = stretch(self.haystack, rng.randrange(len(self.haystack)), n)
            return text, lambda at: behind_sentence(text, at, self.sentence_ends)
        return fill(n, (self._needle(key, value, units) for key, value in others), units)

    def _needle(self, key: str, value: str, units: TokenUnits) -> list[int]:
        end = f" {value}." if self.hay == "essay" else f" {value}.\n"
        return units.ids(self._before_key()) + units.ids(f" {key}") + units.ids(" is:") + units.ids(end)

    def _before_key(self) -> str:
        return f" One of the special magic {self.value} for"

    def _wanted(self) -> str:
        return f"special magic {self.value}" if self.free else f"special magic {self.value[:-1]}"

    def _introduction(self) -> str:
        return f" Remember the {self._wanted()} hidden in the text below; a question comes at the end.\n"

    def _stem(self, keys: Sequence[str], units: TokenUnits) -> list[int]:
        """The question about ``keys`` and the beginning of its answer."""
        asked = joined([units.ids(f" {word}") for word in _listed(keys).split()])
        question, answer = f"\n Find the {self._wanted()} for", f" in the text above. The {self._wanted()} for"
        return joined([units.ids(question), asked, units.ids(answer), asked, units.ids(self._stem_end())])

    def _stem_end(self) -> str:
        return " in the text above are" if self.free else " in the text above is"

    def solve(self, prompt_text: str) -> str:
        """The values that the text gives for the keys in the question."""
        asked = re.findall(r"magic \w+ for (.+?) in the text above\. The", prompt_text)
        keys = re.split(r", and |, ", asked[-1]) if asked else []
        given = [re.findall(rf"special magic \w+ for {re.escape(key)} is: ([\w-]+)\.", prompt_text) for key in keys]
        return _listed([value for values in given for value in values])

    def score(self, prediction: str, sample: Sample) -> float:
        """The fraction of the values that the prediction contains."""
        return match_all(prediction, sample)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + ", and " + words[-1] if len(words) > 1 else "".join(words)
