"""Cache size against quality: the bundled model upcycled to a twelfth of its cache, and taught by itself.

    python claims/memory/hylo.py --json claims/results/memory/hylo.json [--steps 40]

HyLo (arXiv 2604.24715) turns a pretrained model into latent attention and linear layers, and teaches it in stages:
with a tenth of the cache it is about as good as the model, after 10 G tokens, and reads 32 times as far. Here two of
the bundled model's six layers attend through latents of a quarter of their keys' and values' numbers, so that a token
leaves a twelfth of what it left, and ``--steps`` steps each teach outputs of layers and predictions, on one row of 512
tokens of texts that the model was trained on; nothing else learns. Beside it stand all six layers with latents of a
twelfth, the same training and the same cache, and the hybrid with as many steps of the next token's loss alone.

Measured on files that nobody saw: the loss of tokens 64 to 511, and of tokens 512 to 4,095, where the model itself is
beyond its window. Intervals are of 95 %, paired by file. ``CLAIMS`` was written before the run. One seed: they hold for
these trainings. A run that was stopped goes on: what each arm measured is kept in the file.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ropewalk
from ropewalk.common.statistics import ratio
from ropewalk.common.whole import write_text
from ropewalk.methods.memory.hylo import HyLo
from ropewalk.texts.builtin import held_out_sources, training_documents
from ropewalk.texts.documents import token_ids
from ropewalk.training.training_batch import Batch, Row

PAPER = "arXiv 2604.24715"
ROW, LONG, FILES, WARMUP = 512, 4096, 8, 5
RATES = {2: 1e-3, 1: 5e-4, 0: 5e-4}  # of outputs, predictions, and the next token alone
HYBRID, LATENT = {"layers": (2, 5), "rank": 0.25}, {"attention": 1.0, "rank": 1 / 12}
ARMS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # options, and the stage of each half of the steps
    "hybrid": (HYBRID, (2, 1)),
    "latents alone": (LATENT, (2, 1)),
    "hybrid, next token alone": (HYBRID, (0, 0)),
}
CLAIMS = (
    ("with a twelfth of the cache, perplexity in the window is at most 1.05 of the model's", "model", "window", 1.05),
    ("it is below that of latent attention in all layers with that cache (below 1)", "latents alone", "window", 1.0),
    ("it is below that of the same steps without a teacher (below 1)", "hybrid, next token alone", "window", 1.0),
    ("at 8x, it is below the model's (below 1)", "model", "8x", 1.0),
)


def batch(ids: list[int]) -> Batch:
    whole = np.array(ids)
    return Batch.of([Row(whole, np.arange(len(ids)), np.zeros(len(ids), np.int64), np.ones(len(ids), np.float32))])


def taught(
    model: Any, method: HyLo, drawn: Callable[[], list[int]], stages: tuple[int, ...], steps: int
) -> list[float]:
    """Losses per token, ``steps`` of each stage."""
    learning, losses = [one for one in model.parameters() if one.requires_grad], []
    for left in stages:
        optimizer = torch.optim.AdamW(learning, weight_decay=0.0)
        for step in range(steps):
            share = min(1, (step + 1) / WARMUP) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = RATES[left] * share
            row = batch(drawn())
            loss = method.taught(model, row, left)
            if loss is None:
                logits = model(input_ids=row.input_ids, use_cache=False).logits
                loss = F.cross_entropy(logits[0, :-1], row.input_ids[0, 1:], reduction="sum")
            loss = loss / (ROW - 1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            losses.append(loss.item())
        print(left, f"{np.mean(losses[-steps:][:5]):.3f} to {np.mean(losses[-5:]):.3f}", flush=True)
    return losses


@torch.no_grad()
def measured(model: Any, files: list[Tensor]) -> dict[str, list[float]]:
    """Mean losses in the window and beyond it, of each file."""
    found: dict[str, list[float]] = {"window": [], "8x": []}
    for ids in files:
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        each = F.cross_entropy(logits, ids[0, 1:], reduction="none")
        found["window"].append(float(each[63:511].mean()))
        found["8x"].append(float(each[511:].mean()))
    return found


def numbers(method: HyLo, model: Any) -> int:
    """That a token leaves in all layers, of the parts that grow with the text."""
    layers = [one for one in model.ropewalk_memory if hasattr(one, "keys")]
    return sum(int(one.keys.down.shape[0]) for one in layers)


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each claim; it holds if the whole interval lies below the bound."""
    made = []
    for claim, other, length, bound in CLAIMS:
        own, others = (np.array(found["arms"][arm][length]) for arm in ("hybrid", other))
        one = asdict(ratio(own, others))
        made.append({"claim": claim, "source": PAPER, "holds": bool(one["high"] <= bound)} | one)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    long = (token_ids(text, tokenizer) for text in held_out_sources().values())
    files = [torch.tensor(ids[:LONG])[None] for ids in long if len(ids) >= LONG][:FILES]
    documents = training_documents(0)
    setting = {"steps of a stage": given.steps, "row": ROW, "files": len(files), "torch": torch.__version__}
    found: dict[str, Any] = {"setting": setting, "arms": {}}
    if given.json.exists() and (before := json.loads(given.json.read_text()))["setting"] == setting:
        found["arms"] = before["arms"]
    if "model" not in found["arms"]:
        config = model.config
        plain = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        found["arms"]["model"] = {"numbers per token": plain} | measured(model, files)
    for arm, (options, stages) in ARMS.items():
        if arm in found["arms"]:
            continue
        began, rng, method = time.process_time(), random.Random(0), HyLo(**options)

        def drawn(rng: random.Random = rng) -> list[int]:
            while len(ids := token_ids(rng.choice(documents)[:20_000], tokenizer)) < ROW:
                pass
            start = rng.randrange(len(ids) - ROW + 1)
            return ids[start : start + ROW]

        method.carried(model, 0)
        one: dict[str, Any] = {"numbers per token": numbers(method, model)}
        with method.begun().on(model, 32 * ROW):
            one["training"] = taught(model.train(), method, drawn, stages, given.steps)
            one |= measured(model.eval(), files)
        del model.ropewalk_memory
        one["core seconds"] = time.process_time() - began
        print(arm, {name: float(np.mean(one[name])) for name in ("window", "8x")}, flush=True)
        found["arms"][arm] = one
        write_text(given.json, json.dumps(found, indent=1) + "\n")
    write_text(given.json, json.dumps({"rows": rows(found)} | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
