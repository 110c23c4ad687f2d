"""What papers claim of long data, at equal tokens: the bundled model (window 512) to 2,048 tokens.

    python claims/data.py --json claims/results/data.json [--only utk,in2] [--work DIR]

Every pair is two trainings that differ in one thing, of as many tokens (60 steps of 4,096; 30 where a trained model
goes on), at one learning rate, ours. They are on Python files of packages beside this one that the bundled model was
not trained on: ``short`` ones, 256 to 2,046 tokens, each fourth of which is kept aside, or ``long`` ones from there on.
What is measured is on texts that nobody was trained on, the same for all: perplexity and questions on the standard
library's held-out modules, names on the short files kept aside. ``questions`` are those of ``data synth in2``, of one
piece of evidence; ``keys`` are pass keys; ``names`` are the first uses of what the file defined before them.

Pairs, ours first. utk (arXiv 2409.04774): short documents cut, shuffled and tied reach further than packed ones.
best-fit (2404.10830): documents that are whole, against ones that are cut where a row is full, both seeing themselves
alone; the paper's own measure, names without a definition in programs that are written, needs a model that writes
programs: what is measured here is how well a definition is made use of. icp (2310.10638): short texts that follow one
like them, against ones in a random order, both one behind the other. in2 (2404.16811): questions flatten the dip in
the middle, which going on with plain long texts does not; both go on from the model that was trained on packed rows.
decompose (2405.13226): rows of many lengths reach the loss of rows of one length in fewer steps.

Intervals are of 95 %, over texts, files or questions, paired. What is finished is kept in ``--work``, and pairs that
stand in the JSON file already stay.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import math
import platform
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import ropewalk
from ropewalk.backends.nll import answer_match, best_and_nll, token_nll
from ropewalk.common.outside import read_json
from ropewalk.common.statistics import Mean, Tally, average, cluster_mean, ratio, student
from ropewalk.data.arranged import Arranged
from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.making import Texts, make_rows
from ropewalk.data.packing.concatenation import concatenation
from ropewalk.data.packing.packings import Packing
from ropewalk.evaluation.long_context import LongContext
from ropewalk.tasks.passkey import Passkey
from ropewalk.texts.documents import load, token_ids
from ropewalk.texts.opening import opening
from ropewalk.texts.pieces import TokenUnits

TO, STEPS, MORE, BATCH, RATE = 2048, 60, 30, 2, 3e-4
PACKAGES = "IPython", "accelerate", "datasets", "pandas", "peft", "sklearn"  # none of which the bundled model has seen
SHORTEST, ASIDE = 256, 4  # tokens of a short file; of so many of them one is kept aside
KEYS, QUESTIONS, FILES = 24, 90, 90  # that are measured on
FURNITURE = 320  # tokens of a question and its answer, at most
THIRDS = "first", "middle", "last"  # of a context, where the evidence stands

Seen = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A training.

    Attributes:
        rows: writes rows of the texts in a folder (first) to another (second).
        texts: short or long.
        start: row whose model it goes on from; by default it is the bundled one.
        options: more of the training.
    """

    rows: Callable[[Path, Path], Any]
    texts: str = "short"
    start: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Two trainings that are compared.

    Attributes:
        ours: the row that the paper is for.
        theirs: the row that it is held against.
        measures: what is told of them.
    """

    ours: str
    theirs: str
    measures: tuple[str, ...]


def pack(packing: str, texts: Path, out: Path) -> None:
    ropewalk.pack_data(texts, tokenizer="demo", length=TO, out=out, packing=packing)


def knot(texts: Path, out: Path) -> None:
    ropewalk.knot_data(texts, tokenizer="demo", length=TO, out=out, knot="utk", share=0.8)


def order(kind: str, texts: Path, out: Path) -> None:
    ropewalk.order_data(kind, texts, tokenizer="demo", length=TO, out=out)


def ask(texts: Path, out: Path) -> None:
    ropewalk.synth_data("in2", texts, tokenizer="demo", length=TO, out=out, rows=200)


def cut_alone(texts: Path, out: Path) -> None:
    """Documents cut where a row is full, each seeing itself alone: best-fit's rows, but for the cuts."""

    def alone(lengths: Ints, length: int, begin: int = 0) -> Arrangement:
        some = concatenation(lengths, length, begin)
        return Arrangement.of(some.row, some.document, some.start, some.stop, apart=True)

    tokenizer = ropewalk.load("demo")[1]
    make_rows(Texts(str(texts), tokenizer, "demo"), Packing(alone, True, ""), "concat, alone", {}, TO, True, 0, out,
              False, lambda progress: None)  # fmt: skip


