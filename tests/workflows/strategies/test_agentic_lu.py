"""Paragraphs parse back to the text, what is pointed at is pinned, and all turns begin with the same text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ropewalk.backends.chat.chat import Answer, Failed, Prompt, Turns, Usage, rendered
from ropewalk.workflows.metered import Metered
from ropewalk.workflows.selection import spliced
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategies.agentic_lu import AgenticLU, paragraphs
from ropewalk.workflows.trace import Call
from tests.talkers import Talker
from tests.workflows.readers import FACT, answer_of, fact, filler, finds, metered, text_with

FACTS = {"Oslo": 11111, "Lima": 22222, "Baku": 33333}
WINDOW, SMALL = 4096, 1536
TEXT = text_with(FACTS, 40)
SHOWN = re.compile(r"<para (\d+)>\n(.*?)\n</para \1>\n", re.DOTALL)


class Points(Talker):
    """Names the paragraphs that hold facts, as a model that follows what it is told; keeps what it was asked."""

    def __init__(self, **more: Any):
        super().__init__(finds, **more)
        self.workers = 1
        self.turns: list[tuple[str, ...]] = []

    def answer(self, asked: Prompt, room: int, again: int) -> Answer:
        if not isinstance(asked, Turns):
            self.say = finds
            return super().answer(asked, room, again)
        self.turns.append(asked.said)
        if len(asked.said) == 1:
            self.say = lambda prompt, again: "Which codes?"
        elif len(asked.said) == 3:
            named = [f"<para {i}>" for i, text in SHOWN.findall(asked.said[0]) if FACT.search(text)]
            self.say = lambda prompt, again: " ".join(named) or "none"
        else:
            self.say = finds
        return super().answer(asked, room, again)


def read(talker: Talker, text: str = TEXT, window: int = WINDOW, **more: Any) -> tuple[str, list[Call], Metered]:
    answer, model = answer_of(AgenticLU(), text, metered(talker, window=window, **more), room=64)
    return answer, [call for _, call in sorted(model.trace.calls.items())], model


@pytest.mark.parametrize("size", [16, 64, 512])
def test_marks_parse_back_to_the_exact_tokens_of_the_text(size: int) -> None:
    model = metered()
    every = paragraphs(model, TEXT, size)
    back = SHOWN.findall("".join(one.text for one in every))
    assert [int(i) for i, _ in back] == list(range(1, len(every) + 1))
    assert "".join(text for _, text in back) == TEXT
    spans, first = model.spans(TEXT), 0
    for (_, text), one in zip(back, every, strict=True):
        own = [span for span in spans if one.part.start <= span[0] < one.part.stop]
        assert text == one.part.text and own == list(spans[first : first + one.part.tokens]) and len(own) <= size
        assert one.tokens >= len(model.spans(one.text))
        first += len(own)
    assert first == len(spans)


def test_the_conversation_is_that_of_the_paper() -> None:
    answer, calls, model = read(Points())
    assert [call.role for call in calls] == ["clarifying question", "pointing", "clarification", "answer"]
    assert all(str(code) in answer for code in FACTS.values()) and not model.trace.notes
    turns = model.chat.turns  # type: ignore[attr-defined]
    assert [len(said) for said in turns] == [1, 3, 5, 7]
    for before, after, call in zip(turns, turns[1:], calls, strict=False):
        assert after[: len(before)] == before and after[len(before)] == call.answer
    assert "".join(text for _, text in SHOWN.findall(turns[0][0])) == TEXT


def test_what_is_pointed_at_is_pinned_as_it_stands_in_the_order_of_the_text() -> None:
    _, calls, model = read(Points())
    every = paragraphs(model, TEXT, WINDOW // 16)
    gold = [one for one in every if FACT.search(one.part.text)]
    assert len(gold) == 3 and calls[1].answer == " ".join(f"<para {one.number}>" for one in gold)
    pinned = model.chat.turns[2][4].partition("\n\nAbove is what you pointed at.")[0]  # type: ignore[attr-defined]
    assert pinned == spliced([one.part for one in gold]) and all(str(code) in pinned for code in FACTS.values())


def test_the_text_is_read_once_where_beginnings_are_kept() -> None:
    """A server that tells how many tokens of a prompt it had read for an earlier one."""
    before: list[list[int]] = []

    class Caches(Points):
        def answer(self, asked: Prompt, room: int, again: int) -> Answer:
            answer, ids = super().answer(asked, room, again), rendered(asked, self.tokenizer)
            cached = max((next((i for i, (a, b) in enumerate(zip(ids, one, strict=False)) if a != b),
                               min(len(ids), len(one))) for one in before), default=0)  # fmt: skip
            before.append(ids)
            assert answer.usage is not None
            return Answer(answer.text, answer.cut, Usage(answer.usage.prompt, cached, answer.usage.completion))

    _, calls, model = read(Caches())
    text = len(model.spans(TEXT))
    assert [call.cached_tokens > text for call in calls] == [False, True, True, True]
    told = model.trace.told()
    assert told["prompt tokens"] > 4 * text > 2 * (told["prompt tokens"] - told["cached tokens"])


def test_a_longer_text_is_pointed_at_window_by_window_and_then_read_as_one() -> None:
    text = text_with(FACTS, 160)
    answer, calls, model = read(Points(), text, SMALL)
    assert all(str(code) in answer for code in FACTS.values())
    windows = int(calls[0].role.split()[-1])
    assert windows > 2 and len(calls) == 2 * windows + 4
    first = [one for one in model.chat.turns if len(one) == 1]  # type: ignore[attr-defined]
    assert "".join(text for said in sorted(first, key=lambda said: int(SHOWN.findall(said[0])[0][0]))
                   if said is not first[-1] for _, text in SHOWN.findall(said[0])) == text  # fmt: skip
    assert all(FACT.search(text) for _, text in SHOWN.findall(first[-1][0]))
    number = {call.role: call.number for call in calls}
    waited = {call.role: call.after for call in calls}
    second = f"window 2 of {windows}"
    assert waited[f"pointing, {second}"] == (number[f"clarifying question, {second}"],)
    assert len(model.trace.critical_path) == 2 + 4


def test_what_is_pointed_at_beyond_the_last_conversation_is_left_out_and_said() -> None:
    class All(Points):
        def answer(self, asked: Prompt, room: int, again: int) -> Answer:
            answer = super().answer(asked, room, again)
            pointing = isinstance(asked, Turns) and len(asked.said) == 3
            return Answer("paragraphs 1 to 999", usage=answer.usage) if pointing else answer

    _, calls, model = read(All(), text_with(FACTS, 160), SMALL)
    assert any("pointed at were left out" in note for note in model.trace.notes)
    assert all(call.counted + 64 <= SMALL for call in calls)


def test_where_nothing_is_pointed_at_the_beginning_is_read_and_that_is_said() -> None:
    text = fact("Rome", 77777) + text_with(FACTS, 160)
    answer, calls, model = read(Talker(lambda prompt, again: finds(prompt, again)[:27]), text, SMALL)
    assert "77777" in answer and calls[-1].role == "answer"
    assert any("no paragraph was pointed at" in note for note in model.trace.notes)


@pytest.mark.parametrize("failing", [1, 3, 5])
def test_a_turn_that_comes_to_nothing_ends_the_conversation_with_an_answer(failing: int) -> None:
    class Fails(Talker):
        def answer(self, asked: Prompt, room: int, again: int) -> Answer:
            if isinstance(asked, Turns) and len(asked.said) == failing:
                raise Failed("code 400", final=True)
            return super().answer(asked, room, again)

    answer, calls, _ = read(Fails(finds))
    assert all(str(code) in answer for code in FACTS.values())
    assert len(calls) == (failing + 1) // 2 + 1


def test_a_budget_for_the_last_answer_alone_is_enough_for_it() -> None:
    answer, calls, model = read(Points(), TEXT, WINDOW, budget=Budget(WINDOW))
    assert answer and [call.role for call in calls] == ["answer"] and "the budget is spent" in model.trace.notes[0]


def marked(number: int) -> str:
    said = fact("Oslo", 11111) if number == 33 else filler(number, 1)
    return f"<para {number}>\nClause {number}. {said}\n</para {number}>\n"


class Nearest(Points):
    """Points with the last mark before the fact of those that it is told of."""

    def answer(self, asked: Prompt, room: int, again: int) -> Answer:
        answer = super().answer(asked, room, again)
        if not isinstance(asked, Turns) or len(asked.said) != 3:
            return answer
        before, found, _ = asked.said[0].partition(fact("Oslo", 11111).strip())
        tag = re.findall(r"like <(\w+) 3>", asked.said[-1])[0]
        return Answer(re.findall(rf"<{tag} \d+>", before)[-1] if found else "none", usage=answer.usage)


@pytest.mark.parametrize("window", [WINDOW, SMALL])
def test_marks_of_the_text_are_not_taken_for_ours(window: int) -> None:
    text = "".join(map(marked, range(1, 81)))
    talker = Nearest()
    answer, calls, model = read(talker, text, window)
    assert "11111" in answer and not model.trace.notes and "<parax 1>" in calls[0].prompt
    pinned = talker.turns[-2][4].partition("\n\nAbove is what you pointed at.")[0]
    assert "11111" in pinned


@pytest.mark.parametrize("form", ["paragraph {}", "<para 999>", "It is <para 33>."])
def test_what_is_not_read_is_said(form: str) -> None:
    text = "".join(map(marked, range(1, 161)))

    class Says(Points):
        def answer(self, asked: Prompt, room: int, again: int) -> Answer:
            answer = super().answer(asked, room, again)
            pointing = isinstance(asked, Turns) and len(asked.said) == 3
            return Answer(form.format(3), usage=answer.usage) if pointing else answer

    _, _, model = read(Says(), text, SMALL)
    assert any("name what was not shown" in note and repr(form.format(3)) in note for note in model.trace.notes)
    assert any("where the text numbers its own" in note for note in model.trace.notes) == (form == "paragraph {}")


@pytest.mark.parametrize("paragraph", [1, 7, 10**6])
def test_paragraphs_of_any_size_are_no_more_than_a_call_holds(paragraph: int) -> None:
    talker = Points()
    _, model = answer_of(AgenticLU(paragraph), TEXT, metered(talker, window=SMALL), room=64)
    assert all(call.counted + 64 <= SMALL for call in model.trace.calls.values())
