"""One question to a language model, behind one seam: an endpoint, a model in this process, a stand-in for tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening
from ropewalk.texts.pieces import ANCHOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BETWEEN = "\n\n"  # turns, for models without a chat template
NO_CERTAINTY = "Choose another strategy, or name a model that runs here (--model FOLDER)."
TOO_LONG, CUT, LATE = "too long", "cut off", "no answer in time"  # why a call comes to nothing: what helps follows


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer, as whoever gave it says.

    Attributes:
        prompt: that were read, those of the chat template included.
        cached: of those, that were read for an earlier prompt.
        completion: that were written.
    """

    prompt: int
    cached: int
    completion: int


@dataclass(frozen=True)
class Answer:
    """What was written.

    Attributes:
        text: as it came.
        cut: whether it ends where room did.
        usage: None where nothing was told of it, or what cannot be.
        wrong_usage: whether that was told.
    """

    text: str
    cut: bool = False
    usage: Usage | None = None
    wrong_usage: bool = False


@dataclass(frozen=True)
class Certainty:
    """How sure a model is of the first token that it would write.

    Attributes:
        nats: minus the entropy of that token: 0 where there is no doubt, minus ln V where all V are alike.
        told: the part of the probability that was told token by token; below 1, ``nats`` is an upper bound.
        usage: as of an answer.
    """

    nats: float
    told: float = 1.0
    usage: Usage | None = None


@dataclass(frozen=True)
class Turns:
    """A conversation so far.

    Attributes:
        said: by the user and the model in turn; the user begins it, and spoke last.
    """

    said: tuple[str, ...]


@dataclass(frozen=True)
class Beginning:
    """A text that the model goes on with, outside any conversation.

    Attributes:
        text: in words.
        ids: its tokens, where it is made of these; else it is tokenised as it stands.
    """

    text: str
    ids: tuple[int, ...] = ()


Prompt = str | Turns | Beginning  # a str is what a user says


class Failed(Exception):
    """A call that gave no answer.

    Attributes:
        reason: in a few words, the same for the same kind of failure.
        detail: what was seen.
        final: whether another try would end alike.
        wait: seconds that the server asks to be left alone for.
        unheard: whether nobody took the prompt, so that this says nothing of it.
        replied: whether a reply came and was none, so that another text is drawn.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        final: bool = False,
        wait: float = 0.0,
        unheard: bool = False,
        replied: bool = False,
    ):
        super().__init__(reason)
        self.reason, self.detail, self.final, self.wait = reason, detail, final, wait
        self.unheard, self.replied = unheard, replied


class Chat(Protocol):
    """A model that answers prompts.

    Attributes:
        name: for messages, and for the record of what it wrote.
        basis: all that its answers depend on, besides the prompt.
        workers: calls that it takes at the same time.
        varies: whether another try of the same prompt may give another text.
        window: tokens that a prompt and its answer may have; None where nobody tells.
    """

    name: str
    basis: Mapping[str, str]
    workers: int
    varies: bool
    window: int | None

    def answer(self, prompt: Prompt, room: int, again: int) -> Answer:
        """An answer of at most ``room`` tokens.

        Args:
            prompt: what it answers, or goes on with.
            room: tokens that may be written.
            again: 0 for the likeliest text; else the number of another try, which is drawn.

        Raises:
            Failed: if this call gave none.
            UserError: if no call can.
        """


def turns(prompt: str | Turns) -> list[dict[str, str]]:
    """A conversation as chat templates take it."""
    said = (prompt,) if isinstance(prompt, str) else prompt.said
    return [{"role": ("user", "assistant")[i % 2], "content": one} for i, one in enumerate(said)]


def text_of(prompt: Prompt) -> str:
    """A prompt where there is no chat template: one text."""
    return (
        prompt
        if isinstance(prompt, str)
        else prompt.text
        if isinstance(prompt, Beginning)
        else BETWEEN.join(prompt.said)
    )


def rendered(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a prompt; of a conversation, with the opening of the model's turn.

    Where the tokenizer is set to read signs such as </s> as letters, those of the chat template are special tokens
    none the less.
    """
    if isinstance(prompt, Beginning) and prompt.ids:
        return list(prompt.ids)
    if tokenizer.chat_template is None or isinstance(prompt, Beginning):
        return opening(tokenizer) + token_ids(text_of(prompt), tokenizer)
    said = turns(prompt)
    found = special_signs(text_of(prompt), tokenizer) if tokenizer.split_special_tokens else []
    free = (sign for sign in map(chr, range(0xE000, 0xF900)) if sign not in text_of(prompt))  # of no writing
    signs = dict(zip(free, found))  # noqa: B905 (there are more)
    for sign, one in signs.items():
        said = [{**turn, "content": turn["content"].replace(one, sign)} for turn in said]
    text = str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
    first, *others = re.split(f"([{''.join(signs)}])", text) if signs else [text]
    behind = (_behind(signs.get(one, one), tokenizer, one in signs) for one in others if one)
    return [*token_ids(first, tokenizer, letters=False), *chain.from_iterable(behind)]


def special_signs(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a tokenizer may take for special tokens in a text, the longest first."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted((one for one in special if one in text), key=lambda one: (-len(one), one))


def _behind(text: str, tokenizer: PreTrainedTokenizerBase, letters: bool) -> list[int]:
    """Ids of a text as it stands behind another."""
    anchor, whole = token_ids(ANCHOR, tokenizer), token_ids(ANCHOR + text, tokenizer, letters)
    return whole[len(anchor) :] if whole[: len(anchor)] == anchor else token_ids(text, tokenizer, letters)
