import os

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.ordering.neighbours import neighbours


def clustered(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((count // 20, size))
    points = middles[rng.integers(0, len(middles), count)] + 0.5 * rng.standard_normal((count, size))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_few_are_compared_with_all() -> None:
    vectors = clustered(2500)
    which, likeness = neighbours(vectors, 5)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    best = -np.sort(-cosines, axis=1)[:, :6]
    assert which.shape == likeness.shape == (2500, 6) and (which[:, 0] == np.arange(2500)).all()
    np.testing.assert_allclose(likeness, best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, which, 1), best, atol=1e-5)


def test_cells_miss_few_of_many() -> None:
    vectors = clustered(4000)
    exact, found = neighbours(vectors, 10)[0], neighbours(vectors, 10, seed=3, exact=100)[0]
    assert np.mean([len({*a} & {*b}) / 11 for a, b in zip(exact.tolist(), found.tolist(), strict=True)]) > 0.95


@pytest.mark.parametrize("exact", [100, 10_000])
def test_any_number_of_cores_finds_the_same(exact: int, monkeypatch) -> None:
    vectors, found = clustered(3000), []
    for cores in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        found.append(neighbours(vectors, 10, seed=2**40, exact=exact))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fewer_than_asked_for_are_all_that_there_are() -> None:
    which, _ = neighbours(clustered(40)[:3], 10)
    assert [sorted(row) for row in which.tolist()] == [[0, 1, 2]] * 3


def test_without_the_library_it_says_what_brings_it(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UserError, match="need the package 'faiss'") as caught:
        neighbours(clustered(40), 3)
    assert "faiss-cpu" in caught.value.mend or "[order]" in caught.value.mend
