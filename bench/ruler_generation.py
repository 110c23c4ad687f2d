"""RULER's prompts: assembled from tokens that are known, against tokenising the text of every prompt.

    python bench/ruler_generation.py [--quick] --json FILE

The peer encodes each prompt's text once, the least that a generator working on text can do: RULER's scripts do it once
per sample and again and again while they search for the length. Building the text is left out of the peer's time. Both
run in this process with the bundled model's tokenizer, one after the other on the same samples, and must agree: the
encoded text has as many tokens as the assembled prompt, but for a few where natural text is cut inside a word.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import transformers

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.tasks.ruler import CONFIGURATIONS, STAND_INS
from ropewalk.tasks.task import Task
from ropewalk.texts.builtin import topics
from ropewalk.texts.documents import token_ids
from ropewalk.texts.pieces import TokenUnits

FAR = 8  # tokens


def tasks(units: TokenUnits) -> list[Task]:
    """All configurations: essays are Python's language reference, questions are about made-up facts."""
    haystack = tuple(token_ids(topics(), units.tokenizer))
    ends = frozenset(i for i in set(haystack) if units.decode([i]).rstrip().endswith((".", "!", "?")))
    made = []
    for name, (place, options) in (CONFIGURATIONS | STAND_INS).items():
        if name in ("qa_1", "qa_2"):
            continue
        module, _, make = place.partition(":")
        if options.get("hay") == "essay":
            options = {**options, "haystack": haystack, "sentence_ends": ends}
        if name.startswith("niah"):
            options = {**options, "name": name}
        made.append(getattr(importlib.import_module(module), make)(**options))
    return made


def measure(task: Task, length: int, n: int, warm_up: int, units: TokenUnits) -> dict[str, Any]:
    """One row of results; the tokens of most pieces are known after ``warm_up`` samples."""
    for seed in range(warm_up):
        task.sample(length, random.Random(f"warm-up/{seed}"), units)

    began = time.process_time()
    samples = [task.sample(length, random.Random(seed), units) for seed in range(n)]
    ours = n / (time.process_time() - began)

    prompts = [sample.prompt[len(units.bos) :] for sample in samples]
    texts = [units.decode(prompt) for prompt in prompts]
    began = time.process_time()
    encoded = [units.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    peer = n / (time.process_time() - began)

    for assembled, whole in zip(prompts, encoded, strict=True):
        if abs(len(assembled) - len(whole)) > FAR:
            raise SystemExit(f"{task.name}: {len(assembled)} tokens assembled, {len(whole)} when the text is encoded")
    return {
        "name": f"{task.name} at {length} tokens",
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "unit": "samples/s",
        "n": n,
        "setting": {
            "peer": "one encoding of each prompt's text, as RULER's scripts do at least once per sample",
            "tokenizer": "demo",
            "warm_up": warm_up,
            "threads": 1,
            "transformers": transformers.__version__,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each
    tokenizer = Checkpoint.open("demo").tokenizer()
    units = TokenUnits(tokenizer)
    settings = [(4096, 50, 300)] if arguments.quick else [(4096, 200, 1000), (131072, 10, 30)]
    rows = []
    for task in tasks(units):
        for length, n, warm_up in settings:
            rows.append(measure(task, length, n, warm_up, units))
            print(f"{rows[-1]['name']}: {rows[-1]['ours']:.0f} samples/s against {rows[-1]['peer']:.0f}")
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