ON_THE_WAY = {"test": "stdlib", "documents": 25, "evaluate_every": 10}
ROWS = {
    "concat": Row(partial(pack, "concat")),
    "utk": Row(knot),
    "concat, alone": Row(cut_alone),
    "best-fit": Row(partial(pack, "best-fit")),
    "icp": Row(partial(order, "icp")),
    "random": Row(partial(order, "random")),
    "plain": Row(partial(pack, "concat"), "long", "concat"),
    "in2": Row(ask, "long", "concat"),
    "concat, long": Row(partial(pack, "concat"), "long", options=ON_THE_WAY),
    "decompose": Row(partial(pack, "decompose"), "long", options=ON_THE_WAY),
}
FAR = "perplexity far out", "keys", "questions"
PAIRS = {
    "utk": Pair("utk", "concat", FAR),
    "best-fit": Pair("best-fit", "concat, alone", ("names", "other tokens of the files", "documents cut")),
    "icp": Pair("icp", "random", FAR),
    "in2": Pair("in2", "plain", ("questions", "questions by depth", "keys", "perplexity far out")),
    "decompose": Pair("decompose", "concat, long", ("steps to equal loss", "perplexity far out")),
}


def sources(work: Path, tokenizer: Any) -> dict[str, Path]:
    """Folders of texts, by name: short, long, aside."""
    folders = {name: work / name for name in ("short", "long", "aside")}
    if not (work / "texts are whole").exists():
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        short = 0
        for name, file in _files():
            text = file.read_text("utf-8")
            tokens = len(token_ids(text, tokenizer))
            if tokens < SHORTEST:
                continue
            short += tokens < TO - 1
            where = "long" if tokens >= TO - 1 else "short" if short % ASIDE else "aside"
            (folders[where] / name).write_text(text, "utf-8")
        (work / "texts are whole").touch()
    return folders


def _files() -> Iterator[tuple[str, Path]]:
    """Names and places of all sources but tests."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed: pip install -c constraints.txt {' '.join(PACKAGES)}")
        home = Path(spec.origin).parent
        for file in sorted(home.rglob("*.py")):
            inside = file.relative_to(home.parent)
            if "tests" not in inside.parts:
                yield f"{'.'.join(inside.with_suffix('').parts)}.txt", file


def trained(name: str, work: Path) -> Path:
    """The folder of a row's model, trained if it is not there."""
    row, home = ROWS[name], work / name.replace(", ", "-")
    out, rows = home / "model", home / "rows"
    if not (out / "training.json").exists():
        start = trained(row.start, work) if row.start else Path("demo")
        if not rows.exists():
            row.rows(sources(work, ropewalk.load("demo")[1])[row.texts], rows)
        counts, even = Arranged.open(rows).counts, Arranged.open(rows).about.even
        fill = counts.tokens / (counts.rows * TO) if even else 1.0  # a step of many lengths is always a full one
        steps = round((MORE if row.start else STEPS) / fill)
        more = {"documents": 0, "keys": 0} | ({"method": "none"} if row.start else {}) | row.options
        ropewalk.train("pi", str(start), rows, to=TO, out=out, steps=steps, batch=BATCH, learning_rate=RATE,
                       warmup=STEPS // 20, schedule="constant", dtype="float32", save_every=10, seed=0,
                       **more)  # fmt: skip
    return out


