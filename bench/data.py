"""Data: packing, ordering, tokenising and reading rows, against what they could cost at best.

    python bench/data.py [--quick] [--only NAME] --json FILE

Packing: best-fit over lognormal lengths, in seconds on one core, and its rows against the fewest that could hold the
tokens; TRL's best-fit on a hundredth of it, which moves the tokens as well. Tokenising: texts to a corpus on the disk
against the tokenizer's own way through the same texts, in tokens a second. Reading: a step's rows out of a folder
against the step itself, bundled model, both in milliseconds. Packed rows are compared with TRL's in number first.
Ordering: vectors around random middles to an order of in-context pretraining, against the search of neighbours alone
(faiss), in seconds of one core; with the peak of memory, and the share of true neighbours that are found. Resembling:
near duplicates, of which a tenth of the documents are, with one token changed, against the sketches alone; likewise.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common.row import row

import ropewalk
from ropewalk.common.underway import Underway
from ropewalk.data.arranged import Arranged
from ropewalk.data.near_duplicates import near_duplicates, sketch_of
from ropewalk.data.ordering.neighbours import neighbours
from ropewalk.data.ordering.similar_path import similar_path
from ropewalk.data.packing.best_fit import best_fit
from ropewalk.data.tokenising import BATCH, tokenised
from ropewalk.texts.documents import stream
from ropewalk.training.arranged_sampler import ArrangedSampler
from ropewalk.training.one_shot import OneShot
from ropewalk.training.training_batch import Batch

LENGTH = 4096


def lengths(count: int) -> np.ndarray:
    drawn = np.random.default_rng(0).lognormal(6.5, 1.2, count)
    return np.minimum(np.floor(drawn) + 1, 20 * LENGTH).astype(np.int64)


def packing(count: int) -> list[dict[str, Any]]:
    some = lengths(count)
    began = time.process_time()
    made = best_fit(some, LENGTH)
    took = time.process_time() - began
    bound = -(-int(some.sum()) // LENGTH)
    rows = [
        row(f"rows for {count:,} documents against the fewest possible", made.rows, bound, "rows", 1, length=LENGTH)
    ]
    few = some[: count // 100]
    theirs, packed = of_trl(few)
    began = time.process_time()
    ours = best_fit(few, LENGTH)
    mine = time.process_time() - began
    if abs(ours.rows - packed) > 0.001 * packed:
        raise SystemExit(f"ours packs into {ours.rows} rows, TRL into {packed}")
    rows.append(row(f"packing {len(few):,} documents, against TRL, which moves tokens too", mine, theirs, "s", 1,
                    length=LENGTH))  # fmt: skip
    print(f"packing {count:,} documents takes {took:.1f} s of one core")
    rows[0]["setting"]["seconds"] = took
    return rows


def of_trl(some: np.ndarray) -> tuple[float, int]:
    """Seconds of one core, and rows, of TRL's best-fit with splitting, on documents of one repeated token."""
    import pyarrow as pa
    from datasets import Dataset
    from trl import pack_dataset

    offsets = np.concatenate([[0], np.cumsum(some)])
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], np.int8)))
    dataset = Dataset(pa.table({"input_ids": column})).with_format("arrow")
    began = time.process_time()
    made = pack_dataset(dataset, LENGTH, "bfd_split", {"batch_size": len(some), "keep_in_memory": True})
    return time.process_time() - began, len(made)


def tokenising(copies: int, repeats: int) -> dict[str, Any]:
    tokenizer = ropewalk.load("demo")[1]
    texts = list(stream("stdlib")) * copies
    backend, speeds = tokenizer.backend_tokenizer, {"ours": [], "peer": []}  # type: ignore[var-annotated]
    for _ in range(repeats):
        began, tokens, batch, size = time.perf_counter(), 0, [], 0
        for _, text in [*texts, ("", None)]:
            if text is not None:
                batch.append(text)
                size += len(text)
            if size >= BATCH or text is None:
                tokens += sum(len(one.ids) for one in backend.encode_batch_fast(batch, add_special_tokens=False))
                batch, size = [], 0
        speeds["peer"].append(tokens / (time.perf_counter() - began))
        with TemporaryDirectory() as folder:
            underway = Underway(Path(folder) / "shards", {}, re.compile(r"\d{5}\..+"), "shards")
            began = time.perf_counter()
            with underway.opened():
                made = tokenised(iter(texts), tokenizer, "demo", underway, [])
            speeds["ours"].append(sum(one.tokens for one in made.shards) / (time.perf_counter() - began))
    ours, peer = (statistics.median(speeds[one]) for one in ("ours", "peer"))
    return row("texts to a corpus, against the tokenizer alone", ours, peer, "tokens/s", repeats, tokens=tokens)


