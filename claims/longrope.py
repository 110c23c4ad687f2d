"""LongRoPE's claim (arXiv 2402.13753): without training, searched factors beat PI, NTK and YaRN at their best factor.

    python claims/longrope.py --json claims/results/longrope.json
    python claims/longrope.py --model SMOLLM2 --dtype float32 --to 16k --data PROSE --searched 2 --others 6 \
        --rounds 8 --rivals yarn --stretches 0.75,1,1.5 --json claims/results/longrope-smollm2.json

The search is that of ``ropewalk fit``, with ``--rounds`` one of so many steps, a text each, and without a front. The
factor of each rival is chosen of several, on the same texts that the search reads. All are then read on other texts:
``ratio`` is the perplexity of the second half of each with the found factors over that with the rival, paired by text.
What was measured stays in ``--work``, and a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

import ropewalk
from ropewalk.common.lengths import parse
from ropewalk.common.statistics import exp, ratio
from ropewalk.common.store import SampleStore
from ropewalk.fitting.fitter import Ground
from ropewalk.fitting.rope_factors import SEEDS, RopeFactors, as_factors
from ropewalk.fitting.scoring import Scoring
from ropewalk.methods.base import Method
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.frequencies.none import Plain
from ropewalk.rope.config import trained_window
from ropewalk.texts.documents import load, tokenise
from ropewalk.texts.opening import opening
from ropewalk.texts.pieces import TokenUnits

STRETCHES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of target over window


def losses(scoring: Scoring, method: Method) -> list[float]:
    return scoring.whole(method).tolist()


def rivals(scoring: Scoring, to: int, names: list[str], stretches: list[float]) -> dict[str, tuple[float, LongRoPE]]:
    """Of each, the best stretch, and the method as factors."""
    config, found = scoring.ground.model.config, {}
    for seed in (seed for seed in SEEDS if seed.id in names):
        tried = []
        for stretch in stretches:
            method = as_factors(seed, config, max(round(stretch * to), trained_window(config)))
            tried.append((sum(losses(scoring, method)), stretch, method))
        found[seed.id] = min(tried, key=lambda one: one[0])[1:]
    return found


def seen(scoring: Scoring, ours: Method, theirs: Method) -> dict[str, Any]:
    mine, yours = losses(scoring, ours), losses(scoring, theirs)
    return {**asdict(ratio(mine, yours)), "perplexity": exp(sum(yours) / len(yours))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--to", default="4k")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--searched", type=int, default=5, help="texts that are searched on")
    parser.add_argument("--others", type=int, default=16, help="texts that are read in the end, at most")
    parser.add_argument("--rounds", type=int, default=0, help="steps of a short search")
    parser.add_argument("--rivals", default=",".join(seed.id for seed in SEEDS))
    parser.add_argument(
        "--stretches", default=",".join(map(str, STRETCHES)), help="of the rivals: of target over window"
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-longrope"))
    given = parser.parse_args()
    to = parse(given.to)
    model, tokenizer = ropewalk.load(given.model, dtype=given.dtype)
    bos, every = opening(tokenizer), tokenise(load(given.data), tokenizer, 2).values()
    long = sorted(ids[:to] for ids in every if len(ids) >= to)
    assert len(long) > 2 * given.searched, f"{len(long)} texts of {to:,} tokens are too few"
    given.work.mkdir(parents=True, exist_ok=True)
    with SampleStore(given.work / f"candidates-{to}") as records:
        ground = Ground(model, long[: 2 * given.searched], bos, given.searched, trained_window(model.config), to,
                        progress=lambda done, total, words="": print(f"{done}/{total} {words}", flush=True),
                        units=TokenUnits(tokenizer), records=records)  # fmt: skip
        texts = ground.halves(to).searched
        begun = time.time()
        search = RopeFactors(rounds=given.rounds, batch=1, front=False) if given.rounds else RopeFactors()
        found = search.search(LongRoPE(), ground)
        ours, seconds = LongRoPE(**found.options), time.time() - begun
        stretches = list(map(float, given.stretches.split(",")))
        best = rivals(Scoring.of_texts(ground, texts), to, given.rivals.split(","), stretches)
        last = Scoring.of_texts(ground, torch.tensor(long[2 * given.searched :][: given.others]))
        rows = {name: {"stretch": stretch, **seen(last, ours, method)} for name, (stretch, method) in best.items()}
        rows["none"] = seen(last, ours, Plain())
        mine = losses(last, ours)
    for name, row in rows.items():
        print(f"{row['value']:.3f} ({row['low']:.3f} .. {row['high']:.3f}) of the perplexity of {name}, "
              f"{row['perplexity']:.2f}, at {row.get('stretch', 1)} s")  # fmt: skip
    content = {
        "model": Path(given.model).name, "to": to, "data": Path(given.data).name, "searched": len(texts),
        "seconds": round(seconds), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "transformers": transformers.__version__, "machine": platform.machine(), "dtype": given.dtype,
        "perplexity": exp(sum(mine) / len(mine)),
        "options": found.options, "seen": {k: v for k, v in found.seen.items() if k != "front"}, "against": rows,
    }  # fmt: skip
    given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
