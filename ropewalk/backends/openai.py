"""A server that speaks OpenAI's completions protocol: vLLM, SGLang, llama.cpp's server and others.

Prompts go as token ids, so that lengths are exact and nothing is templated. Prompts that begin alike follow each other,
so that a server with prefix caching reads each context once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.backends.backend import Ask, Backend, Losses, Reply
from ropewalk.common.errors import UserError
from ropewalk.common.extras import install
from ropewalk.common.fingerprints import tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALIKE = 0.5  # prompts that share this much of the shorter one are sent one after another
WORKERS = 8
RETRIES = 5
TIMEOUT = 600.0  # seconds
NO_LOSSES = "the server does not give the log-probabilities of a text"


@dataclass
class Pace:
    """Lets at most ``per_minute`` requests begin in a minute, evenly spread; None lets all."""

    per_minute: float | None
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> None:
        if self.per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 60 / self.per_minute
        time.sleep(start - now)


class Server(Backend):
    """A served model; see ``connect``."""

    def __init__(
        self,
        client: Any,
        url: str,
        served: str,
        tokenizer: PreTrainedTokenizerBase,
        pace: Pace,
        workers: int,
        reads: int | None = None,
    ):
        self.client, self.url, self.served, self.tokenizer = client, url, served, tokenizer
        self.pace, self.workers, self.reads = pace, workers, reads
        # A server does not show its weights: records are found again by its address and the model's name.
        self.basis = {"model": f"{url} {served}", "method": "none"}
        self.tells_likelihoods = self._tells_likelihoods()
        self.no_losses = "" if self.tells_likelihoods and self._echoes() else NO_LOSSES

    @property
    def how(self) -> str:
        return "server: every answer decoded; prompts that begin alike follow each other"

    def describe(self) -> dict[str, Any]:
        return {"name": self.served, "server": self.url, "tokenizer_fingerprint": tokenizer_fingerprint(self.tokenizer)}

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        rows = [ask.prompt for ask in asks]
        yield from self._in_order(rows, lambda i: self._reply(asks[i]))

    def rolling(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, Losses]]:
        yield from self._in_order(rows, lambda i: self._losses(rows[i]))

    def loglikelihood(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        rows = [[*prompt, *answer] for prompt, answer in pairs]
        replies = dict(self.ask([Ask(prompt, answer) for prompt, answer in pairs]))
        losses = dict(self.rolling(rows))
        return [
            (-float(losses[i][-len(answer) :].sum()), bool(replies[i].right)) for i, (_, answer) in enumerate(pairs)
        ]

    def _reply(self, ask: Ask) -> Reply:
        """Greedy text, compared with the answer's; nothing is asked that the server would refuse for its length."""
        needed = len(ask.prompt) + max(ask.room, len(ask.answer))
        if self.reads is not None and needed > self.reads:
            return Reply(lost=f"{needed:,} tokens with the answer, where the server reads {self.reads:,}")
        more: dict[str, Any] = self._likelihoods(ask) | ({"stop": list(ask.ends)} if ask.ends else {})
        choice = self._complete(ask.prompt, max(ask.room, len(ask.answer)), **more)
        if not isinstance(choice.text, str):
            raise UserError(f"{self.url} answered without a text", "Check that it serves /v1/completions.")
        text = choice.text
        if not ask.answer:
            return Reply(text=text)
        wanted = str(self.tokenizer.decode(list(ask.answer), skip_special_tokens=True)).strip()
        right = text.strip().startswith(wanted)
        known = getattr(choice.logprobs, "token_logprobs", None) or []
        own = [value for value in known[: len(ask.answer)] if value is not None]
        sure = right and len(own) == len(ask.answer)
        return Reply(right, float(np.mean(own)) if sure else None, text=text if ask.room else "")

    def _likelihoods(self, ask: Ask) -> dict[str, int]:
        """The argument that asks for log-probabilities, where they are wanted and given."""
        return {"logprobs": 1} if ask.answer and self.tells_likelihoods else {}

    def _losses(self, row: Sequence[int]) -> Losses:
        choice = self._complete(row, 1, logprobs=1, echo=True)
        known = getattr(choice.logprobs, "token_logprobs", None) or []
        if len(known) < len(row) or any(value is None for value in known[1 : len(row)]):
            raise UserError(f"{self.url} does not give the log-probabilities of a prompt", "Leave ppl out of --tasks.")
        return -np.asarray(known[1 : len(row)], np.float64)

    def _tells_likelihoods(self) -> bool:
        """Whether the server gives log-probabilities; without them answers are judged all the same."""
        self._complete(self._words(), 1)  # what stops this is not about log-probabilities
        try:
            self._complete(self._words(), 1, logprobs=1)
        except UserError:
            return False
        return True

    def _words(self) -> list[int]:
        return list(self.tokenizer("One two three.", add_special_tokens=False).input_ids)

    def _echoes(self) -> bool:
        """Whether the server scores the tokens of a prompt."""
        try:
            self._losses(self._words())
        except UserError:
            return False
        return True

    def _complete(self, prompt: Sequence[int], room: int, **more: Any) -> Any:
        import openai

        self.pace.wait()
        try:
            answer = self.client.completions.create(
                model=self.served, prompt=list(prompt), max_tokens=room, temperature=0, **more
            )
        except openai.APITimeoutError:
            raise UserError(f"{self.url} did not answer in time", "Raise the time limit, or ask for less.") from None
        except openai.APIConnectionError:
            raise UserError(f"nothing answers at {self.url}", "Start the server, or mend the address.") from None
        except openai.APIStatusError as error:
            raise UserError(f"{self.url} refused a prompt of {len(prompt)} tokens: {error.message}") from None
        if not answer.choices:
            raise UserError(f"{self.url} answered without a choice", "Check that it serves a language model.")
        return answer.choices[0]

    def _in_order(self, rows: Sequence[Sequence[int]], work: Any) -> Iterator[tuple[int, Any]]:
        """Results by index; groups of rows that begin alike run side by side, the rows of a group one by one."""
        results: SimpleQueue[tuple[int, Any, Exception | None]] = SimpleQueue()
        stop = threading.Event()

        def run(group: list[int]) -> None:
            for i in group:
                if stop.is_set():
                    return
                try:
                    results.put((i, work(i), None))
                except Exception as error:  # raised again by the thread that waits
                    results.put((i, None, error))

        with ThreadPoolExecutor(self.workers) as pool:
            for group in alike(rows):
                pool.submit(run, group)
            try:
                for _ in rows:
                    i, value, error = results.get()
                    if error is not None:
                        raise error
                    yield i, value
            finally:
                stop.set()


