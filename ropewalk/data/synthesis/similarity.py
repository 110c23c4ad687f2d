"""Which texts are like another one: TF-IDF over their words, which needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.common.extras import extra
from ropewalk.data.arrangement import Ints


class Similarity:
    """Cosines between texts as vectors of their words, the rarer the heavier.

    Args:
        texts: by number.

    Raises:
        UserError: if scikit-learn is missing, or the texts have no words.
    """

    def __init__(self, texts: Sequence[str]):
        text = extra("sklearn.feature_extraction.text", "texts that are retrieved", "order")
        self._words = text.TfidfVectorizer(dtype=np.float32, sublinear_tf=True)
        try:
            self._vectors = self._words.fit_transform(texts)
        except ValueError as error:
            raise UserError(f"nothing is like anything in these texts: {error}", "Give texts of words.") from None

    def ranked(self, text: str) -> tuple[Ints, NDArray[np.float32]]:
        """Numbers of all texts, the most similar first, and their cosines; int64 [n], float32 [n]."""
        cosines = np.asarray((self._vectors @ self._words.transform([text]).T).todense(), np.float32)[:, 0]
        order = np.lexsort((np.arange(len(cosines)), -cosines))
        return order, cosines[order]
