"""Serve one model, with one method on it, until told to stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.errors import UserError
from ropewalk.methods.catalogue import method as method_of
from ropewalk.rope import config as rope_config
from ropewalk.serving.application import Served, application
from ropewalk.serving.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.applications import Starlette
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ropewalk.methods.base import Method
    from ropewalk.rope.spec import RopeSpec

GRACE = 10  # seconds that running requests get to finish, on shutdown


@dataclass(frozen=True)
class Options:
    """What to serve, and where.

    Attributes:
        model: folder, hub id or ``demo``.
        method: spelling of the method; "none" serves the model as it comes, extended or not.
        to: tokens of prompt and answer together; None means what the configuration promises.
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        name: that clients ask for; empty means ``model`` as it is spelled.
        api_key: that clients must send; empty means none.
        capacity: tokens that all caches together may hold; None means one request of full length.
        dtype: as in ``Checkpoint.load``.
        device: likewise.
        trust_remote_code: likewise.
    """

    model: str
    method: str = "none"
    to: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = ""
    api_key: str = ""
    capacity: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False


def serve(options: Options, announce: Callable[[str, int, bool], None]) -> None:
    """Listen until SIGINT or SIGTERM; running requests are finished, for ``GRACE`` seconds at most.

    Args:
        options: what and where.
        announce: called once the model is loaded, with the address, the length limit in tokens, and whether only this
            machine can reach the server.

    Raises:
        UserError: for everything that a user can mend, before the server listens.
    """
    method = method_of(options.method)
    with _bound(options.host, options.port) as listening:
        checkpoint = Checkpoint.open(options.model, options.trust_remote_code)
        specs, tokenizer = checkpoint.specs, checkpoint.tokenizer()
        model = checkpoint.load(options.dtype, options.device)
        _refuse_dynamic(options.model, method, specs)
        limit = _limit(options, method, specs)
        vocabulary = int(rope_config.text_config(model.config).vocab_size)
        served = Served(options.name or options.model, tokenizer, vocabulary, limit, options.api_key)
        host, port = listening.getsockname()[:2]
        local = ipaddress.ip_address(host).is_loopback
        names = ["localhost", "127.0.0.1", "::1", "[::1]", host, options.host] if local else None
        with method.on(model, None if method.id == "none" else options.to):
            scheduler = _scheduler(model, tokenizer, method, options.capacity or limit, specs)
            announce(f"http://{f'[{host}]' if ':' in host else host}:{port}", limit, local)
            _listen(application(served, scheduler, names), listening)


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


def _bound(host: str, port: int) -> socket.socket:
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


def _limit(options: Options, method: Method, specs: Mapping[str, RopeSpec]) -> int:
    """Tokens of prompt and answer together.

    Raises:
        UserError: if nothing makes the model read so many.
    """
    promised = rope_config.promised_by(specs)
    if options.to is None:
        return promised
    if method.id == "none" and options.to > promised:
        raise UserError(
            f"{options.model} reads {promised:,} tokens as it is, not {options.to:,}",
            f"ropewalk serve {options.model} --method self-extend --to {options.to}",
        )
    return options.to


def _refuse_dynamic(model: str, method: Method, specs: Mapping[str, RopeSpec]) -> None:
    """Refuse frequencies that transformers changes from one request to the next.

    Raises:
        UserError: naming a method that has the same frequencies for the same request.
    """
    replaced = "frequencies" in method.axes and method.id != "none"
    if not replaced and any(spec.rope_type == "dynamic" for spec in specs.values()):
        raise UserError(
            f"{model} has rope_type 'dynamic': its frequencies follow the longest text seen so far, so that requests "
            "would change each other's results",
            f"ropewalk serve {model} --method dynamic-ntk --to {rope_config.promised_by(specs)}",
        )
