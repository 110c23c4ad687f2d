"""An OpenAI-compatible server for one model with one method."""

from __future__ import annotations

from dataclasses import dataclass, field

from ropewalk.common.errors import UserError
from ropewalk.common.extras import install
from ropewalk.verbs.request import Length, LiveRequest, Method, Port, verb


@dataclass(frozen=True, kw_only=True)
class ServeRequest(LiveRequest):
    """What to serve, and where.

    Attributes:
        method: As listed by 'ropewalk methods'; an extended checkpoint needs none.
        to: Tokens of prompt and answer together: 4096, 4k, 128K; by default what the configuration promises.
        host: Address to listen on; by default only this machine can reach the server.
        port: Port to listen on; 0 takes a free one.
        name: What clients ask for as 'model'; by default the model as it is spelled.
        api_key: What clients must send, none by default; better given as ROPEWALK_API_KEY, which no process list shows.
        per_request: Let a method that stretches frequencies, such as yarn, stretch those of each request only as far as
            its own tokens need: not at all inside the window, else to the least of 2, 4, 8 .. windows that holds prompt
            and answer, ``to`` at most.
        capacity: Tokens that running requests and kept beginnings may hold together: more of them for more memory; by
            default two requests of full length.
    """

    method: Method = "none"
    to: Length | None = None
    host: str = "127.0.0.1"
    port: Port = 8000
    name: str = ""
    api_key: str | None = field(default=None, repr=False, metadata={"environment": "ROPEWALK_API_KEY"})
    capacity: Length | None = None
    per_request: bool = False


@verb("serve")
def serve(request: ServeRequest) -> None:
    """Serve a model over OpenAI's protocol with any method on it, also those that no other engine knows.

    Returns when it is interrupted (SIGINT, SIGTERM or SIGHUP); running requests are finished first.

    Raises:
        UserError: for everything that a user can mend, before the server listens.
    """
    try:
        from ropewalk.serving.server import bind
        from ropewalk.serving.server import serve as run
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs {error.name}, which is missing", install("serve")) from None
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.common.terminal import Terminal
    from ropewalk.encoders.encoder_folder import refuse_encoder
    from ropewalk.methods.catalogue import method

    if request.api_key is not None and not request.api_key.strip():
        raise UserError(
            "the API key is empty, so that everybody who reaches the server could use it",
            "Give one, or to let everybody in: unset ROPEWALK_API_KEY",
        )
    console = Terminal()
    name = request.name or request.model

    def announce(address: str, limit: int, local: bool) -> None:
        line = f"{name} ({request.method}), {limit:,} tokens, at {address}/v1"
        console.print(line)
        if not local and not request.api_key:
            console.print("anyone who reaches this address can use it; set ROPEWALK_API_KEY to prevent that")
        console.print("Ctrl-C ends it")

    chosen = method(request.method)
    with bind(request.host, request.port) as listening:
        checkpoint = Checkpoint(request.model, request.trust_remote_code)
        refuse_encoder(checkpoint)
        checkpoint.refuse_unsound()
        needs = checkpoint.unwritten
        if needs is not None and not needs.among([chosen.spelling]):
            needs.refuse(needs.line("serve", "--method"))
        _ = checkpoint.specs  # a model without a rope is refused before its weights are read
        run(
            checkpoint,
            checkpoint.load(request.dtype, request.device),
            chosen,
            listening,
            announce,
            name=name,
            host=request.host,
            to=request.to,
            api_key=request.api_key or "",
            capacity=request.capacity,
            per_request=request.per_request,
        )
    console.print("stopped")
