"""HELMET: seven categories of applications, 8k to 128k (arXiv 2410.02694).

Files are those of the published archive, named after their data set: ``nq.jsonl`` with the questions and, where
examples come first, ``nq.demos.jsonl`` with those (keys stand at the function that reads each set). The archive has one
file per depth of the gold passage; put them behind each other. Prompts are our own wording.

Only the citations of category "cite" are missing: they are scored by an 11B entailment model. Correctness is reported;
the category and the total are not. Of the rest, ``narrativeqa``, ``infbench_sum`` and ``multi_lexsum`` need a judge.

Differs from the official code:
  * examples are drawn from a seed made of the question, as there, but by Python's generator, so they are other ones.
  * ``max_test_samples`` counts questions there while each stands in several files (depths); here every row counts.
  * contexts are cut to the asked length in the model's own tokens, in the middle, instead of at the end in Llama 2's.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks import judge as judging
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, around, lettered, means, with_means
from ropewalk.texts import rows as records
from ropewalk.texts.rows import Record

CATEGORIES = {
    "recall": ("json_kv", "ruler_niah_mk_2", "ruler_niah_mk_3", "ruler_niah_mv"),
    "rag": ("nq", "triviaqa", "hotpotqa", "popqa"),
    "rerank": ("msmarco_rerank",),
    "icl": ("trec_coarse", "trec_fine", "banking77", "clinic150", "nlu"),
    "longqa": ("narrativeqa", "infbench_qa", "infbench_choice"),
    "summ": ("infbench_sum", "multi_lexsum"),
    "cite": ("alce_asqa", "alce_qampari"),
}
SUBSETS = tuple(name for names in CATEGORIES.values() for name in names)
MAX_NEW_TOKENS = {
    "json_kv": 100, "ruler_niah_mk_2": 50, "ruler_niah_mk_3": 100, "ruler_niah_mv": 50,
    "nq": 20, "triviaqa": 20, "hotpotqa": 20, "popqa": 20, "msmarco_rerank": 200,
    "trec_coarse": 20, "trec_fine": 20, "banking77": 20, "clinic150": 20, "nlu": 20,
    "narrativeqa": 100, "infbench_qa": 10, "infbench_choice": 10, "infbench_sum": 1200, "multi_lexsum": 400,
    "alce_asqa": 300, "alce_qampari": 300,
}  # fmt: skip
ICL_SHOTS = {  # examples by length of the prompt
    "trec_coarse": {8192: 400, 16384: 800, 32768: 1600, 65536: 3300, 131072: 6600},
    "trec_fine": {8192: 400, 16384: 800, 32768: 1600, 65536: 3200, 131072: 6400},
    "banking77": {8192: 360, 16384: 720, 32768: 1450, 65536: 2900, 131072: 5900},
    "clinic150": {8192: 440, 16384: 880, 32768: 1750, 65536: 3525, 131072: 7050},
    "nlu": {8192: 510, 16384: 1020, 32768: 2040, 65536: 4080, 131072: 8296},
}
POPULAR = 3.0  # log10 of the page views from which PopQA's subjects are too well known

_KV = "{context}\n\nGive the value of a key of this JSON object.\n\n{demos}Key: {question}\nCorresponding value:"
_NEEDLE = (
    "Special magic values are hidden in this text.\n{context}\n"
    "What are the special magic {kind} for {question}? They are"
)
_RAG = "Answer the question from the documents, briefly.\n\n{demos}{context}\n\nQuestion: {question}\nAnswer:"
_RERANK = (
    "Rank the documents by relevance to the query, the most relevant first, as in: ID3 > ID1 > ID2\n\n"
    "{demos}{context}\n\nQuery: {question}\nRanking:"
)
_ICL = 'Label the last text by the examples. Reply with "label: " and the label.\n\n{context}\n\n{question}\nlabel:'
_STORY = "Answer the question about the story, in a phrase.\n\n{demos}{context}\n\nQuestion: {question}\nAnswer:"
_STORY_CHOICE = (
    "Answer the question about the story with one letter (A, B, C or D).\n\n"
    "{demos}{context}\n\nQuestion: {question}\nOptions:\n{options}\nAnswer:"
)
_BOOK = "Summarise the plot of the book in 1000 to 1200 words.\n\n{demos}{context}\n\nSummary of the book:"
_LAWSUIT = "Summarise the lawsuit in a paragraph of 200 to 250 words.\n\n{demos}{context}\n\nSummary of the lawsuit:"
_CITE = (
    "Answer the question from the documents and cite them, as in [1][2].\n\n{context}\n\nQuestion: {question}\nAnswer:"
)


def load(
    source: str | Path, subsets: Sequence[str] | None = None, shots: int = 2, n_tokens: int = 131072, seed: int = 42
) -> list[Question]:
    """Questions of HELMET.

    Args:
        source: folder with ``nq.jsonl``, ``nq.demos.jsonl`` and so on.
        subsets: data sets wanted; every one that is there unless given.
        shots: examples in front (in-context learning has as many as ``n_tokens`` holds).
        n_tokens: of the prompts, one of 8192, 16384, 32768, 65536 and 131072; only in-context learning depends on it.
        seed: of examples and labels.

    Raises:
        UserError: naming file and line, key, value seen and value expected.
    """
    if n_tokens not in ICL_SHOTS["nlu"]:
        raise UserError(f"HELMET has no prompts of {n_tokens} tokens, only {', '.join(map(str, ICL_SHOTS['nlu']))}")
    questions = []
    for name, rows in records.tables(source, SUBSETS, subsets):
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        demos = _Demos(folder / f"{name}.demos.jsonl", shots, n_tokens, seed)
        for row in rows:
            if name != "popqa" or not row.has("s_pop") or math.log10(row.number("s_pop")) < POPULAR:
                questions.append(_READERS[name](row, name, demos))
    return questions


class _Demos:
    """Examples of one data set, drawn anew for every question."""

    def __init__(self, file: Path, shots: int, n_tokens: int, seed: int):
        self.file, self.shots, self.n_tokens, self.seed = file, shots, n_tokens, seed
        self.rows = list(records.read(file)) if file.exists() else []

    def draw(self, key: str, text: Callable[[Record], str], asked: Callable[[Record], str]) -> str:
        """``shots`` examples about other questions, each question once."""
        if not self.rows or not self.shots:
            return ""
        others = list({asked(row): row for row in self.rows if asked(row) != key}.values())
        if len(others) < self.shots:
            raise UserError(f"{self.file}: {len(others)} examples about other questions, expected {self.shots} or more")
        return "".join(text(row) + "\n\n" for row in self.rng(key).sample(others, self.shots))

    def rng(self, key: str) -> random.Random:
        """The generator of one question."""
        return random.Random(int(hashlib.sha256(key.encode()).hexdigest(), 16) + self.seed)


def _make(
    row: Record, name: str, template: str, references: Sequence[str], context: str, question: str = "", **texts: str
) -> Question:
    """A question out of the parts that all data sets have; ``texts`` fill the rest of the template."""
    before, after = around(template, question=question, **texts)
    return Question(
        id=f"{name}/{row.where.rpartition(':')[2]}",
        context=context,
        question=question,
        references=tuple(references),
        subset=name,
        metric=METRICS[name],
        before=before,
        after=after,
        max_new_tokens=MAX_NEW_TOKENS[name],
        source=row.where,
        chat=not any(name in CATEGORIES[category] for category in ("recall", "rag", "rerank", "icl")),
    )


def _json_kv(row: Record, name: str, demos: _Demos) -> Question:
    """``{"context", "question", "answer", "demos": [[key, value], ...]}``."""
    pairs = row.values.get("demos") or []
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise row.refuse("demos", "a list of [key, value]")
    shown = "".join(f"Key: {key}\nCorresponding value: {value}\n\n" for key, value in pairs[: demos.shots])
    answers = row.answers("answer")
    if answers[0] not in row.text("context"):
        raise row.refuse("answer", 'a part of "context"')
    return _make(row, name, _KV, answers, row.text("context"), row.text("question"), demos=shown)


def _needle(row: Record, name: str, demos: _Demos) -> Question:
    """``{"context", "query", "type_needle_v", "answer" or "outputs"}``, as RULER makes them."""
    answers = row.answers("answer" if row.has("answer") else "outputs")
    if not all(answer in row.text("context") for answer in answers):
        raise row.refuse("answer" if row.has("answer") else "outputs", 'parts of "context"')
    kind = row.text("type_needle_v")
    return _make(row, name, _NEEDLE, answers, row.text("context"), row.text("query"), kind=kind)


def _passages(row: Record) -> str:
    return "\n\n".join(
        f"Document (Title: {c.text('title', empty=True)}): {c.text('text')}" for c in row.records("ctxs")
    )


def _rag(row: Record, name: str, demos: _Demos) -> Question:
    """``{"question", "answers", "ctxs": [{"title", "text"}]}``; examples have the same keys."""
    question = row.text("question")

    def example(demo: Record) -> str:
        return f"{_passages(demo)}\n\nQuestion: {demo.text('question')}\nAnswer: {demo.texts('answers')[0]}"

    shown = demos.draw(question, example, lambda demo: demo.text("question"))
    return _make(row, name, _RAG, row.texts("answers"), _passages(row), question, demos=shown)


def _ranked(row: Record) -> tuple[str, dict[str, float]]:
    """Documents with their ids, and the label of each id."""
    documents = row.records("ctxs")
    shown = "\n\n".join(f"[ID: {d.answers('id')[0]}] Document: {d.text('text')}" for d in documents)
    return shown, {d.answers("id")[0]: d.number("label") for d in documents}


def _rerank(row: Record, name: str, demos: _Demos) -> Question:
    """``{"query", "ctxs": [{"id", "text", "label"}]}``; examples have the same keys."""

    def example(demo: Record) -> str:
        shown, labels = _ranked(demo)
        return f"{shown}\n\nQuery: {demo.text('query')}\nRanking: {_order(labels)}"

    shown, labels = _ranked(row)
    if not any(label > 0 for label in labels.values()):
        raise row.refuse("ctxs", 'documents with a "label" above 0')
    drawn = demos.draw(row.text("query"), example, lambda demo: demo.text("query"))
    question = _make(row, name, _RERANK, (_order(labels),), shown, row.text("query"), demos=drawn)
    return replace(question, facts={"labels": labels})


def _order(labels: Mapping[str, float]) -> str:
    return " > ".join(sorted(labels, key=lambda key: -labels[key]))


def _icl(row: Record, name: str, demos: _Demos) -> Question:
    """``{"text", "label"}``; the examples, ``{"text", "label"}`` too, fill the context, with labels made numbers."""
    if not demos.rows:
        raise UserError(f"{demos.file}: no such file, {name} has its examples there")
    by_label: dict[str, list[str]] = {}
    for demo in demos.rows:
        by_label.setdefault(demo.answers("label")[0], []).append(demo.text("text"))
    text, label = row.text("text"), row.answers("label")[0]
    if label not in by_label:
        raise row.refuse("label", f"a label of {demos.file.name}")
    rng = demos.rng(text)
    numbers = dict(zip(sorted(by_label), rng.sample(range(len(by_label)), len(by_label)), strict=True))
    examples = balanced(by_label, ICL_SHOTS[name][demos.n_tokens], rng)
    context = "\n\n".join(f"{shown}\nlabel: {numbers[of]}" for shown, of in examples)
    return _make(row, name, _ICL, (str(numbers[label]),), context, text)


def balanced(by_label: Mapping[str, Sequence[str]], n: int, rng: random.Random) -> list[tuple[str, str]]:
    """``n`` texts with their labels in rounds; each round has every label once, in random order.

    Texts of a label repeat only when all of them have been used.
    """
    rounds = math.ceil(n / len(by_label))
    columns = {
        label: [text for _ in range(math.ceil(rounds / len(texts))) for text in rng.sample(list(texts), len(texts))]
        for label, texts in by_label.items()
    }
    drawn = []
    for i in range(rounds):
        drawn += [(columns[label][i], label) for label in rng.sample(sorted(columns), len(columns))]
    return drawn[:n]


def _narrativeqa(row: Record, name: str, demos: _Demos) -> Question:
    """``{"context", "question", "answers"}``; examples are ``{"question", "answers"}``."""
    return _story(row, name, demos, _STORY, "question", "answers")


def _infbench(row: Record, name: str, demos: _Demos) -> Question:
    """InfiniteBench's ``{"context", "input", "answer", "options"}``; examples have the same keys."""
    return _story(row, name, demos, _STORY, "input", "answer")


