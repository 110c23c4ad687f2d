"""What is read out of answers, and what a text holds."""

from __future__ import annotations

import pytest

from ropewalk.backends.chat.answering import Nonsense
from ropewalk.data.synthesis.replies import holds, labelled


def test_labels_are_read_as_models_write_them() -> None:
    for text in (
        "Question: Who?\nAnswer: Ada",
        "Sure!\n\n**Question:** Who?\n\n**Answer**: Ada\n",
        "## question: Who?\n* Answer: Ada",
    ):
        assert labelled(text, ["Question", "Answer"]) == ["Who?", "Ada"]
    for text in (
        "Who? Ada",
        "Answer: Ada\nQuestion: Who?",
        "Question: Who?\nAnswer:",
        "Question: a\nQuestion: b\nAnswer: c",
    ):
        with pytest.raises(Nonsense, match="not question and answer"):
            labelled(text, ["Question", "Answer"])


@pytest.mark.parametrize(("text", "part", "there"), [
    ("The rope\n  walk of Chatham", "Rope walk", True),
    ("The ropewalk", "rope", False),
    ("costs $5.50 there", "$5.50", True),
    ("in 1843.", "184", False),
    ("Ада ходит", "ада", True),
    ("我们在船厂看到绳索很长", "绳索", True),
    ("ロープは長いです", "長い", True),
    ("我们在船厂", "绳索", False),
])  # fmt: skip
def test_a_part_is_held_word_for_word(text: str, part: str, there: bool) -> None:
    assert holds(text, part) is there
