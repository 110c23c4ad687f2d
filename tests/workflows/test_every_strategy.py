"""What holds for every strategy of the list, by its name."""

from __future__ import annotations

import asyncio
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from ropewalk.backends.chat.chat import Certainty, Failed
from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore
from ropewalk.workflows.chunks import chunks
from ropewalk.workflows.folding import within_budget
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategy import NoBudget
from ropewalk.workflows.strategy_entries import BY_ID, STRATEGIES, strategy
from tests.talkers import Talker
from tests.workflows.readers import FACT, answer_of, examples_with, finds, forgets, metered, reading, text_with

FACTS = {"Oslo": 11111, "Lima": 22222, "Baku": 33333}
WINDOW = 1024
LONG = text_with(FACTS, 160)
CODES = [str(number) for number in FACTS.values()]
IDS = [entry.id for entry in STRATEGIES]
BOUNDED = [name for name in IDS if name != "full"]
FOLDS = ["chain-of-agents", "memory-agent"]


def model_for(name: str, **more: Any):
    """A model that also has vectors and certainties, by words in common with the question."""

    class Certain(Talker):
        def certainty(self, prompt: Any) -> Certainty:
            return Certainty(-1.0 / (1 + len(FACT.findall(str(prompt)))))

    class Counts:
        def __call__(self, texts: Any) -> np.ndarray:
            vectors = np.full((len(texts), 256), 0.01, np.float32)
            for vector, text in zip(vectors, texts, strict=True):
                np.add.at(vector, [crc32(word.encode()) % 256 for word in text.lower().split()], 1)
            return vectors

        def within(self, text: str, spans: Any) -> np.ndarray:
            return self([text[start:stop] for start, stop in spans])

    return metered(more.pop("talker", None) or Certain(finds), embed=Counts(), **more)


def roles(model: Any) -> list[str]:
    return sorted(call.role for call in model.trace.calls.values())


@pytest.mark.parametrize("name", IDS)
def test_it_is_a_frozen_dataclass_with_its_name_and_told_options(name: str) -> None:
    cls = BY_ID[name].load()
    assert is_dataclass(cls) and cls.name == name and strategy(name) == cls()
    assert strategy(cls().spelling) == cls()
    told = cls.__doc__ or ""
    assert all(f"{one.name}:" in told for one in fields(cls))


def text_for(name: str, sentences: int = 160) -> str:
    """A text as the strategy reads it, with three facts."""
    return (examples_with if strategy(name).reads == "examples" else text_with)(FACTS, sentences)


@pytest.mark.parametrize("name", IDS)
def test_a_short_text_is_answered(name: str) -> None:
    answer, model = answer_of(strategy(name), text_for(name, 6), model_for(name))
    assert all(code in answer for code in CODES), answer
    assert model.trace.tokens > 0


@pytest.mark.parametrize("name", BOUNDED)
def test_no_call_of_a_long_text_outgrows_the_window(name: str) -> None:
    answer, model = answer_of(strategy(name), text_for(name), model_for(name, window=WINDOW))
    assert answer
    assert all(call.counted <= WINDOW for call in model.trace.calls.values())


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("tokens", [WINDOW, 3000, 9000])
def test_a_budget_is_kept_and_what_was_left_out_is_said(name: str, tokens: int) -> None:
    model = model_for(name, window=WINDOW, budget=Budget(tokens))
    try:
        answer, _ = answer_of(strategy(name), text_for(name), model)
    except NoBudget as error:
        assert tokens < 9000 and "pays for no call that reads" in error.message and not model.trace.calls
        return
    assert answer and model.trace.tokens <= tokens


