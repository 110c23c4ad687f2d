"""An OpenAI-compatible endpoint that answers prompts: /v1/chat/completions, or /v1/completions where it has no chat."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ropewalk.backends.chat.chat import (
    NO_CERTAINTY,
    Answer,
    Beginning,
    Certainty,
    Failed,
    Prompt,
    Usage,
    text_of,
    turns,
)
from ropewalk.backends.chat.sending import Sender, Sent
from ropewalk.backends.openai import TIMEOUT, WORKERS, only_one, told_window
from ropewalk.common.errors import UserError, cut

DRAWN = 0.7  # temperature of further tries; the first is at 0
AWAY = 401, 403, 404  # codes that no other prompt changes
LATER = 408, 409, 425  # codes that another try may change, besides 5xx
UNHEARD = 429, 502, 503, 504  # codes of a server that is busy, or that nobody stands behind
MOST = 2**40  # tokens of a call that anybody can tell of
BODY = 2**24  # bytes of an answer; one of 32k tokens has some hundred thousand
LIKELY = 20  # tokens whose log-probability is asked for; the most that the protocol has
OVER = 0.01  # by which probabilities that were rounded may add up to more than 1
LISTING = 30.0  # seconds that the list of models may take


class Endpoint:
    """A served model.

    Args:
        url: up to and including "/v1".
        served: the model's name on the server; None means its only one.
        timeout: of a call, from its first byte to its last, in seconds.
        workers: calls at the same time.
        body: bytes that an answer may have.
        flag: by which a user names a model.

    Attributes:
        window: tokens that a prompt and its answer may have, where the server tells.
        others: names by which it answered, besides the one that was asked.

    Raises:
        UserError: if the client library is missing, the address is none, or the model's name is not clear.
    """

    varies = True

    def __init__(
        self,
        url: str,
        served: str | None = None,
        timeout: float = TIMEOUT,
        workers: int = WORKERS,
        body: int = BODY,
        flag: str = "--engine-model",
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UserError(
                f"{cut(url)} is no address of a server", "Write http://HOST:PORT/v1, and export OPENAI_API_KEY=KEY."
            )
        self.url, self.timeout, self.workers, self.flag = url, timeout, workers, flag
        self.sender = Sender(url.rstrip("/"), os.environ.get("OPENAI_API_KEY") or "none", body)
        self.served, self.window = self._chosen(served)
        self.name = f"{self.served} at {parts.netloc}"
        self.basis: Mapping[str, str] = {"server": url.rstrip("/"), "model": self.served}
        self.others = set[str]()
        self._chats: bool | None = None  # whether it has a chat template; the first answer tells

    def answer(self, prompt: Prompt, room: int, again: int) -> Answer:
        more = {"temperature": DRAWN, "seed": again} if again else {"temperature": 0}
        return _read(self._ask(prompt, {"max_tokens": room, **more}, {}, {}))

    def certainty(self, prompt: Prompt) -> Certainty:
        """How sure the model is of the first token of an answer, by the log-probabilities of the likeliest tokens.

        Raises:
            Failed: if this call told none.
            UserError: if the server never does.
        """
        chat = {"logprobs": True, "top_logprobs": LIKELY}
        said = self._ask(prompt, {"max_tokens": 1, "temperature": 0}, chat, {"logprobs": LIKELY})
        answer, known = _read(said), _likeliest(said["choices"][0])
        if known:
            nats, told = entropy_bound(known)
            return Certainty(-nats, told, answer.usage)
        if not answer.text:  # it ended at once, and some servers tell nothing of the token that ends
            raise Failed("no probabilities", "nothing was written", final=True, replied=True)
        raise UserError(f"{self.name} tells no log-probabilities of the next token", NO_CERTAINTY)

    def _ask(self, prompt: Prompt, asked: Mapping[str, Any], chat: Mapping[str, Any], plain: Mapping[str, Any]) -> Any:
        """What the server says; ``chat`` is for conversations alone, ``plain`` for texts that are gone on with."""
        asked = {"model": self.served, **asked}
        if self._chats is not False and not isinstance(prompt, Beginning):
            sent = self.sender.send("/chat/completions", {**asked, **chat, "messages": turns(prompt)}, self.timeout)
            if self._chats or not (sent.code == 404 or (sent.code == 400 and b"template" in sent.body)):
                said = self._good(sent)
                self._chats = True
                return said
        ids = isinstance(prompt, Beginning) and list(prompt.ids)
        sent = self.sender.send("/completions", {**asked, **plain, "prompt": ids or text_of(prompt)}, self.timeout)
        said = self._good(sent)
        if not isinstance(prompt, Beginning):
            self._chats = False
        return said

    def _good(self, sent: Sent) -> Any:
        """What a server says, if that is no refusal.

        Raises:
            Failed: if it is one.
            UserError: if it refuses every prompt.
        """
        if sent.code in AWAY:
            raise UserError(
                f"{self.url} refuses with {sent.code}: {sent.detail}",
                f"See that the address ends in /v1, that OPENAI_API_KEY is right, and what {self.flag} names.",
            )
        if sent.code >= 300:
            unheard, final = sent.code in UNHEARD, sent.code < 500 and sent.code not in (*LATER, *UNHEARD)
            raise Failed(f"code {sent.code}", sent.detail, final, sent.wait, unheard)
        said = sent.said
        name = said.get("model") if isinstance(said, dict) else None
        if isinstance(name, str) and name != self.served:
            self.others.add(name)
        return said

    def _chosen(self, served: str | None) -> tuple[str, int | None]:
        """A model's name, and its window where the server tells that.

        Raises:
            UserError: if none is named, and nothing answers, or there are several.
        """
        try:
            models = self._listed()
        except UserError:
            if served is None:
                raise
            return served, None  # a server need not list what it has
        return (name := served or only_one(list(models), self.url, self.flag)), models.get(name)

    def _listed(self) -> dict[str, int | None]:
        """The names of the server's models, and the window of each as vLLM, SGLang and ``ropewalk serve`` tell it."""
        try:
            sent = self.sender.send("/models", None, min(self.timeout, LISTING))
        except Failed as error:
            raise UserError(
                f"nothing answers at {self.url}: {error.reason}", "Start the server, or mend the address."
            ) from None
        if sent.code >= 300:
            raise UserError(f"{self.url} does not list its models: {sent.detail}", f"Name one with {self.flag}.")
        try:
            told = {str(model["id"]): model.get("max_model_len") for model in sent.said["data"]}
        except (Failed, LookupError, TypeError, AttributeError):  # a page, or JSON of something else
            raise UserError(f"what {self.url} answers is no list of models", "End the address in /v1.") from None
        return {name: told_window(said) for name, said in told.items()}


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
        raise Failed("no answer in it", cut(repr(said), 200), replied=True)
    if choice.get("finish_reason") == "content_filter":
        raise Failed("a filter cut it", cut(text, 200), final=True, replied=True)
    usage, wrong = _usage(said.get("usage"))
    return Answer(text, choice.get("finish_reason") == "length", usage, wrong)


