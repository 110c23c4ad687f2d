"""One thread runs the model for all clients: requests wait, are batched, and take turns."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from ropewalk.attention import cache_argument
from ropewalk.serving.stream import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache

    Finish = Literal["stop", "length"]

SLICE = 16  # tokens per turn of a batch, while others wait for theirs
ROWS = 64  # at most, in a batch
WAITING = 1024  # requests at most
CLOSING = "the server is shutting down"
GREEDY = 1e-4  # temperatures below it take the most likely token

log = logging.getLogger(__name__)


class Unavailable(Exception):
    """The request cannot be run now; its text is for the client."""


@dataclass(frozen=True)
class Request:
    """What to generate.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: to generate at most, at least one.
        temperature: of sampling; 0 takes the most likely token.
        top_p: sample from the most likely tokens that have this probability together.
        seed: of sampling; None takes a fresh one.
        stop: texts that end the generation and are left out.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Tokens in the cache at the end."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True)
class Piece:
    """Some text of an answer.

    Attributes:
        text: that follows what was given before; may be empty at the end.
        tokens: generated so far.
        finish: why the answer ends here; None if it goes on.
    """

    text: str
    tokens: int
    finish: Finish | None = None


class Job:
    """A request under way.

    Attributes:
        request: what to generate.
        deliver: called by the scheduler's thread with every piece, or with the exception that ends the job.
        cancelled: set by anyone; the job is dropped at the next token.
    """

    def __init__(self, request: Request, deliver: Callable[[Piece | Exception], None]):
        self.request, self.deliver = request, deliver
        self.cancelled = threading.Event()


class Scheduler:
    """Runs jobs in the order of their arrival, as many at a time as the caches may hold tokens.

    Waiting jobs join one left-padded batch, in which each row has the result that it has alone. Batches take turns of
    ``SLICE`` tokens, so that a short request does not wait for the end of a long one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        capacity: int,
        alone: bool = False,
        switches: Sequence[int] = (),
        new_cache: Callable[[], Cache] | None = None,
    ):
        """Nothing runs before ``start``.

        Args:
            model: in evaluation mode, its method on.
            tokenizer: that fits it.
            capacity: tokens, padding included, that all caches together may hold; one job runs whatever its length.
            alone: True if a row's result depends on the other rows of its batch: every job is a batch of its own.
            switches: lengths in tokens past which the model rotates otherwise; a text that crosses one is read again.
            new_cache: makes a batch's cache; None leaves it to the model.
        """
        self._make = partial(_Batch, model, tokenizer, _ends(model, tokenizer), tuple(switches), new_cache)
        self._capacity, self._rows = capacity, 1 if alone else ROWS
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin to run jobs."""
        self._thread.start()

    def close(self) -> None:
        """End after the turn that is being taken; jobs that are not finished get ``Unavailable``."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether jobs are run."""
        return self._thread.is_alive() and not self._closed

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Unavailable: if too many wait already, or none is run any more.
        """
        with self._changed:
            if self._closed:
                raise Unavailable(CLOSING)
            if len(self._waiting) >= WAITING:
                raise Unavailable(f"{WAITING} requests are waiting already; try again later")
            self._waiting.append(job)
            self._changed.notify()

    @torch.no_grad()
    def _run(self) -> None:
        running: deque[_Batch] = deque()
        try:
            while self._admit(running):
                batch = running.popleft()
                self._take_turn(batch)
                if batch.rows:
                    running.append(batch)
        finally:  # nobody is left waiting, whatever ended the loop
            with self._changed:
                self._closed = True
            for job in (*(row.job for batch in running for row in batch.rows), *self._waiting):
                job.deliver(Unavailable(CLOSING))

    def _take_turn(self, batch: _Batch) -> None:
        try:
            for _ in range(SLICE):
                batch.step()
        except Exception as error:  # one batch's failure is not the server's
            log.exception("a batch of %d failed", len(batch.rows))
            batch.fail(error)

    def _admit(self, running: deque[_Batch]) -> bool:
        """Let the next waiting jobs take turns with what runs; waits while there is nothing to do. False: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or running)
            room = self._capacity - sum(batch.size for batch in running)
            jobs: list[Job] = []
            longest = 0
            while self._waiting and len(jobs) < self._rows:
                longest = max(longest, self._waiting[0].request.length)
                if longest * (len(jobs) + 1) > room and (jobs or running):
                    break
                job = self._waiting.popleft()
                jobs += [] if job.cancelled.is_set() else [job]
            if jobs:
                running.append(self._make(jobs))
            return not self._closed


