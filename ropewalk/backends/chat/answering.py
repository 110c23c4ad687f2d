"""Many prompts to one language model: side by side, again where that helps, counted, and kept on the disk."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from ropewalk.backends.chat.chat import CUT, LATE, TOO_LONG, Answer, Chat, Failed, rendered
from ropewalk.backends.chat.journal import Call, Journal
from ropewalk.backends.chat.ledger import Ledger, listed, tally
from ropewalk.backends.chat.side_by_side import side_by_side
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.underway import Underway
from ropewalk.texts.documents import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIES = 4  # calls for one prompt
OUTAGE = 24  # failed calls in a row after which a server is broken
PAUSE, LONGEST = 1.0, 60.0  # seconds before the second call, doubled before each further one; at most
SLACK = 16  # tokens that two renderings of one prompt may differ by
APART = 4  # times that the tokens of two tokenizers may differ by
GREETING = 60  # signs of a prompt up to which an answer may begin with it
UNKNOWN = "\ufffd"  # stands for what is no character
REPLIES = "replies.jsonl"
THINKING, THOUGHT = "<think>", "</think>"  # behind the second, models that think begin to answer
UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")  # of terminals, and of directions
T = TypeVar("T")


class Nonsense(ValueError):
    """An answer of no use; says why in a few words, the same for the same kind."""


class Engine:
    """Answers prompts; see ``answers``.

    A try that failed, or whose text is nonsense, is made again, with growing pauses, until ``tries`` are used up. A
    call that nobody took is no try: the prompt waits, and if ``patience`` is over and no other was taken in that time,
    all of it ends; else this prompt is given up. Tokens of prompts are compared with what the server says it read: if
    that is less, it has cut the prompt, and nothing that it then says is of use.

    Args:
        chat: who answers.
        tokenizer: counts tokens.
        served: whether that is the tokenizer of the model itself, so that counts must agree; else they may be a few
            times apart.
        tries: calls for one prompt.
        pause: seconds before the second.
        thinks: tokens that the model may think before it answers, besides the room for the answer.
        patience: seconds that a prompt waits while nobody takes it.

    Attributes:
        ledger: what all of it came to.
        needs: tokens that the longest prompt had, with room for its answer.
        heard: told of that after each prompt, and of what is waited for, where something is.
    """

    def __init__(
        self,
        chat: Chat,
        tokenizer: PreTrainedTokenizerBase,
        served: bool,
        tries: int = TRIES,
        pause: float = PAUSE,
        thinks: int = 0,
        patience: float = 0.0,
    ):
        self.chat, self.tokenizer, self.served = chat, tokenizer, served
        self.tries, self.pause, self.thinks, self.patience = tries, pause, thinks, patience
        self.ledger, self.needs = Ledger(), 0
        self.heard: Callable[[Ledger, str], None] = lambda ledger, waiting: None
        self._journal = Journal()
        self._told: set[str] = set()  # prompts that the ledger has
        self._streak: list[Call] = []  # failures since the last answer; kept when that shows that the server is there
        self._taken = 0.0  # when the last prompt was sent that was answered
        self._down: UserError | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.chat.name

    @contextmanager
    def keeping(self, folder: Path, overwrite: bool = False) -> Iterator[Callable[[], None]]:
        """Keep every answer in a folder; yields what removes it, when what the answers led to is written.

        Args:
            folder: of this run alone.
            overwrite: throw away what another run left.

        Raises:
            UserError: if another run is at it, or it holds answers of another model.
        """
        underway = Underway(folder, {"engine": dict(self.chat.basis)}, re.compile(re.escape(REPLIES)), "answers")
        with underway.opened(overwrite):
            self._journal = Journal(folder / REPLIES)
            try:
                yield underway.remove
            finally:
                with self._lock:  # calls that nobody waited for end later
                    self._journal = Journal()

    def answers(
        self, prompts: Sequence[str], room: int, read: Callable[[str], T] | Sequence[Callable[[str], T]]
    ) -> list[T | None]:
        """What is read out of the answer to each prompt; None where there was none of use.

        Args:
            prompts: what is asked; equal ones are asked once.
            room: tokens that an answer may have.
            read: takes an answer, without what the model thought before it, and raises ``Nonsense``; or one for each
                prompt, of which equal prompts take the first.

        Raises:
            UserError: if nobody answers, or refuses everything; what was answered is kept.
        """
        self._down = None
        room += self.thinks
        found: dict[str, T | None] = {}
        reads = [read] * len(prompts) if callable(read) else read
        wanted = dict(reversed(list(zip(prompts, reads, strict=True))))
        asked, stop = list(dict.fromkeys(prompts)), threading.Event()

        def answer(prompt: str) -> T | None:
            return self._answer(prompt, room, wanted[prompt], stop)

        with side_by_side(answer, asked, self.chat.workers, stop) as values:
            for prompt, value in zip(asked, values, strict=True):
                found[prompt] = value
                self.heard(self.ledger, "")
        return [found[prompt] for prompt in prompts]

    def require_room(self, prompts: Sequence[str], room: int, longest: int) -> None:
        """Refuse prompts none of which the window has room for, with its answer, before any is asked.

        Args:
            prompts: short ones.
            room: tokens that an answer may have.
            longest: tokens of the longest prompt that will be asked, with its answer.

        Raises:
            UserError: if it is known to have none.
        """
        shortest = min(self._measure(prompt, room + self.thinks) for prompt in prompts)
        self.needs = max(self.needs, longest + self.thinks)
        if self.chat.window is not None and shortest > self.chat.window:
            raise UserError(
                f"prompts of {shortest:,} tokens at least, with {room + self.thinks:,} for the answer, where the "
                f"window of {self.name} has {self.chat.window:,}",
                self.mend({TOO_LONG: 1}),
            )

    def mend(self, failed: Mapping[str, int], nonsense: Mapping[str, int] = MappingProxyType({})) -> str:
        """What helps where calls came to nothing, by the most frequent reason why."""
        reasons = {**failed, **nonsense}
        why = max(reasons, key=lambda reason: reasons[reason], default="")
        if why == TOO_LONG:
            line = command("extend", self.name, "--to", self.needs, "-o", "EXTENDED")
            return (
                f"The window of {self.name} has {self.chat.window:,} tokens, and {self.needs:,} are needed: {line} "
                "makes a model for --engine EXTENDED; or ask for less (a smaller --length, --chunk, --words)."
            )
        if why == CUT:
            return (
                "A base model does not stop: name a chat model (--engine); one that thinks before it answers needs "
                "tokens for that (--engine-thinks)."
            )
        if why == LATE:
            return "Give calls more time (--engine-deadline), or ask for less (a smaller --chunk, --words)."
        if why in failed:
            return f"See what the log of {self.name} says."
        return f"Ask another engine: {self.name} does not answer as it is asked to."

    def _measure(self, prompt: str, room: int) -> int:
        """Tokens of a prompt, with room for its answer."""
        tokens = len(rendered(prompt, self.tokenizer)) + room
        self.needs = max(self.needs, tokens)
        return tokens

    def _answer(self, prompt: str, room: int, read: Callable[[str], T], stop: threading.Event) -> T | None:
        asked, counted, value = _Asked(key_of(prompt, room), prompt, room), Ledger(asked=1), None
        known = self._journal.of(asked.key)
        least, most = bounds(len(rendered(prompt, self.tokenizer)), self.served)
        with self._lock:
            self._measure(prompt, room)
        while asked.tries < self.tries:
            call = known[asked.calls] if asked.calls < len(known) else self._call(asked, stop)
            asked.calls += 1
            counted.calls += 1
            if call.answer is None:
                tally(counted.failed, call.failed)
                if call.final:
                    break
                asked.tries += not call.unheard
                continue
            asked.tries += 1
            self._count(counted, prompt, call.answer, room, least, most)
            try:
                value = read(self._text(call.answer, prompt, room, least))
                counted.answered = 1
                break
            except Nonsense as error:
                tally(counted.nonsense, str(error))
                asked.drawn += 1
            if not self.chat.varies:
                break
        counted.given_up = 1 - counted.answered
        with self._lock:
            if asked.key not in self._told:
                self._told.add(asked.key)
                self.ledger.add(counted)
        return value

    def _call(self, asked: _Asked, stop: threading.Event) -> Call:
        """Ask, keep what comes of it, and wait where that helps."""
        if stop.is_set():
            raise self._down or UserError("stopped")
        failed, sent = None, time.monotonic()
        try:
            answer = self.chat.answer(asked.prompt, asked.room, asked.drawn)
            answer.text.encode()
            call = Call(asked.key, answer)
        except Failed as error:
            failed = error
            call = Call(asked.key, failed=error.reason, final=error.final, unheard=error.unheard)
        except UnicodeEncodeError:
            failed = Failed("half a character")
            call = Call(asked.key, failed=failed.reason)
        now = time.monotonic()
        asked.alone = None if not call.unheard else now if asked.alone is None else asked.alone
        left = LONGEST if asked.alone is None else asked.alone + self.patience - now
        with self._lock:
            if call.answer is not None:
                self._taken = max(self._taken, sent)
            if left <= 0 and asked.alone is not None and self._taken > asked.alone:
                call = replace(call, final=True)  # somebody is there, but not for this prompt
            self._keep(call, failed.detail if failed else "", left <= 0)
        if failed and not call.final and (call.unheard or asked.tries + 1 < self.tries):
            pause = min(max(self.pause * 2 ** min(asked.calls, 9), failed.wait), LONGEST, left) if self.pause else 0
            if call.unheard:
                self.heard(self.ledger, f"nobody answers ({call.failed}): ends in {left:,.0f} s")
            stop.wait(pause)
        return call

    def _keep(self, call: Call, detail: str, over: bool) -> None:
        """Keep a call; failures as soon as an answer shows that the server is there.

        Args:
            call: that came to its end.
            detail: of its failure.
            over: whether it was waited for long enough.
        """
        if self._down is not None:
            raise self._down
        self._streak.append(call)
        if call.answer is not None or (over and call.final):
            self._journal.keep(self._streak)
            self._streak = []
        elif over or sum(not one.unheard for one in self._streak) >= OUTAGE:
            reasons: dict[str, int] = {}
            for one in self._streak:
                tally(reasons, one.failed)
            what = f"did not answer in {self.patience:g} seconds" if over else f"failed {OUTAGE} calls in turn"
            self._down = UserError(
                f"{self.name} {what}: {listed(reasons)}{detail and f'; the last: {detail}'}", self.mend(reasons)
            )
            raise self._down

    def _count(self, counted: Ledger, prompt: str, answer: Answer, room: int, least: int, most: int) -> None:
        counted.our_prompt_tokens += len(rendered(prompt, self.tokenizer))
        counted.our_completion_tokens += (written := len(token_ids(answer.text, self.tokenizer)))
        usage = answer.usage
        if usage is None:
            counted.wrong_usage += answer.wrong_usage
            counted.without_usage += not answer.wrong_usage
            return
        counted.prompt_tokens += usage.prompt if usage.prompt <= most else 0  # what cannot be is in no sum
        counted.cached_tokens += usage.cached if usage.cached <= usage.prompt <= most else 0
        counted.completion_tokens += usage.completion if usage.completion <= room else 0
        times = 2 if self.served else APART
        possible = written <= usage.completion * times + SLACK and usage.completion <= room
        counted.wrong_usage += not possible or not least <= usage.prompt <= most or usage.cached > usage.prompt

    def _text(self, answer: Answer, prompt: str, room: int, least: int) -> str:
        """The text of an answer, if it may be one to the whole prompt.

        Raises:
            Nonsense: if not.
        """
        if answer.usage is not None and answer.usage.prompt < least:
            raise Nonsense("fewer tokens read than the prompt has")
        if answer.cut or self._fills(answer, room):
            raise Nonsense(CUT)
        text = answer.text.rpartition(THOUGHT)[2].strip()
        if not text:
            raise Nonsense("empty")
        if text.startswith(THINKING):
            raise Nonsense("a thought without an end")
        if UNSEEN.search(text):
            raise Nonsense("control characters")
        if UNKNOWN in text:
            raise Nonsense("half a character")
        if len(prompt) > GREETING and text.startswith(prompt.strip()):
            raise Nonsense("the prompt again")
        if set(token_ids(text, self.tokenizer)) & set(self.tokenizer.all_special_ids):
            raise Nonsense("special tokens")  # a sign like </s> in a text would end a row
        return text

    def _fills(self, answer: Answer, room: int) -> bool:
        """Whether an answer takes all of its room: as the server says, unless that cannot be, or by our own count."""
        if answer.usage is not None and answer.usage.completion <= room:
            return answer.usage.completion == room
        return self.served and len(token_ids(answer.text, self.tokenizer)) >= room


@dataclass
class _Asked:
    """A prompt on its way to an answer.

    Attributes:
        key: of prompt and room.
        prompt: what is asked.
        room: tokens that an answer may have.
        calls: whose end is known.
        tries: of those, that somebody took.
        drawn: of those, that were nonsense; failures are asked again alike, after nonsense another text is drawn.
        alone: when the first of the last calls failed that nobody took; None if somebody took the last one.
    """

    key: str
    prompt: str
    room: int
    calls: int = 0
    tries: int = 0
    drawn: int = 0
    alone: float | None = None


def bounds(ours: int, served: bool) -> tuple[int, int]:
    """Tokens of a prompt that whoever reads all of it counts at least, and at most.

    Args:
        ours: how many we count.
        served: whether by the tokenizer of who reads.
    """
    return (ours - SLACK, 2 * ours + 512) if served else (ours // APART, ours * APART + 512)


def key_of(prompt: str, room: int) -> str:
    """Of a prompt and the room for its answer."""
    return hashlib.sha256(f"{room} {prompt}".encode()).hexdigest()
