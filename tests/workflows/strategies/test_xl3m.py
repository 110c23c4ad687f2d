"""The segments of which the model is surest are read, in the order of the text, and no others."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ropewalk.backends.chat.chat import Certainty, Failed, text_of
from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import chunks
from ropewalk.workflows.metered import Metered
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategies.xl3m import XL3M
from tests.talkers import Talker
from tests.workflows.readers import answer_of, metered, reading

ROOMS = "ABCDEFGHIJ"
WINDOW, ROOM, SEGMENT = 640, 64, 80
TEXT = "".join(f"Room {room} has the number {i}.\n" for room in ROOMS for i in range(4))


class Knows(Talker):
    """As sure as it is told of the room in a prompt: the first of ``surest`` most; answers nothing."""

    def __init__(self, surest: str = "", **more: Any):
        super().__init__(lambda prompt, again: "nothing", **more)
        self.surest, self.weighed = surest, list[str]()

    def certainty(self, prompt: Any) -> Certainty:
        self.weighed.append(text_of(prompt))
        (room,) = rooms_of(text_of(prompt))
        return Certainty(-0.1 * (1 + self.surest.index(room)) if room in self.surest else -5.0)


def rooms_of(text: str) -> str:
    """In the order in which they stand in a text."""
    return "".join(dict.fromkeys(re.findall(r"Room (\w) has", text)))


def segments():
    model = metered()
    return chunks(TEXT, model.spans(TEXT), SEGMENT)


def read_last(model: Metered) -> str:
    """The rooms that the last prompt has."""
    return rooms_of(next(call.prompt for call in model.trace.calls.values() if call.role == "answer"))


def test_the_text_of_these_tests_has_a_room_to_a_segment() -> None:
    assert [rooms_of(one.text) for one in segments()] == list(ROOMS)


@pytest.mark.parametrize("surest", ["IB", "BI", "JA", "CD", "FHEACDGBIJ"])
def test_the_surest_are_read_in_the_order_of_the_text_as_many_as_the_window_holds(surest: str) -> None:
    model = metered(Knows(surest), window=WINDOW)
    answer_of(XL3M(segment=SEGMENT), TEXT, model, room=ROOM)
    read = read_last(model)
    by_hand = surest + "".join(room for room in ROOMS if room not in surest)
    assert read == "".join(sorted(by_hand[: len(read)])) and 2 <= len(read) < len(ROOMS)
    last = next(call for call in model.trace.calls.values() if call.role == "answer")
    slack = SEGMENT + 16 * (len(read) + 2)
    assert WINDOW - slack < last.counted + ROOM <= WINDOW
    assert len(model.chat.weighed) == len(ROOMS) and model.trace.told()["calls"] == len(ROOMS) + 1


def test_weighing_is_side_by_side_and_costs_each_segment_once() -> None:
    model = metered(Knows(), window=WINDOW)
    answer_of(XL3M(segment=SEGMENT), TEXT, model, room=ROOM)
    calls = [call for call in model.trace.calls.values() if call.role != "answer"]
    (last,) = (call for call in model.trace.calls.values() if call.role == "answer")
    assert all(call.after == () for call in calls) and set(last.after) == {call.number for call in calls}
    bare = model.count(reading("").last("", "parts of a text that is longer"))
    text = len(model.spans(TEXT))
    assert sum(call.tokens for call in calls) == pytest.approx(text + len(calls) * bare, abs=2 * len(calls))
    assert all(call.completion_tokens == 0 for call in calls)


def test_a_text_of_one_segment_is_a_plain_call() -> None:
    model = metered(Knows())
    answer_of(XL3M(), "Room A has the number 1.", model)
    (call,) = model.trace.calls.values()
    assert call.role == "answer" and call.prompt == reading("").last("Room A has the number 1.", "the text")


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_second_round_weighs_behind_the_first_answer(rounds: int) -> None:
    """The room of the second hop is found only by what the first answer says."""

    class Hops(Knows):
        def certainty(self, prompt: Any) -> Certainty:
            self.surest = "I" if "It is Ida." in text_of(prompt) else "D"
            return super().certainty(prompt)

    model = metered(Hops(), window=WINDOW)
    model.chat.say = lambda prompt, again: "It is Ida." if "D" in rooms_of(prompt) else "nothing"
    answer_of(XL3M(segment=SEGMENT, rounds=rounds), TEXT, model, room=ROOM)
    assert ("I" in read_last(model)) == (rounds == 2)
    assert len(model.chat.weighed) == rounds * len(ROOMS)
    assert model.trace.told()["calls"] == rounds * (len(ROOMS) + 1)


def test_ends_are_kept_however_sure_it_is() -> None:
    model = metered(Knows("EFGH"), window=WINDOW)
    answer_of(XL3M(segment=SEGMENT, ends=True), TEXT, model, room=ROOM)
    assert read_last(model)[0] == "A" and read_last(model)[-1] == "J" and "E" in read_last(model)


@pytest.mark.parametrize("rounds", [1, 2])
def test_what_the_budget_does_not_weigh_is_read_last(rounds: int) -> None:
    model = metered(Knows("AE"), window=WINDOW, budget=Budget(tokens=WINDOW + rounds * 900))
    answer_of(XL3M(segment=SEGMENT, rounds=rounds), TEXT, model, room=ROOM)
    weighed = {rooms_of(prompt) for prompt in model.chat.weighed}
    assert 0 < len(weighed) < len(ROOMS) and "E" not in weighed and {*read_last(model)} <= weighed
    assert any("were not weighed" in note for note in model.trace.notes)


def test_where_no_segment_is_weighed_nothing_is_passed_off_as_weighed() -> None:
    class Refuses(Knows):
        def certainty(self, prompt: Any) -> Certainty:
            raise Failed("code 400", final=True)

    with pytest.raises(UserError, match="10 segments were to be weighed, and none was"):
        answer_of(XL3M(segment=SEGMENT), TEXT, metered(Refuses(), window=WINDOW), room=ROOM)


def test_a_segment_that_is_not_weighed_comes_last_and_that_is_said() -> None:
    class Falters(Knows):
        def certainty(self, prompt: Any) -> Certainty:
            if "B" in rooms_of(text_of(prompt)):
                raise Failed("code 400", final=True)
            return super().certainty(prompt)

    model = metered(Falters("BCD"), window=WINDOW)
    answer_of(XL3M(segment=SEGMENT), TEXT, model, room=ROOM)
    assert "B" not in read_last(model) and {*"CD"} <= {*read_last(model)}
    assert model.trace.notes == ["segment 2 of 10, round 1: no answer (code 400)"]
