from __future__ import annotations

import pytest
from rich import console

from ropewalk.common import progress
from ropewalk.common.progress import Progress, shown


def test_without_a_terminal_there_is_a_line_now_and_then(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with shown() as update:
        update(Progress(0, 0, "opening [/b] demo"))
        for done in range(1, 12):
            now += 1
            update(Progress(done, 11, f"yarn at {done}"))
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("opening [/b] demo  (0:00"), "text from outside is no markup"
    assert [line.split()[0] for line in said[1:]] == ["5/11", "10/11", "11/11"], "every five seconds, and at the end"
    assert "yarn at 10" in said[-2] and said[-2].endswith(("left)", "(0:00)"))


def test_a_terminal_sees_one_line_that_moves(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.Console, "is_terminal", True)
    with shown() as update:
        update(Progress(0, 0, "opening [/b] demo"))
        update(Progress(3, 7, "yarn at 512"))
    said = capsys.readouterr().err
    assert "3/7" in said and "yarn at 512" in said and "\n3/7" not in said


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (62.5, "1:02"), (3600 * 30 + 61, "30:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert progress._clock(seconds) == text
