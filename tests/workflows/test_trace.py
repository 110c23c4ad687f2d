"""The graph of calls is that of the strategy, and its longest chain is found."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.workflows.trace import Call, Trace, together


async def call(trace: Trace, role: str, seconds: float, delay: float = 0.0) -> None:
    number, after = trace.begin()
    await asyncio.sleep(delay)
    trace.end(Call(number, role, after, "", 1, seconds=seconds))


def graph(trace: Trace) -> dict[str, set[str]]:
    names = {number: one.role for number, one in trace.calls.items()}
    return {one.role: {names[number] for number in one.after} for one in trace.calls.values()}


def test_calls_wait_for_those_before_and_for_all_that_ran_together() -> None:
    trace = Trace()

    async def chain(name: str, *seconds: float) -> None:
        for i, one in enumerate(seconds):
            await call(trace, f"{name}{i}", one, delay=0.001 * (name == "a"))

    async def work() -> None:
        await call(trace, "first", 1.0)
        await together(chain("a", 2.0, 2.0), chain("b", 5.0), chain("c"))
        await call(trace, "last", 1.0)

    asyncio.run(work())
    assert graph(trace) == {
        "first": set(), "a0": {"first"}, "a1": {"a0"}, "b0": {"first"}, "last": {"a1", "b0", "first"},
    }  # fmt: skip
    assert [one.role for one in trace.critical_path] == ["first", "b0", "last"]
    assert trace.told()["seconds of the critical path"] == 7.0 and trace.told()["seconds of calls"] == 11.0


def test_what_one_raises_is_raised_when_the_others_came_to_their_ends() -> None:
    ended = []

    async def waits() -> None:
        await asyncio.sleep(0.05)
        ended.append(True)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(together(waits(), fails()))
    assert ended == [True]


def test_nothing_has_no_chain() -> None:
    assert Trace().critical_path == [] and Trace().told()["calls"] == 0


def test_a_call_that_an_equal_one_paid_for_makes_no_chain_longer_and_is_counted_apart() -> None:
    trace = Trace()
    trace.end(Call(0, "asked", (), "", 1, "yes", tries=2, prompt_tokens=9, seconds=1.0))
    trace.end(Call(1, "repeated", (0,), "", 1, "yes", kept=True))
    trace.end(Call(2, "kept", (1,), "", 1, "yes", tries=1, prompt_tokens=4, completion_tokens=1, kept=True))
    trace.end(Call(3, "repeated", (2,), "", 1, "yes", kept=True))
    told = trace.told()
    assert (told["calls"], told["kept calls"], told["repeated calls"], told["tries"]) == (2, 1, 2, 3)
    assert trace.tokens == 14 and trace.longest_chain == told["calls of the critical path"] == 2
    assert [one.number for one in trace.critical_path] == [0, 1, 2, 3], "of chains as long, the one that ends last"
