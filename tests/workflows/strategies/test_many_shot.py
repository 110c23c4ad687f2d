"""As many examples as fit, the same whatever their order; orders are those of their names; rows are checked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.ordering.smooth_path import turn
from ropewalk.workflows.answered import text_of
from ropewalk.workflows.strategies.many_shot import Example, ManyShot, examples_of, prompt_of
from ropewalk.workflows.word_vectors import tf_idf
from tests.talkers import Talker
from tests.workflows.readers import answer_of, metered

WINDOW = 1024
QUESTION = "How much is zinc?"
ORDERS = ("smooth", "random", "length", "similarity", "file")


def rows(*pairs: tuple[str, str]) -> str:
    return "\n".join(json.dumps({"question": question, "answer": answer}) for question, answer in pairs)


MANY = rows(*((f"How much is {'very ' * (i * 7 % 5)}thing {i}?", f"It is {i}.") for i in range(80)))


def shown(text: str, window: int = WINDOW, question: str = QUESTION, model=None, **options) -> list[str]:
    """Questions in the prompt, in its order; the last is the reader's own."""
    model = model or metered(Talker(lambda prompt, again: "Done."), window=window)
    answer_of(ManyShot(**options), text, model, question=question)
    (call,) = model.trace.calls.values()
    assert call.counted <= window
    return [line.removeprefix("Question: ") for line in call.prompt.splitlines() if line.startswith("Question: ")]


def test_the_prompt_is_examples_and_the_question_in_one_form() -> None:
    assert prompt_of([Example("a?", "b"), Example(" c? ", "d\n")], " e? ") == (
        "Question: a?\nAnswer: b\n\nQuestion: c?\nAnswer: d\n\nQuestion: e?\nAnswer:"
    )


@pytest.mark.parametrize("room", range(16, 40, 3))
def test_examples_that_have_more_tokens_joined_than_one_by_one_fit_all_the_same(room: int) -> None:
    model = metered(Talker(lambda prompt, again: "Done."), window=512)
    examples = [Example(f"What is {i}+{i}?", f"{2 * i}") for i in range(60)]
    spans = model.spans
    model.spans = lambda text: spans(text)[:-2]  # type: ignore[method-assign]
    text = rows(*((one.question, one.answer) for one in examples))
    answer_of(ManyShot(order="file"), text, model, question=QUESTION, room=room)
    (call,) = model.trace.calls.values()
    assert 400 < call.counted + room <= 512


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_first_that_fit_are_in_the_prompt_whatever_the_order(order: str, backwards: bool) -> None:
    model = metered(Talker(lambda prompt, again: "Done."), window=WINDOW)
    found = shown(MANY, model=model, order=order, backwards=backwards)
    every = [one.question for one in examples_of(MANY)]
    assert sorted(found[:-1]) == sorted(every[: len(found) - 1]) and found[-1] == QUESTION
    assert 10 < len(found) - 1 < 80
    assert model.trace.notes == [f"{len(found) - 1} of 80 examples are in the prompt"]
    plain = shown(MANY, order=order)
    assert found[:-1] == (plain[:-1][::-1] if backwards else plain[:-1])
    left = WINDOW - next(iter(model.trace.calls.values())).counted - 128
    assert left < 80  # another one, and what a prompt may be longer than its parts, does not fit


def test_orders_are_those_of_their_names() -> None:
    text = rows(("How much is a big red apple?", "4"), ("How much is zinc ore?", "1"), ("Who?", "I"),
                ("How much is a pear?", "3"))  # fmt: skip
    assert shown(text, order="file")[:-1] == [one.question for one in examples_of(text)]
    assert shown(text, order="length")[0] == "Who?" and "apple" in shown(text, order="length")[-2]
    assert shown(text, order="similarity")[-2] == "How much is zinc ore?"
    assert shown(text, order="similarity")[0] == "Who?"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("It is 7.\n\nQuestion: How much is tin?\nAnswer: 8", "It is 7."),
        ("It is 7.\nQuestion: more?", "It is 7."),
        ("It is 7.\n\nIt is.", "It is 7.\n\nIt is."),
        ("Question: why?", "Question: why?"),
    ],
)
def test_a_further_question_of_the_models_own_is_no_answer(said: str, answer: str) -> None:
    found, model = answer_of(ManyShot(), MANY, metered(Talker(lambda prompt, again: said), window=WINDOW))
    assert found == answer and any("a further question" in note for note in model.trace.notes) == (found != said)


@pytest.mark.parametrize("options", [{"choose": "similar"}, {"order": "similarity"}])
def test_where_no_example_is_like_the_question_it_is_said(options: dict[str, str]) -> None:
    for question, told in (("Wer bezahlt?", True), (QUESTION, False)):
        _, model = answer_of(ManyShot(**options), MANY, metered(window=WINDOW), question=question)
        assert any("no example has a word of the question" in note for note in model.trace.notes) == told


