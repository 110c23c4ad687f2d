"""Serve one model, with one method on it, until told to stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from ropewalk.common.errors import UserError
from ropewalk.rope import config as rope_config
from ropewalk.serving.application import Served, application
from ropewalk.serving.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.applications import Starlette
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.methods.base import Method
    from ropewalk.rope.spec import RopeSpec

GRACE = 10  # seconds that running requests get to finish, on shutdown


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
) -> None:
    """Listen until SIGINT or SIGTERM; running requests are finished, for ``GRACE`` seconds at most.

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
        capacity: tokens that all caches together may hold; None means one request of full length.

    Raises:
        UserError: for everything that a user can mend, before the server listens.
    """
    specs, tokenizer = checkpoint.specs, checkpoint.tokenizer()
    _refuse_dynamic(checkpoint, method)
    limit = _limit(checkpoint, to, method)
    vocabulary = int(rope_config.text_config(model.config).vocab_size)
    address, port = listening.getsockname()[:2]
    local = ipaddress.ip_address(address).is_loopback
    hosts = ["localhost", "127.0.0.1", "::1", "[::1]", address, host] if local else None
    with method.on(model, None if method.id == "none" else to):
        scheduler = _scheduler(model, tokenizer, method, capacity or limit, specs)
        announce(f"http://{f'[{address}]' if ':' in address else address}:{port}", limit, local)
        _listen(application(Served(name, tokenizer, vocabulary, limit, api_key), scheduler, hosts), listening)


def _scheduler(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    capacity: int,
    specs: Mapping[str, RopeSpec],
) -> Scheduler:
    """Jobs share a batch unless rows would change each other or the method brings its own cache."""
    switches = sorted({spec.window for spec in specs.values() if spec.switches})
    cache = getattr(method, "cache", None)
    return Scheduler(
        model,
        tokenizer,
        capacity,
        alone=method.length_dependent or cache is not None or bool(switches),
        switches=switches,
        new_cache=None if cache is None else partial(cache, model),
    )


def _listen(app: Starlette, listening: socket.socket) -> None:
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=GRACE)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it again when it has ended
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


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


def _limit(checkpoint: Checkpoint, to: int | None, method: Method) -> int:
    """Tokens of prompt and answer together.

    Raises:
        UserError: if nothing makes the model read so many.
    """
    promised = checkpoint.promised
    if to is None:
        return promised
    if method.id == "none" and to > promised:
        raise UserError(
            f"{checkpoint.name} reads {promised:,} tokens as it is, not {to:,}",
            f"ropewalk serve {checkpoint.name} --method self-extend --to {to}",
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
            f"ropewalk serve {checkpoint.name} --method dynamic-ntk --to {checkpoint.promised}",
        )
