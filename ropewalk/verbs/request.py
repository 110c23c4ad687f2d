"""A verb is a frozen Request and a function of it; the Python function and the command line are both made from these.

An option is declared once, as a field of a Request, and described once, in its class's ``Attributes:``. Values are read
there as people write them, so that ``to="4k"``, ``to=4096`` and ``--to 4k`` are the same request.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from ropewalk.common import lengths
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.outside import spelled
from ropewalk.methods.catalogue import split

R = TypeVar("R")


@dataclass(frozen=True)
class Spelling:
    """How people write the values of a field.

    Attributes:
        accepts: what a Python caller may give; in words where the type would be slow to import.
        read: from that to the value; what was read already stays as it is.
        write: from the value to one word of a command line.
        called: what stands for it in the help of a command line.
    """

    accepts: Any
    read: Callable[[Any], Any]
    write: Callable[[Any], str] = str
    called: str = "TEXT"


def _listed(value: str | Iterable[Any], part: Callable[[str], list[str]]) -> tuple[str, ...]:
    words = part(value) if isinstance(value, str) else [named(one) for one in value]
    kept = [word.strip() for word in words if word.strip()]
    if len(kept) < len(words) > 1:
        raise UserError(f"an item of {','.join(words)!r} is empty", f"Write {','.join(kept)}.")
    return tuple(dict.fromkeys(kept))


def named(value: Any) -> str:
    """The spelling of a method, of training positions or of a recipe, which may be given as themselves."""
    word = (
        os.fspath(value) if isinstance(value, os.PathLike) else getattr(value, "spelling", getattr(value, "id", value))
    )
    if not isinstance(word, str):
        raise TypeError
    return word


def _numbers(value: str | int | Iterable[str | int]) -> tuple[int, ...]:
    words = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    words = [word.strip() if isinstance(word, str) else word for word in words]
    return tuple(dict.fromkeys(lengths.whole(word, 0) for word in words if word != ""))


def named_place(value: str | Path) -> str:
    spelled(value)
    return os.fspath(value)


def _span(value: str | int | Iterable[str | int]) -> tuple[int, ...]:
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else ",".join(map(str, value))
    return tuple(lengths.span(text))


def _dtype(value: Any) -> str:
    if not isinstance(value, str) and type(value).__module__ != "torch":
        raise TypeError
    word = str(value).removeprefix("torch.")
    match = re.fullmatch(r"(b?)f(?:p|loat)?(16|32)", word.lower())
    return f"{match[1]}float{match[2]}" if match else word


Length = Annotated[int, Spelling(int | str, lengths.parse, lengths.show, "LENGTH")]  # 4096, 4k, 128K, 1m
Lengths = Annotated[  # 512..8k doubles, commas separate
    tuple[int, ...],
    Spelling(str | int | list[int | str], _span, lambda value: ",".join(map(lengths.show, value)), "LENGTHS"),
]
Words = Annotated[
    tuple[str, ...],
    Spelling(str | list[str], lambda value: _listed(value, lambda text: text.split(",")), ",".join, "NAMES"),
]
Methods = Annotated[  # as in the catalogue; options in brackets hold commas too
    tuple[str, ...],
    Spelling(
        "str | list[str | Method]", lambda value: _listed(value, lambda text: split(text, ",")), ",".join, "METHODS"
    ),
]
Strategies = Annotated[  # likewise
    tuple[str, ...],
    Spelling(
        "str | list[str | Strategy]",
        lambda value: _listed(value, lambda text: split(text, ",")),
        ",".join,
        "NAMES",
    ),
]
Numbers = Annotated[
    tuple[int, ...], Spelling(str | list[int], _numbers, lambda value: ",".join(map(str, value)), "NUMBERS")
]
Method = Annotated[str, Spelling("str | Method", named, called="METHOD")]
Dtype = Annotated[str, Spelling(str, _dtype, called="TYPE")]  # bfloat16, bf16, torch.bfloat16
Count = Annotated[int, Spelling(int, lengths.whole, called="NUMBER")]
Number = Annotated[int, Spelling(int, partial(lengths.whole, least=0), called="NUMBER")]
Port = Annotated[int, Spelling(int, partial(lengths.whole, least=0, most=65535), called="NUMBER")]
Place = Annotated[Path, Spelling(str | Path, spelled, called="PATH")]
Source = Annotated[str, Spelling(str | Path, named_place, called="PLACE")]  # a file, a folder, a hub id, or a name
Model = Source


@dataclass(frozen=True)
class Option:
    """One field of a Request, as seen from outside.

    Attributes:
        name: in Python.
        flag: on the command line.
        kind: its type: int, float, str, bool, tuple (given again and again), or that of a ``spelling``.
        spelling: how it is written; None where it is a plain number, word, switch, or a list of words.
        optional: None is a value.
        default: ``inspect.Parameter.empty`` if it must be given.
        text: what it means.
        positional: stands without its name.
        second: may do so in Python, behind the first.
        secret: kept out of what is shown and stored.
        environment: variable that a shell may give it by; empty if there is none.
        alone: value of a flag that is given without one; empty if it needs one.
    """

    name: str
    kind: type
    spelling: Spelling | None
    optional: bool
    default: Any
    text: str
    positional: bool
    second: bool
    secret: bool
    environment: str
    alone: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def accepts(self) -> Any:
        """The annotation of a Python function."""
        plain = str | list[str] if self.kind is tuple else self.kind
        kind = self.spelling.accepts if self.spelling else plain
        if not self.optional:
            return kind
        return f"{kind} | None" if isinstance(kind, str) else kind | None

    def read(self, value: Any) -> Any:
        """The value, from what a caller wrote.

        Raises:
            UserError: if it is of another type.
        """
        if value is None and self.optional:
            return None
        try:
            if self.spelling:
                return self.spelling.read(value)
            if self.kind is tuple:
                return (named(value),) if isinstance(value, (str, os.PathLike)) else tuple(map(named, value))
        except TypeError:
            pass
        except UserError as error:
            raise UserError(f"{self.name}: {error.message}", error.mend) from None
        else:
            if self.kind is float and type(value) is int:
                return float(value)
            if isinstance(value, self.kind) and (self.kind is bool or not isinstance(value, bool)):
                return value
        expected = self.accepts.__name__ if isinstance(self.accepts, type) else str(self.accepts)
        raise UserError(f"{self.name} is {lengths.said(value)}, expected {re.sub(r'[a-z]+[.]', '', expected)}")

    def words(self, value: Any) -> list[str]:
        """The words of a command line that say it."""
        if self.secret or (value in (None, self.default) and not self.positional):
            return []
        if self.kind is bool:
            return [self.flag if value else f"--no-{self.flag[2:]}"]
        if self.kind is tuple and self.spelling is None:
            return [word for each in value for word in (() if self.positional else (self.flag,)) + (each,)]
        text = self.spelling.write(value) if self.spelling else str(value)
        if self.positional:
            return [text]
        return [f"{self.flag}={text}"] if text.startswith("-") else [self.flag, text]


def options(request: type[Request]) -> tuple[Option, ...]:
    """The options of a verb: what stands without a name, what must be given, its own ones, and those that it shares."""
    hints = get_type_hints(request, include_extras=True)
    texts: dict[str, str] = {}
    depth: dict[str, int] = {}
    for i, owner in enumerate(request.__mro__):
        for name in vars(owner).get("__annotations__", {}):
            depth.setdefault(name, i)
        texts = attributes(owner) | texts
    found = []
    for one in fields(request):
        kind, optional, spelling = hints[one.name], False, None
        inner = get_args(kind)
        if NoneType in inner:
            kind, optional = next(arg for arg in inner if arg is not NoneType), True
        if get_origin(kind) is Annotated:
            kind, spelling = get_args(kind)
        option = Option(
            one.name,
            get_origin(kind) or kind,
            spelling,
            optional,
            inspect.Parameter.empty if one.default is MISSING else one.default,
            texts.get(one.name, ""),
            positional=not one.kw_only and not one.metadata.get("flag", False),
            second=one.metadata.get("flag", False),
            secret=not one.repr,
            environment=one.metadata.get("environment", ""),
            alone=one.metadata.get("alone", ""),
        )
        found.append(option)
    empty = inspect.Parameter.empty
    found.sort(
        key=lambda one: (
            not one.positional,
            not one.second,
            one.default is not empty,
            not one.positional and depth[one.name],
        )
    )
    return tuple(found)


def attributes(cls: type) -> dict[str, str]:
    """What the docstring of a class says under ``Attributes:``."""
    _, _, section = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a verb is asked for; its fields are the verb's options."""

    verb: ClassVar[str] = ""  # its name on the command line

    def __post_init__(self) -> None:
        for option in options(type(self)):
            object.__setattr__(self, option.name, option.read(getattr(self, option.name)))

    def refuse_unused(self, names: Iterable[str], why: str) -> None:
        """Refuse options that would change nothing here.

        Raises:
            UserError: naming the first one that has another value than by default.
        """
        known = {option.name: option for option in options(type(self))}
        for name in names:
            if getattr(self, name) != known[name].default:
                raise UserError(f"{known[name].flag} changes nothing {why}", "Leave it out.")

    @property
    def command(self) -> str:
        """The line that asks for the same in a shell."""
        said = [word for option in options(type(self)) for word in option.words(getattr(self, option.name))]
        return command(*self.verb.split(), *said)


