"""``ropewalk export`` and ``ropewalk check-export``: a checkpoint for an engine, and whether engines rotate alike."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ropewalk.engines.agreement import Row


def export(
    model: str,
    /,
    *,
    engine: Annotated[str, Parameter(name=["--engine", "-e"])],
    to: str | None = None,
    method: Annotated[str, Parameter(name=["--method", "-m"])] = "yarn",
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    gguf: Path | None = None,
    dtype: str = "F16",
    fold: Annotated[bool, Parameter(negative="")] = False,
    two_profiles: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Print the line that starts an engine on a checkpoint, native and long; with --out, write what the engine needs.

    Parameters
    ----------
    model: str
        A folder, a hub id, or 'demo'; extended already, unless --to is given.
    engine: str
        vllm, sglang, llama.cpp or transformers.
    to: str | None
        Extend to this length first: 4096, 4k, 128K, 1m.
    method: str
        With --to: as listed by 'ropewalk methods'.
    out: Path | None
        Folder to write. Without it nothing is written, and the line carries the keys.
    gguf: Path | None
        With --engine llama.cpp: also write MODEL (extended already) as this GGUF file.
    dtype: str
        Of its matrices: F32, F16, BF16 or Q8_0.
    fold: bool
        Put the attention factor into the weights; the folded model is compared with the one that has keys.
    two_profiles: bool
        Write OUT/native and OUT/long, which share their weights on disk.
    overwrite: bool
        Replace what is there, if ropewalk wrote it.
    as_json: bool
        Print JSON.
    """
    from ropewalk.common.lengths import parse, show
    from ropewalk.engines.handover import export as write
    from ropewalk.methods.catalogue import method as make

    if gguf is not None:
        _write_gguf(model, engine, to, gguf, dtype, overwrite, as_json)
        return
    wanted = None if to is None else parse(to)
    done = write(model, engine, wanted, None if to is None else make(method), out, fold, two_profiles, overwrite)
    if as_json:
        print(json.dumps(asdict(done), indent=2, default=str))
        return
    console = Console(highlight=False)
    for key, value in done.keys.items():
        console.print(f"for {done.engine}: {key} = {json.dumps(value)}", markup=False, soft_wrap=True)
    if done.fold_error is not None:
        console.print(f"attention factor folded into {len(done.folded)} tensors")
        console.print(f"largest difference of log-probabilities: {done.fold_error:.2g}")
    for profile in done.profiles:
        use = "best on short text" if profile.name == "native" else "for long text"
        console.print(f"[bold]{profile.name}[/], {show(profile.length)} tokens, {use}:")
        console.print(profile.line, markup=False, soft_wrap=True)
    if done.folder is not None:
        console.print(f"written to [bold]{done.folder}[/]", soft_wrap=True)


def _write_gguf(model: str, engine: str, to: str | None, out: Path, dtype: str, overwrite: bool, as_json: bool) -> None:
    from ropewalk.common.errors import UserError
    from ropewalk.engines.gguf import write_gguf

    if engine != "llama.cpp" or to is not None:
        raise UserError(
            "--gguf writes an extended checkpoint for llama.cpp",
            "ropewalk extend MODEL --to LENGTH --method METHOD -o DIR, then: "
            "ropewalk export DIR --engine llama.cpp --gguf OUT.gguf",
        )
    done = write_gguf(model, out, dtype, overwrite)
    if as_json:
        print(json.dumps(asdict(done), indent=2, default=str))
        return
    console = Console(highlight=False)
    for key, value in done.rope.keys.items():
        console.print(f"{key} = {json.dumps(value)}", markup=False, soft_wrap=True)
    for name, factors in done.rope.factors.items():
        console.print(f"{name} = {len(factors)} factors, {min(factors):.4g} to {max(factors):.4g}", markup=False)
    console.print(f"written to [bold]{done.path}[/], {done.n_bytes / 2**20:,.4g} MiB", soft_wrap=True)
    console.print(done.launch, markup=False, soft_wrap=True)


def check_export(
    folder: str,
    /,
    *,
    fix: Annotated[bool, Parameter(negative="")] = False,
    overrides: str | None = None,
    llama_flags: str = "",
    version: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Compare what each engine derives from a checkpoint with what it means. Needs no weights and no engine.

    Exits with 1 if an engine would not load it or would rotate otherwise.

    Parameters
    ----------
    folder: str
        A local checkpoint, or 'demo'.
    fix: bool
        Write the keys that mend it; the old files stay beside as NAME.bak.
    overrides: str | None
        JSON as given to vLLM's --hf-overrides and SGLang's --json-model-override-args.
    llama_flags: str
        Flags as given to llama-server.
    version: tuple[str, ...]
        ENGINE=VERSION for another than the latest known: --version vllm=0.11.2.
    as_json: bool
        Print JSON.
    """
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.engines import agreement as check

    checkpoint = Checkpoint(folder)
    if fix:
        checkpoint.refuse_bundled()
    place = Path(checkpoint.place).expanduser()
    asked = check.Asked(_overrides(overrides), llama_flags, dict(_pair(text) for text in version))
    written = check.fix(place, asked) if fix else {}
    rows = check.check_export(place, asked)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        console = Console(highlight=False)
        for key, value in written.items():
            console.print(f"wrote {key} = {json.dumps(value)}", markup=False, soft_wrap=True)
        show_rows(rows, console)
    return 0 if all(row.sound for row in rows) else 1


def show_rows(rows: list[Row], console: Console) -> None:
    """The table, and below it what each engine needs."""
    table = Table("engine", "loads", "frequencies", "attention factor", "length")
    table.columns[0].no_wrap = True
    for row in rows:
        answers = (row.same_frequencies, row.same_attention_factor, row.same_length)
        loads = "yes" if row.loads else SAID[False]
        table.add_row(f"{row.engine} {row.version}".strip(), loads, *(SAID[answer] for answer in answers))
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"[bold]{row.engine}[/]: ", end="")
            console.print(row.note, markup=False, soft_wrap=True)
        mend = "ropewalk check-export DIR --fix" if row.keys else row.mend
        if mend:
            console.print(f"  {mend}", markup=False, soft_wrap=True)


SAID = {True: "same", False: "[red]no[/]", None: "-"}


def _overrides(text: str | None) -> dict[str, object]:
    from ropewalk.common.errors import UserError

    if text is None:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--overrides is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"--overrides holds a JSON {type(value).__name__}, expected an object")
    return value


def _pair(text: str) -> tuple[str, str]:
    from ropewalk.common.errors import UserError

    engine, separator, version = text.partition("=")
    if not separator or engine not in ("vllm", "sglang"):
        raise UserError(f"--version is {text!r}", "Write --version vllm=0.11.2 or --version sglang=0.5.6.")
    return engine, version
