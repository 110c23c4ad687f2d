"""Made-up proteins in which residues determine others, far away: alone, and along walks on a graph (2411.08909)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ropewalk.training.training_batch import IGNORED

RESIDUES, KINDS, LETTERS = 20, 2, 5  # symbols; kinds of pairs; residues that a site of one kind may have
PLAIN = 5  # residues below it stand outside of sites; those of each kind's sites follow, then the markers
MARKERS = PLAIN + KINDS * LETTERS
FAMILY = RESIDUES - 1  # the marker of the site that a family has in common
EDGE, NO_EDGE, MASK, PAD = range(RESIDUES, RESIDUES + 4)
NEAREST, FARTHEST = 4, 512  # of the two sites of a pair
MASKED, ELSEWHERE = 0.3, 0.03  # share of residues that are asked: of those of sites, and of others but markers
SWAPPED, KEPT = 0.1, 0.1  # of asked ones, shown as another in training, and as they are
FAMILIES, MEMBERS = 20, 10  # of a graph
LENGTH = 31  # residues of a protein of a graph
STRANGERS = 0.5  # share of a walk's steps that no edge joins

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Proteins:
    """Rows of residues, and which determine which.

    Attributes:
        ids: symbols [rows, n].
        marker: the place of a residue's own marker, -1 where it has none [rows, n].
        partner: the place of the residue that determines it, -1 where none does [rows, n].
    """

    ids: Ids
    marker: Ids
    partner: Ids

    def crops(self, length: int) -> Proteins:
        """Rows of ``length``, one behind another; what lies in another row determines nothing any more."""
        n = self.ids.shape[1]
        if n % length:
            raise ValueError(f"rows of {n} residues are no whole number of crops of {length}")
        start = np.arange(n) // length * length
        places = [np.where((one >= start) & (one < start + length), one - start, -1)
                  for one in (self.marker, self.partner)]  # fmt: skip
        return Proteins(*(one.reshape(-1, length) for one in (self.ids, *places)))

    def masked(self, rng: np.random.Generator, training: bool) -> Masked:
        """Rows with some residues masked, as ESM-2 does it for training (80 % masks, 10 % others, 10 % as they are)."""
        share = np.where(self.marker >= 0, MASKED, ELSEWHERE)
        asked = (rng.random(self.ids.shape) < share) & (self.ids < MARKERS)
        shown = np.where(asked, MASK, self.ids)
        if training:
            way = rng.random(self.ids.shape)
            shown = np.where(asked & (way < SWAPPED), rng.integers(RESIDUES, size=shown.shape), shown)
            shown = np.where(asked & (way >= 1 - KEPT), self.ids, shown)
        rows = np.arange(len(shown))[:, None]
        seen = (self.marker >= 0) & ~asked[rows, self.marker]  # a residue with its marker
        forced = asked & seen & (self.partner >= 0) & (seen & ~asked)[rows, self.partner]
        distance = np.where(forced, abs(self.partner - np.arange(self.ids.shape[1])), 0)
        return Masked(shown, np.where(asked, self.ids, IGNORED), distance)


@dataclass(frozen=True)
class Masked:
    """What a masked language model is asked.

    Attributes:
        ids: what is shown [rows, n].
        labels: what stood there where it is asked, else ``IGNORED``.
        distance: of asked residues to the one that determines them, where that one and both markers are shown; else 0.
    """

    ids: Ids
    labels: Ids
    distance: Ids


def pairs(rows: int, n: int, rng: np.random.Generator) -> Proteins:
    """Proteins with pairs of sites, a marker and a residue each, which is the complement of the other site's.

    A pair of each kind is followed by the next of that kind, so that what a marker means is never in doubt. Distances
    fall off with their square, so that a crop has whole pairs.
    """
    ids = rng.integers(PLAIN, size=(rows, n))
    marker, partner = np.full((rows, n), -1), np.full((rows, n), -1)
    for row in range(rows):
        for kind in range(KINDS):
            first = int(rng.integers(FARTHEST)) - FARTHEST  # a protein begins anywhere in a pair
            while first < n:
                second = first + int(1 / rng.uniform(1 / FARTHEST, 1 / NEAREST))
                _pair(ids[row], marker[row], partner[row], kind, (first, second), int(rng.integers(LETTERS)))
                first = second + 2 + int(rng.integers(NEAREST))
    return Proteins(ids, marker, partner)


def _pair(ids: Ids, marker: Ids, partner: Ids, kind: int, sites: tuple[int, int], residue: int) -> None:
    """Write one pair, as far as its sites lie within the row, unless one lies upon another."""
    ends = [(end, place) for end, place in enumerate(sites) if 0 <= place < len(ids) - 1]
    if any((ids[place : place + 2] >= PLAIN).any() for _, place in ends):
        return
    for end, place in ends:
        ids[place] = MARKERS + 2 * kind + end
        ids[place + 1] = PLAIN + kind * LETTERS + (LETTERS - 1 - residue if end else residue)
        marker[place + 1] = place
        if len(ends) == 2:
            partner[place + 1] = sites[1 - end] + 1


def walks(rows: int, nodes: int, rng: np.random.Generator) -> Proteins:
    """Random walks on a graph of ``FAMILIES``, whose members have one site alike, and edges among themselves.

    Proteins that an edge joins stand on both sides of ``EDGE``, strangers on those of ``NO_EDGE``. The residue of a
    site is determined by that of a neighbour along an edge, unless its own protein stands elsewhere in the walk, where
    it could be read off; what a family has is drawn anew for each graph.
    """
    codes = rng.integers(PLAIN, PLAIN + LETTERS, size=FAMILIES)
    proteins = rng.integers(PLAIN, size=(FAMILIES, MEMBERS, LENGTH))
    site = rng.integers(LENGTH - 1, size=(FAMILIES, MEMBERS))
    for family, member in np.ndindex(FAMILIES, MEMBERS):
        at = site[family, member]
        proteins[family, member, at : at + 2] = FAMILY, codes[family]
    chords = rng.permuted(np.tile(np.arange(MEMBERS), (FAMILIES, 1)), axis=1)  # beside a ring
    size = LENGTH + 1
    ids, marker, partner = (np.full((rows, nodes * size), -1) for _ in range(3))
    for row in range(rows):
        family, member, before = int(rng.integers(FAMILIES)), int(rng.integers(MEMBERS)), -1
        seen: dict[tuple[int, int], list[int]] = {}  # a protein -> where its site stands
        for node in range(nodes):
            if node:
                joined = rng.random() >= STRANGERS
                if joined:
                    near = [(member - 1) % MEMBERS, (member + 1) % MEMBERS, int(chords[family, member])]
                    member = int(rng.choice([one for one in near if one != member]))
                else:
                    family, member = (family + int(rng.integers(1, FAMILIES))) % FAMILIES, int(rng.integers(MEMBERS))
                ids[row, node * size - 1] = EDGE if joined else NO_EDGE
            start = node * size
            ids[row, start : start + LENGTH] = proteins[family, member]
            here = start + int(site[family, member]) + 1
            marker[row, here] = here - 1
            if node and joined:
                partner[row, here] = before
                partner[row, before] = here
            before = here
            seen.setdefault((family, member), []).append(here)
        partner[row, [one for places in seen.values() if len(places) > 1 for one in places]] = -1
    return Proteins(ids[:, :-1], marker[:, :-1], partner[:, :-1])


def shuffled(proteins: Proteins, rng: np.random.Generator) -> Proteins:
    """The same proteins of walks, each at the place of another; links stay where they were, and sites have markers."""
    size = LENGTH + 1
    links = np.pad(proteins.ids, ((0, 0), (0, 1)), constant_values=NO_EDGE)[:, LENGTH::size]
    blocks = np.pad(proteins.ids, ((0, 0), (0, 1))).reshape(-1, size)[:, :LENGTH]
    mixed = blocks[rng.permutation(len(blocks))].reshape(len(links), -1, LENGTH)
    ids = np.concatenate([mixed, links[..., None]], 2).reshape(len(links), -1)[:, :-1]
    places = np.arange(ids.shape[1]) - 1
    site = np.pad(ids[:, :-1] == FAMILY, ((0, 0), (1, 0)))
    return Proteins(ids, np.where(site, places, -1), np.full_like(ids, -1))


def joined(parts: Sequence[Proteins]) -> Proteins:
    """Rows of all parts, of one length."""
    return Proteins(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("ids", "marker", "partner")))
