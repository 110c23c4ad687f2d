"""One thread runs the model for all clients: requests wait, are read in pieces, and are answered in turns."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ropewalk.backends.prefix import stops
from ropewalk.serving.batch import Batch, Way, joined
from ropewalk.serving.job import Finish, Job, Piece, Token, Unavailable
from ropewalk.serving.prefixes import Prefixes
from ropewalk.serving.profiles import Profile, chosen
from ropewalk.serving.sampling import Sampler
from ropewalk.serving.stream import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PIECE = 512  # tokens of a prompt that are read in one turn
SLICE = 8  # tokens that an answer goes on by in one turn
ROWS = 64  # at most, in a batch
STEP = 256  # least difference of rooms
WAITING = 1024  # requests at most
CLOSING = "the server is shutting down"

log = logging.getLogger(__name__)


def room(tokens: int) -> int:
    """What a request of some tokens counts for: the next multiple of 256, or of an eighth of the power of two above.

    Only texts of the same room are decoded together, so that their padding is counted.
    """
    step = max(STEP, 1 << max(0, (tokens - 1).bit_length() - 3))
    return -(-tokens // step) * step


class Scheduler:
    """Runs jobs, as many at a time as the caches may hold tokens.

    A turn reads one piece of one prompt and adds a few tokens to one batch of answers, so nobody waits for the end of
    another. A prompt is due when as many tokens were read since it came as it has: a short one overtakes a long one,
    but not one that has waited for its own length.

    Attributes:
        way: what texts may do on the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        capacity: int,
        way: Way,
        switches: Sequence[int] = (),
        profiles: Sequence[Profile] = (),
    ):
        """Nothing runs before ``start``.

        Args:
            model: in evaluation mode, its method on.
            tokenizer: that fits it.
            capacity: tokens that all caches together may hold, kept beginnings included; one job runs whatever its
                length.
            way: what texts may do on the model without changing each other's results.
            switches: lengths in tokens past which the model rotates otherwise; a text that crosses one is read again.
            profiles: rotations for requests of some length, the least first; none leaves the model's to all.
        """
        self._model, self.way, self._capacity, self._switches = model, way, capacity, frozenset(switches)
        self._row = partial(_Row, tokenizer, _ends(model, tokenizer), model.device, profiles)
        self._reading: list[_Row] = []
        self._groups: deque[_Group] = deque()
        self._prefixes = Prefixes()
        self._read = 0  # tokens so far; the clock by which turns are due
        self._waiting: list[_Row] = []
        self._jobs: set[Job] = set()  # that are told when the server closes
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin to run jobs."""
        self._thread.start()

    def stop(self) -> None:
        """Tell all jobs ``Unavailable``, at once, and run none any more."""
        with self._changed:
            self._closed = True
            jobs, self._jobs = self._jobs, set()
            self._changed.notify()
        for job in jobs:
            job.deliver(Unavailable(CLOSING))

    def close(self) -> None:
        """Stop, and wait for the turn that is being taken."""
        self.stop()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether jobs are run."""
        return self._thread.is_alive() and not self._closed

    def submit(self, *jobs: Job) -> None:
        """Queue jobs.

        Raises:
            Unavailable: if too many wait already, or none is run any more; then none of them is queued.
        """
        rows = [self._row(job) for job in jobs]
        with self._changed:
            if self._closed:
                raise Unavailable(CLOSING)
            if len(self._waiting) + len(rows) > WAITING:
                raise Unavailable(f"{WAITING} requests are waiting already; try again later")
            for row in rows:
                row.due = self._read + len(row.tokens)
            self._waiting += rows
            self._jobs.update(jobs)
            self._changed.notify()

    @torch.no_grad()
    def _run(self) -> None:
        try:
            while self._admit():
                if self._reading:
                    self._read_on(self._next_to_read())
                if self._groups:
                    self._groups.rotate(-1)
                    self._answer(self._groups[-1])
        finally:  # nobody is left waiting, whatever ended the loop
            self.stop()

    def _admit(self) -> bool:
        """Let waiting jobs take turns as far as there is room; waits while there is nothing to do. False: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._reading or self._groups)
            for rows in (self._waiting, self._reading):
                for row in [row for row in rows if row.job.cancelled.is_set()]:
                    rows.remove(row)
                    self._jobs.discard(row.job)
            while self._waiting:
                row = min(self._waiting, key=_due)
                if row.room > self._free and (self._reading or self._groups):
                    break
                self._waiting.remove(row)
                self._reading.append(row)
            self._prefixes.shrink(self._free)
            return not self._closed

    @property
    def _free(self) -> int:
        """Tokens that running jobs leave."""
        running = (*self._reading, *(row for group in self._groups for row in group.rows))
        return self._capacity - sum(row.room for row in running)

    def _next_to_read(self) -> list[_Row]:
        """The prompt whose turn is due, and short ones that fit into the same turn."""
        first = min(self._reading, key=_due)
        together, longest = [first], len(first.tokens)
        if first.batch is None and self.way.joined and not first.apart:
            for row in sorted(self._reading, key=_due):
                if row is first or row.batch is not None or row.apart or row.kind != first.kind:
                    continue
                longest = max(longest, len(row.tokens))
                if longest * (len(together) + 1) > PIECE or len(together) == ROWS:
                    break
                together.append(row)
        return together

    def _read_on(self, rows: list[_Row]) -> None:
        """Read one more piece; behind the end of a prompt comes the first token."""
        try:
            batch = rows[0].batch or self._begun(rows)
            start = max(batch.lengths)
            end = start + PIECE if self.way.pieces else None
            pieces = [row.tokens[start:end] for row in rows]
            logits = batch.read(pieces)[:, -1]
            self._read += sum(map(len, pieces))
            if batch.lengths[0] < len(rows[0].tokens):
                return
            for row in rows:
                row.batch = None
                self._reading.remove(row)
            group = _Group(rows, batch)
            self._groups.append(group)
            if self.way.shared:
                for i, row in enumerate(rows):
                    self._prefixes.keep(row.tokens, batch, i, self._free)
            self._take(group, logits)
            if group.rows:
                self._join(group)
        except Exception as error:
            self._failed(rows, error)

    def _begun(self, rows: list[_Row]) -> Batch:
        """What rows are read into; what another text left is not read again."""
        first = rows[0]
        alone = self.way.shared and len(rows) == 1
        states = self._prefixes.longest(first.tokens[:-1], first.profile) if alone else []
        batch = Batch.of(self._model, self.way, first.room, len(rows), first.profile)
        if states:
            batch.begin(states)
            first.cached = batch.lengths[0]
        for row in rows:
            row.batch = batch
        return batch

    def _answer(self, group: _Group) -> None:
        """Some more tokens of a batch's answers."""
        try:
            for _ in range(SLICE):
                self._keep(group, [not row.job.cancelled.is_set() for row in group.rows])
                if not group.rows:
                    return
                if len(group.rows[0].tokens) - 1 in self._switches:
                    return self._again(group.rows)
                self._take(group, group.batch.read([row.tokens[-1:] for row in group.rows])[:, -1])
        except Exception as error:
            self._failed(group.rows, error)

    def _take(self, group: _Group, logits: Tensor) -> None:
        """Add a token to every row; those that ended leave, and so does one whose own choice fails."""
        for row, scores in zip(group.rows, logits, strict=True):
            try:
                row.take(scores)
            except Exception as error:
                log.exception("an answer failed")
                row.done = True
                row.job.deliver(error)
        self._keep(group, [not row.done for row in group.rows])

    def _keep(self, group: _Group, stays: list[bool]) -> None:
        """Drop rows from a batch, and what the longest of them needed in padding."""
        if all(stays):
            return
        with self._changed:
            self._jobs.difference_update(row.job for row, yes in zip(group.rows, stays, strict=True) if not yes)
        left = [i for i, yes in enumerate(stays) if yes]
        group.rows = [group.rows[i] for i in left]
        if group.rows:
            group.batch = joined([(group.batch, i) for i in left], group.rows[0].room)
        else:
            self._groups.remove(group)

    def _join(self, group: _Group) -> None:
        """Put a batch that was read into another of the same room and profile."""
        for other in self._groups:
            rows = [*other.rows, *group.rows]
            if other is group or not self.way.joined or len(rows) > ROWS or any(row.apart for row in rows):
                continue
            if other.rows[0].kind == group.rows[0].kind:
                texts = [(one.batch, i) for one in (other, group) for i in range(len(one.rows))]
                other.rows, other.batch = rows, joined(texts, rows[0].room)
                self._groups.remove(group)
                return

    def _failed(self, rows: list[_Row], error: Exception) -> None:
        """A job that failed alone is told so; of several nobody knows which one it was: each goes on alone."""
        rows = [row for row in rows if not row.done]
        log.error("%d texts failed", len(rows), exc_info=error)
        if isinstance(error, torch.OutOfMemoryError):
            self._prefixes.shrink(0)
            longest = max((len(row.tokens) for row in rows), default=0)
            error = Unavailable(f"out of memory at {longest} tokens; send fewer, or ask for fewer")
        if len(rows) > 1:
            for row in rows:
                row.apart = True
            return self._again(rows)
        self._again(rows)
        for row in rows:
            self._reading.remove(row)
            with self._changed:
                self._jobs.discard(row.job)
            row.job.deliver(error)

    def _again(self, rows: list[_Row]) -> None:
        """Read texts from their beginning, what was answered included."""
        self._groups = deque(group for group in self._groups if not any(row in rows for row in group.rows))
        for row in rows:
            row.batch = None
        self._reading += [row for row in rows if row not in self._reading]


