"""What OpenAI's protocol says of requests, answers and errors, as far as this server speaks it.

Fields that the server knows and cannot honour are accepted at the value that changes nothing and refused at any other;
unknown ones are refused. Answers are the types of the ``openai`` package.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as Change
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChangedLogprobs
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import Logprobs
from openai.types.completion_usage import PromptTokensDetails
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from ropewalk.serving.job import Piece, Token

CHOICES = 128  # answers to one body at most: prompts times n
LIKELY = 20  # tokens that are told beside each at most
# What pydantic finds wrong -> what was expected, in our words.
EXPECTED = {
    **dict.fromkeys(("string_type", "string_unicode"), "text"),
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "an object"),
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "literal_error": "{expected}",
    "only": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
}
UNIONS = {  # fields of several kinds, each of which finds something else wrong
    "prompt": f"text, a list of token ids, or a list of 1 to {CHOICES} of either",
    "stop": "text of 1 to 256 characters, or a list of at most 4 such",
    "content": 'text, or a list of parts like {"type": "text", "text": "..."}',
}
UNKNOWN = "\ufffd"  # what a part of a character is shown as


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
    allowed = " or ".join(map(json.dumps, (*neutral, None)))

    def check(value: Any) -> Any:
        if value is None or value in neutral:
            return value
        raise PydanticCustomError("only", f"{allowed}, all that this server does")

    return AfterValidator(check)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, _only()] = None


Tokens = Annotated[int, Field(ge=1, lt=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Generation(_Strict):
    """What both kinds of request have in common."""

    model: str
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
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

    prompt: (
        str
        | Annotated[list[int], Field(min_length=1, fail_fast=True)]
        | Annotated[list[str], Field(min_length=1, max_length=CHOICES)]
        | Annotated[list[list[int]], Field(min_length=1, max_length=CHOICES, fail_fast=True)]
    )
    best_of: Annotated[Any, _only(1)] = None
    echo: Annotated[Any, _only(False)] = None
    logprobs: Annotated[int, Field(ge=0, le=LIKELY)] | None = None
    suffix: Annotated[Any, _only("")] = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Every prompt, as text or as token ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]

    @property
    def likely(self) -> int | None:
        """Tokens to tell beside each; None tells nothing."""
        return self.logprobs


class Part(_Strict):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a chat; fields other than these must be null."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @model_validator(mode="after")
    def _nothing_else(self) -> Message:
        unsupported = [key for key, value in (self.model_extra or {}).items() if value is not None]
        if unsupported:
            raise ValueError(f"this server does not know {', '.join(unsupported)} in messages")
        return self

    @property
    def turn(self) -> dict[str, str]:
        """For the chat template; templates know the developer by the older name."""
        parts = [part.text for part in self.content] if isinstance(self.content, list) else [self.content]
        return {"role": "system" if self.role == "developer" else self.role, "content": "".join(parts)}


class ChatRequest(Generation):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=LIKELY)] | None = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    modalities: Annotated[Any, _only(["text"])] = None
    tools: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _asked(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def likely(self) -> int | None:
        """Tokens to tell beside each; None tells nothing."""
        return self.top_logprobs or 0 if self.logprobs else None


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
    found = error.errors(include_url=False)
    first = found[0]
    path, kind, seen = first["loc"], first["type"], short(json.dumps(first["input"], ensure_ascii=False, default=str))
    if kind == "json_invalid":
        return Refusal(400, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    field = str(path[0]) if path else None
    union = next((i for i, step in enumerate(path) if step in UNIONS), len(path))  # what follows are kinds of value
    where = short(".".join(map(str, path[: union + 1]))) or "the body"
    if kind == "extra_forbidden" and union == len(path):
        return Refusal(400, f"unknown parameter {where!r}", where, "unknown_parameter")
    if kind == "missing" and union + 1 >= len(path):
        return Refusal(400, f"{where} is missing", field)
    if kind == "value_error":  # a rule of our own, over several fields
        about = f"{where}: " if path else ""
        return Refusal(400, about + first["msg"].removeprefix("Value error, "), field)
    if union < len(path):
        expected = UNIONS[str(path[union])]
    else:
        expected = " and ".join(dict.fromkeys(_expected(one) for one in found if one["loc"] == path))
    return Refusal(400, f"{where} is {seen}, expected {expected}", field)


def _expected(error: ErrorDetails) -> str:
    """What a value should have been."""
    about = {"expected": error["msg"], **error.get("ctx", {})}
    return EXPECTED.get(error["type"], "another value").format_map(about)


def short(text: str) -> str:
    """What a client sent, as far as an error repeats it."""
    return text if len(text) <= 80 else text[:77] + "..."


def usage(prompt: int, made: int, cached: int) -> CompletionUsage:
    """Tokens read and generated, and how many of the read ones were read for an earlier request."""
    details = PromptTokensDetails(cached_tokens=cached)
    return CompletionUsage(
        prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made, prompt_tokens_details=details
    )


class CompletionReply:
    """Answers of ``/v1/completions``."""

    def __init__(self, model: str):
        self._head: dict[str, Any] = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._offsets = Counter[int]()  # characters of each choice whose tokens were told

    def whole(self, answers: Sequence[Piece], used: CompletionUsage) -> BaseModel:
        """The answers at once."""
        choices = [
            CompletionChoice(index=i, text=one.text, finish_reason=one.finish, logprobs=self._logprobs(i, one.told))  # type: ignore[arg-type]
            for i, one in enumerate(answers)
        ]
        return Completion(**self._head, object="text_completion", choices=choices, usage=used)

    def first(self, choices: int) -> list[BaseModel]:
        """What opens a stream."""
        return []

    def chunk(self, index: int, piece: Piece) -> BaseModel:
        """A piece of a stream; the package's type does not know that ``finish_reason`` is null until the end."""
        logprobs = self._logprobs(index, piece.told)
        choice = CompletionChoice.model_construct(
            index=index, text=piece.text, finish_reason=piece.finish, logprobs=logprobs
        )
        return Completion.model_construct(**self._head, object="text_completion", choices=[choice])

    def last(self, used: CompletionUsage) -> BaseModel:
        """The tokens used, after the last piece."""
        return Completion(**self._head, object="text_completion", choices=[], usage=used)

    def _logprobs(self, index: int, told: Sequence[Token]) -> Logprobs | None:
        offsets = []
        for token in told:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token.text)
        if not told:
            return None
        return Logprobs(
            tokens=[token.text for token in told],
            token_logprobs=[token.logprob for token in told],
            top_logprobs=[{one.text: one.logprob for one in reversed(token.likely)} for token in told],
            text_offset=offsets,
        )


