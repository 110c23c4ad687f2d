"""What MEND's vectors carry: the bundled model behind demonstrations, and behind 16 vectors made of them, or of others.

    python claims/mend.py --json claims/results/mend.json [--steps 150]

MEND (arXiv 2403.06914) has a second language model write vectors that stand in the place of demonstrations. Its authors
find answers about as good behind a hundred vectors, of GPT-2 for GPT-2 large, as behind the demonstrations, and better
than behind none, after 30,000 steps in each of two stages. Here the distiller is a copy of the bundled model, and a
stage has ``--steps``: stage one on texts that the bundled model was trained on, cut at four fifths, stage two on tasks.
A task is six words with a label each, of two that are drawn anew; its demonstrations stand as lines that the bundled
model was drilled in, and each word is asked for again.

Measured on tasks and texts that nobody saw: loss of a label's tokens and of the rest of a text, and how many of those
tokens are right. Everything begins with BOS, as whatever the bundled model read in training: "none" is BOS alone. The
control is vectors of the demonstrations of another task, or of another text of another file: what they do is not what
is in the demonstrations. ``CLAIMS`` says what has to hold after both stages, before it was measured; an earlier run, of
46 and 38 steps and without BOS or control, had been seen. Intervals are of 95 %, paired; tasks share nothing and count
one each, two texts of a file that do not overlap count as one. One seed: they hold for the distiller of this training.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ropewalk
from ropewalk.common.statistics import Mean, cluster_mean, ratio
from ropewalk.common.whole import write_text
from ropewalk.demo.drills import WORDS, code
from ropewalk.texts.builtin import held_out_sources, training_documents
from ropewalk.texts.documents import token_ids
from ropewalk.texts.pieces import TokenUnits
from ropewalk.training.demonstration_distillation import (
    Distiller,
    answered,
    behind,
    distillation_loss,
    taught,
)

PAPER = "arXiv 2403.06914"
VECTORS, BATCH, RATE = 16, 8, 5e-4
TEXT, CUT, LINES = 120, 96, 6  # tokens of a text, of which so many stand for demonstrations; lines of a task
TASKS = 96  # measured on; those of one shape are read together
Batch = tuple[Tensor, Tensor, Tensor]  # demonstrations [B, D], prompts [B, n], their answers [B, n]


def task(rng: random.Random, units: TokenUnits) -> tuple[list[int], list[int], list[bool]]:
    labels = code(rng), code(rng)
    told = {word + code(rng)[:2]: rng.choice(labels) for word in rng.sample(WORDS, LINES)}
    demonstrations = [*units.bos, *(one for key, label in told.items() for one in units.ids(f"\n {key}: {label}"))]
    prompt: list[int] = []
    answers: list[bool] = []
    for key, label in rng.sample(list(told.items()), LINES):
        question, answer = units.ids(f"\n lookup {key} ->"), units.ids(f" {label}")
        prompt += question + answer
        answers += [False] * len(question) + [True] * len(answer)
    return demonstrations, prompt, answers


def tasks(seed: int, units: TokenUnits) -> Iterator[Batch]:
    """Batches of tasks whose demonstrations have one length; prompts are cut to the shortest."""
    rng = random.Random(seed)
    waiting: dict[int, list[tuple[list[int], list[int], list[bool]]]] = {}
    while True:
        one = task(rng, units)
        alike = waiting.setdefault(len(one[0]), [])
        alike.append(one)
        if len(alike) == BATCH:
            demonstrations, prompts, answers = zip(*waiting.pop(len(one[0])), strict=True)
            n = min(map(len, prompts))
            yield (torch.tensor(demonstrations), torch.tensor([ids[:n] for ids in prompts]),
                   torch.tensor([some[:n] for some in answers]))  # fmt: skip


def texts(documents: list[str], tokenizer: Any, units: TokenUnits, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = random.Random(seed)
    while True:
        rows: list[list[int]] = []
        while len(rows) < BATCH:
            ids = token_ids(rng.choice(documents)[:20_000], tokenizer)
            if len(ids) > TEXT:
                rows.append(window(ids, rng, units))
        yield cut(rows)


def window(ids: list[int], rng: random.Random, units: TokenUnits) -> list[int]:
    start = rng.randrange(len(ids) - TEXT)
    return [*units.bos, *ids[start : start + TEXT]]


def cut(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    whole = torch.tensor(rows)
    return whole[:, : CUT - TEXT], whole[:, CUT - TEXT :]


def held_out(tokenizer: Any, units: TokenUnits) -> list[Batch]:
    """A text of the first half of every file, and one of the second; no batch has two of one file."""
    rng, halves = random.Random(1), []
    files = [token_ids(text[:20_000], tokenizer) for text in held_out_sources().values()]
    for half in (0, 1):
        demonstrations, rest = cut(
            [window(ids[half * len(ids) // 2 : (half + 1) * len(ids) // 2], rng, units) for ids in files]
        )
        halves.append((demonstrations, rest, torch.arange(rest.shape[1]).expand(len(rest), -1) > 0))
    return halves


def trained(distiller: Distiller, loss: Callable[[], Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW(distiller.parameters(), RATE)
    for step in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(distiller.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            print(step, f"{value.item():.3f}", flush=True)


@torch.no_grad()
def measured(model: Any, distiller: Distiller, bos: list[int], kept: list[Batch]) -> dict[str, np.ndarray]:
    """Of each task or text: loss of its answers' tokens and the share of them that is argmax, behind each of four."""
    found: dict[str, list[tuple[float, float]]] = {}
    for demonstrations, prompts, answers in kept:
        vectors = distiller(demonstrations)
        seen = {
            "none": taught(model, torch.tensor(bos).expand(len(prompts), -1), prompts),
            "others' vectors": behind(model, vectors.roll(1, 0), prompts),
            "vectors": behind(model, vectors, prompts),
            "demonstrations": taught(model, demonstrations, prompts),
        }
        for name, logits in seen.items():
            for i in range(len(prompts)):
                row, ids, asked = logits[i : i + 1], prompts[i : i + 1], answers[i : i + 1]
                right = row[:, :-1].argmax(-1)[asked[:, 1:]] == ids[:, 1:][asked[:, 1:]]
                found.setdefault(name, []).append(
                    (float(answered(row, ids, asked).mean()), float(right.float().mean()))
                )
    return {name: np.array(values) for name, values in found.items()}


