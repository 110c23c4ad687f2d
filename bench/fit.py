"""A search for LongRoPE's factors: ours against the paper's genetic one, on the bundled model at eight windows.

    python bench/fit.py [--quick] [--seeds 5] [--searched 3] [--dtype bfloat16] --json FILE

Both search on the same texts of 4,096 tokens (of the standard library; the paper reads three books), from the same
seeds of chance. Ours is what ``ropewalk fit --method longrope`` does: a spline's coordinates by CMA-ES, candidates
that surely lose dropped. The peer is the paper's (arXiv 2402.13753): 64 individuals and 40 rounds of 32 children, every
one of them on all texts: on three of them 16.5 M tokens a seed, more than an hour of one core. Where the CPU has no
bfloat16 of its own, float32 is twice as fast.

``ours`` and ``peer`` are the tokens that were read while searching, and the perplexity of the second half of other
texts. ``ratio`` is ours / peer; of perplexities with its 95 % interval, paired by text. For the peer, tokens are
those of its long texts alone; ours are all, with those that tell the tax on short ones. Rows of all seeds come last.
What was measured stays in ``--work``, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers

import ropewalk
from ropewalk.common.statistics import exp, ratio
from ropewalk.common.store import SampleStore
from ropewalk.fitting.fitter import Ground
from ropewalk.fitting.rope_factors import RopeFactors
from ropewalk.fitting.scoring import Scoring
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.texts.documents import load, tokenise

TEXTS = 21  # those that are searched on; as many that tell the fitter of chance, between them; all others
QUICK = {"to": 1024, "peer": {"rounds": 1}, "ours": {"rounds": 2}}
FULL = {"to": 4096, "peer": {}, "ours": {}}


def searched(who: str, fitter: RopeFactors, ground: Ground) -> tuple[LongRoPE, dict[str, Any]]:
    def tell(done: int, total: int, words: str = "") -> None:
        print(f"{who}, seed {fitter.seed}: {done} of {total} rounds, {words}", flush=True)

    found = fitter.search(LongRoPE(), replace(ground, progress=tell))
    return LongRoPE(**found.options), found.seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, at two windows")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--searched", type=int, default=3, help="texts that are searched on")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-fit"))
    given = parser.parse_args()
    scale: dict[str, Any] = QUICK if given.quick else FULL
    to, aside = scale["to"], 2 * given.searched
    model, tokenizer = ropewalk.load("demo", dtype=given.dtype)
    long = [ids[:to] for ids in tokenise(load("stdlib"), tokenizer, 2).values() if len(ids) >= to][:TEXTS]
    bos = long[0][:1]
    rows: list[dict[str, Any]] = []
    common = {
        "to": to, "texts": given.searched, "other texts": len(long) - aside, "torch": torch.__version__,
        "transformers": transformers.__version__, "machine": platform.machine(), "dtype": given.dtype,
    }  # fmt: skip

    def told(name: str, unit: str, ours: float, peer: float, **setting: Any) -> None:
        row = {"name": name, "unit": unit, "ours": ours, "peer": peer, "ratio": ours / peer}
        rows.append({**row, "setting": {**common, **setting}})
        print(f"{name}: {ours:.6g} against {peer:.6g} {unit}, ratio {ours / peer:.4f} {setting}", flush=True)
        given.json.write_text(json.dumps(rows, indent=1) + "\n")

    given.work.mkdir(parents=True, exist_ok=True)
    with SampleStore(given.work / f"candidates-{to}-{given.dtype}") as records:
        ground = Ground(model, long[:aside], bos, aside, 512, to, records=records)
        others = Scoring.of_texts(ground, torch.tensor(long[aside:]))
        for seed in range(given.seeds):
            ours, quick = searched("ours", RopeFactors(seed=seed, **scale["ours"]), ground)
            genetic = RopeFactors(space="longrope", race=False, seed=seed, **scale["peer"])
            theirs, slow = searched("the paper's", genetic, ground)
            losses = [[others.far(one, row).mean() for row in range(len(others.rows))] for one in (ours, theirs)]
            tokens = quick["tokens of all candidates"], slow["candidates"] * given.searched * to
            told("tokens read", "tokens", *tokens, seed=seed, candidates=[quick["candidates"], slow["candidates"]])
            between = asdict(ratio(*losses))
            ppl = [exp(statistics.fmean(some)) for some in losses]
            told("perplexity of other texts", "", *ppl, seed=seed, interval=[between["low"], between["high"]])
    for name in ("tokens read", "perplexity of other texts"):
        pairs = [(row["ours"], row["peer"]) for row in rows if row["name"] == name]
        middle = [statistics.median(side) for side in zip(*pairs, strict=True)]
        told(f"{name}, median of {given.seeds} seeds", rows[0]["unit"] if "tokens" in name else "", *middle,
             aim=0.1 if "tokens" in name else 1.0)  # fmt: skip


if __name__ == "__main__":
    main()
