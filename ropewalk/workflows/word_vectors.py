"""Texts as vectors, by the words in them or by an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.extras import extra
from ropewalk.workflows.strategy import Model

WORDS = 4096  # different ones that count, the most frequent
WORD = r"(?u)[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\b\w\w+\b"  # Chinese and its neighbours by signs


async def vectors_of(model: Model, texts: Sequence[str], by: Literal["words", "vectors"]) -> NDArray[np.float32]:
    """float32 [texts, e], of length 1; of length 0 for a text without words.

    Args:
        model: that has vectors.
        texts: one or more.
        by: ``words``: TF-IDF; ``vectors``: the embedding model.

    Raises:
        UserError: if there is no embedding model, or a library is missing.
    """
    return await model.embed(texts) if by == "vectors" else tf_idf(texts)


def tf_idf(texts: Sequence[str]) -> NDArray[np.float32]:
    """float32 [texts, words], of length 1: how often each word is in a text, the rarer the heavier."""
    library = extra("sklearn.feature_extraction.text", "vectors of words", "read")
    vectorizer = library.TfidfVectorizer(token_pattern=WORD, max_features=WORDS, sublinear_tf=True, dtype=np.float32)
    try:
        return np.asarray(vectorizer.fit_transform(texts).toarray(), np.float32)
    except ValueError:  # no word in any of them
        return np.zeros((len(texts), 1), np.float32)
