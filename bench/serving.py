"""The server's scheduler: a document asked several times, and a short request beside a long one.

    python bench/serving.py [MODEL] [--tokens 10000] [--asks 10] [--quick] --json FILE

Asked several times: "ours" keeps beginnings across requests, "peer" is the same scheduler without; answers must be the
same. It runs in float32 and is measured in CPU time of the whole process, which other work on the machine hardly
changes. The short request is measured in tokens that go through the model before its first token, beyond its own.
"""

from __future__ import annotations

import argparse
import json
import queue
import time
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from ropewalk.backends.local import ORDINARY
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.methods.catalogue import method
from ropewalk.serving.batch import Way, way_of
from ropewalk.serving.job import Job, Piece, Request
from ropewalk.serving.scheduler import PIECE, Scheduler
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

ANSWER = 8  # tokens of each answer
QUESTION = 16  # tokens of each question


class Client:
    """One request and what came back."""

    def __init__(self, scheduler: Scheduler, prompt: list[int], tokens: int = ANSWER):
        self._pieces: queue.Queue[Piece | Exception] = queue.Queue()
        self.cached = 0
        scheduler.submit(Job(Request(tuple(prompt), tokens, temperature=0), self._pieces.put))

    def until(self, first: bool) -> str:
        """The text, or its first piece."""
        text = ""
        while True:
            piece = self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            text, self.cached = text + piece.text, piece.cached
            if first or piece.finish:
                return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--method", default="self-extend", help="what reads the document")
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--asks", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a document of 1,000 tokens, asked three times")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    tokens, asks = (1000, 3) if options.quick else (options.tokens, options.asks)

    checkpoint = Checkpoint.open(options.model)
    model, tokenizer = checkpoint.load("float32"), checkpoint.tokenizer()
    model.generation_config.eos_token_id = None
    random = torch.Generator().manual_seed(0)
    text = token_ids(ORDINARY, tokenizer)
    document = opening(tokenizer) + [text[i] for i in torch.randint(len(text), (tokens,), generator=random).tolist()]
    questions = [torch.randint(len(text), (QUESTION,), generator=random).tolist() for _ in range(asks)]
    prompts = [document + [text[i] for i in question] for question in questions]

    chosen, to = method(options.method), tokens + 1024
    with chosen.on(model, None if chosen.id == "none" else max(to, checkpoint.promised)):
        way = way_of(model, chosen, False, opening(tokenizer) + text)
        if not way.shared:
            raise SystemExit(f"{options.model} with {options.method} shares no beginnings")
        runs = [asked(Scheduler(model, tokenizer, 3 * to, one), prompts) for one in (way, replace(way, shared=False))]
        waits = [overtaken(model, Scheduler(model, tokenizer, 3 * to, one), document) for one in (way, Way())]
    if runs[0][1] != runs[1][1]:
        raise SystemExit("answers differ")
    about = {"model": options.model, "method": options.method, "dtype": str(model.dtype).removeprefix("torch.")}
    about |= {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}
    found = [
        (f"a document of {tokens:,} tokens asked {asks} times", "CPU s", runs[0][0], runs[1][0],
         {"peer": "the same scheduler, beginnings not kept"}),
        (f"the first token of a short prompt beside one of {tokens:,}", "tokens read before", waits[0], waits[1],
         {"peer": "prompts read at once", "piece": PIECE}),
    ]  # fmt: skip
    rows = [
        {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": unit, "n": 1, "setting": how | about}
        for name, unit, ours, peer, how in found
    ]
    for row in rows:
        print(f"{row['name']}: ours {row['ours']:.1f}, peer {row['peer']:.1f} {row['unit']}, ratio {row['ratio']:.2f}")
    options.json.write_text(json.dumps(rows, indent=2) + "\n")


def asked(scheduler: Scheduler, prompts: list[list[int]]) -> tuple[float, list[str]]:
    """CPU seconds and texts of all answers, asked one after the other."""
    scheduler.start()
    start = time.process_time()
    texts = [Client(scheduler, prompt).until(first=False) for prompt in prompts]
    seconds = time.process_time() - start
    scheduler.close()
    return seconds, texts


def overtaken(model: transformers.PreTrainedModel, scheduler: Scheduler, document: list[int]) -> float:
    """Tokens that are read before a short request's first token, beyond its own, if it comes while another is read."""
    read: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    scheduler.start()
    long = Client(scheduler, document, 1)
    while not read:
        time.sleep(0.001)
    short = document[:100]
    before = sum(read[:-1])  # the piece under way counts
    Client(scheduler, short, 1).until(first=True)
    after = sum(read)
    hook.remove()
    del long
    scheduler.close()
    return float(after - before - len(short))


if __name__ == "__main__":
    main()
