"""What papers claim of methods that need no training, on the bundled model (window 512) at 4,096 tokens.

    python claims/training_free.py --json claims/results/training_free.json [--only self-extend,dca] [--work DIR]

Every method is put on for 4,096 tokens, and reads the same texts of the standard library and the same pass keys.
``far`` is the perplexity of positions 2,896 to 4,095, ``near`` that of the plain model at 362 to 511, its window's end,
``short`` that of the first 128; ratios are paired by text. ``found`` is the share of 24 pass keys in 4,096 tokens; a
share above 0.2 is what Position Interpolation calls reached. The relations below were fixed before the first run.
Finished methods are kept in ``--work``.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import ropewalk
from ropewalk.backends.backend import Ask
from ropewalk.backends.local import live
from ropewalk.common.statistics import Mean, Tally, average, ratio
from ropewalk.common.whole import write_text
from ropewalk.evaluation.samples import spread_depths
from ropewalk.methods.catalogue import method
from ropewalk.methods.catalogue import split as split_at
from ropewalk.tasks.passkey import Passkey
from ropewalk.texts.documents import load, tokenise
from ropewalk.texts.pieces import TokenUnits

TO, TEXTS, KEYS = 4096, 15, 24
STRETCHES = {"short": (1, 128), "near": (362, 512), "far": (2896, 4096)}
REACHED = 0.2  # of pass keys


@dataclass(frozen=True)
class Claim:
    """A relation, as a paper states it.

    Attributes:
        source: arXiv id, or an address.
        says: the relation in words.
        method: whose it is.
        stretch: of its losses; empty if keys are counted.
        against: method and stretch that it is divided by.
        below: the bound that the whole interval lies below; None: it lies above ``REACHED``.
    """

    source: str
    says: str
    method: str
    stretch: str = ""
    against: tuple[str, str] = ("none", "near")
    below: float | None = None


def reaches(source: str, name: str) -> Claim:
    return Claim(source, f"share of keys that {name} finds: above {REACHED:g}", name)


def fluent(source: str, name: str, below: float = 1.05) -> Claim:
    return Claim(source, f"far under {name} over the plain model's near: below {below:g}", name, "far", below=below)


def better(source: str, name: str, other: str, stretch: str = "far") -> Claim:
    says = f"{stretch} under {name} over that under {other}: below 1"
    return Claim(source, says, name, stretch, (other, stretch), 1)


YARN, SHORTER = "yarn", "gali(effective_window=256)"
CLAIMS = (
    reaches("2401.01325", "self-extend"),
    fluent("2402.17463", "dca"),
    reaches("2501.15383", "dca+yarn-temperature"),
    better("2309.17453", "streaming-llm", "streaming-llm(sinks=0)"),
    fluent("2309.17453", "streaming-llm"),
    fluent("2308.16137", "lm-infinite"),
    Claim("kexue.fm/archives/9708", "far under rerope over its own near: below 1", "rerope", "far",
          ("rerope", "near"), 1),
    better("2202.12172", "rerope+log-n", "rerope"),
    fluent("2502.02659", "gali"),
    better("2502.02659", SHORTER, "gali"),
    reaches("2402.04617", "infllm"),
    reaches("2407.15176", "longcache"),
    reaches("2402.10685", "longheads"),
    reaches("2502.08910", "ihip-rope"),
    Claim("2407.02490", "far under dca+vertical-slash over that under dca: below 1.01", "dca+vertical-slash", "far",
          ("dca", "far"), 1.01),
    Claim("2602.05258", "short under cope over the plain model's: below 1.01", "cope", "short", ("none", "short"),
          1.01),
    fluent("2602.05258", "cope"),
    better("github.com/mattian7/mrRoPE", "mr-rope", YARN),
    better("2403.00071", "resonance+yarn", YARN),
    better("2410.01490", "dprope", YARN),
    better("2410.18745", "string", YARN),
)  # fmt: skip


def read(name: str, model: Any, tokenizer: Any, texts: list[list[int]], keys: list[Any]) -> dict[str, Any]:
    """Losses of each text by stretch, where the method has any, and which keys are found."""
    found: dict[str, Any] = {"losses": {}, "right": []}
    with live(model, tokenizer, method(name), TO) as backend:
        if not backend.no_losses:
            losses = dict(backend.rolling(texts))
            for stretch, (start, end) in STRETCHES.items():
                found["losses"][stretch] = [float(losses[i][start - 1 : end - 1].mean()) for i in range(len(texts))]
        replies = dict(backend.ask([Ask(one.prompt, one.answer) for one in keys]))
        found["right"] = [bool(replies[i].right) for i in range(len(keys))]
    return found


def measured(claim: Claim, seen: Callable[[str], dict[str, Any]]) -> Mean:
    """What the relation is about, with its interval."""
    mine = seen(claim.method)
    if not claim.stretch:
        return average([Tally.of([[float(one)] for one in mine["right"]])])
    name, stretch = claim.against
    return ratio(mine["losses"][claim.stretch], seen(name)["losses"][stretch])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", help="methods, by commas: only their claims")
    parser.add_argument("--work", type=Path, default=Path("runs/claims-training-free"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = ropewalk.load("demo")
    units = TokenUnits(tokenizer)
    texts = [ids[:TO] for ids in tokenise(load("stdlib"), tokenizer, TO).values()][:TEXTS]
    draw = random.Random(0)
    keys = [Passkey().sample(TO, draw, units, depth) for depth in spread_depths(KEYS, 0)]

    def seen(name: str) -> dict[str, Any]:
        file = given.work / f"{name}.json"
        if not file.exists():
            write_text(file, json.dumps(read(name, model, tokenizer, texts, keys)) + "\n")
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    wanted = None if given.only is None else set(split_at(given.only, ","))
    rows = []
    for claim in CLAIMS:
        if wanted is not None and claim.method not in wanted:
            continue
        one = measured(claim, seen)
        assert one.low is not None and one.high is not None
        holds = one.low > REACHED if claim.below is None else one.high < claim.below
        rows.append({
            "claim": claim.says, "source": claim.source, "measured": one.value, "low": one.low, "high": one.high,
            "n": one.n, "model": "bundled", "holds": holds,
            "command": "python claims/training_free.py --json claims/results/training_free.json",
        })  # fmt: skip
        print(f"{claim.says}: {one.value:.3f} ({one.low:.3f} .. {one.high:.3f}), n {one.n}: "
              f"{'holds' if holds else 'does not hold'}", flush=True)  # fmt: skip
        content = {
            "rows": rows, "found by the plain model": asdict(measured(reaches("", "none"), seen)),
            "to": TO, "torch": torch.__version__, "transformers": transformers.__version__,
            "machine": platform.machine(), "threads": torch.get_num_threads(),
        }  # fmt: skip
        write_text(given.json, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
