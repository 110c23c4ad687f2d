"""A language model as strategies see it: every call is counted, bounded by a budget, kept, and traced."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ropewalk.backends.chat.answering import LONGEST, PAUSE, THINKING, THOUGHT, TRIES, bounds
from ropewalk.backends.chat.chat import NO_CERTAINTY, Answer, Beginning, Chat, Failed, Prompt, Usage, rendered, text_of
from ropewalk.common.errors import UserError
from ropewalk.common.store import Records, SampleStore, content_key
from ropewalk.texts.documents import token_ids
from ropewalk.workflows.spending import Budget, Spending
from ropewalk.workflows.strategy import NoAnswer, NoBudget, NoRoom
from ropewalk.workflows.trace import Call, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AGAIN = "What was answered is kept: say the same again to go on."
ENDLESS = "a thought without an end"
MORE = "Leave more room for thoughts: --thinks 1000 (or more than was said), or a larger --room."
SPENT = ", and the budget is spent"
UNBELIEVED = "some of what the server says of its tokens cannot be: there our own count stands"
T = TypeVar("T")
MASS = 0.9  # of the probability of the next token, below which its entropy is told to be a bound
BEYOND = "the server says that it read more than twice the tokens of some prompts: as it says, they count"
LONG = 2**23  # tokens that no prompt and no answer has


class Embed(Protocol):
    """Gives vectors of texts, not yet of length 1."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, e]"""

    def within(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """float32 [spans, e]: of spans of characters, each read in its place in the text."""


@dataclass(frozen=True)
class _Wish:
    """A call that is to be made.

    Attributes:
        prompt: that is sent.
        room: tokens of the answer.
        last: whether it is the answer to the reader's question.
        key: what tells it from others, besides the model.
        work: asks, and is told how many replies were of no use before.
        writes: whether what comes is a text that the model wrote.
    """

    prompt: Prompt
    room: int
    last: bool
    key: Mapping[str, Any]
    work: Callable[[int], Answer]
    writes: bool = True


@dataclass(frozen=True)
class _Try:
    """What came of asking once.

    Attributes:
        came: an answer, or why there is none.
        kept: whether it was before.
        seconds: that it took.
        read: tokens, as they count for the budget.
        written: likewise.
        cached: of those that were read.
        beyond: of read and written, those that the server says and we do not count.
        billed: read and written, as the server says.
        paid: whether it may have cost something, and is therefore kept.
        repeated: whether an equal call of this reading has what it cost.
    """

    came: Answer | Failed
    kept: bool
    seconds: float = 0.0
    read: int = 0
    written: int = 0
    cached: int = 0
    beyond: int = 0
    billed: int = 0
    paid: bool = True
    repeated: bool = False


class Metered:
    """See ``strategy.Model``.

    A call is set aside in the budget before it is made, its answer at its longest; one call of a whole window stays
    free for the last answer. What may have cost something is kept, also a reply of no use: of an earlier run it costs
    what it cost then, so that a reading that is taken up again decides as it did, and pays nothing twice. Equal calls
    of one reading are asked, and paid for, once.

    Args:
        chat: who answers.
        tokenizer: counts tokens.
        served: whether that is the model's own.
        window: tokens that a prompt and its answer may have.
        records: where answers are kept, and found again.
        budget: of this reading.
        last: tokens of the last call at most; the window unless given.
        tries: calls for one prompt.
        pause: seconds before the second, doubled before each further one.
        thinks: tokens that the model may think before it answers.
        bills: whether tokens are those that the server says, where that is more than we count; else our own count.
        embed: gives vectors of texts.
        heard: told of every call that ended.
        turn: which readings that run side by side share, so that no more calls than ``chat.workers`` are under way.
        reading: tells this reading from others with the same records, which keep what its budget refused: how much
            was set aside for calls under way, when another was wanted, depends on how fast they were.

    Attributes:
        trace: of this reading.
    """

    def __init__(
        self,
        chat: Chat,
        tokenizer: PreTrainedTokenizerBase,
        served: bool,
        window: int,
        records: Records | None = None,
        budget: Budget | None = None,
        last: int | None = None,
        tries: int = TRIES,
        pause: float = PAUSE,
        thinks: int = 0,
        bills: bool = True,
        embed: Embed | None = None,
        heard: Callable[[Trace], None] = lambda trace: None,
        turn: asyncio.Semaphore | None = None,
        reading: str = "",
    ):
        self.chat, self.tokenizer, self.served, self.window = chat, tokenizer, served, window - thinks
        self.records = SampleStore() if records is None else records
        self.thinks, self.bills = thinks, bills
        self.tries, self.pause, self._embed, self.heard = tries, pause, embed, heard
        self.trace, self._spent = Trace(), Spending(budget or Budget(), window if last is None else last)
        self._reading = {"reading": reading, "budget": asdict(self._spent.budget)}
        self._over = False  # whether no further call is to be made
        self._failing = False  # whether a prompt was given up as the server failed, and none was answered since
        self._turn, self._asked = turn or asyncio.Semaphore(chat.workers), dict[str, asyncio.Lock]()
        self._paid = set[str]()  # keys of what this reading has paid for
        self._wide: int | None = None  # numbers of a vector
        self._alone = asyncio.Lock()
        self._unknown = bills and self._spent.budget.tokens is not None  # what the server bills

    def count(self, prompt: Prompt) -> int:
        return len(rendered(prompt, self.tokenizer))

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        if not self.tokenizer.is_fast:
            raise UserError("this tokenizer gives no character offsets", "Use a fast one (tokenizer.json).")
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [tuple(span) for span in encoded.offset_mapping]

    def note(self, text: str) -> None:
        self.trace.note(text)

    @property
    def spent(self) -> int:
        return self._spent.tokens

    @property
    def kept_free(self) -> int:
        return self._spent.last

    def affordable(self, calls: int, tokens: int, beside: int = 0) -> int:
        return self._spent.affordable(calls, tokens + self.thinks, beside)

    def last_takes(self, tokens: int) -> None:
        self._spent.last = min(self._spent.last, tokens + self.thinks)

    async def ask(self, prompt: Prompt, room: int, role: str, last: bool = False, draw: int = 0) -> str | None:
        if draw and not self.chat.varies:
            raise UserError(
                f"{role}: another answer was wanted, where {self.chat.name} always gives the same",
                "Choose other options, or ask a server (--model http://HOST:PORT/v1).",
            )
        length, first = room + self.thinks, draw * self.tries
        call = await self._called(
            _Wish(
                prompt,
                room,
                last,
                {"prompt": _said(prompt), "room": length, "drawn": first},
                lambda again: self.chat.answer(prompt, length, first + again),
            ),
            role,
        )
        if call is None and last:
            raise NoBudget(
                f"the budget does not hold the last answer, which may take "
                f"{self.count(prompt) + room + self.thinks:,} tokens",
                "Raise it (--tokens, --calls).",
            )
        if call is None:
            return None
        self._end(call)
        if not call.failed:
            return call.answer if last else self._within(call.answer, room)
        if last:
            kind = NoBudget if call.failed.endswith(SPENT) else UserError if call.refused else NoAnswer
            raise kind(
                f"{self.chat.name} gave no last answer: {call.failed}", MORE if ENDLESS in call.failed else AGAIN
            )
        return None

    async def certainty(self, prompt: Prompt, role: str) -> float | None:
        if not hasattr(self.chat, "certainty"):
            raise UserError(f"{self.chat.name} tells no probabilities of the next token", NO_CERTAINTY)
        if self.thinks:
            raise UserError(
                "a model that thinks first is always sure of its first token, which begins the thought",
                "Choose another strategy, or a model that does not think (no --thinks).",
            )

        def tell(again: int) -> Answer:
            """Minus the entropy and what was told of the probability, as text."""
            sure = self.chat.certainty(prompt)  # type: ignore[attr-defined]
            return Answer(f"{sure.nats!r} {sure.told!r}", usage=sure.usage or Usage(self.count(prompt), 0, 0))

        call = await self._called(_Wish(prompt, 1, False, {"certainty": _said(prompt)}, tell, writes=False), role)
        if call is None:
            return None
        if call.failed:
            self._end(call)
            return None
        nats, told = map(float, call.answer.split())
        self._end(replace(call, answer=f"{nats:.4f} nats"))
        if told < MASS:
            self.note(f"some certainties are upper bounds: {self.chat.name} told less than {MASS:.0%} of a probability")
        return nats

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        embed = self._embedding()
        return self._directions(await self._elsewhere(lambda: embed(texts)), len(texts))

    async def embed_within(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        embed = self._embedding()
        return self._directions(await self._elsewhere(lambda: embed.within(text, spans)), len(spans))

    def _embedding(self) -> Embed:
        if self._embed is None:
            raise UserError("this strategy needs an embedding model", "Name one: --embed FOLDER_OR_HUB_ID.")
        return self._embed

    def _directions(self, vectors: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        """float32 [n, e], of length 1.

        Raises:
            UserError: if they are others than ``n`` vectors of one size, no numbers, or say nothing.
        """
        vectors = np.asarray(vectors, np.float64)
        wide = vectors.shape[1] if vectors.ndim == 2 else None
        lengths = np.linalg.norm(vectors, axis=-1)
        wrong = [
            (
                vectors.ndim != 2 or len(vectors) != n or (self._wide or wide) != wide,
                f"an array of {list(vectors.shape)} for {n:,} texts, expected [{n}, {self._wide or 'e'}]",
            ),
            (not np.isfinite(lengths).all(), "what is no finite number"),
            (bool(n) and not lengths.any(), "nought for every text"),
        ]
        for is_wrong, what in wrong:
            if is_wrong:
                raise UserError(f"the embedding model gave {what}", "Name another one (--embed).")
        self._wide = wide
        if not lengths.all():
            self.note("the embedding model gave nought for some texts: nothing is like these")
        return np.asarray(vectors / np.where(lengths, lengths, 1.0)[:, None], np.float32)

    def _within(self, text: str, room: int) -> str:
        """The text, cut where it has more tokens: what a model wrote may have more of them than were written."""
        if len(token_ids(text, self.tokenizer)) <= room:
            return text
        return text[: self.spans(text)[room][0]]

    async def _called(self, wish: _Wish, role: str) -> Call | None:
        """A call whose end is known, but not yet told; None if the budget has nothing for it."""
        counted = self.count(wish.prompt)
        if counted + wish.room > self.window:
            raise NoRoom(
                f"{role}: a prompt of {counted:,} tokens and {wish.room:,} for its answer, where the window has "
                f"{self.window:,}",
                "Ask a shorter question, or leave less room (--room).",
            )
        number, after = self.trace.begin()
        call = await self._tried(wish, Call(number, role, after, text_of(wish.prompt), counted))
        if call is None:
            self.trace.leave(after)
            self.note("the budget is spent: some calls were not made")
        return call

    def _end(self, call: Call) -> None:
        self.trace.end(call)
        self.heard(self.trace)
        if call.failed:
            self.note(f"{call.role}: no answer ({call.failed})")

    async def _tried(self, wish: _Wish, call: Call) -> Call | None:
        """Ask until there is an answer of use, as often as that may be; None if the budget has nothing for it.

        Replies of no use give a call up, whichever run they came in. Without a reply, or one of use to the last call,
        the run ends, and another one may find the server mended. Who fails one prompt alone, and takes no tokens for
        it, is no server that is away.
        """
        paid = drawn = useless = failed = 0
        while True:
            one = await self._came(wish, call.counted, paid, drawn)
            if one is None:
                return replace(call, failed=f"{call.failed}{SPENT}") if call.failed else None
            call = replace(
                call,
                tries=call.tries + (not one.repeated),
                kept=one.kept,
                seconds=call.seconds + one.seconds,
                prompt_tokens=call.prompt_tokens + one.read,
                cached_tokens=call.cached_tokens + one.cached,
                completion_tokens=call.completion_tokens + one.written,
                billed_tokens=call.billed_tokens + one.billed,
            )
            paid += one.paid
            if isinstance(one.came, Failed):
                call = replace(call, failed=one.came.reason)
                drawn += one.came.replied
                useless += one.came.replied and not wish.last
                failed += not one.kept
                if one.came.final or useless == self.tries:
                    return call
                if failed == self.tries:
                    if one.came.reason.startswith("code ") and not (one.came.unheard or wish.last or self._failing):
                        self._failing = True
                        return call
                    self._over = True
                    raise UserError(
                        f"{self.chat.name} failed {failed} times: {one.came.reason}"
                        f"{one.came.detail and f': {one.came.detail}'}",
                        f"See what the log of {self.chat.name} says. {AGAIN}",
                    )
                if not one.kept:
                    await asyncio.sleep(min(max(self.pause * 2 ** (failed - 1), one.came.wait), LONGEST))
                continue
            text, why = self._text(one.came, wish.prompt)
            call = replace(call, answer=text, failed=why)
            drawn, useless = drawn + 1, useless + 1
            if not why or useless == self.tries or not self.chat.varies:
                if wish.last and text and one.came.cut and not isinstance(wish.prompt, Beginning):
                    self.note(f"the answer fills its room of {wish.room:,} tokens, and may not be at its end")
                return call

    async def _came(self, wish: _Wish, counted: int, paid: int, drawn: int) -> _Try | None:
        """What came of a try, or of the same one before; None if the budget has nothing for it.

        Args:
            wish: that is tried.
            counted: tokens of the prompt.
            paid: tries of it before, that were kept.
            drawn: replies to it before, that were of no use.
        """
        key = content_key({**self.chat.basis, **wish.key, "try": paid})
        room = wish.room + self.thinks
        async with self._asked.setdefault(key, asyncio.Lock()):  # who asks the same at the same time waits for it
            refusal = content_key({**self._reading, "refused": key})
            found = self.records.get([key, refusal])
            kept = found.get(key)
            if kept is not None and key in self._paid:
                return _Try(_recalled(kept)[0], True, repeated=True)
            if refusal in found:
                return None
            async with self._known():
                aside = self._spent.set_aside(counted + room, wish.last)
                if aside is None:
                    self.records.put({refusal: {}})
                    return None
                came, seconds = await self._now(wish, drawn) if kept is None else _recalled(kept)
                one = replace(self._costs(wish, came, counted, room), kept=kept is not None, seconds=seconds)
                if one.paid:
                    self._paid.add(key)
                if one.paid and not one.kept:
                    self.records.put({key: _record(came, seconds)})
                more = max(0, one.read - counted) + max(0, one.written - room)
                self._spent.settle(aside, one.read + one.written, one.beyond, more)
                self._unknown &= isinstance(came, Failed)
                self._failing &= isinstance(came, Failed) or one.kept
            if self._spent.overdrawn:
                self.note("the budget is overdrawn: the server says that calls took more tokens than we count")
            return one

    @asynccontextmanager
    async def _known(self) -> AsyncIterator[None]:
        """Where tokens are bounded, calls go one by one until a first one tells what the server bills."""
        if self._unknown:
            async with self._alone:
                if self._unknown:
                    yield
                    return
        yield

    async def _now(self, wish: _Wish, drawn: int) -> tuple[Answer | Failed, float]:
        """What comes of asking, and the seconds that it takes."""
        async with self._turn:
            if self._over:
                raise UserError("stopped")  # what ended it is raised where it happened
            begun = time.monotonic()
            came: Answer | Failed
            try:
                came = await self._elsewhere(lambda: wish.work(drawn))
                came.text.encode()
            except UserError:
                self._over = True
                raise
            except Failed as failed:
                came = failed
            except UnicodeEncodeError:
                came = Failed("half a character", replied=True)
            return came, time.monotonic() - begun

    def _costs(self, wish: _Wish, came: Answer | Failed, counted: int, room: int) -> _Try:
        """A try with its tokens, thoughts among those that were written.

        What a server says counts where it can be, and where it is more than we count; less is not believed. Of a reply
        that was lost, somebody may have read the prompt, and written as much as there was room for.

        Args:
            wish: that was tried.
            came: of it.
            counted: tokens of the prompt.
            room: tokens of thoughts and answer, at most.

        Raises:
            UserError: if the server cut the prompt.
        """
        if isinstance(came, Failed):
            if came.reason.startswith("code ") or came.unheard or (came.final and not came.replied):
                return _Try(came, False, paid=False)
            return _Try(came, False, read=counted, written=room)
        own = min(len(token_ids(came.text, self.tokenizer)), room) if wish.writes else 0
        usage, (least, most) = came.usage, bounds(counted, self.served)
        one = _Try(came, False, read=counted, written=own)
        if usage is None:
            if came.wrong_usage:
                self.note(UNBELIEVED)
            return one
        if 0 < usage.prompt < least:
            raise UserError(
                f"{self.chat.name} read {usage.prompt:,} tokens of a prompt of {counted:,}: it cut the prompt",
                f"Say how much it reads: --window {usage.prompt}.",
            )
        one = replace(one, billed=usage.prompt + usage.completion)
        if not 0 < usage.prompt < LONG or usage.completion >= LONG:
            self.note(UNBELIEVED)
            return one
        if usage.prompt > most and self.bills:
            self.note(BEYOND)
        one = replace(one, cached=min(usage.cached, counted))
        if not self.bills:
            return one
        read, written = max(counted, usage.prompt), max(own, usage.completion)
        return replace(one, read=read, written=written, beyond=read + written - counted - own)

    def _text(self, answer: Answer, prompt: Prompt) -> tuple[str, str]:
        """The text of an answer, without the thought that it begins with, and why it is of no use.

        A text that is gone on with has no thoughts; a thought whose beginning is in the prompt has an end alone, which
        counts as one where the model is said to think.
        """
        if isinstance(prompt, Beginning):
            return answer.text.strip(), "" if answer.text.strip() else "empty"
        text = answer.text.strip()
        if text.startswith(THINKING) and THOUGHT not in text:
            return "", ENDLESS
        if text.startswith(THINKING) or (self.thinks and THOUGHT in text):
            text = text.partition(THOUGHT)[2].strip()
        elif THOUGHT in text:
            self.note(
                f"an answer with {THOUGHT} in it was taken as it is: no thought begins it, and none was announced"
            )
        return text, "" if text else "empty"

    async def _elsewhere(self, work: Callable[[], T]) -> T:
        """Work that blocks; a single worker is this thread, so that Ctrl-C ends it where it is."""
        return work() if self.chat.workers == 1 else await in_a_thread(work)


def _record(came: Answer | Failed, seconds: float) -> dict[str, Any]:
    """What is kept of a try."""
    if isinstance(came, Failed):
        return {"failed": came.reason, "final": came.final, "replied": came.replied, "seconds": seconds}
    return {**asdict(came), "seconds": seconds}


def _recalled(record: Mapping[str, Any]) -> tuple[Answer | Failed, float]:
    """A try that was kept, and its seconds."""
    if "failed" in record:
        return Failed(record["failed"], final=record["final"], replied=record["replied"]), record["seconds"]
    usage = None if record["usage"] is None else Usage(**record["usage"])
    return Answer(record["text"], record["cut"], usage, record["wrong_usage"]), record["seconds"]


def _said(prompt: Prompt) -> Any:
    """A prompt as keys have it: one of each kind is another."""
    return prompt if isinstance(prompt, str) else asdict(prompt)


def in_a_thread(work: Callable[[], T]) -> Awaitable[T]:
    """The result of work in a thread that the process does not wait for when it ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_(value)

    def run() -> None:
        try:
            settled = (future.set_result, work())
        except BaseException as error:  # raised again where it is awaited
            settled = (future.set_exception, error)  # type: ignore[assignment]
        try:
            loop.call_soon_threadsafe(settle, *settled)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=run, daemon=True).start()
    return future