def _story(row: Record, name: str, demos: _Demos, template: str, asked: str, answer: str) -> Question:
    def example(demo: Record) -> str:
        return f"[story]\n\nQuestion: {demo.text(asked)}\nAnswer: {demo.answers(answer)[0]}"

    question = row.text(asked)
    shown = demos.draw(question, example, lambda demo: demo.text(asked))
    return _make(row, name, template, row.answers(answer), row.text("context"), question, demos=shown)


def _infbench_choice(row: Record, name: str, demos: _Demos) -> Question:
    """InfiniteBench's ``{"context", "input", "answer", "options"}``; examples have the same keys."""

    def letter(record: Record) -> str:
        options, answer = record.texts("options"), record.answers("answer")[0]
        if len(options) != 4 or answer not in options:
            raise record.refuse("answer", 'one of four "options"')
        return "ABCD"[options.index(answer)]

    def example(demo: Record) -> str:
        listed = lettered(demo.texts("options"))
        return f"[story]\n\nQuestion: {demo.text('input')}\nOptions:\n{listed}\nAnswer: {letter(demo)}"

    options, asked = row.texts("options"), row.text("input")
    shown = demos.draw(asked, example, lambda demo: demo.text("input"))
    texts = {"demos": shown, "options": lettered(options)}
    question = _make(row, name, _STORY_CHOICE, (letter(row),), row.text("context"), asked, **texts)
    return replace(question, choices=options)


