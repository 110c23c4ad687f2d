"""What LongPO's preference adds: the bundled model (window 512), taught to answer at its window, then by pairs beyond.

    python claims/longpo.py --json claims/results/longpo.json [--work DIR]

LongPO (arXiv 2502.13922) has a model of a short window learn at a long one from its own two answers, to short evidence
and to the whole text. So the model first learns to answer the questions of ``data synth longpo`` behind three segments
and behind one, which its window holds. YaRN then makes it twice as long, and it makes pairs, as the verb does. From
there four go on: it stays as it is; it learns the chosen answers alone (lambda 0); it learns by LongPO's loss with the
paper's beta and lambda, and with lambda 1. All read the same pairs in the same order, at one learning rate, ours.

Texts are the files of a package that the bundled model has not seen; what is measured is on modules of the standard
library that nobody was trained on: questions behind contexts of the whole length, and the same ones behind their
evidence alone. A loss is the mean over the tokens that stand there; intervals are of 95 %, over questions, paired; one
seed. What is finished is kept in ``--work``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import ropewalk
from ropewalk.backends.nll import best_and_nll
from ropewalk.common.statistics import Mean, cluster_mean, ratio
from ropewalk.common.whole import write_text
from ropewalk.data.arranged import Arranged
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.making import Texts, make_rows
from ropewalk.data.pairs import Pairs
from ropewalk.data.synthesis.answer_pairs import ANSWERS, ASKS, QUESTIONS
from ropewalk.data.synthesis.drawing import Draw, Row, Text, drawn
from ropewalk.data.synthesis.information_intensive import SEGMENT, asked_of, once, segments_of, text_of
from ropewalk.data.synthesis.synthesis import Written

WINDOW, TO, RATE = 512, 1024, 3e-4
PACKAGE = "accelerate"  # which the bundled model has not seen
FIRST, STEPS, BATCH = 40, 8, 2  # steps of 4,096 tokens that teach to answer; steps, and pairs in each
ASKED, PAIRS, QUESTIONED = 200, 16, 48  # questions that teach to answer, pairs, and questions that are measured on
SHORT, WHOLE = 3, 7  # segments of a context
SAID = {"documents": 0, "keys": 0, "learning_rate": RATE, "schedule": "constant", "dtype": "float32", "seed": 0}
WAYS = {"chosen": 0.0, "longpo": 0.01, "longpo, lambda 1": 1.0}  # what the preference counts
START = "start"


@dataclass(frozen=True)
class Copies:
    """The questions that pairs are made of, with what stands there as the answer; each behind contexts of two sizes.

    Attributes:
        rows: questions.
        segments: of each context of a question; all have the evidence, at a random place, and the others are those of
            the longest.
    """

    rows: int
    segments: tuple[int, ...]

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        segments = segments_of(corpus.lengths, len(corpus.manifest.begin))
        questions = {name: Text.of(text, marks) for name, text in QUESTIONS.items()}
        asks = Text.of(ASKS, marks)

        def draw(numbers: range) -> Iterator[Draw]:
            for number in numbers:
                rng = np.random.default_rng([seed, number])
                chosen = segments[rng.choice(len(segments), max(self.segments), replace=False)]
                pieces = [Piece(int(d), int(s), int(s) + SEGMENT, loss=False) for d, s in chosen]
                direction = str(rng.choice(list(QUESTIONS)))
                quote, (there,) = asked_of(pieces[-1], direction, rng, corpus, marks.decode)
                if not once(text_of(pieces, corpus, marks.decode), text_of([quote], corpus, marks.decode)):
                    yield "the quote stands twice in the context"
                    continue
                truth = marks.decode(corpus.tokens(there.document, there.start, there.stop).tolist()).strip()
                answer, rows = Text.of(ANSWERS.format(answer=truth), marks, loss=True), []
                for count in self.segments:
                    place = int(rng.integers(count))
                    context = pieces[-count:-1]
                    context.insert(place, pieces[-1])
                    rows.append(Row([*context, questions[direction], quote, asks, answer], direction, [place],
                                    "is the text", range(count, count + 3)))  # fmt: skip
                yield rows

        return drawn(self.rows * len(self.segments), None, draw, corpus, length, marks, len(self.segments))


def copies(texts: str, length: int, out: Path, made: Copies, seed: int) -> Arranged:
    """A folder of such rows, made if it is not there."""
    if not out.exists():
        tokenizer = ropewalk.load("demo")[1]
        make_rows(Texts(texts, tokenizer, "demo"), made, "copies", {}, length, False, seed, out, False,
                  lambda progress: None)  # fmt: skip
    return Arranged.open(out)


def started(texts: str, work: Path) -> Path:
    """The model that answers at its window, stretched to twice that."""
    short, long = work / "short", work / START
    copies(texts, WINDOW, work / "short rows", Copies(ASKED, (SHORT, 1)), 0)
    if not (short / "training.json").exists():
        ropewalk.train("pi", "demo", work / "short rows", to=WINDOW, out=short, method="none", steps=FIRST,
                       batch=4096 // WINDOW, save_every=10, **SAID)  # fmt: skip
    if not long.exists():
        ropewalk.extend(str(short), to=TO, method="yarn", out=long)
    return long


def paired(texts: str, work: Path) -> Path:
    """Pairs of answers of that model."""
    start, pairs = started(texts, work), work / "pairs"
    if not pairs.exists():
        ropewalk.synth_data("longpo", texts, tokenizer=str(start), engine=str(start), length=TO, out=pairs, rows=PAIRS,
                            draws=8 * PAIRS)  # fmt: skip
    return pairs


def trained(way: str, texts: str, work: Path) -> Path:
    """The folder of a model that went on, or of the one that did not."""
    start, pairs, out = started(texts, work), paired(texts, work), work / way.replace(", ", "-").replace(" ", "-")
    if way != START and not (out / "training.json").exists():
        ropewalk.train("longpo", str(start), pairs, to=TO, out=out, method="none", steps=STEPS, batch=BATCH,
                       longpo_lambda=WAYS[way], save_every=5, **SAID)  # fmt: skip
    return out


def losses(folder: Path, questions: Arranged) -> tuple[list[float], list[float]]:
    """Mean loss of each answer of rows, and the share of its tokens that is argmax."""
    model, found = ropewalk.load(folder, dtype="float32")[0], []
    for number in range(len(questions)):
        ids, _, _, weights = questions.row(number)
        answer = np.flatnonzero(weights)
        with torch.no_grad():
            seen = best_and_nll(model, torch.tensor(ids)[None], (answer - 1).tolist(), ids[answer].tolist()).numpy()
        found.append((float(seen[:, 1].mean()), float((seen[:, 0] == ids[answer]).mean())))
    first, second = zip(*found, strict=True)
    return list(first), list(second)


def told(seen: dict[str, tuple[list[float], list[float]]]) -> dict[str, Any]:
    """Of rows of two contexts a question, the whole one first: perplexity, right tokens, models against others."""
    found: dict[str, Any] = {}
    for k, name in enumerate(("whole context", "evidence alone")):
        own = {way: np.array(one)[:, k::2] for way, one in seen.items()}
        of = {way: {"perplexity": asdict(exponential(mean(one[0]))), "right tokens": asdict(mean(one[1]))}
              for way, one in own.items()}  # fmt: skip
        pairs = [(way, other) for way in WAYS for other in (START, "chosen") if way != other]
        found[name] = {
            "of": of,
            "ratios of perplexities": {
                f"{way} / {other}": asdict(ratio(own[way][0], own[other][0])) for way, other in pairs
            },
            "differences of right tokens": {
                f"{way} - {other}": asdict(mean(own[way][1] - own[other][1])) for way, other in pairs
            },
        }
    return found


def mean(values: np.ndarray) -> Mean:
    return cluster_mean(values, np.ones(len(values)))


def exponential(one: Mean) -> Mean:
    low, high = (None if end is None else math.exp(end) for end in (one.low, one.high))
    return Mean(math.exp(one.value), None, low, high, one.n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/claims-longpo"))
    given = parser.parse_args()
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install -c constraints.txt {PACKAGE}")
    texts = str(Path(spec.origin).parent)
    given.work.mkdir(parents=True, exist_ok=True)
    questions = copies("stdlib", TO, given.work / "questions", Copies(QUESTIONED, (WHOLE, 1)), 1)
    seen = {}
    for way in (START, *WAYS):
        file = given.work / f"{way}.json"
        if not file.exists():
            write_text(file, json.dumps(losses(trained(way, texts, given.work), questions)))
        seen[way] = json.loads(file.read_text())
        print(way, "is measured", flush=True)
    pairs = Arranged.open(given.work / "pairs")
    found = {
        "window": WINDOW, "to": TO, "steps": STEPS, "pairs a step": BATCH, "learning rate": RATE,
        "steps before": FIRST, "pairs": len(Pairs(pairs)), "of pairs": dict(pairs.about.told), **told(seen),
        "torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
    write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
