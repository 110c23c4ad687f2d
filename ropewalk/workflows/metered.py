"""A language model as strategies see it: every call is counted, bounded by a budget, kept, and traced."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ropewalk.backends.chat.answering import LONGEST, PAUSE, THINKING, THOUGHT, TRIES, bounds
from ropewalk.backends.chat.chat import NO_CERTAINTY, Answer, Beginning, Chat, Failed, Prompt, Usage, rendered, text_of
from ropewalk.common.errors import UserError
from ropewalk.common.store import Records, SampleStore, content_key
from ropewalk.texts.documents import token_ids
from ropewalk.workflows.strategy import NoAnswer, NoRoom
from ropewalk.workflows.trace import Call, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AGAIN = "What was answered is kept: say the same again to go on."
T = TypeVar("T")
MASS = 0.9  # of the probability of the next token, below which its entropy is told to be a bound
Came = tuple[Answer | Failed, float, bool]  # what, in how many seconds, and whether it was kept from before
Attempt = Callable[[Prompt, int, int], Awaitable[Came]]


class Embed(Protocol):
    """Gives vectors of texts, not yet of length 1."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, e]"""

    def within(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """float32 [spans, e]: of spans of characters, each read in its place in the text."""


@dataclass(frozen=True)
class Budget:
    """What a reading may spend; None is no bound.

    Attributes:
        tokens: of all prompts and answers.
        calls: tries included.
    """

    tokens: int | None = None
    calls: int | None = None


@dataclass
class Spending:
    """What is spent, or set aside for calls that are under way."""

    tokens: int = 0
    calls: int = 0


class Metered:
    """See ``strategy.Model``.

    A call is set aside in the budget before it is made, its answer at its longest, so that a budget is never
    overdrawn; one call of a whole window stays free for the last answer. A call of an earlier run costs what it cost
    then: a reading that is taken up again decides as it did before.

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
        embed: gives vectors of texts.
        heard: told of every call that ended.
        turn: which readings that run side by side share, so that no more calls than ``chat.workers`` are under way.

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
        embed: Embed | None = None,
        heard: Callable[[Trace], None] = lambda trace: None,
        turn: asyncio.Semaphore | None = None,
    ):
        self.chat, self.tokenizer, self.served, self.window = chat, tokenizer, served, window - thinks
        self.records = SampleStore() if records is None else records
        self.budget, self.thinks = budget or Budget(), thinks
        self.tries, self.pause, self._embed, self.heard = tries, pause, embed, heard
        self.trace, self._spent = Trace(), Spending()
        self._over = False  # whether no further call is to be made
        self._aside = self.window + thinks if last is None else last
        self._turn, self._asked = turn or asyncio.Semaphore(chat.workers), dict[str, asyncio.Lock]()
        if self.budget.tokens is not None and self.budget.tokens < self._aside:
            raise UserError(
                f"a budget of {self.budget.tokens:,} tokens does not hold the last answer, which may take "
                f"{self._aside:,}",
                "Raise it (--tokens).",
            )

    def count(self, prompt: Prompt) -> int:
        return len(rendered(prompt, self.tokenizer))

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        if not self.tokenizer.is_fast:
            raise UserError("this tokenizer gives no character offsets", "Use a fast one (tokenizer.json).")
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [tuple(span) for span in encoded.offset_mapping]

    def note(self, text: str) -> None:
        self.trace.note(text)

    def affordable(self, calls: int, tokens: int) -> int:
        most = calls
        if self.budget.calls is not None:
            most = min(most, self.budget.calls - self._spent.calls - 1)
        if self.budget.tokens is not None:
            most = min(most, (self.budget.tokens - self._spent.tokens - self._aside) // (tokens + self.thinks))
        return max(most, 0)

    async def ask(self, prompt: Prompt, room: int, role: str, last: bool = False, draw: int = 0) -> str | None:
        if draw and not self.chat.varies:
            raise UserError(
                f"{role}: another answer was wanted, where {self.chat.name} always gives the same",
                "Choose other options, or ask a server (--model http://HOST:PORT/v1).",
            )
        call = await self._called(prompt, room, role, last, self._answer, draw * self.tries)
        if call is None and last:
            raise NoRoom(
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
            kind = NoAnswer if call.prompt_tokens else UserError
            raise kind(f"{self.chat.name} gave no last answer: {call.failed}", AGAIN)
        return None

    async def certainty(self, prompt: Prompt, role: str) -> float | None:
        if not hasattr(self.chat, "certainty"):
            raise UserError(f"{self.chat.name} tells no probabilities of the next token", NO_CERTAINTY)
        if self.thinks:
            raise UserError(
                "a model that thinks first is always sure of its first token, which begins the thought",
                "Choose another strategy, or a model that does not think (no --thinks).",
            )
        call = await self._called(prompt, 1, role, False, self._certainty)
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
        return _of_length_1(await self._elsewhere(lambda: embed(texts)))

    async def embed_within(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        embed = self._embedding()
        return _of_length_1(await self._elsewhere(lambda: embed.within(text, spans)))

    def _embedding(self) -> Embed:
        if self._embed is None:
            raise UserError("this strategy needs an embedding model", "Name one: --embed FOLDER_OR_HUB_ID.")
        return self._embed

    def _within(self, text: str, room: int) -> str:
        """The text, cut where it has more tokens: what a model wrote may have more of them than were written."""
        if len(token_ids(text, self.tokenizer)) <= room:
            return text
        return text[: self.spans(text)[room][0]]

    def _set_aside(self, tokens: int, last: bool) -> bool:
        free = 0 if last else 1
        calls, most = self.budget.calls, self.budget.tokens
        if calls is not None and self._spent.calls + 1 + free > calls:
            return False
        if most is not None and self._spent.tokens + tokens + free * self._aside > most:
            return False
        self._spent.calls += 1
        self._spent.tokens += tokens
        return True

    async def _called(
        self, prompt: Prompt, room: int, role: str, last: bool, attempt: Attempt, drawn: int = 0
    ) -> Call | None:
        """A call whose end is known, but not yet told; None if the budget has nothing for it."""
        counted = self.count(prompt)
        if counted + room > self.window:
            raise NoRoom(
                f"{role}: a prompt of {counted:,} tokens and {room:,} for its answer, where the window has "
                f"{self.window:,}",
                "Ask a shorter question, or leave less room (--room).",
            )
        number, after = self.trace.begin()
        begun = Call(number, role, after, text_of(prompt), counted)
        call = await self._tried(prompt, room, last, begun, attempt, drawn)
        if call is None:
            self.trace.leave(after)
            self.note("the budget is spent: some calls were not made")
        return call

    def _end(self, call: Call) -> None:
        self.trace.end(call)
        self.heard(self.trace)
        if call.failed:
            self.note(f"{call.role}: no answer ({call.failed})")

    async def _tried(
        self, prompt: Prompt, room: int, last: bool, call: Call, attempt: Attempt, drawn: int
    ) -> Call | None:
        """Ask until there is an answer of use, as often as that may be; None if the budget has nothing for it."""
        most = call.counted + room + self.thinks
        for again in range(self.tries):
            if not self._set_aside(most, last):
                return replace(call, failed=f"{call.failed}, and the budget is spent") if again else None
            answer, seconds, kept = await attempt(prompt, room, drawn)
            call = replace(call, tries=again + 1, seconds=call.seconds + seconds, kept=kept)
            if isinstance(answer, Failed):
                call = replace(call, failed=answer.reason)
                if answer.reason.startswith("code ") or answer.unheard:  # nobody read it
                    self._spent.tokens -= most
                else:  # somebody may have read all of it, and written as much as there was room for
                    call = replace(
                        call,
                        prompt_tokens=call.prompt_tokens + call.counted,
                        completion_tokens=call.completion_tokens + most - call.counted,
                    )
                if answer.final:
                    break
                if again + 1 == self.tries:
                    self._over = True
                    raise UserError(
                        f"{self.chat.name} failed {self.tries} times in turn: {answer.reason}"
                        f"{answer.detail and f': {answer.detail}'}",
                        f"See what the log of {self.chat.name} says. {AGAIN}",
                    )
                await asyncio.sleep(min(max(self.pause * 2**again, answer.wait), LONGEST))
                continue
            own = len(token_ids(answer.text, self.tokenizer)) if attempt == self._answer else 0
            read, written, cached = self._cost(answer.usage, call.counted, own, most - call.counted)
            self._spent.tokens += read + written - most
            text, why = self._text(answer, prompt)
            if last and text and answer.cut and not isinstance(prompt, Beginning):
                self.note(f"the answer fills its room of {room:,} tokens, and may not be at its end")
            call = replace(
                call,
                answer=text,
                failed=why,
                prompt_tokens=call.prompt_tokens + read,
                cached_tokens=call.cached_tokens + cached,
                completion_tokens=call.completion_tokens + written,
            )
            if not why or not self.chat.varies:
                break
            drawn += 1
        return call

    async def _answer(self, prompt: Prompt, room: int, drawn: int) -> Came:
        asked = {"prompt": _said(prompt), "room": room + self.thinks, "drawn": drawn}
        return await self._came(asked, self.count(prompt), lambda: self.chat.answer(prompt, room + self.thinks, drawn))

    async def _certainty(self, prompt: Prompt, room: int, drawn: int) -> Came:
        """Minus the entropy and what was told of the probability, as text."""

        def tell() -> Answer:
            sure = self.chat.certainty(prompt)  # type: ignore[attr-defined]
            return Answer(f"{sure.nats!r} {sure.told!r}", usage=sure.usage or Usage(self.count(prompt), 0, 0))

        return await self._came({"certainty": _said(prompt)}, self.count(prompt), tell)

    async def _came(self, asked: dict[str, Any], counted: int, ask: Callable[[], Answer]) -> Came:
        """What came of a call, or of the same one before."""
        key = content_key({**self.chat.basis, **asked})
        async with self._asked.setdefault(key, asyncio.Lock()):  # who asks the same at the same time waits for it
            kept = self.records.get([key]).get(key)
            if kept is not None:
                usage = None if kept["usage"] is None else Usage(**kept["usage"])
                return Answer(kept["text"], kept["cut"], usage), kept["seconds"], True
            async with self._turn:
                if self._over:
                    raise UserError("stopped")  # what ended it is raised where it happened
                begun = time.monotonic()
                try:
                    answer = await self._elsewhere(ask)
                    answer.text.encode()
                except UserError:
                    self._over = True
                    raise
                except Failed as failed:
                    return failed, time.monotonic() - begun, False
                except UnicodeEncodeError:
                    return Failed("half a character"), time.monotonic() - begun, False
                seconds = time.monotonic() - begun
            if (usage := answer.usage) is not None and usage.prompt < bounds(counted, self.served)[0]:
                raise UserError(
                    f"{self.chat.name} read {usage.prompt:,} tokens of a prompt of {counted:,}: it cut the prompt",
                    f"Say how much it reads: --window {usage.prompt}.",
                )
            if not answer.text.strip():
                return answer, seconds, False  # another run may have more luck
            told = None if answer.usage is None else asdict(answer.usage)
            self.records.put({key: {"text": answer.text, "cut": answer.cut, "usage": told, "seconds": seconds}})
            return answer, seconds, False

    def _cost(self, usage: Usage | None, counted: int, own: int, room: int) -> tuple[int, int, int]:
        """Tokens that were read, those that were written, thoughts among them, and of the first, those read before.

        What a server says counts where it can be, and where it is more than we count; less is not believed.

        Args:
            usage: as the server says.
            counted: tokens of the prompt.
            own: tokens of the answer, by our own count.
            room: tokens that it may have.
        """
        own, (least, most) = min(own, room), bounds(counted, self.served)
        if usage is not None and least <= usage.prompt <= most and usage.completion <= room:
            return max(counted, usage.prompt), max(own, usage.completion), min(usage.cached, counted)
        return counted, own, 0

    @staticmethod
    def _text(answer: Answer, prompt: Prompt) -> tuple[str, str]:
        """The text of an answer, without thoughts, and why it is of no use; a text that is gone on with has none."""
        if isinstance(prompt, Beginning):
            return answer.text.strip(), "" if answer.text.strip() else "empty"
        text = answer.text.rpartition(THOUGHT)[2].strip()
        if text.startswith(THINKING):
            return "", "a thought without an end"
        return text, "" if text else "empty"

    async def _elsewhere(self, work: Callable[[], T]) -> T:
        """Work that blocks; a single worker is this thread, so that Ctrl-C ends it where it is."""
        return work() if self.chat.workers == 1 else await in_a_thread(work)


def _of_length_1(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


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
