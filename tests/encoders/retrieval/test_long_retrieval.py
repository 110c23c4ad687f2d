"""Texts of exact length with one place that answers, and the scores of who finds it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from ropewalk.common.errors import UserError
from ropewalk.encoders.retrieval.long_retrieval import (
    TASKS,
    TooShort,
    first_right,
    haystack,
    ndcg,
    needles,
    passkeys,
    short_texts,
    similarities,
)
from tests.tokenizers import byte_level

TOKENIZER = byte_level()


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [200, 777])
def test_every_text_has_its_length_and_its_answer_where_it_is_said_to_stand(task: str, length: int) -> None:
    made = TASKS[task](ids, length, 2, seed=3, n=16)
    assert {len(text) for text in made.documents} == {length - 2} and len(made.questions) == 16
    for i, (question, own, depth) in enumerate(zip(made.questions, made.answers, made.depths, strict=True)):
        assert own == {i} and depth is not None
        text = TOKENIZER.decode(made.documents[i])
        if task == "passkey":
            name = question.removeprefix("What is the pass key for ").rstrip("?")
            assert text.count(f"The passkey for {name}".lower()) == 0 and text.count(name) == 2
            assert all(name not in TOKENIZER.decode(other) for j, other in enumerate(made.documents) if j != i)
            at = len(ids(text[: text.index(name)]))
            assert 0 <= depth * (length - 2) - at < 90  # which the sentence is short of


def test_draws_are_those_of_the_seed_and_a_text_that_does_not_fit_is_refused() -> None:
    assert passkeys(ids, 300, 2, seed=1).documents == passkeys(ids, 300, 2, seed=1).documents
    assert passkeys(ids, 300, 2, seed=1).documents != passkeys(ids, 300, 2, seed=2).documents
    for task in TASKS.values():
        with pytest.raises(TooShort):
            task(ids, 12, 2)
    with pytest.raises(UserError, match="64 needles"):
        needles(ids, 300, 2, n=65)


def test_needles_share_their_prose_or_do_not() -> None:
    alike, other = (needles(ids, 2000, 0, n=4, alike=one).documents for one in (True, False))
    shared = [len(set(zip(a, a[1:], a[2:], strict=False)) & set(zip(b, b[1:], b[2:], strict=False))) for a, b in
              ((alike[0], alike[1]), (other[0], other[1]))]  # fmt: skip
    assert shared[0] > 3 * shared[1]
    assert len(haystack()) > 200_000 and "\n" not in haystack()


def test_words_that_are_shared_find_every_short_text() -> None:
    """An independent solver: how many words a question shares with a text."""
    made = short_texts(ids)
    texts = [set(TOKENIZER.decode(text).replace("'s", "").split()) for text in made.documents]
    asked = [set(question.rstrip("?").split()) for question in made.questions]
    scores = np.asarray([[len(a & b) for b in texts] for a in asked], np.float32)
    assert first_right(scores, made.relevant).mean() == 1.0


def test_short_texts_of_a_length_hold_the_same_sentences_in_the_same_prose() -> None:
    alone, made = short_texts(ids), short_texts(ids, 200, 2, n=16)
    assert [len(text) for text in made.documents] == [198] * 16 and made.length == 200
    assert made.questions == alone.questions[:16] and made.answers == alone.answers[:16]
    rests, places = set(), set()
    for text, sentence in zip(made.documents, alone.documents, strict=False):
        at = next(i for i in range(198) if text[i : i + len(sentence)] == sentence)
        places.add(at)
        rests.add(tuple([*text[:at], *text[at + len(sentence) :]][:120]))
    assert len(rests) == 1 and len(places) > 8
    with pytest.raises(TooShort):
        short_texts(ids, 12, 2)


def test_a_text_with_several_vectors_is_as_near_as_the_nearest() -> None:
    question = np.eye(3, dtype=np.float32)[:1]
    documents = [np.eye(3, dtype=np.float32)[1:], np.eye(3, dtype=np.float32), -np.eye(3, dtype=np.float32)[:1]]
    assert similarities(question, documents).tolist() == [[0, 1, -1]]


@given(some.lists(some.floats(0, 1, width=32), min_size=2, max_size=14, unique=True), some.data())
def test_scores_follow_the_rank_of_the_right_text(values: list[float], data: some.DataObject) -> None:
    right = data.draw(some.integers(0, len(values) - 1))
    relevant = np.zeros((1, len(values)), bool)
    relevant[0, right] = True
    rank = sum(value > values[right] for value in values)
    scores = np.asarray([values], np.float32)
    assert first_right(scores, relevant)[0] == (rank == 0)
    assert ndcg(scores, relevant)[0] == pytest.approx(1 / np.log2(rank + 2) if rank < 10 else 0.0)


def test_texts_that_are_all_the_same_give_chance_and_order_does_not_count() -> None:
    relevant = np.eye(8, dtype=bool)
    assert first_right(np.ones((8, 8), np.float32), relevant).tolist() == [1 / 8] * 8
    assert ndcg(np.ones((1, 12), np.float32), np.eye(12, dtype=bool)[:1]).tolist() == [0.0]
    scores = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    order = np.random.default_rng(1).permutation(8)
    assert np.array_equal(first_right(scores, relevant), first_right(scores[:, order], relevant[:, order]))
    two = np.asarray([[True, True, False]])
    assert ndcg(np.asarray([[0.9, 0.1, 0.5]], np.float32), two)[0] == pytest.approx((1 + 0.5) / (1 + 1 / np.log2(3)))
