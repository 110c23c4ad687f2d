"""More documents, same length: fewer distractors are longer, so that only their number changes (arXiv 2503.04388)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from itertools import accumulate

from ropewalk.tasks.biographies import AGES, Life, biography, birthplace, birthplace_chain, life, read_lives
from ropewalk.tasks.context import PLAIN, Background, Context, context_tokens, label, mentions_all, pose
from ropewalk.tasks.names import distinct, person
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts.pieces import TokenUnits

INTRODUCTION = " Below are documents about people."
GAPS = 3  # before, between and behind the two documents that are needed


@dataclass(frozen=True)
class MoreDocuments(Task):
    """A question that needs two documents; the same seed puts them at the same tokens for any number of documents.

    Attributes:
        documents: how many there are, from 5 (one distractor in each gap) on.
        background: what distractors are lengthened with.

    Raises:
        ValueError: if there are fewer documents.
    """

    documents: int = 20
    background: Background = PLAIN
    name: str = field(init=False, default="more_documents")
    scope: str = "small"
    diffusion: str = "high"

    def __post_init__(self) -> None:
        if self.documents < 2 + GAPS:
            raise ValueError(f"documents must be at least {2 + GAPS}, not {self.documents}")
        label(self, name=f"more_documents_{self.documents}")

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """Where somebody was born who was born in the same place as somebody else; ``depth`` is not used.

        Raises:
            TooShort: if ``n_tokens`` does not hold that many documents.
        """
        names = distinct(lambda: person(rng))

        def somebody() -> Life:
            return life(next(names), rng.choice(AGES), rng)

        needed, question = birthplace_chain(somebody, 2)
        question = replace(question, facts={"documents": self.documents})
        rng.shuffle(needed)
        sizes = rng.uniform(0.25, 0.4), rng.uniform(0.25, 0.4)
        head, golds = units.bos + units.ids(INTRODUCTION), [units.ids(biography(one, rng)) for one in needed]
        n_others = context_tokens(self.name, n_tokens, units, [question], head, *golds)
        first, second = (round(size * n_others) for size in sizes)
        gaps = [first, second, n_others - first - second]
        context = head
        for i, (gap, n) in enumerate(zip(gaps, shared_out(self.documents - 2 - GAPS, gaps), strict=True)):
            documents = [units.ids(biography(somebody(), rng)) for _ in range(n + 1)]
            context = context + (golds[i - 1] if i else []) + self._lengthened(documents, gap, rng, units)
        return pose(Context(context, len(head)), [question], n_tokens, units)[0]

    def _lengthened(
        self, documents: list[list[int]], n_tokens: int, rng: random.Random, units: TokenUnits
    ) -> list[int]:
        """The documents with equally much text behind each, ``n_tokens`` together."""
        n_text = n_tokens - sum(map(len, documents))
        if n_text < 0:
            raise TooShort(f"{self.name} needs {-n_text} tokens more for {len(documents)} of its documents")
        each, more = divmod(n_text, len(documents))
        texts = (self.background.text(each + (i < more), rng, units) for i in range(len(documents)))
        return [token for document, text in zip(documents, texts, strict=True) for token in document + text]

    def solve(self, prompt_text: str) -> str:
        """The birthplace, followed from one document to the other."""
        who = re.findall(r"In which town was (.+) born\?", prompt_text)[-1]
        return birthplace(read_lives(prompt_text), who)

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the town stands in the prediction."""
        return mentions_all(prediction, sample)


def shared_out(n: int, weights: list[int]) -> list[int]:
    """``n`` shared out in proportion to the weights."""
    ends = [round(n * end / sum(weights)) for end in accumulate(weights)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