def _infbench_sum(row: Record, name: str, demos: _Demos) -> Question:
    """``{"context", "answer", "keypoints"}``; examples are ``{"answer"}``."""
    return _summary(row, name, demos, _BOOK, row.text("context"), "answer")


def _multi_lexsum(row: Record, name: str, demos: _Demos) -> Question:
    """``{"sources": [...], "summary/short", "keypoints"}``; examples are ``{"summary/short"}``."""
    return _summary(row, name, demos, _LAWSUIT, "\n\n".join(row.texts("sources")), "summary/short")


def _summary(row: Record, name: str, demos: _Demos, template: str, context: str, key: str) -> Question:
    answer = row.answers(key)[0]
    shown = demos.draw(answer, lambda demo: f"[text]\n\nSummary: {demo.answers(key)[0]}", lambda d: d.answers(key)[0])
    question = _make(row, name, template, (answer,), context, demos=shown)
    return replace(question, facts={"points": row.texts("keypoints")})


def _alce(row: Record, name: str, demos: _Demos) -> Question:
    """``{"question", "docs": [{"title", "text"}]}`` with, for ASQA, ``"qa_pairs": [{"short_answers": [...]}]``.

    QAMPARI has ``"answers"`` instead, a list of lists of aliases. No examples are put in front.
    """
    documents = enumerate(row.records("docs"), 1)
    context = "\n\n".join(f"Document [{i}]({d.text('title', empty=True)}): {d.text('text')}" for i, d in documents)
    if name == "alce_asqa":
        aliases = [pair.texts("short_answers") for pair in row.records("qa_pairs")]
    else:
        groups = row.values.get("answers")
        if not isinstance(groups, list) or not groups or not all(isinstance(g, list) and g for g in groups):
            raise row.refuse("answers", "a list of lists of aliases")
        aliases = [tuple(map(str, group)) for group in groups]
    first = tuple(group[0] for group in aliases)
    return replace(_make(row, name, _CITE, first, context, row.text("question")), facts={"aliases": aliases})


