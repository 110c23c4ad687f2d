"""Made-up proteins: what determines what, what is asked, and walks whose edges mean something."""

from __future__ import annotations

import numpy as np
import pytest

from ropewalk.lab import proteins as made
from ropewalk.training.training_batch import IGNORED


@pytest.fixture
def chance() -> np.random.Generator:
    return np.random.default_rng(0)


def complement(residues: np.ndarray) -> np.ndarray:
    """Of its kind."""
    kind, letter = np.divmod(residues - made.PLAIN, made.LETTERS)
    return made.PLAIN + kind * made.LETTERS + made.LETTERS - 1 - letter


def test_each_site_is_the_complement_of_the_other_and_kinds_do_not_cross(chance) -> None:
    found = made.pairs(4, 1024, chance)
    rows, places = np.nonzero(found.partner >= 0)
    there = found.partner[rows, places]
    assert len(rows) > 200 and (found.partner[rows, there] == places).all()
    assert (complement(found.ids[rows, places]) == found.ids[rows, there]).all()
    here, its = (found.ids[rows, found.marker[rows, one]] - made.MARKERS for one in (places, there))
    assert (here // 2 == its // 2).all() and (here != its).all()
    assert ((here % 2 == 0) == (places < there)).all(), "the first end comes first"
    distance = abs(there - places)
    assert distance.min() >= made.NEAREST and distance.max() <= made.FARTHEST
    assert (distance > 128).sum() > 5 and np.median(distance) < 32
    for row in range(4):  # between two ends of a kind there is no other of it
        for kind in range(made.KINDS):
            ends = found.ids[row][np.isin(found.ids[row], made.MARKERS + 2 * kind + np.arange(2))] % 2
            assert (ends[1:] != ends[:-1]).mean() > 0.8


def test_a_crop_knows_only_what_lies_in_it(chance) -> None:
    whole = made.pairs(2, 512, chance)
    cut = whole.crops(128)
    assert (cut.ids.reshape(2, 512) == whole.ids).all()
    rows, places = np.nonzero(cut.partner >= 0)
    assert (complement(cut.ids[rows, places]) == cut.ids[rows, cut.partner[rows, places]]).all()
    assert 0 < len(rows) < (whole.partner >= 0).sum()
    with pytest.raises(ValueError, match="no whole number"):
        whole.crops(100)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_asked_is_hidden_and_what_forces_it_is_shown(chance, training) -> None:
    rows = made.pairs(16, 1024, chance)
    found = rows.masked(chance, training)
    asked = found.labels != IGNORED
    assert (found.labels[asked] == rows.ids[asked]).all() and (found.ids[~asked] == rows.ids[~asked]).all()
    hidden = (found.ids[asked] == made.MASK).mean()
    assert hidden == 1 if not training else 0.75 < hidden < 0.85
    assert abs(asked[rows.marker >= 0].mean() - made.MASKED) < 0.03 and not asked[rows.ids >= made.MARKERS].any()
    forced, places = np.nonzero(found.distance)
    there = rows.partner[forced, places]
    assert len(forced) > 100 and asked[forced, places].all() and not asked[forced, there].any()
    assert (found.distance[forced, places] == abs(there - places)).all()
    assert (complement(found.ids[forced, there]) == found.labels[forced, places]).all()


def test_edges_of_a_walk_join_members_of_a_family_and_nothing_else_does(chance) -> None:
    walks = made.walks(40, 6, chance)
    size = made.LENGTH + 1
    links = walks.ids[:, made.LENGTH :: size]
    assert set(np.unique(links)) == {made.EDGE, made.NO_EDGE} and 0.4 < (links == made.NO_EDGE).mean() < 0.6
    codes = np.stack([row[np.flatnonzero(row == made.FAMILY) + 1] for row in walks.ids])
    same = codes[:, 1:] == codes[:, :-1]
    assert same[links == made.EDGE].all() and same[links == made.NO_EDGE].mean() < 0.5
    rows, places = np.nonzero(walks.partner >= 0)
    there = walks.partner[rows, places]
    assert (walks.ids[rows, there] == walks.ids[rows, places]).all()
    assert set(abs(there // size - places // size)) == {1}, "neighbours"
    proteins = np.pad(walks.ids, ((0, 0), (0, 1))).reshape(40, 6, size)[:, :, : made.LENGTH]
    assert (proteins[:, 1:] != proteins[:, :-1]).any(-1).all(), "no step stays"
    for row, place in zip(rows, places, strict=True):
        assert (proteins[row] == proteins[row, place // size]).all(-1).sum() == 1, "its own protein is not elsewhere"


def test_a_shuffled_walk_has_the_same_proteins_elsewhere(chance) -> None:
    walks = made.walks(30, 5, chance)
    found = made.shuffled(walks, chance)
    links = np.isin(walks.ids, (made.EDGE, made.NO_EDGE))
    assert (found.ids[links] == walks.ids[links]).all() and (found.ids != walks.ids).mean() > 0.5
    first, second = (sorted(np.pad(one.ids, ((0, 0), (0, 1)), constant_values=-9).reshape(150, -1)[:, :-1].tolist())
                     for one in (walks, found))  # fmt: skip
    assert first == second
    many = made.joined([made.walks(8, 8, chance) for _ in range(30)])
    shares = [(one.masked(chance, training=True).labels != IGNORED)[one.marker >= 0] for one in
              (many, made.shuffled(many, chance))]  # fmt: skip
    assert shares[0].size == shares[1].size == 30 * 64
    assert all(abs(one.mean() - made.MASKED) < 0.04 for one in shares), "as much is asked of sites"
    assert not made.shuffled(many, chance).masked(chance, training=True).distance.any()
