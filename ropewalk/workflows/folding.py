"""A text read chunk by chunk, with what was noted so far beside each chunk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from ropewalk.backends.chat.chat import Prompt
from ropewalk.common.naming import counted
from ropewalk.workflows.chunks import Chunk, chunks
from ropewalk.workflows.strategy import Model, NoBudget, room_left

REFUSAL = re.compile(
    r"\b(no (\w+ )?(information|notes?|mention|answer)|not? (\w+ )?(relevant|mentioned|provided|contain|given)"
    r"|nothing|none|cannot|can't|unable|sorry)\b",
    re.IGNORECASE,
)
UNREAD = "none of the calls that read the text gave notes: the answer knows nothing of it"
SHORT = 0.1  # share of the notes before it, below which a refusal is not taken for notes
BARE = frozenset(  # a refusal of these words alone says nothing else, and overwrites no notes, however short they are
    "a about add added additional an answer any applicable are available contain contained contains content does"
    " for found further given has have here i in information is it mention mentioned my new no none not note"
    " notes nothing of on other part passage provide provided question relevant section so sorry specific stated"
    " such text that the there this to useful was were".split()
)


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
    taken: Callable[[str, str], str] = lambda said, notes: said,
) -> str:
    """The notes after the last chunk of a text; see ``chunks_for`` and ``noted``."""
    return await noted(model, chunks_for(model, text, prompt, room, role, size), prompt, room, role, taken=taken)


def chunks_for(
    model: Model,
    text: str,
    prompt: Callable[[str, str], Prompt],
    room: int,
    role: str,
    size: int | None = None,
) -> list[Chunk]:
    """Chunks of a text that fit into a prompt beside notes.

    Args:
        model: that is asked.
        text: that is read.
        prompt: of a chunk and the notes so far.
        room: tokens of the notes.
        role: of each call.
        size: tokens of a chunk at most; what the window leaves, if that is less or nothing is given.

    Raises:
        NoRoom: if the window leaves too little for text.
    """
    left = room_left(model, prompt("", ""), 2 * room, f"the prompt of a {role}")
    return chunks(text, model.spans(text), min(left, size or left))


async def noted(
    model: Model,
    parts: Sequence[Chunk],
    prompt: Callable[[str, str], Prompt],
    room: int,
    role: str,
    draw: int = 0,
    guarded: bool = False,
    taken: Callable[[str, str], str] = lambda said, notes: said,
    planned: bool = False,
) -> str:
    """The notes after the last chunk; where a call comes to nothing, those before it stay.

    Args:
        model: that is asked.
        parts: in the order in which they are read.
        prompt: of a chunk and the notes so far.
        room: tokens of the notes.
        role: of each call, for the trace.
        draw: 0 for the likeliest notes.
        guarded: whether the notes stay where a worker says no more than that it found nothing.
        taken: the notes after a call, of what it said and the notes before it; ``room`` tokens at most.
        planned: whether the budget pays for all parts: others that spend it at the same time leave nothing to go by.

    Raises:
        NoBudget: if the budget leaves nothing for calls that read.
    """
    notes, refused, came = "", [], 0
    beside = model.count(prompt("", "")) + 2 * room
    for i, part in enumerate(parts, 1) if planned else in_turn(model, parts, beside):
        said = await model.ask(prompt(part.text, notes), room, f"{role} {i} of {len(parts)}", draw=draw)
        came += bool(said)
        if said and guarded and _refuses(said, notes):
            refused.append(str(i))
            continue
        notes = taken(said, notes) if said else notes
    if parts and not came:
        model.note(UNREAD)
    if refused:
        model.note(f"{role} {', '.join(refused)} of {len(parts)} only refused: the notes before stayed")
    return notes


def in_turn(model: Model, parts: Sequence[P], beside: int) -> Iterator[tuple[int, P]]:
    """Parts and their numbers, from 1 on, one after the other as calls are made for them.

    Where the budget has no calls for all, about as many are read at the beginning as at the end, and one at least.
    Calls to come are reckoned to take what those before them took, so that what was set aside and not taken pays for
    further ones.

    Args:
        model: that is asked.
        parts: in the order in which they are read.
        beside: tokens of a call beside its part, with those of its answer.

    Raises:
        NoBudget: if it has none for any.
    """
    at = read = lost = 0
    before = model.spent
    while rest := parts[at:]:
        longest = max(part.tokens for part in rest) + beside
        left = sure = model.affordable(len(rest), longest)
        if read:
            each = min(longest, max(1, -(-(model.spent - before) // read)))
            left = max(sure, model.affordable(len(rest), each, longest - each))  # the last is set aside at its longest
        else:
            require_budget(model, 1, longest)
        if left < len(rest) and read and (left <= read or sure < 2):  # what is left is for the end
            skipped = rest[: len(rest) - left]
            at, lost = at + len(skipped), lost + sum(part.tokens for part in skipped)
            continue
        at, read = at + 1, read + 1
        yield at, parts[at - 1]
    if lost:
        model.note(unread(lost, sum(part.tokens for part in parts), "read"))


def unread(lost: int, total: int, done: str) -> str:
    return f"{lost:,} of {total:,} tokens of the text were not {done}: the budget has no calls for them"


def _refuses(said: str, notes: str) -> bool:
    """Whether a worker says no more than that it found nothing."""
    if not notes or _bare(notes) or REFUSAL.search(said) is None:
        return False
    return len(said) < SHORT * len(notes) or _bare(said)


def _bare(said: str) -> bool:
    return set(re.findall(r"[^\W_]+", said.casefold())) <= BARE


def within_budget(
    model: Model,
    parts: Sequence[P],
    beside: int,
    calls: Callable[[int], int] = lambda parts: parts,
    done: str = "read",
) -> list[P]:
    """The parts that the budget has calls for; of a text that is too long, the middle is left out.

    Args:
        model: that is asked.
        parts: what calls are about.
        beside: tokens of a call beside its part, with those of its answer.
        calls: how many a number of parts leads to, none of them longer than that of the longest part.
        done: what comes of a part, for the note on those that are left out.

    Raises:
        NoBudget: if it has none for any: an answer would know nothing of the text.
    """
    if not parts:
        return []
    longest = max(part.tokens for part in parts) + beside
    require_budget(model, calls(1), longest)
    most = model.affordable(calls(len(parts)), longest)
    kept = next(n for n in range(len(parts), 0, -1) if calls(n) <= most)
    if kept == len(parts):
        return list(parts)
    head, tail = (kept + 1) // 2, kept // 2
    lost = sum(part.tokens for part in parts[head : len(parts) - tail])
    total = sum(part.tokens for part in parts)
    model.note(unread(lost, total, done))
    return [*parts[:head], *parts[len(parts) - tail :]]


def require_budget(model: Model, calls: int, tokens: int) -> None:
    """Refuse to read where the budget leaves nothing for it.

    Args:
        model: that is asked.
        calls: the fewest that read anything.
        tokens: of each at most, with its answer.

    Raises:
        NoBudget: if there are not so many beside the last answer.
    """
    if model.affordable(calls, tokens) < calls:
        least = model.spent + calls * tokens + model.kept_free
        raise NoBudget(
            "the budget pays for no call that reads: the least is "
            f"{counted(calls, 'call')} of up to {tokens:,} tokens, beside the last answer's {model.kept_free:,}",
            f"Raise it: --tokens {least}, and --calls too where it is given.",
        )
