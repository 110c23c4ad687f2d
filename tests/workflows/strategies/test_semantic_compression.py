"""Planted topics are found; what is left is of the asked length, in the text's order; numbers are kept on request."""

from __future__ import annotations

import asyncio
import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import Chunk, sentences
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategies.semantic_compression import (
    NEIGHBOURS,
    SemanticCompression,
    most_central,
    packed,
    shares,
    topics_of,
    verbatim,
)
from ropewalk.workflows.word_vectors import tf_idf
from tests.talkers import Talker
from tests.workflows.readers import answer_of, finds, metered

WINDOW = 1024
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split()


def vocabulary(topic: int) -> list[str]:
    """Twelve words that no other topic has."""
    return [f"{SYLLABLES[topic]}{a}{b}" for a in SYLLABLES[:4] for b in SYLLABLES[4:7]]


def planted(order: list[int], sentences_: int = 5, seed: int = 0) -> str:
    """A block of sentences for each entry, of its topic's words alone."""
    draw = random.Random(seed)
    return "".join(
        " ".join(draw.choices(vocabulary(topic), k=8)).capitalize() + f" {vocabulary(topic)[0]}. "
        for topic in order
        for _ in range(sentences_)
    )


def blocks_of(text: str, size: int = 5) -> list[str]:
    said = sentences(text)
    return ["".join(said[i : i + size]) for i in range(0, len(said), size)]


ORDERS = {
    "one after the other": [0] * 6 + [1] * 6 + [2] * 6,
    "alternating": [0, 1, 2] * 6,
    "of unequal sizes": [0] * 12 + [1] * 4 + [0] * 3 + [2] * 5 + [1] * 2,
    "many": [topic for topic in range(8) for _ in range(5)],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=list(ORDERS))
@pytest.mark.parametrize("seed", range(3))
def test_planted_topics_are_found_exactly(order: list[int], seed: int) -> None:
    found = topics_of(tf_idf(blocks_of(planted(order, seed=seed))))
    assert found == [[i for i, one in enumerate(order) if one == topic] for topic in dict.fromkeys(order)]


def test_topics_are_the_same_whatever_blocks_are_called() -> None:
    """The text turned round has the same topics, turned round."""
    order = ORDERS["of unequal sizes"]
    vectors = tf_idf(blocks_of(planted(order)))
    there = {frozenset(topic) for topic in topics_of(vectors)}
    back = {frozenset(len(order) - 1 - i for i in topic) for topic in topics_of(vectors[::-1].copy())}
    assert there == back


@pytest.mark.parametrize("count", [1, 2, NEIGHBOURS + 3])
def test_blocks_without_any_words_are_in_topics_all_the_same(count: int) -> None:
    found = topics_of(np.zeros((count, 1), np.float32))
    assert sorted(i for topic in found for i in topic) == list(range(count))


def compressed(text: str, ratio: float, model=None, **options) -> tuple[str, object]:
    model = model or metered(Talker(finds), window=WINDOW)
    return asyncio.run(SemanticCompression(**options).compressed(model, text, ratio)), model


def test_a_ratio_of_1_is_the_text() -> None:
    text = planted(ORDERS["alternating"])
    for write in ("model", "sentences"):
        short, model = compressed(text, 1.0, write=write)
        assert short == text and not model.trace.calls