def reading(steps: int) -> dict[str, Any]:
    model = ropewalk.load("demo")[0].float().train()
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    with TemporaryDirectory() as folder:
        ropewalk.pack_data("stdlib", out=Path(folder) / "rows", length=LENGTH, tokenizer="demo")
        sampler = ArrangedSampler(Arranged.open(Path(folder) / "rows"), LENGTH)
        for step in range(steps):
            began = time.perf_counter()
            batch = Batch.of(list(sampler.rows(step, 2 * step, 2)))
            times["ours"].append(time.perf_counter() - began)
            began = time.perf_counter()
            for part in batch.split(1):
                OneShot().backward(model, part, float(batch.weights.sum()))
            times["peer"].append(time.perf_counter() - began)
    ours, peer = (1e3 * statistics.median(times[one]) for one in ("ours", "peer"))
    return row(f"reading a step of 2 x {LENGTH:,} tokens, against the step itself", ours, peer, "ms", steps)


def ordering(count: int, size: int = 256, around: int = 50, looked_at: int = 200) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((count // around, size), dtype=np.float32)
    vectors = np.empty((count, size), np.float32)
    for first in range(0, count, 10_000):
        some = middles[rng.integers(0, len(middles), min(10_000, count - first))]
        some = some + 0.7 * rng.standard_normal(some.shape, dtype=np.float32)
        vectors[first : first + 10_000] = some / np.linalg.norm(some, axis=1, keepdims=True)
    began = time.process_time()
    which, likeness = neighbours(vectors, 10)
    searched = time.process_time() - began
    path = similar_path(which, likeness)
    took = time.process_time() - began
    if len(np.unique(path)) != count:
        raise SystemExit(f"the order has {len(np.unique(path)):,} of {count:,} documents")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    some = rng.choice(count, looked_at, replace=False)
    true = np.argpartition(-(vectors[some] @ vectors.T), which.shape[1], axis=1)[:, : which.shape[1]]
    found = np.mean([len({*a} & {*b}) / len(a) for a, b in zip(true.tolist(), which[some].tolist(), strict=True)])
    return row(f"ordering {count:,} vectors of {size}, against the search of neighbours alone", took, searched, "s", 1,
               peak_gib=round(peak, 2), of_the_true_neighbours=round(float(found), 4))  # fmt: skip


def resembling(count: int, tokens: int = 100) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    documents = rng.integers(0, 30_000, (count, tokens), dtype=np.uint16)
    copies = np.arange(9, count, 10)
    documents[copies] = documents[copies - 9]
    documents[copies, rng.integers(0, tokens, len(copies))] += 1  # five n-grams of 96: resemblance 0.9
    began = time.process_time()
    first = near_duplicates(documents)
    took = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = first[copies] == copies - 9
    if (first != np.arange(count)).sum() != found.sum():
        raise SystemExit("a document is a near duplicate of none that it was made from")
    began = time.process_time()
    for one in documents:
        sketch_of(one)
    alone = time.process_time() - began
    name = f"near duplicates among {count:,} documents of {tokens} tokens, against their sketches alone"
    return row(name, took, alone, "s", 1, peak_gib=round(peak, 2), of_the_copies=round(float(found.mean()), 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute or two")
    parser.add_argument(
        "--only", choices=[*"packing tokenising reading ordering resembling".split()], help="one of them alone"
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    quick = arguments.quick
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "packing": lambda: packing(200_000 if quick else 10_000_000),
        "tokenising": lambda: [tokenising(*((1, 1) if quick else (4, 5)))],
        "reading": lambda: [reading(2 if quick else 7)],
        "ordering": lambda: [ordering(30_000 if quick else 1_000_000)],
        "resembling": lambda: [resembling(10_000 if quick else 1_000_000)],
    }
    rows = [each for name, part in parts.items() if arguments.only in (None, name) for each in part()]
    for each in rows:
        print(f"{each['name']}: {each['ours']:,.4g} {each['unit']} against {each['peer']:,.4g}, {each['ratio']:.4f} x")
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
