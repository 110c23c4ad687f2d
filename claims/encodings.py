"""What papers say of position encodings beyond the training length, tried on small decoders trained from scratch.

    python claims/encodings.py --json claims/results/encodings.json [--work DIR]

Every encoding is put into the lab's decoder (two layers of 64 dimensions), trained on the same bytes at one learning
rate, and asked beyond its window: source code of the standard library (window 64; modules that training has not seen;
nats per byte of whole texts), and four algorithms (window 16; problems that training has not seen; a row is right if
every byte of its answer is). No encoding was tuned; RoPE alone was seen before, at seed 100, to learn something at all.

What has to hold is in ``CLAIMS``, the relation that each paper states, as it stood before the run. A claim is judged by
differences of the same seed, with an interval of 95 % over five seeds (of Student's and Hall's the wider), each of
which has weights, training and test rows of its own. It holds if the whole interval is on the paper's side of zero, and
is refuted if the whole of it is on the other; there is no correction for their number. Cells are kept in ``--work``,
the texts' before the algorithms'; ``--report`` judges what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))

from ropewalk.common.statistics import Mean, cluster_mean
from ropewalk.common.whole import write_text
from ropewalk.lab.battery import TEXT
from ropewalk.lab.cell import Budget, Cell, answers, trained

SEEDS, SAMPLES = 5, 64  # and rows of each length, other ones for every seed
TASKS = "copy", "reverse", "sort", "sum"
OF_TEXT = Budget(window=64, steps=300, batch=8, learning_rate=5e-3, width=64, layers=2, heads=4)
OF_TASKS = Budget(window=16, steps=500, batch=16, learning_rate=5e-3, width=64, layers=2, heads=4)
LONGER = Budget(**{**asdict(OF_TEXT), "window": 128, "batch": 4})  # the same bytes a step
TEXTS, BEYOND = (64, 128, 256), (20, 24, 32)  # bytes that are asked
L, TWICE, FAR = TEXTS
READ_TEXT = {  # encodings, and the ways in which they are read beyond the window
    "rope": ("",), "sinusoidal": ("",), "alibi": ("", "pi"), "t5": ("",), "nope": ("",), "fire": ("",),
    "xpos": ("", "bca"), "cable": ("",), "fope": ("",), "softplus": ("", "reweight"),
}  # fmt: skip
READ_TASKS = "nope", "t5", "alibi", "rope", "sinusoidal", "randomized"
LONGER_NAME = "sinusoidal, window 128"

Seen = Mapping[str, Any]  # of a seed: cell -> what it answered, by way and length


@dataclass(frozen=True)
class Asked:
    """A cell, and what is asked of it.

    Attributes:
        cell: encoding, task and seed.
        budget: of its training.
        reads: ways and lengths.
        name: of the cell in a seed.
    """

    cell: Cell
    budget: Budget
    reads: tuple[tuple[str, int], ...]
    name: str


def cells(seeds: int) -> Iterator[Asked]:
    """All texts, seed by seed, then all tasks."""
    for seed in range(seeds):
        for name, ways in READ_TEXT.items():
            reads = tuple((way, n) for way in ways for n in TEXTS if not way or n > L)
            yield Asked(Cell(name, TEXT, seed), OF_TEXT, reads, f"{name} {TEXT}")
        yield Asked(Cell("sinusoidal", TEXT, seed), LONGER, (("", TWICE),), f"{LONGER_NAME} {TEXT}")
    for seed in range(seeds):
        for task in TASKS:
            for name in READ_TASKS:
                reads = tuple(("", n) for n in (OF_TASKS.window, *BEYOND))
                yield Asked(Cell(name, task, seed), OF_TASKS, reads, f"{name} {task}")


def place(one: Asked, work: Path) -> Path:
    """Where a cell is kept."""
    return work / f"{one.name.replace(', ', '-').replace(' ', '-')}-{one.cell.seed}.json"


def measured(one: Asked, work: Path) -> dict[str, Any]:
    """Nats, bytes and missed bytes of every row, by way and length; trained if there is no file."""
    file = place(one, work)
    if not file.exists():
        begun = time.process_time()
        model = trained(one.cell, one.budget)
        found: dict[str, Any] = {
            f"{way} {n}".strip(): answers(model, one.cell.task, way, n, SAMPLES, first=one.cell.seed * SAMPLES)
            for way, n in one.reads
        }
        write_text(file, json.dumps({"answers": found, "seconds": time.process_time() - begun}))
        print(f"{one.name} {one.cell.seed}: {time.process_time() - begun:.0f} s", flush=True)
    kept: dict[str, Any] = json.loads(file.read_text())
    return kept


def loss(seen: Seen, name: str, at: str | int) -> float:
    """Nats per byte of texts; ``at`` is a length, behind a way if any."""
    rows = seen[f"{name} {TEXT}"]["answers"][str(at)]
    return float(sum(nats for nats, _, _ in rows) / sum(n for _, n, _ in rows))


def exact(seen: Seen, name: str) -> float:
    """Share of rows without a fault, over tasks and lengths beyond the window."""
    return _over_tasks(seen, name, lambda n, missed: float(missed == 0))


def by_byte(seen: Seen, name: str) -> float:
    """Share of an answer's bytes that are right, over tasks and lengths beyond the window."""
    return _over_tasks(seen, name, lambda n, missed: 1 - missed / n)


