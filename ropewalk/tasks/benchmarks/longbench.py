"""LongBench, its even-length version LongBench-E, and LongBench v2 (arXiv 2308.14508, 2412.15204).

Files are those of the hub sets: one JSON line per question (``data.zip`` of THUDM/LongBench; ``data.json`` of v2).
Copies for current ``datasets`` have "question" for "input", and may lack "_id" and "length" (which is words of the
context then). The prompts are our own wording. For numbers that compare with published ones, give the official
``dataset2prompt.json`` to ``with_prompts``; its ``{context}`` and ``{input}`` are filled in.

Not copied from the official code:
  * classification: a list is changed while it is walked through, so that some classes to drop survive; the fallback for
    "no class named" can never run. Here all are dropped, and no class named scores 0.
  * truncation cuts the middle out of the whole prompt and encodes the rest again, so that instructions may go and the
    length is not the one asked for. Here only the context is cut, in tokens.
  * ROUGE: every error scores 0, also the recursion limit that the package hits on long sentences (Chinese text without
    full stops). Here there is no recursion.
  * code: the fuzzy ratio depends on which library is installed; here it is always by longest common subsequence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ropewalk.common.errors import UserError
from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means, with_means
from ropewalk.texts.rows import Row


class Subset(NamedTuple):
    """How a subset is asked and scored."""

    metric: str
    max_new_tokens: int
    template: str
    chat: bool = True
    first_line: bool = False  # of the answer counts


ONE_PHRASE = "Reply with the answer only, a phrase if that is enough."
QA = f"Answer the question at the end from this text. {ONE_PHRASE}\n\n{{context}}\n\nQuestion: {{input}}\nAnswer:"
QA_ZH = "请根据下面的文章回答最后的问题，只写答案。\n\n{context}\n\n问题：{input}\n回答："
PASSAGES = QA.replace("this text", "these passages")
QASPER = QA.replace(ONE_PHRASE, f"{ONE_PHRASE} Say yes or no where that is asked, and unanswerable where it is.")
SUMMARY = "Summarise the text below on one page.\n\n{context}\n\nSummary of the text, one page:"
EXAMPLES = "Examples come first. Do the same for the last one.\n\n{context}\n{input}"
CODE = "Continue this code with its next line.\n{context}{input}Next line:\n"

MEETING = "Minutes of a meeting, then a query.\n\n{context}\n\nQuery: {input}\nAnswer in some sentences:"
NEWS_ZH = "前面是例子，请同样判断最后一篇新闻的类别。\n\n{context}\n{input}"
COUNT = (
    "Some of these paragraphs occur more than once. Count the distinct ones.\n\n{context}\n\n"
    "Reply with the number of distinct paragraphs only.\nNumber:"
)
RETRIEVAL = (
    "One of these paragraphs is summarised at the end.\n\n{context}\n\nSummary: {input}\n\n"
    'Which paragraph is it of? Reply in the form "Paragraph 1".\nAnswer:'
)
RETRIEVAL_ZH = (
    "最后的摘要出自下面的某一段。\n\n{context}\n\n摘要：{input}\n\n它出自哪一段？请按“段落1”的形式回答。\n答案："
)

SUBSETS = {
    "narrativeqa": Subset("qa_f1", 128, QA.replace("this text", "this story")),
    "qasper": Subset("qa_f1", 128, QASPER.replace("this text", "this paper")),
    "multifieldqa_en": Subset("qa_f1", 64, QA),
    "multifieldqa_zh": Subset("qa_f1_zh", 64, QA_ZH),
    "hotpotqa": Subset("qa_f1", 32, PASSAGES),
    "2wikimqa": Subset("qa_f1", 32, PASSAGES),
    "musique": Subset("qa_f1", 32, PASSAGES),
    "dureader": Subset("rouge_l_zh", 128, "请根据下面的文章回答最后的问题。\n\n{context}\n\n问题：{input}\n回答："),
    "gov_report": Subset("rouge_l", 512, SUMMARY),
    "qmsum": Subset("rouge_l", 512, MEETING),
    "multi_news": Subset("rouge_l", 512, SUMMARY),
    "vcsum": Subset("rouge_l_zh", 512, "请总结下面的会议记录。\n\n{context}\n\n会议总结："),
    "trec": Subset("classification", 64, EXAMPLES, chat=False, first_line=True),
    "triviaqa": Subset("qa_f1", 32, EXAMPLES, chat=False, first_line=True),
    "samsum": Subset("rouge_l", 128, EXAMPLES, chat=False, first_line=True),
    "lsht": Subset("classification", 64, NEWS_ZH, chat=False, first_line=True),
    "passage_count": Subset("count", 32, COUNT),
    "passage_retrieval_en": Subset("retrieval", 32, RETRIEVAL),
    "passage_retrieval_zh": Subset("retrieval", 32, RETRIEVAL_ZH),
    "lcc": Subset("code", 64, CODE, chat=False),
    "repobench-p": Subset("code", 64, CODE, chat=False),
}
EXTENDED = (
    "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "gov_report", "multi_news", "trec", "triviaqa", "samsum",
    "passage_count", "passage_retrieval_en", "lcc", "repobench-p",
)  # fmt: skip
PARAGRAPH = re.compile(r"(Paragraph |段落)(\d+)")

_CODE = ("lcc", "repobench-p")
AVERAGES = {
    "en: single-document QA": ("narrativeqa", "qasper", "multifieldqa_en"),
    "en: multi-document QA": ("hotpotqa", "2wikimqa", "musique"),
    "en: summarisation": ("gov_report", "qmsum", "multi_news"),
    "en: few-shot": ("trec", "triviaqa", "samsum"),
    "en: synthetic": ("passage_count", "passage_retrieval_en"),
    "zh: single-document QA": ("multifieldqa_zh",),
    "zh: multi-document QA": ("dureader",),
    "zh: summarisation": ("vcsum",),
    "zh: few-shot": ("lsht",),
    "zh: synthetic": ("passage_retrieval_zh",),
    "code": _CODE,
}
AVERAGES["en"] = (*(name for name in AVERAGES if name.startswith("en:")), "code")
AVERAGES["zh"] = (*(name for name in AVERAGES if name.startswith("zh:")), "code")

LENGTHS = ("0-4k", "4-8k", "8k+")

TEMPLATE_V2 = (
    "Read the text and answer the question about it.\n\n{context}\n\nQuestion: {question}\n{choices}\n\n"
    'Reply with one line: "The correct answer is (X)", X being A, B, C or D.'
)


def read(row: Row, name: str, templates: Mapping[str, str] | None = None) -> list[Question]:
    """The question of a row; ``templates`` take the place of ours, by subset."""
    subset = SUBSETS[name]
    template = (templates or {}).get(name, subset.template)
    key = "question" if "input" not in row.values and "question" in row.values else "input"
    blank = "{input}" not in template or name in _CODE
    context, asked = row.text("context"), row.text(key, empty=blank) if row.has(key) or not blank else ""
    references = row.texts("answers")
    facts: dict[str, object] = {"length": row.integer("length") if row.has("length") else len(context.split())}
    if subset.metric == "classification":
        facts["classes"] = row.texts("all_classes")
        if not set(references) <= set(row.texts("all_classes")):
            raise row.refuse("answers", 'names out of "all_classes"')
    if subset.metric == "count" and not all(answer.isdecimal() for answer in references):
        raise row.refuse("answers", "whole numbers as strings")
    if subset.metric == "retrieval":
        for answer in references:
            found = PARAGRAPH.search(answer)
            if found is None or not re.search(rf"{re.escape(found[0])}(?!\d)", context):
                raise row.refuse("answers", '"Paragraph N" (or 段落N) with N in "context"')
    return [
        Question.of(
            row, name, template, context, references, subset.metric, subset.max_new_tokens,
            row.text("_id") if row.has("_id") else None, asked, {"input": asked}, chat=subset.chat, facts=facts,
        )
    ]  # fmt: skip


def with_prompts(benchmark: Benchmark, prompts: str | Path | Mapping[str, str]) -> Benchmark:
    """LongBench or LongBench-E, asked by other templates: by subset, or a JSON file of them (``dataset2prompt.json``).

    Raises:
        UserError: if there is no such file, or a template lacks its context.
    """
    return replace(benchmark, read=partial(read, templates=_templates(prompts)))


def _templates(prompts: str | Path | Mapping[str, str]) -> Mapping[str, str]:
    where = "prompts" if isinstance(prompts, Mapping) else str(prompts)
    try:
        templates = prompts if isinstance(prompts, Mapping) else json.loads(Path(prompts).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: no JSON file of prompts ({error})") from None
    if not isinstance(templates, Mapping):
        raise UserError(f"{where}: prompts are an object with a template by subset, not {type(templates).__name__}")
    for name, template in templates.items():
        holes = re.findall(r"\{(\w+)\}", template) if isinstance(template, str) else []
        if holes.count("context") != 1 or not set(holes) <= {"context", "input"}:
            raise UserError(f'{where}: the template of "{name}" must have {{context}} once, beside it only {{input}}')
    return templates


def score(prediction: str, question: Question) -> float:
    """The subset's metric, the best over all references."""
    if SUBSETS[question.subset].first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    if question.metric == "classification":
        return max(metrics.classification(prediction, r, question.facts["classes"]) for r in question.references)
    references = question.references
    if question.metric == "retrieval":
        references = tuple(PARAGRAPH.search(reference)[2] for reference in references)  # type: ignore[index]  # checked
    return metrics.best(METRICS[question.metric], prediction, references)


