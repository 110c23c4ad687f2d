"""LC-PLM's claims at small size: long proteins read by a state space, against ESM-2's attention, and along a graph.

    python claims/lc_plm.py --json claims/results/lc_plm.json [--work DIR]

LC-PLM (arXiv 2411.08909) says that a bidirectional state space has a lower masked loss than ESM-2 at equal size and
data, that its loss does not rise on proteins longer than its training crops while that of ESM-2 does, and that walks
on a graph of proteins teach it what a protein's neighbours determine. Here both models, of about 23,000 weights, learn
from crops of 128 residues of the same made-up proteins, in the same order, each at a learning rate of its own; ESM-2
is transformers' own, with rotary positions. Proteins have pairs of sites up to 512 residues apart (four crops), each
of which determines the other's residue. Tests ask the same residues of other proteins, of which more or less is shown:
1,024 residues, or parts of them down to 128; what one farther than a crop determines is rare, and is asked of eight
times as many proteins. The graph stage goes on from there, on walks and on the same proteins shuffled, of which as much
is asked, and is tested on walks on other graphs, a graph and codes of families for each walk. Left out are residues
whose own protein stands elsewhere in the walk. Beside it: the model before that stage, and two that learn nothing: the
nearest site that is shown, copied whatever links stand between, and the commonest residue.

What has to hold is in ``CLAIMS``, as the paper says it; the last one is ours. Every seed has proteins and graphs of its
own, of training and of tests, so that seeds are what is independent: intervals are of 95 %, over them, paired (of
Student's and Hall's the wider). An earlier run of seeds 0 to 2, with one test for all of them and a control that was
asked a tenth, was seen before this one was written; the models of pairs are the same, all tests are new. What is
finished is kept in ``--work``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import EsmConfig, EsmForMaskedLM, PreTrainedModel

from ropewalk.common.statistics import Mean, cluster_mean
from ropewalk.common.whole import write_text
from ropewalk.lab import proteins as made
from ropewalk.lab.lc_plm import LcPlm, LcPlmConfig
from ropewalk.lab.proteins import FAMILY, MASK, PAD, Masked, joined, pairs, shuffled, walks
from ropewalk.training.training_batch import IGNORED

SEEDS = 5
CROP, PROTEIN, ROWS, STEPS = 128, 1024, 16, 1500  # residues of a crop and of a protein, crops a step, steps
NODES, WALKS, GRAPH_STEPS = 8, 8, 200  # proteins of a walk, walks a step, steps of the graph stage
LENGTHS, TOKENS = (128, 256, 512, 1024), 65536  # that are tested, with so many residues each
FAR, GRAPHS = 524288, 1024  # residues of the proteins of which far ones are asked; graphs of one walk each
TEST = 10**6  # what no step of training is drawn by
BINS = (1, 64, 128, 256, 513)  # distances
EVERY = 100  # steps between two states that are kept
PAPER = "arXiv 2411.08909"


def lc_plm() -> PreTrainedModel:
    return LcPlm(LcPlmConfig(vocab_size=PAD + 1, hidden_size=32, num_hidden_layers=2, state_size=8))


def esm_2() -> PreTrainedModel:
    return EsmForMaskedLM(EsmConfig(
        vocab_size=PAD + 1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=88,
        position_embedding_type="rotary", max_position_embeddings=LENGTHS[-1], pad_token_id=PAD, mask_token_id=MASK,
        token_dropout=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.1,
        tie_word_embeddings=False,
    ))  # fmt: skip


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], float]] = {"lc-plm": (lc_plm, 5e-3), "esm-2": (esm_2, 3e-3)}
STAGES = "walks", "shuffled"


def fit(model: PreTrainedModel, rate: float, steps: int, batch: Callable[[int], Masked], file: Path) -> PreTrainedModel:
    """AdamW; the rate rises for 50 steps and falls to zero over the last third; goes on from a file that is there."""
    optimizer, first = torch.optim.AdamW(model.parameters(), weight_decay=0.01), 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50, 3 * (steps - step) / steps)
        asked = batch(step)
        loss = model(input_ids=torch.from_numpy(asked.ids), labels=torch.from_numpy(asked.labels)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, file.with_suffix(".tmp"))
            os.replace(file.with_suffix(".tmp"), file)
            print(f"{file.stem}: step {step + 1}, loss {loss.item():.3f}", flush=True)
    return model


def trained(name: str, seed: int, work: Path) -> PreTrainedModel:
    """One model on crops of pairs."""

    def batch(step: int) -> Masked:
        rng = np.random.default_rng([seed, step])
        return pairs(ROWS * CROP // PROTEIN, PROTEIN, rng).crops(CROP).masked(rng, training=True)

    torch.manual_seed(seed)
    build, rate = MODELS[name]
    return fit(build(), rate, STEPS, batch, work / f"{name}-{seed}.pt")


def led(model: PreTrainedModel, stage: str, seed: int, work: Path) -> PreTrainedModel:
    """A model that goes on, along walks or the same proteins shuffled."""

    def batch(step: int) -> Masked:
        rng = np.random.default_rng([seed, step, 1])
        found = walks(WALKS, NODES, rng)
        return (found if stage == "walks" else shuffled(found, rng)).masked(rng, training=True)

    return fit(model, MODELS["lc-plm"][1] / 2, GRAPH_STEPS, batch, work / f"{stage}-{seed}.pt")


def answered(model: PreTrainedModel, asked: Masked) -> dict[str, Any]:
    """Mean loss of what is asked, and which of the residues that another determines are right, by distance."""
    step, parts = max(1, 8192 // asked.ids.shape[1]), []
    with torch.no_grad():
        for first in range(0, len(asked.ids), step):
            parts.append(model(input_ids=torch.from_numpy(asked.ids[first : first + step])).logits)
    logits, labels = torch.cat(parts), torch.from_numpy(asked.labels)
    loss = torch.nn.functional.cross_entropy(logits.mT, labels, ignore_index=IGNORED).item()
    right, found = (logits.argmax(-1) == labels).numpy(), {}
    for low, high in pairwise(BINS):
        inside = (asked.distance >= low) & (asked.distance < high)
        found[f"{low} to {high - 1}"] = [int(right[inside].sum()), int(inside.sum())]
    return {"loss": loss, "right of": found}


def tested(model: PreTrainedModel, seed: int) -> dict[str, Any]:
    """At every length, on proteins that no training has: the same residues are asked, beside more or less of them."""
    proteins, found = pairs(TOKENS // PROTEIN, PROTEIN, np.random.default_rng([TEST, seed, 0])), {}
    for length in LENGTHS:
        asked = proteins.crops(length).masked(np.random.default_rng([TEST, seed, 1]), training=False)
        found[str(length)] = answered(model, asked)
    return found


def tested_far(model: PreTrainedModel, seed: int) -> dict[str, Any]:
    """Whole proteins, enough of them for residues that are determined from afar."""
    rng = np.random.default_rng([TEST, seed, 2])
    return answered(model, pairs(FAR // PROTEIN, PROTEIN, rng).masked(rng, training=False))


def on_graphs(seed: int) -> Masked:
    """Walks on graphs that no training has."""
    rng = np.random.default_rng([TEST, seed, 3])
    return joined([walks(1, NODES, rng) for _ in range(GRAPHS)]).masked(rng, training=False)


def unlearnt(asked: Masked) -> dict[str, float]:
    """Shares of determined residues that are right: the nearest site that is shown, copied, and the commonest."""
    rows, places = np.nonzero(asked.distance)
    truth, copied = asked.labels[rows, places], []
    for row, place in zip(rows, places, strict=True):
        sites = np.flatnonzero(asked.ids[row] == FAMILY) + 1
        shown = sites[asked.ids[row, sites] != MASK]
        copied.append(asked.ids[row, shown[abs(shown - place).argmin()]])
    return {"copied": float((np.array(copied) == truth).mean()),
            "commonest": float(np.bincount(truth).max() / len(truth))}  # fmt: skip


def measured(seed: int, work: Path) -> dict[str, Any]:
    """All of one seed; a file for each model, made if it is not there."""
    found = {}
    for name in MODELS:
        file = work / f"{name}-{seed}.json"
        if not file.exists():
            model = trained(name, seed, work)
            seen: dict[str, Any] = {"weights": sum(one.numel() for one in model.parameters()),
                                    "tests": tested(model, seed), "far": tested_far(model, seed)}  # fmt: skip
            if name == "lc-plm":
                learnt = {key: value.clone() for key, value in model.state_dict().items()}
                graphs = on_graphs(seed)
                seen |= {"before": answered(model, graphs), "unlearnt": unlearnt(graphs)}
                for stage in STAGES:
                    model.load_state_dict(learnt)
                    seen[stage] = answered(led(model, stage, seed, work), graphs)
            write_text(file, json.dumps(seen))
        found[name] = json.loads(file.read_text())
        print(name, seed, {n: round(one["loss"], 3) for n, one in found[name]["tests"].items()}, flush=True)
    return found


def share(cells: dict[str, list[int]], bins: Iterator[str] | None = None) -> float:
    """Of the residues in some bins of distances, or in all of them, those that were right."""
    chosen = [cells[one] for one in (bins or cells)]
    return sum(right for right, _ in chosen) / sum(n for _, n in chosen)


def loss(seen: dict[str, Any], name: str, length: int) -> float:
    value: float = seen[name]["tests"][str(length)]["loss"]
    return value


def far(seen: dict[str, Any], name: str) -> float:
    """Accuracy where the determining residue is farther than a crop is long, in the longest proteins."""
    cells = seen[name]["far"]["right of"]
    return share({one: cells[one] for one in list(cells)[2:]})


def along(seen: dict[str, Any], stage: str) -> float:
    return share(seen["lc-plm"][stage]["right of"])


@dataclass(frozen=True)
class Claim:
    """What is said, what is measured of a seed, and the half-line that the whole interval has to lie in."""

    claim: str
    of: Callable[[dict[str, Any]], float]
    sign: int
    bound: float


LONG = LENGTHS[-1]
CLAIMS = (
    Claim("at the crop's length its masked loss is below that of ESM-2's architecture (difference in nats below 0)",
          lambda seen: loss(seen, "lc-plm", CROP) - loss(seen, "esm-2", CROP), -1, 0.0),
    Claim("its loss does not rise from 128 to 1,024 residues (by less than 0.02 nats)",
          lambda seen: loss(seen, "lc-plm", LONG) - loss(seen, "lc-plm", CROP), -1, 0.02),
    Claim("that of ESM-2's architecture rises (by more than 0)",
          lambda seen: loss(seen, "esm-2", LONG) - loss(seen, "esm-2", CROP), 1, 0.0),
    Claim("residues that one 128 to 512 away determines are right more often (difference of shares above 0)",
          lambda seen: far(seen, "lc-plm") - far(seen, "esm-2"), 1, 0.0),
    Claim("walks teach what neighbours determine, shuffled walks do not (difference of shares above 0)",
          lambda seen: along(seen, "walks") - along(seen, "shuffled"), 1, 0.0),
    Claim("after walks it reads edges: right more often than the nearest site, copied (ours; above 0)",
          lambda seen: along(seen, "walks") - seen["lc-plm"]["unlearnt"]["copied"], 1, 0.0),
)  # fmt: skip


def rows(seeds: list[dict[str, Any]], command: str) -> list[dict[str, Any]]:
    """Each claim with its interval over seeds; it holds if the whole interval lies beyond the bound."""
    found = []
    for one in CLAIMS:
        seen = mean([one.of(seed) for seed in seeds])
        end = seen.high if one.sign < 0 else seen.low
        holds = None if end is None else bool(one.sign * (end - one.bound) > 0)
        found.append({"claim": one.claim, "source": PAPER, "measured": seen.value, "low": seen.low, "high": seen.high,
                      "n": seen.n, "holds": holds, "command": command})  # fmt: skip
    return found


def mean(values: list[float]) -> Mean:
    return cluster_mean(values, np.ones(len(values)))


def sizes() -> dict[str, Any]:
    """All that what is kept depends on, but code."""
    numbers = {f"{one.__name__}.{name}": value for one in (sys.modules[__name__], made)
               for name, value in vars(one).items() if name.isupper() and isinstance(value, int | float | tuple)
               and name not in ("SEEDS", "CLAIMS")}  # fmt: skip
    models = {name: [rate, {key: value for key, value in build().config.to_dict().items() if "version" not in key}]
              for name, (build, rate) in MODELS.items()}  # fmt: skip
    return {"numbers": numbers, "models": models}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-lc-plm"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    asked, kept = json.dumps(sizes(), indent=1), given.work / "asked.json"
    if kept.exists() and kept.read_text() != asked:
        raise SystemExit(f"{given.work} is of a run of other sizes: rm -r {given.work}, or choose another --work")
    write_text(kept, asked)
    seeds = [measured(seed, given.work) for seed in range(given.seeds)]
    command = f"python claims/lc_plm.py --seeds {given.seeds} --json {given.json}"
    accuracy = {
        name: {length: {bin_: asdict(mean([share({bin_: seed[name]["tests"][length]["right of"][bin_]})
                                           for seed in seeds]))
                        for bin_, (_, n) in seeds[0][name]["tests"][length]["right of"].items() if n}
               for length in seeds[0][name]["tests"]}
        for name in MODELS
    }  # fmt: skip
    losses = {name: {str(n): asdict(mean([loss(seed, name, n) for seed in seeds])) for n in LENGTHS} for name in MODELS}
    graph = {stage: asdict(mean([along(seed, stage) for seed in seeds])) for stage in ("before", *STAGES)}
    graph |= {name: asdict(mean([seed["lc-plm"]["unlearnt"][name] for seed in seeds]))
              for name in seeds[0]["lc-plm"]["unlearnt"]}  # fmt: skip
    found = {
        "rows": rows(seeds, command), "loss": losses, "accuracy by length and distance": accuracy,
        "far": {name: asdict(mean([far(seed, name) for seed in seeds])) for name in MODELS}, "on graphs": graph,
        "by seed": seeds,
        "crop": CROP, "steps": STEPS, "crops a step": ROWS, "graph steps": GRAPH_STEPS,
        "torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
    write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
