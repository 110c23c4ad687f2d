"""``ropewalk serve``: an OpenAI-compatible server for one model with one method."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from ropewalk.common.errors import UserError


def serve(
    model: str,
    /,
    *,
    method: Annotated[str, Parameter(name=["--method", "-m"])] = "none",
    to: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "",
    api_key: Annotated[str, Parameter(env_var="ROPEWALK_API_KEY")] = "",
    capacity: str = "",
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Serve a model over OpenAI's protocol with any method on it, also those that no other engine knows.

    Parameters
    ----------
    model: str
        A folder, a hub id, or 'demo'; an extended checkpoint needs no method.
    method: str
        As listed by 'ropewalk methods'.
    to: str
        Tokens of prompt and answer together: 4096, 4k, 128K; by default what the configuration promises.
    host: str
        Address to listen on; by default only this machine can reach the server.
    port: int
        To listen on; 0 takes a free one.
    name: str
        That clients ask for as 'model'; by default MODEL as it is spelled.
    api_key: str
        That clients must send; better given as ROPEWALK_API_KEY, which no process list shows.
    capacity: str
        Tokens that running requests may hold together: more of them run at a time, for more memory; by default --to.
    dtype: str
        auto, float32, bfloat16 or float16.
    device: str
        auto, cpu or cuda.
    trust_remote_code: bool
        Run code that comes with the model.
    """
    from ropewalk.common.lengths import parse

    try:
        from ropewalk.serving.server import Options
        from ropewalk.serving.server import serve as run
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs {error.name}, which is missing", "pip install 'ropewalk[serve]'") from None
    console = Console(highlight=False)

    def announce(address: str, limit: int, local: bool) -> None:
        console.print(f"{name or model} ({method}), {limit:,} tokens, at {address}/v1", markup=False, soft_wrap=True)
        if not local and not api_key:
            console.print("anyone who reaches this address can use it; set ROPEWALK_API_KEY to prevent that")
        console.print("Ctrl-C ends it")

    run(
        Options(
            model=model,
            method=method,
            to=parse(to) if to else None,
            host=host,
            port=port,
            name=name,
            api_key=api_key,
            capacity=parse(capacity) if capacity else None,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        ),
        announce,
    )
    console.print("stopped")
