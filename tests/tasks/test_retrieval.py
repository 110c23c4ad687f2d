"""Lines, altered numeric QA and VaL probing."""

from __future__ import annotations

import random
import re

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.tasks.altered_qa import NUMBER, AlteredNumericQA, Page, altered, altered_number
from ropewalk.tasks.lines import Lines
from ropewalk.tasks.task import Sample, TooShort
from ropewalk.tasks.val_probing import Function, ValCode, ValDatabase, ValDocument, functions, middle, sentences
from ropewalk.texts.pieces import TokenUnits
from tests.tasks.matrix import PAGES


def test_a_line_by_hand() -> None:
    text = " line a-b-c: REGISTER_CONTENT is <12>. line a-b-d: REGISTER_CONTENT is <34>."
    assert Lines().solve(f"{text} What is the REGISTER_CONTENT of line a-b-d? It is") == "<34>"


@pytest.mark.parametrize(
    ("said", "right"),
    [(" <34>", 1), (" 34", 1), (" for line 7 it is <34>. line 9: <12>", 1), (" <34", 1), (" <345>", 0), (" <3>34", 0)],
)
def test_the_last_integer_of_the_content_counts(said: str, right: int) -> None:
    assert Lines().score(said, Sample([1], [2], "<34>", 0.5)) == right


def test_lines_fill_the_context_and_no_name_repeats(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for keys in ("words", "uuids", "letters"):
        text = units.decode(Lines(keys).sample(4000, random.Random(0), units).prompt)
        names = re.findall(r"line (\S+): REGISTER", text)
        assert len(names) == len(set(names)) > 50


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("in 1990, and 1,234,567 more.", ["1990", "1,234,567"]),
        ("3.5 km, 12 of 7a; v2", ["12"]),
        ("from 10-12.", ["10", "12"]),
        ("5,6 and 7.", ["7"]),
    ],
)
def test_only_whole_numbers_are_altered(text: str, found: list[str]) -> None:
    assert re.findall(NUMBER, text) == found


@pytest.mark.parametrize(
    ("number", "allowed"),
    [("1731", range(1721, 1742)), ("2099", range(2089, 2101)), ("60", range(10, 100)), ("7", range(10)),
     ("9999", range(1000, 10000)), ("12,480", range(10000, 100000))],
)  # fmt: skip
def test_altered_numbers_are_like_the_old_ones(number: str, allowed: range) -> None:
    for seed in range(50):
        new = altered_number(number, {number.replace(",", "")}, random.Random(seed))
        assert new != number and int(new.replace(",", "")) in allowed and ("," in new) == ("," in number)


def test_no_trace_of_the_old_answer_is_left_and_nothing_else_changes() -> None:
    for page in PAGES:
        for seed in range(20):
            new = altered(page, random.Random(seed))
            assert new.answer != page.answer and page.answer not in re.findall(NUMBER, new.document)
            assert new.answer not in page.document
            assert new.document.replace(new.answer, page.answer) == page.document


def test_pages_that_cannot_be_altered_are_said() -> None:
    with pytest.raises(ValueError, match="'13' is not a whole number of the document"):
        Page("It is 1.13 or 131.", "What is it?", "13")
    with pytest.raises(ValueError, match="every number like '3'"):
        altered(Page("0 1 2 3 4 5 6 7 8 9", "Which is it?", "3"), random.Random(0))


def test_a_page_that_fits_is_taken(tokenizer: PreTrainedTokenizerFast) -> None:
    long = Page("The tower is 40 ells high. " * 100, "How high is the tower?", "40")
    task, units = AlteredNumericQA((long, *PAGES)), TokenUnits(tokenizer)
    for seed in range(10):
        assert "tower" not in units.decode(task.sample(600, random.Random(seed), units).prompt)
    with pytest.raises(TooShort, match="altered_qa needs more than"):
        task.sample(150, random.Random(0), units)


SOURCE = """
class A:
    def first(self, value):
        total = value + 1234567
        return total

    def second(self, value):
        total = value + 7654321
        return total

def twice(value):
    return value * 2 + 1111111

def clone(value):
    same = "in two functions"
    return value

def copy(value):
    same = "in two functions"
    return value
"""


def test_functions_have_a_line_of_their_own() -> None:
    assert functions([SOURCE]) == (
        Function(
            "first",
            "def first(self, value):\n    total = value + 1234567\n    return total",
            "total = value + 1234567",
        ),
        Function(
            "second",
            "def second(self, value):\n    total = value + 7654321\n    return total",
            "total = value + 7654321",
        ),
    )


def test_the_function_before_the_line_is_named() -> None:
    asked = "Which of the functions has the line `total = value + 7654321` in it? The function is called"
    assert ValCode(()).solve(f"{SOURCE} {asked}") == "second"


def test_a_key_is_not_part_of_another_line() -> None:
    source = "def one(value):\n    value = 1234567 + 1\n    return 7654321 - value"
    longer = "def two(value):\n    value = 1234567 + 12\n    return value"
    assert [one.key for one in functions([source, longer])] == ["return 7654321 - value", "value = 1234567 + 12"]


def test_material_without_pieces_is_said(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="val_document has nothing to ask"):
        ValDocument(sentences("Too short.")).sample(500, random.Random(0), TokenUnits(tokenizer))


def test_sentences_are_found_by_their_middle() -> None:
    text = (
        "One two three four five six seven eight nine. Too short.\n\nOne line two\nlines three four and six seven"
        " eight. Is it a question that has more than nine words in it?"
    )
    found = sentences(text)
    assert found == (
        "One two three four five six seven eight nine.",
        "One line two lines three four and six seven eight.",
    )
    assert middle(found[0]) == "four five six"
    assert sentences("A b c four five six g h i. J k l four five six m n o.") == ()


def test_scores_of_the_three_directions() -> None:
    entry = Sample([1], [2], "label", 0.5, ("red-fox", "a blue owl from Oakby"))
    assert ValDatabase().score("A Blue Owl from Oakby", entry) == ValDatabase().score("red-fox", entry) == 1.0
    assert ValDatabase().score("red", entry) == 0.0
    sentence = Sample([1], [2], "The old mill is the best mill.", 0.5)
    assert ValDocument(()).score("the mill", sentence) == pytest.approx(2 / 5)
    assert ValCode(()).score("second()", Sample([1], [2], "second", 0.5)) == 1.0


def test_bins_hold_fifty_records(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = ValDatabase().questions(12_000, random.Random(0), TokenUnits(tokenizer), 12)
    positions = [one.facts["position"] for one in samples]
    assert positions == sorted(set(positions)) and positions[-1] > 60
    assert all(one.facts["bin"] == one.facts["position"] // 50 for one in samples)
