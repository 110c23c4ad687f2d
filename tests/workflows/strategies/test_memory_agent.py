"""With a plan, what the answer is to look like is told last, and memory and plan stand apart."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from ropewalk.workflows.strategies.memory_agent import MemoryAgent, parted
from tests.talkers import Talker
from tests.workflows.readers import FACT, answer_of, finds, metered, text_with

FACTS = {"Oslo": 11111, "Lima": 22222, "Baku": 33333}
WINDOW = 1024
CORE, FORM = "What are all codes?", "Answer with digits, parted by commas."


def plans(core: str = CORE):
    """Keeps all facts, and plans to find as many as it has not."""

    def say(prompt: str, again: int) -> str:
        if "<request>" in prompt:
            return core
        facts = finds(prompt, again)
        if "<section>" not in prompt:
            return facts
        return f"<memory>{facts}</memory> <plan>{3 - len(FACT.findall(facts))} are to be found</plan>"

    return say


def read(talker: Talker, sentences: int = 160):
    text = text_with(FACTS, sentences)
    answer, model = answer_of(MemoryAgent(plan=True), text, metered(talker, window=WINDOW), question=f"{CORE} {FORM}")
    return answer, [call for _, call in sorted(model.trace.calls.items())], model


def test_the_form_of_the_answer_is_seen_by_the_first_and_the_last_call_alone() -> None:
    answer, calls, model = read(Talker(plans()))
    assert all(str(code) in answer for code in FACTS.values()) and not model.trace.notes
    assert calls[0].role == "what is asked" and calls[-1].role == "answer"
    assert [FORM in call.prompt for call in calls] == [True, *[False] * (len(calls) - 2), True]
    assert all(f"<problem>\n{CORE}\n</problem>" in call.prompt for call in calls[1:-1])
    assert len(calls) == int(calls[1].role.split()[-1]) + 2
    assert len(model.trace.critical_path) == len(calls)


def test_each_call_has_memory_and_plan_of_the_one_before_and_the_last_the_memory_alone() -> None:
    _, calls, _ = read(Talker(plans()))
    assert "No previous memory" in calls[1].prompt and "No previous plan" in calls[1].prompt
    for before, call in pairwise(calls[1:-1]):
        memory, plan = parted(before.answer)
        assert plan and f"<memory>\n{memory}\n</memory>\n\n<plan>\n{plan}\n</plan>" in call.prompt
    assert "to be found" not in calls[-1].prompt and parted(calls[-2].answer)[0] in calls[-1].prompt


def test_memory_and_plan_share_the_room_of_the_memory() -> None:
    model = metered(Talker(lambda prompt, again: "<memory>" + "word " * 900), window=WINDOW)
    answer_of(MemoryAgent(plan=True, memory=50), text_with(FACTS, 160), model)
    memories = [call for call in model.trace.calls.values() if call.role.startswith("memory")]
    assert memories and all(call.completion_tokens == 50 for call in memories)


@pytest.mark.parametrize("core", ["Which codes are there?", "nothing", "digits codes all"])
def test_what_is_no_part_of_the_question_is_not_asked_for_it(core: str) -> None:
    answer, calls, model = read(Talker(plans(core)))
    assert all(f"<problem>\n{CORE} {FORM}\n</problem>" in call.prompt for call in calls[1:-1])
    assert any("no part of it came back" in note for note in model.trace.notes)
    assert all(str(code) in answer for code in FACTS.values())


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ("<memory>a b</memory> <plan>c</plan>", ("a b", "c")),
        ("<plan>c</plan><memory>a b</memory>", ("a b", "c")),
        ("<memory>a b</memory>", ("a b", "")),
        ("a b", ("a b", "")),
        ("a b <plan>c", ("a b", "c")),
        ("<memory>a b", ("a b", "")),
        ("Here: <memory>\na\nb\n</memory>\n<plan>\nc\n</plan> Done.", ("a\nb", "c")),
        ("", ("", "")),
    ],
)
def test_memory_and_plan_are_read_where_they_are_marked(notes: str, expected: tuple[str, str]) -> None:
    assert parted(notes) == expected


def test_without_a_plan_nothing_of_it_is_asked() -> None:
    model = metered(Talker(finds), window=WINDOW)
    answer_of(MemoryAgent(), text_with(FACTS, 160), model)
    assert not any(re.search("<plan>|<request>", call.prompt) for call in model.trace.calls.values())
