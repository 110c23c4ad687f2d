"""Calls are counted, bounded, kept and asked again; what is not to be believed is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ropewalk.backends.chat.chat import Answer, Beginning, Certainty, Failed, Turns, Usage, rendered
from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore
from ropewalk.workflows.metered import Budget, Metered
from ropewalk.workflows.trace import together
from tests.talkers import Talker
from tests.workflows.readers import metered


def ask(model: Metered, prompt: Any = "What?", room: int = 32, last: bool = False) -> str | None:
    return asyncio.run(model.ask(prompt, room, "reader", last))


def says(text: str, **more: Any) -> Talker:
    return Talker(lambda prompt, again: text, **more)


def test_a_call_is_counted_by_our_own_tokens() -> None:
    model = metered(says("Well then."))
    assert ask(model) == "Well then."
    (call,) = model.trace.calls.values()
    assert call.prompt_tokens == len(rendered("What?", model.tokenizer)) and call.tries == 1
    assert call.completion_tokens == len(model.tokenizer("Well then.", add_special_tokens=False).input_ids)


@pytest.mark.parametrize("prompt", ["What?", Turns(("What?", "That.", "Why?")), Beginning("It is")])
def test_what_was_answered_is_not_asked_again(tmp_path: Path, prompt: Any) -> None:
    with SampleStore(tmp_path / "kept.sqlite") as records:
        first = metered(says("Yes."), records=records)
        assert ask(first, prompt) == "Yes."
    with SampleStore(tmp_path / "kept.sqlite") as records:
        talker = says("No.")
        again = metered(talker, records=records)
        assert ask(again, prompt) == "Yes." and talker.prompts == []
    (call,), (before,) = again.trace.calls.values(), first.trace.calls.values()
    assert call.kept and not before.kept and (call.tokens, call.seconds) == (before.tokens, before.seconds)


def test_prompts_of_other_kinds_are_other_prompts() -> None:
    talker = says("Yes.")
    model = metered(talker)
    for prompt in ("a\n\nb\n\nc", Turns(("a", "b", "c")), Beginning("a\n\nb\n\nc")):
        ask(model, prompt)
    assert len(talker.prompts) == 3


def test_equal_calls_side_by_side_are_asked_once() -> None:
    talker = says("Yes.")
    model = metered(talker)

    async def twice() -> list[str | None]:
        return await asyncio.gather(*(model.ask("What?", 8, "reader") for _ in range(3)))

    assert asyncio.run(twice()) == ["Yes."] * 3 and len(talker.prompts) == 1
    assert [call.kept for call in model.trace.calls.values()] == [False, True, True]


def test_another_answer_is_drawn_only_where_answers_vary() -> None:
    talker = Talker(lambda prompt, again: f"Number {again}.")
    model = metered(talker)
    said = [asyncio.run(model.ask("What?", 8, "reader", draw=draw)) for draw in (0, 1, 2, 1)]
    assert said == ["Number 0.", "Number 4.", "Number 8.", "Number 4."] and len(talker.prompts) == 3
    talker.varies = False
    with pytest.raises(UserError, match="always gives the same"):
        asyncio.run(model.ask("What?", 8, "reader", draw=1))


def test_failures_are_asked_again_and_a_server_that_is_away_ends_it() -> None:
    model = metered(says("Yes.", fails=2))
    assert ask(model) == "Yes."
    assert next(iter(model.trace.calls.values())).tries == 3
    with pytest.raises(UserError, match="failed 4 times in turn: code 500"):
        ask(metered(says("Yes.", fails=4)))


def test_a_refusal_is_noted_and_the_last_one_is_an_error() -> None:
    class Refuses(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Answer:
            raise Failed("code 400", "not that", final=True)

    model = metered(Refuses(lambda prompt, again: ""))
    assert ask(model) is None
    assert model.trace.notes == ["reader: no answer (code 400)"]
    with pytest.raises(UserError, match="gave no last answer: code 400"):
        ask(model, last=True)


def test_nothing_is_drawn_again_until_it_says_something() -> None:
    model = metered(Talker(lambda prompt, again: "  " if again < 2 else "Yes."))
    assert ask(model) == "Yes."
    assert next(iter(model.trace.calls.values())).tries == 3
    silent = metered(says(" "))
    assert ask(silent) is None and silent.trace.notes == ["reader: no answer (empty)"]


def test_what_is_read_again_has_no_more_tokens_than_it_may() -> None:
    """Halves of characters that a model writes are three bytes each when they are read again."""

    class Halves(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Answer:
            return Answer("\ufffd" * room, True, Usage(len(rendered(asked, self.tokenizer)), 0, room))

    model = metered(Halves(lambda prompt, again: ""))
    said = ask(model, room=32)
    assert said and set(said) == {"\ufffd"}
    assert len(model.tokenizer(said, add_special_tokens=False).input_ids) <= 32
    assert len(ask(model, room=32, last=True) or "") == 32, "the answer itself is not cut"


def test_a_server_that_cuts_prompts_is_refused() -> None:
    with pytest.raises(UserError, match="it cut the prompt") as caught:
        ask(metered(says("Yes.", reads=40)), "word " * 100)
    assert "--window 40" in caught.value.mend


@pytest.mark.parametrize("usage", [Usage(0, 0, 10**9), Usage(10**6, 0, 1), None])
def test_what_cannot_be_is_not_believed(usage: Usage | None) -> None:
    if usage is not None and usage.prompt == 0:
        usage = Usage(10, 0, 10**9)
    model = metered(says("Yes.", usage=lambda true: usage))
    assert ask(model, "a b c") == "Yes."
    assert next(iter(model.trace.calls.values())).completion_tokens < 10


def test_no_call_is_longer_than_the_window() -> None:
    with pytest.raises(UserError, match="where the window has 64"):
        ask(metered(window=64), "word " * 100)


def test_thoughts_are_left_out_and_have_room() -> None:
    rooms = []

    class Thinks(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Answer:
            rooms.append(room)
            return super().answer(asked, room, again)

    model = metered(Thinks(lambda prompt, again: "<think>well, well</think> Yes."), thinks=100)
    assert ask(model) == "Yes." and rooms == [132] and model.window == 1024 - 100
    unfinished = metered(says("<think>well"))
    assert ask(unfinished) is None


@pytest.mark.parametrize("tokens", [1100, 1500, 2500, 10**6])
def test_a_budget_of_tokens_is_never_overdrawn_and_leaves_the_last_answer(tokens: int) -> None:
    model = metered(says("word " * 20), budget=Budget(tokens))
    found = [ask(model, f"What {i}?", 40) for i in range(90)]
    last = ask(model, "word " * 150, 128, last=True)
    assert last and model.trace.tokens <= tokens
    spent = found.index(None) if None in found else 90
    assert all(one is None for one in found[spent:]) and (spent == 90) == (tokens == 10**6)


def test_a_budget_of_calls_counts_tries() -> None:
    talker = says("Yes.", fails=1)
    model = metered(talker, budget=Budget(calls=5))
    assert [ask(model, f"What {i}?") for i in range(4)] == ["Yes.", "Yes.", None, None]
    assert len(talker.prompts) == 4
    with pytest.raises(UserError, match="and the budget is spent"):
        ask(model, "And now?", last=True)
    assert len(talker.prompts) == 5


def test_a_budget_without_room_for_the_answer_is_refused() -> None:
    with pytest.raises(UserError, match="does not hold the last answer"):
        metered(budget=Budget(1000))


def test_many_calls_run_side_by_side_and_no_more_than_may() -> None:
    import threading
    import time

    class Slow(Talker):
        now, most = 0, 0
        lock = threading.Lock()

        def answer(self, asked: Any, room: int, again: int) -> Answer:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.05)
            with self.lock:
                self.now -= 1
            return super().answer(asked, room, again)

    talker = Slow(lambda prompt, again: "Yes.")
    model = metered(talker)

    async def all_of_them() -> None:
        await asyncio.gather(*(model.ask(f"What {i}?", 8, "reader") for i in range(12)))

    asyncio.run(all_of_them())
    assert 1 < talker.most <= talker.workers


class Sure(Talker):
    """Is as sure as told, after some failures; counts how often it is asked."""

    def __init__(self, *sure: Certainty, **more: Any):
        super().__init__(lambda prompt, again: "Yes.", **more)
        self.sure, self.asked = list(sure), 0

    def certainty(self, prompt: Any) -> Certainty:
        self.asked += 1
        if self.asked <= self.fails:
            raise Failed("code 500")
        return self.sure[(self.asked - self.fails - 1) % len(self.sure)]


def certainty(model: Metered, prompt: Any = "What?") -> float | None:
    return asyncio.run(model.certainty(prompt, "segment"))


def test_a_certainty_is_kept_to_the_last_digit_and_costs_its_prompt(tmp_path: Path) -> None:
    nats = -0.1234567890123456789
    with SampleStore(tmp_path / "kept.sqlite") as records:
        first = metered(Sure(Certainty(nats)), records=records)
        assert certainty(first) == nats
    with SampleStore(tmp_path / "kept.sqlite") as records:
        again = metered(Sure(Certainty(-9.0)), records=records)
        assert certainty(again) == nats and again.chat.asked == 0
    (call,), (before,) = again.trace.calls.values(), first.trace.calls.values()
    assert call.tokens == before.tokens == before.counted == first.count("What?") and call.answer == "-0.1235 nats"
    assert not first.trace.notes


def test_a_certainty_that_fails_is_asked_again_and_one_that_is_a_bound_is_said() -> None:
    model = metered(Sure(Certainty(-1.0, told=0.8), fails=2))
    assert certainty(model) == -1.0 and next(iter(model.trace.calls.values())).tries == 3
    assert model.trace.notes == ["some certainties are upper bounds: talker told less than 90% of a probability"]
    with pytest.raises(UserError, match="failed 4 times in turn: code 500"):
        certainty(metered(Sure(Certainty(-1.0), fails=4)))


def test_a_certainty_of_a_cut_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="it cut the prompt"):
        certainty(metered(Sure(Certainty(-1.0, usage=Usage(40, 0, 1)))), "word " * 100)


def test_who_tells_no_certainty_or_thinks_first_is_refused() -> None:
    with pytest.raises(UserError, match="tells no probabilities"):
        certainty(metered(says("Yes.")))
    with pytest.raises(UserError, match="always sure of its first token"):
        certainty(metered(Sure(Certainty(-1.0)), thinks=100))


def test_the_same_prompt_at_the_same_time_is_asked_once() -> None:
    talker = says("Yes.")
    model = metered(talker)

    async def twice() -> list[str | None]:
        return await asyncio.gather(*(model.ask("What?", 8, "reader") for _ in range(2)))

    assert asyncio.run(twice()) == ["Yes.", "Yes."] and len(talker.prompts) == 1
    assert model.trace.told()["calls"] == 2 and model.trace.tokens == 2 * next(iter(model.trace.calls.values())).tokens


def lost(n: int) -> type[Talker]:
    """Answers the first ``n`` calls, and loses the connection under the answers."""

    class Loses(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Answer:
            answer = super().answer(asked, room, again)
            if len(self.prompts) <= n:
                raise Failed("connection lost")
            return answer

    return Loses


def test_an_answer_that_was_lost_costs_its_longest() -> None:
    model = metered(lost(2)(lambda prompt, again: "Yes."), budget=Budget(10_000))
    assert ask(model, "What?", 40) == "Yes."
    (call,) = model.trace.calls.values()
    assert call.tries == 3 and call.tokens == 3 * call.counted + 2 * 40 + len(model.spans("Yes."))
    assert model._spent.tokens == call.tokens


def test_less_than_was_written_is_not_believed() -> None:
    model = metered(says("word " * 20, usage=lambda true: Usage(true.prompt, 0, 0)))
    ask(model, "What?", 64)
    assert next(iter(model.trace.calls.values())).completion_tokens >= 20


def test_a_text_that_is_gone_on_with_has_no_thoughts() -> None:
    assert ask(metered(says("so</think> 27")), Beginning("It is")) == "so</think> 27"
    assert ask(metered(says("so</think> 27")), "It is?") == "27"


def test_what_is_of_no_use_is_not_kept(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "kept.sqlite") as records:
        with pytest.raises(UserError, match="it cut the prompt"):
            ask(metered(says("Yes.", reads=40), records=records), "word " * 100)
        assert ask(metered(says(" "), records=records)) is None
        talker = says("Yes.")
        assert ask(metered(talker, records=records), "word " * 100) == ask(metered(talker, records=records)) == "Yes."
    assert len(talker.prompts) == 2


def test_calls_under_way_are_kept_where_another_one_ends_the_run(tmp_path: Path) -> None:
    import threading

    asked = threading.Barrier(3)

    class Ends(Talker):
        def answer(self, asked_: Any, room: int, again: int) -> Answer:
            asked.wait(10)
            if "1" in str(asked_):
                raise UserError("refuses with 403")
            return super().answer(asked_, room, again)

    async def three(model: Metered) -> Any:
        return await together(*(model.ask(f"What {i}?", 8, "reader") for i in range(3)))

    with SampleStore(tmp_path / "kept.sqlite") as records:
        with pytest.raises(UserError, match="403"):
            asyncio.run(three(metered(Ends(lambda prompt, again: "Yes."), records=records)))
        talker = says("Yes.")
        assert asyncio.run(three(metered(talker, records=records))) == ["Yes."] * 3
    assert talker.prompts == ["What 1?"]


def test_a_call_that_is_not_made_is_none_that_others_wait_for() -> None:
    model = metered(says("Yes."), budget=Budget(calls=2))

    async def chain() -> None:
        assert await model.ask("One?", 8, "first") and await model.ask("Two?", 8, "second") is None
        assert await model.ask("Three?", 8, "last", last=True)

    asyncio.run(chain())
    assert [call.role for call in model.trace.critical_path] == ["first", "last"]
