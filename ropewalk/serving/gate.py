"""What every request passes on its way in and out: no web page of another site gets in, and each leaves one line."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from ropewalk.serving.job import Piece
from ropewalk.serving.protocol import Refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST = 100  # characters of a path in a line

log = logging.getLogger(__name__)


class Counts:
    """What one HTTP request cost.

    Attributes:
        prompt: tokens of its prompts.
        cached: those that were read for an earlier request.
        made: tokens of its answers.
        first: when the first of them came, by ``time.perf_counter``.
    """

    def __init__(self, prompts: list[int]):
        self.prompt, self.cached, self.made, self.first = sum(prompts), 0, 0, 0.0

    async def watched(self, pieces: AsyncGenerator[tuple[int, Piece]], n: int) -> AsyncGenerator[tuple[int, Piece]]:
        """The pieces of the answers, ``n`` to each prompt, counted."""
        made: dict[int, int] = {}
        try:
            async for i, piece in pieces:
                self.first = self.first or time.perf_counter()
                if i % n == 0 and i not in made:
                    self.cached += piece.cached
                self.made += piece.tokens - made.get(i, 0)
                made[i] = piece.tokens
                yield i, piece
        finally:
            await pieces.aclose()


def counts(scope: Scope, prompts: list[int]) -> Counts:
    """Begin to count for a request; the numbers go into its line."""
    counted: Counts = scope.setdefault(__name__, Counts(prompts))
    return counted


class Gate:
    """Refuses pages of other sites and logs."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            refused = _foreign(Headers(scope=scope))
            await (JSONResponse(refused.body, refused.status) if refused else self._app)(scope, receive, sent)
        except Exception:
            status = status or 500
            raise
        finally:
            log.info("%s", _line(scope, status, start))


def _foreign(headers: Headers) -> Refusal | None:
    """A refusal for requests that a browser sends for a page of another site; others have no origin."""
    origin = headers.get("origin")
    if origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower() != "":
        return None
    return Refusal(403, f"a page of {origin[:LONGEST]!r} may not use this server", code="foreign_origin")


def _line(scope: Any, status: int, start: float) -> str:
    """A request in one line, without anything that was said in it."""
    client, path = (scope.get("client") or ("-",))[0], scope["path"][:LONGEST]
    parts = [f"{client} {scope['method']} {path if path.isprintable() else ascii(path)} {status or 'cut'}"]
    counted: Counts | None = scope.get(__name__)
    if counted:
        parts.append(f"prompt {counted.prompt:,} ({counted.cached:,} cached), answer {counted.made:,} tokens")
        if counted.first:
            parts.append(f"first {counted.first - start:.2f} s")
    return ", ".join([*parts, f"{time.perf_counter() - start:.2f} s"])
