"""Training at full length: memory and speed against stock transformers, and chunks against activation checkpointing.

    python bench/training.py [--quick] --json FILE

One forward and one backward pass of random Llamas in float32 on the CPU, one row per pass. Memory is the most that
torch held at one moment, weights and their gradients included; speed is that of the median of alternating runs. Rows:
the stock model with all its logits against ours at eight times its length (memory) and at its own (speed); recurrent
chunks against checkpointing with the same loss in blocks, in time per token, in memory per token with grouped heads,
and in what chunks take beside the stores of keys, values and their gradients at a short and a long text, which is flat;
a step of samples of the window whose positions reach eight times as far against one of plain samples, drawing
included; rows of several lengths read as one row without padding against the same rows, padded (arXiv 2210.03052).
Gradients of both sides are compared first, and a difference ends the benchmark.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is loaded: the profiler is silent about itself

import numpy as np
import torch
from common.row import row
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ropewalk.planning.measure import peak_bytes
from ropewalk.training.one_shot import OneShot
from ropewalk.training.positions.entries import POSITIONS, positions
from ropewalk.training.recurrent import Recurrent
from ropewalk.training.sampler import Sampler
from ropewalk.training.training_batch import IGNORED, Batch, Row

EQUAL = 1e-5  # relative, of all gradients together
FLOAT = 4  # bytes
WHERE = {"dtype": "float32", "device": "cpu"}


class Stock:
    """transformers' own forward pass with labels: all logits at once."""

    def backward(self, model: Any, batch: Batch, denominator: float) -> Tensor:
        ids = batch.input_ids
        loss: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss
        loss.backward()
        return loss.detach()


def llama(vocabulary: int, hidden: int, layers: int, heads: int, kv_heads: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2**17,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).train()


def text(model: Any, length: int) -> Batch:
    ids = torch.randint(3, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(length))
    targets = torch.cat([ids[:, 1:], torch.full((1, 1), IGNORED)], 1)
    places = torch.arange(length)[None]
    return Batch(ids, targets, (targets != IGNORED).float(), places, torch.zeros_like(ids))


def passed(model: PreTrainedModel, how: Any, batch: Batch) -> Callable[[], object]:
    return lambda: how.backward(model, batch, float(batch.weights.sum()))


def same_gradients(model: PreTrainedModel, batch: Batch, *hows: Any) -> None:
    """End here if two ways differ; gradients are left in place, as in accumulation."""
    found = []
    for how in hows:
        model.zero_grad()
        passed(model, how, batch)()
        found.append(torch.cat([weight.grad.flatten().clone() for weight in model.parameters()]))
    error = float((found[1] - found[0]).norm() / found[0].norm())
    if not error <= EQUAL:
        raise SystemExit(f"gradients of {hows[1]} are off by {error:.2g} of those of {hows[0]}")


def peak(model: PreTrainedModel, how: Any, length: int) -> int:
    """Bytes at the worst moment, weights and gradients included."""
    held = 2 * sum(weight.nbytes for weight in model.parameters())
    work = passed(model, how, text(model, length))
    gc.collect()  # what earlier passes left would be counted as given back by this one
    return held + peak_bytes(work)


def seconds(model: PreTrainedModel, hows: list[Any], length: int, repeats: int) -> list[float]:
    """Medians of alternating runs."""
    batch, times = text(model, length), [[] for _ in hows]  # type: list[list[float]]
    for _ in range(repeats):
        for how, taken in zip(hows, times, strict=True):
            began = time.perf_counter()
            passed(model, how, batch)()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def against_stock(vocabulary: int, length: int, chunk: int, repeats: int) -> list[dict[str, Any]]:
    model = llama(vocabulary, 512, 4, 8, 2)
    how = Recurrent(chunk, checkpoint=True)
    same_gradients(model, text(model, min(length, 512)), Stock(), Recurrent(200, checkpoint=True))
    ours, peer = peak(model, how, 8 * length), peak(model, Stock(), length)
    setting = {"vocabulary": vocabulary, "hidden": 512, "layers": 4, "chunk": chunk} | WHERE
    rows = [row(f"memory of {8 * length:,} tokens in chunks, of {length:,} stock", ours / 2**20, peer / 2**20,
                "MiB", 1, **setting)]  # fmt: skip
    fast, stock = seconds(model, [OneShot(), Stock()], length, repeats)
    rows.append(row(f"speed at {length:,} tokens, one pass against stock", length / fast, length / stock,
                    "tokens/s", repeats, **setting))  # fmt: skip
    return rows


def against_checkpoints(lengths: list[int], chunk: int, repeats: int) -> list[dict[str, Any]]:
    model = llama(8192, 512, 4, 8, 2)
    same_gradients(model, text(model, 1024), OneShot(True), Recurrent(300))
    rows = []
    for length in lengths:
        ours, peer = seconds(model, [Recurrent(chunk), OneShot(True)], length, repeats)
        rows.append(row(f"time per token at {length:,} tokens, chunks against checkpoints", 1e3 * ours / length,
                        1e3 * peer / length, "ms", repeats, vocabulary=8192, hidden=512, layers=4,
                        chunk=chunk, **WHERE))  # fmt: skip
    return rows