def seen(name: str, work: Path) -> Seen:
    """What was measured of a row's model; measured if it was not."""
    file = work / name.replace(", ", "-") / "seen.json"
    if not file.exists():
        out = trained(name, work)
        training = json.loads((out / "training.json").read_text())
        model, tokenizer = ropewalk.load(out, dtype="float32")
        units = TokenUnits(tokenizer)
        begin, modules = opening(tokenizer), load("stdlib").values()
        texts = [[*begin, *token_ids(text, tokenizer)] for text in modules]
        told = LongContext.of(texts, units, TO, len(texts), keys=0).measure(model)
        rows = Arranged.open(out.parent / "rows")
        found = {
            "texts": rows.about.source, "counts": asdict(rows.counts), "steps": len(training["log"]),
            "tokens": sum(step["tokens"] for step in training["log"]),
            "seconds a step": float(np.median([step["seconds"] for step in training["log"]])),
            "losses": {f"{start}-{stop}": losses for (start, stop), losses in told.losses.items()},
            "keys": keys(model, units), "questions": questions(model, work), "names": names(model, tokenizer, work),
            "on the way": {step: list(reading["perplexity"].values())[-1]["losses"]
                           for step, reading in training["readings"].items() if reading["perplexity"]},
        }  # fmt: skip
        file.write_text(json.dumps(found) + "\n")
    read: Seen = json.loads(file.read_text())
    return read