@dataclass(frozen=True, kw_only=True)
class ModelRequest(Request):
    """About a model.

    Attributes:
        model: A folder, a hub id, a GGUF file, or 'demo'.
        trust_remote_code: Run code that comes with the model.
    """

    model: Model = field(kw_only=False)
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceRequest(Request):
    """About what computes.

    Attributes:
        device: auto (CUDA if there is one), cpu or cuda.
    """

    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class RunningRequest(DeviceRequest):
    """About how a model runs.

    Attributes:
        dtype: auto (that of the checkpoint), float32, bfloat16 or float16.
    """

    dtype: Dtype = "auto"


@dataclass(frozen=True, kw_only=True)
class LiveRequest(RunningRequest, ModelRequest):
    """About a model that runs."""


@dataclass(frozen=True, kw_only=True)
class ServedRequest(Request):
    """About a model that a server holds.

    Attributes:
        tokenizer: Of a server: the folder or hub id of its tokenizer.
        served: Of a server: the model's name there; by default the only one.
    """

    tokenizer: Source = ""
    served: str | None = None


@dataclass(frozen=True, kw_only=True)
class TargetRequest(Request):
    """About a longer window.

    Attributes:
        to: Target length in tokens: 4096, 4k, 128K, 1m.
    """

    to: Length


