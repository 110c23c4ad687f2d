"""A text read chunk by chunk, with what was noted so far beside each chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ropewalk.backends.chat.chat import Prompt
from ropewalk.workflows.chunks import chunks
from ropewalk.workflows.strategy import Model, room_left


class Part(Protocol):
    """Something of a text, of so many tokens."""

    @property
    def tokens(self) -> int: ...


P = TypeVar("P", bound=Part)


async def folded(
    model: Model,
    text: str,
    prompt: Callable[[str, str], Prompt],
    room: int,
    role: str,
    size: int | None = None,
    backwards: bool = False,
) -> str:
    """The notes after the last chunk; where a call comes to nothing, those before it stay.

    Args:
        model: that is asked.
        text: that is read.
        prompt: of a chunk and the notes so far.
        room: tokens of the notes.
        role: of each call, for the trace.
        size: tokens of a chunk at most; what the window leaves, if that is less or nothing is given.
        backwards: whether the last chunk is read first.
    """
    left = room_left(model, prompt("", ""), 2 * room, f"the prompt of a {role}")
    every = chunks(text, model.spans(text), min(left, size or left))
    parts = within_budget(model, every, model.count(prompt("", "")) + 2 * room)
    notes = ""
    for i, part in enumerate(reversed(parts) if backwards else parts, 1):
        notes = await model.ask(prompt(part.text, notes), room, f"{role} {i} of {len(parts)}") or notes
    return notes


def within_budget(model: Model, parts: Sequence[P], beside: int, calls: int = 1, done: str = "read") -> list[P]:
    """The parts that the budget has calls for; of a text that is too long, the middle is left out.

    Args:
        model: that is asked.
        parts: what calls are about.
        beside: tokens of a call beside its part, with those of its answer.
        calls: for each part.
        done: what comes of a part, for the note on those that are left out.
    """
    tokens = max((part.tokens for part in parts), default=0) + beside
    most = model.affordable(len(parts) * calls, tokens) // calls
    if most >= len(parts):
        return list(parts)
    head, tail = (most + 1) // 2, most // 2
    lost = sum(part.tokens for part in parts[head : len(parts) - tail])
    total = sum(part.tokens for part in parts)
    model.note(f"{lost:,} of {total:,} tokens of the text were not {done}: the budget has no calls for them")
    return [*parts[:head], *parts[len(parts) - tail :]]
