"""What asking a language model came to: calls, what came of them, and tokens by two counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PLAIN = (
    "asked calls answered given_up prompt_tokens cached_tokens completion_tokens our_prompt_tokens "
    "our_completion_tokens without_usage wrong_usage"
).split()


@dataclass
class Ledger:
    """Of all prompts that a run needed, whether they were answered now or by the run that it goes on from.

    Attributes:
        asked: prompts.
        calls: tries of them whose end is known.
        answered: prompts with an answer of use.
        given_up: prompts without one, when all tries were used.
        failed: calls that gave no answer, by reason.
        nonsense: answers of no use, by reason.
        prompt_tokens: that were read, as the server says.
        cached_tokens: of those, that were read before.
        completion_tokens: that were written, as the server says.
        our_prompt_tokens: of the same prompts by our own count.
        our_completion_tokens: of the same answers by our own count.
        without_usage: answers of which the server told no tokens.
        wrong_usage: answers of which it told what cannot be.
    """

    asked: int = 0
    calls: int = 0
    answered: int = 0
    given_up: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    nonsense: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    our_prompt_tokens: int = 0
    our_completion_tokens: int = 0
    without_usage: int = 0
    wrong_usage: int = 0

    def add(self, other: Ledger) -> None:
        """What another one counted."""
        for name in PLAIN:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.failed, other.failed), (self.nonsense, other.nonsense)):
            for reason, count in theirs.items():
                tally(mine, reason, count)

    @property
    def told(self) -> dict[str, float]:
        """Numbers by name, the same whatever came first."""
        found: dict[str, float] = {name.replace("_", " "): getattr(self, name) for name in PLAIN}
        for what, reasons in (("failed", self.failed), ("nonsense", self.nonsense)):
            found |= {f"{what}: {reason}": reasons[reason] for reason in sorted(reasons)}
        return found

    @property
    def brief(self) -> str:
        """One line."""
        why = [
            f"; {what}: {listed(some)}" for what, some in (("failed", self.failed), ("nonsense", self.nonsense)) if some
        ]
        return f"{self.asked:,} prompts, {self.calls:,} calls{''.join(why)}"


def tally(counts: dict[str, int], reason: str, more: int = 1) -> None:
    """Count a reason."""
    counts[reason] = counts.get(reason, 0) + more


def listed(reasons: Mapping[str, int]) -> str:
    """The most frequent first."""
    order = sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in order)
