"""What a reading may spend, and has spent: a call is set aside at its longest before it is made."""

from __future__ import annotations

from dataclasses import dataclass

from ropewalk.common.errors import UserError


@dataclass(frozen=True)
class Budget:
    """What a reading may spend; None is no bound.

    Attributes:
        tokens: of all prompts and answers.
        calls: tries included.
    """

    tokens: int | None = None
    calls: int | None = None


@dataclass(frozen=True)
class Aside:
    """What is set aside for a call.

    Attributes:
        most: tokens of its prompt and of its longest answer.
        more: that servers take beyond what we count, as they did for earlier calls.
    """

    most: int
    more: int


class Spending:
    """Tokens and calls of one reading, those that are set aside among them.

    We count what is asked and answered, and a server may bill more: the most that it billed beyond our count for one
    call is set aside with every later one. What was under way before that is known can overdraw the budget; the last
    answer is then asked for still, if it is paid for as we count.

    Args:
        budget: that bounds it.
        last: tokens of the last answer's call at most, which stay free.

    Attributes:
        last: as above; less, once less is known to do.
        tokens: of all calls.
        calls: their number.
        more: the most that one call took beyond our count.

    Raises:
        UserError: if the budget does not hold the last answer.
    """

    def __init__(self, budget: Budget, last: int):
        self.budget, self.last = budget, last
        self.tokens = self.calls = self.more = self._beyond = 0
        if budget.tokens is not None and budget.tokens < last:
            raise UserError(
                f"a budget of {budget.tokens:,} tokens does not hold the last answer, which may take {last:,}",
                "Raise it (--tokens).",
            )

    @property
    def overdrawn(self) -> int:
        """Tokens beyond the budget."""
        return 0 if self.budget.tokens is None else max(0, self.tokens - self.budget.tokens)

    def affordable(self, calls: int, tokens: int, beside: int = 0) -> int:
        """How many of so many calls of so many tokens there is budget for, beside the last answer and some tokens."""
        most = calls
        if self.budget.calls is not None:
            most = min(most, self.budget.calls - self.calls - 1)
        if self.budget.tokens is not None:
            free = self.budget.tokens - self.tokens - self.last - self.more - beside
            most = min(most, free // (tokens + self.more))
        return max(most, 0)

    def set_aside(self, most: int, last: bool) -> Aside | None:
        """Tokens for a call; None if the budget has none."""
        aside = Aside(most, self.more)
        if self.budget.calls is not None and self.calls + (1 if last else 2) > self.budget.calls:
            return None
        if self.budget.tokens is not None:
            free = 0 if last else self.last + self.more
            held = self.tokens + most + self.more + free <= self.budget.tokens
            if not held and not (last and self.tokens - self._beyond + most <= self.budget.tokens):
                return None
        self.calls += 1
        self.tokens += most + self.more
        self._beyond += self.more
        return aside

    def settle(self, aside: Aside, tokens: int, beyond: int = 0, more: int = 0) -> None:
        """What came of it.

        Args:
            aside: for the call.
            tokens: that it took.
            beyond: of these, that we do not count.
            more: that it took beyond the most that we count for it.
        """
        self.tokens += tokens - aside.most - aside.more
        self._beyond += beyond - aside.more
        self.more = max(self.more, more)