class _Row:
    """One job inside a batch."""

    def __init__(self, job: Job, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], device: torch.device):
        request = job.request
        decode: Any = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.job, self.made, self.done = job, 0, False
        self._text, self._ends = TextStream(decode, request.prompt, request.stop), ends
        self._random = torch.Generator(device)
        if request.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(request.seed)
        self._warpers: list[Any] = []
        if request.temperature >= GREEDY:
            self._warpers = [TemperatureLogitsWarper(float(request.temperature)), TopPLogitsWarper(request.top_p)]

    def choose(self, logits: Tensor, best: int) -> int:
        """The next token, from logits [vocabulary]; ``best`` is the most likely one."""
        if not self._warpers:
            return best
        scores = logits[None]
        for warper in self._warpers:
            scores = warper(None, scores)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._random))

    def take(self, token: int) -> None:
        """Add a token and tell the client."""
        self.made += 1
        ended = token in self._ends
        text = "" if ended else self._text.add(token)
        full = self.made == self.job.request.max_tokens
        if (ended or full) and not self._text.stopped:
            text += self._text.end()
        finish: Finish | None = "stop" if ended or self._text.stopped else "length" if full else None
        self.done = finish is not None
        if text or finish:
            self.job.deliver(Piece(text, self.made, finish))


class _Batch:
    """Jobs that are computed together, each padded on its left to the longest prompt."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
        switches: tuple[int, ...],
        new_cache: Callable[[], Cache] | None,
        jobs: Sequence[Job],
    ):
        prompts = [job.request.prompt for job in jobs]
        width = max(map(len, prompts))
        self.rows = [_Row(job, tokenizer, ends, model.device) for job in jobs]
        self._model, self._switches, self._new_cache = model, switches, new_cache
        self._tokens = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
        self._visible = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        self._cache: Any = None

    @property
    def size(self) -> int:
        """Tokens in the cache at the end, padding included."""
        longest = max((row.job.request.max_tokens - row.made for row in self.rows), default=0)
        return len(self.rows) * (self._tokens.shape[1] + longest)

    def step(self) -> None:
        """One token for every row; rows that ended are dropped."""
        self._keep([i for i, row in enumerate(self.rows) if not row.job.cancelled.is_set()])
        if not self.rows:
            return
        logits = self._logits()
        best = logits.argmax(-1).tolist()
        chosen = [row.choose(logits[i], best[i]) for i, row in enumerate(self.rows)]
        self._tokens = torch.cat([self._tokens, self._tokens.new_tensor(chosen)[:, None]], -1)
        self._visible = torch.cat([self._visible, torch.ones_like(self._visible[:, :1])], -1)
        for row, token in zip(self.rows, chosen, strict=True):
            row.take(token)
        self._keep([i for i, row in enumerate(self.rows) if not row.done])

    def fail(self, error: Exception) -> None:
        """Tell all clients; no row is left."""
        if isinstance(error, torch.OutOfMemoryError):
            error = Unavailable(f"out of memory at {self._tokens.shape[1]} tokens; send fewer, or ask for fewer")
        for row in self.rows:
            row.job.deliver(error)
        self.rows = []

    def _logits(self) -> Tensor:
        """Of the next token, float32 [rows, vocabulary]."""
        length, device = self._tokens.shape[1], self._model.device
        if self._cache is None or length - 1 in self._switches:
            self._cache = None if self._new_cache is None else self._new_cache()
        seen = 0 if self._cache is None else self._cache.get_seq_length()
        positions = (self._visible.cumsum(-1) - 1).clamp_min(0)
        out = self._model(
            input_ids=self._tokens[:, seen:].to(device),
            attention_mask=self._visible.to(device),
            position_ids=positions[:, seen:].to(device),
            use_cache=True,
            logits_to_keep=1,
            **cache_argument.as_argument(self._model, self._cache),
        )
        self._cache = cache_argument.of_output(out)
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def _keep(self, indices: list[int]) -> None:
        if len(indices) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in indices]
        if self.rows:
            self._tokens, self._visible = self._tokens[indices], self._visible[indices]
            if self._cache is not None:
                self._cache.batch_select_indices(torch.tensor(indices, device=self._model.device))


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a text."""
    configured: Any = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(int(one) for one in (*several, tokenizer.eos_token_id) if one is not None)