def _likeliest(choice: Mapping[str, Any]) -> list[float]:
    """Log-probabilities of the first token that was written and of those beside it; empty if none are told.

    Raises:
        Failed: if they cannot be.
    """
    try:
        told = choice.get("logprobs") or {}
        if content := told.get("content"):  # of a conversation
            known = [one["logprob"] for one in content[0].get("top_logprobs") or []]
        else:
            known = list(((told.get("top_logprobs") or [None])[0] or {}).values())
    except (LookupError, TypeError, AttributeError):
        raise Failed("no probabilities", cut(repr(choice), 200), replied=True) from None
    sound = all(type(one) in (int, float) and one <= OVER for one in known)
    if not sound or sum(map(math.exp, known)) > 1 + OVER:
        raise Failed("no probabilities", cut(repr(known), 200), replied=True)
    return known


def entropy_bound(known: Sequence[float]) -> tuple[float, float]:
    """The least entropy of a token, in nats, of which the likeliest are known, and the probability that these have.

    What is not known is no likelier than the last that is: H >= -sum p ln p - (1 - sum p) ln p_k.

    Args:
        known: log-probabilities of the k likeliest, at least one.
    """
    logs = [min(one, 0.0) for one in known if math.exp(one)]  # -9999 stands for none
    mass = min(1.0, math.fsum(map(math.exp, logs)))
    return math.fsum(-math.exp(one) * one for one in logs) - (1 - mass) * min(logs, default=0.0), mass


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
