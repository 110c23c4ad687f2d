import numpy as np
import pytest

from ropewalk.data.ordering.similar_path import similar_path


def nearest(likeness: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    which = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
    return which, np.take_along_axis(likeness, which, 1).astype(np.float32)


def of_edges(count: int, said: dict[tuple[int, int], float]) -> np.ndarray:
    likeness = np.zeros((count, count))
    for (a, b), value in said.items():
        likeness[a, b] = likeness[b, a] = value
    return likeness


FIVE = of_edges(5, {(0, 1): 0.9, (0, 2): 0.1, (0, 3): 0.4, (1, 2): 0.8, (1, 3): 0.2, (2, 3): 0.3, (2, 4): 0.7,
                    (3, 4): 0.5})  # fmt: skip


def test_the_path_of_five_documents() -> None:
    assert similar_path(*nearest(FIVE, 2)).tolist() == [0, 1, 2, 4, 3]


def plainly(likeness: np.ndarray, k: int) -> list[int]:
    """The same by the words of the paper, on sets and a matrix."""
    n = len(likeness)
    chosen = [set(np.argsort(-likeness[i], kind="stable")[:k].tolist()) - {i} for i in range(n)]
    edges = [{j for j in range(n) if (j in chosen[i] or i in chosen[j]) and likeness[i, j] > 0} for i in range(n)]
    left, path = set(range(n)), []
    while left:
        at = min(left, key=lambda i: (len(edges[i]), i))
        while True:
            path.append(at)
            left.discard(at)
            ahead = edges[at] & left
            if not ahead:
                break
            at = min(ahead, key=lambda j: (-likeness[path[-1], j], j))
    return path


@pytest.mark.parametrize("seed", range(20))
def test_any_graph_gives_the_path_that_its_definition_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 40)), int(rng.integers(1, 6))
    half = rng.integers(-3, 9, (n, n)) / 8  # with equals, and with what is no likeness
    likeness = (np.triu(half, 1) + np.triu(half, 1).T).astype(np.float32)
    path = similar_path(*nearest(likeness, min(k, n)))
    assert path.tolist() == plainly(likeness, min(k, n))
    assert sorted(path.tolist()) == list(range(n))


def test_it_starts_at_an_end_and_anew_in_another_part() -> None:
    chain = of_edges(6, {(0, 1): 0.5, (1, 2): 0.6, (3, 4): 0.9, (4, 5): 0.8})
    assert similar_path(*nearest(chain, 2)).tolist() == [0, 1, 2, 3, 4, 5]
    lonely = of_edges(4, {(0, 1): 0.5, (1, 3): 0.5})
    assert similar_path(*nearest(lonely, 2)).tolist() == [2, 0, 1, 3], "who has no neighbour comes first"


def test_no_neighbour_and_itself_are_none() -> None:
    which = np.array([[0, 1, -1], [1, -1, 0], [2, -1, -1]])
    likeness = np.array([[1, 0.5, 9], [1, 9, 0.5], [1, 9, 9]], np.float32)
    assert similar_path(which, likeness).tolist() == [2, 0, 1]