_READERS: dict[str, Callable[[Record, str, _Demos], Question]] = {
    "json_kv": _json_kv,
    **dict.fromkeys(("ruler_niah_mk_2", "ruler_niah_mk_3", "ruler_niah_mv"), _needle),
    **dict.fromkeys(CATEGORIES["rag"], _rag),
    "msmarco_rerank": _rerank,
    **dict.fromkeys(CATEGORIES["icl"], _icl),
    "narrativeqa": _narrativeqa,
    "infbench_qa": _infbench,
    "infbench_choice": _infbench_choice,
    "infbench_sum": _infbench_sum,
    "multi_lexsum": _multi_lexsum,
    **dict.fromkeys(CATEGORIES["cite"], _alce),
}


def parsed(prediction: str, prefix: str = "Answer:") -> str:
    """The rest of the line behind ``prefix``, wherever it is, else the first line."""
    found = re.search(rf"{re.escape(prefix)}(.*)", prediction, re.IGNORECASE)
    line = found[1] if found else prediction.split("\n")[0]
    return re.sub(rf"^\s*{re.escape(prefix)}", "", line, flags=re.IGNORECASE).strip()


def _with_parsed(metric: Callable[[str, str], float]) -> Callable[[str, Question], float]:
    """The better score of the answer as it is and of what is behind "Answer:"."""
    return lambda prediction, question: max(
        metrics.best(metric, text, question.references) for text in (prediction, parsed(prediction))
    )


