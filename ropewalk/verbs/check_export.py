"""Whether engines rotate as a checkpoint means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.outside import parse
from ropewalk.common.results import Result
from ropewalk.verbs.request import Model, Request, Spelling, verb

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.engines.agreement import Row


def _overrides(value: str | Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = parse(value, finite=True) if isinstance(value, str) else dict(value)
    except ValueError as error:
        raise UserError(f"--overrides is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"--overrides holds a JSON {type(found).__name__}, expected an object")
    return found


@dataclass(frozen=True, kw_only=True)
class CheckExportRequest(Request):
    """What to check, and how the engines are started.

    Attributes:
        folder: A local checkpoint, or 'demo'.
        fix: Write the keys that mend it; the old files stay beside as NAME.bak.
        overrides: JSON as given to vLLM's --hf-overrides and SGLang's --json-model-override-args.
        llama_flags: Flags as given to llama-server.
        version: ENGINE=VERSION for another than the latest known: vllm=0.11.2.
    """

    folder: Model = field(kw_only=False)
    fix: bool = False
    overrides: Annotated[dict[str, Any], Spelling(str | dict[str, Any], _overrides, json.dumps, "JSON")] | None = None
    llama_flags: str = ""
    version: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Agreement(Result):
    """What each engine makes of a checkpoint.

    Attributes:
        model: as the user named it.
        rows: one per engine.
        wrote: [FILE:]key -> value that was written to mend it.
    """

    model: str
    rows: list[Row]
    wrote: dict[str, Any]

    @property
    def sound(self) -> bool:
        return all(row.usable for row in self.rows)

    def show(self, console: Console) -> None:
        from rich.table import Table
        from rich.text import Text

        said: dict[bool | None, str | Text] = {True: "same", False: Text("no", "red"), None: "-"}
        for key, value in self.wrote.items():
            console.print(f"wrote {key} = {json.dumps(value)}")
        table = Table("engine", "loads", "frequencies", "attention factor", "length")
        table.columns[0].no_wrap = True
        for row in self.rows:
            answers = [said[one] for one in (row.same_frequencies, row.same_attention_factor, row.same_length)]
            if row.usable and not row.same_length:
                answers[-1] = "by its line"
            table.add_row(f"{row.engine} {row.version}".strip(), "yes" if row.loads else said[False], *answers)
        console.print(table)
        for row in self.rows:
            if row.note:
                console.print(Text(row.engine, "bold"), f": {row.note}", sep="")
            mend = command("check-export", self.model, "--fix") if row.keys else row.mend
            if mend:
                console.print(f"  {mend}")


@verb("check-export")
def check_export(request: CheckExportRequest) -> Agreement:
    """Compare what each engine derives from a checkpoint with what it means. Needs no weights and no engine.

    In a shell it exits with 1 if an engine would not load it, would rotate otherwise or take another length.

    Returns:
        One row per engine; ``sound`` is False if an engine would not load it, would rotate otherwise, or would take
        another length and no launch line states it.

    Raises:
        UserError: if a file cannot be read or written.
    """
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.common.whole import edits
    from ropewalk.encoders.encoder_folder import refuse_encoder
    from ropewalk.engines import agreement

    checkpoint = Checkpoint(request.folder)
    refuse_encoder(checkpoint)
    if request.fix:
        checkpoint.refuse_bundled()
    if checkpoint.gguf is not None:
        raise UserError(
            f"check-export is about a folder, and {request.folder} is one file, which only llama.cpp reads",
            command("inspect", request.folder),
        )
    checkpoint.refuse_alone()
    place = Path(checkpoint.place).expanduser()
    versions = dict(_pair(text) for text in request.version)
    asked = agreement.Asked(request.overrides or {}, request.llama_flags, versions)
    wrote = {}
    if request.fix:
        with edits(place) as write:
            wrote = agreement.fix(place, asked, write=write)
            Checkpoint.open(place)  # what is unsound all the same is refused, and goes back
    checkpoint = Checkpoint.open(request.folder)  # as it is now
    if checkpoint.unwritten is not None:
        checkpoint.unwritten.refuse(checkpoint.unwritten.line("serve", "--method"))
    return Agreement(request.folder, agreement.check_export(place, asked, checkpoint.config), wrote)


def _pair(text: str) -> tuple[str, str]:
    engine, separator, version = text.partition("=")
    if not separator or engine not in ("vllm", "sglang"):
        raise UserError(f"--version is {text!r}", "Write --version vllm=0.11.2 or --version sglang=0.5.6.")
    return engine, version
