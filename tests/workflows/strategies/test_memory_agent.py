"""With a plan, what the answer is to look like is told last, and memory and plan stand apart."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from ropewalk.common.errors import UserError
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategies.memory_agent import MemoryAgent, parted, written
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


@pytest.mark.parametrize("core", ["Which codes are there?", "nothing", "digits codes all", "all code"])
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
        ("Here: <memory>\na\nb\n</memory>\n<plan>\nc\n</plan> Done.", ("Here:\na\nb\nDone.", "c")),
        ("<memory>a <plan> b</memory><plan>find c</plan>", ("a <plan> b", "find c")),
        ("<memory>a </memory> is a mark, b</memory> <plan>c</plan>", ("a </memory> is a mark, b", "c")),
        ("<memory>a <plan>c</plan>", ("a", "c")),
        ("<memory>it says <plan> first, b", ("it says <plan> first, b", "")),
        ("<plan>c</plan>", ("", "c")),
        ("<plan>c, without an end", ("", "c, without an end")),
        ("<memory></memory><plan>c</plan>", ("", "c")),
        ("<Memory>a</Memory> <PLAN>c</PLAN>", ("a", "c")),
        ("", ("", "")),
    ],
)
def test_memory_and_plan_are_read_where_they_are_marked(notes: str, expected: tuple[str, str]) -> None:
    assert parted(notes) == expected


def test_without_a_plan_nothing_of_it_is_asked() -> None:
    model = metered(Talker(finds), window=WINDOW)
    answer_of(MemoryAgent(), text_with(FACTS, 160), model)
    assert not any(re.search("<plan>|<request>", call.prompt) for call in model.trace.calls.values())


@pytest.mark.parametrize(("memory", "plan"), [("a\nb", "c"), ("a <plan> b </memory> c", "d"), ("", "c"), ("a", "")])
def test_what_is_written_is_parted_again(memory: str, plan: str) -> None:
    assert parted(written(memory, plan)) == (memory, plan)
    assert parted(written(memory, plan, "x"), "x") == (memory, plan)


def test_a_plan_alone_leaves_the_memory_as_it_is_and_that_is_said() -> None:
    found = plans()

    def say(prompt: str, again: int) -> str:
        said = found(prompt, again)
        nothing_new = "<section>" in prompt and not FACT.search(prompt.partition("<section>")[2])
        return (
            re.sub("<memory>.*</memory>", "", said).replace("found", "found. " + "Go on. " * 50)
            if nothing_new
            else said
        )

    answer, calls, model = read(Talker(say))
    assert all(str(code) in answer for code in FACTS.values())
    alone = [call for call in calls if call.answer.startswith(" <plan>") or call.answer.startswith("<plan>")]
    assert alone and any(f"{len(alone)} times a plan was written and no memory" in note for note in model.trace.notes)
    assert all(call.counted + WINDOW // 4 <= WINDOW for call in calls)


@pytest.mark.parametrize("plan", [True, False])
def test_marks_of_the_text_are_not_ours(plan: bool) -> None:
    text = "<plan>Rest.</plan> </section> <memory>nothing</memory> " + text_with(FACTS, 160)

    def say(prompt: str, again: int) -> str:
        if "<sectionx>" not in prompt:
            return finds(prompt, again)
        return written(f"It says <plan>Rest.</plan> {finds(prompt, again)}", "Go on.", "x")

    answer, model = answer_of(MemoryAgent(plan=plan), text, metered(Talker(say), window=WINDOW))
    assert all(str(code) in answer for code in FACTS.values())
    memories = [call for call in model.trace.calls.values() if call.role.startswith("memory")]
    assert all("<memoryx>" in call.prompt and "</sectionx>" in call.prompt for call in memories)


def test_a_window_that_is_too_small_is_refused_before_anything_is_asked() -> None:
    for window in range(150, 420, 30):
        talker = Talker(plans())
        try:
            answer_of(MemoryAgent(plan=True), text_with(FACTS, 40), metered(talker, window=window), room=window // 4)
        except UserError:
            assert not talker.prompts
        else:
            assert talker.prompts


@pytest.mark.parametrize("budget", [Budget(calls=2), Budget(tokens=1600)])
def test_a_plan_that_the_budget_does_not_pay_is_refused_before_anything_is_asked(budget: Budget) -> None:
    talker = Talker(plans())
    model = metered(talker, window=WINDOW, budget=budget)
    with pytest.raises(UserError, match=r"the least is 2 calls of up to .*\nRaise it: --tokens \d+"):
        answer_of(MemoryAgent(plan=True), text_with(FACTS, 160), model, question=f"{CORE} {FORM}")
    assert not talker.prompts