@dataclass(frozen=True, kw_only=True)
class OnTopRequest(Request):
    """About a model that has a scaling already.

    Attributes:
        on_top: Keep the scaling that the configuration has, as trained in, and extend on top of it. By default llama3
            and longrope are kept, linear, dynamic and yarn are replaced.
    """

    on_top: bool | None = None


@dataclass(frozen=True)
class Verb(Generic[R]):
    """A function of a Request, and what its callers must know.

    Attributes:
        name: on the command line; empty if it is for Python alone.
        request: class of its Request.
        run: from a Request to the result.
        text: what it does: one sentence, and below it what else there is to say.
        returns: whether there is a result.
        options: those of its Request.
        keeps: whether what was finished outlives an interruption, and the same command goes on from there.
    """

    name: str
    request: type[Request]
    run: Callable[..., R]
    text: str
    returns: bool
    options: tuple[Option, ...]
    keeps: bool = False


def verb(name: str, keeps: bool = False) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Makes the public function of a verb from a function of its Request.

    The result takes the Request's fields, by keyword but for the model, with their defaults; its docstring describes
    each. The verb itself is its ``verb``.

    Args:
        name: on the command line; empty if it is for Python alone.
        keeps: see ``Verb``.
    """

    def public(run: Callable[..., R]) -> Callable[..., R]:
        request: type[Request] = run.__globals__[run.__annotations__["request"]]
        request.verb = name
        returns = run.__annotations__["return"]
        text, more = _parted(inspect.getdoc(run) or "")
        here = Verb(name, request, run, text, returns != "None", options(request), keeps)
        parameters = [
            inspect.Parameter(
                option.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD
                if option.positional or option.second
                else inspect.Parameter.KEYWORD_ONLY,
                default=option.default,
                annotation=option.accepts,
            )
            for option in here.options
        ]
        signature = inspect.Signature(parameters, return_annotation=None if returns == "None" else returns)

        def function(*args: Any, **named: Any) -> R:
            for word in named.keys() - signature.parameters.keys():
                hint = did_you_mean(word, signature.parameters)
                raise TypeError(f"{run.__name__}() has no option {word!r}{hint}")
            try:
                signature.bind(*args, **named)
            except TypeError as error:
                raise TypeError(f"{run.__name__}(): {error}") from None
            return run(request(*args, **named))

        told = "\n".join(f"    {option.name}: {option.text}" for option in here.options)
        function.__doc__ = "\n\n".join(part for part in (text, told and f"Args:\n{told}", more) if part)
        function.__name__ = function.__qualname__ = run.__name__
        function.__module__ = run.__module__
        vars(function).update(__signature__=signature, verb=here)
        return function

    return public


def _parted(text: str) -> tuple[str, str]:
    """A docstring's words, and its sections (Returns, Raises)."""
    match = re.search(r"\n\n(?=(?:Returns|Raises):\n)", text)
    return (text, "") if match is None else (text[: match.start()], text[match.end() :])
