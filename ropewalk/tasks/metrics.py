"""Scores of a generated answer against a reference, 0 to 1, as the benchmarks define them.

Everything here is derived from the published rules; two libraries are asked for where a rule is theirs: ``rouge-score``
for ROUGE as HELMET, InfiniteBench and L-Eval use it, ``jieba`` for Chinese words (both in ``ropewalk[benchmarks]``).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from ropewalk.common.errors import UserError

ARTICLES = re.compile(r"\b(a|an|the)\b")
CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏."
)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_PUNCTUATION_ZH = str.maketrans("", "", string.punctuation + CHINESE_PUNCTUATION)


class Overlap(NamedTuple):
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float
    f: float


def best(metric: Callable[[str, str], float], prediction: str, references: Iterable[str]) -> float:
    """The score against the reference that fits best."""
    return max(metric(prediction, reference) for reference in references)


def needs(module: str) -> Any:
    """An optional library of the extra ``benchmarks``.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.split(".")[0].replace("_", "-")
        raise UserError(f"this score needs {name}", "pip install 'ropewalk[benchmarks]'") from error


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and repeated spaces (the rule of SQuAD)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def normalise_zh(text: str) -> str:
    """Lower case, without ASCII and Chinese punctuation and without any space."""
    return "".join(text.lower().translate(_NO_PUNCTUATION_ZH).split())


