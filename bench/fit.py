"""A search for LongRoPE's factors: ours against the paper's genetic one, on the bundled model at eight windows.

    python bench/fit.py [--quick] [--seeds 5] [--searched 3] [--dtype bfloat16] --json FILE

Ours is what ``ropewalk fit --method longrope`` does: every factor descends along its gradient, two texts a step. The
peer is the paper's (arXiv 2402.13753): 64 individuals and 40 rounds of 32 children, every one of them on all texts, of
4,096 tokens (of the standard library; the paper reads three books): on three of them 16.5 M tokens a seed, more than an
hour of one core. Where the CPU has no bfloat16 of its own, float32 is twice as fast.

A step costs the same however many texts there are, so that ours reads ``OURS`` pieces, of the peer's documents and four
more; beside it stands the same descent on the peer's texts alone. It draws nothing: seeds are the peer's.

``ours`` and ``peer`` are the tokens that were read while searching, and the perplexity of the second half of other
texts, which neither has seen. ``ratio`` is ours / peer; of perplexities with its 95 % interval, paired by text. For the
peer, tokens are those of its long texts alone; ours are all, with those that tell the tax on short ones, and two more
for every token that a gradient went back through. Ours is without a front of long texts against short ones
(``front=false``), which the peer does not look for. Rows of all seeds come last. What was measured stays in ``--work``,
and a run that was stopped goes on.
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
from ropewalk.common.naming import counted
from ropewalk.common.statistics import exp, ratio
from ropewalk.common.store import SampleStore
from ropewalk.fitting.fitter import Ground
from ropewalk.fitting.rope_factors import RopeFactors
from ropewalk.fitting.scoring import Scoring
from ropewalk.fitting.searching import TOKENS
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.texts.documents import load, tokenise

TEXTS = 21  # documents: those that the peer searches on; as many that tell it of chance, between them; all others
OURS = 8  # pieces that ours searches on
QUICK = {"to": 1024, "peer": {"rounds": 1}, "ours": {"rounds": 4}}
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
    whole = [ids for ids in tokenise(load("stdlib"), tokenizer, 2).values() if len(ids) >= to]
    long, bos = [ids[:to] for ids in whole[:TEXTS]], whole[0][:1]
    unseen = [[*bos, *ids[to : 2 * to - 1]] for ids in whole[aside:TEXTS] if len(ids) >= 2 * to]
    rows: list[dict[str, Any]] = []
    common = {
        "to": to, "other texts": len(unseen), "torch": torch.__version__,
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
        more = replace(ground, documents=[*whole[:aside], *whole[TEXTS:]], samples=OURS)
        others = Scoring.of_texts(ground, torch.tensor(unseen))
        descents = {count: searched("ours", RopeFactors(front=False, **scale["ours"]), one)
                    for count, one in ((OURS, more), (given.searched, ground))}  # fmt: skip
        for seed in range(given.seeds):
            genetic = RopeFactors(space="longrope", race=False, seed=seed, **scale["peer"])
            theirs, slow = searched("the paper's", genetic, ground)
            peers = others.whole(theirs).tolist()
            for count, (ours, quick) in descents.items():
                texts = {"seed": seed, "texts": [count, given.searched]}
                tokens, peer = quick[TOKENS], slow["candidates"] * given.searched * to
                told("tokens read", "tokens", tokens, peer, **texts,
                     candidates=[quick["candidates"], slow["candidates"]])  # fmt: skip
                own = others.whole(ours).tolist()
                between = asdict(ratio(own, peers))
                ppl = [exp(statistics.fmean(some)) for some in (own, peers)]
                told("perplexity of other texts", "", *ppl, **texts, interval=[between["low"], between["high"]])
    for name, unit, aim in (("tokens read", "tokens", 0.1), ("perplexity of other texts", "", 1.0)):
        for count in descents:
            texts = [count, given.searched]
            pairs = [(one["ours"], one["peer"]) for one in rows
                     if one["name"] == name and one["setting"]["texts"] == texts]  # fmt: skip
            middle = [statistics.median(side) for side in zip(*pairs, strict=True)]
            told(f"{name}, median of {counted(given.seeds, 'seed')}", unit, *middle, aim=aim, texts=texts)


if __name__ == "__main__":
    main()
