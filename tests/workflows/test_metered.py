"""Calls are counted, bounded, kept and asked again; what is not to be believed is refused."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.backends.chat.chat import Answer, Beginning, Certainty, Failed, Turns, Usage, rendered
from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore
from ropewalk.workflows.metered import BEYOND, UNBELIEVED, Metered
from ropewalk.workflows.spending import Budget
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
    with pytest.raises(UserError, match="failed 4 times: code 500"):
        ask(metered(says("Yes.", fails=4)), last=True)


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


@pytest.mark.parametrize("usage", [Usage(10, 0, 10**9), Usage(10**9, 0, 1), Usage(0, 0, 0), None])
def test_what_cannot_be_is_not_believed_and_that_is_said(usage: Usage | None) -> None:
    model = metered(says("Yes.", usage=lambda true: usage))
    assert ask(model, "a b c") == "Yes."
    (call,) = model.trace.calls.values()
    assert call.tokens == call.counted + len(model.spans("Yes.")) and call.tries == 1
    assert model.trace.notes == ([UNBELIEVED] if usage else [])
    assert call.billed_tokens == (usage.prompt + usage.completion if usage else 0)


def test_no_call_is_longer_than_the_window() -> None:
    with pytest.raises(UserError, match="where the window has 64"):
        ask(metered(window=64), "word " * 100)


def test_what_is_written_beyond_the_room_counts_as_the_server_says() -> None:
    """Models that think out of sight are billed for it."""
    model = metered(says("Yes.", usage=lambda true: Usage(true.prompt, 0, 1500)), budget=Budget(10_000))
    assert ask(model, "What?", 32) == "Yes."
    (call,) = model.trace.calls.values()
    assert call.tokens == call.billed_tokens == model._spent.tokens == call.counted + 1500 and not model.trace.notes


def test_what_is_read_far_beyond_a_prompt_counts_and_is_told() -> None:
    model = metered(says("Yes.", usage=lambda true: Usage(90_000, 0, 5)))
    assert ask(model) == "Yes." and model.trace.notes == [BEYOND]
    assert model.trace.told()["prompt tokens"] == 90_000


class Bills(Talker):
    """Bills prompts ``times`` and ``more``, and counts what it bills."""

    def __init__(self, times: float, more: int = 0):
        super().__init__(lambda prompt, again: "word " * 20)
        self.times, self.more, self.billed = times, more, 0

    def answer(self, asked: Any, room: int, again: int) -> Answer:
        answer = super().answer(asked, room, again)
        assert answer.usage
        usage = Usage(int(answer.usage.prompt * self.times) + self.more, 0, answer.usage.completion)
        with self._lock:
            self.billed += usage.prompt + usage.completion
        return Answer(answer.text, answer.cut, usage)


@pytest.mark.parametrize("talker", [Bills(1.0), Bills(1.9), Bills(1.0, 400)], ids=["honest", "times", "more"])
def test_a_budget_holds_what_a_server_bills(talker: Bills) -> None:
    """Of prompts side by side, the first goes alone; what it took beyond our count is set aside for the others."""
    model = metered(talker, budget=Budget(6000))

    async def many() -> list[str | None]:
        return await together(*(model.ask(f"What {i}? " + "word " * 100, 40, "reader") for i in range(40)))

    found = asyncio.run(many())
    assert found[0] and not all(found)
    assert ask(model, "word " * 150, 128, last=True)
    assert model.trace.tokens == talker.billed <= 6000 and not any("overdrawn" in one for one in model.trace.notes)


def test_a_last_answer_that_we_count_as_paid_for_is_asked_for_and_the_overdraft_is_said() -> None:
    """What a server bills for a first call cannot be known before."""
    model = metered(Bills(1.0, 1200), budget=Budget(2000))
    assert ask(model, "word " * 60, 32)
    assert ask(model, "Why?", 32) is None
    assert ask(model, "What?", 32, last=True)
    assert model.trace.tokens > 2000 and [one for one in model.trace.notes if "overdrawn" in one]


def test_a_bill_that_does_not_count_is_told() -> None:
    model = metered(Bills(1.9), budget=Budget(2000), bills=False)
    assert ask(model, "word " * 60, 32)
    (call,) = model.trace.calls.values()
    assert call.prompt_tokens == call.counted and call.completion_tokens == 32
    assert call.billed_tokens == model.chat.billed > 1.5 * call.tokens  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("said", "thinks", "taken"),
    [
        ("The tag is </think>, as in Qwen.", 0, "The tag is </think>, as in Qwen."),
        ("</think>", 0, "</think>"),
        ("<think>well</think> The tag is </think>.", 0, "The tag is </think>."),
        ("well, well</think> 27", 100, "27"),
        ("27", 100, "27"),
    ],
)
def test_only_a_thought_is_left_out(said: str, thinks: int, taken: str) -> None:
    model = metered(says(said), thinks=thinks)
    assert ask(model) == taken
    assert bool(model.trace.notes) == (said == taken and "think" in said)


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
    away = metered(Sure(Certainty(-1.0), fails=8))
    assert certainty(away) is None
    with pytest.raises(UserError, match="failed 4 times: code 500"):
        certainty(away, "Why?")


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
    told, (first, second) = model.trace.told(), model.trace.calls.values()
    assert (told["calls"], told["repeated calls"], told["tries"]) == (1, 1, 1)
    assert model.trace.tokens == model._spent.tokens == first.tokens > 0 == second.tokens and model._spent.calls == 1


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


def test_what_cannot_be_an_answer_is_not_kept(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "kept.sqlite") as records:
        with pytest.raises(UserError, match="it cut the prompt"):
            ask(metered(says("Yes.", reads=40), records=records), "word " * 100)
        assert ask(metered(says("Yes."), records=records), "word " * 100) == "Yes."


def test_what_said_nothing_is_kept_as_it_was_paid_for(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "kept.sqlite") as records:
        first = metered(says(" "), records=records)
        assert ask(first) is None
        talker = says("Yes.")
        again = metered(talker, records=records)
        assert ask(again) is None and talker.prompts == []
        assert again.trace.tokens == first.trace.tokens > 0 and again.trace.notes == first.trace.notes
        assert again.trace.told()["kept calls"] == 1 and first.trace.told()["kept calls"] == 0
        later = metered(Talker(lambda prompt, again: "" if again < 2 else "Yes."), records=records)
        assert ask(later, "Why?") == ask(metered(says("No."), records=records), "Why?") == "Yes."


class Broken(Talker):
    """Gives no JSON for prompts with "bad" in them, up to a draw."""

    until = 99

    def answer(self, asked: Any, room: int, again: int) -> Answer:
        answer = super().answer(asked, room, again)
        if "bad" in str(asked) and again < self.until:
            raise Failed("no JSON", replied=True)
        return answer


def test_a_prompt_whose_replies_are_broken_is_drawn_anew_and_given_up(tmp_path: Path) -> None:
    mended = Broken(lambda prompt, again: f"Yes {again}.")
    mended.until = 2
    assert ask(metered(mended), "bad") == "Yes 2."
    with SampleStore(tmp_path / "kept.sqlite") as records:
        for talker in (Broken(lambda prompt, again: "Yes."), says("No.")):
            model = metered(talker, records=records)
            assert ask(model, "bad") is None and model.trace.notes == ["reader: no answer (no JSON)"]
            assert len(talker.prompts) == (4 if isinstance(talker, Broken) else 0)
            assert model.trace.tokens == 4 * (model.count("bad") + 32), "somebody may have written all of it"


class Falls(Talker):
    """Fails prompts with "bad" in them."""

    def answer(self, asked: Any, room: int, again: int) -> Answer:
        answer = super().answer(asked, room, again)
        if "bad" in str(asked):
            raise Failed("code 500")
        return answer


def test_a_server_that_fails_one_prompt_is_there_and_one_that_fails_two_in_turn_is_not() -> None:
    talker = Falls(lambda prompt, again: "Yes.")
    model = metered(talker)
    assert [ask(model, one) for one in ("bad", "good", "a bad one", "Good?")] == [None, "Yes.", None, "Yes."]
    assert len(talker.prompts) == 10 and model.trace.tokens == sum(model.trace.calls[i].tokens for i in (1, 3))
    assert model.trace.calls[0].refused and len(model.trace.notes) == 1
    assert ask(model, "bad 1") is None
    with pytest.raises(UserError, match="failed 4 times: code 500"):
        ask(model, "bad 2")


def test_half_a_character_is_drawn_anew() -> None:
    class Half(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Answer:
            return Answer("\ud83d" if again < 2 else "Yes.")

    assert ask(metered(Half(lambda prompt, again: ""))) == "Yes."


def test_a_last_answer_that_is_broken_ends_the_run_and_another_one_asks_anew(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "kept.sqlite") as records:
        for _ in range(2):
            talker = Broken(lambda prompt, again: "Yes.")
            with pytest.raises(UserError, match="failed 4 times: no JSON"):
                ask(metered(talker, records=records), "bad", last=True)
            assert len(talker.prompts) == 4
        assert ask(metered(says("Yes."), records=records), "bad", last=True) == "Yes."


def test_a_budget_counts_what_other_runs_of_the_same_paid_for(tmp_path: Path) -> None:
    asked = 0
    with SampleStore(tmp_path / "kept.sqlite") as records:
        for run in range(4):
            talker = lost(99)(lambda prompt, again: "Yes.")
            with pytest.raises(UserError, match="failed 4 times" if run < 2 else "the budget"):
                ask(metered(talker, records=records, budget=Budget(calls=10)), last=True)
            asked += len(talker.prompts)
    assert asked == 10


def test_a_server_that_is_away_costs_nothing_and_is_not_kept(tmp_path: Path) -> None:
    class Away(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Answer:
            raise Failed("no connection", unheard=True)

    with SampleStore(tmp_path / "kept.sqlite") as records:
        for _ in range(3):
            with pytest.raises(UserError, match="failed 4 times: no connection"):
                ask(metered(Away(lambda prompt, again: ""), records=records, budget=Budget(calls=5)), last=True)
        assert len(records) == 0
        assert ask(metered(says("Yes."), records=records, budget=Budget(calls=1)), last=True) == "Yes."


def test_equal_calls_one_after_the_other_are_paid_for_once() -> None:
    talker = says("Yes.")
    model = metered(talker, budget=Budget(calls=2))
    assert [ask(model), ask(model), ask(model, last=True)] == ["Yes."] * 3
    assert len(talker.prompts) == model._spent.calls == 1 and model.trace.longest_chain == 1


@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        ([[1.0, float("nan")], [1.0, 0.0]], "no finite number"),
        ([[1.0, float("inf")], [1.0, 0.0]], "no finite number"),
        ([[0.0, 0.0], [0.0, 0.0]], "nought for every text"),
        ([[1.0, 0.0]], "expected .2, e"),
        ([1.0, 2.0], "expected .2, e"),
        ([[1.0], [2.0]], "expected .2, 3"),
    ],
)
def test_vectors_that_cannot_be_are_refused(vectors: list[Any], what: str) -> None:
    model = metered(embed=lambda texts: np.asarray(vectors))  # type: ignore[arg-type]
    if what.endswith("3"):
        model._wide = 3
    with pytest.raises(UserError, match=what):
        asyncio.run(model.embed(["a", "b"]))


def test_vectors_have_length_1_and_one_that_is_nought_is_told() -> None:
    vectors = np.asarray([[3e38, 3e38], [0.0, 0.0], [0.0, -2.0]], np.float32)
    model = metered(embed=lambda texts: vectors)  # type: ignore[arg-type]
    found = asyncio.run(model.embed(["a", "b", "c"]))
    assert np.allclose(found, [[0.5**0.5] * 2, [0, 0], [0, -1]], atol=1e-6) and found.dtype == np.float32
    assert model.trace.notes == ["the embedding model gave nought for some texts: nothing is like these"]


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


def test_what_the_budget_refused_beside_calls_under_way_is_refused_again(tmp_path: Path) -> None:
    waits = threading.Event()

    def say(prompt: str, again: int) -> str:
        if "slow" in prompt:
            assert waits.wait(20)
            return "Yes."
        return ""

    plain = metered(says(""))
    tokens = plain.count("The slow one?") + 60 + 30 + plain.count("The quick one?") + 8 + 4

    def run(talker: Talker) -> tuple[list[str | None], Metered]:
        with SampleStore(tmp_path / "kept.sqlite") as records:
            model = metered(talker, records=records, budget=Budget(tokens), last=30, bills=False)

            async def both() -> list[str | None]:
                slow = asyncio.create_task(model.ask("The slow one?", 60, "reader"))
                await asyncio.sleep(0.1)
                quick = await model.ask("The quick one?", 8, "reader")
                waits.set()
                return [quick, await slow]

            return asyncio.run(both()), model

    first, before = run(Talker(say))
    talker = Talker(say)
    again, after = run(talker)
    assert first == again == [None, "Yes."] and talker.prompts == []
    assert before.spent == after.spent < tokens - 30 - plain.count("The quick one?") - 8, "there is enough for it now"
    raised = metered(talker, records=SampleStore(tmp_path / "kept.sqlite"), budget=Budget(400), last=30)
    assert ask(raised, "The quick one?", 8) is None and talker.prompts, "a larger budget has refused nothing"
