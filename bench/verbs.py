"""What everybody waits for: from Enter to the first line and to the end, beside what the same costs without ropewalk.

    python bench/verbs.py [--quick] --json FILE

Each command runs in a process of its own, ours and the peer's in alternation, on folders of files that were read just
before. The peers: python that only starts (for what needs no model), transformers that reads the configuration,
transformers that makes the model without weights and counts them, and ``cp`` of the checkpoint. Of ``compare``, the
peer is the time inside of the model's own modules, in the same run. ``ours`` and ``peer`` are seconds, medians; under
``setting`` stand the seconds to the first output and the goal.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROPEWALK = [sys.executable, "-m", "ropewalk"]
START = [sys.executable, "-c", "print()"]
READ = [
    sys.executable,
    "-c",
    "import sys; from transformers import AutoConfig as A; print(A.from_pretrained(sys.argv[1]))",
]
COUNT = [
    sys.executable,
    "-c",
    "import sys, torch; from transformers import AutoConfig as A, AutoModelForCausalLM as M\n"
    "with torch.device('meta'): m = M.from_config(A.from_pretrained(sys.argv[1]))\n"
    "print(sum(p.numel() for p in m.parameters()))",
]


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds to the first output and to the end."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        first = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return first, time.perf_counter() - began


def llama(folder: Path, layers: int, **rope: Any) -> Path:
    """A Llama of hidden size 2,048 with random weights, 0.1 GB a layer in bfloat16; no weights for no layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=2048, intermediate_size=5632, num_attention_heads=32, num_key_value_heads=4,
                         num_hidden_layers=layers or 16, vocab_size=32000, max_position_embeddings=8192,
                         rope_parameters={"rope_type": "default", "rope_theta": 500000.0} | rope)  # fmt: skip
    if layers:
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    else:
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(folder)
    return folder


@contextmanager
def in_modules() -> Iterator[list[float]]:
    """Counts the seconds inside of modules that no other module calls."""
    import torch

    call, depth, spent = torch.nn.Module.__call__, [0], [0.0]

    def counted(self: Any, *args: Any, **named: Any) -> Any:
        depth[0] += 1
        began = time.perf_counter()
        try:
            return call(self, *args, **named)
        finally:
            depth[0] -= 1
            if not depth[0]:
                spent[0] += time.perf_counter() - began

    torch.nn.Module.__call__ = counted  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        torch.nn.Module.__call__ = call  # type: ignore[method-assign]


def compared(work: Path, to: str) -> tuple[float, float]:
    """Seconds of a comparison, and those of them inside of the model; what is imported once is imported before."""
    import ropewalk

    ropewalk.compare("demo", to="1k", methods=["none"], out=work / "warm", samples=1, documents=1)
    began = time.perf_counter()
    with in_modules() as spent:
        ropewalk.compare("demo", to=to, methods=["none", "yarn"], out=work / "compared")
    return time.perf_counter() - began, spent[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run of each, a small checkpoint, a short comparison")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    given = parser.parse_args()
    repeats, layers, to = (1, 1, "1k") if given.quick else (5, 9, "2k")
    rows: list[dict[str, Any]] = []

    def told(name: str, ours: float, peer: float, **setting: Any) -> None:
        setting |= {"machine": platform.machine(), "python": platform.python_version()}
        row = {"name": name, "unit": "s", "ours": ours, "peer": peer, "ratio": ours / peer, "setting": setting}
        rows.append(row)
        print(f"{name}: {ours:.2f} s against {peer:.2f} s, ratio {ours / peer:.3f} {setting}", flush=True)
        given.json.write_text(json.dumps(rows, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        plain, big = llama(work / "plain", 0), llama(work / "big", layers)
        yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
        scaled = llama(work / "scaled", 0, **yarn)
        size = sum(file.stat().st_size for file in big.iterdir()) / 1e9
        extend = [*ROPEWALK, "extend", str(big), "--to", "32k", "--method", "yarn", "-o", str(work / "out")]
        lines: list[tuple[str, list[str], list[str], float | None]] = [
            ("--help", [*ROPEWALK, "--help"], START, 0.3),
            ("methods", [*ROPEWALK, "methods"], START, 0.3),
            ("inspect, a plain rope", [*ROPEWALK, "inspect", str(plain)], [*READ, str(plain)], 1.0),
            ("inspect, a scaled rope", [*ROPEWALK, "inspect", str(scaled)], [*READ, str(scaled)], 1.0),
            ("plan", [*ROPEWALK, "plan", str(plain), "--to", "128k", "--gpu", "rtx4090"], [*COUNT, str(plain)], 2.0),
            (f"extend {size:.1f} GB", extend, ["sh", "-c", f"cp -r {big} {work}/out && echo"], None),
        ]
        for title, ours, peer, goal in lines:
            seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
            for _ in range(repeats):
                for side, command in (("ours", ours), ("peer", peer)):
                    seconds[side].append(timed(command))
                    shutil.rmtree(work / "out", ignore_errors=True)
            first, end = (statistics.median(column) for column in zip(*seconds["ours"], strict=True))
            told(title, end, statistics.median(end for _, end in seconds["peer"]), **{"first output": first},
                 **{"goal": goal} if goal else {}, repeats=repeats)  # fmt: skip
        told(f"compare demo --to {to}", *compared(work, to), goal="at most 1.05 of the time inside of the model")


if __name__ == "__main__":
    main()
