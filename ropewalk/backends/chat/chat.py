"""One question to a language model, behind one seam: an endpoint, a model in this process, a stand-in for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

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
    """Ids of a prompt; of a conversation, with the opening of the model's turn."""
    if isinstance(prompt, Beginning) and prompt.ids:
        return list(prompt.ids)
    if tokenizer.chat_template is None or isinstance(prompt, Beginning):
        return opening(tokenizer) + token_ids(text_of(prompt), tokenizer)
    text = str(tokenizer.apply_chat_template(turns(prompt), tokenize=False, add_generation_prompt=True))
    return token_ids(text, tokenizer)