def _over_tasks(seen: Seen, name: str, score: Callable[[int, int], float]) -> float:
    found = [seen[f"{name} {task}"]["answers"][str(n)] for task in TASKS for n in BEYOND]
    return float(np.mean([score(n, missed) for rows in found for _, n, missed in rows]))


@dataclass(frozen=True)
class Claim:
    """A relation of a paper.

    Attributes:
        paper: arXiv id.
        claim: in words.
        of: the difference that is measured of a seed.
        sign: on which side of zero the paper has it.
    """

    paper: str
    claim: str
    of: Callable[[Seen], float]
    sign: int


def lower(paper: str, claim: str, ours: tuple[str, str | int], theirs: tuple[str, str | int]) -> Claim:
    """A loss is below another."""
    return Claim(paper, claim, lambda seen: loss(seen, *ours) - loss(seen, *theirs), -1)


def flatter(paper: str, ours: str, theirs: str) -> Claim:
    """A loss rises less from the window to four of it."""

    def rise(seen: Seen, name: str) -> float:
        return loss(seen, name, FAR) - loss(seen, name, L)

    claim = f"the loss of {ours} rises less from {L} to {FAR} bytes than that of {theirs}"
    return Claim(paper, claim, lambda seen: rise(seen, ours) - rise(seen, theirs), -1)


def more(paper: str, measure: Callable[[Seen, str], float], what: str, ours: str, theirs: str) -> Claim:
    """More is right beyond the window."""
    claim = f"{ours} gets more {what} beyond the window right than {theirs}"
    return Claim(paper, claim, lambda seen: measure(seen, ours) - measure(seen, theirs), 1)


ROWS, BYTES = "rows", "bytes"
CLAIMS = (
    *(more("2305.19466", exact, ROWS, "nope", other) for other in ("t5", "alibi", "rope", "sinusoidal")),
    *(more("2305.19466", exact, ROWS, "t5", other) for other in ("alibi", "rope", "sinusoidal")),
    *(more("2305.16843", by_byte, BYTES, "randomized", other) for other in ("rope", "alibi", "sinusoidal")),
    *(lower("2310.04418", f"FIRE's loss at {FAR} bytes is below that of {other}", ("fire", FAR), (other, FAR))
      for other in ("alibi", "t5", "rope", "sinusoidal", "nope")),
    *(lower("2212.10554", f"xPos's loss with blockwise attention at {FAR} bytes is below that of {other}",
            ("xpos", f"bca {FAR}"), (other, FAR)) for other in ("alibi", "rope", "sinusoidal")),
    lower("2212.10554", f"xPos's loss with blockwise attention at {FAR} bytes is below that at {L}",
          ("xpos", f"bca {FAR}"), ("xpos", L)),
    lower("2503.08067", f"Cable, trained at {L} bytes, has at {TWICE} a loss below that of sinusoids trained there",
          ("cable", TWICE), (LONGER_NAME, TWICE)),
    *(lower("2503.08067", f"Cable's loss at {FAR} bytes is below that of {other}", ("cable", FAR), (other, FAR))
      for other in ("alibi", "t5", "rope", "sinusoidal")),
    flatter("2412.17739", "fope", "rope"),
    flatter("2412.17739", "fope", "alibi"),
    lower("2501.13428", f"softplus attention's loss at {FAR} bytes is below that of softmax with RoPE",
          ("softplus", FAR), ("rope", FAR)),
    lower("2501.13428", f"softplus attention's loss at {FAR} bytes, re-weighted, is below that of softmax with RoPE",
          ("softplus", f"reweight {FAR}"), ("rope", FAR)),
    lower("2501.13428", f"re-weighting lowers the loss of softplus attention at {FAR} bytes",
          ("softplus", f"reweight {FAR}"), ("softplus", FAR)),
    *(lower("2310.13017", f"interpolation lowers ALiBi's loss at {n} bytes", ("alibi", f"pi {n}"), ("alibi", n))
      for n in (TWICE, FAR)),
)  # fmt: skip