@pytest.mark.parametrize("ratio", [1 / 6, 0.3, 0.7])
@pytest.mark.parametrize("order", ORDERS.values(), ids=list(ORDERS))
def test_sentences_are_of_the_asked_length_in_order_from_every_topic(order: list[int], ratio: float) -> None:
    text = planted(order)
    short, model = compressed(text, ratio, write="sentences")
    every, kept = [one.strip() for one in sentences(text)], [one.strip() for one in sentences(short)]
    places = [every.index(one) for one in kept]
    assert places == sorted(set(places)) and not model.trace.calls
    share = len(model.spans(short)) / len(model.spans(text))
    assert 0.9 * ratio <= share <= ratio
    assert {order[place // 5] for place in places} == set(order)


def test_the_model_is_asked_once_for_each_topic_with_its_share_of_words() -> None:
    order = ORDERS["of unequal sizes"]
    text = planted(order)
    model = metered(Talker(lambda prompt, again: f"All of {prompt.split()[0].lower()}."), window=2**14)
    short, _ = compressed(text, 1 / 6, model)
    calls = [call for _, call in sorted(model.trace.calls.items())]
    assert [call.role for call in calls] == [f"topic {i} of 3" for i in (1, 2, 3)]
    assert all(call.after == () for call in calls)
    for topic, call in enumerate(calls):
        read = call.prompt.partition("\n\nSay what")[0]
        assert set(re.findall(r"\w+", read.lower())) <= set(vocabulary(topic))
        assert len(sentences(read)) == 5 * order.count(topic)
        limit = int(re.search(r"at most (\d+) words", call.prompt)[1])
        assert limit == pytest.approx(0.65 * len(model.spans(read)) / 6, rel=0.1)
    firsts = [planted(order).split()[i * 45].lower() for i in (order.index(0), order.index(1), order.index(2))]
    assert short.split("\n\n")[:3] == [f"All of {first}." for first in firsts]


def test_a_topic_longer_than_the_window_is_several_calls() -> None:
    text = planted([0] * 40)
    model = metered(Talker(lambda prompt, again: "Done."), window=WINDOW)
    compressed(text, 1 / 6, model)
    read = [call.prompt.partition("\n\nSay what")[0] for _, call in sorted(model.trace.calls.items())]
    assert len(read) > 3 and all(call.counted < WINDOW for call in model.trace.calls.values())
    found = sorted(one.strip() for part in read for one in sentences(part))
    assert found == sorted(one.strip() for one in sentences(text))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(-5, 3000))
def test_shares_are_no_more_than_there_is_and_leave_nobody_out(tokens: list[int], target: int) -> None:
    found = shares(tokens, target)
    assert sum(found) <= max(0, target) and all(0 <= one <= many for one, many in zip(found, tokens, strict=True))
    floor = min(24, max(0, target) // len(tokens))
    assert all(one >= min(floor, many) for one, many in zip(found, tokens, strict=True))
    assert sum(found) > min(target, sum(tokens)) - len(tokens) - 1 or target < 0
    longer = [one for one, many in zip(found, tokens, strict=True) if many == max(tokens)]
    assert max(found) == max(longer)


def test_a_sentence_unlike_all_others_is_kept_whole_and_no_model_is_asked_for_it() -> None:
    needle = "Xylophone 11111. "
    text = planted([0] * 12) + needle + planted([1] * 12)
    model = metered(Talker(lambda prompt, again: "Summed up."), window=WINDOW)
    short, _ = compressed(text, 0.15, model, block=1)
    assert "11111" in short and not any("Xylophone" in call.prompt for call in model.trace.calls.values())
    assert len(model.spans(short)) <= 0.15 * len(model.spans(text))


def test_a_model_that_takes_all_of_its_room_stays_within_the_ratio() -> None:
    text = planted([topic for topic in range(8) for _ in range(8)])
    for ratio in (0.05, 1 / 6, 0.5):
        model = metered(Talker(lambda prompt, again: "word " * 999), window=WINDOW)
        short, _ = compressed(text, ratio, model)
        assert 0.8 * ratio < len(model.spans(short)) / len(model.spans(text)) <= ratio


def test_topics_that_nobody_sums_up_give_sentences() -> None:
    text = planted(ORDERS["one after the other"])
    model = metered(Talker(lambda prompt, again: "Summed up."), window=4096, budget=Budget(calls=3))
    short, _ = compressed(text, 1 / 6, model)
    assert short.count("Summed up.") == 2 and any("1 of 3 calls of a topic" in note for note in model.trace.notes)
    last = short.rpartition("Summed up.\n\n")[2]
    assert last and set(re.findall(r"\w+", last.lower())) <= set(vocabulary(2))


def test_where_summaries_have_no_room_sentences_are_taken_and_that_is_told() -> None:
    text = planted([topic for topic in range(8) for _ in range(5)])
    model = metered(Talker(finds), window=WINDOW)
    short, _ = compressed(text, 0.01, model)
    assert short.strip() and not model.trace.calls and len(model.spans(short)) <= 0.01 * len(model.spans(text))
    assert any("sentences are taken" in note for note in model.trace.notes)


def test_all_of_it_reads_more_than_the_window_holds() -> None:
    text = planted([0] * 9 + [1] * 9 + [2] * 9)
    answer, model = answer_of(SemanticCompression(write="sentences"), text, metered(Talker(finds), window=WINDOW))
    (call,) = model.trace.calls.values()
    assert len(model.spans(text)) > 4 * WINDOW and answer == "nothing" and call.counted < WINDOW
    assert all(any(word in call.prompt.lower() for word in vocabulary(topic)) for topic in range(3))


def test_numbers_are_listed_on_request() -> None:
    text = planted([0] * 10) + "The code of Oslo is 11111. " + planted([1] * 10)
    options = {"write": "sentences", "ratio": 0.02}
    models = [
        answer_of(SemanticCompression(verbatim=one, **options), text, metered(window=WINDOW))[1]
        for one in (False, True)
    ]
    without, beside = (model.trace.calls[0].prompt for model in models)
    assert "Oslo: 11111" not in without and "\n\nOslo: 11111\n\nAbove is" in beside
    assert all("nothing is left of them" in note for note in models[1].trace.notes)


def test_a_list_that_is_too_long_is_cut_and_that_is_told() -> None:
    text = "".join(f"The code of City{i} is {i}. " for i in range(900))
    _, model = answer_of(SemanticCompression(write="sentences", verbatim=True), text, metered(window=WINDOW))
    assert any(note.startswith("the list had") for note in model.trace.notes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The code of Oslo is 11111. It rains.", "Oslo: 11111"),
        ("Ann Lee met Bo on 2021-03-04 at 10:30. 7 came.", "Ann Lee, Bo: 2021-03-04, 10:30\n7"),
        ("One is 3.5, two is 4. One is 3.5, two is 4.", "3.5, 4"),
        ("No numbers here.", ""),
        (
            "It was -5 degrees in Oslo, in Bergen +3.5 or \u22122, of 7 % and $4,711.",
            "Oslo, Bergen: -5, +3.5, \u22122, 7 %, $4,711",
        ),
        (
            "So paid \u00c9lodie \u00d8rsted and \u0416\u0443\u043a 5\u20ac, 3-4 times.",
            "\u00c9lodie \u00d8rsted, \u0416\u0443\u043a: 5\u20ac, 3-4",
        ),
    ],
)
def test_the_list_has_numbers_with_the_names_beside_them(text: str, expected: str) -> None:
    assert verbatim(text) == expected


def test_central_sentences_are_told_once() -> None:
    said = metered()
    texts = ["red green blue", "red green blue", "red green", "far away"]
    parts = [Chunk(one, 0, len(said.spans(one))) for one in texts]
    found = most_central(tf_idf(texts), parts, sum(part.tokens for part in parts))
    assert found in ([0, 2, 3], [1, 2, 3])
    assert most_central(tf_idf(texts), parts, parts[0].tokens)[0] in (0, 1)
    assert most_central(tf_idf(texts), parts, 0) == []


def test_packing_loses_nothing_and_fits() -> None:
    said = [Chunk("x", i, 1 + i % 7) for i in range(50)]
    runs = list(packed(range(50), said, 12))
    assert [i for run in runs for i in run] == list(range(50))
    assert all(sum(said[i].tokens for i in run) <= 12 for run in runs)


@pytest.mark.parametrize(("key", "value"), [("ratio", 0.0), ("ratio", 1.5), ("block", 0)])
def test_what_cannot_be_is_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{key} is"):
        SemanticCompression(**{key: value})


def test_a_topic_of_which_nothing_is_left_is_said() -> None:
    long = "zebra " * 900 + "ends. "
    text = "".join(f"The grass is green on day {i}. " for i in range(60)) + long
    _, model = answer_of(SemanticCompression(write="sentences", block=1), text, metered(window=1024))
    assert any("nothing is left of them" in note for note in model.trace.notes)