def keys(model: Any, units: TokenUnits) -> dict[str, list[tuple[bool, float]]]:
    """Whether each pass key is found, and its mean log-probability, by length."""
    found = {}
    for n in (TO // 2, TO):
        chance = random.Random(n)
        asked = [Passkey().sample(n, chance, units, (i + 0.5) / KEYS) for i in range(KEYS)]
        found[str(n)] = answer_match(model, [one.prompt for one in asked], [one.answer for one in asked])
    return found


def questions(model: Any, work: Path) -> list[dict[str, float]]:
    """Of every question: where its evidence stands (0 to 1), mean loss of the answer, and the share that is argmax."""
    rows = work / "questions"
    if not rows.exists():
        ropewalk.synth_data("in2", "stdlib", tokenizer="demo", length=TO, out=rows, rows=2 * QUESTIONS,
                            least=TO - FURNITURE - 16, seed=1)  # fmt: skip
    arranged, found = Arranged.open(rows), []
    for i, told in enumerate(arranged.provenance):
        if not told.kind.startswith("single") or len(found) == QUESTIONS:
            continue
        ids, _, _, weights = arranged.row(i)
        answer = np.flatnonzero(weights)
        answer = answer[answer > 0]
        with torch.no_grad():
            seen = best_and_nll(model, torch.tensor(ids)[None], (answer - 1).tolist(), ids[answer].tolist())
        context = sum(not one for one in weights)  # what stands before the answer
        found.append({
            "depth": told.evidence[0]["at"] / context, "loss": float(seen[:, 1].mean()),
            "right": float((seen[:, 0].numpy() == ids[answer]).mean()),
        })  # fmt: skip
    return found


def names(model: Any, tokenizer: Any, work: Path) -> dict[str, list[dict[str, float]]]:
    """Of every file kept aside: summed loss and number of tokens, of first uses of names defined before, and others."""
    found: dict[str, list[dict[str, float]]] = {"names": [], "other": []}
    begin = opening(tokenizer)
    for file in sorted((work / "aside").iterdir())[:FILES]:
        text = file.read_text("utf-8")
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = torch.tensor([*begin, *read["input_ids"]])[None]
        losses = token_nll(model, ids)[0].numpy()[max(len(begin) - 1, 0) :]
        offsets = np.array(read["offset_mapping"])[len(read["input_ids"]) - len(losses) :]
        here = np.zeros(len(losses), bool)
        for start, stop in first_uses(text):
            here |= (offsets[:, 0] < stop) & (offsets[:, 1] > start)
        for kind, some in (("names", here), ("other", ~here)):
            found[kind].append({"loss": float(losses[some].sum()), "tokens": int(some.sum())})
    return found


def first_uses(text: str) -> list[tuple[int, int]]:
    """Where, in characters, each name is read for the first time that the text bound before; nothing of no Python."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    lines = text.encode("utf-8").splitlines(keepends=True)
    starts = np.cumsum([0, *map(len, lines)])

    def place(line: int, column: int) -> int:  # ast counts bytes
        return len(text.encode("utf-8")[: int(starts[line - 1]) + column].decode("utf-8"))

    bound: dict[str, int] = {}
    used: dict[str, int] = {}
    for node in ast.walk(tree):
        at = place(node.lineno, node.col_offset) if hasattr(node, "lineno") else 0
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound[node.name] = min(at, bound.get(node.name, at))
        elif isinstance(node, ast.arg):
            bound[node.arg] = min(at, bound.get(node.arg, at))
        elif isinstance(node, ast.alias):
            name = (node.asname or node.name).partition(".")[0]
            bound[name] = min(at, bound.get(name, at))
        elif isinstance(node, ast.Name):
            into = used if isinstance(node.ctx, ast.Load) else bound
            into[node.id] = min(at, into.get(node.id, at))
    return sorted((at, at + len(name)) for name, at in used.items() if bound.get(name, at) < at)


def compared(pair: Pair, work: Path) -> Seen:
    """What is told of a pair."""
    ours, theirs = seen(pair.ours, work), seen(pair.theirs, work)
    told: Seen = {"ours": pair.ours, "theirs": pair.theirs}
    for name, one in (("ours", ours), ("theirs", theirs)):
        told[f"of {name}"] = {key: one[key] for key in ("steps", "tokens", "seconds a step", "counts")}
    return told | {measure: MEASURES[measure](ours, theirs) for measure in pair.measures}


def far(ours: Seen, theirs: Seen) -> Seen:
    """Perplexity of the last stretch of positions: each, and the ratio, over texts."""
    last = list(ours["losses"])[-1]
    one, other = ours["losses"][last], theirs["losses"][last]
    return {
        "positions": last,
        "ours": _perplexity(one),
        "theirs": _perplexity(other),
        "ratio": asdict(ratio(one, other)),
    }


def found_keys(ours: Seen, theirs: Seen) -> Seen:
    """Pass keys by length: those that are found, and the ratio of what a token of a key is to the two."""
    told = {}
    for n in ours["keys"]:
        one, other = zip(*ours["keys"][n], strict=True), zip(*theirs["keys"][n], strict=True)
        (hits, logs), (their_hits, their_logs) = (tuple(map(list, pair)) for pair in (one, other))
        told[n] = {
            "ours": asdict(average([Tally.of([[float(hit)] for hit in hits])])),
            "theirs": asdict(average([Tally.of([[float(hit)] for hit in their_hits])])),
            "ratio of perplexities": asdict(ratio(np.negative(logs), np.negative(their_logs))),
        }
    return told


def answers(ours: Seen, theirs: Seen) -> Seen:
    """Answers of questions: tokens that are argmax, the perplexity of each, and the ratio, over questions."""
    return _of_questions(ours["questions"], theirs["questions"])


def by_depth(ours: Seen, theirs: Seen) -> Seen:
    """The same by where the evidence stands; in nats, what the middle is more than the rest, and far more than near."""
    third = np.minimum([int(3 * one["depth"]) for one in ours["questions"]], 2)
    told: Seen = {}
    for i, name in enumerate(THIRDS):
        some = [
            [one for one, here in zip(side["questions"], third, strict=True) if here == i] for side in (ours, theirs)
        ]
        told[name] = _of_questions(*some)
    losses = [np.array([one["loss"] for one in side["questions"]]) for side in (ours, theirs)]
    for name, one, other in (
        ("middle less the rest", third == 1, third != 1),
        ("far less near", third == 0, third == 2),
    ):
        told[name] = {
            side: asdict(unpaired(values[one], values[other]))
            for side, values in (("ours", losses[0]), ("theirs", losses[1]), ("difference", losses[0] - losses[1]))
        }
    return told


def on_names(kind: str, ours: Seen, theirs: Seen) -> Seen:
    """Loss of some tokens of the files kept aside: each as perplexity, and the ratio, over files that have such."""
    one, other = ([each["loss"] for each in side["names"][kind]] for side in (ours, theirs))
    tokens = np.array([each["tokens"] for each in ours["names"][kind]])
    difference = cluster_mean(np.subtract(one, other), tokens)
    return {
        "tokens": int(tokens.sum()), "ours": _exponential(cluster_mean(one, tokens)),
        "theirs": _exponential(cluster_mean(other, tokens)), "ratio": _exponential(difference),
    }  # fmt: skip


def cuts(ours: Seen, theirs: Seen) -> Seen:
    """Of all rows, trained on or not: documents cut, and those of them that would have fitted."""
    return {
        name: {key: side["counts"][key] for key in ("documents", "cut", "cut_in_vain", "padding", "tokens")}
        for name, side in (("ours", ours), ("theirs", theirs))
    }


def steps(ours: Seen, theirs: Seen) -> Seen:
    """Perplexity far out on the way, and at which step each first was where theirs ended (None: never)."""
    end = float(np.mean(list(theirs["on the way"].values())[-1]))
    reached = {
        name: next((int(step) for step, losses in side["on the way"].items()
                    if step.isdigit() and float(np.mean(losses)) <= end), None)
        for name, side in (("ours", ours), ("theirs", theirs))
    }  # fmt: skip
    way = {name: {step: math.exp(float(np.mean(losses))) for step, losses in side["on the way"].items()}
           for name, side in (("ours", ours), ("theirs", theirs))}  # fmt: skip
    return {"loss": end, "first there": reached, "perplexity by step": way}


MEASURES: dict[str, Callable[[Seen, Seen], Seen]] = {
    "perplexity far out": far,
    "keys": found_keys,
    "questions": answers,
    "questions by depth": by_depth,
    "names": partial(on_names, "names"),
    "other tokens of the files": partial(on_names, "other"),
    "documents cut": cuts,
    "steps to equal loss": steps,
}


def unpaired(some: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> Mean:
    """Difference of two means, by Welch's interval."""
    one, other = np.asarray(some, float), np.asarray(others, float)
    parts = one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)
    se = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(one) - 1) + parts[1] ** 2 / (len(other) - 1))
    value, half = float(one.mean() - other.mean()), student(freedom) * se
    return Mean(value, se, value - half, value + half, len(one) + len(other))


