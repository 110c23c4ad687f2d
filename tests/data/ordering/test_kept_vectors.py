from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.ordering.kept_vectors import kept_vectors
from tests.data.ordering.test_token_vectors import corpus_of


@dataclass
class Lengths:
    """A vector of a document's length, and the lengths of what was asked for."""

    digest: str = "a"
    name: str = "lengths"
    broken: int = -1
    asked: list[list[int]] = field(default_factory=list)

    def over(self, corpus: Corpus) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        def vectors(documents: Sequence[np.ndarray]) -> np.ndarray:
            self.asked.append([len(one) for one in documents])
            found = np.array([[len(one), len(one) - 4] for one in documents], np.float32)
            found[[len(one) == self.broken for one in documents]] = np.nan
            return found

        return vectors


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    (tmp_path / "corpus").mkdir()
    return corpus_of(tmp_path / "corpus", [[5] * n for n in (1, 4, 6, 2, 9)])


def test_they_are_made_block_by_block_and_once(corpus, tmp_path) -> None:
    embedder = Lengths()
    found = kept_vectors(corpus, embedder, tmp_path, block=2)
    assert embedder.asked == [[1, 4], [6, 2], [9]] and found.dtype == np.float32
    np.testing.assert_allclose(found * [[10**0.5], [4], [40**0.5], [8**0.5], [106**0.5]], [
        [1, -3], [4, 0], [6, 2], [2, -2], [9, 5]], rtol=1e-6)  # fmt: skip
    kept_vectors(corpus, embedder, tmp_path, block=2)
    assert len(embedder.asked) == 3
    (tmp_path / next(one.name for one in sorted(tmp_path.iterdir()) if one.name.startswith("00001"))).unlink()
    np.testing.assert_array_equal(kept_vectors(corpus, embedder, tmp_path, block=2), found)
    assert embedder.asked[3:] == [[6, 2]], "only what is missing"


def test_those_of_another_model_or_of_other_texts_are_not_taken(corpus, tmp_path) -> None:
    kept_vectors(corpus, Lengths(), tmp_path, block=2)
    other = Lengths(digest="b")
    kept_vectors(corpus, other, tmp_path, block=2)
    assert len(other.asked) == 3
    (tmp_path / "other").mkdir()
    more = corpus_of(tmp_path / "other", [[5] * n for n in (1, 4, 6, 2, 8)])
    again = Lengths()
    kept_vectors(more, again, tmp_path, block=2)
    assert len(again.asked) == 3


def test_what_is_not_finite_or_not_what_was_written_is_refused(corpus, tmp_path) -> None:
    with pytest.raises(UserError, match="lengths gives text 3 a vector that is not finite"):
        kept_vectors(corpus, Lengths(broken=2), tmp_path, block=2)
    kept_vectors(corpus, Lengths(), tmp_path, block=2)
    file = next(one for one in tmp_path.iterdir() if one.name.startswith("00000"))
    np.save(file, np.zeros((3, 2), np.float32))
    with pytest.raises(UserError, match=r"holds float32 \[3, 2\], expected float32 \[2, e\]"):
        kept_vectors(corpus, Lengths(), tmp_path, block=2)
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        kept_vectors(corpus, Lengths(), tmp_path, block=2)


def test_a_vector_of_nothing_stays_one(corpus, tmp_path) -> None:
    class Nothing(Lengths):
        def over(self, corpus: Corpus) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
            return lambda documents: np.zeros((len(documents), 3), np.float32)

    assert not kept_vectors(corpus, Nothing(), tmp_path).any()
