"""The suite ruler-lite against RULER's 500 samples per task: tokens read, and how sure the average is.

    python bench/ruler_lite.py [--quick] --json FILE

Tokens: the trie of all prompts (every shared beginning counts once) and all tokens kept for answers, against 13 x 500
prompts of the whole length. Standard error, in points: simulated averages over 13 tasks of equal accuracy, which is the
worst case for a given average; questions about one context are beta-binomial with a given intraclass correlation.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.evaluation.samples import Cell, QuestionCell, cells
from ropewalk.tasks.suites import possible, suite

OFFICIAL = 500  # samples of each task
ACCURACIES = (0.5, 0.85)
CORRELATIONS = (0.0, 1.0)


def planned(length: int, tokenizer: PreTrainedTokenizerBase) -> list[Cell]:
    """The cells of the suite at one length, with stand-ins for the questions."""
    lite, _ = possible(suite("ruler-lite"), {})
    found, skipped = cells(lite.tasks, [length], lite.samples, [0.0, 1.0], 0, tokenizer, contexts=lite.contexts)
    if skipped:
        raise SystemExit(f"{skipped[0].task} does not fit into {length} tokens: {skipped[0].reason}")
    return found


def tokens(cell: Cell) -> int:
    """Tokens of the trie of a cell's prompts, and room for all answers."""
    samples = list(cell.samples(range(len(cell))))
    prompts = sorted(sample.prompt for sample in samples)
    shared = sum(common(a, b) for a, b in pairwise(prompts))
    return sum(map(len, prompts)) - shared + sum(sample.room for sample in samples)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def sizes(cell: Cell) -> list[int]:
    """How many questions each context has."""
    assert isinstance(cell, QuestionCell)
    return np.unique([context for context, _ in cell.places], return_counts=True)[1].tolist()


def standard_error(sizes: Sequence[Sequence[int]], accuracy: float, correlation: float, runs: int) -> float:
    """Spread of the average over tasks in ``runs`` simulated evaluations, in points."""
    rng = np.random.default_rng(0)
    means = []
    for task in sizes:
        if correlation == 0:
            chances = np.full((runs, len(task)), accuracy)
        elif correlation == 1:
            chances = (rng.random((runs, len(task))) < accuracy).astype(float)
        else:
            pairs = 1 / correlation - 1
            chances = rng.beta(accuracy * pairs, (1 - accuracy) * pairs, (runs, len(task)))
        means.append(rng.binomial(task, chances).sum(1) / sum(task))
    return 100 * float(np.mean(means, axis=0).std(ddof=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Checkpoint.open("demo").tokenizer()
    rows: list[dict[str, Any]] = []

    def row(name: str, ours: float, peer: float, unit: str, n: int, **setting: object) -> None:
        rows.append({"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": unit, "n": n,
                     "setting": {"peer": f"{OFFICIAL} samples of each of 13 tasks", **setting}})  # fmt: skip
        print(f"{name}: {ours:.4g} against {peer:.4g} {unit}")

    for length in (4096,) if arguments.quick else (4096, 8192, 16384):
        found = planned(length, tokenizer)
        n = sum(map(len, found))
        read = sum(map(tokens, found))
        row(f"ruler-lite, tokens read at {length}", read, OFFICIAL * len(found) * length, "tokens", n, tokenizer="demo")
    contexts, runs = [sizes(cell) for cell in found], 2000 if arguments.quick else 20000
    official = [[1] * OFFICIAL] * len(contexts)
    for accuracy in ACCURACIES:
        theirs = standard_error(official, accuracy, 0.0, runs)
        for correlation in CORRELATIONS:
            ours = standard_error(contexts, accuracy, correlation, runs)
            setting = {"accuracy": accuracy, "intraclass_correlation": correlation}
            name = f"ruler-lite, standard error at {accuracy:.0%}, correlation {correlation:.1f}"
            row(name, ours, theirs, "points", runs, **setting)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
