"""``ropewalk inspect``: what a model's files say about its context window, and what is wrong there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ropewalk.common.errors import UserError

if TYPE_CHECKING:
    from ropewalk.checkpoint.inspection import Inspection
    from ropewalk.fitting.head_profiles import Head

TEXTS, TOKENS, SHOWN = 3, 4096, 12  # read for --weights: so many texts, of so many tokens at most; heads in the table


def inspect(
    model: str,
    /,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    weights: Annotated[bool, Parameter(negative="")] = False,
    data: str = "stdlib",
    against: str | None = None,
    patch: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    trust_remote_code: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show a model's rotary embedding and every misconfiguration that its files give away.

    Needs no weights, unless asked what the heads do.

    Exits with 1 if there are problems.

    Parameters
    ----------
    model: str
        A folder, a config.json, a hub id, 'demo', or a GGUF file.
    set_: tuple[str, ...]
        Change a key first: 'key.inside=JSON' (null removes it), 'tokenizer_config.json:key=JSON' for another file.
        The old file stays beside it as NAME.bak (then NAME.bak.1, ...). In a GGUF file: 'ARCH.rope.key=JSON',
        together with --patch.
    weights: bool
        Load the model too, and show which heads look far and carry distance in slow dimensions, on a few texts.
    data: str
        Texts for --weights: stdlib, topics, or a file or folder.
    against: str | None
        A GGUF file only: the checkpoint (folder, config.json, hub id) whose rope the file should have.
    patch: Path | None
        A GGUF file only: write it again here with the rope of --against, or with the keys of --set.
    overwrite: bool
        Replace the file that --patch names, if ropewalk wrote it.
    trust_remote_code: bool
        Run code that comes with the model.
    as_json: bool
        Print JSON.
    """
    if model.lower().endswith(".gguf"):
        if weights:
            raise UserError("--weights looks at a model that runs; a GGUF file is only read", "Name the checkpoint.")
        found = _gguf(Path(model).expanduser(), set_, against, patch, overwrite)
    elif against is not None or patch is not None:
        raise UserError(
            f"--against and --patch are about GGUF files; {model!r} is none", "Name a file that ends in .gguf."
        )
    else:
        found = _checkpoint(model, set_, trust_remote_code)
    heads = _heads(model, found, data, trust_remote_code) if weights else None
    if as_json:
        more = {} if heads is None else {"heads": [asdict(head) for head in heads]}
        print(json.dumps({**found.to_json(), **more}, indent=2))
    else:
        show(found, Console())
        if heads is not None:
            show_heads(heads, Console())
    return 1 if found.problems or found.unreadable else 0


def _checkpoint(model: str, set_: tuple[str, ...], trust_remote_code: bool) -> Inspection:
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.checkpoint.inspection import inspect as look
    from ropewalk.checkpoint.inspection import set_key

    checkpoint = Checkpoint(model, trust_remote_code)
    if set_:
        checkpoint.refuse_bundled()
    for assignment in set_:
        set_key(checkpoint.place, assignment)
    return look(checkpoint)


def _gguf(path: Path, set_: tuple[str, ...], against: str | None, patch: Path | None, overwrite: bool) -> Inspection:
    """Inspect a GGUF file, or the one that is written from it."""
    from ropewalk.engines.gguf import inspect_gguf, patch_gguf, set_keys

    if set_ and (patch is None or against is not None):
        raise UserError("--set changes no GGUF file in place, and goes with --patch OUT.gguf and without --against")
    if patch is not None and not set_ and against is None:
        raise UserError("--patch needs the rope to write: --against CHECKPOINT, or --set 'ARCH.rope.key=JSON'")
    if patch is None:
        return inspect_gguf(path, against)
    if set_:
        set_keys(path, set_, patch, overwrite)
    elif against is not None:
        patch_gguf(path, against, patch, overwrite)
    return inspect_gguf(patch, against)


