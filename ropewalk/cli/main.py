"""The command line. Each verb is a thin file beside this one, imported only when it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cyclopts
from rich.console import Console

from ropewalk import __version__
from ropewalk.common.errors import UserError

app = cyclopts.App(
    name="ropewalk",
    help="Make the context window of a language model longer, and prove that the model uses it.",
    version=__version__,
)
VERBS = {
    "inspect": "Show a model's rotary embedding and every misconfiguration that its files give away.",
    "plan": "Say what a longer window takes: methods, memory, time, commands.",
    "extend": "Write a checkpoint with a longer window.",
    "export": "Write what an engine needs, and print the line that starts it.",
    "check-export": "Show whether every engine rotates as a checkpoint means; --fix mends it.",
    "compare": "Measure methods side by side: perplexity, passkey, needles; one HTML report.",
    "evaluate": "Measure how much of its context a model or a server uses; one HTML report.",
    "sweep": "Evaluate many models, methods and seeds on many workers.",
    "serve": "Serve a model with any method on it, over OpenAI's protocol.",
    "methods": "List the methods.",
    "demo": "Do all of it on the bundled model.",
}
FUNCTIONS = {"check-export": "export:check_export"}  # MODULE:FUNCTION where they are not called as the verb
for verb, summary in VERBS.items():
    app.command(f"ropewalk.cli.{FUNCTIONS.get(verb, f'{verb}:{verb}')}", name=verb, help=summary)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code: 0, 1 (problems found), 2 (a user's error) or 130 (interrupted)."""
    errors = Console(stderr=True, highlight=False)
    try:
        result = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except UserError as error:
        errors.print(f"[bold red]error[/] {_plain(error.message)}", soft_wrap=True)
        if error.mend:
            errors.print(_plain(error.mend), soft_wrap=True)
        return 2
    except cyclopts.CycloptsError as error:
        errors.print(f"[bold red]error[/] {_plain(str(error))}", soft_wrap=True)
        errors.print("ropewalk --help, or ropewalk VERB --help, lists what can be said.")
        return 2
    except KeyboardInterrupt:
        errors.print("stopped; what was finished is kept, run the same command again to go on")
        return 130
    except BrokenPipeError:
        return 0


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def main() -> None:
    sys.exit(run(sys.argv[1:]))
