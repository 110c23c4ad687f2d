"""Near duplicates: every pair that is one by its n-grams, and no other; bands miss few."""

import numpy as np
import pytest

from ropewalk.data.near_duplicates import ALIKE, BINS, GRAM, _grams, _sketch, near_duplicates, resemblance


def plainly(one, other) -> float:
    a, b = (
        {tuple(ids[i : i + GRAM]) for i in range(max(len(ids) - GRAM + 1, 1))} for ids in (one.tolist(), other.tolist())
    )
    return len(a & b) / len(a | b)


def test_resemblance_is_that_of_sets_of_n_grams() -> None:
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