class ChatReply:
    """Answers of ``/v1/chat/completions``."""

    def __init__(self, model: str):
        self._head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, answers: Sequence[Piece], used: CompletionUsage) -> BaseModel:
        """The answers at once."""
        choices = [
            Choice(
                index=i,
                message=ChatCompletionMessage(role="assistant", content=one.text),
                finish_reason=one.finish,  # type: ignore[arg-type]
                logprobs=ChoiceLogprobs(content=_content(one.told)) if one.told else None,
            )
            for i, one in enumerate(answers)
        ]
        return ChatCompletion(**self._head, object="chat.completion", choices=choices, usage=used)

    def first(self, choices: int) -> list[BaseModel]:
        """What opens a stream."""
        opening = ChoiceDelta(role="assistant", content="")
        return [self._chunk(Change(index=i, delta=opening, finish_reason=None)) for i in range(choices)]

    def chunk(self, index: int, piece: Piece) -> BaseModel:
        """A piece of a stream."""
        logprobs = ChangedLogprobs(content=_content(piece.told)) if piece.told else None
        delta = ChoiceDelta(content=piece.text)
        return self._chunk(Change(index=index, delta=delta, finish_reason=piece.finish, logprobs=logprobs))

    def last(self, used: CompletionUsage) -> BaseModel:
        """The tokens used, after the last piece."""
        return ChatCompletionChunk(**self._head, object="chat.completion.chunk", choices=[], usage=used)

    def _chunk(self, choice: Change) -> BaseModel:
        return ChatCompletionChunk(**self._head, object="chat.completion.chunk", choices=[choice])


def _content(told: Sequence[Token]) -> list[ChatCompletionTokenLogprob]:
    return [
        ChatCompletionTokenLogprob(
            token=token.text,
            bytes=_bytes(token),
            logprob=token.logprob,
            top_logprobs=[TopLogprob(token=one.text, bytes=_bytes(one), logprob=one.logprob) for one in token.likely],
        )
        for token in told
    ]


def _bytes(token: Token) -> list[int] | None:
    """None for a part of a character, whose bytes no text shows."""
    return None if UNKNOWN in token.text else list(token.text.encode())
