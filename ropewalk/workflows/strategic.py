"""A strategy as a backend: what is asked of a whole prompt is answered by reading the text in it, in several calls.

The last call is the prompt itself, token by token, with what the strategy found in the place of the text. A strategy
that takes the text as it is thus asks what the model alone is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ropewalk.backends.backend import Ask, Backend, Reply, Spent
from ropewalk.backends.chat.chat import Beginning, Chat, text_of
from ropewalk.common.coroutines import finished
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import code_fingerprint
from ropewalk.common.store import Records, content_key
from ropewalk.texts.pieces import TokenUnits
from ropewalk.workflows.metered import Embed, Metered
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategy import WHOLE, NoAnswer, NoBudget, NoRoom, Reading, Strategy, answered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BILLED = 1.1  # times our own count, from which on a server's bill is told


class Strategic(Backend):
    """Answers asks that are told into a text and a question about it.

    Intermediate calls are prompts in words, by the chat template where there is one. Tokens are those of our own count,
    whatever a server bills, so that those of a strategy and of the prompt as it is are of one kind.

    Args:
        strategy: how texts are read.
        chat: who answers its calls.
        tokenizer: the model's own.
        window: tokens that a call may have, prompt and answer.
        spend: tokens of all calls for one question, in multiples of those that its prompt as it is and the answer may
            have; 0 is no bound.
        records: where the answer of every call is kept.
        embed: gives vectors of texts.
        embedder: the name of what does.
    """

    no_losses = "a strategy answers questions about a text; losses are the model's own"
    needs_text = True

    def __init__(
        self,
        strategy: Strategy,
        chat: Chat,
        tokenizer: PreTrainedTokenizerBase,
        window: int,
        spend: float,
        records: Records,
        embed: Embed | None = None,
        embedder: str = "",
    ):
        self.strategy, self.chat, self.tokenizer, self.window, self.spend = strategy, chat, tokenizer, window, spend
        self.records, self.embed = records, embed
        self.basis = {
            **chat.basis,
            "strategy": strategy.spelling,
            "spend": f"{spend:g}",
            "window": str(window),
            "embed": embedder,
            "workflows": code_fingerprint(("workflows",)),
        }

    @property
    def how(self) -> str:
        bound = f", together at most {self.spend:g} times the tokens of the whole prompt" if self.spend else ""
        return f"calls of at most {self.window:,} tokens{bound}; every answer decoded"

    def describe(self) -> dict[str, Any]:
        return {"name": self.chat.name}

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """As many questions at the same time as the model takes calls.

        Raises:
            ValueError: if an ask has no question behind a text.
            UserError: if nobody answers, or a call is refused.
        """
        if not all(ask.after for ask in asks):
            raise ValueError("an ask without a question behind a text")
        for first in range(0, len(asks), self.chat.workers):
            yield from enumerate(finished(self._together(asks[first : first + self.chat.workers])), first)

    async def _together(self, asks: Sequence[Ask]) -> list[Reply]:
        turn = asyncio.Semaphore(self.chat.workers)
        found = await asyncio.gather(*(self._reply(ask, turn) for ask in asks), return_exceptions=True)
        replies = []
        for one in found:  # of the others, too, every call is kept
            if isinstance(one, BaseException):
                raise one
            replies.append(one)
        return replies

    async def _reply(self, ask: Ask, turn: asyncio.Semaphore) -> Reply:
        room = max(ask.room, len(ask.answer))
        whole = len(ask.prompt) + room
        budget = int(self.spend * whole) if self.spend else None
        bound = "no bound" if budget is None else f"{budget:,} tokens (--spend {self.spend:g})"
        last = self.window if budget is None else min(self.window, budget)
        model = Metered(
            self.chat,
            self.tokenizer,
            True,
            self.window,
            self.records,
            Budget(budget),
            last,
            bills=False,
            embed=self.embed,
            turn=turn,
            reading=content_key({"strategy": self.strategy.spelling, "prompt": list(ask.prompt), "room": room}),
        )
        reading = reading_of(ask, room, self.tokenizer)
        try:
            if reading.text:
                answer = await self.strategy.read(model, reading)
            else:
                answer = await answered(model, reading, "", WHOLE)
        except NoRoom as error:
            return Reply(lost=error.message)
        except NoBudget as error:
            return Reply(lost=f"{bound}: {error.message}")
        except NoAnswer:
            answer = ""
        self._refuse_refusals(model)
        if budget is not None and reading.text and _read_nothing(model, reading):
            return Reply(lost=f"{bound}: an answer was paid for, and no call that reads")
        trace = model.trace
        if (billed := sum(call.billed_tokens for call in trace.asked)) > BILLED * trace.tokens:
            model.note(f"the server bills {billed:,} tokens for what has {trace.tokens:,} by our count")
        answered_at_most = trace.tokens - trace.calls[max(trace.calls)].completion_tokens + room
        spent = Spent(trace.tokens, answered_at_most / whole, len(trace.asked), trace.longest_chain, tuple(trace.notes))
        right = None
        if ask.answer:
            wanted = str(self.tokenizer.decode(list(ask.answer), skip_special_tokens=True)).strip()
            right = answer.startswith(wanted)
        return Reply(right, text=answer, spent=spent)

    def _refuse_refusals(self, model: Metered) -> None:
        """Refuse what would count as a wrong answer and is none.

        Raises:
            UserError: if a call was refused.
        """
        for call in model.trace.calls.values():
            if call.refused:
                raise UserError(
                    f"{self.chat.name} refused {call.role}, a prompt of {call.counted:,} tokens: {call.failed}",
                    f"See what its log says, and that it reads {self.window:,} tokens (--window).",
                )


def reading_of(ask: Ask, room: int, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """The text and the question of an ask; its last prompt is that of the ask, with another text in it."""
    stop = len(ask.prompt) - ask.after
    before, inside, behind = ask.prompt[: ask.before], ask.prompt[ask.before : stop], ask.prompt[stop:]
    text, units = _words(inside, tokenizer), TokenUnits(tokenizer)
    begin, end = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]

    def last(context: str, what: str) -> Beginning:
        ids = inside if context == text else units.ids(begin + context.strip() + end)
        prompt = (*before, *ids, *behind)
        return Beginning(_words(prompt, tokenizer), prompt)

    return Reading(text, _question(behind, tokenizer), room, last)


def _read_nothing(model: Metered, reading: Reading) -> bool:
    """Whether the question was asked about no text, since no other call was made."""
    return [call.prompt for call in model.trace.calls.values()] == [text_of(reading.last("", WHOLE))]


def _question(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The question in words, without what a chat template puts behind it."""
    said = str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()
    if tokenizer.chat_template is None:
        return said
    turn = [{"role": "user", "content": "?"}]
    whole = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)).rpartition("?")[2]
    behind = tokenizer(whole, add_special_tokens=False).input_ids
    end = str(tokenizer.decode(behind, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()
    return said.removesuffix(end).strip()


def _words(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
