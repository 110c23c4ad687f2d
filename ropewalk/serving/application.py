"""The HTTP side of the server: reads requests, waits for the scheduler, answers or streams."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

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

from ropewalk.serving.gate import Counts, Gate, counts
from ropewalk.serving.job import Job, Piece, Request, Unavailable
from ropewalk.serving.protocol import (
    CHOICES,
    Body,
    ChatReply,
    ChatRequest,
    CompletionReply,
    CompletionRequest,
    Generation,
    Refusal,
    parsed,
    short,
    usage,
)
from ropewalk.serving.scheduler import CLOSING, Scheduler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Result = TypeVar("Result")

COMPLETION_TOKENS = 16  # where a request does not say, as in OpenAI's protocol
CHAT_TOKENS = 1024  # likewise; the protocol leaves it to the server
BYTES, BYTES_PER_TOKEN = 2**20, 64  # a body may have: for its fields, and for every token of the length limit
DISCARDED = 2**25  # bytes of a body that is too large are taken in, so that the client hears why
SENDING = 30.0  # seconds that a body may take
CHARACTERS = 16  # per token of the limit; of a longer text, so many are tokenised first
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
    """The application; it starts and closes the scheduler. ``state.end()`` answers 503 to all that is under way.

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

    app = Starlette(
        routes=[
            Route("/health", api.health),
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/completions", api.completions, methods=["POST"]),
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
        ],
        middleware=[
            Middleware(Gate),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        ],
        exception_handlers={
            ClientDisconnect: _gone,
            **dict.fromkeys((Refusal, HTTPException, Unavailable, Exception), _refused),
        },
        lifespan=lifespan,
    )
    app.state.end = api.end
    return app


