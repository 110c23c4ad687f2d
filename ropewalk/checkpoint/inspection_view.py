"""An inspection, printed for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ropewalk.common.errors import cut
from ropewalk.common.lengths import show as length
from ropewalk.common.results import columns, sentences
from ropewalk.rope.spec import AXES

if TYPE_CHECKING:
    from ropewalk.checkpoint.inspection import Head, Inspection
    from ropewalk.rope.problems import Problem
    from ropewalk.rope.spec import RopeSpec

SHOWN = 12  # heads in the table
SEEN = 200  # characters of a value


def show(found: Inspection, console: Console) -> None:
    """Print an inspection for a person."""
    for file, old in found.wrote.items():
        console.print(f"wrote {file}; what it was is in {old}")
    console.print(Text(cut(found.architecture), "bold"), f"  {found.model}", sep="")
    if found.window is not None and found.length is not None:
        grown = (
            "" if found.length == found.window else f", promises {found.length:,} (x{found.length / found.window:g})"
        )
        by = f", extended by ropewalk with {found.extended_by}" if found.extended_by else ""
        console.print(f"pretrained window {found.window:,} tokens ({length(found.window)}){grown}{by}")
        layers = ", ".join(f"{n} x {kind}" for kind, n in found.layers.items())
        per_token, cache = found.kv_bytes_per_token, ""
        if per_token is not None:
            cache = f"; cache {per_token:,} bytes per token in {found.dtype}, "
            cache += f"{_mebibytes(per_token * found.length)} at {found.length:,} tokens"
        console.print(f"layers {layers}{cache}")
    if found.reach is not None:
        console.print(f"no layer that rotates sees past {found.reach:,} tokens")
    if found.base_is_default and found.specs:
        console.print("config.json names no base: it is the class's own")
    if found.unreadable:
        console.print(Text("cannot be read:", "red"), found.unreadable)
    if found.specs:
        show_ropes(found.specs, console)
    show_verdict(found.notes, found.problems, found.sound, console)
    if found.heads is not None:
        show_heads(found.heads, console)


def show_verdict(notes: Sequence[str], problems: Sequence[Problem], sound: bool, console: Console) -> None:
    """Print what to know of a model, and what is wrong with it."""
    sentences(console, *notes, style="yellow")
    if sound:
        console.print("no problems found", style="green")
    for problem in problems:
        console.print(Text(f"\n{problem.code}", "bold red"), f"  {problem.key}", sep="")
        console.print(f"  seen      {cut(repr(problem.seen), SEEN)}")
        console.print(f"  expected  {problem.expected}")
        console.print(f"  mend      {problem.mend}")


def show_ropes(specs: Mapping[str, RopeSpec], console: Console) -> None:
    """Print the ropes of a model, by layer type."""
    headings = ("rope of", "type", ">base", "?>dims", "?style", "?>window", "?>t", "?>factors", "?>unturned")
    table = columns(*headings, gap=1)
    for key, spec in specs.items():
        low, high = min(spec.factors), max(spec.factors)
        half = spec.rotary_dim // 2
        table.add_row(
            key,
            spec.rope_type,
            f"{spec.base:,.0f}" if spec.base < 1e9 else f"{spec.base:.6g}",
            f"{spec.rotary_dim}/{spec.head_dim}",
            spec.style,
            f"{spec.window:,}",
            f"{spec.attention_factor:.4g}",
            "1" if low == high == 1 else f"{low:.3g}..{high:.3g}",
            f"{half - spec.critical_dimension}/{half}",
        )
    console.print(table)
    console.print(
        "t: attention factor; unturned: pairs of dimensions that never complete a turn inside the window",
        style="dim",
    )
    for key, spec in specs.items():
        if spec.axes:
            parts = [
                f"{name} {_runs([i for i, one in enumerate(spec.axes) if one == a])}" for a, name in enumerate(AXES)
            ]
            console.print(f"M-RoPE ({key}), pairs by whose position they turn: {'; '.join(parts)}")


def _runs(indices: Sequence[int]) -> str:
    """Indices in few words: 0-15, or 1, 4 .. 58 where they are evenly spaced."""
    found: list[list[int]] = []
    for i in indices:
        if found and (len(found[-1]) == 1 or i - found[-1][-1] == found[-1][1] - found[-1][0]):
            found[-1].append(i)
        else:
            found.append([i])
    return ", ".join(_run(run) for run in found) or "none"


def _run(run: Sequence[int]) -> str:
    if len(run) < 3:
        return ", ".join(map(str, run))
    return f"{run[0]}-{run[-1]}" if run[1] == run[0] + 1 else f"{run[0]}, {run[1]} .. {run[-1]}"


def _mebibytes(size: int) -> str:
    mebibytes = size / 2**20
    return f"{mebibytes:,.0f} MiB" if mebibytes >= 100 else f"{mebibytes:.4g} MiB"


def show_heads(heads: Sequence[Head], console: Console) -> None:
    """Print the heads whose slow dimensions follow their logits best."""
    ranked = sorted(heads, key=lambda head: -1.0 if head.slow_correlation is None else -head.slow_correlation)
    ranked = [head for head in ranked if head.slow_correlation is not None]
    if not ranked:
        console.print("no head rotates slowly: every pair of dimensions completes a turn inside the window")
        return
    table = columns(">layer", ">head", ">slow r", ">far", gap=1)
    for head in ranked[:SHOWN]:
        table.add_row(str(head.layer), str(head.head), f"{head.slow_correlation:.3f}", f"{head.far_share:.1%}")
    console.print(table)
    far = sum(head.far_share for head in heads) / len(heads)
    console.print(
        f"{len(ranked[:SHOWN])} of {len(heads)} heads; slow r: correlation of the logit with the part that comes "
        f"from pairs without a full turn inside the window; far: attention to the further half of the text, {far:.1%} "
        "over all heads",
        style="dim",
    )
