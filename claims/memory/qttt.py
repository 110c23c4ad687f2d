"""Query-only test-time training against thinking tokens, at equal work: needles at two windows of the bundled model.

    python claims/memory/qttt.py --json claims/results/memory/qttt.json [--samples 24]

qTTT (arXiv 2512.13898) spends what a model has for a question on its queries: small steps on W_Q, over the prompt's
frozen keys and values. Its authors find more right answers on long contexts than by as much work spent on thinking
tokens, which in turn help little. Here a number stands in 1,024 tokens of natural text and is asked for at their end;
the bundled model (window 512) reads all of it under YaRN and answers in three ways: at once; behind as many tokens of
its own as qTTT's work is worth, drawn at temperature 1, with the question asked again; and with queries of qTTT. A step
on a token is worth three readings, so that ``STEPS`` steps on ``SPAN`` tokens are ``THINKING`` tokens of thought.

The bundled model was trained to find such numbers within its window, and never to think: what its own tokens do to an
answer is said of this model alone. The learning rate was chosen among 1e-5, 1e-4 and 1e-3 on eight other samples.
``CLAIMS`` says what has to hold. Measured is the loss of the answer's tokens, and whether all of them are the likeliest
ones; differences are paired by sample, with their 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

import ropewalk
from ropewalk.attention.cache_argument import as_argument, of_output
from ropewalk.common.statistics import cluster_mean
from ropewalk.common.whole import write_text
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.tasks.task import Sample
from ropewalk.texts.builtin import held_out_sources
from ropewalk.texts.documents import token_ids
from ropewalk.texts.pieces import TokenUnits

PAPER = "arXiv 2512.13898"
TOKENS, LONGEST = 1024, 2048
STEPS, SPAN = 8, 32
THINKING = 3 * STEPS * SPAN
RATES = (1e-5, 1e-4, 1e-3)
TUNED_ON = 8
CLAIMS = (
    ("answers are likelier with adapted queries than at once (difference of losses below 0)", "qttt", "at once"),
    ("likelier than behind thinking tokens at equal work (below 0)", "qttt", "thinking"),
    ("thinking tokens make answers likelier than at once (below 0)", "thinking", "at once"),
)


def samples(seed: int, count: int, tokenizer: Any) -> list[Sample]:
    """Needles in the text of held-out files; prompts, questions and answers have one length each."""
    units, rng = TokenUnits(tokenizer), random.Random(seed)
    hay = tuple(token_ids("\n".join(held_out_sources().values())[:400_000], tokenizer))
    task, found = NeedleInHaystack(hay), []
    while len(found) < count:
        one = task.sample(TOKENS, rng, units)
        if not found or sizes(one) == sizes(found[0]):
            found.append(one)
    return found


def sizes(one: Sample) -> tuple[int, int, int]:
    return len(one.prompt), one.after, len(one.answer)


@torch.no_grad()
def answered(model: Any, cache: Any, last: Tensor, answers: Tensor) -> tuple[list[float], list[bool]]:
    """Mean loss of the answers' tokens, and whether all are the likeliest, behind logits [B, V] of a prompt's end."""
    scores = [last]
    for token in answers[:, :-1].split(1, 1):
        out = model(token, use_cache=True, **as_argument(model, cache))
        cache = of_output(out)
        scores.append(out.logits[:, -1])
    logits = torch.stack(scores, 1).float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), answers, reduction="none").mean(1)
    return losses.tolist(), (logits.argmax(-1) == answers).all(1).tolist()


@torch.no_grad()
def by(model: Any, method: str, some: list[Sample]) -> tuple[list[float], list[bool]]:
    """Answers right behind the prompts, each read alone."""
    losses, right = [], []
    with ropewalk.method(method).on(model, LONGEST):
        for one in some:
            out = model(torch.tensor([one.prompt]), use_cache=True, logits_to_keep=1)
            found = answered(model, of_output(out), out.logits[:, -1], torch.tensor([one.answer]))
            losses += found[0]
            right += found[1]
    return losses, right


@torch.no_grad()
def thinking(model: Any, some: list[Sample]) -> tuple[list[float], list[bool]]:
    """Answers behind thoughts, and behind the question, which is asked again."""
    torch.manual_seed(0)
    prompts = torch.tensor([one.prompt for one in some])
    questions = torch.tensor([one.prompt[-one.after :] for one in some])
    with ropewalk.method("yarn").on(model, LONGEST):
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, return_dict_in_generate=True,
            max_new_tokens=THINKING, min_new_tokens=THINKING,
        )  # fmt: skip
        again = torch.cat([out.sequences[:, -1:], questions], 1)
        scored = model(again, use_cache=True, logits_to_keep=1, **as_argument(model, of_output(out)))
        return answered(model, of_output(scored), scored.logits[:, -1], torch.tensor([one.answer for one in some]))


def qttt(rate: float) -> str:
    return f"yarn+qttt(steps={STEPS}, span={SPAN}, learning_rate={rate})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=24)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    tried = samples(1, TUNED_ON, tokenizer)
    tuned = {f"{rate:g}": float(np.mean(by(model, qttt(rate), tried)[0])) for rate in RATES}
    rate = min(RATES, key=lambda one: tuned[f"{one:g}"])
    print(tuned, flush=True)
    asked = samples(0, given.samples, tokenizer)
    ways = {
        "at once": lambda: by(model, "yarn", asked),
        "qttt": lambda: by(model, qttt(rate), asked),
        "thinking": lambda: thinking(model, asked),
    }
    found, seconds = {}, {}
    for name, way in ways.items():
        began = time.process_time()
        found[name] = way()
        seconds[name] = round((time.process_time() - began) / len(asked), 2)
        print(name, np.mean(found[name][0]), np.mean(found[name][1]), seconds[name], flush=True)
    ones = np.ones(len(asked))
    rows = []
    for claim, ours, theirs in CLAIMS:
        difference = cluster_mean(np.subtract(found[ours][0], found[theirs][0]), ones)
        holds = difference.high is not None and difference.high < 0
        rows.append({"claim": claim, "source": PAPER, "holds": holds, **asdict(difference)})
    told = {
        "rows": rows,
        "loss of an answer's token": {name: asdict(cluster_mean(one[0], ones)) for name, one in found.items()},
        "right answers": {name: asdict(cluster_mean(np.array(one[1], float), ones)) for name, one in found.items()},
        "cpu seconds a question": seconds, "losses by learning rate, on other samples": tuned, "learning rate": rate,
        "steps": STEPS, "span": SPAN, "thinking tokens": THINKING, "tokens": TOKENS, "samples": len(asked),
        "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    write_text(given.json, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
