"""A judge's verdicts are read strictly; what cannot be read does not count, and is told."""

from __future__ import annotations

import asyncio
import re

import pytest

from ropewalk.workflows.coherence import ERRORS, Coherence, coherence, errors_in
from ropewalk.workflows.metered import Budget
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
