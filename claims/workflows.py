"""Retrieval, long context, or both? Strategies beside the model's own long window, at equal tokens and without a bound.

    python claims/workflows.py --json claims/results/workflows.json
    python claims/workflows.py --model SMOLLM2 --window 1k --lengths 4k,16k --samples 10 \
        --json claims/results/workflows-smollm2.json

On the bundled model (window 512) at 4 and 16 windows: the model extended without training reads everything (full); the
plain model reads within its window by a strategy; and retrieval fills the window of a model that is extended by four
(both, arXiv 2310.03025). Answers are known, so that nobody judges. ``--window`` is what a call of a strategy may have,
where that is less than the model's own: strategies can then be tried on a model whose own window is long.

With ``--spend 1`` a strategy may use the tokens that the whole prompt has, prompts and answers of all its calls
together; with 0 there is no bound. Rows are scores with their 95 % intervals, and what a question cost. Every sample
and every call is kept in ``--work``: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import ropewalk
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.lengths import parse, show, span
from ropewalk.common.whole import write_text
from ropewalk.report.schema import Results
from ropewalk.rope.config import trained_window

STRATEGIES = ("truncation", "rag", "xl3m", "chain-of-agents(unit={unit})", "memory-agent(memory={unit})")
METHODS = ("none", "yarn", "self-extend")
TASKS = ("passkey", "niah")
BOTH = 4  # windows of the extended model that retrieval fills


def rows_of(results: Results, length: int, spend: float, where: str) -> list[dict[str, Any]]:
    """Scores at one length, and what a question cost."""
    costs = {(one.method, cost.length): cost for one in results.subjects for cost in one.costs}
    found = []
    for row in results.rows:
        if row.length != length or row.depth is not None or row.start is not None:
            continue
        cost = costs.get((row.method, length))
        found.append({
            "where": where, "read by": row.method, "task": row.task, "length": length, "spend": spend,
            "score": row.value, "low": row.low, "high": row.high, "n": row.n,
            "tokens": cost.tokens if cost else float(length), "calls": cost.calls if cost else 1.0,
        })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--window", default="")
    parser.add_argument("--lengths", default="2k,8k")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--spends", default="1,0")
    parser.add_argument("--unit", type=int, default=32, help="tokens that calls tell each other")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--bare", action="store_true", help="without controls, which are half of the long prompts")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-workflows"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    own = trained_window(Checkpoint.open(given.model).config)
    window, strategies = (
        parse(given.window) if given.window else own,
        [one.format(unit=given.unit) for one in STRATEGIES],
    )
    rows: list[dict[str, Any]] = []

    def measured(name: str, length: int, spend: float, where: str, **more: Any) -> None:
        ask = partial(ropewalk.compare, to=length) if given.bare else ropewalk.evaluate
        outcome = ask(
            name, lengths=[length], tasks=given.tasks, samples=given.samples, spend=spend,
            dtype=given.dtype, out=given.work / show(length), overwrite=True, **more,
        )  # fmt: skip
        new = rows_of(outcome.results, length, spend, where)
        rows.extend(one for one in new if one not in rows)
        write_text(given.json, json.dumps(content(), indent=1) + "\n")
        for one in new:
            score = f"{one['score']:.2f} ({one['low']:.2f} .. {one['high']:.2f})"
            print(f"{where:6s} {one['read by']:32s} {one['task']:8s} {length:6,} {score} {one['tokens']:8,.0f} tokens, "
                  f"spend {spend:g}", flush=True)  # fmt: skip

    def content() -> dict[str, Any]:
        return {
            "model": Path(given.model).name, "window": window, "unit": given.unit, "rows": rows,
            "torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine(),
        }  # fmt: skip

    for length in span(given.lengths):
        measured(given.model, length, 1, "full", methods=given.methods if length > own else "none")
        for spend in map(float, given.spends.split(",")):
            measured(given.model, length, spend, "parts", strategies=strategies, window=window)
            longer = given.work / "longer"
            if window == own:
                if not longer.exists():
                    ropewalk.extend(given.model, to=BOTH * own, method="yarn", out=longer)
                measured(str(longer), length, spend, "both", strategies=["rag(k=100)"], window=BOTH * own)
            else:  # a window that is the model's own, and longer than that of the parts
                wide = min(BOTH * window, own)
                measured(given.model, length, spend, "both", strategies=["rag(k=100)"], window=wide)


if __name__ == "__main__":
    main()