def per_token(lengths: tuple[int, int], chunk: int, layers: int) -> dict[str, Any]:
    """What a further token takes: the slope between two lengths."""
    model = llama(8192, 512, layers, 8, 2)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    slopes = []
    for how in (Recurrent(chunk), OneShot(True)):
        short, long = (peak(model, how, length) for length in lengths)
        slopes.append((long - short) / (lengths[1] - lengths[0]) / 2**10)
    return row(f"memory per token, {layers} layers, 8 heads on 2, chunks against checkpoints", *slopes,
               "KiB", 1, lengths=lengths, vocabulary=8192, hidden=512, chunk=chunk, **WHERE)  # fmt: skip


def beside_the_stores(lengths: tuple[int, int], chunk: int) -> dict[str, Any]:
    """What a pass holds beside keys, values and their gradients: "ours" at the long text, "peer" at the short one."""
    model = llama(8192, 256, 2, 4, 1)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    kept = 2 * 2 * 2 * 64 * FLOAT  # keys and values, both with gradients; layers; a head
    short, long = (peak(model, Recurrent(chunk), length) - kept * length for length in lengths)
    held = 2 * sum(weight.nbytes for weight in model.parameters())
    ours, peer = long - held, short - held
    return row(f"memory beside the stores, {lengths[1]:,} tokens against {lengths[0]:,}", ours / 2**20, peer / 2**20,
               "MiB", 1, vocabulary=8192, hidden=256, layers=2, chunk=chunk, **WHERE)  # fmt: skip


def against_short(window: int, rows: int, repeats: int) -> list[dict[str, Any]]:
    """A step of samples that reach eight windows, drawn and passed, against one of plain samples of a window."""
    model = llama(8192, 512, 4, 8, 2)
    chance = np.random.default_rng(0)
    documents = [chance.integers(3, 8192, 8 * window) for _ in range(rows)]
    ways = {"full": window} | {entry.id: 8 * window for entry in POSITIONS if entry.id != "full"}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(repeats + 1):
        for name, reach in ways.items():
            sampler = Sampler(documents, np.array([1]), positions(name, cue=tuple(range(3, 23))), window, reach)
            began = time.perf_counter()
            batch = Batch.of(list(sampler.rows(step, step * rows, rows)))
            passed(model, OneShot(), batch)()
            times[name].append(time.perf_counter() - began)
            model.zero_grad()
    medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}  # the first pass warms up
    return [row(f"a step of {rows} samples of {window} tokens, {name} to {reach:,} against plain ones",
                medians[name], medians["full"], "s", repeats, vocabulary=8192, hidden=512, layers=4, **WHERE)
            for name, reach in ways.items() if name != "full"]  # fmt: skip


class Padded(OneShot):
    """Rows of several lengths with their padding."""

    def _unpadded(self, model: Any, batch: Batch) -> Batch:
        return batch


def against_padding(length: int, repeats: int) -> dict[str, Any]:
    """Eight rows of lengths that are even from a fifth of the longest to it: 0.6 of it in the mean, as in the paper."""
    model = llama(8192, 512, 4, 8, 2)
    chance, rows = np.random.default_rng(0), []
    for n in np.linspace(length / 5, length, 8).round().astype(int):
        ones = np.ones(n, np.float32)
        rows.append(Row(chance.integers(3, 8192, n), np.arange(n), np.zeros(n, np.int64), ones))
    batch = Batch.of(rows)
    same_gradients(model, batch, Padded(), OneShot())
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for how, taken in zip((OneShot(), Padded()), times, strict=True):
            began = time.perf_counter()
            passed(model, how, batch)()
            taken.append(time.perf_counter() - began)
    return row(f"speed of 8 rows of up to {length:,} tokens, packed against padded",
               *(sum(len(one.ids) for one in rows) / statistics.median(taken) for taken in times), "tokens/s", repeats,
               vocabulary=8192, hidden=512, layers=4, **WHERE)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute or two")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    arguments = parser.parse_args()
    rows = []
    steps: list[Callable[[], list[dict[str, Any]]]]
    if arguments.quick:
        steps = [
            lambda: against_stock(32768, 512, 512, 1),
            lambda: against_checkpoints([4096], 2048, 1),
            lambda: [per_token((1024, 2048), 512, 16)],
            lambda: [beside_the_stores((4096, 8192), 1024)],
            lambda: against_short(512, 2, 1),
            lambda: [against_padding(256, 3)],
        ]
    else:
        steps = [
            lambda: against_stock(131072, 2048, 2048, 3),
            lambda: against_checkpoints([8192, 16384], 2048, 3),
            lambda: [per_token((8192, 16384), 2048, 16)],
            lambda: [beside_the_stores((8192, 65536), 2048)],
            lambda: against_short(512, 4, 7),
            lambda: [against_padding(1024, 7)],
        ]
    for step in steps:
        for each in step():
            rows.append(each)
            print(f"{each['name']}: {each['ours']:,.4g} {each['unit']} against {each['peer']:,.4g}, "
                  f"{each['ratio']:.3f} x", flush=True)  # fmt: skip
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