def _heads(model: str, found: Inspection, data: str, trust_remote_code: bool) -> list[Head]:
    import torch

    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.fitting.head_profiles import head_profiles
    from ropewalk.texts import documents

    texts = documents.load(data)
    checkpoint = Checkpoint.open(model, trust_remote_code)
    live, tokenizer = checkpoint.load(), checkpoint.tokenizer()
    window = found.window or 0
    length = min(window, TOKENS)
    rows = list(documents.tokenise(texts, tokenizer, length).values())[:TEXTS]
    ids = [torch.tensor([row[:length]], device=live.device) for row in rows]
    return head_profiles(live, ids, window, queries=min(64, length // 2))


def show_heads(heads: list[Head], console: Console) -> None:
    """Print the heads whose slow dimensions follow their logits best."""
    ranked = sorted(heads, key=lambda head: -1.0 if head.slow_correlation is None else -head.slow_correlation)
    ranked = [head for head in ranked if head.slow_correlation is not None]
    if not ranked:
        console.print("no head rotates slowly: every pair of dimensions completes a turn inside the window")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in ("layer", "head", "slow r", "far"):
        table.add_column(column, justify="right")
    for head in ranked[:SHOWN]:
        table.add_row(str(head.layer), str(head.head), f"{head.slow_correlation:.3f}", f"{head.far_share:.1%}")
    console.print(table)
    far = sum(head.far_share for head in heads) / len(heads)
    console.print(
        f"[dim]{len(ranked[:SHOWN])} of {len(heads)} heads; slow r: correlation of the logit with the part that comes "
        f"from pairs without a full turn inside the window; far: attention to the further half of the text, {far:.1%} "
        "over all heads[/]",
        soft_wrap=True,
    )


def show(found: Inspection, console: Console) -> None:
    """Print an inspection for a person."""
    from ropewalk.common.lengths import show as length

    console.print(f"[bold]{found.architecture}[/]  {found.model}")
    if found.window is not None and found.length is not None:
        grown = (
            "" if found.length == found.window else f", promises {found.length:,} (x{found.length / found.window:g})"
        )
        by = f", extended by ropewalk with {found.extended_by}" if found.extended_by else ""
        console.print(f"pretrained window {found.window:,} tokens ({length(found.window)}){grown}{by}", soft_wrap=True)
        layers = ", ".join(f"{n} x {kind}" for kind, n in found.layers.items())
        per_token = found.kv_bytes_per_token or 0
        console.print(f"layers {layers}; cache {per_token:,} bytes per token in {found.dtype}", end="")
        console.print(f", {per_token * found.length / 2**20:,.4g} MiB at {found.length:,} tokens")
    if found.unreadable:
        console.print(f"[red]cannot be read:[/] {found.unreadable}", soft_wrap=True)
    if found.specs:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        for column in ("rope of", "type", "base", "dims", "style", "window", "t", "factors", "unturned"):
            table.add_column(column, justify="left" if column in ("rope of", "type", "style") else "right")
        for key, spec in found.specs.items():
            low, high = min(spec.factors), max(spec.factors)
            half = spec.rotary_dim // 2
            table.add_row(
                key,
                spec.rope_type,
                f"{spec.base:,.6g}",
                f"{spec.rotary_dim}/{spec.head_dim}",
                spec.style,
                f"{spec.window:,}",
                f"{spec.attention_factor:.4g}",
                "1" if low == high == 1 else f"{low:.3g}..{high:.3g}",
                f"{half - spec.critical_dimension}/{half}",
            )
        console.print(table)
        console.print(
            "[dim]t: attention factor; unturned: pairs of dimensions that never complete a turn inside the window[/]",
            soft_wrap=True,
        )
    if not found.problems:
        console.print("[green]no problems found[/]")
    for problem in found.problems:
        console.print(f"\n[bold red]{problem.code}[/]  {problem.key}", highlight=False)
        console.print(f"  seen      {problem.seen!r}", soft_wrap=True, highlight=False, markup=False)
        console.print(f"  expected  {problem.expected}", soft_wrap=True, highlight=False, markup=False)
        console.print(f"  mend      {problem.mend}", soft_wrap=True, highlight=False, markup=False)
