"""Short samples at far positions against samples of full length, at equal tokens, on the bundled model.

    python claims/skipwise.py --json claims/results/skipwise.json [--steps 120] [--only pose,pi]

Every recipe trains the bundled model (window 512) to 4,096 tokens on the standard library's sources, with the same
number of tokens per step and the same learning rate, ours: the papers' are for models a thousand times as large.
``direct`` is training at full length without any interpolation. PoSE's claim (arXiv 2309.10400): quality of full-length
training at the cost of short samples; of randomised positions: far worse. PI's (2306.15595): 1,000 steps are enough,
and direct training hardly extends at all. Finished trainings are kept in ``--work``, and a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

import ropewalk

TO, TOKENS, RATE = 4096, 8192, 3e-4
FULL, SHORT = TOKENS // TO, TOKENS // 512  # samples per step
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "pi": ("pi", {"batch": FULL}),
    "direct": ("pi", {"batch": FULL, "method": "none"}),
    "pose": ("pose", {"batch": SHORT}),
    "endprompt-pose": ("endprompt-pose", {"batch": SHORT}),
    "randpos": ("randpos", {"batch": SHORT}),
    "cream": ("cream", {"batch": SHORT}),
    "segmented": ("segmented", {"batch": SHORT}),
    "yarn-pose": ("pose", {"batch": SHORT, "method": "yarn"}),
    "yarn": ("pi", {"batch": FULL, "method": "yarn"}),
}


def trained(name: str, steps: int, work: Path) -> dict[str, Any]:
    """What one training ended with; made if it is not there."""
    recipe, more = RUNS[name]
    out = work / f"{name}-{steps}"
    if not (out / "training.json").exists():
        ropewalk.train(recipe, "demo", "stdlib", to=TO, out=out, steps=steps, warmup=steps // 20, learning_rate=RATE,
                       schedule="constant", dtype="float32", keys=20, save_every=20, seed=0, **more)  # fmt: skip
    found = json.loads((out / "training.json").read_text())
    last = found["readings"][str(steps)]
    return {
        "recipe": recipe,
        "options": more,
        "perplexity": last["perplexity"],
        "perplexity before": found["readings"]["0"]["perplexity"],
        "pass keys": last["passkey"],
        "tokens": sum(one["tokens"] for one in found["log"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--work", type=Path, default=Path("runs/claims-skipwise"))
    given = parser.parse_args()
    found = {}
    for name in given.only.split(","):
        found[name] = trained(name, given.steps, given.work)
        far = list(found[name]["perplexity"])[-1]
        before, after = (found[name][key][far] for key in ("perplexity before", "perplexity"))
        spread = f"{after['value']:.1f} ({after['low']:.1f} .. {after['high']:.1f})"
        keys = {n: one["value"] for n, one in found[name]["pass keys"].items()}
        print(f"{name:15s} {far}: {before['value']:.1f} -> {spread}, keys {keys}", flush=True)
        machine = {"torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine(),
                   "threads": torch.get_num_threads()}  # fmt: skip
        content = {"to": TO, "steps": given.steps, "tokens per step": TOKENS, "learning rate": RATE, **machine,
                   "runs": found}  # fmt: skip
        given.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
