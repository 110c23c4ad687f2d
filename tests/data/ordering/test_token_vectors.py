import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from ropewalk.data.corpus import Corpus, Manifest, write_shard
from ropewalk.data.ordering import token_vectors
from ropewalk.data.ordering.kept_vectors import Embedder
from ropewalk.data.ordering.token_vectors import TokenVectors, _grams


def corpus_of(folder, documents: list[list[int]], begin: tuple[int, ...] = ()) -> Corpus:
    names = [f"text {i}" for i in range(len(documents))]
    shard = write_shard(folder, "00000", [[*begin, *one] for one in documents], names, 50_000)
    Manifest("none", "none", 50_000, begin, (shard,)).write(folder)
    return Corpus.open(folder)


def vectors_of(embedder: Embedder, corpus: Corpus) -> np.ndarray:
    begin = len(corpus.manifest.begin)
    return embedder.over(corpus)([corpus.tokens(one, begin) for one in range(len(corpus))])


def topics(count: int, seed: int = 0) -> list[list[int]]:
    """Each of one of four ranges of tokens, and of a common one."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 100, 60) + np.where(rng.random(60) < 0.5, 1000, 100 * (i % 4))).tolist() for i in range(count)
    ]


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def test_they_are_as_similar_as_by_words_of_the_same_library(tmp_path) -> None:
    documents = topics(40)
    found = vectors_of(TokenVectors(), corpus_of(tmp_path, documents, begin=(7,)))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    plain = words.fit_transform([" ".join(map(str, one)) for one in documents])
    wanted = cosines(TruncatedSVD(40, random_state=1).fit_transform(plain))
    np.testing.assert_allclose(cosines(found), wanted, atol=0.02)  # n-grams that share a hash


def test_texts_of_one_topic_are_the_most_similar(tmp_path) -> None:
    found = cosines(vectors_of(TokenVectors(), corpus_of(tmp_path, topics(60))))
    topic = np.arange(60) % 4
    same = (topic[:, None] == topic) & ~np.eye(60, dtype=bool)
    assert found[same].mean() > 2 * found[topic[:, None] != topic].mean()


def test_seed_and_documents_alone_decide(tmp_path) -> None:
    corpus = corpus_of(tmp_path, topics(50))
    whole = vectors_of(TokenVectors(3), corpus)
    embed, texts = TokenVectors(3).over(corpus), list(corpus)
    np.testing.assert_array_equal(np.concatenate([embed(texts[:20]), embed(texts[20:])]), whole)
    assert TokenVectors(3).digest != TokenVectors(4).digest


def test_many_texts_are_reduced_and_one_is_none_the_less_a_vector(tmp_path, monkeypatch) -> None:
    (tmp_path / "many").mkdir()
    monkeypatch.setattr(token_vectors, "SIZE", 16)
    many = vectors_of(TokenVectors(2**50), corpus_of(tmp_path / "many", topics(100)))
    assert many.shape == (100, 16) and many.dtype == np.float32
    (tmp_path / "one").mkdir()
    assert np.isfinite(vectors_of(TokenVectors(), corpus_of(tmp_path / "one", [[5, 6, 7]]))).all()


def test_an_n_gram_is_itself_wherever_it_stands() -> None:
    one, other = _grams(np.array([4, 5, 6])), _grams(np.array([9, 4, 5]))
    assert len(one) == 5 and len(np.intersect1d(one, other)) == 3, "4, 5, and 4 with 5 behind it"
    assert len(np.intersect1d(_grams(np.array([4, 5])), _grams(np.array([5, 4])))) == 2
    assert len(_grams(np.array([4]))) == 1 and len(_grams(np.array([], int))) == 0


@pytest.mark.parametrize("package", ["sklearn.decomposition", "scipy.sparse"])
def test_without_the_library_it_says_what_brings_it(package: str, tmp_path, monkeypatch) -> None:
    from ropewalk.common.errors import UserError

    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=f"need the package '{package}'"):
        TokenVectors().over(corpus_of(tmp_path, topics(5)))
