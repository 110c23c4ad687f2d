"""What a throw-away adapter adds: perplexity of long texts by Temp-LoRA, against windows alone, none and YaRN.

    python claims/memory/temp_lora.py --json claims/results/memory/temp_lora.json [--texts 4]

Temp-LoRA (arXiv 2401.11504) trains an adapter on each chunk of a text behind reading it, and throws it away with the
text. Its authors find a lower perplexity than by the same model without the adapter, the more so the longer the text is
(13.2 % on a subset of PG19). Here the bundled model (window 512) reads held-out files of 32 windows from their first
token, in four ways: at once as it is, at once under YaRN for the length, in chunks behind the tokens before them within
the window (Temp-LoRA without training), and by Temp-LoRA. The last but one is what the adapter has to be held against:
a model that is read beyond its window is no rival.

Chunk and context are half a window each, the rank is a 16th of the hidden size, all else as the paper has it but for
the learning rate: 2e-4, which had lowered the loss of one other file of 8 windows before this was written; no other was
tried at that length. ``CLAIMS`` says what has to hold. Ratios of perplexities are paired by file, with their 95 %
interval over files; one model. ``cpu seconds`` is the processor's time of a reading, on one thread. What was read is
kept: a stopped run goes on. All files come at 8 windows first.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from itertools import product
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
CHOSEN_ON = 2  # files that were looked at before; they are not read here
SIZES = "chunk=256, context=256, rank=16, alpha=16"
WAYS = {
    "none": "none",
    "yarn": "yarn",
    "windows": f"temp-lora({SIZES}, epochs=0)",
    "temp-lora": f"temp-lora({SIZES}, learning_rate=2e-4)",
}
CLAIMS = (
    ("at 8 windows, the adapter lowers the perplexity of reading in windows (ratio below 1)", 4096, "windows"),
    ("at 32 windows it does (ratio below 1)", 16384, "windows"),
    ("at 32 windows Temp-LoRA's perplexity is below the plain model's (ratio below 1)", 16384, "none"),
    ("at 32 windows it is below that under YaRN (ratio below 1)", 16384, "yarn"),
)
MORE = "the longer the text, the more the adapter lowers it: ratio at 32 windows over that at 8 (below 1)"


Files = dict[str, dict[str, dict[str, float]]]  # file -> "way, length" -> loss and seconds


def read(model: Any, ids: list[int], way: str, length: int) -> dict[str, float]:
    """Mean loss of a file's first tokens, and the processor's seconds."""
    row, began = torch.tensor([ids[:length]]), time.process_time()
    with ropewalk.method(WAYS[way]).on(model, length):
        loss = token_nll(model, row)[0].double().mean().item()
    return {"loss": loss, "cpu seconds": round(time.process_time() - began, 2)}


def told(files: Files) -> dict[str, Any]:
    """Claims, each of which holds if the whole interval lies below 1, and what they are made of."""

    def of(way: str, length: int, of_both: int = 0, what: str = "loss") -> np.ndarray:
        """Of every file that all ways have read at a length, and at another one."""
        every = [f"{one}, {n}" for one in WAYS for n in (length, of_both or length)]
        return np.array([one[f"{way}, {length}"][what] for one in files.values() if not set(every) - set(one)])

    found = [(claim, of("temp-lora", n), of(other, n)) for claim, n, other in CLAIMS]
    short, long = LENGTHS
    more = [of("temp-lora", n, short + long - n) - of("windows", n, short + long - n) for n in (long, short)]
    rows = []
    for claim, ours, theirs in [*found, (MORE, *more)]:
        if len(ours) > 1:  # files that all ways have read so far
            one = ratio(ours, theirs)
            rows.append({"claim": claim, "source": PAPER, "holds": bool(one.high and one.high < 1), **asdict(one)})
    read_at = [n for n in LENGTHS if len(of("none", n))]
    return {
        "rows": rows,
        "perplexity": {way: {n: math.exp(of(way, n).mean()) for n in read_at} for way in WAYS},
        "cpu seconds a file": {way: {n: of(way, n, 0, "cpu seconds").mean() for n in read_at} for way in WAYS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=4, help="files that are read")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    files: Files = json.loads(given.json.read_text())["files"] if given.json.exists() else {}
    sources = {name: token_ids(text, tokenizer) for name, text in list(held_out_sources().items())[CHOSEN_ON:]}
    long_enough = {name: ids for name, ids in sources.items() if len(ids) >= LENGTHS[-1]}
    some = dict(list(long_enough.items())[: given.texts])
    for length, name, way in product(LENGTHS, some, WAYS):
        kept = files.setdefault(name, {})
        if (key := f"{way}, {length}") not in kept:
            kept[key] = read(model, some[name], way, length)
            print(name, key, kept[key], flush=True)
            about = {"methods": WAYS, "window": WINDOW, "files": files,
                     "torch": torch.__version__, "transformers": transformers.__version__}  # fmt: skip
            write_text(given.json, json.dumps(told(files) | about, indent=1) + "\n")


if __name__ == "__main__":
    main()
