"""M4LE: 36 tasks of five abilities, cut into length buckets (arXiv 2310.19240).

Files are the published JSON lines ``{"instruction", "input", "answers", "length_bucket"}``, one file per task; the
prompt is the instruction, a line break and the input.

Not copied from the official code:
  * scores are not divided by those of GPT-3.5 at 1k, which are not published by task.
  * an answer that holds an end mark ("U.S.") can never be found, because the prediction is cut there. Here it can.
  * an empty list item counts as an item in the F1 of lists. Here it does not.
  * BLEU takes the shortest reference as the length; sacrebleu, used here, the closest. Answers have one reference.
  * ROUGE scores 0 where the package fails (see LongBench). For Chinese it is another package there; here it is the same
    rule, over the words that jieba finds.

Labels and ids have to be equal but for case, as there; a full stop ends them where it is an end mark of the task, and
makes them wrong where it is none (explicit-single).

ROUGE is a recall here, as in the paper, so it pays to say more; answers are cut at the end marks of each task first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means, with_means
from ropewalk.texts.rows import Row


class Subset(NamedTuple):
    """Ability, score and end marks of a task; ``zh`` where words have to be found by jieba."""

    ability: str
    metric: str
    ends: tuple[str, ...] = ()
    zh: bool = False


_LINE = ("\n",)
_ZH_LINE = ("\n", "新闻")
_STOP = ("\n", ".")
_ZH_STOP = ("\n", "。")

SUBSETS = {
    "mnds-news_explicit-single": Subset("explicit single", "exact"),
    "thucnews_explicit-single": Subset("explicit single", "exact", zh=True),
    "newsqa": Subset("explicit single", "contains", _STOP),
    "c3": Subset("explicit single", "contains", _ZH_STOP, zh=True),
    "wow": Subset("explicit single", "contains", (",", "\n")),
    "drcd_explicit-single": Subset("explicit single", "contains", ("，", "\n"), zh=True),
    "cnnnews": Subset("explicit single", "rouge_recall", _LINE),
    "cepsum": Subset("explicit single", "rouge_recall", _LINE, zh=True),
    "lcsts": Subset("explicit single", "rouge_recall", _LINE, zh=True),
    "ncls": Subset("explicit single", "rouge_recall", _LINE, zh=True),
    "mnds-news_explicit-multiple": Subset("explicit multiple", "list_f1", (".",)),
    "thucnews_explicit-multiple": Subset("explicit multiple", "list_f1", ("。",), zh=True),
    "marc": Subset("explicit multiple", "list_f1", (".",)),
    "online-shopping": Subset("explicit multiple", "list_f1", ("。",), zh=True),
    "wikitext-103": Subset("semantic single", "exact", (".",)),
    "wiki2019zh": Subset("semantic single", "exact", ("。",), zh=True),
    "duorc": Subset("semantic single", "contains", _STOP),
    "nq-open": Subset("semantic single", "contains", _STOP),
    "dureader": Subset("semantic single", "contains", _ZH_STOP, zh=True),
    "drcd_semantic-single": Subset("semantic single", "contains", _ZH_STOP, zh=True),
    "wikihow": Subset("semantic single", "rouge_recall", _LINE),
    "news2016": Subset("semantic single", "rouge_recall", ("\n",), zh=True),
    "tedtalks-en2zh": Subset("semantic single", "bleu", zh=True),
    "tedtalks-zh2en": Subset("semantic single", "bleu"),
    "mnds-news_semantic-multiple": Subset("semantic multiple", "exact", (".",)),
    "thucnews_semantic-multiple": Subset("semantic multiple", "exact", ("。",), zh=True),
    "hotpotqa": Subset("semantic multiple", "contains", _STOP),
    "bigpatent_global_cls": Subset("global", "contains", (":",)),
    "triviaqa": Subset("global", "contains", _STOP),
    "arxiv": Subset("global", "rouge_recall", _LINE),
    "bigpatent_global_sum": Subset("global", "rouge_recall", _LINE),
    "pubmed": Subset("global", "rouge_recall", _LINE),
    "booksum": Subset("global", "rouge_recall", _LINE),
    "cnewsum": Subset("global", "rouge_recall", _ZH_LINE, zh=True),
    "clts+": Subset("global", "rouge_recall", _ZH_LINE, zh=True),
    "open-subtitles-en2zh": Subset("global", "bleu", zh=True),
    "open-subtitles-zh2en": Subset("global", "bleu"),
    "news-commentary-en2zh": Subset("global", "bleu", zh=True),
    "news-commentary-zh2en": Subset("global", "bleu"),
}
TAIL = 500  # characters at the end of an input, where the question is, that are never cut
MAX_NEW_TOKENS = {"exact": 32, "contains": 64, "list_f1": 512, "rouge_recall": 256, "bleu": 1024}  # ours


def read(row: Row, name: str) -> list[Question]:
    """The question of a row; its end, where the question is, is never cut."""
    instruction, text, task = row.text("instruction"), row.text("input"), SUBSETS[name]
    references = row.answers("answers")
    if task.metric in ("exact", "list_f1"):
        references = tuple(_cut(answer, task.ends) for answer in references)
    if not all(references):
        raise row.refuse("answers", "answers with text before the end mark")
    tail = max(len(text) // 2, len(text) - TAIL)
    template = "{instruction}\n{context}{tail}"
    return [
        Question.of(
            row, name, template, text[:tail], references, task.metric, MAX_NEW_TOKENS[task.metric],
            question=text[tail:].strip(), texts={"instruction": instruction, "tail": text[tail:]},
            facts={"bucket": row.integer("length_bucket")},
        )
    ]  # fmt: skip


def _cut(text: str, ends: Sequence[str]) -> str:
    """A text up to the first end mark."""
    for end in ends:
        text = text.split(end)[0].strip()
    return text.strip()


def score(prediction: str, question: Question) -> float:
    """The task's metric after its end marks, the best over all references (BLEU: of this answer alone)."""
    task = SUBSETS[question.subset]
    prediction = _unquoted(prediction) if question.subset == "news2016" else prediction
    answer = _cut(prediction, task.ends)
    if task.metric == "rouge_recall":
        return max(_rouge_recall(answer, reference, task.zh) for reference in question.references)
    if task.metric == "bleu":
        return bleu([answer], [question.references], task.zh)
    if task.metric == "contains":
        return metrics.best(
            lambda p, r: metrics.contains(_cut(p, [e for e in task.ends if e not in r]), r),
            prediction,
            question.references,
        )
    return metrics.best(_exact if task.metric == "exact" else _list_f1, answer, question.references)


