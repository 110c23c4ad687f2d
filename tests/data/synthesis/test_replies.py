"""What is read out of answers, and what a text holds."""

from __future__ import annotations

import pytest

from ropewalk.backends.chat.answering import Nonsense
from ropewalk.data.synthesis.replies import (
    UNRESOLVED,
    holds,
    instruction_about,
    labelled,
    times,
    ungrounded,
    whole_words,
)


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
    ("it is 3.41 now", "41", False),
    ("it is 3.41 now", "3", False),
    ("it is 3.41.", "3.41", True),
    ("in 1843, 41 men came", "1843", True),
    ("in 1843, 41 men came", "41", True),
    ("1,234 ropes", "1234", True),
    ("1234 ropes", "1,234", True),
    ("1'234'567.5 ropes", "1,234,567.5", True),
    ("1,234 ropes", "234", False),
    ("1,234 ropes", "1", False),
    ("1,234,567 ropes", "1,234", False),
    ("21,234 ropes", "1,234", False),
    ("12,34 and 1,23", "1234", False),
    ("at 12:41", "41", False),
    ("at 12:41", "12:41", True),
    ("on 29/11", "11", False),
    ("by -41 degrees", "41", False),
    ("-41 degrees", "41", False),
    ("-41 degrees", "-41", True),
    ("\u221241 degrees", "41", False),
    ("rows 3-41", "41", True),
    ("rows 3-41", "-41", False),
    ("(.5 of it", "5", False),
    ("41% of $41", "41", True),
    ("version 3.11.2", "3.11", False),
    ("version 3.11.2", "11.2", False),
    ("41人", "41", True),
    ("costs 41.", "41", True),
    ("41, 42", "42", True),
])  # fmt: skip
def test_a_part_is_held_word_for_word(text: str, part: str, there: bool) -> None:
    assert holds(text, part) is there


def test_every_place_is_counted_also_one_that_laps_over_another() -> None:
    assert [times("no no no and No.", part) for part in ("no", "no no", "yes")] == [4, 2, 0]


@pytest.mark.parametrize(("before", "own", "after", "words"), [
    ("", "a rope", "", "a rope"), ("reg", "22 matt", "", " matt"), ("ja", "son", " is", ""), ("li", "cense", "d", ""),
    ("a ", "rope wal", "k", "rope "), ("3.", "41 and 5", ".2", " and "), ("(", "41", ")", "41"),
    ("绳", "索长", "的", "索长"),
    ("a rope", " walks", " on", " walks"), ("-", "41 tons", "", " tons"),
])  # fmt: skip
def test_words_that_an_edge_cuts_are_no_part_of_a_text(before: str, own: str, after: str, words: str) -> None:
    assert whole_words(before + own + after, len(before), len(before + own)) == words


TEXT = (
    "In 1843 the ropewalk of Chatham made 1,234 cables of 3.41 tons, at -5 degrees, on an x86 machine; 41% were sold."
)


@pytest.mark.parametrize(("text", "why"), [
    ("Instruction: Tell how the Ropewalk was built.", ""),
    ("You're a helpful AI assistant, made by somebody", "about something else"),
    ("Tell how the ropewalk\nwas built.", "no instruction"),
    ("Ropewalk.", "no instruction"),
    ("Summarise what the text says about cables.", "without a subject"),
    ("Who let it all go on?", ""),  # without a longer word nothing is known
    ("说明这条很长的绳索是如何在船厂里制造的", ""),
])  # fmt: skip
def test_an_instruction_is_a_line_about_the_text(text: str, why: str) -> None:
    read = instruction_about(TEXT)
    if why:
        with pytest.raises(Nonsense, match=why):
            read(text)
    else:
        assert read(text) == text.removeprefix("Instruction: ")


@pytest.mark.parametrize(("answer", "says_more"), [
    ("The ropewalk of Chatham made 1234 cables", False),
    ("The ropewalk made 234 cables", True),
    ("The cables had 3.41 tons", False),
    ("The cables had 41 tons", False),  # the number is there, of something else
    ("The cables had 3.4 tons", True),
    ("The cables had 3 tons", True),
    ("The cables had 3.1843 tons", True),
    ("At -5 degrees", False),
    ("At 5 degrees", True),
    ("1. The ropewalk\n2. of Chatham\n3) made cables", False),
    ("On an x86 machine", False),
    ("On an x87 machine", True),
    ("In Chatham of 1843.", False),
    ("In London of 1843.", True),
    ("", True),
    ("Elephants wander through forests", True),
])  # fmt: skip
def test_an_answer_says_no_number_name_or_word_that_the_text_does_not(answer: str, says_more: bool) -> None:
    assert ungrounded(answer, TEXT) is says_more


@pytest.mark.parametrize(("question", "unresolved"), [
    ("What does it hold?", False),  # asked of something in the question
    ("It was built when?", True),
    ("Who is the author of the text?", True),
    ("What is described above?", True),
    ("What is the tax in the given passage?", True),
    ("What do these passages say of hemp?", True),
    ("When was the rope walk of Chatham built?", False),
])  # fmt: skip
def test_questions_without_a_subject_are_found(question: str, unresolved: bool) -> None:
    assert bool(UNRESOLVED.search(question)) is unresolved
