from __future__ import annotations

import pytest
from rich import console

from ropewalk.common import progress
from ropewalk.common.progress import Pace, Progress, shown


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


def test_the_rest_is_told_by_the_pace_of_late() -> None:
    """Rounds of 20 candidates, read by 2 workers in 60 seconds each, after 500 that an earlier run kept."""
    pace, told = Pace(), {}
    pace.left(0, 0, 700)
    for done in range(1, 501):
        pace.left(done / 1000, done, 700)
    for burst in range(1, 10):
        for one in range(20):
            told[burst] = pace.left(60 * burst + one / 1000, 501 + 20 * (burst - 1) + one, 700)
    assert pace.left(1e9, 3, 0) is None and Pace().left(5, 0, 10) is None
    for burst, seconds in told.items():
        assert seconds == pytest.approx(60 * (10 - burst), rel=0.34), f"after {burst} rounds"
    assert told[9] == pytest.approx(60, rel=0.1)


def test_what_comes_behind_other_work_is_told_by_its_own_pace() -> None:
    pace = Pace()
    for second in range(100):
        pace.left(second, 1000 * second, 10**5)
    assert pace.left(100, 10, 500) is None
    for second in range(101, 111):
        left = pace.left(second, 10 * (second - 99), 500)
    assert left == pytest.approx((500 - 110) / 10)


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
