"""Vectors of words: of length 1, by what is rare, in any script; and none where there is no word."""

from __future__ import annotations

import asyncio

import numpy as np

from ropewalk.workflows.word_vectors import tf_idf, vectors_of
from tests.workflows.readers import metered

TEXTS = ["the cat sat", "the cat ran", "the stock fell", "..."]


def test_they_have_length_1_and_like_texts_are_near() -> None:
    vectors = tf_idf(TEXTS)
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(likeness), [1, 1, 1, 0], atol=1e-6)
    assert likeness[0, 1] > likeness[0, 2] > likeness[0, 3] == 0


def test_they_are_those_of_the_definition() -> None:
    texts = ["aa bb", "aa aa cc"]
    idf = {"aa": 1.0, "bb": np.log(3 / 2) + 1, "cc": np.log(3 / 2) + 1}
    wanted = np.array([[1.0, idf["bb"], 0], [1 + np.log(2), 0, idf["cc"]]])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(tf_idf(texts), wanted, rtol=1e-6)


def test_chinese_is_compared_by_its_signs_and_texts_without_words_by_nothing() -> None:
    likeness = (lambda v: v @ v.T)(tf_idf(["猫在草地上", "狗在草地上", "股票下跌"]))
    assert likeness[0, 1] > 0.5 and likeness[0, 2] == 0
    assert not tf_idf(["...", "?!"]).any()


def test_an_embedding_model_is_taken_where_it_is_asked_for() -> None:
    model = metered(embed=lambda texts: np.array([[len(text), 0.0] for text in texts], np.float32))
    assert asyncio.run(vectors_of(model, ["ab", "abc"], "vectors")).tolist() == [[1, 0], [1, 0]]
    assert asyncio.run(vectors_of(model, ["ab", "abc"], "words")).shape == (2, 2)
