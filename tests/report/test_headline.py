"""The headline says what the intervals bear, and never more; each case is made so that one more word would be false."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.report.headline import _answers, bounds, change, differs, headline, listed, notes
from ropewalk.report.numbers import Estimate
from ropewalk.report.schema import Average, Model, Results, Row, Subject, Task
from ropewalk.report.view import View

Keep = Callable[..., dict[str, Any]]
Triple = tuple[float, float | None, float | None]
TASKS = [Task("ppl", "Perplexity", "perplexity"), Task("passkey", "Passkey", "score")]


def several(
    scores: Mapping[str, Triple] | None = None, perplexities: Mapping[str, Triple] | None = None, n: int = 20
) -> View:
    """Methods at 2,048 tokens with these scores or perplexities, each with its interval."""
    names = list(scores or perplexities or {})
    subjects = [
        Subject(
            "M", name, "Plain model" if name == "none" else name.upper(),
            perplexity_at_to=Estimate(*perplexities[name], n) if perplexities else None,
            averages=[Average(2048, *scores[name], n)] if scores else [],
        )
        for name in names
    ]  # fmt: skip
    model = Model("M", 512, 512, 2048, [2048])
    return View(Results({"threshold": 0.85}, [model], subjects, TASKS, []))


def said(view: View) -> str:
    return headline(view).replace("\N{NO-BREAK SPACE}", " ")


def test_it_tells_what_was_answered_where_the_intervals_part() -> None:
    view = several({"none": (0.0, 0.0, 0.16), "a": (1.0, 0.84, 1.0), "b": (0.9, 0.7, 0.98), "c": (0.4, 0.2, 0.6)})
    assert said(view) == "At 2,048 tokens, A answers all 20 questions right; the plain model none."
    assert notes(view) == ["This run does not tell A from B: their intervals overlap. Surely lower: C."]


def test_overlapping_intervals_are_no_claim() -> None:
    view = several({"none": (0.5, 0.3, 0.7), "a": (0.7, 0.48, 0.86)})
    assert said(view) == (
        "At 2,048 tokens, A answers 70% of 20 questions right, the plain model 50%; their intervals overlap, so no "
        "difference is sure."
    )


def test_a_plain_model_that_is_surely_ahead_of_all_is_said_to_be() -> None:
    view = several({"none": (0.95, 0.8, 1.0), "a": (0.2, 0.1, 0.4), "b": (0.1, 0.0, 0.3)})
    assert "every method answers less than the plain model, which answers 95%" in said(view)


def test_without_a_plain_model_more_than_every_other_needs_every_interval() -> None:
    apart = {"a": (0.95, 0.8, 1.0), "b": (0.2, 0.1, 0.4), "c": (0.3, 0.1, 0.5)}
    assert said(several(apart)).endswith("A answers 95% of 20 questions right, more than every other.")
    assert "than every" not in said(several(apart | {"c": (0.7, 0.5, 0.85)}))


def test_values_without_intervals_are_never_compared() -> None:
    text = said(several({"none": (0.0, None, None), "a": (1.0, None, None)}))
    assert text.endswith("the plain model none; not all have intervals, so no difference is sure.")
    text = said(several(perplexities={"none": (35.5, None, None), "a": (29.2, None, None)}, n=1))
    assert text == (
        "On one text of 2,048 tokens, A has a perplexity of 29.2, the plain model 35.5: too few texts to put methods "
        "in order."
    )
    assert notes(several(perplexities={"none": (35.5, None, None), "a": (29.2, None, None)}, n=1)) == []


def test_perplexities_alone() -> None:
    plain = {"none": (35.0, 24.0, 46.0)}
    view = several(perplexities=plain | {"a": (11.0, 9.0, 16.0), "b": (12.0, 9.0, 17.0), "c": (56.0, 40.0, 70.0)})
    assert (
        said(view) == "At 2,048 tokens, A has a perplexity of 11.0 (9.00 … 16.0), the plain model 35.0 (24.0 … 46.0)."
    )
    assert notes(view) == ["This run does not tell A from B: their intervals overlap. Surely higher: C."]
    assert "their intervals overlap, so no difference is sure" in said(
        several(perplexities=plain | {"a": (30.0, 20.0, 40.0)})
    )


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.4), st.floats(0, 0.4)), min_size=2, max_size=12))
def test_whoever_is_said_to_be_lower_lies_below_the_whole_interval(values: list[tuple[float, float, float]]) -> None:
    scores = {f"m{i}": (v, max(0.0, v - low), min(1.0, v + high)) for i, (v, low, high) in enumerate(values)}
    view = several({"none": (0.0, 0.0, 0.0)} | scores)
    best = max(scores.values(), key=lambda one: one[0])
    for note in notes(view):
        below = note.partition("Surely lower: ")[2].rstrip(".")
        for name in filter(None, below.replace(" and ", ", ").split(", ")):
            if name.lower() in scores:
                assert scores[name.lower()][2] < best[1]
        if note.startswith("The score of every other"):
            assert sum(one[2] >= best[1] for one in scores.values()) <= 1


def alone(
    low: float, value: float, high: float, score: Triple = (0.9, 0.8, 1.0), lengths: tuple[int, ...] = (1024, 2048)
) -> View:
    averages = [Average(n, *score, 9, 0.012, "", p) for n, p in zip(lengths, (0.9, 0.4), strict=False)]
    subject = Subject(
        "/x/M.gguf", "none", "Plain model", effective_length=Estimate(value, low, high), averages=averages
    )
    return View(Results({"threshold": 0.85}, [Model("/x/M.gguf", None, None, None, list(lengths))], [subject], [], []))


@pytest.mark.parametrize(
    ("reach", "text"),
    [
        ((2048, 2048, 2048), "M.gguf uses its context up to 2,048 tokens, the longest length tested."),
        ((1024, 2048, 2048), "M.gguf uses its context up to 1,024 tokens; by the measured scores 2,048."),
        ((1024, 1024, 1024), "M.gguf uses its context up to 1,024 tokens."),
        (
            (0, 2048, 2048),
            "At 2,048 tokens, M.gguf answers 90% of 9 questions right: too few to tell how far it reaches.",
        ),
    ],
)
def test_of_one_subject_only_what_the_lower_ends_pass_is_claimed(reach: tuple[float, float, float], text: str) -> None:
    assert said(alone(*reach)) == text
    assert notes(alone(*reach)) == [
        "Probability that the average stays at 85% or more: 90% up to 1,024 tokens, 40% up to 2,048 tokens."
    ]


def test_one_subject_at_one_length_and_one_that_surely_fails() -> None:
    assert said(alone(512, 512, 512, lengths=(512,))).endswith("up to 512 tokens, the longest and only length tested.")
    text = said(alone(0, 0, 0, (0.1, 0.0, 0.3)))
    assert (
        text
        == "At 1,024 tokens, M.gguf answers 10% of 9 questions right, surely less than the 85% that count as passing."
    )


def test_one_subject_that_was_only_read() -> None:
    rows = [Row("M", "none", "ppl", n, 20.2, 14.5, 27.8, 8) for n in (512, 1024)]
    model, subject = Model("M", 512, None, None, [512, 1024]), Subject("M", "none", "Plain model")
    assert said(View(Results({}, [model], [subject], TASKS[:1], rows))) == (
        "M reads 8 texts of 1,024 tokens with a perplexity of 20.2 (14.5 … 27.8)."
    )
    assert "nothing that can be said" in said(View(Results({}, [model], [subject], [], [])))


def test_what_nobody_asked_below_is_said(keep: Keep) -> None:
    data = keep(methods=["yarn"])
    data["subjects"][0]["averages"] = data["subjects"][0]["averages"][-1:]
    assert "Below 4,096 tokens not every task was asked." in notes(View(Results.of(data)))


def test_of_several_models_the_best_score_leads(keep: Keep) -> None:
    data = keep(methods=["none"], tasks=["passkey"])
    data["models"].append(data["models"][0] | {"name": "other"})
    score = data["subjects"][0]["averages"][-1] | {"value": 0.99, "low": 0.9, "high": 1.0}
    data["subjects"].append(data["subjects"][0] | {"model": "other", "averages": [score]})
    assert said(View(Results.of(data))).endswith(
        "other: Plain model answers 99% of 40 questions right, more than every other."
    )


@pytest.mark.parametrize(
    ("times", "words", "sure"),
    [
        (Estimate(0.965, 0.926, 1.07), "3.5% lower than YaRN’s (−7.4% to +7.0%)", ""),
        (Estimate(1.25, 1.1, 1.5), "25.0% higher than YaRN’s (+10.0% to +50.0%)", "higher"),
        (Estimate(0.00335, 0.00332, 0.00338), "1/299 of YaRN’s (1/301 to 1/296)", "lower"),
        (Estimate(0.4, 0.06, 15.0), "1/2.50 of YaRN’s (1/16.7 to 15.0 times)", ""),
        (Estimate(3.2, 2.9, 3.6), "3.20 times YaRN’s (2.90 times to 3.60 times)", "higher"),
        (Estimate(0.9), "10.0% lower than YaRN’s", ""),
    ],
)
def test_a_ratio_is_said_in_words(times: Estimate, words: str, sure: str) -> None:
    assert change(times, "YaRN’s") == words and differs(times) == sure
    assert bounds(times) in words


def test_names_are_listed_or_counted() -> None:
    assert [listed(list("abcde"[:n])) for n in range(6)] == [
        "", "a", "a and b", "a, b and c", "a, b, c and d", "a, b, c and 2 other methods"
    ]  # fmt: skip


@pytest.mark.parametrize(("value", "said"), [(1.0, "right"), (0.0, "wrong"), (0.4, "40% right")])
def test_one_question_is_no_number_of_them(value, said):
    assert _answers(Estimate(value, 0.0, 1.0, n=1)) == f"its only question {said}"
