"""A model in this process that answers prompts, the likeliest token at every step."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ropewalk.backends.backend import Ask
from ropewalk.backends.chat.chat import TOO_LONG, Answer, Certainty, Failed, Prompt, Usage, rendered
from ropewalk.backends.local import LiveModel, live
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.methods.catalogue import method


class ChatModel:
    """A model of this process; see ``chat_model``.

    Args:
        model: as a backend.
        name: that it was loaded by.
        window: tokens that prompt and answer may have; None where nothing bounds them.
    """

    workers, varies = 1, False

    def __init__(self, model: LiveModel, name: str, window: int | None):
        self.model, self.name = model, name
        self.window: int | None = window
        self.basis: Mapping[str, str] = dict(model.basis)
        self._lock = threading.Lock()

    def answer(self, prompt: Prompt, room: int, again: int) -> Answer:
        ids = self._ids(prompt, room)
        with self._lock:
            ((_, reply),) = self.model.ask([Ask(ids, room=room)])
        return Answer(reply.text, len(reply.written) >= room, Usage(len(ids), 0, len(reply.written)))

    def certainty(self, prompt: Prompt) -> Certainty:
        """How sure the model is of the first token of an answer, by one forward.

        Raises:
            Failed: if the prompt is longer than the window.
        """
        ids = self._ids(prompt, 0)
        with self._lock:
            return Certainty(-self.model.entropy(ids), usage=Usage(len(ids), 0, 0))

    def _ids(self, prompt: Prompt, room: int) -> list[int]:
        ids = rendered(prompt, self.model.tokenizer)
        if self.window is not None and len(ids) + room > self.window:
            detail = f"{len(ids):,} tokens and {room:,} for the answer, where the window has {self.window:,}"
            raise Failed(TOO_LONG, detail, final=True)
        return ids


@contextmanager
def chat_model(
    checkpoint: Checkpoint,
    dtype: str = "auto",
    device: str = "auto",
    spelling: str = "none",
    to: int | None = None,
) -> Iterator[ChatModel]:
    """A checkpoint that answers within the window of its configuration, or within that of a method.

    Signs of special tokens in a prompt's text are letters: they end no turn.

    Args:
        checkpoint: of the model; its tokenizer reads so from then on.
        dtype: of its weights.
        device: that it is on.
        spelling: of the method that is on.
        to: tokens that the method is for; None: the window.

    Raises:
        UserError: if it cannot be loaded, or is used up.
    """
    model = checkpoint.load(dtype, device)
    checkpoint.tokenizer().split_special_tokens = True
    window = to or getattr(model.config.get_text_config(), "max_position_embeddings", None) or None
    with live(model, checkpoint.tokenizer(), method(spelling), window or 2**31) as backend:
        yield ChatModel(backend, checkpoint.name, window)
