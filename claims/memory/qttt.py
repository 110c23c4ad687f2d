"""Query-only test-time training against thinking tokens, at equal work: variables to look up, in two windows.

    python claims/memory/qttt.py --json claims/results/memory/qttt.json [--samples 20]

qTTT (arXiv 2512.13898) spends what a model has for a question on its queries: small steps on W_Q, over the prompt's
frozen keys and values. Its authors find more right answers on long contexts than by as much work spent on thinking
tokens, which in turn help little. Here a prompt of 1,000 tokens assigns numbers to variables, and variables to others,
and asks for the value of one; the bundled model (window 512), which was drilled in that within its window, reads it
under YaRN and answers in three ways: at once; behind as many tokens of its own as qTTT's work is worth, drawn at
temperature 1, with the question asked again; and with queries of qTTT. A step on a token is worth three readings, so
that ``STEPS`` steps on ``SPAN`` tokens are ``THINKING`` tokens of thought.

The bundled model was never trained to think: what its own tokens do to an answer is said of this model alone. Single
needles and tables of keys were looked at first; it finds them in two windows without help, which leaves nothing to
measure, and variables were taken since eight other questions showed that they leave something. The paper has 32 steps
on 128 tokens; here are 8 on 24, for lack of time. The learning rate is chosen among ``RATES`` on other questions.
``CLAIMS`` says what has to hold. Measured is the loss of the answer's tokens, and whether all of them are the likeliest
ones; differences are paired by question, with their 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass
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
from ropewalk.demo.drills import WORDS, code
from ropewalk.texts.builtin import held_out_sources
from ropewalk.texts.documents import token_ids
from ropewalk.texts.pieces import TokenUnits

PAPER = "arXiv 2512.13898"
TOKENS, LONGEST, COPIES = 1000, 2048, 0.5
STEPS, SPAN = 8, 24
THINKING = 3 * STEPS * SPAN
RATES = (1e-5, 1e-4, 1e-3)
TUNED_ON = 6
CLAIMS = (
    ("answers are likelier with adapted queries than at once (difference of losses below 0)", "qttt", "at once"),
    ("likelier than behind thinking tokens at equal work (below 0)", "qttt", "thinking"),
    ("thinking tokens make answers likelier than at once (below 0)", "thinking", "at once"),
)


@dataclass(frozen=True)
class Question:
    prompt: list[int]
    asked: list[int]  # the end of the prompt
    answer: list[int]


def question(rng: random.Random, units: TokenUnits, hay: list[int]) -> Question:
    """Variables that are numbers or copies of others, behind some text; the value of one of them is asked for."""
    values: dict[str, str] = {}
    lines: list[int] = []
    while True:
        name = rng.choice(WORDS) + code(rng)[:1]
        value = rng.choice(list(values)) if values and rng.random() < COPIES else code(rng)
        line = units.ids(f"\n {name} = {value}")
        if len(lines) + len(line) > TOKENS:
            break
        if name not in values:
            values[name] = values.get(value, value)
            lines += line
    name = rng.choice(list(values))
    asked = units.ids(f"\n print({name}) #")
    start = rng.randrange(len(hay) - TOKENS)
    text = hay[start : start + TOKENS - len(lines)]
    return Question([*units.bos, *text, *lines, *asked], asked, units.ids(f" {values[name]}"))


def questions(seed: int, count: int, tokenizer: Any) -> list[Question]:
    """Of one length, so that they may be read together; so are their answers."""
    units, rng, found = TokenUnits(tokenizer), random.Random(seed), list[Question]()
    hay = token_ids(next(iter(held_out_sources().values())), tokenizer)
    while len(found) < count:
        one = question(rng, units, hay)
        if all((len(one.asked), len(one.answer)) == (len(other.asked), len(other.answer)) for other in found[:1]):
            found.append(one)
    return found


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
def by(model: Any, method: str, some: list[Question]) -> tuple[list[float], list[bool]]:
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
def thinking(model: Any, some: list[Question]) -> tuple[list[float], list[bool]]:
    """Answers behind thoughts, and behind the question, which is asked again."""
    torch.manual_seed(0)
    prompts = torch.tensor([one.prompt for one in some])
    asked = torch.tensor([one.asked for one in some])
    with ropewalk.method("yarn").on(model, LONGEST):
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, return_dict_in_generate=True,
            max_new_tokens=THINKING, min_new_tokens=THINKING,
        )  # fmt: skip
        again = torch.cat([out.sequences[:, -1:], asked], 1)
        scored = model(again, use_cache=True, logits_to_keep=1, **as_argument(model, of_output(out)))
        return answered(model, of_output(scored), scored.logits[:, -1], torch.tensor([one.answer for one in some]))


def qttt(rate: float) -> str:
    return f"yarn+qttt(steps={STEPS}, span={SPAN}, learning_rate={rate})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    tried = questions(1, TUNED_ON, tokenizer)
    tuned = {f"{rate:g}": float(np.mean(by(model, qttt(rate), tried)[0])) for rate in RATES}
    rate = min(RATES, key=lambda one: tuned[f"{one:g}"])
    print(tuned, flush=True)
    asked = questions(0, given.samples, tokenizer)
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
