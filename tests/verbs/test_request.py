"""Options are declared once: in a Request, which reads them as people write them, in Python and in a shell alike."""

from __future__ import annotations

import inspect
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ropewalk
from ropewalk import DualChunk, UserError, YaRN, compose, verbs
from ropewalk.cli.main import app, run
from ropewalk.verbs.request import Length, Lengths, Methods, Option, Place, Request, Verb, Words, attributes, options
from ropewalk.verbs.request import verb as make

VERBS: dict[str, Verb[Any]] = {name: vars(verbs.public(name))["verb"] for name in verbs.NAMES}
SHELL = {name: verb for name, verb in VERBS.items() if verb.name}


@dataclass(frozen=True, kw_only=True)
class Sample(Request):
    """One field of each kind.

    Attributes:
        places: Where; two lines
            of it.
        to: How long.
        lengths: Which.
        methods: By what.
        words: Listed.
        share: Of all.
        count: How many.
        again: Said often.
        out: File.
        ask: Yes, no, or neither.
        key: A secret.
    """

    places: Words = field(kw_only=False)
    to: Length
    lengths: Lengths | None = None
    methods: Methods = ("none",)
    words: Words = ()
    share: float = 0.5
    count: int | None = None
    again: tuple[str, ...] = ()
    out: Place | None = None
    ask: bool | None = None
    key: str = field(default="", repr=False)


@make("sample")
def sample(request: Sample) -> Sample:
    """Give back what was asked.

    Raises:
        UserError: never.
    """
    return request


@pytest.mark.parametrize(("option", "written", "value"), [
    ("to", "4k", 4096), ("to", 4096, 4096), ("to", "128K", 131072), ("to", "16_384", 16384), ("to", "1M", 2**20),
    ("lengths", "4K..16k", (4096, 8192, 16384)), ("lengths", ["1k..2k", 4096], (1024, 2048, 4096)),
    ("lengths", "512..2k", (512, 1024, 2048)), ("lengths", [512, "1k"], (512, 1024)), ("lengths", 512, (512,)),
    ("lengths", None, None), ("words", "ppl, vt,ppl", ("ppl", "vt")), ("words", ["ppl"], ("ppl",)),
    ("methods", "none,ntk-aware(stretch=2),yarn+dca(chunk=4,local=2)",
     ("none", "ntk-aware(stretch=2)", "yarn+dca(chunk=4,local=2)")),
    ("methods", [YaRN(), "none"], ("yarn", "none")), ("methods", [compose(YaRN(), DualChunk())], ("yarn+dca",)),
    ("share", 1, 1.0), ("count", 3, 3), ("again", "a,b", ("a,b",)), ("again", ["a", "b"], ("a", "b")),
    ("ask", False, False), ("out", "a/b", Path("a/b")),
])  # fmt: skip
def test_values_are_read_as_people_write_them(option, written, value):
    asked = sample("here", **{"to": 8, option: written})
    assert getattr(asked, option) == value and type(getattr(asked, option)) is type(value)


@pytest.mark.parametrize(("option", "written"), [
    ("to", "long"), ("to", True), ("to", None), ("lengths", "8k..512"), ("lengths", 0.5), ("methods", 3),
    ("methods", [3]), ("words", [1]), ("share", "half"), ("share", True), ("count", "3"), ("count", 2.5),
    ("again", 3), ("ask", 1), ("out", 3), ("key", None),
])  # fmt: skip
def test_other_types_are_refused_by_name(option, written):
    with pytest.raises(UserError) as refusal:
        sample("here", **{"to": 8, option: written})
    assert repr(written) in refusal.value.message or str(written) in refusal.value.message


def test_methods_themselves_are_options_and_said_to_be():
    parameters = inspect.signature(ropewalk.extend).parameters
    assert parameters["method"].annotation == "str | Method | None"
    assert inspect.signature(ropewalk.compare).parameters["methods"].annotation == "str | list[str | Method]"
    assert verbs.public("extend").verb.request("demo", to=1024, out="x", method=YaRN(beta_fast=16)).method == (
        "yarn(beta_fast=16)"
    )
    with pytest.raises(UserError) as refusal:
        ropewalk.extend("demo", to="1k", out="x", method=3)
    assert refusal.value.message == "method is 3, expected str | Method | None"
    with pytest.raises(UserError) as refusal:
        ropewalk.extend("demo", to="1k", out=3)
    assert refusal.value.message == "out is 3, expected str | Path | None"


def test_a_signature_shows_every_option():
    signature = inspect.signature(sample)
    assert str(signature.parameters["to"]) == "to: int | str"
    assert list(signature.parameters)[:2] == ["places", "to"] and signature.parameters["share"].default == 0.5
    assert signature.parameters["out"].kind is inspect.Parameter.KEYWORD_ONLY
    described = inspect.getdoc(sample)
    assert "    places: Where; two lines of it.\n    to: How long.\n" in described
    assert described.startswith("Give back what was asked.\n\nArgs:\n") and described.endswith("UserError: never.")


