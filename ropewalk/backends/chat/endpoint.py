"""An OpenAI-compatible endpoint that answers prompts: /v1/chat/completions, or /v1/completions where it has no chat."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from ropewalk.backends.chat.chat import Answer, Failed, Usage
from ropewalk.backends.chat.sending import Sender, Sent
from ropewalk.backends.openai import TIMEOUT, WORKERS, only_one
from ropewalk.common.errors import UserError, cut

DRAWN = 0.7  # temperature of further tries; the first is at 0
AWAY = 401, 403, 404  # codes that no other prompt changes
LATER = 408, 409, 425  # codes that another try may change, besides 5xx
UNHEARD = 429, 502, 503, 504  # codes of a server that is busy, or that nobody stands behind
MOST = 2**40  # tokens of a call that anybody can tell of
BODY = 2**24  # bytes of an answer; one of 32k tokens has some hundred thousand
LISTING = 30.0  # seconds that the list of models may take


class Endpoint:
    """A served model.

    Args:
        url: up to and including "/v1".
        served: the model's name on the server; None means its only one.
        timeout: of a call, from its first byte to its last, in seconds.
        workers: calls at the same time.
        body: bytes that an answer may have.

    Raises:
        UserError: if the client library is missing, the address is none, or the model's name is not clear.
    """

    varies = True
    window: int | None = None

    def __init__(
        self, url: str, served: str | None = None, timeout: float = TIMEOUT, workers: int = WORKERS, body: int = BODY
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UserError(
                f"{cut(url)} is no address of a server", "Write http://HOST:PORT/v1, and export OPENAI_API_KEY=KEY."
            )
        self.url, self.timeout, self.workers = url, timeout, workers
        self.sender = Sender(url.rstrip("/"), os.environ.get("OPENAI_API_KEY") or "none", body)
        self.served = served or self._only_model()
        self.name = f"{self.served} at {parts.netloc}"
        self.basis: Mapping[str, str] = {"server": url, "model": self.served}
        self._chats: bool | None = None  # whether it has a chat template; the first answer tells

    def answer(self, prompt: str, room: int, again: int) -> Answer:
        asked: dict[str, Any] = {"model": self.served, "max_tokens": room, "temperature": DRAWN if again else 0}
        asked |= {"seed": again} if again else {}
        if self._chats is not False:
            turns = [{"role": "user", "content": prompt}]
            sent = self.sender.send("/chat/completions", {**asked, "messages": turns}, self.timeout)
            if self._chats or not (sent.code == 404 or (sent.code == 400 and b"template" in sent.body)):
                answer = _read(self._good(sent))
                self._chats = True
                return answer
        answer = _read(self._good(self.sender.send("/completions", {**asked, "prompt": prompt}, self.timeout)))
        self._chats = False
        return answer

    def _good(self, sent: Sent) -> Any:
        """What a server says, if that is no refusal.

        Raises:
            Failed: if it is one.
            UserError: if it refuses every prompt.
        """
        if sent.code in AWAY:
            raise UserError(
                f"{self.url} refuses with {sent.code}: {sent.detail}",
                "See that the address ends in /v1, that OPENAI_API_KEY is right, and what --engine-model names.",
            )
        if sent.code >= 300:
            unheard, final = sent.code in UNHEARD, sent.code < 500 and sent.code not in (*LATER, *UNHEARD)
            raise Failed(f"code {sent.code}", sent.detail, final, sent.wait, unheard)
        return sent.said

    def _only_model(self) -> str:
        """The name of the one model that the server has.

        Raises:
            UserError: if nothing answers, or there are several.
        """
        try:
            with ThreadPoolExecutor(1) as aside:  # a notebook's own thread has a loop already
                sent = aside.submit(self.sender.send, "/models", None, min(self.timeout, LISTING)).result()
        except Failed as error:
            raise UserError(
                f"nothing answers at {self.url}: {error.reason}", "Start the server, or mend the address."
            ) from None
        if sent.code >= 300:
            raise UserError(f"{self.url} does not list its models: {sent.detail}", "Name one with --engine-model.")
        try:
            models = [str(model["id"]) for model in sent.said["data"]]
        except (Failed, LookupError, TypeError):  # a page, or JSON of something else
            raise UserError(f"what {self.url} answers is no list of models", "End the address in /v1.") from None
        return only_one(models, self.url, "--engine-model")


def _read(said: Any) -> Answer:
    """What a server sent.

    Raises:
        Failed: if it is no answer.
    """
    choices = said.get("choices") if isinstance(said, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    text = choice.get("text")
    if isinstance(message, dict):
        text = message.get("content") or ""  # empty: it thought, or called a tool
    if not isinstance(text, str):
        raise Failed("no answer in it", cut(repr(said), 200))
    usage, wrong = _usage(said.get("usage"))
    return Answer(text, choice.get("finish_reason") == "length", usage, wrong)


def _usage(said: Any) -> tuple[Usage | None, bool]:
    """Usage, if all of it is told; and whether something is told that is no number of tokens."""
    if not isinstance(said, dict):
        return None, said is not None
    details = said.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    numbers = said.get("prompt_tokens"), cached, said.get("completion_tokens")
    if any(one is not None and (type(one) is not int or not 0 <= one < MOST) for one in numbers):
        return None, True
    prompt, cached, completion = numbers
    return (None if prompt is None or completion is None else Usage(prompt, cached or 0, completion)), False