def _choice(prediction: str, question: Question) -> float:
    """The letter, or the letter with its option."""
    letter = question.references[0]
    option = f"{letter}. {question.choices['ABCD'.index(letter)]}"
    exact = any(
        metrics.exact_match(text, right) for text in (prediction, parsed(prediction)) for right in (letter, option)
    )
    return float(exact or option.lower() in prediction.lower())


def ranking(prediction: str) -> list[str]:
    """The ids of the longest chain "3 > 1 > 2" of an answer; "ID", brackets and colons may stand in between."""
    text = re.sub(r"[\[\]:]|\bid\s*", "", prediction.lower())
    chains = [found[0] for found in re.finditer(r"\d+(?:\s*>\s*\d+)*", text)]
    return re.findall(r"\d+", max(chains, key=len, default=""))


def _aliases(prediction: str, question: Question) -> float:
    """The share of answers of which an alias occurs; five are all that QAMPARI asks for."""
    found = [any(metrics.substring_match(prediction, a) for a in group) for group in question.facts["aliases"]]
    wanted = len(found) if question.subset == "alce_asqa" else min(5, len(found))
    return min(sum(found), wanted) / wanted


def _ndcg(prediction: str, question: Question) -> float:
    return metrics.ndcg(ranking(prediction), question.facts["labels"])


SCORES: dict[str, Callable[[str, Question], float]] = {
    "substring_match": _with_parsed(metrics.substring_match),
    "recall": lambda prediction, question: metrics.share_contained(prediction, question.references),
    "ndcg@10": _ndcg,
    "exact_match": lambda p, question: metrics.best(metrics.exact_match, parsed(p, "label:"), question.references),
    "rougeL": _with_parsed(lambda p, r: metrics.rouge(p, r, "rougeL", stem=True)),
    "choice": _choice,
    "correctness without citations": _aliases,
}
METRICS = {
    "json_kv": "substring_match",
    **dict.fromkeys(("ruler_niah_mk_2", "ruler_niah_mk_3", "ruler_niah_mv"), "recall"),
    **dict.fromkeys(CATEGORIES["rag"], "substring_match"),
    "msmarco_rerank": "ndcg@10",
    **dict.fromkeys(CATEGORIES["icl"], "exact_match"),
    "narrativeqa": "judged correctness",
    "infbench_qa": "rougeL",
    "infbench_choice": "choice",
    "infbench_sum": "judged key points",
    "multi_lexsum": "judged key points",
    **dict.fromkeys(CATEGORIES["cite"], "correctness without citations"),
}


def score(prediction: str, question: Question) -> float:
    """The data set's metric."""
    return SCORES[question.metric](prediction, question)


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean of each data set and of each complete category; "cite", and with it the total, would need citations."""
    table = with_means(means(scored), {name: sets for name, sets in CATEGORIES.items() if name != "cite"})
    return {f"{name} (correctness)" if name in CATEGORIES["cite"] else name: value for name, value in table.items()}


def sized(n_tokens: int, count: Callable[[str], int]) -> dict[str, Any]:
    """In-context learning has the published number of examples for the next shorter of HELMET's lengths."""
    lengths = ICL_SHOTS["nlu"]
    return {"n_tokens": max((n for n in lengths if n <= n_tokens), default=min(lengths))}


HELMET = Benchmark(
    "helmet",
    load,
    score,
    aggregate,
    "princeton-nlp/HELMET",
    "MIT (code); sets keep their own",
    judged={
        "judged correctness": lambda judge, prediction, question: judging.correctness(
            judge, question.question, question.references, prediction
        ),
        "judged key points": lambda judge, prediction, question: judging.key_point_f1(
            judge, question.facts["points"], question.references[0], prediction
        ),
    },
    sized=sized,
)
