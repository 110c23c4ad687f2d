"""What OpenAI's protocol says of requests, answers and errors, as far as this server speaks it.

Fields that the server knows and cannot honour are accepted at the value that changes nothing and refused at any other;
unknown ones are refused. Answers are the types of the ``openai`` package.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Annotated, Any, Literal, TypeVar

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as Change
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator


class Refusal(Exception):
    """An error that the client is told.

    Attributes:
        status: of HTTP.
        message: what was seen and what was expected.
        param: the field of the request, or None.
        code: OpenAI's word for it, or None.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's shape of an error."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def _only(*neutral: Any) -> AfterValidator:
    """Refuses all but null and values that change nothing."""

    def check(value: Any) -> Any:
        if value is None or value in neutral:
            return value
        raise ValueError(f"this server supports only {' or '.join(map(json.dumps, (*neutral, None)))}")

    return AfterValidator(check)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, _only()] = None


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Generation(_Strict):
    """What both kinds of request have in common."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Annotated[Any, _only(1)] = None
    frequency_penalty: Annotated[Any, _only(0)] = None
    presence_penalty: Annotated[Any, _only(0)] = None
    logit_bias: Annotated[Any, _only({})] = None

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def counts(self) -> bool:
        """Whether a stream ends with the tokens used."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(Generation):
    """Body of ``/v1/completions``."""

    prompt: str | Annotated[list[int], Field(fail_fast=True)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    best_of: Annotated[Any, _only(1)] = None
    echo: Annotated[Any, _only(False)] = None
    logprobs: Annotated[Any, _only()] = None
    suffix: Annotated[Any, _only("")] = None

    @property
    def text(self) -> str | list[int]:
        """The prompt, as text or as token ids."""
        return self.prompt[0] if isinstance(self.prompt, list) and isinstance(self.prompt[0], str) else self.prompt  # type: ignore[return-value]


class Part(_Strict):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a chat; fields other than these must be null."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    role: str
    content: str | list[Part] | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _nothing_else(self) -> Message:
        unsupported = [key for key, value in (self.model_extra or {}).items() if value is not None]
        if unsupported:
            raise ValueError(f"this server does not know {', '.join(unsupported)} in messages")
        return self

    @property
    def turn(self) -> dict[str, str]:
        """For the chat template."""
        parts = [part.text for part in self.content] if isinstance(self.content, list) else [self.content or ""]
        return {"role": self.role, "content": "".join(parts)}


class ChatRequest(Generation):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    logprobs: Annotated[Any, _only(False)] = None
    top_logprobs: Annotated[Any, _only()] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    modalities: Annotated[Any, _only(["text"])] = None
    tools: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    parallel_tool_calls: bool | None = None


Body = TypeVar("Body", bound=Generation)


def parsed(kind: type[Body], raw: bytes) -> Body:
    """A request's body.

    Raises:
        Refusal: naming the field, what was seen and what was expected.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Refusal:
    """The first field that is wrong, with all that is wrong about it."""
    found = error.errors(include_url=False, include_context=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if not first["loc"]:
        return Refusal(400, f"the body is no JSON object: {first['msg']}")
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return Refusal(400, f"unknown parameter {_short(field)!r}", _short(field), "unknown_parameter")
    about = list(
        dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in found if e["loc"][:1] == first["loc"][:1])
    )
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return Refusal(400, f"{field} is missing", field)
    return Refusal(400, f"{field}: {_short(repr(first['input']))} does not fit: {'; or '.join(about[:4])}", field)


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def usage(prompt: int, made: int) -> CompletionUsage:
    """Tokens read and generated."""
    return CompletionUsage(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made)


class CompletionReply:
    """Answers of ``/v1/completions``."""

    def __init__(self, model: str):
        self._head: dict[str, Any] = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, finish: Any, used: CompletionUsage) -> BaseModel:
        """The answer at once."""
        choice = CompletionChoice(index=0, text=text, finish_reason=finish)
        return Completion(**self._head, object="text_completion", choices=[choice], usage=used)

    def first(self) -> list[BaseModel]:
        """What opens a stream."""
        return []

    def chunk(self, text: str, finish: Any) -> BaseModel:
        """A piece of a stream; the package's type does not know that ``finish_reason`` is null until the end."""
        choice = CompletionChoice.model_construct(index=0, text=text, finish_reason=finish, logprobs=None)
        return Completion.model_construct(**self._head, object="text_completion", choices=[choice])

    def last(self, used: CompletionUsage) -> BaseModel:
        """The tokens used, after the last piece."""
        return Completion(**self._head, object="text_completion", choices=[], usage=used)


class ChatReply:
    """Answers of ``/v1/chat/completions``."""

    def __init__(self, model: str):
        self._head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, finish: Any, used: CompletionUsage) -> BaseModel:
        """The answer at once."""
        choice = Choice(index=0, message=ChatCompletionMessage(role="assistant", content=text), finish_reason=finish)
        return ChatCompletion(**self._head, object="chat.completion", choices=[choice], usage=used)

    def first(self) -> list[BaseModel]:
        """What opens a stream."""
        return [self._change(ChoiceDelta(role="assistant", content=""), None)]

    def chunk(self, text: str, finish: Any) -> BaseModel:
        """A piece of a stream."""
        return self._change(ChoiceDelta(content=text), finish)

    def last(self, used: CompletionUsage) -> BaseModel:
        """The tokens used, after the last piece."""
        return ChatCompletionChunk(**self._head, object="chat.completion.chunk", choices=[], usage=used)

    def _change(self, delta: ChoiceDelta, finish: Any) -> BaseModel:
        choice = Change(index=0, delta=delta, finish_reason=finish)
        return ChatCompletionChunk(**self._head, object="chat.completion.chunk", choices=[choice])
