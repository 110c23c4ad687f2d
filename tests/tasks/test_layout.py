from __future__ import annotations

import random
from itertools import islice

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.context import (
    Background,
    Context,
    Question,
    among,
    context_tokens,
    filled,
    fitting,
    mentions,
    places,
    pose,
    quiet,
)
from ropewalk.tasks.names import distinct, person, thing, town
from ropewalk.tasks.passkey import FILLER
from ropewalk.tasks.task import TooShort
from ropewalk.texts.pieces import TokenUnits


@pytest.fixture
def units(tokenizer: PreTrainedTokenizerFast) -> TokenUnits:
    return TokenUnits(tokenizer)


def test_quiet_filler_ends_with_a_sentence(units: TokenUnits) -> None:
    whole = units.decode(quiet(200, units))
    for n in range(0, 90):
        ids = quiet(n, units)
        assert len(ids) == n and whole.endswith(units.decode(ids))
    assert whole.endswith("There and back again.")


def test_asked_records_stand_at_their_depths_among_the_others(units: TokenUnits) -> None:
    at = places([1.0, 0.0, 0.5], 4)
    assert at == [6, 0, 3]
    assert among([[10], [11], [12], [13]], [[1], [2], [3]], at) == [[2], [10], [11], [3], [12], [13], [1]]
    assert places([0.5, 0.5], 0) == [0, 1]


def test_few_records_are_spread_by_whole_rounds_of_filler(units: TokenUnits) -> None:
    """15 rounds and 7 tokens for four records: the first three get one round more."""
    period = sum(len(units.ids(one)) for one in FILLER)
    records = [units.ids(f" Record {name}.") for name in "ABCD"]
    introduction = units.ids(" Hear this:")
    n = 15 * period + 7 + len(introduction) + sum(map(len, records))
    made = filled(introduction, records, n, units)
    ids = made.ids[len(units.bos) :]
    assert made.before == len(units.bos) + 7 + len(introduction)
    text = units.decode(ids)
    assert len(ids) == n
    rounds = [part.count("The sky is blue.") for part in text.split("Record")]
    assert rounds == [4, 4, 4, 3, 0] and text.endswith("Record D.")
    assert text.startswith(f"{units.decode(quiet(7, units))} Hear this: The grass is green.")


def test_records_are_taken_until_one_does_not_fit(units: TokenUnits) -> None:
    piece = len(units.ids(" The sky is blue."))
    assert len(fitting(3 * piece + 1, [" The sky is blue."] * 9, units)) == 3
    assert len(fitting(9 * piece, [" The sky is blue."] * 9, units)) == 9


def test_the_longest_question_decides_and_shorter_ones_leave_room(units: TokenUnits) -> None:
    short, long = Question(" Who? It is", "Bo"), Question(" Where is the garden gate? It is", "there", spare=5)
    n = context_tokens("task", 100, units, [short, long])
    behind = len(units.ids(long.stem)) + len(units.answer(long.stem, " there")) + 5
    assert n == 100 - behind
    one, other = pose(Context([0] * n, 0), [short, long], 100, units)
    assert (one.before, one.after) == (0, len(units.ids(short.stem)))
    assert other.room == len(other.answer) + 5 and one.room > other.room and len(one.prompt) + one.room == 100
    with pytest.raises(TooShort, match=f"task needs more than {behind} tokens"):
        context_tokens("task", behind, units, [short, long])


def test_facts_are_hidden_in_order_between_sentences(tokenizer: PreTrainedTokenizerFast, units: TokenUnits) -> None:
    hay = tuple(tokenizer(" The sky is blue today. The grass is tall.", add_special_tokens=False).input_ids)
    ends = frozenset(i for i in hay if str(tokenizer.decode([i])).strip() == ".")
    facts = [units.ids(f" Fact {i}.") for i in range(4)]
    for background in (Background(hay, ends), Background()):
        ids = background.hide(facts, [0.0, 0.49, 0.5, 1.0], 400, random.Random(0), units)
        text = units.decode(ids)
        starts = [text.index(f" Fact {i}.") for i in range(4)]
        assert len(ids) == 400 and starts == sorted(starts)
        assert all(text[:start].endswith(".") for start in starts[1:])
        assert starts[0] == 0 and starts[1] / len(text) == pytest.approx(0.49, abs=0.1)


def test_text_without_sentence_ends_is_cut_where_it_is_asked(units: TokenUnits) -> None:
    ids = Background((7, 8, 9)).hide([[1], [2]], [0.25, 0.75], 402, random.Random(0), units)
    assert (ids.index(1), ids.index(2), len(ids)) == (100, 301, 402)


def test_mentions_are_whole_words_in_any_case() -> None:
    assert mentions("It is OAKBY.", "Oakby") and mentions("[12]", "12")
    assert not mentions("Oakbyton", "Oakby") and not mentions("123", "12")


def test_names_do_not_repeat_and_their_end_is_said() -> None:
    rng = random.Random(0)
    for draw in (person, town, thing):
        names = list(islice(distinct(lambda draw=draw: draw(rng)), 1000))
        assert len(set(names)) == 1000
    few = distinct(lambda: rng.choice("ab"))
    assert {next(few), next(few)} == {"a", "b"}
    with pytest.raises(ValueError, match="more than 2 different names"):
        next(few)
