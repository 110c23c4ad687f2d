"""What claims/memory/beacon.py and claims/memory/ext_tok.py share: one training, one battery, rows that are judged.

Both condense windows of 64 tokens of the bundled model (512 trained positions) by ratios from 2 to 64, and are trained
on rows of 1,024 tokens: sources of the standard library, and as many drills of the kind that the bundled model knows
(needles, records, pass keys), at one learning rate, ours. What is finished is kept in ``--work``. Texts, losses,
needles and rows are those of landmark.py and longgen.py, too.

Measured on held-out modules, in float32. Perplexity is that of the same last 256 tokens of each text, read behind more
or less of it: by windows alone (the same windows, with nothing carried on), by the plain model in its own 512
positions, and by the memory behind 1,024, 4,096 (8x) and 16,384 tokens (32x), at the smallest ratio that reaches; and
behind 896 tokens at every ratio. Needles are five digits in such texts, before the last window, asked for at the end:
the loss of the digits, and how often all five are likeliest. Intervals are of 95 %, paired by text; one seed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import ropewalk
from ropewalk.common.statistics import cluster_mean, ratio
from ropewalk.common.whole import write_text
from ropewalk.demo import drills
from ropewalk.methods.memory.condensing import CondensingMethod, WindowReader
from ropewalk.texts.builtin import held_out_sources, library_documents
from ropewalk.texts.documents import token_ids
from ropewalk.texts.pieces import TokenUnits

WINDOW, RATIOS, ROW, DIGITS = 64, (2, 4, 8, 16, 32, 64), 1024, 5
SCORED, NEAR, FAR = 256, 896, (1024, 4096, 16384)  # tokens
ASKED = (2, 8, 64)  # ratios at which needles are asked for
SOURCES, NEEDLES = 48, {896: 8, 4096: 4}  # documents to train on, of each kind; needles at each length
TEXTS, MOST = 6, 16384  # that are measured on; tokens of each
Read = Callable[[Tensor], Tensor]  # ids int64 [rows, n] -> last hidden states


def texts(work: Path, tokenizer: Any, row: int = ROW, count: int = SOURCES, among: int = 4 * SOURCES,
          drill: int = ROW + 64) -> Path:  # fmt: skip
    """A folder to train on: so many sources of more than a row, and as many drills of so many tokens."""
    folder, units, rng = work / "texts", TokenUnits(tokenizer), random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [source for source in library_documents(0, among) if len(source) > 8 * row][:count]
    for i, source in enumerate(sources):
        (folder / f"source-{i}.txt").write_text(source[: 16 * row])
        ids = token_ids(source[-8 * row :], tokenizer)
        make = rng.choice((drills.needles, drills.needles, drills.records, drills.passkey))
        (folder / f"drill-{i}.txt").write_text(tokenizer.decode(make(drill, rng, units, ids), skip_special_tokens=True))
    return folder


def trained(name: str, work: Path, tokenizer: Any, steps: int, rate: float) -> str:
    """The folder of a memory; made if it is not there, and gone on with if it was stopped."""
    out = work / name
    if not (out / "memory.json").exists():
        ropewalk.train(
            name, "demo", texts(work, tokenizer), to=ROW, out=out, method=f"{name}(window={WINDOW}, ratios={RATIOS})",
            documents=0, keys=0, steps=steps, batch=1, learning_rate=rate, warmup=steps // 10, dtype="float32",
            save_every=20, seed=0,
        )  # fmt: skip
    return str(out)


def battery(
    model: Any, kind: type[CondensingMethod], folder: str, known: dict[str, Any], most: int, keep: Callable[[], None]
) -> None:
    """Fill ``known``: what was read, and of each text or needle a number (needles two)."""
    tokenizer = ropewalk.load("demo", dtype="float32")[1]
    units = TokenUnits(tokenizer)
    files = [token_ids(text, tokenizer) for text in held_out_sources().values()]
    long = torch.tensor([ids[-MOST:] for ids in files if len(ids) >= MOST][:TEXTS])

    def once(name: str, ids: Tensor, read: Read) -> None:
        if name not in known:
            known[name] = losses(model, read, ids)[..., 0].mean(1).tolist()
            keep()
        print(name, np.round(np.mean(known[name], 0), 3), flush=True)

    def answered(name: str, ids: Tensor, read: Read) -> None:
        if name not in known:
            found = losses(model, read, ids)[:, -DIGITS:]
            known[name] = torch.stack([found[..., 0].mean(1), found[..., 1].all(1).float()], 1).tolist()
            keep()
        print(name, np.round(np.mean(known[name], 0), 3), flush=True)

    def plain(ids: Tensor) -> Tensor:
        hidden: Tensor = model.model(ids).last_hidden_state
        return hidden

    def alone(ids: Tensor) -> Tensor:
        whole = ids.split(WINDOW, 1)  # of which the last ones are asked for
        return torch.cat([plain(one) for one in whole[-SCORED // WINDOW - 2 :]], 1)

    asked = {n: needles(files, n, count, units) for n, count in NEEDLES.items()}
    once("text: windows alone", long[:, -NEAR:], alone)
    once("text: plain, 512", long[:, -512:], plain)
    for n, some in asked.items():
        answered(f"needle: windows alone, {n}", some, alone)
    for r in RATIOS:
        method = kind(trained=folder, ratio=r)
        with method.on(model, max(512, method.windows(model.config).reach(r))):
            once(f"text: ratio {r}, {NEAR}", long[:, -NEAR:], plain)
            if r in ASKED:
                answered(f"needle: ratio {r}, {NEAR}", asked[NEAR], plain)
    for n in (n for n in FAR if n <= most):
        method = kind(trained=folder)
        with method.installed(model):
            reader: Any = method.reader(model, n)
            read = partial(counted, reader, known.setdefault("memory", {}).setdefault(str(n), {"ratio": reader.ratio}))
            once(f"text: {n}", long[:, -n:], read)
            if n in asked:
                answered(f"needle: {n}", asked[n], read)


def counted(reader: WindowReader, kept: dict[str, int], ids: Tensor) -> Tensor:
    """Last hidden states; notes, of a row, the keys of a layer that are held at the end, and all numbers."""
    state = reader.begin(len(ids))
    hidden = reader.read(ids, state)
    held = [x for layer in state.cache.layers for x in (layer.keys, layer.values)]
    kept |= {"keys": held[0].shape[2], "numbers": sum(x.numel() for x in held) // len(ids)}
    return hidden


@torch.no_grad()
def losses(model: Any, read: Read, ids: Tensor) -> Tensor:
    """Of the last tokens of every row the loss, and whether it is the likeliest, [rows, SCORED, 2]."""
    logits, targets = model.lm_head(read(ids)[:, -SCORED - 1 : -1]), ids[:, -SCORED:]
    found = F.cross_entropy(logits.mT, targets, reduction="none")
    return torch.stack([found, (logits.argmax(-1) == targets).float()], -1)


def needles(files: list[list[int]], n: int, count: int, units: TokenUnits) -> Tensor:
    """Texts of ``n`` tokens that end with the digits that are asked for, int64 [count, n]."""
    rng, rows = random.Random(n), []
    files = [ids for ids in files if len(ids) >= n]
    for i in range(count):
        city, value = rng.choice(drills.CITIES), drills.code(rng)
        pin, asked, answer = units.ids(drills.needle(city, value)), units.ids(drills.stem(city)), units.ids(f" {value}")
        hay = files[i % len(files)][: n - len(units.bos) - len(pin) - len(asked) - len(answer)]
        at = rng.randint(0, len(hay) - 2 * WINDOW)
        rows.append([*units.bos, *hay[:at], *pin, *hay[at:], *asked, *answer])
    return torch.tensor(rows)


def against(known: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    """How many times the perplexity of ``other`` that of ``one`` is."""
    a, b = (np.array(known[name]) for name in (one, other))
    return asdict(ratio(a if a.ndim == 1 else a[:, 0], b if b.ndim == 1 else b[:, 0]))


def told(known: dict[str, Any], name: str) -> dict[str, Any]:
    """Perplexity, and of needles the share that is right."""
    found = np.array(known[name])
    first = found if found.ndim == 1 else found[:, 0]
    mean = cluster_mean(first, np.ones(len(first)))
    low, high = (None if end is None else math.exp(end) for end in (mean.low, mean.high))
    seen: dict[str, Any] = {"perplexity": math.exp(mean.value), "low": low, "high": high, "n": len(first)}
    return seen if found.ndim == 1 else seen | {"right": float(found[:, 1].mean())}


def claims(known: dict[str, Any], paper: str, stated: list[tuple[str, str, str, float]]) -> list[dict[str, Any]]:
    """Each claim: what, which perplexity, over which, and the bound that the whole interval has to lie below."""
    rows = []
    for claim, one, other, bound in stated:
        if one not in known:  # longer than was asked for
            continue
        seen = against(known, one, other)
        rows.append({"claim": claim, "source": paper, "holds": bool(seen["high"] < bound), "bound": bound} | seen)
        print(f"{'holds' if rows[-1]['holds'] else 'does not hold'}: {claim}: {seen['value']:.3f} "
              f"({seen['low']:.3f} .. {seen['high']:.3f})", flush=True)  # fmt: skip
    return rows


def run(doc: str, name: str, kind: type[CondensingMethod], paper: str, rate: float,
        stated: list[tuple[str, str, str, float]]) -> None:  # fmt: skip
    """The command line of a claim."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(f"runs/claims-memory-{name}"))
    parser.add_argument("--most", type=int, default=MOST, help="tokens that are read at most: 4096 takes half the time")
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    folder = trained(name, given.work, tokenizer, given.steps, rate)
    file = given.work / "measured.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    battery(model, kind, folder, known, given.most, lambda: write_text(file, json.dumps(known)))
    log = json.loads((Path(folder) / "training.json").read_text())["log"]
    found = {
        "rows": claims(known, paper, stated),
        "measured": {one: told(known, one) for one in known if one != "memory"}, "memory": known["memory"],
        "most": given.most, "window": WINDOW, "ratios": RATIOS, "steps": given.steps,
        "tokens": sum(step["tokens"] for step in log),
        "seconds a step": float(np.median([step["seconds"] for step in log])), "learning rate": rate,
        "torch": torch.__version__,
    }  # fmt: skip
    write_text(given.json, json.dumps(found, indent=1) + "\n")
