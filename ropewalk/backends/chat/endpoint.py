"""An OpenAI-compatible endpoint that answers prompts: /v1/chat/completions, or /v1/completions where it has no chat."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from ropewalk.backends.openai import TIMEOUT, WORKERS, chosen_model, served_models
from ropewalk.common.errors import UserError, cut
from ropewalk.common.extras import install

DRAWN = 0.7  # temperature of further tries; the first is at 0
AWAY = 401, 403, 404  # codes that no other prompt changes
MOST = 2**40  # tokens of a call that anybody can tell of
LIKELY = 20  # tokens whose log-probability is asked for; the most that the protocol has
OVER = 0.01  # by which probabilities that were rounded may add up to more than 1
LATER = 408, 409, 425, 429  # codes that another try may change, besides 5xx


class Endpoint:
    """A served model.

    Args:
        url: up to and including "/v1".
        served: the model's name on the server; None means its only one.
        timeout: of a call, in seconds.
        workers: calls at the same time.
        flag: by which a user names a model.

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
        flag: str = "--engine-model",
    ):
        try:
            import openai
        except ImportError:
            raise UserError("asking a server needs the client library 'openai'", install("openai")) from None
        parts = urlsplit(url)
        if not parts.hostname or parts.username or parts.query:
            raise UserError(
                f"{cut(url)} is no address of a server", "Write http://HOST:PORT/v1, and export OPENAI_API_KEY=KEY."
            )
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout)
        self.url, self.workers = url, workers
        self.served, self.window = self._chosen(served, flag)
        self.name = f"{self.served} at {parts.netloc}"
        self.basis: Mapping[str, str] = {"server": url, "model": self.served}
        self._chats: bool | None = None  # whether it has a chat template; the first answer tells

    def _chosen(self, served: str | None, flag: str) -> tuple[str, int | None]:
        """A model's name, and its window where the server tells it."""
        try:
            models = served_models(self.client, self.url, flag)
        except UserError:
            if served is None:
                raise
            return served, None  # a server need not list what it has
        return chosen_model(models, self.url, served, flag)

    def answer(self, prompt: Prompt, room: int, again: int) -> Answer:
        more = {"temperature": DRAWN, "seed": again} if again else {"temperature": 0}
        with self._explained():
            return _read(self._ask(prompt, room, more, {}, {}))

    def certainty(self, prompt: Prompt) -> Certainty:
        """How sure the model is of the first token of an answer, by the log-probabilities of the likeliest tokens.

        Raises:
            Failed: if this call told none.
            UserError: if the server never does.
        """
        chat = {"logprobs": True, "top_logprobs": LIKELY}
        with self._explained():
            sent = self._ask(prompt, 1, {"temperature": 0}, chat, {"logprobs": LIKELY})
            answer, known = _read(sent), _likeliest(sent.choices[0])
        if known:
            nats, told = entropy_bound(known)
            return Certainty(-nats, told, answer.usage)
        if not answer.text:  # it ended at once, and some servers tell nothing of the token that ends
            raise Failed("no probabilities", "nothing was written", final=True)
        raise UserError(f"{self.name} tells no log-probabilities of the next token", NO_CERTAINTY)

    def _ask(self, prompt: Prompt, room: int, more: dict[str, Any], chat: dict[str, Any], plain: dict[str, Any]) -> Any:
        """What the server sends; ``chat`` is for conversations alone, ``plain`` for texts that are gone on with."""
        import openai

        asked: dict[str, Any] = {"model": self.served, "max_tokens": room, **more}
        if self._chats is not False and not isinstance(prompt, Beginning):
            try:
                messages: Any = turns(prompt)
                answer = self.client.chat.completions.create(messages=messages, **asked, **chat)
                self._chats = True
                return answer
            except (openai.BadRequestError, openai.NotFoundError) as error:
                if self._chats or (error.status_code == 400 and "template" not in error.message):
                    raise
        ids = isinstance(prompt, Beginning) and list(prompt.ids)
        answer = self.client.completions.create(prompt=ids or text_of(prompt), **asked, **plain)
        if not isinstance(prompt, Beginning):
            self._chats = False
        return answer

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the client raises into a failed call, or into what the user can do."""
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise Failed("no answer in time") from None
        except openai.APIConnectionError as error:
            raise Failed("no connection", f"{self.url}: {error.__cause__ or error}") from None
        except openai.APIStatusError as error:
            code, detail = error.status_code, cut(str(error.message), 200)
            if code in AWAY:
                raise UserError(
                    f"{self.url} refuses with {code}: {detail}",
                    "See that the address ends in /v1, that OPENAI_API_KEY is right, and what --engine-model names.",
                ) from None
            final = code < 500 and code not in LATER
            wait = re.fullmatch("[0-9]{1,9}", error.response.headers.get("retry-after", ""))
            raise Failed(f"code {code}", detail, final, float(wait[0]) if wait else 0.0) from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            raise Failed("no JSON", cut(str(error), 200)) from None


def _read(answer: Any) -> Answer:
    """What a server sent, of which the client checks nothing.

    Raises:
        Failed: if it is none.
    """
    if isinstance(answer, str):
        raise Failed("no JSON", cut(answer, 200))
    choices = getattr(answer, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    text = getattr(choice, "text", None) if message is None else getattr(message, "content", None)
    if text is None and message is not None:
        text = ""  # it thought, or called a tool
    if not isinstance(text, str):
        raise Failed("no answer in it", cut(repr(answer), 200))
    usage, wrong = _usage(getattr(answer, "usage", None))
    return Answer(text, getattr(choice, "finish_reason", None) == "length", usage, wrong)


def _likeliest(choice: Any) -> list[float]:
    """Log-probabilities of the first token that was written and of those beside it; empty if none are told.

    Raises:
        Failed: if they cannot be.
    """
    told = getattr(choice, "logprobs", None)
    first = (getattr(told, "content", None) or [None])[0]
    known: list[Any]
    if first is not None:  # of a conversation
        known = [getattr(one, "logprob", None) for one in getattr(first, "top_logprobs", None) or []]
    else:
        known = list(((getattr(told, "top_logprobs", None) or [None])[0] or {}).values())
    sound = all(type(one) in (int, float) and one <= OVER for one in known)
    if not sound or sum(map(math.exp, known)) > 1 + OVER:
        raise Failed("no probabilities", cut(repr(known), 200))
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
    cached = getattr(getattr(said, "prompt_tokens_details", None), "cached_tokens", None)
    numbers = getattr(said, "prompt_tokens", None), cached, getattr(said, "completion_tokens", None)
    if any(one is not None and (type(one) is not int or not 0 <= one < MOST) for one in numbers):
        return None, True
    prompt, cached, completion = numbers
    return (None if prompt is None or completion is None else Usage(prompt, cached or 0, completion)), False
