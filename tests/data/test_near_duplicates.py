"""Near duplicates: every document that resembles one that is kept, by its n-grams, and no other; bands miss few."""

from collections import Counter

import numpy as np
import pytest

import ropewalk.data.near_duplicates as near_duplicates_module
from ropewalk.data.near_duplicates import ALIKE, BINS, GRAM, _grams, _sketch, near_duplicates, resemblance


def plainly(one, other) -> float:
    a, b = (
        Counter(tuple(ids[i : i + GRAM]) for i in range(max(len(ids) - GRAM + 1, 1)))
        for ids in (one.tolist(), other.tolist())
    )
    return (a & b).total() / (a | b).total()


def test_resemblance_is_that_of_multisets_of_n_grams() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        one = rng.integers(0, 3, int(rng.integers(1, 40)))
        other = rng.integers(0, 3, int(rng.integers(1, 40)))
        assert resemblance(one, other) == pytest.approx(plainly(one, other))


def test_copies_with_changes_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    documents = [rng.integers(0, 5000, int(rng.integers(60, 400))) for _ in range(200)]
    for i in range(0, 100, 2):  # every second one of the first hundred: a copy with one token changed
        copy = documents[i].copy()
        copy[len(copy) // 2] += 1
        documents.append(copy)
    first = near_duplicates(documents)
    wanted = np.arange(len(documents))
    for k, i in enumerate(range(0, 100, 2)):
        wanted[200 + k] = i if resemblance(documents[i], documents[200 + k]) >= ALIKE else 200 + k
    assert np.array_equal(first, wanted)
    assert (wanted[200:] < 200).sum() > 45


def test_versions_of_a_text_are_left_out_only_if_they_resemble_one_that_is_kept() -> None:
    rng = np.random.default_rng(5)
    versions = [rng.integers(0, 4000, 400)]
    for i in range(20):  # each says a twentieth anew, until nothing of the first is left
        versions.append(versions[-1].copy())
        versions[-1][20 * i : 20 * i + 20] = rng.integers(0, 4000, 20)
    wanted: list[int] = []
    for i in range(21):
        kept = [j for j in range(i) if wanted[j] == j]
        wanted.append(next((j for j in kept if plainly(versions[j], versions[i]) >= ALIKE), i))
    first = near_duplicates(versions)
    assert first.tolist() == wanted
    assert 5 < len(set(wanted)) < 15


def test_few_repeats_of_a_phrase_are_not_alike_to_many() -> None:
    phrase = np.arange(8)
    few, more, many = np.tile(phrase, 3), np.tile(phrase, 10), np.tile(phrase, 11)
    assert near_duplicates([few, np.tile(phrase, 500), more, many]).tolist() == [0, 1, 2, 2]


def test_texts_that_share_a_sentence_are_seldom_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, compared = np.random.default_rng(6), []
    shared = near_duplicates_module._shared
    monkeypatch.setattr(near_duplicates_module, "_shared", lambda a, b: compared.append(0) or shared(a, b))
    sentence = rng.integers(0, 4000, 15)
    texts = [np.concatenate([sentence, rng.integers(0, 4000, 13)]) for _ in range(1000)]
    assert np.array_equal(near_duplicates([*texts, texts[7]]), [*range(1000), 7])
    assert len(compared) < 20


def test_bands_miss_few_pairs_at_the_threshold() -> None:
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(200):
        one = rng.integers(0, 10**6, 500)
        other = one.copy()
        other[np.arange(5, 500, 50)[:10]] += 1  # each change takes five n-grams of 496: resemblance 446 / 546
        assert 0.8 < resemblance(one, other) < 0.83
        found += near_duplicates([one, other])[1] == 0
    assert found >= 195


def test_sketches_agree_as_often_as_documents_resemble() -> None:
    rng = np.random.default_rng(3)
    shares, true = [], []
    for change in (2, 10, 30):
        for _ in range(60):
            one = rng.integers(0, 10**6, 600)
            other = one.copy()
            other[rng.choice(600, change, replace=False)] += 1
            shares.append((_sketch(_grams(one)) == _sketch(_grams(other))).mean())
            true.append(resemblance(one, other))
    error = np.array(shares) - np.array(true)
    assert abs(error.mean()) < 3 * np.sqrt(0.25 / (BINS * len(error)))


def test_short_and_equal_documents() -> None:
    documents = [np.array(ids) for ids in ([1], [1], [2], [1, 2], [1, 2], [], [])]
    assert near_duplicates(documents).tolist() == [0, 0, 2, 3, 3, 5, 5]
    assert near_duplicates([]).tolist() == []


def test_many_copies_of_one_are_one_group() -> None:
    one = np.arange(100)
    assert not near_duplicates([one] * 150).any()