def told(rows: dict[str, np.ndarray], cluster: list[int]) -> dict[str, Any]:
    """What is behind each, and how many times worse vectors are; rows of one ``cluster`` count once, by their mean."""
    which = np.array(cluster)
    seen = {name: np.stack([one[which == c].mean(0) for c in np.unique(which)]) for name, one in rows.items()}
    ones = np.ones(len(seen["none"]))
    return {
        "of": {name: {"perplexity": asdict(exponential(cluster_mean(one[:, 0], ones))),
                      "right tokens": asdict(cluster_mean(one[:, 1], ones))} for name, one in seen.items()},
        "ratios of perplexities": {f"vectors / {name}": asdict(ratio(seen["vectors"][:, 0], seen[name][:, 0]))
                                   for name in seen if name != "vectors"},
    }  # fmt: skip


def exponential(one: Mean) -> Mean:
    low, high = (None if end is None else math.exp(end) for end in (one.low, one.high))
    return Mean(math.exp(one.value), None, low, high, one.n)


CLAIMS = (
    ("labels of new tasks are likelier behind vectors than behind none (ratio of perplexities below 1)", "none", 1.0),
    ("likelier than behind vectors of another task (control of ours; below 1)", "others' vectors", 1.0),
    ("and about as likely as behind the demonstrations (below 1.05)", "demonstrations", 1.05),
)


def rows(after_both: dict[str, Any]) -> list[dict[str, Any]]:
    """Each claim, on tasks after both stages; it holds if the whole interval lies below the bound."""
    ratios = after_both["tasks"]["ratios of perplexities"]
    return [
        {"claim": claim, "source": PAPER, "holds": bool(ratios[f"vectors / {name}"]["high"] < bound)}
        | ratios[f"vectors / {name}"]
        for claim, name, bound in CLAIMS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150, help="of each stage")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    model.requires_grad_(False)
    units = TokenUnits(tokenizer)
    unseen, read = tasks(1, units), held_out(tokenizer, units)
    asked = [next(unseen) for _ in range(TASKS // BATCH)]
    distiller = Distiller(model, VECTORS, model.config.hidden_size)
    plain, drawn = texts(training_documents(0), tokenizer, units, 0), tasks(0, units)
    stages = {
        "after stage one": lambda: distillation_loss(distiller, model, *next(plain)),
        "after stage two": lambda: distillation_loss(distiller, model, *next(drawn)),
    }
    found: dict[str, Any] = {}
    for name, loss in stages.items():
        trained(distiller, loss, given.steps)
        of_texts, of_tasks = (measured(model, distiller, units.bos, kept) for kept in (read, asked))
        files = [file for one in read for file in range(len(one[0]))]
        found[name] = {"texts": told(of_texts, files), "tasks": told(of_tasks, list(range(TASKS)))}
    found = {
        "rows": rows(found["after stage two"]), "vectors": VECTORS, "batch": BATCH, "learning rate": RATE,
        "steps": given.steps, "torch": torch.__version__, **found,
    }  # fmt: skip
    write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