def _due(row: _Row) -> int:
    return row.due


class _Group:
    """Rows whose prompts are read, in one batch."""

    def __init__(self, rows: list[_Row], batch: Batch):
        self.rows, self.batch = rows, batch


class _Row:
    """One job under way.

    Attributes:
        tokens: the prompt and what was generated.
        room: tokens that count for it.
        profile: the rotation that it is read with.
        batch: what it is read into; None if nothing is read, or it is in a group.
        cached: tokens of the prompt that were taken from another text.
        due: when its turn comes.
        apart: whether it stays alone, after a failure in company.
        done: it has ended.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
        device: torch.device,
        profiles: Sequence[Profile],
        job: Job,
    ):
        request = job.request
        self.job, self.tokens, self.room = job, list(request.prompt), room(request.length)
        self.profile = chosen(profiles, request.length)
        self.batch: Batch | None = None
        self.cached = self.due = 0
        self.apart = self.done = False
        decode: Any = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self._whole: Any = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
        self._text, self._ends = TextStream(decode, request.prompt, request.stop), ends
        self._sampler = Sampler(request, device)
        self._told: list[Token] = []

    @property
    def kind(self) -> tuple[int, Profile | None]:
        """What rows of one batch share."""
        return self.room, self.profile

    def take(self, logits: Tensor) -> None:
        """Add a token, chosen from logits [vocabulary], and tell the client."""
        request, token = self.job.request, self._sampler.choose(logits)
        ended = token in self._ends
        if request.logprobs is not None and not ended:
            self._told.append(self._about(token, logits.log_softmax(-1), request.logprobs))
        self.tokens.append(token)
        made = len(self.tokens) - len(request.prompt)
        text = "" if ended else self._text.add(token)
        full = made == request.max_tokens
        if (ended or full) and not self._text.stopped:
            text += self._text.end()
        finish: Finish | None = "stop" if ended or self._text.stopped else "length" if full else None
        self.done = finish is not None
        if text or finish:
            self.job.deliver(Piece(text, made, finish, tuple(self._told), self.cached))
            self._told = []

    def _about(self, token: int, logprobs: Tensor, likely: int) -> Token:
        best = logprobs.topk(likely)
        others = [(int(i), float(p)) for p, i in zip(best.values, best.indices, strict=True)]
        return Token(self._alone(token), float(logprobs[token]), tuple(Token(self._alone(i), p) for i, p in others))

    def _alone(self, token: int) -> str:
        """What a token adds behind the last one."""
        before = self._whole(self.tokens[-1:])
        return str(self._whole([*self.tokens[-1:], token])[len(before) :])


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a text."""
    own = tokenizer.eos_token_id
    return stops(model) | (set() if own is None else {int(own)})
