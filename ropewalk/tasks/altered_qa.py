"""Altered numeric QA: a page's answer is a number that was changed, so that it can only be read (arXiv 2308.10882)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ropewalk.tasks.context import PLAIN, SPARE, Background, Question, hidden_context, mentions_all, pose
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts.pieces import TokenUnits

INTRODUCTION = " Read the text below. Answer the question behind it as the text does, even if you know better."
YEARS = range(1000, 2101)
SHIFT = 10  # a year moves by at most this
NUMBER = r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?![\w]|[.,]\d)"


@dataclass(frozen=True)
class Page:
    """A document, a question about it, and the number in it that answers the question.

    Raises:
        ValueError: if the answer is not a whole number that stands in the document.
    """

    document: str
    question: str
    answer: str

    def __post_init__(self) -> None:
        if self.answer not in re.findall(NUMBER, self.document):
            raise ValueError(f"the answer {self.answer!r} is not a whole number of the document")


def altered_number(number: str, taken: set[str], rng: random.Random) -> str:
    """A number like ``number`` that is not ``taken``: a year near it, or one of as many digits and the same commas.

    Raises:
        ValueError: if there is none.
    """
    digits = number.replace(",", "")
    if number == digits and int(digits) in YEARS:
        like = range(max(YEARS[0], int(digits) - SHIFT), min(YEARS[-1], int(digits) + SHIFT) + 1)
    else:
        like = range(10 ** (len(digits) - 1) if len(digits) > 1 else 0, 10 ** len(digits))
    some = rng.sample(like, min(len(like), len(taken) + 1))
    new = next((one for one in some if str(one) not in taken), None)
    if new is None:
        raise ValueError(f"every number like {number!r} stands in the document already")
    return f"{new:,}" if "," in number else str(new)


def altered(page: Page, rng: random.Random) -> Page:
    """The page with another answer, changed wherever it stands in the document and the question.

    Raises:
        ValueError: if every number like the answer stands in the document already.
    """
    taken = {number.replace(",", "") for number in re.findall(NUMBER, page.document)}
    new = altered_number(page.answer, taken, rng)

    def change(text: str) -> str:
        return re.sub(NUMBER, lambda found: new if found.group() == page.answer else found.group(), text)

    return Page(change(page.document), change(page.question), new)


@dataclass(frozen=True)
class AlteredNumericQA(Task):
    """One altered page at a depth of other text.

    Attributes:
        pages: what is altered and asked; a sample takes one that fits.
        background: what the page stands in.
    """

    pages: tuple[Page, ...]
    background: Background = PLAIN
    name: str = "altered_qa"
    scope: str = "small"
    diffusion: str = "high"
    free: bool = True

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A question about a page that stands at ``depth`` (drawn uniformly if None).

        Raises:
            TooShort: if ``n_tokens`` does not hold any page.
        """
        depth = rng.random() if depth is None else depth
        too_short = TooShort(f"{self.name} has no pages")
        for page in rng.sample(self.pages, len(self.pages)):
            try:
                return self._about(altered(page, rng), n_tokens, rng, units, depth)
            except TooShort as problem:
                too_short = problem
        raise too_short

    def _about(self, page: Page, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float) -> Sample:
        question = Question(f" {page.question} The answer is", page.answer, depth, spare=SPARE)
        context = hidden_context(
            self.name, n_tokens, units, INTRODUCTION, [f" {page.document}"], [depth], [question], self.background, rng
        )
        return pose(context, [question], n_tokens, units)[0]

    def solve(self, prompt_text: str) -> str:
        """The number that stands where the original page has the answer."""
        for page in self.pages:
            found = re.search(_pattern(page.document, page.answer), prompt_text)
            if found and re.search(_pattern(page.question, page.answer), prompt_text[found.end() :]):
                return found.group("answer")
        return ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the changed number stands in the prediction."""
        return mentions_all(prediction, sample)


def _pattern(text: str, answer: str) -> str:
    """Matches the text with any number for the answer, and any white space."""
    parts, end = [], 0
    for found in re.finditer(NUMBER, text):
        if found.group() == answer:
            parts.append(text[end : found.start()])
            end = found.end()
    literals = [r"\s*".join(map(re.escape, part.split())) for part in [*parts, text[end:]]]
    pattern = rf"\s*(?:{NUMBER})\s*".join(literals)
    return pattern.replace("(?:(?<!", "(?P<answer>(?<!", 1)
