"""The ledger: every system that claims something, its claim in a line, and what was measured of it here.

    make claims          # runs what fits into an hour of two cores, then writes docs/claims.md
    make claims ALL=1    # runs the rest as well: a day and more
    python claims/ledger.py --list

Systems stand in ``claims/systems.jsonl``. A row of a claim says what was measured: scripts of this folder write them
into ``claims/results``, and ``JUDGED`` reads them out of results that are older than the ledger. A claim is judged by
the relation that its paper states, fixed before the run: it holds if the whole interval lies on the claimed side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "claims" / "results"
HOUR = 60
HEAD = "| system | claims | measured here | | n, model | verdict |", "|---|---|---|---|---|---|"


@dataclass(frozen=True)
class System:
    """A paper, or another source, and its claim.

    Attributes:
        id: a word for it.
        group: of the ledger.
        title: its name.
        source: arXiv id, or an address without https://.
        claim: in one line.
        here: what of it is here, a kind and a name each.
        why: why its claim cannot be tested here; empty if it can.
    """

    id: str
    group: str
    title: str
    source: str
    claim: str
    here: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True)
class Row:
    """What was measured of one claim.

    Attributes:
        source: of the system.
        claim: the relation that was fixed.
        measured: the estimate.
        low: lower end of its 95 % interval; None if it has none.
        high: upper end.
        n: what the interval is over: texts, questions, seeds.
        model: that was measured on.
        holds: whether the relation does.
        command: that measures it again.
    """

    source: str
    claim: str
    measured: float | None
    low: float | None
    high: float | None
    n: int
    model: str
    holds: bool
    command: str


@dataclass(frozen=True)
class Judgement:
    """A claim that an older result answers.

    Attributes:
        source: of the system.
        claim: the relation.
        file: of the result, in ``claims/results``.
        found: the estimate in there: its value and interval, and what that is over.
        below: the bound that the whole interval lies below; None if it lies above ``above``.
        above: the other bound.
    """

    source: str
    claim: str
    file: str
    found: Callable[[Any], dict[str, Any]]
    below: float | None = None
    above: float | None = None

    def row(self) -> Row:
        content = json.loads((RESULTS / self.file).read_text("utf-8"))
        one = self.found(content)
        holds = one["high"] < self.below if self.below is not None else one["low"] > (self.above or 0.0)
        command = f"python claims/{self.file.removesuffix('.json')}.py --json claims/results/{self.file}"
        return Row(self.source, self.claim, one["value"], one["low"], one["high"], one["n"], "bundled", holds, command)


def _recipe(name: str, against: str = "ratio to pi") -> Callable[[Any], dict[str, Any]]:
    return lambda content: dict(content["rows"][name][against])


def _pair(name: str, *keys: str) -> Callable[[Any], dict[str, Any]]:
    def found(content: Any) -> dict[str, Any]:
        one = content["pairs"][name]
        for key in keys:
            one = one[key]
        return dict(one)

    return found


FAR = "perplexity far out over that of PI at full length, "
JUDGED = (
    Judgement("2306.15595", "perplexity far out without interpolation over PI's, 60 steps: above 1", "recipes.json",
              _recipe("direct"), above=1),
    Judgement("2309.00071", "perplexity far out over PI's, 60 steps each: below 1", "recipes.json", _recipe("yarn"),
              below=1),
    Judgement("2309.10400", FAR + "equal tokens: below 1.05", "recipes.json", _recipe("pose"), below=1.05),
    Judgement("2406.07138", FAR + "equal tokens: below 1.05", "recipes.json", _recipe("cream"), below=1.05),
    Judgement("github.com/clx1415926/EndPrompt", FAR + "equal tokens: below 1.05", "recipes.json",
              _recipe("endprompt"), below=1.05),
    Judgement("2401.06951", FAR + "equal tokens: below 1.05", "recipes.json", _recipe("e2"), below=1.05),
    Judgement("2310.14633", FAR + "equal tokens: below 1.25", "recipes.json", _recipe("segmented"), below=1.25),
    Judgement("2305.16843", "as an extension it is the control: " + FAR + "above 2", "recipes.json",
              _recipe("randpos"), above=2),
    Judgement("2309.12307", "shifted sparse attention, all weights: " + FAR + "below 1.05", "recipes.json",
              _recipe("s2-attention, all weights"), below=1.05),
    Judgement("2311.04879", FAR + "below that of LongLoRA's upper end, 1.96", "recipes.json", _recipe("longqlora"),
              below=1.96),
    Judgement("2401.07004", "six steps on 96 samples: " + FAR + "below 1", "recipes.json",
              _recipe("entropy-abf, 100 samples"), below=1),
    Judgement("2512.12167", FAR + "recalibrated by half a million tokens: below 1.05", "recipes.json",
              _recipe("drope"), below=1.05),
    Judgement("2402.13753", "perplexity far out over YaRN's, without training: below 1", "longrope.json",
              lambda content: dict(content["against"]["yarn"]), below=1),
    Judgement("2409.04774", "perplexity of answers over that of packed documents: below 1", "data.json",
              _pair("utk", "questions", "ratio"), below=1),
    Judgement("2404.16811", "loss of far evidence less that of near, over plain training's: below 0", "data.json",
              _pair("in2", "questions by depth", "far less near", "difference"), below=0),
    Judgement("2404.10830", "perplexity of defined names over that of cut documents: below 1", "data.json",
              _pair("best-fit", "names", "ratio"), below=1),
    Judgement("2310.10638", "perplexity of answers over that of a random order: below 1", "data.json",
              _pair("icp", "questions", "ratio"), below=1),
    Judgement("2405.13226", "perplexity far out over that of rows of one length, equal tokens: below 1", "data.json",
              _pair("decompose", "perplexity far out", "ratio"), below=1),
    Judgement("2502.13922", "right tokens behind the whole context less those at the start: above 0", "longpo.json",
              lambda content: dict(content["whole context"]["differences of right tokens"]["longpo - start"]), above=0),
)  # fmt: skip

# What can be run: minutes of two quiet cores by estimate, and what it writes.
RUNS: tuple[tuple[int, str], ...] = (
    (10, "memory/attendre.py --json claims/results/memory/attendre.json"),
    (10, "memory/fot.py --json claims/results/memory/fot.json"),
    (8, "memory/beacon.py --json claims/results/memory/beacon.json"),
    (15, "memory/temp_lora.py --json claims/results/memory/temp_lora.json"),
    (4, "memory/qttt.py --json claims/results/memory/qttt.json"),
    (8, "memory/ext_tok.py --json claims/results/memory/ext_tok.json"),
    (13, "memory/landmark.py --json claims/results/memory/landmark.json"),
    (10, "memory/longgen.py --json claims/results/memory/longgen.json"),
    (15, "memory/lact.py --json claims/results/memory/lact.json"),
    (15, "memory/hylo.py --json claims/results/memory/hylo.json"),
    (12, "training_free.py --json claims/results/training_free.json"),
    (15, "longrope.py --dtype float32 --json claims/results/longrope.json"),
    (25, "longrope2.py --dtype float32 --json claims/results/longrope2.json"),
    (30, "longpo.py --json claims/results/longpo.json"),
    (40, "mend.py --json claims/results/mend.json"),
    (45, "encodings.py --json claims/results/encodings.json"),
    (60, "data.py --json claims/results/data.json"),
    (60, "workflows.py --json claims/results/workflows.json"),
    (75, "lc_plm.py --json claims/results/lc_plm.json"),
    (180, "encoders.py --json claims/results/encoders-minilm.json"),
    (300, "recipes.py --json claims/results/recipes.json"),
)


def systems() -> tuple[System, ...]:
    """All systems, in the order of the ledger."""
    lines = (ROOT / "claims" / "systems.jsonl").read_text("utf-8").splitlines()
    return tuple(System(**(one | {"here": tuple(one["here"])})) for one in map(json.loads, lines))


def rows() -> tuple[Row, ...]:
    """Every claim that was measured."""
    return (*(one.row() for one in JUDGED), *_written())


def _written() -> Iterator[Row]:
    """Claims in results that hold them as rows."""
    for file in sorted(RESULTS.rglob("*.json")):
        content = json.loads(file.read_text("utf-8"))
        for one in content.get("rows", ()) if isinstance(content, dict) else ():
            if not isinstance(one, dict) or not {"claim", "source", "n"} <= one.keys() or one.get("holds") is None:
                continue  # not a claim, or one that is not judged yet
            if one["source"] == "ours":
                continue  # a check beside a paper's claims
            source = one["source"].removeprefix("arXiv ").removeprefix("https://")
            measured = one.get("measured", one.get("value"))
            script = file.relative_to(RESULTS).with_suffix(".py")
            command = one.get("command") or f"python claims/{script} --json claims/results/{file.relative_to(RESULTS)}"
            yield Row(source, one["claim"], measured, one.get("low"), one.get("high"), one["n"],
                      one.get("model", "bundled"), bool(one["holds"]), command)  # fmt: skip


def ledger() -> str:
    """All systems, a table for each group: a line for each claim that was measured, one for each system without any."""
    every, found = systems(), rows()
    parts = [counts()]
    for group in dict.fromkeys(one.group for one in every):
        lines = [
            f"## {group}",
            "",
            "| system | claims | measured here | | n, model | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for system in every:
            if system.group == group:
                lines += _lines(system, [row for row in found if row.source == system.source])
        parts.append("\n".join(lines))
    parts.append("## Commands\n\n```\n" + "\n".join(dict.fromkeys(row.command for row in found)) + "\n```")
    return "\n\n".join(parts)


def _lines(system: System, mine: list[Row]) -> Iterator[str]:
    head = f"[{system.title}](https://{'' if '/' in system.source else 'arxiv.org/abs/'}{system.source})"
    if not mine:
        verdict = f"cannot be tested here: {system.why}" if system.why else "not measured yet"
        yield f"| {head} | {system.claim} | | | | {verdict} |"
    for i, row in enumerate(mine):
        who, claim = ("", "") if i else (head, system.claim)
        verdict = "**holds**" if row.holds else "does not hold at this size"
        yield f"| {who} | {claim} | {row.claim} | {_shown(row)} | {row.n}, {row.model} | {verdict} |"


def counts() -> str:
    """How many systems there are, and how their claims fared."""
    every, found = systems(), rows()
    judged = {row.source for row in found}
    held = {row.source for row in found} - {row.source for row in found if not row.holds}
    untested = sum(bool(one.why) and one.source not in judged for one in every)
    mine = [one for one in every if one.source in judged]
    return (
        f"{len(every)} systems. Of {len(mine)} something was measured, {len(found)} claims in all: of "
        f"{sum(one.source in held for one in mine)} systems all that was measured holds. Of {untested} nothing can be "
        f"tested here, and {len(every) - len(mine) - untested} are not measured yet."
    )


def _shown(row: Row) -> str:
    if row.measured is None:
        return ""
    between = "" if row.low is None or row.high is None else f" ({row.low:.3g} to {row.high:.3g})"
    return f"{row.measured:.3g}{between}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="what takes longer than an hour, too")
    parser.add_argument("--list", action="store_true", help="only print the ledger")
    given = parser.parse_args()
    if not given.list:
        left = HOUR
        for minutes, line in sorted(RUNS):
            left -= minutes
            if left < 0 and not given.all:
                print(f"left out, about {minutes} min: python claims/{line}", flush=True)
                continue
            print(f"about {minutes} min: python claims/{line}", flush=True)
            subprocess.run([sys.executable, *f"claims/{line}".split()], cwd=ROOT, check=True)
        subprocess.run([sys.executable, "docs/render.py"], cwd=ROOT, check=True)
    print(ledger() if given.list else f"{counts()}\ndocs/claims.md")


if __name__ == "__main__":
    main()