def test_misspelt_options_offer_the_nearest():
    with pytest.raises(TypeError, match=r"sample\(\) has no option 'length'; did you mean 'lengths'\?"):
        sample("here", to=8, length=3)
    with pytest.raises(TypeError, match=r"missing a required .*'to'"):
        sample("here")


def test_secrets_are_neither_shown_nor_stored():
    asked = sample("here", to=8, key="hunter2")
    assert asked.key == "hunter2" and "hunter2" not in repr(asked) + asked.command


def values(option: Option) -> list[Any]:
    """Values unlike the default, for every kind of option."""
    kinds: dict[type, list[Any]] = {
        int: [7],
        float: [5e8 if option.spelling else 0.25],
        dict: [{"rope_theta": 5.0}],
        bool: [not option.default],
        str: ["y"] if option.positional else ["-c 3 'x'", "y"],
        tuple: [(512, 1024)] if "int" in str(option.accepts) else [("a", "b=c")],
        Path: [Path("a b")],
    }
    return kinds[option.kind]


@pytest.mark.parametrize("name", SHELL)
def test_the_command_of_a_request_asks_for_it_again(name):
    verb = SHELL[name]
    needed = {one.name: values(one)[-1] for one in verb.options if one.default is inspect.Parameter.empty}
    more = [{}, *({one.name: value} for one in verb.options for value in values(one) if not one.secret)]
    for said in more:
        asked = verb.request(**needed | said)
        words = shlex.split(asked.command)
        assert words[: 1 + len(verb.name.split())] == ["ropewalk", *verb.name.split()]
        _, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        assert verb.request(*bound.args, **bound.kwargs) == asked, asked.command


@pytest.mark.parametrize("name", VERBS)
def test_every_option_is_declared_and_described_once(name, capsys):
    verb, function = VERBS[name], getattr(ropewalk, name)
    owners = Counter(field for owner in verb.request.__mro__ for field in vars(owner).get("__annotations__", {}))
    texts = [attributes(owner) for owner in verb.request.__mro__]
    parameters = inspect.signature(function).parameters
    assert list(parameters) == [option.name for option in verb.options]
    for option in verb.options:
        assert owners[option.name] == 1, f"{name}: {option.name} is declared by two classes"
        assert sum(option.name in text for text in texts) == 1, f"{name}: {option.name} has no one description"
        assert f"    {option.name}: {option.text}" in inspect.getdoc(function)
        if option.default is not inspect.Parameter.empty:
            assert option.read(option.default) == option.default == parameters[option.name].default
    described = {word for text in texts for word in text}
    assert described <= parameters.keys(), f"{name}: described, but no option: {described - parameters.keys()}"
    if verb.name:
        assert run([*verb.name.split(), "--help"]) == 0
        shown = capsys.readouterr().out
        assert all((option.name.upper() if option.positional else option.flag) in shown for option in verb.options)
        assert ("--json" in shown) is verb.returns and "``" not in shown


def test_no_two_requests_declare_the_same_option():
    """The same words about the same name in two classes are one option said twice: it belongs into a class of both."""
    classes = {owner for verb in VERBS.values() for owner in verb.request.__mro__ if issubclass(owner, Request)}
    said = Counter((name, text) for owner in classes for name, text in attributes(owner).items())
    assert [entry for entry, times in said.items() if times > 1] == []


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_public_and_documented(name):
    function = getattr(ropewalk, name)
    assert name in dir(ropewalk) and callable(function) and function.__name__ == name
    assert inspect.getdoc(function)[0].isupper()
    assert VERBS[name].request.verb == VERBS[name].name


def test_a_class_says_what_its_options_are():
    assert attributes(Sample)["places"] == "Where; two lines of it."
    assert [option.name for option in options(Sample)][:2] == ["places", "to"]


def test_an_empty_item_of_a_list_is_refused_in_words_and_in_lists() -> None:
    for methods in ("yarn,,pi", "yarn, ,pi", ["yarn", "", "pi"]):
        with pytest.raises(UserError, match="is empty\nWrite yarn,pi"):
            ropewalk.compare("demo", to="1k", methods=methods)
    with pytest.raises(UserError, match="an item of 'niah,' is empty"):
        ropewalk.compare("demo", to="1k", tasks="niah,")


def test_lists_of_methods_and_tasks_are_sequences() -> None:
    methods, tasks = ropewalk.list_methods(), ropewalk.list_tasks()
    assert [one.id for one in methods] == [one.id for one in methods.methods] and len(methods) > 30
    assert "passkey" in {one.name for one in tasks} and len(tasks) == len(tasks.tasks) and tasks[0] in tasks


def test_help_says_of_each_verb_what_is_true_there(capsys) -> None:
    for name in ("inspect", "plan", "extend", "export", "fit", "compare", "evaluate", "serve"):
        verb = vars(verbs.public(name))["verb"]
        assert "GGUF file" in next(one.text for one in verb.options if one.name == "model")
        assert run([verb.name, "--help"]) == 0
        said = capsys.readouterr().out
        assert ("OpenAI" in said) == (name in ("compare", "evaluate", "serve"))
        assert ("STR" not in said and "--to LENGTH" in said) or name == "inspect"
