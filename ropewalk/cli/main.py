"""The command line: words to Requests, results to tables. Every command is made from its verb; none is written here."""

from __future__ import annotations

import inspect
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from rich.text import Text

from ropewalk import __version__, verbs
from ropewalk.cli.spelling import names_a_model, understood
from ropewalk.common.errors import UserError, did_you_mean, out_of_memory
from ropewalk.common.terminal import Log, Terminal
from ropewalk.verbs.request import Option, Verb

app = cyclopts.App(
    name="ropewalk",
    help="Make the context window of a language model longer, and prove that the model uses it.",
    version=__version__,
    help_format="plaintext",  # no markdown to parse, and none to trip over
    suppress_keyboard_interrupt=False,
)
SHORT = {"out": "-o", "method": "-m", "methods": "-m", "engine": "-e", "suite": "-s", "lengths": "-l",
         "learning_rate": "--lr"}  # fmt: skip


def command(verb: Verb[Any]) -> Callable[..., int]:
    """A command with one option for every field of the verb's Request, and ``--json`` where there is a result."""

    def call(*words: Any, **named: Any) -> int:
        as_json = named.pop("json", False)
        result = verb.run(verb.request(*map(_plain, words), **{name: _plain(value) for name, value in named.items()}))
        if result is None:
            return 0
        if as_json:
            print(result.to_json())
        else:
            result.show(Terminal())
        return 0 if result.sound else 1

    parameters = [_parameter(verb, option) for option in verb.options]
    if verb.returns:
        flag = Parameter(name="--json", negative="", help="Print JSON.", show_default=False)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter("json", kind, default=False, annotation=Annotated[bool, flag]))
    call.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", _flags(verb, verb.text))  # lines are as long as the terminal's
    call.__annotations__ = {}
    vars(call)["__signature__"] = inspect.Signature(parameters)
    return call


def _parameter(verb: Verb[Any], option: Option) -> inspect.Parameter:
    """An option as cyclopts reads it; what has a spelling stays as it is typed, for the Request to read."""
    called = option.spelling.called if option.spelling else "TEXT"
    text: Any = type(called, (str,), {})  # its name stands in the help
    kind = text if option.spelling or option.kind is str else tuple[text, ...] if option.kind is tuple else option.kind
    default = option.default
    if option.spelling and default is not None and default is not inspect.Parameter.empty:
        default = option.spelling.write(default)
    how = Parameter(
        name=None if option.positional else [option.flag, *filter(None, [SHORT.get(option.name)])],
        help=_flags(verb, option.text),
        negative=None if option.optional and option.kind is bool else "",
        env_var=option.environment or None,
        show_default=(lambda value: str(value).replace(",", ", ")) if option.default else False,  # names stay whole
    )
    place = inspect.Parameter.POSITIONAL_ONLY if option.positional else inspect.Parameter.KEYWORD_ONLY
    kind = kind | None if option.optional else kind
    return inspect.Parameter(option.name, place, default=default, annotation=Annotated[kind, how])


def _plain(value: Any) -> Any:
    """A value, its texts of the type that all texts have."""
    return tuple(map(_plain, value)) if isinstance(value, tuple) else str(value) if isinstance(value, str) else value


def _flags(verb: Verb[Any], text: str) -> str:
    """Options as they are called in Python, in double backticks, become those of the command line."""
    flags = {option.name: option.flag for option in verb.options if not option.positional}
    return re.sub(r"``(\w+)``", lambda match: flags.get(match[1], match[0]), text)


VERBS: dict[str, Verb[Any]] = {
    verb.name: verb for verb in (vars(verbs.public(name))["verb"] for name in verbs.NAMES) if verb.name
}
GROUPS = {
    "data": "Texts made into rows of training.",
    "lab": "Position encodings, trained from scratch.",
}  # of verbs that have two words
for group, text in GROUPS.items():
    app.command(cyclopts.App(name=group, help=text, help_format="plaintext"))
for name, verb in VERBS.items():
    group, _, word = name.rpartition(" ")
    (app[group] if group else app).command(command(verb), name=word)


