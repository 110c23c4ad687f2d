"""What a throw-away adapter adds: perplexity of long texts by Temp-LoRA, against windows alone, none and YaRN.

    python claims/memory/temp_lora.py --json claims/results/memory/temp_lora.json [--texts 3]

Temp-LoRA (arXiv 2401.11504) trains an adapter on each chunk of a text behind reading it, and throws it away with the
text. Its authors find a lower perplexity than by the same model without the adapter, the more so the longer the text is
(13.2 % on a subset of PG19). Here the bundled model (window 512) reads held-out files of 32 windows from their first
token, in four ways: at once as it is, at once under YaRN for the length, in chunks behind the tokens before them within
the window (Temp-LoRA without training), and by Temp-LoRA. The last but one is what the adapter has to be held against:
a model that is read beyond its window is no rival.

Chunk and context are half a window each, the rank is a 16th of the hidden size, all else as the paper has it but for
the learning rate: 2e-4 of 5e-5, 2e-4 and 1e-3, on other files, cut at 8 windows, before this was run. ``CLAIMS`` says
what has to hold. Ratios of perplexities are paired by file, with their 95 % interval over files; one model. ``cpu
seconds`` is the processor's time of a reading, on one thread. A file that was read is kept: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import ropewalk
from ropewalk.backends.nll import token_nll
from ropewalk.common.statistics import ratio
from ropewalk.common.whole import write_text
from ropewalk.texts.builtin import held_out_sources
from ropewalk.texts.documents import token_ids

PAPER = "arXiv 2401.11504"
WINDOW, LENGTHS = 512, (4096, 16384)
LONGEST = str(LENGTHS[-1])
CHOSEN_ON = 2  # files that the learning rate was chosen on; they are not read here
SIZES = "chunk=256, context=256, rank=16, alpha=16"
WAYS = {
    "none": "none",
    "yarn": "yarn",
    "windows": f"temp-lora({SIZES}, epochs=0)",
    "temp-lora": f"temp-lora({SIZES}, learning_rate=2e-4)",
}
BY_LENGTH = ("yarn",)  # read for each length; of the others a longer reading holds the shorter one
CLAIMS = (
    ("at 8 windows, the adapter lowers the perplexity of reading in windows (ratio below 1)", 4096, "windows"),
    ("at 32 windows it does (ratio below 1)", 16384, "windows"),
    ("at 32 windows Temp-LoRA's perplexity is below the plain model's (ratio below 1)", 16384, "none"),
    ("at 32 windows it is below that under YaRN (ratio below 1)", 16384, "yarn"),
)
MORE = "the longer the text, the more the adapter lowers it: ratio at 32 windows over that at 8 (below 1)"


def read(model: Any, ids: list[int]) -> dict[str, dict[str, float]]:
    """Mean loss of a file's tokens at each length, by each way, and the processor's seconds."""
    found: dict[str, dict[str, float]] = {}
    for name, spelling in WAYS.items():
        of_lengths = LENGTHS if name in BY_LENGTH else LENGTHS[-1:]
        for length in of_lengths:
            row, began = torch.tensor([ids[:length]]), time.process_time()
            with ropewalk.method(spelling).on(model, length):
                losses = token_nll(model, row)[0].double()
            seconds = time.process_time() - began
            for shorter in LENGTHS if name not in BY_LENGTH else (length,):
                found.setdefault(name, {})[str(shorter)] = losses[: shorter - 1].mean().item()
            found.setdefault(f"{name}, cpu seconds", {})[str(length)] = round(seconds, 2)
            print(name, length, round(math.exp(losses.mean().item()), 3), round(seconds, 1), flush=True)
    return found


def rows(files: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Each claim; it holds if the whole interval lies below 1."""

    def of(name: str, length: int) -> np.ndarray:
        return np.array([one[name][str(length)] for one in files.values()])

    found = [(claim, ratio(of("temp-lora", n), of(other, n))) for claim, n, other in CLAIMS]
    long, short = (of("temp-lora", n) - of("windows", n) for n in reversed(LENGTHS))
    found.append((MORE, ratio(long, short)))
    return [
        {"claim": claim, "source": PAPER, "holds": one.high is not None and one.high < 1, **asdict(one)}
        for claim, one in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=3, help="files that are read")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    kept: dict[str, Any] = json.loads(given.json.read_text()) if given.json.exists() else {}
    files = kept.get("files", {})
    sources = {name: token_ids(text, tokenizer) for name, text in list(held_out_sources().items())[CHOSEN_ON:]}
    long_enough = {name: ids for name, ids in sources.items() if len(ids) >= LENGTHS[-1]}
    for name, ids in list(long_enough.items())[: given.texts]:
        if name not in files:
            files[name] = read(model, ids)
        told = {
            "rows": rows(files) if len(files) > 1 else [],
            "perplexity": {way: {n: math.exp(np.mean([one[way][str(n)] for one in files.values()])) for n in LENGTHS}
                           for way in WAYS},
            "cpu seconds a file": {way: np.mean([one[f"{way}, cpu seconds"][LONGEST] for one in files.values()])
                                   for way in WAYS},
            "methods": WAYS, "window": WINDOW, "files": files,
            "torch": torch.__version__, "transformers": transformers.__version__,
        }  # fmt: skip
        write_text(given.json, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
