"""BooookScore (arXiv 2310.00785): the share of a summary's sentences in which a judge finds no error of coherence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ropewalk.workflows.chunks import sentences
from ropewalk.workflows.strategy import Model, all_asked

ERRORS = {
    "entity omission": "a person, place or thing is named that was not introduced",
    "event omission": "an event is referred to that was not told",
    "causal omission": "why or how something happens is left out, so that it cannot be followed",
    "discontinuity": "time, place or plot jumps without a word",
    "salience": "a detail that does not matter to the whole",
    "language": "wrong or ambiguous grammar or words",
    "inconsistency": "it contradicts another sentence",
    "duplication": "it repeats what another sentence says",
}
NONE = "none"
VERDICT = 48  # tokens, of all types at once
KINDS = "\n".join(f"- {kind}: {meaning}" for kind, meaning in ERRORS.items())

PROMPT = """Summary:
{summary}

One sentence of it:
{sentence}

Errors of coherence that a sentence may have:
{kinds}

Which of them does this sentence have? Write their names with commas between them, or "none", and nothing else.
Errors:"""


@dataclass(frozen=True)
class Coherence:
    """What a judge says of a summary.

    Attributes:
        verdicts: by sentence: the types of error in it; None where the judge said nothing that can be read.
    """

    verdicts: tuple[tuple[str, ...] | None, ...]

    @property
    def judged(self) -> int:
        return len(self.verdicts) - self.unread

    @property
    def unread(self) -> int:
        """Sentences of which the judge said nothing that can be read, or was not asked; they do not count."""
        return self.verdicts.count(None)

    @property
    def score(self) -> float | None:
        """The share of the judged sentences without any error; None if none was judged."""
        return self.verdicts.count(()) / self.judged if self.judged else None

    def __str__(self) -> str:
        score = "none" if self.score is None else f"{self.score:.3f}"
        return (
            f"{score}: {self.verdicts.count(()):,} of {self.judged:,} sentences without an error, {self.unread:,} not "
            "judged"
        )


async def coherence(model: Model, summary: str) -> Coherence:
    """A judge's verdict on each sentence, which is asked for side by side.

    Args:
        model: the judge.
        summary: of one or more sentences.

    Raises:
        UserError: if the summary does not fit into the judge's window.
    """
    every = [one.strip() for one in sentences(summary) if one.strip()]
    prompts = [PROMPT.format(summary=summary.strip(), sentence=one, kinds=KINDS) for one in every]
    return Coherence(tuple(errors_in(said) for said in await all_asked(model, prompts, VERDICT, "judge")))


def errors_in(said: str | None) -> tuple[str, ...] | None:
    """The types that a verdict names, each once; None if it is anything else than such a list."""
    named = [re.sub(r"\s+", " ", one).strip(" .\"'-*").lower() for one in re.split(r"[,;\n]", (said or "").strip())]
    if named == [NONE]:
        return ()
    return tuple(kind for kind in ERRORS if kind in named) if set(named) <= set(ERRORS) else None
