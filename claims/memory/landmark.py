"""Landmark attention on the bundled model: what its landmarks find at 8 and 32 times the trained 512 tokens.

    python claims/memory/landmark.py --json claims/results/memory/landmark.json [--steps 100] [--work DIR]

Landmark attention (arXiv 2305.16300) fine-tunes a model on rows of its own window with a landmark behind every 50
tokens, and then reads 32k tokens by a few blocks that landmarks find, at the perplexity of the window or below, with
pass keys found. Here all weights of the bundled model are trained for ``--steps`` steps of two rows of 512 tokens, of
the standard library and of drills that the model knows, at one learning rate, ours; the paper has 15,000 of 128.
``STATED`` is what has to hold, fixed before it was run.

Measured on held-out modules, in float32: perplexity of the same last 256 tokens of each text behind more or less of it;
and five digits that stand somewhere in such a text and are asked for at its end. The control is the same trained model
that reads the end alone, as much as a query sees: its own block and the latest ``topk``. Intervals are of 95 %, paired
by text; one seed. What is finished is kept in ``--work``, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from windowed import DIGITS, claims, losses, needles, texts, told

import ropewalk
from ropewalk import Landmark
from ropewalk.common.whole import write_text
from ropewalk.texts.builtin import held_out_sources
from ropewalk.texts.documents import token_ids
from ropewalk.texts.pieces import TokenUnits

PAPER, RATE, ROW, SOURCES = "arXiv 2305.16300", 3e-4, 512, 48
BLOCK, TOPK = 50, 5
END = BLOCK * (TOPK + 1)  # tokens that a query sees at most
TEXTS, NEEDLES = {512: 8, 4096: 8, 16384: 4}, {4096: 10, 16384: 5}  # how many, by tokens

STATED = [
    ("at 4,096 tokens (8x) digits are likelier with the blocks that landmarks find than behind the latest blocks alone "
     "(ratio of perplexities below 1)", "needle: 4096", "needle: end alone, 4096", 1.0),
    ("and at 16,384 (32x) (below 1)", "needle: 16384", "needle: end alone, 16384", 1.0),
    ("perplexity behind 4,096 tokens is no higher than in the window (below 1.02)", "text: 4096", "text: 512", 1.02),
    ("nor behind 16,384 (below 1.02)", "text: 16384", "text: 512, as 16384", 1.02),
    ("in the window it is that of the plain model, or lower (below 1.02)", "text: 512", "text: plain, 512", 1.02),
]  # fmt: skip


def trained(work: Path, tokenizer: Any, steps: int) -> str:
    """The folder of the memory; made if it is not there, and gone on with if it was stopped."""
    out = work / "landmark"
    if not (out / "memory.json").exists():
        ropewalk.train(
            "landmark", "demo", texts(work, tokenizer, ROW, SOURCES, drill=ROW + 16), to=4096, out=out, documents=0,
            keys=0, steps=steps, batch=2, learning_rate=RATE, warmup=steps // 10, save_every=20, seed=0,
        )  # fmt: skip
    return str(out)


def battery(model: Any, tokenizer: Any, folder: str, known: dict[str, Any], file: Path) -> None:
    """Fill ``known``: what was read, and of each text a loss, of each needle a loss and whether it is right."""
    units = TokenUnits(tokenizer)
    files = [token_ids(text, tokenizer) for text in held_out_sources().values()]
    long = [torch.tensor([ids[-max(TEXTS) :]]) for ids in files if len(ids) >= max(TEXTS)][: max(TEXTS.values())]

    def read(ids: torch.Tensor) -> torch.Tensor:
        return model.model(ids, use_cache=False).last_hidden_state

    def once(name: str, items: list[Any], measure: Any) -> None:
        found = known.setdefault(name, [])
        for item in items[len(found) :]:
            found.append(measure(item))
            write_text(file, json.dumps(known))
        print(name, np.round(np.mean(found, 0), 3), flush=True)

    def needle(ids: torch.Tensor, last: int = 0) -> list[float]:
        found = losses(model, read, ids[None, -last:])[0, -DIGITS:]
        return [float(found[:, 0].mean()), float(found[:, 1].all())]

    def text(n: int) -> Any:
        return lambda ids: float(losses(model, read, ids[:, -n:])[..., 0].mean())

    once("text: plain, 512", long, text(512))
    with Landmark(trained=folder).on(model, max(TEXTS)):
        for n, count in TEXTS.items():
            once(f"text: {n}", long[:count], text(n))
        known["text: 512, as 16384"] = known["text: 512"][: TEXTS[16384]]
        for n, count in NEEDLES.items():
            asked = list(needles(files, n, count, units))
            once(f"needle: {n}", asked, needle)
            once(f"needle: end alone, {n}", asked, lambda ids: needle(ids, END))


@torch.no_grad()
def held(model: Any, folder: str) -> dict[str, dict[str, int]]:
    """Keys that a query attends to at most, and places of which keys are kept, by tokens that were read, counted."""
    method, found = Landmark(trained=folder), {}
    for n in (512, 2048, 4096):
        with method.installed(model):
            reader = method.reader(model, n)
            state = reader.begin(1)
            with reader.attached():
                reader.read(torch.arange(n)[None] % 1000, state)
        seen = min(n // BLOCK, TOPK + 1) * (BLOCK + 1)
        found[str(n)] = {"attended": seen, "kept": state.keys[0].shape[2]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-memory-landmark"))
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    folder, file = trained(given.work, tokenizer, given.steps), given.work / "measured.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    battery(model, tokenizer, folder, known, file)
    log = json.loads((Path(folder) / "training.json").read_text())["log"]
    known["text: plain, 512"] = known["text: plain, 512"][: TEXTS[512]]
    found = {
        "rows": claims(known, PAPER, STATED), "measured": {name: told(known, name) for name in known},
        "memory": held(model, folder), "block": BLOCK, "topk": TOPK, "steps": given.steps,
        "tokens": sum(step["tokens"] for step in log), "learning rate": RATE,
        "seconds a step": float(np.median([step["seconds"] for step in log])), "torch": torch.__version__,
    }  # fmt: skip
    write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
