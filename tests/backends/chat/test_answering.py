"""Asked side by side, every call counted, nothing asked twice, and what is wrong is found out."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from ropewalk.backends.chat.answering import OUTAGE, Nonsense
from ropewalk.backends.chat.chat import Answer, Failed, Usage
from ropewalk.backends.chat.journal import Call, Journal
from ropewalk.common.errors import UserError
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening
from tests.talkers import Talker, echo, engine
from tests.tokenizers import byte_level

TOKENIZER = byte_level()
PROMPTS = [f"What comes behind {i}?" for i in range(20)]
ANSWERS = [f"{i}? is behind" for i in range(20)]


def say(prompt: str, again: int) -> str:
    return f"{prompt.split()[-1]} is behind"


def read(text: str) -> str:
    if "behind" not in text:
        raise Nonsense("another question")
    return text


def test_calls_and_tokens_are_what_is_computed_beforehand(tokenizer) -> None:
    some = engine(Talker(say))
    assert some.answers([*PROMPTS, PROMPTS[0]], 64, read) == [*ANSWERS, ANSWERS[0]]
    tokens = [len(token_ids(prompt, tokenizer)) for prompt in PROMPTS]
    begin, ledger = len(opening(tokenizer)), some.ledger
    assert (ledger.asked, ledger.calls, ledger.answered, ledger.given_up) == (20, 20, 20, 0)
    assert ledger.prompt_tokens == ledger.our_prompt_tokens == sum(tokens) + 20 * begin
    written = sum(len(token_ids(answer, tokenizer)) for answer in ANSWERS)
    assert ledger.completion_tokens == ledger.our_completion_tokens == written
    assert not ledger.wrong_usage and not ledger.without_usage and not ledger.failed and not ledger.nonsense
    numbers = [lambda text, i=i: (i, text) for i in range(4)]
    found = some.answers([*PROMPTS[:3], PROMPTS[0]], 64, numbers)
    assert found == [(0, ANSWERS[0]), (1, ANSWERS[1]), (2, ANSWERS[2]), (0, ANSWERS[0])]
    assert some.answers(PROMPTS[:3], 64, read) == ANSWERS[:3] and len(some.chat.prompts) == 20
    assert some.ledger.calls == 20, "asked before, and not again"


def test_failures_are_tried_again_until_tries_are_used_up() -> None:
    some = engine(Talker(say, fails=3))
    assert some.answers(PROMPTS[:4], 64, read) == ANSWERS[:4]
    assert some.ledger.calls == 16 and some.ledger.failed == {"code 500": 12} and not some.ledger.given_up
    some = engine(Talker(say, fails=4))
    assert some.answers(PROMPTS[:4], 64, read) == [None] * 4
    assert some.ledger.calls == 16 and some.ledger.given_up == 4 and not some.ledger.answered


def test_a_refusal_is_not_tried_again() -> None:
    class Refusing(Talker):
        def answer(self, prompt, room, again):
            if "3" in prompt:
                self.prompts.append(prompt)
                raise Failed("code 400", "too long", final=True)
            return super().answer(prompt, room, again)

    some = engine(Refusing(say))
    assert some.answers(PROMPTS[:5], 64, read) == [*ANSWERS[:3], None, ANSWERS[4]]
    assert some.ledger.calls == 5 and some.ledger.failed == {"code 400": 1} and some.ledger.given_up == 1


def test_nonsense_is_counted_by_reason_and_drawn_again() -> None:
    def sometimes(prompt: str, again: int) -> str:
        said = {0: "", 1: "yes", 2: prompt * 9}
        return said.get(again, f"<think>hm\n\nnot here</think>\n {say(prompt, again)}")

    some = engine(Talker(sometimes))
    assert some.answers(PROMPTS[:2], 100, read) == ANSWERS[:2]
    assert some.ledger.nonsense == {"empty": 2, "another question": 2, "cut off": 2} and some.ledger.calls == 8
    some = engine(Talker(echo))
    assert some.answers([9 * PROMPTS[0], PROMPTS[1]], 999, read) == [None, PROMPTS[1]]
    assert some.ledger.nonsense == {"the prompt again": 4}
    some = engine(Talker(lambda *_: f"behind {TOKENIZER.eos_token} it"))
    assert some.answers(PROMPTS[:1], 100, read) == [None] and some.ledger.nonsense == {"special tokens": 4}
    some = engine(Talker(lambda *_: "behind \ufffd"))
    some.chat.answer = lambda *_: Answer("behind \ufffd")
    assert some.answers(PROMPTS[:1], 100, read) == [None] and some.ledger.nonsense == {"half a character": 4}
    fixed = Talker(sometimes)
    fixed.varies = False
    some = engine(fixed)
    assert some.answers(PROMPTS[:2], 100, read) == [None, None] and some.ledger.calls == 2
    some = engine(Talker(lambda prompt, again: "\ud800 behind"))
    some.chat.answer = lambda *_: type("A", (), {"text": "\ud800"})()
    assert some.answers(PROMPTS[:1], 64, read) == [None] and some.ledger.failed == {"half a character": 4}


def test_a_model_that_thinks_has_room_for_it() -> None:
    thinking = Talker(lambda prompt, again: f"<think>{'so ' * 200}</think>{say(prompt, again)}")
    some = engine(thinking, tries=1)
    assert some.answers(PROMPTS[:2], 64, read) == [None, None] and some.ledger.nonsense == {"cut off": 2}
    some = engine(thinking, thinks=1000)
    assert some.answers(PROMPTS[:2], 64, read) == ANSWERS[:2]


def test_an_answer_that_fills_its_room_is_cut_whatever_the_server_calls_it() -> None:
    some = engine(Talker(say), tries=1)
    some.chat.answer = lambda *_: Answer("behind", usage=Usage(20, 0, 64))
    assert some.answers(PROMPTS[:1], 64, read) == [None] and some.ledger.nonsense == {"cut off": 1}
    for usage in (None, Usage(20, 0, 10**9)):  # by our own count
        some = engine(Talker(say), tries=1)
        some.chat.answer = lambda *_, usage=usage: Answer("behind " * 64, usage=usage)
        assert some.answers(PROMPTS[:1], 64, read) == [None] and some.ledger.nonsense == {"cut off": 1}


@pytest.mark.parametrize("served", [True, False])
def test_an_answer_that_is_said_to_have_more_tokens_than_it_may_is_not_cut_by_that(served: bool) -> None:
    some = engine(Talker(say, usage=lambda one: Usage(one.prompt, 0, 10**9)), served)
    assert some.answers(PROMPTS[:3], 64, read) == ANSWERS[:3]
    assert some.ledger.wrong_usage == some.ledger.calls == 3 and not some.ledger.nonsense


@pytest.mark.parametrize("served", [True, False])
def test_a_prompt_that_was_cut_without_a_word_is_found_out(served: bool) -> None:
    long = "behind " * 400
    some = engine(Talker(say, reads=300), served)
    assert some.answers([long, PROMPTS[0]], 4000, read) == [None, ANSWERS[0]]
    assert some.ledger.nonsense == {"fewer tokens read than the prompt has": 4} and some.ledger.wrong_usage == 4


def test_usage_that_cannot_be_is_counted() -> None:
    for lie, silent, wrong in (
        (lambda one: None, 1, 0),
        (lambda one: Usage(one.prompt + 2000, 0, one.completion), 0, 1),
        (lambda one: Usage(one.prompt, one.prompt + 1, one.completion), 0, 1),
        (lambda one: Usage(one.prompt, 0, 0), 0, 1),
        (lambda one: Usage(one.prompt + 12, one.prompt, one.completion), 0, 0),
    ):
        some = engine(Talker(lambda *_: "far behind " * 5, usage=lie))
        assert some.answers(PROMPTS[:1], 640, read)[0] is not None
        assert (some.ledger.without_usage, some.ledger.wrong_usage) == (silent, wrong)


def test_what_was_answered_is_not_asked_again_whatever_stopped_the_run(tmp_path) -> None:
    def run(name: str, talker: Talker, prompts=PROMPTS):
        some = engine(talker)
        with some.keeping(tmp_path / name) as finished:
            found = some.answers(prompts, 64, read)
            some.answers(prompts[::2], 64, read)
        return found, some, finished

    whole, first, finished = run("whole", Talker(say, fails=1))
    _, _, _ = run("part", Talker(say, fails=1), PROMPTS[:7])
    file = tmp_path / "part" / "replies.jsonl"
    data = file.read_bytes()
    for torn in (0, 1, 40):
        file.write_bytes(data[: len(data) - torn])
        again, second, _ = run("part", Talker(say, fails=1))
        happened = {"calls": second.ledger.calls, "failed": second.ledger.failed} if torn else {}  # one more failed
        assert again == whole and second.ledger == replace(first.ledger, **happened)
        asked = len(set(second.chat.prompts))
        assert asked == 13 if torn == 0 else 13 < asked < 20
    file.write_bytes(b'{"key": 3}\n' + data)
    with pytest.raises(UserError, match=r"replies\.jsonl:1"):
        run("part", Talker(say))
    other = Talker(say)
    other.basis = {"model": "another"}
    with pytest.raises(UserError, match=r"engine\.model was 'talker', is 'another'"):
        run("whole", other)
    finished()
    assert [one.name for one in tmp_path.iterdir()] == ["part"]


def test_what_is_kept_of_an_answer_is_all_of_it(tmp_path) -> None:
    calls = [
        Call("a", Answer("x", True, Usage(3, 2, 1))),
        Call("b", Answer("y", wrong_usage=True)),
        Call("c", failed="code 400", final=True),
        Call("d", failed="no connection", unheard=True),
    ]
    Journal(tmp_path / "kept").keep(calls)
    assert [*map(Journal(tmp_path / "kept").of, "abcd")] == [(one,) for one in calls]


def test_a_server_that_is_down_ends_the_run_and_costs_nothing_later(tmp_path) -> None:
    class Dying(Talker):
        workers = 1

        def answer(self, prompt, room, again):
            if len(self.prompts) >= 9:
                raise Failed("no connection", "refused")
            return super().answer(prompt, room, again)

    some = engine(Dying(say))
    with some.keeping(tmp_path / "kept"), pytest.raises(UserError, match=f"failed {OUTAGE} calls in turn: no conn"):
        some.answers(PROMPTS, 64, read)
    again, whole = engine(Talker(say)), engine(Talker(say))
    with again.keeping(tmp_path / "kept"):
        assert again.answers(PROMPTS, 64, read) == ANSWERS == whole.answers(PROMPTS, 64, read)
    assert len(again.chat.prompts) == 11 and again.ledger == whole.ledger


class Away(Talker):
    """Takes no prompt that ``away`` says so of, and counts how often it was asked."""

    def __init__(self, away):
        super().__init__(say)
        self.away, self.times = away, 0

    def answer(self, prompt, room, again):
        with self._lock:
            self.times += 1
            away = self.away(prompt, self.times)
        if away:
            raise Failed("no connection", "refused", unheard=True)
        return super().answer(prompt, room, again)


def test_rows_are_the_same_after_an_outage_however_many_calls_it_takes(tmp_path) -> None:
    gone = Away(lambda prompt, times: 5 <= times < 300)
    some, whole = engine(gone, patience=60), engine(Talker(say))
    with some.keeping(tmp_path / "kept"):
        assert some.answers(PROMPTS, 64, read) == ANSWERS == whole.answers(PROMPTS, 64, read)
    assert some.ledger == replace(whole.ledger, calls=20 + 295, failed={"no connection": 295})
    again = engine(Talker(say))
    with again.keeping(tmp_path / "kept"):
        assert again.answers(PROMPTS, 64, read) == ANSWERS and not again.chat.prompts and again.ledger == some.ledger


def test_when_patience_is_over_the_run_ends_and_costs_nothing_later(tmp_path) -> None:
    some = engine(Away(lambda prompt, times: times > 9), patience=0.2)
    began = time.monotonic()
    with (
        some.keeping(tmp_path / "kept"),
        pytest.raises(UserError, match=r"did not answer in 0\.2 seconds: no connection [\d,]+; the last: refused"),
    ):
        some.answers(PROMPTS, 64, read)
    assert time.monotonic() - began >= 0.2
    again = engine(Talker(say))
    with again.keeping(tmp_path / "kept"):
        assert again.answers(PROMPTS, 64, read) == ANSWERS and len(again.chat.prompts) == 11


def test_a_prompt_that_nobody_takes_though_others_are_answered_is_given_up_once(tmp_path) -> None:
    class Shy(Away):
        """Takes one prompt never; those behind it are answered once it was refused, and before it is again."""

        workers, refused, answered = 2, threading.Event(), threading.Event()

        def answer(self, prompt, room, again):
            if prompt != PROMPTS[3]:
                found = super().answer(prompt, room, again) if prompt in PROMPTS[:3] or self.refused.wait(60) else None
                return self.answered.set() or found if prompt == PROMPTS[-1] else found
            if self.refused.is_set() and self.answered.wait(60):
                time.sleep(0.06)
            try:
                return super().answer(prompt, room, again)
            finally:
                self.refused.set()

    some = engine(Shy(lambda prompt, times: prompt == PROMPTS[3]), patience=0.05)
    with some.keeping(tmp_path / "kept"):
        assert some.answers(PROMPTS, 64, read) == [*ANSWERS[:3], None, *ANSWERS[4:]]
    assert some.ledger.given_up == 1 and some.ledger.failed == {"no connection": 2}
    again = engine(Talker(say))
    with again.keeping(tmp_path / "kept"):
        assert again.answers(PROMPTS, 64, read)[3] is None and again.ledger == some.ledger


def test_a_failure_that_no_prompt_changes_ends_the_run() -> None:
    class Closed(Talker):
        def answer(self, prompt, room, again):
            raise UserError("refuses with 401")

    with pytest.raises(UserError, match="401"):
        engine(Closed(say)).answers(PROMPTS, 64, read)


def test_when_one_call_ends_the_run_no_further_one_begins() -> None:
    class Broken(Talker):
        workers = 1

        def answer(self, prompt, room, again):
            self.prompts.append(prompt)
            if len(self.prompts) == 3:
                raise KeyboardInterrupt
            raise Failed("code 500")

    some = engine(Broken(say))
    with pytest.raises(KeyboardInterrupt):
        some.answers(PROMPTS, 64, read)
    assert len(some.chat.prompts) <= 7


def test_what_ends_a_run_waits_for_no_call_and_keeps_what_was_answered(tmp_path) -> None:
    released, before = threading.Event(), threading.active_count()

    class Hanging(Talker):
        def answer(self, prompt, room, again):
            if prompt == PROMPTS[2]:
                released.wait(60)
            return super().answer(prompt, room, again)

    def stopped(ledger, waiting) -> None:
        if ledger.calls > 1:
            raise KeyboardInterrupt

    some, file = engine(Hanging(say)), tmp_path / "kept" / "replies.jsonl"
    some.heard, began = stopped, time.monotonic()
    with some.keeping(tmp_path / "kept"), pytest.raises(KeyboardInterrupt):
        some.answers(PROMPTS, 64, read)
    assert time.monotonic() - began < 10
    kept = file.read_bytes()
    released.set()
    while threading.active_count() > before:
        time.sleep(0.01)
    assert file.read_bytes() == kept, "an answer that comes later goes to no folder that may be another run's"
    again = engine(Talker(say))
    with again.keeping(tmp_path / "kept"):
        assert again.answers(PROMPTS, 64, read) == ANSWERS
    assert len(again.chat.prompts) == 20 - kept.count(b'"key"') and PROMPTS[2] in again.chat.prompts


def test_what_helps_is_told_by_what_went_wrong() -> None:
    some = engine(Talker(say))
    some.chat.window = 40
    some.require_room(["?" * 99, "Who?"], 16, 20)
    with pytest.raises(UserError, match=r"window of talker has 40\n.*ropewalk extend talker --to 500 -o EXTENDED"):
        some.require_room(["?" * 99, "!" * 98], 16, 500)
    assert "--to" in some.mend({"too long": 3}, {"empty": 2}) and "chat model" in some.mend(
        {"code 500": 1}, {"cut off": 2}
    )
    assert "--engine-deadline" in some.mend({"no answer in time": 2, "code 500": 1})
    assert "the log of talker" in some.mend({"code 500": 2}, {"cut off": 1})
    assert some.mend({}, {"empty": 2, "cut off": 1}).startswith("Ask another engine: talker does not")
    some.chat.window = None
    some.require_room(["?" * 9999], 16, 20)
