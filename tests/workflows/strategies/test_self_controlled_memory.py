"""What the controller decides is the paper's table; what is remembered fits, in the text's order; and it ends."""

from __future__ import annotations

import asyncio
import re
from itertools import product

import numpy as np
import pytest

from ropewalk.workflows.chunks import Chunk
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategies.self_controlled_memory import (
    Memory,
    SelfControlledMemory,
    joined,
    remembered,
    shortened,
    yes_or_no,
)
from tests.talkers import Talker
from tests.workflows.readers import answer_of, metered

WINDOW = 1024
QUESTION = "Where is the whale?"
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")


def text() -> str:
    """A block of one sentence for each word; the later it comes, the more often it has the question's word."""
    return "".join(
        f"Block {word} has {'whale, ' * (2 * i)}{'water, ' * (20 - 2 * i)}and the sea of {word} is as blue as {word}. "
        for i, word in enumerate(WORDS)
    )


class Controller(Talker):
    """Says of each block what the tables say; its sentence is ``Short WORD.``"""

    def __init__(self, raw: dict[str, str], summary: dict[str, str], gate: str = "yes"):
        super().__init__(self.speak)
        self.raw, self.summary, self.gate = raw, summary, gate

    def speak(self, prompt: str, again: int) -> str:
        if prompt.startswith("Someone has a text"):
            return self.gate
        if "Say in one sentence" in prompt:
            return f"Short {self.word(prompt)}."
        if "Write yes or no" in prompt:
            return (self.summary if prompt.startswith("Short") else self.raw)[self.word(prompt)]
        return "It is there."

    @staticmethod
    def word(prompt: str) -> str:
        return next(word for word in re.findall(r"Short (\w+)\.|sea of (\w+)", prompt)[0] if word)


def last_prompt(model) -> str:
    return model.trace.calls[max(model.trace.calls)].prompt.partition("\n\nAbove is")[0]


def roles(model) -> list[str]:
    return [call.role for _, call in sorted(model.trace.calls.items())]


def read(raw="yes", summary="no", gate="yes", budget=None, **options):
    """Reads all six blocks, where three or four may be remembered."""
    tables = [one if isinstance(one, dict) else dict.fromkeys(WORDS, one) for one in (raw, summary)]
    model = metered(Controller(*tables, gate), window=WINDOW, budget=budget)
    options = {"k": 6, "block": 200, "memory": 500} | options
    return answer_of(SelfControlledMemory(**options), text(), model, question=QUESTION)[1]


@pytest.mark.parametrize(
    ("raw", "summary", "kind"),
    [
        (False, False, "drop"), (False, True, "drop"), (False, None, "drop"),
        (True, False, "raw"), (True, True, "summary"), (True, None, "raw"),
        (None, False, "raw"), (None, True, "summary"), (None, None, "raw"),
    ],
)  # fmt: skip
def test_the_decision_table(raw: bool | None, summary: bool | None, kind: str) -> None:
    assert remembered(raw, summary) == kind


@pytest.mark.parametrize(("raw", "summary"), list(product(["yes", "no"], repeat=2)))
def test_the_table_is_what_stands_in_the_last_prompt(raw: str, summary: str) -> None:
    model = read(raw, summary)
    shown = last_prompt(model)
    assert "sea of zeta" in shown  # the best is never asked about
    others = [word for word in WORDS if word != "zeta"]
    whole = [word for word in others if f"sea of {word}" in shown]
    short = [word for word in others if f"Short {word}." in shown]
    if raw == "no":
        assert (whole, short) == ([], [])
    elif summary == "yes":
        assert (whole, short) == ([], others)
    else:  # all are to stay whole, which is too long: from the least similar on they are sentences
        assert whole and short and short + whole == others
    calls = {"raw verdict": 5, "summary": 0 if raw == "no" else 5, "summary verdict": 0 if raw == "no" else 5}
    for role, count in calls.items():
        assert sum(bool(re.fullmatch(rf"{role} \d of {count}", one)) for one in roles(model)) == count
    assert len(model.spans(shown)) <= 500 and len(model.trace.calls) == 1 + sum(calls.values())


def test_within_its_room_nothing_is_asked_about() -> None:
    model = read(raw="no", memory=5000, k=2)
    assert roles(model) == ["answer"]
    assert "sea of zeta" in last_prompt(model) and "sea of epsilon" in last_prompt(model)


