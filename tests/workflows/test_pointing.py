"""What replies name is read as it is meant, and what is not read is known."""

from __future__ import annotations

import pytest

from ropewalk.workflows.pointing import Pointed, pointed

RANGES = ["<para 3>-<para 6>", "<para 3> to <para 6>", "<para 3-6>", "<para 3\u20136>", "Paragraphs 3\u20136",
          "para 3..6", "paragraphs 3 through 6", "Paragraphs 3 \u2014 6.", "paragraph 3-6", "paragraph 3 to para 6",
          "3 to 6", "paras 6-3", "\u00a7 3 \u2013 \u00a7 6", "- 3\u20266"]  # fmt: skip
SINGLES = ["<para 3>", "**3**", '"3"', "\u00a7 3", "\u00b63", "No. 3", "- 3", "<para id=3>", '<para id="3"/>',
           "</para 3>", "<Para_3>", "<para3>", "< para 3 >", "[3]", "Para #3", "paragraph: 3",
           "1. <para 3>", "paragraph \uff13",
           "None of the others, only number 3.", "<para 3>, <para 3>", "3.", "2) paragraph 3"]  # fmt: skip


@pytest.mark.parametrize("reply", RANGES)
def test_ranges(reply: str) -> None:
    found = pointed(reply, range(1, 10))
    assert found.numbers == (3, 4, 5, 6) and found.whole and found.marked == ("<" in reply)


@pytest.mark.parametrize("reply", SINGLES)
def test_single_paragraphs(reply: str) -> None:
    found = pointed(reply, range(1, 10))
    assert found.numbers == (3,) and found.whole


@pytest.mark.parametrize(
    ("reply", "expected", "whole"),
    [
        ("<para 7> <para 3>", (7, 3), True),
        ("1. <para 3>\n2. <para 7>", (3, 7), True),
        ("<para 3>\n- <para 7>", (3, 7), True),
        ("Paragraphs 3, 5 and 7 help.", (3, 5, 7), True),
        ("para 4 to 6, para 1", (4, 5, 6, 1), True),
        ("2, 9", (2, 9), True),
        ("3\n7", (3, 7), True),
        ("3, 7, and 9.", (3, 7, 9), True),
        ("<para 3, 7>", (3, 7), True),
        ("none", (), True),
        ("None of paragraphs 1-9 help.", (), True),
        ("No paragraph helps.", (), True),
        ("Not <para 3>", (), False),
        ("<para 3>, not <para 4>", (3,), False),
        ("Paragraph 3 does not say it.", (), False),
        ("It isn't in <para 3>. See <para 4>", (4,), False),
        ("paragraph 4, 5 coins were paid", (4,), False),
        ("Paragraph 3 (which mentions 12 coins)", (3,), False),
        ("<para 3> and paragraph 7", (3,), False),
        ("There are 3 codes of 1999.", (), False),
        ("<para 99>", (), False),
        ("<para 0>", (), False),
        ("paragraphs 1-999999999", tuple(range(1, 10)), False),
        ("paragraph " + "1" * 400, (), False),
        ("paragraph 2 " + ", " * 5000, (2,), True),
        ("", (), True),
    ],
)
def test_lists_denials_and_what_is_left(reply: str, expected: tuple[int, ...], whole: bool) -> None:
    found = pointed(reply, range(1, 10))
    assert (found.numbers, found.whole) == (expected, whole)


def test_paragraphs_that_were_not_shown_are_known() -> None:
    assert pointed("<para 2> <para 3>", (2, 5, 8)) == Pointed((2,), True, False)
    assert pointed("<para 2>-<para 8>", (2, 5, 8)) == Pointed((2, 5, 8), True, True)


def test_marks_of_the_text_are_not_ours() -> None:
    assert pointed("<para 3>", range(9), "parax") == Pointed((), False, False)
    assert pointed("<parax 3>", range(9), "parax") == Pointed((3,), True, True)
    assert pointed("parax 3", range(9), "parax") == Pointed((3,), False, True)
