"""Results in order whoever is first, and nobody who waits for what never ends."""

from __future__ import annotations

import threading
import time

import pytest

from ropewalk.backends.chat.side_by_side import LEAVING, side_by_side


@pytest.mark.parametrize("workers", [1, 3, 50])
def test_results_come_in_the_order_of_items(workers: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    with side_by_side(work, range(20), workers, threading.Event()) as results:
        assert list(results) == [i * i for i in range(20)]


def test_they_work_at_the_same_time_and_a_single_one_is_this_thread() -> None:
    together = threading.Barrier(4, timeout=10)
    with side_by_side(lambda _: together.wait(), range(8), 4, threading.Event()) as results:
        assert sorted(results) == [0, 0, 1, 1, 2, 2, 3, 3]
    with side_by_side(lambda _: threading.current_thread(), range(2), 1, threading.Event()) as results:
        assert {*results} == {threading.current_thread()}


@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_raised_ends_it_and_nothing_more_is_begun(workers: int) -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise KeyboardInterrupt
        if item > 2:
            stop.wait(60)

    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt), side_by_side(work, range(40), workers, stop) as results:
        assert not list(results)
    assert stop.is_set() and 3 <= len(begun) <= 3 + workers


def test_nobody_waits_for_work_that_does_not_end() -> None:
    never, stop = threading.Event(), threading.Event()
    began = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        side_by_side(lambda item: item and never.wait(60), [0, 1, 2], 2, stop) as some,
    ):
        assert next(some) == 0
        raise KeyboardInterrupt
    assert time.monotonic() - began < LEAVING + 5
    assert all(one.daemon for one in threading.enumerate() if one is not threading.main_thread() and one.is_alive())
    never.set()
