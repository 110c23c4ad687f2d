"""What MEND's vectors carry: the bundled model behind demonstrations, behind 16 vectors made of them, and behind none.

    python claims/mend.py --json claims/results/mend.json [--seconds 300]

MEND (arXiv 2403.06914) has a second language model write vectors that stand in the place of demonstrations. Its authors
find answers about as good behind a hundred vectors, of GPT-2 for GPT-2 large, after 30,000 steps in each of two stages.
Here the distiller is a copy of the bundled model, and a stage has as many steps as fit into ``--seconds``: stage one on
texts that the bundled model was trained on, cut at four fifths, stage two on tasks. A task is six words with a label
each, of two that are drawn anew; its demonstrations stand as lines that the bundled model was drilled in, and each word
is asked for again. Measured on tasks that nobody saw: loss of a label's tokens, right labels' tokens, and the loss of
the rest of texts that were kept aside. Intervals are of 95 %, over tasks and texts, paired; one seed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
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

VECTORS, BATCH, RATE = 16, 8, 5e-4
TEXT, CUT, LINES = 120, 96, 6  # tokens of a text, of which so many stand for demonstrations; lines of a task
TASKS, TEXTS, BATCHES = 48, 48, 8  # measured on; tasks of one shape are read together
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


def texts(documents: list[str], tokenizer: Any, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = random.Random(seed)
    while True:
        rows: list[list[int]] = []
        while len(rows) < BATCH:
            ids = token_ids(rng.choice(documents)[:20_000], tokenizer)
            if len(ids) > TEXT:
                start = rng.randrange(len(ids) - TEXT)
                rows.append(ids[start : start + TEXT])
        whole = torch.tensor(rows)
        yield whole[:, :CUT], whole[:, CUT:]


def trained(distiller: Distiller, loss: Callable[[], Tensor], seconds: float) -> int:
    """Steps that fit into so many seconds of this process."""
    optimizer, steps, began = torch.optim.AdamW(distiller.parameters(), RATE), 0, time.process_time()
    while time.process_time() - began < seconds:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(distiller.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if steps % 10 == 0:
            print(steps, f"{value.item():.3f}", flush=True)
    return steps


@torch.no_grad()
def measured(model: Any, distiller: Distiller | None, kept: list[Batch]) -> dict[str, np.ndarray]:
    """Of each task or text: loss of its answers' tokens and the share of them that is argmax, behind each of three."""
    found: dict[str, list[tuple[float, float]]] = {}
    for demonstrations, prompts, answers in kept:
        none = torch.zeros(len(prompts), 0, model.config.hidden_size)
        seen = {"none": behind(model, none, prompts), "demonstrations": taught(model, demonstrations, prompts)}
        if distiller is not None:
            seen["vectors"] = behind(model, distiller(demonstrations), prompts)
        for name, logits in seen.items():
            for i in range(len(prompts)):
                row, ids, asked = logits[i : i + 1], prompts[i : i + 1], answers[i : i + 1]
                right = row[:, :-1].argmax(-1)[asked[:, 1:]] == ids[:, 1:][asked[:, 1:]]
                found.setdefault(name, []).append(
                    (float(answered(row, ids, asked).mean()), float(right.float().mean()))
                )
    return {name: np.array(values) for name, values in found.items()}


def told(seen: dict[str, np.ndarray]) -> dict[str, Any]:
    ones = np.ones(len(seen["none"]))
    return {
        "of": {name: {"perplexity": asdict(exponential(cluster_mean(one[:, 0], ones))),
                      "right tokens": asdict(cluster_mean(one[:, 1], ones))} for name, one in seen.items()},
        "ratios of perplexities": {f"vectors / {name}": asdict(ratio(seen["vectors"][:, 0], seen[name][:, 0]))
                                   for name in ("none", "demonstrations")},
    }  # fmt: skip


def exponential(one: Mean) -> Mean:
    low, high = (None if end is None else math.exp(end) for end in (one.low, one.high))
    return Mean(math.exp(one.value), None, low, high, one.n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300.0, help="of one core, for each stage")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    model.requires_grad_(False)
    units = TokenUnits(tokenizer)
    unseen, rest = tasks(1, units), texts(list(held_out_sources().values()), tokenizer, 1)
    asked = [next(unseen) for _ in range(TASKS // BATCH)]
    read = [
        (*one, torch.arange(TEXT - CUT).expand(BATCH, -1) > 0) for one in (next(rest) for _ in range(TEXTS // BATCH))
    ]
    distiller = Distiller(model, VECTORS, model.config.hidden_size)
    plain, drawn = texts(training_documents(0), tokenizer, 0), tasks(0, units)
    steps = [trained(distiller, lambda: distillation_loss(distiller, model, *next(plain)), given.seconds)]
    after_first = {"texts": told(measured(model, distiller, read)), "tasks": told(measured(model, distiller, asked))}
    steps.append(trained(distiller, lambda: distillation_loss(distiller, model, *next(drawn)), given.seconds))
    after_both = {"texts": told(measured(model, distiller, read)), "tasks": told(measured(model, distiller, asked))}
    found = {
        "vectors": VECTORS, "batch": BATCH, "learning rate": RATE, "steps": steps, "seconds": given.seconds,
        "after stage one": after_first, "after stage two": after_both,
    }  # fmt: skip
    write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