METRICS = {
    "qa_f1": metrics.qa_f1,
    "qa_f1_zh": metrics.qa_f1_zh,
    "rouge_l": metrics.rouge_l,
    "rouge_l_zh": metrics.rouge_l_zh,
    "count": metrics.share_of_numbers,
    "retrieval": metrics.share_of_numbers,
    "code": metrics.code_line_similarity,
}


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean of each subset, of each category, and over the six categories of either language (code counts in both)."""
    return with_means(means(scored), AVERAGES)


def aggregate_extended(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean of each subset at 0-4k, 4-8k and 8k+ words, and over all subsets at each of these lengths."""
    table = means(scored, lambda s: f"{s.question.subset}: {_bucket(s.question.facts['length'])}")
    return with_means(table, {length: [f"{name}: {length}" for name in EXTENDED] for length in LENGTHS})


def _bucket(length: int) -> str:
    return LENGTHS[(length >= 4000) + (length >= 8000)]


def read_v2(row: Row, _: str = "") -> list[Question]:
    """The question of a row."""
    choices = tuple(row.text(f"choice_{letter}") for letter in "ABCD")
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    facts = {
        "difficulty": row.one_of("difficulty", ("easy", "hard")),
        "length": row.one_of("length", ("short", "medium", "long")),
    }
    return [
        Question.of(
            row, row.text("domain"), TEMPLATE_V2, row.text("context"), (row.one_of("answer", "ABCD"),), "choice", 128,
            row.text("_id"), row.text("question"), {"choices": listed}, choices=choices, facts=facts,
        )
    ]  # fmt: skip


