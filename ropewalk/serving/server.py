"""Serve one model, with one method on it, until told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import uvicorn

from ropewalk.backends.local import ORDINARY
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.rope import config as rope_config
from ropewalk.serving.application import Served, application
from ropewalk.serving.batch import way_of
from ropewalk.serving.profiles import Profile, described, profiles
from ropewalk.serving.scheduler import Scheduler
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.applications import Starlette
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.methods.base import Method
    from ropewalk.rope.spec import RopeSpec

GRACE = 10.0  # seconds that running requests get to finish, on shutdown
LAST = 60  # seconds until connections are cut that do not end even then
KERNELS = "64"  # that oneDNN keeps: it makes one for every shape, and its own limits let memory grow by a gigabyte
ROUNDS = "in {}, an answer's company and what was kept of its prompt show in its rounding (--dtype float32: less)"
HEAD = 10.0  # seconds that the head of a request may take


def serve(
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    method: Method,
    listening: socket.socket,
    announce: Callable[[str, int, bool], None],
    *,
    name: str,
    host: str,
    to: int | None = None,
    api_key: str = "",
    capacity: int | None = None,
    per_request: bool = False,
) -> None:
    """Listen until SIGINT, SIGTERM or SIGHUP; running requests are finished, for ``GRACE`` seconds at most.

    Args:
        checkpoint: what is served.
        model: loaded from it, without a method on it.
        method: put on for as long as the server runs; ``none`` serves the model as it comes, extended or not.
        listening: a socket from ``bind``.
        announce: called before the first request, with the address, the length limit in tokens, and whether only this
            machine can reach the server.
        name: that clients ask for.
        host: where it listens, as the caller spells it.
        to: tokens of prompt and answer together; None means what the configuration promises.
        api_key: that clients must send; empty means none.
        capacity: tokens that all caches together may hold; None means two requests of full length.
        per_request: let the method stretch each request no further than its own tokens need; see ``profiles``.

    Raises:
        UserError: for everything that a user can mend, before the server listens.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read before the first forward
        os.environ.setdefault(cache, KERNELS)
    specs, tokenizer = checkpoint.specs, checkpoint.tokenizer()
    _refuse_dynamic(checkpoint, method)
    limit = _limit(checkpoint, to, method, per_request)
    probe = opening(tokenizer) + token_ids(ORDINARY, tokenizer)
    vocabulary = int(rope_config.text_config(model.config).vocab_size)
    address, port = listening.getsockname()[:2]
    local = ipaddress.ip_address(address).is_loopback
    hosts = ["localhost", "127.0.0.1", "::1", "[::1]", address, host] if local else None
    choice = profiles(model, method, limit) if per_request else []
    with method.on(model, None if method.id == "none" else to):
        scheduler = _scheduler(model, tokenizer, method, capacity or 2 * limit, specs, probe, choice)
        announce(f"http://{f'[{address}]' if ':' in address else address}:{port}", limit, local)
        ways = f"{scheduler.way}; {described(choice)}" if choice else str(scheduler.way)
        if model.dtype != torch.float32:
            ways += f"; {ROUNDS.format(str(model.dtype).removeprefix('torch.'))}"
        _listen(application(Served(name, tokenizer, vocabulary, limit, api_key), scheduler, hosts), listening, ways)


def _scheduler(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    capacity: int,
    specs: Mapping[str, RopeSpec],
    probe: Sequence[int],
    choice: Sequence[Profile],
) -> Scheduler:
    switches = sorted({spec.window for spec in specs.values() if spec.switches})
    return Scheduler(model, tokenizer, capacity, way_of(model, method, bool(switches), probe), switches, choice)


def _listen(app: Starlette, listening: socket.socket, ways: str) -> None:
    config = uvicorn.Config(
        app, http="h11", log_level="error", access_log=False, lifespan="on", timeout_graceful_shutdown=LAST
    )
    with _lines():
        logging.getLogger(__name__).info("%s", ways)
        _Server(config, app.state.end).run(sockets=[listening])


@contextmanager
def _lines() -> Iterator[None]:
    """Lines about requests and failures go to standard error."""
    logger, handler = logging.getLogger("ropewalk.serving"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Server(uvicorn.Server):
    """Ends in order: running requests get ``GRACE`` seconds, or until a second signal; what is left is told so."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]):
        super().__init__(config)
        self._end = end
        self._heads: dict[Any, float] = {}  # connections that owe the head of a request, and since when

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As long as it runs, a signal ends the server and nothing else."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ends = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
        ends = {one for one in ends if signal.getsignal(one) is not signal.SIG_IGN}  # as nohup asks
        before = {one: signal.signal(one, self.handle_exit) for one in ends}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The first signal begins the end, a second one is in a hurry."""
        if self.should_exit:
            self._hurried = True
        self.should_exit = True

    _hurried = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening and let running requests end."""
        ending = asyncio.ensure_future(self._end_in_time())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_in_time(self) -> None:
        end = time.monotonic() + GRACE
        while time.monotonic() < end and not self._hurried:
            await asyncio.sleep(0.05)
        self._end()

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second: hang up on who does not finish the head of a request."""
        now, owing = time.monotonic(), {}
        for one in list(self.server_state.connections):
            cycle: Any = getattr(one, "cycle", None)
            resting = getattr(one, "timeout_keep_alive_task", None) is not None
            if resting or not (cycle is None or cycle.response_complete):
                continue
            owing[one] = self._heads.get(one, now)
            if now - owing[one] > HEAD:
                one.transport.close()  # type: ignore[union-attr]
        self._heads = owing
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet.

    Raises:
        UserError: if the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address[0], port, *address[2:]))  # getaddrinfo takes port 99999 for another
        return bound
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}:{port}: {error}", "Choose others with --host and --port.") from None


def _limit(checkpoint: Checkpoint, to: int | None, method: Method, per_request: bool) -> int:
    """Tokens of prompt and answer together.

    Raises:
        UserError: if nothing makes the model read so many.
    """
    promised = checkpoint.promised
    if to is None:
        return promised
    if method.id == "none" and to > promised:
        longer = ("yarn", "--to", to, "--per-request") if per_request else ("self-extend", "--to", to)
        raise UserError(
            f"{checkpoint.name} reads {promised:,} tokens as it is, not {to:,}",
            command("serve", checkpoint.name, "--method", *longer),
        )
    return to


def _refuse_dynamic(checkpoint: Checkpoint, method: Method) -> None:
    """Refuse frequencies that transformers changes from one request to the next.

    Raises:
        UserError: naming a method that has the same frequencies for the same request.
    """
    replaced = "frequencies" in method.axes and method.id != "none"
    if not replaced and any(spec.rope_type == "dynamic" for spec in checkpoint.specs.values()):
        raise UserError(
            f"{checkpoint.name} has rope_type 'dynamic': its frequencies follow the longest text seen so far, so that "
            "requests would change each other's results",
            command("serve", checkpoint.name, "--method", "dynamic-ntk", "--to", checkpoint.promised),
        )
