"""Every call of a reading: what it waited for, what it cost, and the longest chain of calls, which no server shortens.

A call waits for the calls before it in its own coroutine; those that ran together are all waited for by what follows
them. So the graph is that of the strategy, whatever the order in which answers came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_before: ContextVar[frozenset[int]] = ContextVar("calls that a new one waits for", default=frozenset())


@dataclass(frozen=True)
class Call:
    """One prompt, and what came of it.

    Attributes:
        number: in the order in which calls began.
        role: whose part of the strategy it is: "worker 3 of 9".
        after: numbers of the calls that it waited for.
        prompt: as text.
        counted: its tokens.
        answer: as text, without what the model thought; empty where there was none.
        failed: why there was none; empty if there was one.
        tries: how often it was asked; 0 where an equal call of this reading was, which has all that it cost.
        prompt_tokens: of all tries that somebody may have read, as they count for the budget.
        cached_tokens: of those, that the server had read before, as it says.
        completion_tokens: of these tries, likewise; of an answer that was lost, as many as it had room for.
        billed_tokens: read and written as the server says, believed or not.
        seconds: that the tries took, when they were made.
        kept: whether it was answered before, in an earlier run or this one.
    """

    number: int
    role: str
    after: tuple[int, ...]
    prompt: str
    counted: int
    answer: str = ""
    failed: str = ""
    tries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    billed_tokens: int = 0
    seconds: float = 0.0
    kept: bool = False

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def refused(self) -> bool:
        """Whether it was asked, and nobody read it."""
        return bool(self.failed and self.tries and not self.prompt_tokens)


@dataclass
class Trace:
    """The calls of one reading.

    Attributes:
        calls: by number.
        notes: what a reader of the answer must know: text that nobody read, calls that came to nothing.
    """

    calls: dict[int, Call] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _begun: int = 0

    def begin(self) -> tuple[int, tuple[int, ...]]:
        """A new call's number, and what it waits for; what follows it in the same coroutine waits for it."""
        number, after = self._begun, tuple(sorted(_before.get()))
        self._begun += 1
        _before.set(frozenset([number]))
        return number, after

    def leave(self, after: tuple[int, ...]) -> None:
        """Nothing was called: what follows waits for what stood before."""
        _before.set(frozenset(after))

    def end(self, call: Call) -> None:
        self.calls[call.number] = call

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def tokens(self) -> int:
        """Of all prompts and answers."""
        return sum(call.tokens for call in self.calls.values())

    @property
    def asked(self) -> list[Call]:
        """Calls without those that were answered by an equal one of this reading."""
        return [call for call in self.calls.values() if call.tries]

    @property
    def critical_path(self) -> list[Call]:
        """The chain of calls, each of which waited for the one before, that took longest."""
        took: dict[int, float] = {}
        last: dict[int, int | None] = {}
        for number, call in sorted(self.calls.items()):
            known = [one for one in call.after if one in took]
            last[number] = max(known, key=took.__getitem__, default=None)
            took[number] = call.seconds + (took[last[number]] if known else 0.0)  # type: ignore[index]
        path: list[Call] = []
        number_: int | None = max(took, key=lambda one: (took[one], one), default=None)
        while number_ is not None:
            path.append(self.calls[number_])
            number_ = last[number_]
        return path[::-1]

    @property
    def longest_chain(self) -> int:
        """Calls of the longest chain that were asked, each of which waited for the one before, however long it took."""
        deep: dict[int, int] = {}
        for number, call in sorted(self.calls.items()):
            deep[number] = bool(call.tries) + max((deep[one] for one in call.after if one in deep), default=0)
        return max(deep.values(), default=0)

    def told(self) -> dict[str, float]:
        """Numbers by name."""
        calls, path = self.calls.values(), self.critical_path
        return {
            "calls": len(self.asked),
            "kept calls": sum(call.kept for call in self.asked),
            "repeated calls": len(calls) - len(self.asked),
            "tries": sum(call.tries for call in calls),
            "failed calls": sum(bool(call.failed) for call in calls),
            "prompt tokens": sum(call.prompt_tokens for call in calls),
            "cached tokens": sum(call.cached_tokens for call in calls),
            "completion tokens": sum(call.completion_tokens for call in calls),
            "billed tokens": sum(call.billed_tokens for call in calls),
            "seconds of calls": sum(call.seconds for call in calls),
            "calls of the critical path": sum(bool(call.tries) for call in path),
            "seconds of the critical path": sum(call.seconds for call in path),
        }


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """The results of coroutines that run side by side; what follows waits for the last calls of all of them.

    Where one of them fails, the others come to their ends, so that calls that were paid for are kept.
    """

    async def followed(one: Coroutine[Any, Any, T]) -> tuple[T, frozenset[int]]:
        result = await one
        return result, _before.get()

    tasks = [asyncio.create_task(followed(one)) for one in work]
    try:
        done = await asyncio.gather(*tasks)
    except BaseException as error:
        for task in tasks if not isinstance(error, Exception) else ():
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    if done:
        _before.set(frozenset().union(*(before for _, before in done)))
    return [result for result, _ in done]