def score_v2(prediction: str, question: Question) -> float:
    """1 if the sentence asked for names the right letter; an answer without that sentence is wrong."""
    text = prediction.replace("*", "")
    stated = re.search(r"The correct answer is \(([A-D])\)", text) or re.search(r"The correct answer is ([A-D])", text)
    return float(stated is not None and stated[1] == question.references[0])


def aggregate_v2(scored: Sequence[Scored]) -> dict[str, float]:
    """Accuracy overall, by difficulty, by length and by domain."""
    return {
        **means(scored, lambda s: "overall"),
        **means(scored, lambda s: s.question.facts["difficulty"]),
        **means(scored, lambda s: s.question.facts["length"]),
        **means(scored),
    }


LONGBENCH = Benchmark(
    "longbench", "LongBench", tuple(SUBSETS), read, score, aggregate, "data.zip of THUDM/LongBench and unpack it",
    "MIT; constituents keep their own",
)  # fmt: skip
LONGBENCH_E = replace(
    LONGBENCH, name="longbench-e", title="LongBench-E", subsets=EXTENDED, aggregate=aggregate_extended, ending="_e"
)
LONGBENCH_V2 = Benchmark(
    "longbench-v2", "LongBench v2", (), read_v2, score_v2, aggregate_v2, "data.json of zai-org/LongBench-v2",
    "Apache-2.0", one_file=True, split="train",
)  # fmt: skip
