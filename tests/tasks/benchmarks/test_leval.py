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
        ("gsm100", "18", "So it is 18. The answer is 18.\n\nQuestion: Next\nThe answer is 5.", 1.0),
        ("gsm100", "5", "The answer is 18.\n\nQuestion: Next\nThe answer is 5.", 0.0),
        ("gsm100", "18", "The answer is 18. To check: 9 * 2 = 18, and the answer is 18 for 2 hens.", 1.0),
        ("gsm100", "1200", "The answer is $1,200", 1.0),
        ("gsm100", "18", "9 * 2 = 18\nQuestion: 3 + 4?\n7", 1.0),
        ("codeU", "[1, 2]", "The output is [1, 2]", 1.0),
        ("codeU", "1.2", "12", 0.0),
        ("codeU", "[1, 2, 3]", "[1,2,3]", 1.0),
        ("coursera", "AC", "A. text of it\nC. more text", 1.0),
        ("coursera", "AC", "(A) text\n(B) text\n(C) text", 0.0),
        ("coursera", "ACD", "A and C and D", 1.0),
        ("coursera", "ACD", "The correct answers are A, C, and D.", 1.0),
        ("coursera", "ACD", "A C D", 1.0),
        ("tpo", "B", "B is the answer", 1.0),
        ("tpo", "B", "B. The other answers, A and C, are wrong", 1.0),
        ("tpo", "B", "To answer this, we look at the text. The correct option is (B).", 1.0),
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


def test_rouge_of_a_task_is_the_geometric_mean_of_its_means(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    questions = LEVAL.load(jsonl(tmp_path, "news_summ", ROW | {"outputs": ["a b c d", "a b c d"]}))
    scored = [Scored(q, said, LEVAL.score(said, q)) for q, said in zip(questions, ["a b x d", "d c b a"], strict=True)]
    assert scored[1].score == 0.0  # no pair of words is right
    one, two, longest = (0.75 + 1) / 2, (1 / 3 + 0) / 2, (0.75 + 0.25) / 2
    assert LEVAL.aggregate(scored)["news_summ"] == pytest.approx(100 * (one * two * longest) ** (1 / 3))


def test_folders_are_read_as_they_are_published(tmp_path: Path) -> None:
    jsonl(tmp_path / "Closed-ended-tasks", "coursera", ROW)
    jsonl(tmp_path / "Open-ended-tasks", "news_summ", ROW)
    jsonl(tmp_path / "__MACOSX" / "Closed-ended-tasks", "coursera", ROW)
    jsonl(tmp_path / "Predictions", "coursera.pred", ROW)
    assert {q.subset for q in LEVAL.load(tmp_path)} == {"coursera", "news_summ"}
    jsonl(tmp_path / "Exam", "coursera", ROW)
    refused(LEVAL, tmp_path, "2 files for the subset 'coursera'")


def test_a_bad_answer_costs_one_question(tmp_path: Path) -> None:
    bad, file = [], jsonl(tmp_path, "coursera", ROW | {"outputs": ["none", "B"]}, ROW, ROW | {"input": 3})
    assert [q.id for q in LEVAL.load(file, None, bad)] == ["coursera/1/1", "coursera/2/0", "coursera/2/1"]
    [(subset, why)] = bad
    assert subset == "coursera" and why.startswith("2 of 5 rows or questions left out")
    assert "coursera.jsonl:1: \"outputs\"[0] is 'none'" in why and 'coursera.jsonl:3: "input" is 3' in why


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("coursera", {"outputs": ["A"]}, ["2 strings, as many as"]),
        ("coursera", {"outputs": ["A", "none"]}, ["\"outputs\"[1] is 'none'", "letters of choices"]),
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