def _unquoted(text: str) -> str:
    """What stands between the first quotation marks, if there are any."""
    return text.split('"')[1] if '"' in text else text


def _exact(prediction: str, reference: str) -> float:
    return float(prediction.lower() == reference.lower())


def _list_f1(prediction: str, reference: str) -> float:
    """F1 of two sets of items, separated by commas."""
    ours, theirs = (
        {item.strip() for item in re.split("[,，]", text) if item.strip()} for text in (prediction, reference)
    )
    return 2 * len(ours & theirs) / (len(ours) + len(theirs))


def _rouge_recall(prediction: str, reference: str, zh: bool) -> float:
    if zh:
        prediction, reference = (" ".join(metrics.words_zh(text)) for text in (prediction, reference))
    return metrics.rouge_l_words(prediction, reference).recall


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], zh: bool) -> float:
    """Corpus BLEU-4 without smoothing, 0 to 1; words as mteval 13a, or Chinese characters.

    Raises:
        UserError: if sacrebleu is not installed.
    """
    most = max(map(len, references))
    streams = [[refs[i] if i < len(refs) else None for refs in references] for i in range(most)]
    tokenize = "zh" if zh else "13a"
    result = metrics.needs("sacrebleu").corpus_bleu(predictions, streams, smooth_method="none", tokenize=tokenize)
    return float(result.score) / 100


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Each task in each bucket (BLEU: the bucket as one corpus), and the mean of an ability's tasks in each bucket."""
    table = means((s for s in scored if s.question.metric != "bleu"), _cell)
    corpora = defaultdict(list)
    for item in scored:
        if item.question.metric == "bleu":
            corpora[_cell(item)].append(item)
    for cell, items in corpora.items():
        task = SUBSETS[items[0].question.subset]
        answers = [_cut(item.prediction, task.ends) for item in items]
        table[cell] = 100 * bleu(answers, [item.question.references for item in items], task.zh)
    members = defaultdict(list)
    for cell in table:
        name, _, bucket = cell.rpartition(": ")
        members[f"{SUBSETS[name].ability}: {bucket}"].append(cell)
    return with_means(table, members)


def _cell(item: Scored) -> str:
    return f"{item.question.subset}: {item.question.facts['bucket']}"


KINDS = ("cls+ret", "cls+cnt", "ret", "qa")  # what the official evaluation puts behind some names of files

M4LE = Benchmark(
    "m4le", "M4LE", tuple(SUBSETS), read, score, aggregate, "the files TASK.jsonl of wckwan/M4LE", "MIT",
    aliases={f"{name}_{kind}": name for name in SUBSETS for kind in KINDS},
)  # fmt: skip