def test_a_random_order_is_the_seeds_own() -> None:
    one, again, other = (shown(MANY, order="random", seed=seed) for seed in (1, 1, 2))
    assert one == again and one != other and sorted(one) == sorted(other)


def test_most_alike_are_chosen_where_that_is_asked_for() -> None:
    text = rows(*((f"How much is thing {i}?", "1") for i in range(60)), ("How much is zinc?", "7"))
    assert "How much is zinc?" not in shown(text, order="file")[:-1]
    assert "How much is zinc?" in shown(text, order="file", choose="similar")[:-1]
    assert shown(text, choose="similar", most=1)[:-1] == ["How much is zinc?"]
    alike = ["How much is zinc ore, would you say?", "How much is zinc?"]
    three = rows((alike[0], "1"), ("Who?", "I"), (alike[1], "7"))  # of which the last is the most alike
    assert shown(three, order="file", choose="similar", most=2)[:-1] == alike


@pytest.mark.parametrize("most", [1, 2, 7])
def test_no_more_than_asked_for(most: int) -> None:
    assert len(shown(MANY, most=most)) == most + 1


def embedder(points: dict[str, list[float]]):
    return lambda texts: np.array([next(v for k, v in points.items() if k in text) for text in texts], np.float32)


def test_points_on_an_arc_are_shown_in_geometric_order() -> None:
    angles = {f"p{i:02d}": i * np.pi / 40 for i in range(12)}
    points = {name: [float(np.cos(a)), float(np.sin(a))] for name, a in angles.items()}
    names = list(points)
    mixed = [names[i] for i in (5, 2, 9, 0, 11, 7, 3, 1, 10, 4, 8, 6)]
    text = rows(*((f"Where is {name}{'?' * (1 + int(name[1:]))}", "There.") for name in mixed))
    model = metered(Talker(lambda prompt, again: "Done."), window=WINDOW, embed=embedder(points))
    found = shown(text, model=model, order="smooth", by="vectors")
    assert [one.split()[2].rstrip("?") for one in found[:-1]] == names  # the shortest first


def test_the_smooth_order_turns_less_than_the_others() -> None:
    examples = examples_of(MANY)[:30]
    vectors = tf_idf([one.text for one in examples])
    products = vectors.astype(float) @ vectors.T.astype(float)
    turns = {}
    for order in ORDERS:
        path = asyncio.run(ManyShot(order=order).ordered(metered(), examples, QUESTION))
        assert sorted(path) == list(range(30))
        turns[order] = turn(np.array(path), products)
    assert turns["smooth"] < min(value for order, value in turns.items() if order != "smooth")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_examples_have_an_order_too(order: str, count: int) -> None:
    text = "\n".join(MANY.split("\n")[:count])
    assert len(shown(text, order=order)) == count + 1


def test_an_example_that_does_not_fit_is_left_out_and_told_of() -> None:
    model = metered(Talker(lambda prompt, again: "Done."), window=WINDOW)
    assert shown(rows(("Why? " * 900, "So.")), model=model) == [QUESTION]
    assert model.trace.notes == ["0 of 1 examples are in the prompt"]


def test_more_than_can_be_ordered_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.workflows.strategies.many_shot.MOST", 5)
    with pytest.raises(UserError, match="order=smooth of 6 examples, expected 5 at most"):
        shown("\n".join(MANY.split("\n")[:6]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no examples"),
        ("Once upon a time", "line 1 of the examples is no JSON"),
        ('{"question": "a", "answer": "b"}\n[1]', "line 2 of the examples is no JSON object"),
        ('{"question": "a"}', 'no "answer"'),
        ('{"question": "a", "answer": 4}', '"answer" is 4'),
        ('{"question": " ", "answer": "b"}', '"question" is'),
    ],
)
def test_rows_are_checked(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        examples_of(text)


def test_files_of_rows_are_read_with_all_signs(tmp_path: Path) -> None:
    pairs = [("a\u2028b?", "c\nd"), ("é?", "猫")]
    for i, pair in enumerate(pairs):
        line = json.dumps({"question": pair[0], "answer": pair[1], "more": 1}, ensure_ascii=False)
        (tmp_path / f"{i}.jsonl").write_text(line + "\n", "utf-8")
    files = [str(tmp_path / f"{i}.jsonl") for i in range(2)]
    text, names = text_of(ManyShot(), files)
    assert [(one.question, one.answer) for one in examples_of(text)] == pairs and names == files
    (tmp_path / "0.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(UserError, match=r'0\.jsonl:1: no "answer"'):
        text_of(ManyShot(), files)