def alike(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of rows in groups that begin alike, each in an order in which neighbours share the most."""
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    groups: list[list[int]] = []
    for i in order:
        if groups:
            last, row = rows[groups[-1][-1]], rows[i]
            n = min(len(last), len(row))
            common = next((k for k in range(n) if last[k] != row[k]), n)
            if common >= ALIKE * n:
                groups[-1].append(i)
                continue
        groups.append([i])
    return groups


def connect(
    url: str,
    tokenizer: str,
    served: str | None = None,
    trust_remote_code: bool = False,
    *,
    api_key: str | None = None,
    per_minute: float | None = None,
    workers: int = WORKERS,
    retries: int = RETRIES,
    timeout: float = TIMEOUT,
) -> Server:
    """A server as a backend.

    Args:
        url: up to and including "/v1".
        tokenizer: folder or hub id of the served model's tokenizer.
        served: the model's name on the server; None means its only one.
        trust_remote_code: run code that comes with the tokenizer.
        api_key: sent along; None means the environment's OPENAI_API_KEY, or none.
        per_minute: at most so many requests begin in a minute.
        workers: how many groups of prompts to send at the same time.
        retries: of a request, with growing pauses, after a lost connection, a time-out or codes 408, 409, 429, 5xx.
        timeout: of a request, in seconds.

    Raises:
        UserError: if the client library is missing, nothing answers, or the model's name is not clear.
    """
    try:
        import openai
    except ImportError:
        raise UserError("asking a server needs the client library 'openai'", install("openai")) from None
    import os

    from ropewalk.checkpoint.checkpoint import Checkpoint

    if not tokenizer:
        raise UserError("a server needs to be told its tokenizer", "Add --tokenizer FOLDER_OR_HUB_ID.")
    made = Checkpoint.open(tokenizer, trust_remote_code, sound=False).tokenizer()
    key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=retries, timeout=timeout)
    name, window = chosen_model(client, url, served)
    return Server(client, url, name, made, Pace(per_minute), workers, window)


def chosen_model(client: Any, url: str, served: str | None) -> tuple[str, int | None]:
    """The name of a model that a server has, and its window where the server tells it.

    Args:
        client: of the server.
        url: of it, for messages.
        served: the name; None means the only one.

    Raises:
        UserError: if none is named, and nothing answers, or there are several.
    """
    try:
        models = _listed(client, url)
    except UserError:
        if served is None:
            raise
        return served, None  # a server need not list what it has
    return (name := served or only_one(list(models), url, "--served")), models.get(name)


def _listed(client: Any, url: str) -> dict[str, int | None]:
    import openai

    try:
        return {str(model.id): told_window(getattr(model, "max_model_len", None)) for model in client.models.list()}
    except openai.APIConnectionError:
        raise UserError(f"nothing answers at {url}", "Start the server, or mend the address.") from None
    except openai.APIStatusError as error:
        raise UserError(f"{url} does not list its models: {error.message}", "Name one with --served.") from None
    except (openai.OpenAIError, AttributeError, TypeError, ValueError):  # a page, or JSON of something else
        raise UserError(f"what {url} answers is no list of models", "End the address in /v1.") from None


def told_window(said: object) -> int | None:
    """What vLLM, SGLang and ``ropewalk serve`` tell of a model, if it is a number of tokens."""
    return said if type(said) is int and 0 < said < 2**40 else None


def only_one(models: Sequence[str], url: str, flag: str) -> str:
    """The only one of a server's models.

    Args:
        models: their names.
        url: of the server, for the message.
        flag: by which a user names one.

    Raises:
        UserError: if there is another number of them.
    """
    if len(models) != 1:
        raise UserError(f"{url} serves {len(models)} models: {', '.join(models[:5])}", f"Name one with {flag}.")
    return models[0]
