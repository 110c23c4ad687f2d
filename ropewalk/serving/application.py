"""The HTTP side of the server: reads requests, waits for the scheduler, answers or streams."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import TemplateError
from openai.types import Model
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ropewalk.serving.protocol import (
    Body,
    ChatReply,
    ChatRequest,
    CompletionReply,
    CompletionRequest,
    Generation,
    Refusal,
    parsed,
    usage,
)
from ropewalk.serving.scheduler import Job, Piece, Request, Scheduler, Unavailable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Result = TypeVar("Result")

COMPLETION_TOKENS = 16  # where a request does not say, as in OpenAI's protocol
CHAT_TOKENS = 1024  # likewise; the protocol leaves it to the server
BYTES, BYTES_PER_TOKEN = 2**20, 64  # a body may have: for its fields, and for every token of the length limit
GONE = 499  # the client closed the connection; nobody reads it


@dataclass(frozen=True)
class Served:
    """The one model that is served.

    Attributes:
        name: that clients ask for.
        tokenizer: of the model.
        vocabulary: rows of its embedding.
        limit: tokens of prompt and answer together.
        api_key: that clients must send; empty means none.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    limit: int
    api_key: str = ""


def application(served: Served, scheduler: Scheduler, hosts: list[str] | None = None) -> Starlette:
    """The application; it starts and closes the scheduler.

    Args:
        served: what is served.
        scheduler: not started.
        hosts: names that clients may call the server by (web pages that rebind a name are kept out); None allows any.
    """
    api = _Api(served, scheduler)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await run_in_threadpool(scheduler.close)

    return Starlette(
        routes=[
            Route("/health", api.health),
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/completions", api.completions, methods=["POST"]),
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
        exception_handlers={
            ClientDisconnect: _gone,
            **dict.fromkeys((Refusal, HTTPException, Unavailable, Exception), _refused),
        },
        lifespan=lifespan,
    )


class _Api:
    def __init__(self, served: Served, scheduler: Scheduler):
        self._served, self._scheduler, self._since = served, scheduler, int(time.time())

    async def health(self, _: HTTPRequest) -> Response:
        alive = self._scheduler.alive
        return JSONResponse({"status": "ok" if alive else "not running"}, 200 if alive else 503)

    async def models(self, http: HTTPRequest) -> Response:
        self._authorise(http)
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, http: HTTPRequest) -> Response:
        self._authorise(http)
        self._known(http.path_params["name"])
        return JSONResponse(self._described())

    async def completions(self, http: HTTPRequest) -> Response:
        body = await self._read(http, CompletionRequest)
        prompt = await run_in_threadpool(self._encoded, body.text)
        request = self._request(prompt, body, body.max_tokens, COMPLETION_TOKENS)
        return await self._answer(http, body, request, CompletionReply(self._served.name))

    async def chat(self, http: HTTPRequest) -> Response:
        body = await self._read(http, ChatRequest)
        prompt = await run_in_threadpool(self._templated, [message.turn for message in body.messages])
        asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        request = self._request(prompt, body, asked, CHAT_TOKENS)
        return await self._answer(http, body, request, ChatReply(self._served.name))

    def _described(self) -> dict[str, Any]:
        about = Model(id=self._served.name, created=self._since, object="model", owned_by="ropewalk")
        return about.model_dump() | {"max_model_len": self._served.limit}  # the word that other servers use

    def _authorise(self, http: HTTPRequest) -> None:
        expected = f"Bearer {self._served.api_key}".encode()
        given = http.headers.get("authorization", "").encode("latin-1")
        if self._served.api_key and not secrets.compare_digest(given, expected):
            raise Refusal(401, "the API key is missing or wrong", code="invalid_api_key")

    def _known(self, name: str) -> None:
        if name != self._served.name:
            raise Refusal(
                404, f"there is no model {name[:200]!r} here, only {self._served.name!r}", "model", "model_not_found"
            )

    async def _read(self, http: HTTPRequest, kind: type[Body]) -> Body:
        self._authorise(http)
        most = BYTES + BYTES_PER_TOKEN * self._served.limit
        raw = bytearray()
        async for part in http.stream():
            raw += part
            if len(raw) > most:
                raise Refusal(413, f"the body is larger than {most:,} bytes")
        body = await run_in_threadpool(parsed, kind, bytes(raw))
        self._known(body.model)
        return body

    def _encoded(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            ids: list[int] = self._served.tokenizer(prompt, verbose=False)["input_ids"]
            return ids
        wrong = [one for one in prompt if not 0 <= one < self._served.vocabulary]
        if wrong:
            raise Refusal(400, f"token id {wrong[0]} is not in 0 to {self._served.vocabulary - 1}", "prompt")
        return prompt

    def _templated(self, turns: list[dict[str, str]]) -> list[int]:
        tokenizer = self._served.tokenizer
        if tokenizer.chat_template is None:
            raise Refusal(400, f"{self._served.name} has no chat template; use /v1/completions", "messages")
        try:
            text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except (
            TemplateError,
            TypeError,
            ValueError,
        ) as error:  # templates refuse roles and orders that they do not know
            raise Refusal(400, f"the model's chat template refuses the messages: {error}", "messages") from None
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _request(self, prompt: list[int], body: Generation, asked: int | None, default: int) -> Request:
        limit, read = self._served.limit, len(prompt)
        if not prompt:
            raise Refusal(400, "the prompt has no tokens", "prompt")
        tokens = max(1, min(default, limit - read)) if asked is None else asked
        if read + tokens > limit:
            raise Refusal(
                400,
                f"the limit is {limit:,} tokens; the prompt has {read:,}, and {tokens:,} more were asked for: together "
                f"{read + tokens:,}",
                code="context_length_exceeded",
            )
        temperature = 1.0 if body.temperature is None else body.temperature
        return Request(tuple(prompt), tokens, temperature, body.top_p or 1.0, body.seed, body.stops)

    async def _answer(
        self, http: HTTPRequest, body: Generation, request: Request, reply: CompletionReply | ChatReply
    ) -> Response:
        pieces = _run(self._scheduler, request)
        read = len(request.prompt)
        if body.stream:
            first = await _while_connected(http, anext(pieces))  # an error until here has its own status
            return StreamingResponse(_events(first, pieces, reply, read, body.counts), media_type="text/event-stream")
        found = await _while_connected(http, _all(pieces))
        text, last = "".join(piece.text for piece in found), found[-1]
        whole = reply.whole(text, last.finish, usage(read, last.tokens))
        return Response(whole.model_dump_json(), media_type="application/json")


async def _run(scheduler: Scheduler, request: Request) -> AsyncGenerator[Piece]:
    """The pieces of an answer; leaving it early cancels the job."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    def deliver(piece: Piece | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(arrived.put_nowait, piece)

    job = Job(request, deliver)
    scheduler.submit(job)
    try:
        while True:
            piece = await arrived.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.finish is not None:
                return
    finally:
        job.cancelled.set()


async def _all(pieces: AsyncGenerator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


async def _while_connected(http: HTTPRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled when the client goes.

    Raises:
        ClientDisconnect: if it did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnected(http: HTTPRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _events(
    first: Piece, pieces: AsyncGenerator[Piece], reply: CompletionReply | ChatReply, read: int, counts: bool
) -> AsyncIterator[str]:
    """Server-sent events of a stream."""
    try:
        for chunk in reply.first():
            yield _event(chunk.model_dump_json())
        yield _event(reply.chunk(first.text, first.finish).model_dump_json())
        last = first
        async for last in pieces:
            yield _event(reply.chunk(last.text, last.finish).model_dump_json())
        if counts:
            yield _event(reply.last(usage(read, last.tokens)).model_dump_json())
        yield _event("[DONE]")
    except Exception as error:
        yield _event(json.dumps(_told(error).body))
    finally:
        await pieces.aclose()


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def _told(error: Exception) -> Refusal:
    """What a client is told about an error: never a traceback."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, error.detail)
    if isinstance(error, Unavailable):
        return Refusal(503, str(error), code="unavailable")
    return Refusal(500, "internal error; the server's log says more")


async def _refused(_: HTTPRequest, error: Exception) -> Response:
    told = _told(error)
    # The server ends these connections: at 413 the rest of the body is not read, and after an error that was not
    # foreseen Starlette raises it again, upon which uvicorn hangs up. A client that is not told sends its next request
    # into a connection that is being closed.
    headers = {"connection": "close"} if told.status in (413, 500) else None
    return JSONResponse(told.body, told.status, headers=headers)


async def _gone(_: HTTPRequest, error: Exception) -> Response:
    return Response(status_code=GONE)
