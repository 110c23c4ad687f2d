"""What is asked of a whole prompt is answered in several calls: the same last prompt, the same scores, equal tokens."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.backends.backend import Ask, Reply
from ropewalk.backends.chat.chat import Answer, Beginning, Failed, Prompt, Usage, text_of
from ropewalk.backends.chat.chat_model import ChatModel
from ropewalk.backends.local import live
from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore
from ropewalk.methods.catalogue import method
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.tasks.passkey import Passkey
from ropewalk.tasks.ruler.needles import RulerNeedles
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits
from ropewalk.workflows.strategic import Strategic, reading_of
from ropewalk.workflows.strategy import NOTES, PARTS, WHOLE
from ropewalk.workflows.strategy_entries import strategy
from tests.models import tiny
from tests.talkers import Talker
from tests.tokenizers import VOCABULARY, byte_level

NEEDLES = RulerNeedles("niah_single_1", "noise")
NEEDLE = re.compile(r"One of the special magic numbers for \S+ is: \d+\.")
WINDOW, LONG = 2048, 8192


def knows(prompt: str, again: int) -> str:
    """Notes the needles that it reads, and answers by the task's own rules."""
    if prompt.endswith(("Notes:", "anew:")):
        return " ".join(dict.fromkeys(NEEDLE.findall(prompt))) or "nothing"
    return f" {NEEDLES.solve(prompt)} and more"


def asks(n: int, length: int, seed: int = 0) -> list[Ask]:
    units = TokenUnits(byte_level())
    return [as_asked(NEEDLES.sample(length, random.Random(f"{seed}{i}"), units)) for i in range(n)]


def as_asked(one: Sample) -> Ask:
    return Ask(one.prompt, one.answer, 0, (), one.before, one.after)


def reader(spelling: str, talker: Any = None, spend: float = 1.0, window: int = WINDOW, **more: Any) -> Strategic:
    talker = talker or Talker(knows)
    return Strategic(strategy(spelling), talker, talker.tokenizer, window, spend, more.get("records", SampleStore()))


def replies(backend: Strategic, some: list[Ask]) -> list[Reply]:
    found = dict(backend.ask(some))
    return [found[i] for i in range(len(some))]


def test_the_last_prompt_is_the_whole_one_with_other_text_in_it(tokenizer: PreTrainedTokenizerFast) -> None:
    (ask,) = asks(1, 600)
    reading = reading_of(ask, 8, tokenizer)
    whole = reading.last(reading.text, WHOLE)
    assert isinstance(whole, Beginning) and list(whole.ids) == list(ask.prompt)
    assert reading.question.startswith("Find the special magic number for") and reading.question.endswith(
        "text above is"
    )
    assert NEEDLE.search(reading.text) and not NEEDLE.search(reading.question)
    before, after = tokenizer.decode(ask.prompt[: ask.before]), tokenizer.decode(ask.prompt[-ask.after :])
    for notes in ("The grass is green.", "  The grass is green.\n"):
        said = reading.last(notes, NOTES)
        assert isinstance(said, Beginning) and said.text == f"{before} The grass is green.{after}"
        inside = TokenUnits(tokenizer).ids(" The grass is green.")
        assert list(said.ids) == [*ask.prompt[: ask.before], *inside, *ask.prompt[-ask.after :]]
    assert len(reading.last("", PARTS).ids) < ask.before + ask.after + 4  # type: ignore[union-attr]


def test_a_chat_templates_end_is_no_part_of_the_question(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.content }}</s>\nmodel:{% endfor %}"
    ids = tokenizer("<s>A long text.\n\nQuestion: what is it?</s>\nmodel:", add_special_tokens=False).input_ids
    after = len(tokenizer("\n\nQuestion: what is it?</s>\nmodel:", add_special_tokens=False).input_ids)
    reading = reading_of(Ask(ids, (), 8, (), 1, after), 8, tokenizer)
    assert (reading.text, reading.question) == ("A long text.", "Question: what is it?")
    assert reading.last("A text.", NOTES).text.endswith("A text.\n\nQuestion: what is it?</s>\nmodel:")  # type: ignore[union-attr]