def token_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two bags of tokens; 0 where they share none (also where both are empty)."""
    shared = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * shared / (len(prediction) + len(reference)) if shared else 0.0


def qa_f1(prediction: str, reference: str) -> float:
    """F1 of normalised English words."""
    return token_f1(normalise(prediction).split(), normalise(reference).split())


def qa_f1_zh(prediction: str, reference: str) -> float:
    """F1 of Chinese words as jieba cuts them, normalised one by one (LongBench)."""
    words = [[w for w in map(normalise_zh, words_zh(text)) if w] for text in (prediction, reference)]
    return token_f1(*words)


def character_f1_zh(prediction: str, reference: str) -> float:
    """F1 of characters after normalisation (InfiniteBench)."""
    return token_f1(normalise_zh(prediction), normalise_zh(reference))


def exact_match(prediction: str, reference: str) -> float:
    """1 if both are equal after normalisation."""
    return float(normalise(prediction) == normalise(reference))


def substring_match(prediction: str, reference: str) -> float:
    """1 if the normalised reference is part of the normalised prediction; 0 if nothing is left of it."""
    wanted = normalise(reference)
    return float(wanted != "" and wanted in normalise(prediction))


def contains(prediction: str, reference: str) -> float:
    """1 if the reference is part of the prediction but for case."""
    return float(reference.strip().lower() in prediction.lower())


def share_contained(prediction: str, references: Sequence[str]) -> float:
    """The share of references that are part of the prediction but for case (RULER's string match, "all")."""
    return sum(contains(prediction, reference) for reference in references) / len(references)


def all_in_order(prediction: str, references: Sequence[str]) -> float:
    """1 if every reference occurs, each behind the one before, but for case."""
    position, text = 0, prediction.lower()
    for reference in references:
        found = text.find(reference.lower(), position)
        if found < 0:
            return 0.0
        position = found + len(reference)
    return 1.0


def classification(prediction: str, reference: str, classes: Sequence[str]) -> float:
    """1 / (number of classes named) if the right one is among them (LongBench).

    A class whose name is part of the right one's does not count as named.
    """
    named = {name for name in classes if name in prediction}
    named -= {name for name in named if name in reference and name != reference}
    return 1 / len(named) if reference in named else 0.0


def share_of_numbers(prediction: str, reference: str) -> float:
    """The share of the prediction's integers that are the reference (LongBench's count and retrieval scores)."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(reference) / len(numbers) if numbers else 0.0


def edit_similarity(prediction: str, reference: str) -> float:
    """2 LCS / (sum of lengths) over characters, in whole percents (the fuzzy ratio of LongBench)."""
    both = len(prediction) + len(reference)
    return round(200 * len(common_subsequence(prediction, reference)) / both) / 100 if both else 0.0


def code_line_similarity(prediction: str, reference: str) -> float:
    """Edit similarity of the first line that is neither a comment nor markup."""
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return edit_similarity(line, reference)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """A longest common subsequence: of several, the one found from the end, passing over ``second`` first."""
    table = [[0] * (len(second) + 1)]
    for item in first:
        row, above = [0], table[-1]
        for j, other in enumerate(second):
            row.append(above[j] + 1 if item == other else max(above[j + 1], row[j]))
        table.append(row)
    found, i, j = [], len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.append(first[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def rouge_l_words(prediction: str, reference: str) -> Overlap:
    """ROUGE-L as the ``rouge`` package of LongBench and M4LE defines it.

    Texts are cut into sentences at every full stop. Counted are distinct words: those on a longest common subsequence
    of some sentence of each text, against all of either text. Nothing is lower-cased or stripped.
    """
    theirs, ours = ([" ".join(s.split()).split(" ") for s in text.split(".") if s] for text in (reference, prediction))
    if not theirs or not ours:
        return Overlap(0.0, 0.0, 0.0)
    shared = {word for a in theirs for b in ours for word in common_subsequence(a, b)}
    precision = len(shared) / len({word for sentence in ours for word in sentence})
    recall = len(shared) / len({word for sentence in theirs for word in sentence})
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall + 1e-8))


def rouge_l(prediction: str, reference: str) -> float:
    """F of ``rouge_l_words``."""
    return rouge_l_words(prediction, reference).f


def rouge_l_zh(prediction: str, reference: str) -> float:
    """F of ``rouge_l_words`` over the words that jieba finds."""
    return rouge_l(" ".join(words_zh(prediction)), " ".join(words_zh(reference)))


def rouge(prediction: str, reference: str, kind: str, stem: bool = False) -> float:
    """F of Google's ``rouge-score``.

    Args:
        prediction: generated text.
        reference: the expected one.
        kind: "rouge1", "rouge2", "rougeL" or "rougeLsum" (sentences are lines).
        stem: whether words are reduced by Porter's stemmer first.

    Raises:
        UserError: if rouge-score is not installed.
    """
    return float(_rouge_scorer(kind, stem).score(target=reference, prediction=prediction)[kind].fmeasure)


@cache
def _rouge_scorer(kind: str, stem: bool) -> Any:
    return needs("rouge_score.rouge_scorer").RougeScorer([kind], use_stemmer=stem)


def words_zh(text: str) -> list[str]:
    """Chinese words.

    Raises:
        UserError: if jieba is not installed.
    """
    return list(needs("jieba").cut(text, cut_all=False))


def stemmed_f1(prediction: str, reference: str) -> float:
    """F1 of words without commas, articles and "and", reduced by Porter's stemmer (LoCoMo).

    Raises:
        UserError: if nltk is not installed.
    """
    stem = _stemmer().stem
    words = [
        [stem(word) for word in re.sub(r"\b(a|an|the|and)\b", " ", text.lower().translate(_NO_PUNCTUATION)).split()]
        for text in (prediction, reference)
    ]
    return token_f1(*words)


@cache
def _stemmer() -> Any:
    return needs("nltk.stem").PorterStemmer()


def first_integer(text: str) -> str:
    """The first run of digits; empty if there is none."""
    found = re.search(r"\d+", text)
    return found.group() if found else ""


def last_integer(text: str) -> str:
    """The last run of digits; empty if there is none."""
    return (re.findall(r"\d+", text) or [""])[-1]


def numbers(text: str) -> list[float]:
    """All numbers of a text, with their sign; a comma ends a number."""
    return [float(n) for n in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)]


def stated_choice(prediction: str, letters: str = "ABCD") -> str:
    """The letter that a multiple-choice answer states; empty if it states none.

    That is the last "answer is X" (or "answer: X"), else the letter with which the text begins, else the only line that
    is just a letter. Letters may be in brackets or bold; a word that begins with a letter states nothing.
    """
    text = prediction.replace("*", "").strip()
    letter = rf"[(\[]?([{letters}])(?![\w'])"
    stated = re.findall(rf"answer(?: is)?:?\s*{letter}", text, re.IGNORECASE)
    begins = re.match(rf"{letter}(?=[).:\],]|\s*$|\n)", text)
    alone = re.findall(rf"^\s*{letter}[)\].]?\s*$", text, re.MULTILINE)
    if stated:
        return str(stated[-1]).upper()
    return begins[1] if begins else alone[0] if len(alone) == 1 else ""


def ndcg(ranking: Sequence[str], relevance: Mapping[str, float], at: int = 10) -> float:
    """Normalised discounted cumulative gain of the first ``at`` places.

    Gains are the labels, discounts log2(place + 1), places from 1.

    Only the first mention of a document counts. 0 where nothing is relevant.
    """

    def gain(labels: Iterable[float]) -> float:
        return sum(label / math.log2(place + 2) for place, label in enumerate(labels))

    ideal = gain(sorted(relevance.values(), reverse=True)[:at])
    return gain(relevance.get(name, 0.0) for name in list(dict.fromkeys(ranking))[:at]) / ideal if ideal else 0.0