def _of_questions(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> Seen:
    one, other = ([each["loss"] for each in side] for side in (ours, theirs))
    return {
        "n": len(ours), "ours": _perplexity(one), "theirs": _perplexity(other), "ratio": asdict(ratio(one, other)),
        "right tokens of ours": asdict(cluster_mean([each["right"] for each in ours], np.ones(len(ours)))),
        "right tokens of theirs": asdict(cluster_mean([each["right"] for each in theirs], np.ones(len(theirs)))),
    }  # fmt: skip


def _perplexity(losses: Sequence[float]) -> Seen:
    return _exponential(cluster_mean(losses, np.ones(len(losses))))


def _exponential(mean: Mean) -> Seen:
    low, high = (None if end is None else math.exp(end) for end in (mean.low, mean.high))
    return {"value": math.exp(mean.value), "low": low, "high": high, "n": mean.n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PAIRS), help="pairs, by commas")
    parser.add_argument("--work", type=Path, default=Path("runs/claims-data"))
    given = parser.parse_args()
    common = {"to": TO, "steps": STEPS, "steps more": MORE, "tokens per step": BATCH * TO, "learning rate": RATE,
              "torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine(),
              "threads": torch.get_num_threads()}  # fmt: skip
    pairs = read_json(given.json)["pairs"] if given.json.exists() else {}
    for name in given.only.split(","):
        pairs[name] = compared(PAIRS[name], given.work)
        print(name, json.dumps(pairs[name], indent=1), flush=True)
        given.json.write_text(json.dumps(common | {"pairs": pairs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