@pytest.mark.parametrize("spelling", ["rag", "truncation"])
def test_what_the_window_holds_is_asked_as_it_is_and_costs_what_it_costs(spelling: str) -> None:
    some, talker = asks(3, 600), Talker(knows)
    found = replies(reader(spelling, talker), some)
    assert sorted(talker.prompts) == sorted(talker.tokenizer.decode(list(ask.prompt)) for ask in some)
    for ask, reply in zip(some, found, strict=True):
        assert reply.right and reply.spent is not None and (reply.spent.calls, reply.spent.chain) == (1, 1)
        assert len(ask.prompt) < reply.spent.tokens <= len(ask.prompt) + len(ask.answer) and reply.spent.share <= 1


def test_an_answer_is_right_if_it_begins_with_what_was_asked_for() -> None:
    some = asks(2, 600)
    ways = (str, lambda value: f"{value}0", lambda value: f"no {value}")
    says = [Talker(lambda prompt, again, way=way: way(NEEDLES.solve(prompt))) for way in ways]
    rights = [[one.right for one in replies(reader("rag", talker), some)] for talker in says]
    assert rights == [[True, True], [True, True], [False, False]], "as a server is judged"


@pytest.mark.parametrize("spelling", ["rag", "chain-of-agents", "memory-agent", "truncation"])
@pytest.mark.parametrize("spend", [0.75, 1.0, 2.0, 0.0])
def test_no_question_spends_more_than_it_may(spelling: str, spend: float) -> None:
    some = asks(3, LONG)
    for ask, reply in zip(some, replies(reader(spelling, spend=spend), some), strict=True):
        assert reply.spent is not None and not reply.lost
        whole = len(ask.prompt) + len(ask.answer)
        assert reply.spent.tokens <= (spend or 100) * whole
        longest = whole + len(ask.answer)  # where the last answer was not written at all
        assert reply.spent.tokens / whole <= reply.spent.share <= (reply.spent.tokens - whole + longest) / whole
        assert reply.spent.share <= (spend or 100)


@pytest.mark.parametrize(
    "bill",
    [
        lambda true: true,
        lambda true: None,
        lambda true: Usage(int(1.8 * true.prompt), 0, true.completion),
        lambda true: Usage(true.prompt + 300, 0, true.completion),
        lambda true: Usage(true.prompt, 0, 2000),
    ],
    ids=["honest", "none", "times", "more", "thinks"],
)
def test_tokens_are_of_one_kind_on_both_sides_whatever_is_billed(bill: Any) -> None:
    """What is asked as it is takes once what the prompt as it is takes, and a bill that says more is told."""
    for spelling, length in (("rag", 600), ("chain-of-agents", LONG)):
        some = asks(2, length)
        honest = replies(reader(spelling, spend=2), some)
        found = replies(reader(spelling, Talker(knows, usage=bill), spend=2), some)
        for one, other in zip(found, honest, strict=True):
            assert one.spent and other.spent and one.text == other.text
            assert (one.spent.tokens, one.spent.share) == (other.spent.tokens, other.spent.share)
            assert one.spent.share == 1 or spelling != "rag"
            told = [note for note in one.spent.notes if note.startswith("the server bills")]
            assert bool(told) == (bill(Usage(1000, 0, 1)) not in (None, Usage(1000, 0, 1)))


def test_a_chain_that_may_spend_what_it_needs_finds_every_needle_and_a_poor_one_says_what_it_did_not_read() -> None:
    some = asks(4, LONG)
    rich, poor = (replies(reader("chain-of-agents", spend=spend), some) for spend in (0.0, 0.75))
    assert all(one.right and not one.spent.notes for one in rich if one.spent)
    assert max(one.spent.share for one in rich if one.spent) > 1, "where chunks of noise are equal, they are asked once"
    assert all(one.spent and one.spent.chain == one.spent.calls > 5 for one in rich), "worker waits for worker"
    assert all(one.spent and any("were not read" in note for note in one.spent.notes) for one in poor)


@pytest.mark.parametrize(
    ("spelling", "spend", "why"),
    [("chain-of-agents", 1.0, "no call that reads"), ("truncation", 0.5, "does not hold the last answer")],
)
def test_a_budget_without_a_call_that_reads_measures_nothing(spelling: str, spend: float, why: str) -> None:
    few = replies(reader(spelling, spend=spend), asks(2, 600))
    assert all(why in reply.lost and reply.spent is None for reply in few), few


