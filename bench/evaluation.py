"""Needles at many lengths and depths: ropewalk's shared prefixes against one forward per prompt, in one process.

    python bench/evaluation.py [--quick] [--model MODEL] [--dtype bfloat16] --json FILE

Three rows. "planted": all needles in one haystack; the peer is a single prefill of the longest context, which no way of
asking can beat. "single": one needle per prompt; the peer is one forward per prompt. "peak memory": of the planted grid
beside the weights; the peer is what its keys and values take, and 1 GB. Times are taken in alternation. Both ways must
give the same verdicts; in half precision, where rounding tips some, the row says how many are the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ropewalk import YaRN
from ropewalk.backends.backend import Ask, Reply
from ropewalk.backends.local import ORDINARY
from ropewalk.backends.nll import answer_match
from ropewalk.backends.prefix import Runner, Trunk
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.evaluation.samples import cells
from ropewalk.planning.measure import peak_bytes
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

DEPTHS = [tenth / 10 for tenth in range(11)]
EQUAL = 1e-3  # of mean log-probabilities, in nats


def questions(task: str, lengths: list[int], tokenizer: Any) -> list[Ask]:
    found, skipped = cells([task], lengths, len(DEPTHS), DEPTHS, 0, tokenizer)
    if skipped:
        raise SystemExit(f"{skipped[0].task} does not fit into {skipped[0].length} tokens")
    samples = (one for cell in found for one in cell.samples(range(len(cell))))
    return [Ask(one.prompt, one.answer) for one in samples]


def runner_of(model: PreTrainedModel, tokenizer: Any) -> Runner:
    return Runner(model, probe=opening(tokenizer) + token_ids(ORDINARY, tokenizer))


def shared(model: PreTrainedModel, tokenizer: Any, asks: list[Ask]) -> tuple[list[Reply], int, int]:
    runner = runner_of(model, tokenizer)
    if runner.way != "packed":
        raise SystemExit(f"prompts are not packed: {runner.how}")
    replies = dict(runner.run(asks))
    return [replies[i] for i in range(len(asks))], runner.asked, runner.read


def one_by_one(model: PreTrainedModel, asks: list[Ask]) -> list[tuple[bool, float]]:
    """One prompt per forward, without a cache."""
    return [answer_match(model, [list(ask.prompt)], [list(ask.answer)])[0] for ask in asks]


def prefill(model: PreTrainedModel, ids: list[int]) -> None:
    """One context in one forward, with a cache, as ``generate`` begins."""
    row = torch.tensor([ids], device=model.device)
    with torch.no_grad():
        model.get_decoder()(input_ids=row, attention_mask=torch.ones_like(row), use_cache=True)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def check(replies: list[Reply], expected: list[tuple[bool, float]], dtype: torch.dtype) -> str:
    """How many verdicts are the same."""
    same = [reply.right is right for reply, (right, _) in zip(replies, expected, strict=True)]
    off = [abs((reply.logprob or 0) - logprob) for reply, (_, logprob) in zip(replies, expected, strict=True)]
    if dtype == torch.float32 and not (all(same) and max(off) <= EQUAL):
        raise SystemExit(f"{len(same) - sum(same)} verdicts differ, and log-probabilities by up to {max(off)}")
    return f"{sum(same)} of {len(same)}"


def single(model: PreTrainedModel, tokenizer: Any, lengths: list[int], repeats: int) -> dict[str, Any]:
    asks = questions("niah", lengths, tokenizer)
    ours, theirs, tokens, same = [], [], (0, 0), ""
    for _ in range(repeats):
        took, (replies, *tokens) = seconds(lambda: shared(model, tokenizer, asks))  # type: ignore[assignment]
        ours.append(took)
        took, expected = seconds(lambda: one_by_one(model, asks))
        theirs.append(took)
        same = check(replies, expected, model.dtype)
    asked, read = tokens
    row = entry("single needles, one forward per prompt against shared prefixes", ours, theirs, "s", model, lengths)
    return {**row, "same verdicts": same, "tokens": {"asked": asked, "read": read, "ratio": asked / read}}


def planted(model: PreTrainedModel, tokenizer: Any, lengths: list[int], repeats: int) -> dict[str, Any]:
    asks = questions("niah-planted", lengths, tokenizer)
    longest = list(max((ask.prompt for ask in asks), key=len))
    ours, theirs, tokens = [], [], (0, 0)
    for _ in range(repeats):
        took, (replies, *tokens) = seconds(lambda: shared(model, tokenizer, asks))  # type: ignore[assignment]
        ours.append(took)
        theirs.append(seconds(lambda: prefill(model, longest))[0])
    same = check(replies, one_by_one(model, asks), model.dtype)
    asked, read = tokens
    row = entry("planted grid, against one prefill of the longest context", ours, theirs, "s", model, lengths)
    return {**row, "same verdicts": same, "tokens": {"asked": asked, "read": read, "ratio": asked / read}}


def memory(model: PreTrainedModel, tokenizer: Any, lengths: list[int]) -> dict[str, Any]:
    """Peak tensor memory of the planted grid beside the weights, against its cache and 1 GB."""
    asks = questions("niah-planted", lengths, tokenizer)
    runner = runner_of(model, tokenizer)
    trunk = Trunk(runner, 8)
    trunk.forward([3])
    layer = trunk.cache.layers[0]
    per_token = 2 * layer.keys[..., :1, :].numel() * layer.keys.element_size() * len(trunk.cache.layers)
    peak = peak_bytes(lambda: list(runner.run(asks)), model.device)
    allowed = per_token * lengths[-1] + 1e9
    return entry(
        "peak memory beside the weights, against cache and 1 GB", [peak / 1e9], [allowed / 1e9], "GB", model, lengths
    )


def entry(
    name: str, ours: list[float], theirs: list[float], unit: str, model: PreTrainedModel, lengths: list[int]
) -> dict[str, Any]:
    mine, peer = statistics.median(ours), statistics.median(theirs)
    return {
        "name": name,
        "ours": mine,
        "peer": peer,
        "ratio": mine / peer,
        "unit": unit,
        "n": len(ours),
        "setting": {
            "model": f"{Path(model.name_or_path).name or 'demo'} with yarn",
            "lengths": lengths,
            "depths": len(DEPTHS),
            "parameters": model.num_parameters(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--model", default="demo", help="folder, hub id or GGUF file")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    arguments = parser.parse_args()
    longest_single, longest_planted, repeats = (2048, 4096, 1) if arguments.quick else (16384, 32768, 2)
    checkpoint = Checkpoint.open(arguments.model)
    model, tokenizer = checkpoint.load(arguments.dtype, "cpu"), checkpoint.tokenizer()
    rows = []
    for measure, longest in ((single, longest_single), (planted, longest_planted)):
        lengths = [longest >> k for k in range(3 if arguments.quick else 5, -1, -1)]
        with YaRN().on(model, to=longest):
            if measure is single:
                rows.append(memory(model, tokenizer, lengths))
            prefill(model, list(range(3, 60)))
            rows.append(measure(model, tokenizer, lengths, repeats))
    for row in rows:
        print(f"{row['name']}: {row['ours']:.2f} against {row['peer']:.2f} {row['unit']}")
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
