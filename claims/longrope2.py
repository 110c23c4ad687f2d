"""LongRoPE2's claim (arXiv 2502.20082): a search by needles raises the effective length over one by perplexity.

    python claims/longrope2.py --json claims/results/longrope2.json

On the bundled model (window 512) to 4,096 tokens, without training: the same searches, once told apart by the losses of
far tokens and once by those of answers alone, on the same texts. What is found is then asked for other needles, in
other texts, at every length; beside it YaRN. The effective length is the longest at which, and below which, the share
of right answers is at least ``PASS``. What was measured stays in ``--work``, and a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

import ropewalk
from ropewalk.backends.nll import answer_match
from ropewalk.common.statistics import LengthScore, Tally, average, effective_length, mcnemar
from ropewalk.common.store import SampleStore
from ropewalk.fitting.fitter import Ground
from ropewalk.fitting.rope_factors import RopeFactors
from ropewalk.methods.base import Method
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.frequencies.yarn import YaRN
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.texts.documents import load, tokenise
from ropewalk.texts.opening import opening
from ropewalk.texts.pieces import TokenUnits

TO, PASS = 4096, 0.8
LENGTHS = (512, 1024, 2048, 3072, 4096)
SEARCHES: dict[str, dict[str, Any]] = {
    "descent by perplexity": {},
    "descent by needles": {"by": "needles"},
    "longrope2 by perplexity": {"space": "longrope2", "rounds": 10},
    "longrope2 by needles": {"space": "longrope2", "rounds": 10, "by": "needles"},
}


def asked(model: Any, method: Method, units: TokenUnits, texts: list[list[int]], count: int) -> dict[int, list[bool]]:
    """Whether each needle is found, by length; the same needles for every method."""
    found: dict[int, list[bool]] = {}
    with method.on(model, TO):
        for n in LENGTHS:
            chance, found[n] = random.Random(f"asked/{n}"), []
            for i in range(count):
                task = NeedleInHaystack(tuple(texts[i % len(texts)]), start=0)
                one = task.sample(n, chance, units, (i + 0.5) / count)
                found[n] += [right for right, _ in answer_match(model, [one.prompt], [one.answer])]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--searched", type=int, default=5, help="texts that are searched on")
    parser.add_argument("--count", type=int, default=40, help="needles per length")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-longrope2"))
    given = parser.parse_args()
    model, tokenizer = ropewalk.load("demo", dtype=given.dtype)
    units, every = TokenUnits(tokenizer), tokenise(load(given.data), tokenizer, 2).values()
    long = sorted(ids[:TO] for ids in every if len(ids) >= TO)
    aside = [ids[1:] for ids in long[2 * given.searched :]]
    given.work.mkdir(parents=True, exist_ok=True)
    right: dict[str, dict[int, list[bool]]] = {"yarn": asked(model, YaRN(), units, aside, given.count)}
    rows: dict[str, Any] = {}
    with SampleStore(given.work / "candidates") as records:
        ground = Ground(model, long[: 2 * given.searched], opening(tokenizer), given.searched, 512, TO,
                        progress=lambda done, total, words="": print(f"{done}/{total} {words}", flush=True),
                        units=units, records=records)  # fmt: skip
        for name, options in SEARCHES.items():
            found = RopeFactors(**options).search(LongRoPE(), ground)
            right[name] = asked(model, LongRoPE(**found.options), units, aside, given.count)
            rows[name] = {"options": found.options, "tokens": found.seen["tokens of all candidates"]}
    for name, answers in right.items():
        shares = {n: average([Tally.of([[float(one)] for one in some])]) for n, some in answers.items()}
        bounds = [LengthScore(n, one.value, float(one.low or 0), float(one.high or 1)) for n, one in shares.items()]
        reach = effective_length(bounds, PASS)
        rows.setdefault(name, {})
        rows[name] |= {"found": {n: asdict(one) for n, one in shares.items()}, "effective length": asdict(reach)}
        print(f"{name:26s} {reach.value:5d} ({reach.low} .. {reach.high}) "
              f"{ {n: round(one.value, 2) for n, one in shares.items()} }", flush=True)  # fmt: skip
    for space in ("descent", "longrope2"):
        pairs = [(a, b) for n in LENGTHS for a, b in zip(right[f"{space} by needles"][n],
                                                         right[f"{space} by perplexity"][n], strict=True)]  # fmt: skip
        only = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        rows[f"{space}, needles against perplexity"] = {"only needles": only[0], "only perplexity": only[1],
                                                        "p": mcnemar(*only)}  # fmt: skip
        print(f"{space}: {only[0]} needles by needles alone, {only[1]} by perplexity alone, p {mcnemar(*only):.3g}")
    content = {"to": TO, "pass": PASS, "needles per length": given.count, "data": given.data, "rows": rows,
               "torch": torch.__version__, "transformers": transformers.__version__,
               "machine": platform.machine(), "dtype": given.dtype}  # fmt: skip
    given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
