"""Perplexity at many lengths: ropewalk's one forward against one forward per length (the loop of YaRN's script).

    python bench/perplexity.py [--quick] --json FILE

Both run in this process on the bundled model with YaRN and the same held-out documents, in alternation, and must give
equal perplexities. The saving in tokens is (lengths + 1) / 2; attention, most of it in the longest forward, lowers it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ropewalk import YaRN
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.evaluation.perplexity import truncated
from ropewalk.texts.builtin import held_out_sources
from ropewalk.texts.documents import tokenise

EQUAL = 1e-5  # relative


def one_forward(model: PreTrainedModel, documents: Tensor, lengths: list[int]) -> list[float]:
    found = truncated(model, documents, lengths)
    return [found[length].value for length in lengths]


def forward_per_length(model: PreTrainedModel, documents: Tensor, lengths: list[int]) -> list[float]:
    """As ``eval/perplexity.py --truncate`` of jquesnelle/yarn: labels, all logits, one document at a time."""
    found = []
    for length in lengths:
        losses = []
        for ids in documents[:, None, :length]:
            with torch.no_grad():
                loss = model(ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss
            losses.append(loss.item())
        found.append(math.exp(sum(losses) / len(losses)))
    return found


def seconds(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def measure(longest: int, n_lengths: int, n_documents: int, repeats: int) -> dict[str, Any]:
    """One row of results; times are medians of ``repeats``."""
    lengths = [longest * (i + 1) // n_lengths for i in range(n_lengths)]
    checkpoint = Checkpoint.open("demo")
    model, tokenizer = checkpoint.load("float32", "cpu"), checkpoint.tokenizer()
    texts = tokenise(held_out_sources(), tokenizer, longest)
    documents = torch.tensor([ids[:longest] for ids in texts.values()][:n_documents])
    with YaRN().on(model, to=max(longest, 512)):
        return timed(model, documents, lengths, repeats)


def timed(model: PreTrainedModel, documents: Tensor, lengths: list[int], repeats: int) -> dict[str, Any]:
    one_forward(model, documents, lengths[:1])
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeats):
        ours, found = seconds(lambda: one_forward(model, documents, lengths))
        peer, expected = seconds(lambda: forward_per_length(model, documents, lengths))
        times["ours"].append(ours)
        times["peer"].append(peer)
        for length, a, b in zip(lengths, found, expected, strict=True):
            if abs(a - b) > EQUAL * b:
                raise SystemExit(f"perplexities at {length} tokens differ: {a} and {b}")
    ours, peer = statistics.median(times["ours"]), statistics.median(times["peer"])
    return {
        "name": f"truncated perplexity at {len(lengths)} lengths up to {lengths[-1]}",
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "unit": "s",
        "n": repeats,
        "setting": {
            "peer": "one forward per length, as eval/perplexity.py of jquesnelle/yarn",
            "model": "demo with yarn",
            "tokens_ratio": sum(lengths) / lengths[-1],
            "documents": len(documents),
            "parameters": model.num_parameters(),
            "dtype": "float32",
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    arguments = parser.parse_args()
    settings = [(512, 16, 4, 3)] if arguments.quick else [(512, 16, 8, 5), (1024, 16, 4, 5), (2048, 64, 2, 3)]
    rows = []
    for setting in settings:
        rows.append(measure(*setting))
        print(
            f"{rows[-1]['name']}: {rows[-1]['ours']:.2f} s against {rows[-1]['peer']:.2f} s, {rows[-1]['ratio']:.3f} x"
        )
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