class _Api:
    def __init__(self, served: Served, scheduler: Scheduler):
        self._served, self._scheduler, self._since = served, scheduler, int(time.time())
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Tell every client that the server is shutting down."""
        self._ended.set()
        self._scheduler.stop()

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
        prompts = await run_in_threadpool(lambda: [self._encoded(prompt) for prompt in body.prompts])
        requests = self._requests(prompts, body, body.likely, body.max_tokens, COMPLETION_TOKENS)
        return await self._answer(http, body, requests, CompletionReply(self._served.name))

    async def chat(self, http: HTTPRequest) -> Response:
        body = await self._read(http, ChatRequest)
        prompt = await run_in_threadpool(self._templated, [message.turn for message in body.messages])
        asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        requests = self._requests([prompt], body, body.likely, asked, CHAT_TOKENS)
        return await self._answer(http, body, requests, ChatReply(self._served.name))

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
        given = http.headers.get("content-type", "application/json").split(";")[0].strip().lower()
        if given != "application/json":  # others are sent by any web page without asking
            raise Refusal(415, f"content-type is {given[:80]!r}, expected 'application/json'")
        raw = await self._in_time(self._body(http))
        body = await run_in_threadpool(parsed, kind, raw)
        self._known(body.model)
        return body

    async def _in_time(self, sent: Coroutine[Any, Any, bytes]) -> bytes:
        """A body, if it comes in time and before the server ends."""
        reading, ended = asyncio.ensure_future(sent), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({reading, ended}, timeout=SENDING, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            raise Unavailable(CLOSING) if ended.done() else Refusal(408, f"the body took more than {SENDING:g} seconds")
        finally:
            reading.cancel()
            ended.cancel()

    async def _body(self, http: HTTPRequest) -> bytes:
        most = BYTES + BYTES_PER_TOKEN * self._served.limit
        too_large = Refusal(413, f"the body is larger than {most:,} bytes")
        declared = http.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > most + DISCARDED:
            raise too_large
        raw, size = bytearray(), 0
        async for part in http.stream():
            size += len(part)
            if size <= most:
                raw += part
            elif size > most + DISCARDED:
                raise too_large
        if size > most:
            raise too_large
        return bytes(raw)

    def _encoded(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._tokenised(prompt, "prompt")
        wrong = [one for one in prompt if not 0 <= one < self._served.vocabulary]
        if wrong:
            raise Refusal(
                400, f"token id {short(str(wrong[0]))} is not in 0 to {self._served.vocabulary - 1}", "prompt"
            )
        return prompt

    def _tokenised(self, text: str, field: str, **how: Any) -> list[int]:
        """Token ids; of a text that is far too long, a part decides."""
        limit = self._served.limit
        if len(text) > CHARACTERS * limit:
            begun = len(self._served.tokenizer(text[: CHARACTERS * limit], verbose=False, **how)["input_ids"])
            if begun > limit + CHARACTERS:  # the last word may be cut, and then has some tokens more
                raise Refusal(
                    400,
                    f"the limit is {limit:,} tokens; the first {CHARACTERS * limit:,} of {len(text):,} characters have "
                    f"{begun:,} already",
                    field,
                    "context_length_exceeded",
                )
        ids: list[int] = self._served.tokenizer(text, verbose=False, **how)["input_ids"]
        return ids

    def _templated(self, turns: list[dict[str, str]]) -> list[int]:
        tokenizer = self._served.tokenizer
        if tokenizer.chat_template is None:
            raise Refusal(400, f"{self._served.name} has no chat template; use /v1/completions", "messages")
        try:
            text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # templates refuse roles and orders that they do not know, each in its own way
            raise Refusal(400, f"the model's chat template refuses the messages: {error}", "messages") from None
        return self._tokenised(str(text), "messages", add_special_tokens=False)

    def _requests(
        self, prompts: Sequence[list[int]], body: Generation, likely: int | None, asked: int | None, default: int
    ) -> list[Request]:
        """One for every answer, in the order of the answers."""
        n = body.n or 1
        if len(prompts) * n > CHOICES:
            raise Refusal(400, f"{len(prompts)} prompts with n = {n} are more than {CHOICES} answers", "n")
        return [
            Request(
                tuple(prompt),
                self._room(len(prompt), asked, default),
                1.0 if body.temperature is None else body.temperature,
                body.top_p or 1.0,
                max(0, body.top_k or 0),
                None if body.seed is None else (body.seed + i + 2**63) % 2**64 - 2**63,
                body.stops,
                body.presence_penalty or 0.0,
                body.frequency_penalty or 0.0,
                None if likely is None else min(likely, self._served.vocabulary),
            )
            for prompt in prompts
            for i in range(n)
        ]

    def _room(self, read: int, asked: int | None, default: int) -> int:
        """Tokens to generate at most."""
        limit = self._served.limit
        if not read:
            raise Refusal(400, "the prompt has no tokens", "prompt")
        tokens = max(1, min(default, limit - read)) if asked is None else asked
        if read + tokens > limit:
            raise Refusal(
                400,
                f"the limit is {limit:,} tokens; the prompt has {read:,}, and {tokens:,} more were asked for: together "
                f"{read + tokens:,}",
                code="context_length_exceeded",
            )
        return tokens

    async def _answer(
        self, http: HTTPRequest, body: Generation, requests: list[Request], reply: CompletionReply | ChatReply
    ) -> Response:
        n = body.n or 1
        counted = counts(http.scope, [len(request.prompt) for request in requests[::n]])
        pieces = counted.watched(_run(self._scheduler, requests), n)
        if body.stream:
            first = await _while_connected(http, anext(pieces))  # an error until here has its own status
            events = _events(first, pieces, reply, len(requests), counted if body.counts else None)
            return StreamingResponse(events, media_type="text/event-stream")
        answers = await _while_connected(http, _all(pieces, len(requests)))
        whole = reply.whole(answers, usage(counted.prompt, counted.made, counted.cached))
        return Response(whole.model_dump_json(), media_type="application/json")


async def _run(scheduler: Scheduler, requests: Sequence[Request]) -> AsyncGenerator[tuple[int, Piece]]:
    """The pieces of all answers, each with the number of its request; leaving it early cancels the jobs."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()

    def deliver(i: int, piece: Piece | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(arrived.put_nowait, (i, piece))

    jobs = [Job(request, partial(deliver, i)) for i, request in enumerate(requests)]
    scheduler.submit(*jobs)
    open_ones = len(jobs)
    try:
        while open_ones:
            i, piece = await arrived.get()
            if isinstance(piece, Exception):
                raise piece
            open_ones -= piece.finish is not None
            yield i, piece
    finally:
        for job in jobs:
            job.cancelled.set()


async def _all(pieces: AsyncGenerator[tuple[int, Piece]], answers: int) -> list[Piece]:
    """Every answer as one piece."""
    found: list[list[Piece]] = [[] for _ in range(answers)]
    async for i, piece in pieces:
        found[i].append(piece)
    return [
        replace(
            one[-1], text="".join(piece.text for piece in one), told=tuple(told for piece in one for told in piece.told)
        )
        for one in found
    ]


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
    first: tuple[int, Piece],
    pieces: AsyncGenerator[tuple[int, Piece]],
    reply: CompletionReply | ChatReply,
    answers: int,
    counted: Counts | None,
) -> AsyncIterator[str]:
    """Server-sent events of a stream; it ends with what was ``counted``, if that was asked for."""
    try:
        for chunk in reply.first(answers):
            yield _event(chunk.model_dump_json())
        yield _event(reply.chunk(*first).model_dump_json())
        async for i, piece in pieces:
            yield _event(reply.chunk(i, piece).model_dump_json())
        if counted:
            yield _event(reply.last(usage(counted.prompt, counted.made, counted.cached)).model_dump_json())
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
    headers = {"connection": "close"} if told.status in (408, 413, 500) else None
    return JSONResponse(told.body, told.status, headers=headers)


async def _gone(_: HTTPRequest, error: Exception) -> Response:
    return Response(status_code=GONE)
