"""Actions do what they say, in bounds; what is none is told back; the trace is the tree of readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ropewalk.backends.chat.chat import Answer, Prompt, Turns
from ropewalk.workflows.chunks import chunks
from ropewalk.workflows.metered import Metered
from ropewalk.workflows.strategies.recursive import NO_ACTION, RecursiveLM, place
from ropewalk.workflows.trace import Call
from tests.talkers import Talker
from tests.workflows.readers import FACT, answer_of, finds, metered, text_with

FACTS = {"Oslo": 11111, "Lima": 22222, "Baku": 33333}
TEXT = text_with(FACTS, 160)
WINDOW, ROOM = 1024, 64


class Acts(Talker):
    """Says its lines in turn where actions are asked for, reads like the others where a text stands in the prompt."""

    def __init__(self, *lines: str, **more: Any):
        super().__init__(finds, **more)
        self.workers = 1
        self.lines, self.turns, self.spoken = list(lines), list[tuple[str, ...]](), 0

    def answer(self, asked: Prompt, room: int, again: int) -> Answer:
        if isinstance(asked, Turns):
            self.turns.append(asked.said)
            line = self.lines[min(self.spoken, len(self.lines) - 1)]
            self.spoken += 1
            self.say = lambda prompt, again: line
        else:
            self.say = finds
        return super().answer(asked, room, again)


def read(talker: Acts, text: str = TEXT, **options: Any) -> tuple[str, list[Call], Metered]:
    answer, model = answer_of(RecursiveLM(**options), text, metered(talker, window=WINDOW), room=ROOM)
    return answer, [call for _, call in sorted(model.trace.calls.items())], model


def results(talker: Acts) -> list[str]:
    """What came of each action but the last."""
    return [said[-1] for said in talker.turns[1:]]


def parts_of(text: str = TEXT) -> Sequence[Any]:
    return chunks(text, metered().spans(text), WINDOW // 8)


def test_it_is_told_how_long_the_text_is_and_sees_none_of_it() -> None:
    talker = Acts("ANSWER Nobody knows.")
    answer, calls, model = read(talker)
    assert answer == "Nobody knows." and [call.role for call in calls] == ["step 1"]
    assert model.trace.notes == ["it answered before it had seen anything of the text"]
    start = talker.turns[0][0]
    tokens = len(metered().spans(TEXT))
    assert f"{tokens:,} tokens lies in parts 1 to {len(parts_of())}." in start and "grass" not in start


def test_a_part_is_shown_as_it_stands() -> None:
    talker = Acts("PEEK 3", "PEEK 1", "PEEK 0", "PEEK 99999", "ANSWER x")
    read(talker)
    parts = parts_of()
    assert results(talker) == [
        parts[2].text.strip(),
        parts[0].text.strip(),
        *[f"There are parts 1 to {len(parts)}."] * 2,
    ]


@pytest.mark.parametrize(("words", "city"), [("code LIMA", "Lima"), ("of baku", "Baku")])
def test_a_search_tells_all_parts_that_hold_all_words(words: str, city: str) -> None:
    talker = Acts(f"SEARCH {words}", "SEARCH grass", "SEARCH zebra", "ANSWER x")
    read(talker)
    (where,) = [i for i, part in enumerate(parts_of(), 1) if f"The code of {city} is" in part.text]
    found, many, none = results(talker)
    assert found.startswith("1 parts hold all of these words:\n") and found.splitlines()[1].startswith(f"{where}: ")
    assert str(FACTS[city]) in found and none == "0 parts hold all of these words."
    assert many.startswith(f"{sum('grass' in part.text for part in parts_of())} parts") and len(many.splitlines()) <= 9


def test_a_span_is_read_by_one_that_sees_it_alone() -> None:
    parts = parts_of()
    (where,) = [i for i, part in enumerate(parts, 1) if "Lima" in part.text]
    talker = Acts(f"ASK {where - 1}-{where} Which code?", f"ASK {where} Which code has Lima?", "ANSWER 22222")
    answer, calls, model = read(talker)
    assert answer == "22222" and results(talker) == ["The code of Lima is 22222."] * 2
    assert [call.role for call in calls] == ["step 1", "step 1, 2 parts", "step 2", "step 2, 1 parts", "step 3"]
    text = "".join(part.text for part in parts[where - 2 : where])
    assert calls[1].prompt.startswith(text.strip()) and "Question: Which code?" in calls[1].prompt
    assert len(model.trace.critical_path) == 5 and not model.trace.notes


def test_a_span_that_is_too_long_is_refused_or_given_to_a_reader_with_actions() -> None:
    long = f"ASK 1-{len(parts_of())} Which codes?"
    flat = Acts(long, "ANSWER x")
    read(flat)
    assert results(flat) == [f"{len(parts_of())} parts are too long to be read at once: name fewer."]
    (where,) = [i for i, part in enumerate(parts_of(), 1) if "Baku" in part.text]
    deep = Acts(long, f"ASK {where} Which code?", "ANSWER It is 33333.", "ANSWER So it is 33333.")
    answer, calls, _ = read(deep, depth=2)
    assert answer == "So it is 33333." and deep.turns[3][-1] == "It is 33333."
    assert [call.role for call in calls] == ["step 1", "step 1.1", "step 1.1, 1 parts", "step 1.2", "step 2"]
    assert [call.after for call in calls] == [(), (0,), (1,), (2,), (3,)]
    assert "Which codes?" in deep.turns[1][0]
    nowhere = Acts(long, "ANSWER x")
    nowhere.lines = [long] * 99
    _, calls, _ = read(nowhere, depth=2, steps=3)
    below = [f"step {i}{more}" for i in (1, 2, 3) for more in ("", ".1", ".2", ".3", ", answer")]
    assert [call.role for call in calls] == [*below, "answer"]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_calls_are_bounded_whatever_it_writes(depth: int) -> None:
    steps, most = 3, 0
    for _ in range(depth):
        most = steps * (1 + max(1, most + 1))
    for line in ("ASK 1-9999 Which codes?", "ASK 1-4 Which codes?", "PEEK 2", "SEARCH grass", "What?"):
        answer, calls, _ = read(Acts(line), depth=depth, steps=steps)
        assert answer and calls[-1].role == "answer" and len(calls) <= most + 1
        assert all(call.counted + ROOM <= WINDOW for call in calls)


NONSENSE = [
    "What?",
    "peek 3",
    "PEEK three",
    "PEEK 3 4",
    "I PEEK 3",
    "SEARCH",
    "SEARCH ?",
    'SEARCH "_"',
    "ASK who?",
    "ASK 3 and 5 who?",
    "ASK 3, 5 who?",
    "ANSWER",
    "ANSWER .",
]


@pytest.mark.parametrize("line", NONSENSE)
def test_what_is_no_action_is_told_back_and_counted(line: str) -> None:
    talker = Acts(line, "ANSWER x")
    answer, _, model = read(talker)
    assert answer == "x" and results(talker) == [NO_ACTION] and talker.turns[1][1] == line
    assert model.trace.notes[0] == "1 of 2 replies were no action"


def test_code_is_no_action() -> None:
    talker = Acts("import os; os.system('true')", "```python", "ANSWER x")
    read(talker)
    assert results(talker) == [NO_ACTION] * 2


def test_without_an_answer_it_answers_by_what_was_asked_and_seen() -> None:
    where = {city: i for i, part in enumerate(parts_of(), 1) for city in FACTS if city in part.text}
    talker = Acts(f"ASK {where['Oslo']} Which code?", f"PEEK {where['Baku']}", f"PEEK {where['Baku']}")
    answer, calls, _ = read(talker, steps=3)
    assert calls[-1].role == "answer" and len(calls) == 5
    assert set(FACT.findall(answer)) == {("Oslo", "11111"), ("Baku", "33333")}
    assert calls[-1].prompt.startswith("Which code? The code of Oslo is 11111.\n")
    assert calls[-1].prompt.count("33333") == 1


def test_without_anything_seen_the_beginning_is_read_and_that_is_said() -> None:
    answer, calls, model = read(Acts("What?"), steps=2)
    assert calls[-1].prompt.startswith(TEXT[:80]) and "11111" not in answer
    assert model.trace.notes[0] == "2 of 2 replies were no action" and "nothing was seen" in model.trace.notes[1]


def test_old_steps_are_forgotten_where_the_window_is_full() -> None:
    talker = Acts(*(f"PEEK {i}" for i in range(1, 13)))
    read(talker, steps=12)
    assert all(said[0] == talker.turns[0][0] and len(said) % 2 for said in talker.turns)
    assert talker.turns[-1][-2] == "PEEK 11" and "PEEK 1" not in talker.turns[-1]


@pytest.mark.parametrize("sign", ["\ufb01", "\u00df", "\u0130", "\u0149", "\ufb03"])
def test_a_place_is_where_the_word_is_whatever_signs_become_without_case(sign: str) -> None:
    text = sign * 90 + " The Treasure lies in room 77. " + sign * 9 + " Stra\u00dfe 5"
    assert text[place(text, "treasure") :].startswith("Treasure lies")
    assert text[place(text, "strasse") :].startswith("Stra\u00dfe")
    assert place(text, sign.casefold()) == 0
    talker = Acts("SEARCH TREASURE", "ANSWER x")
    read(talker, text * 3 + TEXT)
    assert "room 77" in results(talker)[0]


@pytest.mark.parametrize("words", ['"code" of Lima', "\u201ccode of LIMA\u201d.", "code, Lima?", "**Lima**"])
def test_quotes_around_words_are_not_looked_for(words: str) -> None:
    talker = Acts(f"SEARCH {words}", "ANSWER x")
    read(talker)
    assert results(talker)[0].startswith("1 parts") and "22222" in results(talker)[0]


@pytest.mark.parametrize(
    "span", ["{}-{}", "{} \u2013 {}", "{}\u2014{}", "{} to {}", "{} through {}", "{}..{}", "{1}-{0}"]
)
def test_spans_are_read_as_they_are_meant(span: str) -> None:
    (where,) = [i for i, part in enumerate(parts_of(), 1) if "Lima" in part.text]
    talker = Acts(f"ASK {span.format(where - 1, where)} Which code?", "ANSWER x")
    _, calls, _ = read(talker)
    assert calls[1].role == "step 1, 2 parts" and results(talker) == ["The code of Lima is 22222."]
