"""Latent association: the fact that is asked for shares no word with the question (after NoLiMa, arXiv 2502.05167).

"Greta keeps a flamingo in the attic." answers "Which person keeps some kind of animal?", by knowing what a flamingo is.
Things and what they are come from a small lexicon of this package (``kinds``), not from WordNet, and not from NoLiMa's
needles, which are under a research licence. The same is asked literally, by the thing itself, to tell what matching
words is worth. The control "ceiling" is NoLiMa's base score, and 85 % of it is its threshold.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from ropewalk.tasks.context import (
    PLAIN,
    Background,
    Question,
    SharedContext,
    hidden_context,
    label,
    mentions_all,
    pose,
)
from ropewalk.tasks.kinds import LEXICON, a, things
from ropewalk.tasks.names import FIRST
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

FACTS = 4  # of a context; all but one say something else
ROOMS = tuple("attic barn basement cellar corridor greenhouse loft pantry parlour shed veranda".split())
ORDERS = ("{name} keeps {thing} in the {room}.", "In the {room}, {thing} is kept by {name}.")
KEPT = re.compile(r"(?:(?P<who>\w+) keeps an? (?P<what>\w+) in|an? (?P<thing>\w+) is kept by (?P<name>\w+)\.)")
INTRODUCTION = " Facts about people are hidden in the text below."


@dataclass(frozen=True)
class Association(SharedContext):
    """Who keeps something, where the question says what it is, or what sort or kind of thing.

    Attributes:
        hops: edges of the lexicon between the question's word and the fact's, 0 to 2.
        background: what the facts are hidden in.
    """

    hops: int = 2
    background: Background = PLAIN
    name: str = field(init=False, default="latent-association")
    scope: str = "small"
    diffusion: str = field(init=False, default="high")

    def __post_init__(self) -> None:
        label(self, name=f"latent-association_{self.hops}", diffusion="high" if self.hops else "low")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """Up to one question per depth; the fact stands there, and others at random depths."""
        kept = self._things(rng, max(FACTS, min(len(depths), len(LEXICON))))
        people, rooms = rng.sample(FIRST, len(kept)), rng.choices(ROOMS, k=len(kept))
        orders = [rng.randrange(len(ORDERS)) for _ in kept]
        at = [*depths, *(rng.random() for _ in kept)][: len(kept)]
        facts = [
            f" {ORDERS[order].format(name=name, thing=a(thing), room=room)}"
            for order, name, thing, room in zip(orders, people, kept, rooms, strict=True)
        ]
        questions = [
            Question(
                f" Which person keeps {self._named(kept[i])}? Answer:", people[i], depth,
                facts={"thing": kept[i], "hops": self.hops, "name first": orders[i] == 0},
            )
            for i, depth in enumerate(at[: len(depths)])
        ]  # fmt: skip
        order = sorted(range(len(kept)), key=at.__getitem__)
        context = hidden_context(
            self.name, n_tokens, units, INTRODUCTION, [facts[i] for i in order], [at[i] for i in order], questions,
            self.background, rng,
        )  # fmt: skip
        return pose(context, questions, n_tokens, units)

    def _things(self, rng: random.Random, n: int) -> list[str]:
        """Things of which no two are of one kind; of one sort, where sorts are asked for."""
        found: dict[str, str] = {}
        for thing in rng.sample(sorted(things()), len(things())):
            found.setdefault(self._is(thing), thing)
        return list(found.values())[:n]

    def _is(self, thing: str) -> str:
        """What the question calls it."""
        return (thing, *things()[thing])[self.hops]

    def _named(self, thing: str) -> str:
        return f"some kind of {self._is(thing)}" if self.hops else a(thing)

    def solve(self, prompt_text: str) -> str:
        """Who keeps what is of the asked sort."""
        question = prompt_text.rpartition(" Which person keeps ")[2]
        kept = (one.groupdict() for one in KEPT.finditer(prompt_text))
        owners = {one["what"] or one["thing"]: one["who"] or one["name"] for one in kept}
        return next((who for thing, who in owners.items() if question == f"{self._named(thing)}? Answer:"), "")

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the name is in the answer's first sentence."""
        return mentions_all(re.split(r"[.\n]", prediction.strip())[0], sample)
