"""Papers' recipes against each other at equal tokens, on the bundled model (window 512) to 4,096 tokens.

    python claims/recipes.py --json claims/results/recipes.json [--only pi,pose]

All train on the standard library's sources, 60 steps of 8,192 tokens where a row does not say otherwise, at one
learning rate for all weights and one for adapters, ours: the papers' are for models a thousand times as large. Rows of
200 steps have transformers' own sources beside them: on the library alone, perplexity rises again after them.
Perplexity is that of positions 2,896 to 4,095 of texts that nobody was trained on; ``ratio to pi`` is over that of PI's
samples of full length, paired by text. Claims: PI (arXiv 2306.15595), 1,000 steps are enough where training without
interpolation hardly extends; YaRN (2309.00071), the same in 400 (here all three have 200); PoSE (2309.10400), CREAM
(2406.07138), EndPrompt: samples of the window do as well as full length, randomised positions do not; LongLoRA
(2309.12307): adapters need embeddings and norms, shifted sparse attention does as well as full; Entropy-ABF
(2401.07004): 100 samples; DroPE (2512.12167): no rotation, recalibrated in the window. Finished trainings are kept in
``--work``.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import ropewalk
from ropewalk.common.statistics import ratio
from ropewalk.texts.documents import load, token_ids

TO, WINDOW, STEPS, TOKENS = 4096, 512, 60, 8192
MODELS = 2  # of so many models of transformers one is read
FULL, SHORT = {"batch": TOKENS // TO}, {"batch": TOKENS // WINDOW}  # samples per step
ALL, ADAPTERS = 3e-4, 2e-3  # learning rates
LONG = FULL | {"evaluate_every": 100, "steps": 200, "warmup": 20}
LORA = FULL | {"learning_rate": ADAPTERS}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
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
    "pi, 200 steps": ("pi", LONG),
    "direct, 200 steps": ("pi", LONG | {"method": "none"}),
    "yarn, 200 steps": ("pi", LONG | {"method": "yarn"}),
}


def texts(work: Path, tokenizer: Any, more: bool) -> tuple[Path, Path]:
    """Folders of texts to train on and to measure on: of the library's long ones, every third.

    Args:
        work: that they lie in.
        tokenizer: whose tokens are counted.
        more: train on transformers' sources as well.
    """
    if more:
        short, aside = texts(work, tokenizer, more=False)
        folder = work / "more-texts"
        folder.mkdir(exist_ok=True)
        for file in short.iterdir():
            (folder / file.name).write_text(file.read_text())
        for source in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py"))[::MODELS]:
            (folder / f"{source.stem}.txt").write_text(source.read_text())
        return folder, aside
    folders = work / "texts", work / "aside"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    found = [(name, text) for name, text in sorted(load("stdlib").items()) if len(token_ids(text, tokenizer)) > TO]
    for i, (name, text) in enumerate(found):
        (folders[i % 3 == 0] / f"{name.replace('/', '.')}.txt").write_text(text)
    return folders


def trained(row: str, work: Path) -> dict[str, Any]:
    """What was seen of one row's training; made if it is not there."""
    out, (name, more) = work / row.replace(" ", "-").replace(",", ""), ROWS[row]
    if not (out / "training.json").exists():
        trained_on, aside = texts(work, ropewalk.load("demo")[1], more=ROWS[row][1].get("steps", STEPS) > STEPS)
        more = {"steps": STEPS, "learning_rate": ALL} | more
        more = {"warmup": more["steps"] // 20} | more
        ropewalk.train(name, "demo", trained_on, to=TO, out=out, test=aside, keys=5,
                       schedule="constant", dtype="float32", save_every=10, seed=0, **more)  # fmt: skip
    found: dict[str, Any] = json.loads((out / "training.json").read_text())
    return found


def far(seen: dict[str, Any], when: str) -> dict[str, Any]:
    """What was read of the last stretch of positions: before ("as it came", "0") or after ("") the training."""
    reading = seen["readings"][when or str(len(seen["log"]))]
    found: dict[str, Any] = reading["perplexity"][list(reading["perplexity"])[-1]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", default=";".join(ROWS), help="rows, by semicolons")
    parser.add_argument("--work", type=Path, default=Path("runs/claims-recipes"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    base, rows = trained("pi", given.work), {}
    for row in given.only.split(";"):
        seen = trained(row, given.work)
        after, last = far(seen, ""), seen["readings"][str(len(seen["log"]))]
        rows[row] = {
            "recipe": ROWS[row][0], "options": ROWS[row][1],
            "tokens": sum(step["tokens"] for step in seen["log"]),
            "seconds a step": float(np.median([step["seconds"] for step in seen["log"]])),
            "perplexity as it came": far(seen, "as it came"), "perplexity untrained": far(seen, "0"),
            "perplexity": after,
            "ratio to pi": asdict(ratio(after["losses"], far(base, "")["losses"])), "pass keys": last["passkey"],
            "on the way": {step: {"perplexity": far(seen, step), "pass keys": seen["readings"][step]["passkey"]}
                           for step in list(seen["readings"])[2:-1]},
        }  # fmt: skip
        one, keys = rows[row]["ratio to pi"], {n: key["value"] for n, key in last["passkey"].items()}
        print(f"{row:26s} {far(seen, '0')['value']:7.2f} -> {after['value']:7.2f}  {one['value']:.3f} x pi "
              f"({one['low']:.3f} .. {one['high']:.3f}), keys {keys}", flush=True)  # fmt: skip
        common = {"to": TO, "steps": STEPS, "tokens per step": TOKENS, "torch": torch.__version__,
                  "transformers": transformers.__version__, "machine": platform.machine(),
                  "threads": torch.get_num_threads()}  # fmt: skip
        given.json.write_text(json.dumps(common | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