def test_blocks_stand_in_the_order_of_the_text() -> None:
    verdicts = {"alpha": "yes", "beta": "no", "gamma": "yes", "delta": "no", "epsilon": "yes", "zeta": "yes"}
    shown = last_prompt(read(raw="yes", summary=verdicts, memory=700))
    places = [
        shown.find(f"{start} {word}") for word in WORDS for start in ("Block", "Short") if f"{start} {word}" in shown
    ]
    assert places == sorted(places) and len(places) >= 4


@pytest.mark.parametrize("gate", ["yes", "Yes.", "NO", "perhaps"])
def test_the_gate_is_asked_first_and_an_unclear_answer_reads_the_text(gate: str) -> None:
    assert "gate" not in roles(read(gate=gate, k=1))
    model = metered(Controller(dict.fromkeys(WORDS, "yes"), {}, gate), window=WINDOW)
    answer_of(SelfControlledMemory(gate=True, k=1), text(), model, question=QUESTION)
    needless = gate == "NO"
    assert roles(model) == ["gate", "answer"] and ("sea of" not in last_prompt(model)) == needless
    assert any("needs nothing of the text" in note for note in model.trace.notes) == needless


def test_verdicts_that_say_neither_keep_the_block_and_are_told() -> None:
    model = read(raw="perhaps", summary="well")
    assert any("5 of 5 verdicts (raw verdict) were neither" in note for note in model.trace.notes)
    assert "Short" in last_prompt(model)


@pytest.mark.parametrize("calls", [1, 2, 4, 9, 20])
def test_a_budget_of_calls_is_kept_and_the_last_prompt_fits(calls: int) -> None:
    model = read(budget=Budget(calls=calls))
    assert len(model.trace.calls) <= calls and roles(model)[-1] == "answer"
    assert len(model.spans(last_prompt(model))) <= 500
    assert "sea of zeta" in last_prompt(model)


@pytest.mark.parametrize("room", [10**6, 400, 150, 30, 0])
@pytest.mark.parametrize("sentence", ["S.", None, "longer than the block itself is " * 40])
def test_shortening_ends_whatever_there_is(room: int, sentence: str | None) -> None:
    """The paper's own code goes round for ever when all is sentences, or dropped."""
    model = metered(Talker(lambda prompt, again: sentence or " "))
    found = [Memory(Chunk("word " * 20, 100 * i, 20)) for i in range(6)]
    asyncio.run(shortened(model, found, lambda: len(joined(found)) <= room))
    fits = len(joined(found)) <= room
    assert fits or all(one.kind == "drop" for one in found[1:])
    kinds = [one.kind for one in found]
    if sentence == "S.":
        assert kinds == sorted(kinds, key=["raw", "summary", "drop"].index)
    if room == 10**6:
        assert kinds == ["raw"] * 6 and not model.trace.calls


def test_only_as_many_are_shortened_as_must_be() -> None:
    model = metered(Talker(lambda prompt, again: "S."))
    found = [Memory(Chunk("word " * 20, 100 * i, 20)) for i in range(6)]
    asyncio.run(shortened(model, found, lambda: len(joined(found)) <= 4 * 101))
    assert [one.kind for one in found] == ["raw"] * 3 + ["summary"] * 3 and len(model.trace.calls) == 3


def test_a_search_that_finds_no_word_says_so_unless_all_is_read() -> None:
    for k, size in ((3, 200), (99, 10**6)):
        model = metered(Controller(dict.fromkeys(WORDS, "yes"), dict.fromkeys(WORDS, "no")), window=WINDOW)
        answer_of(SelfControlledMemory(k=k, block=size), text() if k == 3 else text()[:300], model, question="Wer?")
        assert any("no part of the text has a word of the question" in note for note in model.trace.notes) == (k == 3)


def test_vectors_rank_as_words_do_where_they_are_the_same() -> None:
    model = metered(
        Controller({}, {}), window=WINDOW,
        embed=lambda texts: np.array([[one.count("whale"), 5.0] for one in texts], np.float32),
    )  # fmt: skip
    answer_of(SelfControlledMemory(k=1, block=200, by="vectors"), text(), model, question="whale " * 50)
    assert "sea of zeta" in last_prompt(model) and "sea of alpha" not in last_prompt(model)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("yes", True),
        ("No.", False),
        ("**Yes**, it does", True),
        ("maybe yes", None),
        ("none", None),
        ("Yes/No", None),
        ("yes or no", None),
        ("No doubt it helps", None),
        ("No doubt: yes", None),
        ("", None),
        (None, None),
    ],
)
def test_yes_or_no(said: str | None, expected: bool | None) -> None:
    assert yes_or_no(said) is expected