def judged(one: Claim, seeds: Sequence[Seen]) -> dict[str, Any]:
    """A claim with its interval over the seeds of which all that it needs is there; judged when that is of all."""
    values = []
    for seen in seeds:
        try:
            values.append(one.of(seen))
        except KeyError:
            continue
    found: dict[str, Any] = {"source": one.paper, "claim": one.claim, "n": len(values), "verdict": "not measured",
                             "model": "the lab's"}  # fmt: skip
    if values:
        seen = over_seeds(values)
        found |= {"measured": seen.value, "low": seen.low, "high": seen.high, "by seed": values,
                  "on the paper's side": sum(one.sign * value > 0 for value in values)}  # fmt: skip
        if len(values) < len(seeds):
            found["verdict"] = f"not judged: {len(values)} of {len(seeds)} seeds"
        elif seen.low is None or seen.high is None:
            found["verdict"] = "one seed"
        else:
            found["verdict"] = verdict(one.sign, seen)
            found["holds"] = found["verdict"] == "holds"
    return found


def verdict(sign: int, seen: Mean) -> str:
    """By which side of zero the whole interval is on."""
    assert seen.low is not None and seen.high is not None
    near, far = sorted((sign * seen.low, sign * seen.high))
    return "holds" if near > 0 else "refuted" if far < 0 else "not shown"


def over_seeds(values: Sequence[float]) -> Mean:
    return cluster_mean(values, np.ones(len(values)))


def tables(seeds: Sequence[Seen]) -> dict[str, Any]:
    """What stands behind the claims: losses by reading and length, and shares of right rows and bytes by task."""
    reads = [(f"{name} {TEXT}", f"{way} {n}".strip()) for name, ways in READ_TEXT.items() for way in ways
             for n in TEXTS if not way or n > L] + [(f"{LONGER_NAME} {TEXT}", str(TWICE))]  # fmt: skip
    losses: dict[str, Any] = {}
    for cell, at in reads:
        name = cell.removesuffix(f" {TEXT}")
        if values := [loss(seen, name, at) for seen in seeds if cell in seen]:
            losses.setdefault(name, {})[at] = asdict(over_seeds(values))
    shares: dict[str, Any] = {}
    for task in TASKS:
        for name in READ_TASKS:
            rows = {n: [seen[f"{name} {task}"]["answers"][str(n)] for seen in seeds if f"{name} {task}" in seen]
                    for n in (OF_TASKS.window, *BEYOND)}  # fmt: skip
            for n, of in rows.items():
                if of:
                    whole, part = ([float(np.mean([score(one) for one in seed])) for seed in of]
                                   for score in (_whole, _part))  # fmt: skip
                    shares.setdefault(task, {}).setdefault(name, {})[str(n)] = {
                        "rows": asdict(over_seeds(whole)), "bytes": asdict(over_seeds(part))}  # fmt: skip
    return {"loss": losses, "right": shares}


def _whole(row: Sequence[float]) -> float:
    return float(row[2] == 0)


def _part(row: Sequence[float]) -> float:
    return 1 - row[2] / row[1]


def sizes() -> dict[str, Any]:
    """All that what is kept depends on, but code."""
    return {"budgets": [asdict(one) for one in (OF_TEXT, LONGER, OF_TASKS)], "samples": SAMPLES, "texts": TEXTS,
            "beyond": BEYOND}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-encodings"))
    parser.add_argument("--report", action="store_true", help="judge what is there, and train nothing")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    asked, kept = json.dumps(sizes(), indent=1), given.work / "asked.json"
    if kept.exists() and kept.read_text() != asked:
        raise SystemExit(f"{given.work} is of a run of other sizes: rm -r {given.work}, or choose another --work")
    write_text(kept, asked)
    seeds: list[dict[str, Any]] = [{} for _ in range(given.seeds)]
    missing = []
    for one in cells(given.seeds):
        if given.report and not place(one, given.work).exists():
            missing.append(f"{one.name} {one.cell.seed}")
        else:
            seeds[one.cell.seed][one.name] = measured(one, given.work)
    found = {
        "rows": [judged(one, seeds) for one in CLAIMS], **tables(seeds), **sizes(), "seeds": given.seeds,
        "missing": missing, "core minutes": sum(one["seconds"] for seen in seeds for one in seen.values()) / 60,
        "command": f"python claims/encodings.py --json {given.json}", "torch": torch.__version__,
        "transformers": transformers.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
    write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
