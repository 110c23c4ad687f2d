"""Papers' recipes against each other at equal tokens, on the bundled model (window 512) to 4,096 tokens.

    python claims/recipes.py --json claims/results/recipes.json [--only pi,pose]

All train on the standard library's sources, 120 steps of 8,192 tokens where a row does not say otherwise, at one
learning rate for all weights and one for adapters, ours: the papers' are for models a thousand times as large.
Perplexity is that of the tokens at positions 2,048 to 4,095 of texts that nobody was trained on; ``ratio`` is over that
of PI's samples of full length, paired by text. Claims: PI (arXiv 2306.15595), 1,000 steps are enough where training
without interpolation hardly extends; YaRN (2309.00071), the same in 400; PoSE (2309.10400), CREAM (2406.07138),
EndPrompt: samples of the window do as well as full length, randomised positions do not; LongLoRA (2309.12307):
adapters need embeddings and norms, shifted sparse attention does as well as full; Entropy-ABF (2401.07004): 100
samples; DroPE (2512.12167): no rotation, recalibrated in the window. Finished trainings are kept in ``--work``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import ropewalk
from ropewalk.common.statistics import cluster_mean
from ropewalk.evaluation.perplexity import document_sums, perplexity
from ropewalk.methods.catalogue import method
from ropewalk.texts.documents import load, token_ids
from ropewalk.texts.opening import opening
from ropewalk.training.loop import is_written
from ropewalk.training.recipes.recipe_entries import recipe

TO, WINDOW, STEPS, TOKENS = 4096, 512, 120, 8192
FULL, SHORT = {"batch": TOKENS // TO}, {"batch": TOKENS // WINDOW}  # samples per step
ALL, ADAPTERS = 3e-4, 2e-3  # learning rates
LORA = FULL | {"learning_rate": ADAPTERS}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "untrained pi": ("pi", FULL | {"steps": 0}),
    "untrained yarn": ("pi", FULL | {"method": "yarn", "steps": 0}),
    "pi": ("pi", FULL),
    "direct": ("pi", FULL | {"method": "none"}),
    "yarn": ("pi", FULL | {"method": "yarn"}),
    "pose": ("pose", SHORT),
    "pose with yarn": ("pose", SHORT | {"method": "yarn"}),
    "cream": ("cream", SHORT),
    "endprompt": ("endprompt", SHORT),
    "endprompt-pose": ("endprompt-pose", SHORT),
    "e2": ("e2", SHORT),
    "randpos": ("randpos", SHORT),
    "segmented": ("segmented", SHORT),
    "lora alone": ("longlora", LORA | {"also": (), "attention": "full"}),
    "lora, embeddings, norms": ("longlora", LORA | {"attention": "full"}),
    "longlora": ("longlora", LORA),
    "longqlora": ("longqlora", LORA),
    "s2-attention, all weights": ("pi", FULL | {"attention": "s2-attention"}),
    "entropy-abf": ("entropy-abf", FULL),
    "entropy-abf, 100 samples": ("entropy-abf", {"steps": 6, "batch": 16}),
    "drope": ("drope", SHORT),
    "pi, 1,000 steps": ("pi", FULL | {"steps": 1000}),
    "direct, 1,000 steps": ("pi", FULL | {"method": "none", "steps": 1000}),
    "yarn, 400 steps": ("pi", FULL | {"method": "yarn", "steps": 400}),
}


def texts(work: Path, tokenizer: Any) -> tuple[Path, Path]:
    """Folders of texts to train on and to measure on: of all long ones, every third."""
    folders = work / "texts", work / "aside"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    found = [(name, text) for name, text in sorted(load("stdlib").items()) if len(token_ids(text, tokenizer)) > TO]
    for i, (name, text) in enumerate(found):
        (folders[i % 3 == 0] / f"{name.replace('/', '.')}.txt").write_text(text)
    return folders


def losses(model: Any, tokenizer: Any, aside: Path) -> list[float]:
    """Losses of the far tokens of each text in nats, summed."""
    begin = list(opening(tokenizer))
    rows = [[*begin, *token_ids(text, tokenizer)][:TO] for _, text in sorted(load(str(aside)).items())]
    near, far = document_sums(model, torch.tensor(rows), (TO // 2, TO)).T
    found: list[float] = (far - near).tolist()
    return found


def measured(row: str, work: Path) -> dict[str, Any]:
    """What one row came to; trained if it is not there."""
    kept = work / f"{row.replace(' ', '-').replace(',', '')}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    model, tokenizer = ropewalk.load("demo")
    trained_on, aside = texts(work, tokenizer)
    name, more = ROWS[row]
    more = {"steps": STEPS, "learning_rate": ALL} | more
    rope = method(str(more.get("method", recipe(name).method)))
    said: dict[str, Any] = {"recipe": name, "options": more}
    out = kept.with_suffix("")
    if more["steps"]:
        if not (out / "training.json").exists():
            ropewalk.train(name, "demo", trained_on, to=TO, out=out, test=aside, warmup=more["steps"] // 20, keys=20,
                           schedule="constant", dtype="float32", save_every=20, seed=0, **more)  # fmt: skip
        log = json.loads((out / "training.json").read_text())
        said |= {"pass keys": log["readings"][str(more["steps"])]["passkey"],
                 "tokens": sum(step["tokens"] for step in log["log"]),
                 "seconds a step": float(np.median([step["seconds"] for step in log["log"]]))}  # fmt: skip
        model = ropewalk.load(out)[0]
    if not more["steps"] or not is_written(rope, model.config, TO):
        rope.extend(model, to=TO)
    said["losses"] = losses(model, tokenizer, aside)
    kept.write_text(json.dumps(said))
    return said


def against(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The ratio of two perplexities of the same texts, with its interval."""
    difference = cluster_mean(np.subtract(ours, theirs), np.full(len(ours), TO - TO // 2))
    low, high = (None if bound is None else math.exp(bound) for bound in (difference.low, difference.high))
    return {"value": math.exp(difference.value), "low": low, "high": high, "n": difference.n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", default=";".join(ROWS), help="rows, by semicolons")
    parser.add_argument("--work", type=Path, default=Path("runs/claims-recipes"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    base = measured("pi", given.work)["losses"]
    rows = {}
    for row in given.only.split(";"):
        found = measured(row, given.work)
        far = found.pop("losses")
        rows[row] = found | {"perplexity": asdict(perplexity(cluster_mean(far, np.full(len(far), TO - TO // 2)))),
                             "ratio": against(far, base)}  # fmt: skip
        ratio, keys = rows[row]["ratio"], {n: one["value"] for n, one in found.get("pass keys", {}).items()}
        print(f"{row:26s} {rows[row]['perplexity']['value']:7.2f}  {ratio['value']:.3f} x pi ({ratio['low']:.3f} .. "
              f"{ratio['high']:.3f}), keys {keys}", flush=True)  # fmt: skip
        common = {"to": TO, "steps": STEPS, "tokens per step": TOKENS, "torch": torch.__version__,
                  "transformers": transformers.__version__, "machine": platform.machine(),
                  "threads": torch.get_num_threads()}  # fmt: skip
        given.json.write_text(json.dumps(common | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
