"""A coroutine gives its result with and without a loop around it."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.common.coroutines import finished


async def doubled(n: int) -> int:
    await asyncio.sleep(0)
    if n < 0:
        raise ValueError(f"{n} is negative")
    return 2 * n


async def around(n: int) -> int:
    return finished(doubled(n))  # as a notebook's cell does


def test_the_result_is_that_of_await() -> None:
    assert finished(doubled(2)) == asyncio.run(around(2)) == 4


def test_what_it_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        finished(doubled(-1))
    with pytest.raises(ValueError, match="-1 is negative"):
        asyncio.run(around(-1))
