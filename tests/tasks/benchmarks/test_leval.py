from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks.leval import CLOSED, LEVAL, SUBSETS, win_rate
from ropewalk.tasks.benchmarks.question import Scored
from tests.tasks.benchmarks.files import Row, jsonl, refused, table

ROW: Row = {"instructions": ["Q1?", "Q2?"], "outputs": ["ACD", "B"], "input": "A document.", "source": "x"}


def test_one_document_makes_several_questions_with_the_same_context(tmp_path: Path) -> None:
    first, second = LEVAL.load(jsonl(tmp_path, "coursera", ROW))
    assert first.context == second.context == "A document." and first.before == second.before
    assert (first.id, second.id) == ("coursera/1/0", "coursera/1/1") and second.references == ("B",)


@pytest.mark.parametrize(
    ("name", "reference", "prediction", "value"),
    [
        ("coursera", "ACD", "AC", 0.25),
        ("coursera", "ACD", "A, C, D", 1.0),
        ("coursera", "ACD", "The answer is DCA.", 1.0),
        ("coursera", "ACD", "", 0.0),
        ("coursera", "ACD", "AB", 0.0),
        ("coursera", "ACD", "ABCD", 0.0),
        ("tpo", "B", "B. Because A is wrong", 1.0),
        ("tpo", "B", "A or B", 0.0),
        ("quality", "(B) Mars", "I think B", 1.0),
        ("gsm100", "3", "2 + 1, so the answer is 3.0", 1.0),
        ("gsm100", "1,200", "The answer is 1200.", 1.0),
        ("gsm100", "3", "", 0.0),
        ("sci_fi", "True [fact: False]", "true.", 1.0),
        ("sci_fi", "False", "That is not true, so false", 0.0),
        ("topic_retrieval_longchat", "The role of art", "It was the role of art.", 1.0),
        ("codeU", "[1, 2]", "The output is [1, 2]", 1.0),
        ("natural_question", "the red cat", "red cat", 1.0),
    ],
)
def test_answers_by_hand(tmp_path: Path, name: str, reference: str, prediction: str, value: float) -> None:
    [question] = LEVAL.load(jsonl(tmp_path, name, ROW | {"instructions": ["Q?"], "outputs": [reference]}))
    assert LEVAL.score(prediction, question) == value


def test_summaries_score_the_geometric_mean_and_are_told_the_length(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    [question] = LEVAL.load(jsonl(tmp_path, "news_summ", ROW | {"instructions": ["Sum up"], "outputs": ["a b c d"]}))
    assert "about 4 words" in question.after
    assert LEVAL.score("a b c d", question) == pytest.approx(1.0)
    assert LEVAL.score("a b x d", question) == pytest.approx((0.75 * (1 / 3) * 0.75) ** (1 / 3))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("coursera", {"outputs": ["A"]}, ["2 strings, as many as"]),
        ("coursera", {"outputs": ["A", "none"]}, ["letters of choices"]),
        ("gsm100", {"outputs": ["3", "three"]}, ["numbers"]),
        ("sci_fi", {"outputs": ["True", "yes"]}, ["True or False"]),
        ("tpo", {"input": None}, ['"input" is None']),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, name: str, change: Row, words: list[str]) -> None:
    refused(LEVAL, jsonl(tmp_path, name, ROW | change), f"{name}.jsonl:1", *words)


def test_closed_ended_mean_needs_all_seven(tmp_path: Path) -> None:
    [template, _] = LEVAL.load(jsonl(tmp_path, "coursera", ROW))
    questions = [replace(template, subset=name) for name in SUBSETS]
    reported = table(LEVAL, questions, [float(name in CLOSED) for name in SUBSETS])
    assert len(SUBSETS) == 20 and reported["closed-ended"] == 100.0 and reported["news_summ"] == 0.0
    assert "closed-ended" not in table(LEVAL, questions[1:], [1.0] * 19)


def test_win_rate_against_given_answers(tmp_path: Path) -> None:
    class PrefersLonger:
        name = "longer"

        def __call__(self, prompt: str) -> str:
            first = prompt.split("Answer 1: ")[1].split("\n")[0]
            second = prompt.split("Answer 2: ")[1].split("\n")[0]
            return f"Score: {1 if len(first) > len(second) else 2}"

    first, second = LEVAL.load(jsonl(tmp_path, "news_summ", ROW))
    [closed, _] = LEVAL.load(jsonl(tmp_path, "coursera", ROW))
    scored = [Scored(first, "long answer", 0.0), Scored(second, "x", 0.0), Scored(closed, "A", 0.0)]
    baseline = {first.id: "short", second.id: "longer"}
    assert win_rate(scored, baseline, PrefersLonger()) == {"news_summ": 50.0}
    with pytest.raises(UserError, match="no answer to news_summ/1/1"):
        win_rate(scored, {first.id: "short"}, PrefersLonger())
