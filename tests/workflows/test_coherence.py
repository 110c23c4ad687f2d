"""A judge's verdicts are read strictly; what cannot be read does not count, and is told."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from ropewalk.workflows.answered import asked_of, read_text
from ropewalk.workflows.coherence import ERRORS, Coherence, coherence, errors_in
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategies.full_window import FullWindow
from tests.talkers import Talker
from tests.workflows.readers import metered

SUMMARY = "Ann meets Bo. She leaves him. Bo is sad. Bo is sad again! Then the bomb goes off."
SAID = {"Ann meets Bo.": "none", "She leaves him.": "Causal omission, language.", "Bo is sad.": "I think it is fine",
        "Bo is sad again!": "duplication", "Then the bomb goes off.": "None."}  # fmt: skip


def judge(prompt: str, again: int) -> str:
    match = re.search(r"One sentence of it:\n(.+)\n", prompt)
    assert match and SUMMARY in prompt and all(kind in prompt for kind in ERRORS)
    return SAID[match[1]]


def test_the_share_of_judged_sentences_without_an_error() -> None:
    model = metered(Talker(judge))
    found = asyncio.run(coherence(model, SUMMARY))
    assert found.verdicts == ((), ("causal omission", "language"), None, ("duplication",), ())
    assert (found.score, found.judged, found.unread) == (0.5, 4, 1)
    assert str(found) == "0.500: 2 of 4 sentences without an error, 1 not judged"
    assert sorted(call.role for call in model.trace.calls.values()) == [f"judge {i} of 5" for i in range(1, 6)]
    assert {call.after for call in model.trace.calls.values()} == {()}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("none", ()),
        ('"None".', ()),
        ("- salience\n- Entity  omission", ("entity omission", "salience")),
        ("salience; salience", ("salience",)),
        ("none, salience", None),
        ("salience and language", None),
        ("no errors", None),
        ("", None),
        (None, None),
    ],
)
def test_anything_but_a_list_of_types_is_not_read(said: str | None, expected: tuple[str, ...] | None) -> None:
    assert errors_in(said) == expected


def test_without_a_verdict_there_is_no_score() -> None:
    assert Coherence((None, None)).score is None and Coherence(()).score is None
    assert str(Coherence((None,))) == "none: 0 of 0 sentences without an error, 1 not judged"


def test_a_budget_ends_the_judging_and_what_was_not_judged_is_told() -> None:
    model = metered(Talker(judge), budget=Budget(calls=3))
    found = asyncio.run(coherence(model, SUMMARY))
    assert found.judged == 2 and found.unread == 3 and model.trace.notes


def test_an_answer_that_the_window_does_not_hold_is_not_judged_and_not_lost() -> None:
    model = metered(Talker(judge), window=200)
    found = asyncio.run(coherence(model, SUMMARY))
    assert found.score is None and found.unread == 5 and not model.trace.calls
    assert model.trace.notes == ["the answer was not judged: with the types of error it is longer than the window"]


def test_it_is_part_of_an_answer_where_it_is_asked_for(tmp_path: Path) -> None:
    def say(prompt: str, again: int) -> str:
        return judge(prompt, again) if "Errors:" in prompt else SUMMARY

    found = read_text(FullWindow(), asked_of("A text.", "Summarise it.", 64), metered(Talker(say)), ["a"], scored=True)
    assert found.coherence is not None and found.coherence.score == 0.5
    assert len(found.calls) == 6 and [call["after"] for call in found.calls[1:]] == [(0,)] * 5
    found.write(tmp_path)
    told = json.loads((tmp_path / "trace.json").read_text())
    assert told["score"] == 0.5 and told["coherence"]["verdicts"][1] == ["causal omission", "language"]
    page = (tmp_path / "report.html").read_text()
    assert "0.500" in page and "2 of 4 sentences without an error, 1 not judged" in page
    plain = read_text(FullWindow(), asked_of("A text.", "Summarise it.", 64), metered(Talker(say)), ["a"])
    assert plain.coherence is None and "score" not in plain.to_dict() and len(plain.calls) == 1
