"""One question to a language model, behind one seam: an endpoint, a model in this process, a stand-in for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG, CUT, LATE = (
    "too long",
    "cut off",
    "no answer in time",
)  # why a call comes to nothing, where that tells what would help


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


class Failed(Exception):
    """A call that gave no answer.

    Attributes:
        reason: in a few words, the same for the same kind of failure.
        detail: what was seen.
        final: whether another try would end alike.
        wait: seconds that the server asks to be left alone for.
        unheard: whether nobody took the prompt, so that this says nothing of it.
    """

    def __init__(self, reason: str, detail: str = "", final: bool = False, wait: float = 0.0, unheard: bool = False):
        super().__init__(reason)
        self.reason, self.detail, self.final, self.wait, self.unheard = reason, detail, final, wait, unheard


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

    def answer(self, prompt: str, room: int, again: int) -> Answer:
        """An answer of at most ``room`` tokens.

        Args:
            prompt: what a user says.
            room: tokens that may be written.
            again: 0 for the likeliest text; else the number of another try, which is drawn.

        Raises:
            Failed: if this call gave none.
            UserError: if no call can.
        """


def rendered(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a prompt as a user's turn; without a chat template, of a text that begins with it."""
    if tokenizer.chat_template is None:
        return opening(tokenizer) + token_ids(prompt, tokenizer)
    turns = [{"role": "user", "content": prompt}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return token_ids(text, tokenizer)