class Terminated(KeyboardInterrupt):
    """Another signal that ends a run; everything is cleaned up as after SIGINT."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code: 0, 1 (problems found), 2 (a user's error), 128 + a signal that ended it."""
    errors = Terminal(stderr=True)
    line = understood(arguments, VERBS)
    try:
        result = app(line, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except UserError as error:
        errors.print(Text("error", "bold red"), error.message)
        if error.mend:
            errors.print(error.mend)
        return 2
    except cyclopts.CycloptsError as error:
        message, mend = _sentence(error)
        errors.print(Text("error", "bold red"), message)
        errors.print(mend)
        return 2
    except KeyboardInterrupt as stop:
        keeps = any(verb.keeps and line[: len(name.split())] == name.split() for name, verb in VERBS.items())
        more = "what was finished is kept, and the same command goes on" if keeps else "the same command begins anew"
        more = getattr(stop, "kept", more)
        with suppress(OSError):  # the terminal may be what is gone
            errors.print(f"stopped: nothing is half written; {more}")
        return 128 + (stop.args[0] if isinstance(stop, Terminated) else signal.SIGINT)
    except BrokenPipeError:
        return 0
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        errors.print(Text("error", "bold red"), "the memory of this machine, or of its device, is used up")
        errors.print("Shorter texts and --dtype bfloat16 need less; ropewalk plan counts it.")
        return 2
    except OSError as error:  # of a file or a machine that failed under the work, not of the code
        errors.print(Text("error", "bold red"), str(error))
        return 2


def _sentence(error: cyclopts.CycloptsError) -> tuple[str, str]:
    """What is wrong with a command line, and what can be said. A misspelt option goes before what is missing for it."""
    name = " ".join(error.command_chain or ())
    if name not in VERBS:
        word = " ".join([*(error.command_chain or ()), *(error.unused_tokens or [""])[:1]])
        about = {name: verb.text for name, verb in VERBS.items()}
        model = f", ropewalk inspect {shlex.quote(word)} to look at a model" if names_a_model(word) else ""
        hint = f"{word!r} is no verb{did_you_mean(word, VERBS, about)}"
        message = f"no verb before {word}" if word.startswith("-") else hint
        group = f" {name}" if name in GROUPS else ""
        return message, f"ropewalk{group} --help lists the verbs{model}."
    verb, mend = VERBS[name], f"ropewalk {name} --help lists what can be said."
    flags = {option.flag: _flags(verb, option.text) for option in verb.options if not option.positional}
    letters = [SHORT[option.name] for option in verb.options if option.name in SHORT]
    words = list(error.unused_tokens or []) if isinstance(error, cyclopts.MissingArgumentError) else []
    if isinstance(error, cyclopts.UnknownOptionError):
        words = [error.token.keyword or error.token.value]
    for word in (word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)):
        if word not in (*flags, *letters, "--json") and not word.startswith("--no-"):
            hint = did_you_mean(word, [*flags, "--json"], flags)
            return f"{name} has no option {word}{hint}".replace("'--out'", "'--out' (-o)"), mend
    if isinstance(error, cyclopts.UnusedCliTokensError) and error.unused_tokens:
        message = f"{name} does not know what {error.unused_tokens[0]!r} is for"
        lists = any(option.kind is tuple for option in verb.options)
        return message, f"Commas join the values of an option: yarn,pi. {mend}" if lists else mend
    if not isinstance(error, cyclopts.MissingArgumentError) or error.argument is None:
        return str(error), mend
    missing = next((one for one in verb.options if error.argument.name in (one.flag, one.name.upper())), None)
    said = f"{error.argument.name}: {_flags(verb, missing.text)}" if missing else mend
    if error.keyword:
        return f"{error.keyword} needs a value", said
    words = [one.name.upper() for one in verb.options if one.positional]
    if error.argument.name in words[1:]:  # which one was left out, only the user knows
        return f"{name} needs {' '.join(words)}, and there is none for {error.argument.name}", said
    return f"{name} needs {error.argument.name}", said


def main() -> None:
    logging.lastResort = Log(logging.WARNING)
    sys.unraisablehook = _again
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(number, _terminate)
    try:
        code = run(sys.argv[1:])
    except Terminated as stop:  # before the work began, or while it was said
        code = 128 + stop.args[0]
    sys.exit(code)


def _again(dropped: Any) -> None:
    """A signal that came in a weak reference's callback or a ``__del__``, where errors are dropped, comes again."""
    stop = dropped.exc_value
    if not isinstance(stop, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    number = stop.args[0] if isinstance(stop, Terminated) else signal.SIGINT
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


def _terminate(number: int, _: object) -> None:
    raise Terminated(number)
