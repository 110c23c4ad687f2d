from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks.locomo import LOCOMO
from tests.tasks.benchmarks.files import json_list, refused, table

SAMPLE: dict[str, Any] = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Bob",
        "session_10": [{"speaker": "Bob", "dia_id": "D10:1", "text": "", "blip_caption": "a red boat"}],
        "session_10_date_time": "9 May 2023",
        "session_2": [{"speaker": "Ann", "dia_id": "D2:1", "text": "I ran and swam."}],
        "session_2_date_time": "8 May 2023",
    },
    "qa": [
        {"question": "What did she do?", "answer": "running, swimming", "category": 1, "evidence": ["D2:1"]},
        {"question": "When?", "answer": 2023, "category": 2, "evidence": []},
        {"question": "Would she like water?", "answer": "Yes; she swims", "category": 3, "evidence": []},
        {"question": "Who has a boat?", "answer": "Bob", "category": 4, "evidence": ["D10:1"]},
        {"question": "Who has a plane?", "adversarial_answer": "Bob", "category": 5, "evidence": ["D10:1"]},
    ],
}


def test_the_dialogue_stands_in_the_order_of_its_sessions(tmp_path: Path) -> None:
    questions = LOCOMO.load(json_list(tmp_path, "locomo10", [SAMPLE]))
    assert questions[0].context == (
        "Session 2, 8 May 2023\nAnn: I ran and swam.\n\nSession 10, 9 May 2023\nBob:  [shares a picture: a red boat]"
    )
    assert len({q.context for q in questions}) == 1 and len({q.id for q in questions}) == 5
    assert questions[2].references == ("Yes",) and questions[1].references == ("2023",)
    assert "Give a date" in questions[1].after and "Give a date" not in questions[0].after


def test_answers_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("nltk")
    listed, date, _, single, unanswerable = LOCOMO.load(json_list(tmp_path, "locomo10", [SAMPLE]))
    assert LOCOMO.score("swims, running fast", listed) == pytest.approx((1 + 2 / 3) / 2)
    assert LOCOMO.score("run", listed) == 0.5
    assert LOCOMO.score("In 2023", date) == pytest.approx(2 / 3)
    assert LOCOMO.score("Bob and the bob", single) == pytest.approx(2 / 3)
    assert LOCOMO.score("It is Not Mentioned.", unanswerable) == 1.0 and LOCOMO.score("Bob", unanswerable) == 0.0


def test_always_refusing_does_not_help_the_overall_mean(tmp_path: Path) -> None:
    questions = LOCOMO.load(json_list(tmp_path, "locomo10", [SAMPLE]))
    reported = table(LOCOMO, questions, [1.0, 0.0, 0.0, 0.0, 1.0])
    assert reported["unanswerable"] == 100.0 and reported["answerable"] == 25.0
    chosen = LOCOMO.load(tmp_path / "locomo10.json", ["temporal"])
    assert [q.subset for q in chosen] == ["temporal"]
    with pytest.raises(UserError, match="no subset 'time'"):
        LOCOMO.load(tmp_path / "locomo10.json", ["time"])


def _without(sample: dict[str, Any], *path: Any) -> dict[str, Any]:
    sample = copy.deepcopy(sample)
    inner: Any = sample
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return sample


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("qa", 3, "answer"), ['qa[3]: no "answer"']),
        (("qa", 0, "category"), ['qa[0]: no "category"']),
        (("conversation", "session_2_date_time"), ['conversation: no "session_2_date_time"']),
        (("conversation", "session_2", 0, "speaker"), ['session_2[0]: no "speaker"']),
        (("conversation", "session_2", 0, "text"), ['session_2[0]: no "text"']),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, path: tuple[Any, ...], words: list[str]) -> None:
    refused(LOCOMO, json_list(tmp_path, "locomo10", [SAMPLE, _without(SAMPLE, *path)]), "locomo10.json:", *words)


def test_a_conversation_without_sessions_is_refused(tmp_path: Path) -> None:
    empty = SAMPLE | {"conversation": {"speaker_a": "Ann"}}
    refused(LOCOMO, json_list(tmp_path, "locomo10", [empty]), "locomo10.json:2", 'no "session_1"')