def test_a_window_that_holds_no_worker_is_no_answer_and_no_error() -> None:
    assert all("leaves 0 for text" in one.lost for one in replies(reader("chain-of-agents", window=256), asks(2, LONG)))


def test_without_any_text_the_question_stands_alone() -> None:
    (ask,) = asks(1, 600)
    closed = replace(ask, prompt=[*ask.prompt[:1], *ask.prompt[-ask.after :]], before=1)
    talker = Talker(lambda prompt, again: "12")
    (reply,) = replies(reader("chain-of-agents", talker), [closed])
    assert talker.prompts == [talker.tokenizer.decode(closed.prompt)] and reply.right is False and not reply.lost


def test_an_empty_answer_is_wrong_and_a_refusal_an_error() -> None:
    some = asks(2, 600)
    silent = Talker(lambda prompt, again: "")
    silent.varies = False  # type: ignore[misc]
    assert [(one.right, one.text) for one in replies(reader("rag", silent), some)] == [(False, "")] * 2

    class Refuses(Talker):
        def answer(self, asked: Prompt, room: int, again: int) -> Answer:
            if text_of(asked).endswith("Notes:"):
                raise Failed("code 400", final=True)
            return super().answer(asked, room, again)

    with pytest.raises(UserError, match="refused worker 1 of"):
        replies(reader("chain-of-agents", Refuses(knows)), asks(1, LONG))


def test_stopped_at_any_call_it_asks_no_call_twice(tmp_path: Path) -> None:
    some, said = asks(3, LONG), Talker(knows)
    whole = replies(reader("chain-of-agents", said), some)

    class Stopped(Talker):
        workers, left = 1, 0

        def answer(self, asked: Prompt, room: int, again: int) -> Answer:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return super().answer(asked, room, again)

    for left in (0, 1, 5, len(said.prompts) - 1):
        file, first, second = tmp_path / f"{left}.sqlite", Stopped(knows), Talker(knows)
        first.left = left
        with SampleStore(file) as records, pytest.raises(KeyboardInterrupt):
            replies(reader("chain-of-agents", first, records=records), some)
        with SampleStore(file) as records:
            assert replies(reader("chain-of-agents", second, records=records), some) == whole
        assert len(first.prompts) == left
        assert Counter(first.prompts + second.prompts) == Counter(said.prompts)


def test_questions_run_side_by_side_and_no_more_calls_than_may() -> None:
    import threading
    import time

    class Slow(Talker):
        workers, now, most = 3, 0, 0
        gate = threading.Lock()

        def answer(self, asked: Prompt, room: int, again: int) -> Answer:
            with self.gate:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.02)
            with self.gate:
                self.now -= 1
            return super().answer(asked, room, again)

    talker = Slow(knows)
    assert all(one.right for one in replies(reader("rag", talker), asks(7, 600)))
    assert 1 < talker.most <= 3


def test_what_a_live_model_writes_is_what_it_writes_without_a_strategy() -> None:
    tokenizer = byte_level()
    model, units = tiny("llama", vocab_size=VOCABULARY, max_position_embeddings=1024), TokenUnits(tokenizer)
    tasks = (Passkey(), NeedleInHaystack(tuple(tokenizer(" It is so. Or not.", add_special_tokens=False).input_ids)))
    samples = [task.sample(300, random.Random(i), units) for i, task in enumerate(tasks)]
    wanted = [replace(as_asked(one), answer=(), room=12) for one in samples]
    with live(model, tokenizer, method("none"), 1024) as backend:
        plain = dict(backend.ask(wanted))
        chat = ChatModel(backend, "tiny", 1024)
        read = dict(Strategic(strategy("rag"), chat, tokenizer, 1024, 1.0, SampleStore()).ask(wanted))
    assert [read[i].text for i in range(2)] == [plain[i].text.strip() for i in range(2)]


def test_records_are_of_one_strategy_spend_window_and_model() -> None:
    one = reader("rag").basis
    others = [reader("rag(k=2)"), reader("truncation"), reader("rag", spend=2), reader("rag", window=1024)]
    assert all(one != other.basis for other in others) and one == reader("rag").basis
    assert one["model"] == "talker"