@pytest.mark.parametrize("name", BOUNDED)
def test_taken_up_again_it_asks_nothing_and_answers_the_same(name: str, tmp_path: Path) -> None:
    with SampleStore(tmp_path / "kept.sqlite") as records:
        answer, model = answer_of(strategy(name), text_for(name), model_for(name, window=WINDOW, records=records))

    class Silent(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Any:
            raise AssertionError("asked again")

        def certainty(self, prompt: Any) -> Certainty:
            raise AssertionError("asked again")

    with SampleStore(tmp_path / "kept.sqlite") as records:
        again, second = answer_of(
            strategy(name), text_for(name), model_for(name, window=WINDOW, records=records, talker=Silent(finds))
        )
    told, before = second.trace.told(), model.trace.told()
    assert told.pop("kept calls") == told["calls"] and before.pop("kept calls") == 0
    assert again == answer and told == pytest.approx(before)
    roles, before = (sorted(call.role for call in one.trace.calls.values()) for one in (second, model))
    assert roles == before


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("budget", [Budget(3 * WINDOW), Budget(9000), Budget(calls=4), Budget(calls=11)])
def test_a_budget_decides_the_same_when_it_is_taken_up_again(name: str, budget: Budget) -> None:
    """Answers that are there at once free what was set aside for them earlier than answers that take their time."""

    class Slow(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Any:
            time.sleep(0.002 * (len(str(asked)) % 3))
            return super().answer(asked, room, again)

        def certainty(self, prompt: Any) -> Certainty:
            return Certainty(-1.0 / (1 + len(FACT.findall(str(prompt)))))

    records, talker = SampleStore(), Slow(finds)
    first, model = answer_of(
        strategy(name), text_for(name), model_for(name, window=WINDOW, records=records, budget=budget, talker=talker)
    )
    asked = len(talker.prompts)
    again, second = answer_of(
        strategy(name), text_for(name), model_for(name, window=WINDOW, records=records, budget=budget, talker=talker)
    )
    assert len(talker.prompts) == asked and again == first and second.trace.notes == model.trace.notes
    assert roles(second) == roles(model)


@pytest.mark.parametrize("name", BOUNDED)
def test_a_window_that_holds_nothing_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="window"):
        answer_of(strategy(name), text_for(name), model_for(name, window=40), room=16)


@pytest.mark.parametrize("name", BOUNDED)
def test_one_call_that_comes_to_nothing_is_said_and_survived(name: str) -> None:
    class Falters(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Any:
            if not self.prompts:
                self.prompts.append("")
                raise Failed("code 400", final=True)
            return super().answer(asked, room, again)

        def certainty(self, prompt: Any) -> Certainty:
            return Certainty(-1.0)

    model = model_for(name, window=WINDOW, talker=Falters(finds))
    try:
        answer = asyncio.run(strategy(name).read(model, reading(text_for(name))))
    except UserError as error:  # the only call was the last
        assert "gave no last answer: code 400" in error.message
    else:
        assert answer and any("code 400" in note for note in model.trace.notes)


@pytest.mark.parametrize("name", [*FOLDS, "memory-agent(plan=True)", "hierarchical-summary", "incremental-summary"])
def test_where_no_call_read_the_text_the_answer_says_that_it_knows_nothing_of_it(name: str) -> None:
    class Refuses(Talker):
        def answer(self, asked: Any, room: int, again: int) -> Any:
            if "Above is notes on a text" in str(asked):
                return super().answer(asked, room, again)
            raise Failed("code 400", final=True)

    answer, model = answer_of(strategy(name), LONG, model_for(name, window=WINDOW, talker=Refuses(finds)))
    assert answer == "nothing" and any("the answer knows nothing of it" in note for note in model.trace.notes)


@pytest.mark.parametrize("name", FOLDS)
def test_notes_keep_facts_of_all_chunks_and_calls_are_as_many_as_chunks_and_one(name: str) -> None:
    answer, model = answer_of(strategy(name), LONG, model_for(name, window=WINDOW))
    assert [code for code in CODES if code in answer] == CODES
    roles = [call.role for call in model.trace.calls.values()]
    assert roles[-1] == "answer" and roles[-2].endswith(f" {len(roles) - 1} of {len(roles) - 1}")
    assert len(model.trace.critical_path) == len(roles)


@pytest.mark.parametrize("name", FOLDS)
def test_a_memory_of_two_facts_loses_the_oldest(name: str) -> None:
    answer, _ = answer_of(strategy(name), LONG, model_for(name, window=WINDOW, talker=Talker(forgets(2))))
    assert CODES[0] not in answer and all(code in answer for code in CODES[1:])


def test_backwards_is_the_same_set_and_loses_the_last() -> None:
    both = [
        answer_of(strategy(f"chain-of-agents(backwards={one})"), LONG, metered(window=WINDOW))[0]
        for one in (True, False)
    ]
    assert set(FACT.findall(both[0])) == set(FACT.findall(both[1]))
    two = answer_of(strategy("chain-of-agents(backwards=True)"), LONG, metered(Talker(forgets(2)), window=WINDOW))[0]
    assert CODES[2] not in two


def test_one_chunk_is_two_calls() -> None:
    _, model = answer_of(strategy("chain-of-agents"), text_with(FACTS, 6))
    assert [call.role for call in model.trace.calls.values()] == ["worker 1 of 1", "answer"]


@pytest.mark.parametrize(("k", "expected"), [(5, [1, 3, 5, 4, 2]), (4, [1, 3, 4, 2])])
def test_the_best_stand_at_both_ends(k: int, expected: list[int]) -> None:
    from ropewalk.workflows.strategies.retrieval import ordered

    assert ordered(list(range(1, k + 1)), "ends") == expected  # type: ignore[arg-type,comparison-overlap]


@pytest.mark.parametrize("order", ["ends", "document", "rank", "reverse"])
@pytest.mark.parametrize("by", ["words", "vectors"])
def test_the_order_does_not_change_what_is_found(order: str, by: str) -> None:
    answer, _ = answer_of(strategy(f"rag(order='{order}', by='{by}')"), LONG, model_for("rag", window=WINDOW),
                          question="What is the code of Lima?")  # fmt: skip
    assert "22222" in answer


def test_a_middle_that_the_budget_does_not_pay_is_left_out() -> None:
    model = metered(window=WINDOW, budget=Budget(2500))
    parts = chunks(LONG, model.spans(LONG), 100)
    kept = within_budget(model, parts, beside=100)
    most = (2500 - WINDOW) // (max(part.tokens for part in parts) + 100)
    assert len(kept) == most and kept[0] == parts[0] and kept[-1] == parts[-1]
    assert "were not read" in model.trace.notes[0]


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("chain-of-agent", "did you mean 'chain-of-agents'"),
        ("rag(k=0)", "k is 0"),
        ("rag(order='worst')", "order is 'worst'"),
        ("memory-agent(chunk=0)", "chunk is 0"),
        ("full(k=2)", "no option 'k'"),
    ],
)
def test_what_is_not_there_is_refused(spelling: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        strategy(spelling)


@pytest.mark.parametrize("question", ["What is it?", "Wer bezahlt?", "?", "谁"])
def test_a_search_that_finds_no_word_says_so(question: str) -> None:
    _, model = answer_of(strategy("rag"), LONG, metered(window=WINDOW), question=question)
    assert any("no part of the text has a word of the question" in note for note in model.trace.notes)
