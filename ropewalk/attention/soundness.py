"""Whether what a method says can be attention at all: asked once per kind of layer, before the first token is read.

The rules, for every query at position m up to the target, head by head:

    future      no key behind the query itself: hi(m) <= m + 1
    falling     bounds do not fall from one query that sees keys to the next, since tiles are cut along them
    overlap     no key twice
    coverage    every key up to m, or one at least if the method decides visibility
    elementwise maps and temperatures give for a token what they give for it among fewer tokens
    positions   maps give one finite number per token, and move none if the method does not decide positions
    distances   0 <= q_pos(m) - k_pos(n) <= trained window, where the method decides positions; any length if it is far
    temperature one finite number above 0 per query, or per head and query

All queries are looked at as long as regions times queries stay below 2^22, evenly spread runs of them beyond that.
Distances are looked at from each of them to the ends of its keys and a few between, from a few dozen to all keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import NoReturn

import torch
from torch import Tensor

from ropewalk.attention.attending import POSITIONS, VISIBILITY, Attending
from ropewalk.attention.regions import PLAIN, Layer, Map, Region, Told, same
from ropewalk.common.errors import UserError

LOOKED_AT = 2**22  # regions times queries
RUN = 64  # neighbouring queries, where not all are looked at
FAR = 48  # queries whose distances to all keys are looked at


def check(method: Attending, layer: Layer, tokens: int) -> None:
    """Refuse what is no attention for some query of a text of ``tokens`` tokens.

    Raises:
        UserError: naming the query, the region and the rule.
    """
    _Check(method, layer, tokens).run()


def mirrored(name: str, regions: tuple[Region, ...], tokens: int) -> tuple[Region, ...]:
    """Regions that look back and their mirror images, if what follows a query is met as the query is met from there.

    Args:
        name: of the method.
        regions: that look back.
        tokens: of the text.

    Raises:
        UserError: naming query and key.
    """
    both = tuple(one for region in regions for one in region.both_ways)
    every, m = torch.arange(tokens), torch.linspace(0, tokens - 1, min(FAR, tokens)).long().unique()
    expected = torch.where(every > m[:, None], -_met(regions, every, m).mT, _met(regions, m, every))
    found = _met(both, m, every)
    wrong = (found != expected) & ~(found.isnan() & expected.isnan())
    if bool(wrong.any()):
        i, n = wrong.nonzero()[0].tolist()
        raise UserError(
            f"{name}: the query at {int(m[i])} meets the key at {n} at a distance of {float(found[i, n]):g}, expected "
            f"{float(expected[i, n]):g}, the other way round: its regions cannot be mirrored",
            "Choose another method for an encoder.",
        )
    return both


def _met(regions: tuple[Region, ...], m: Tensor, n: Tensor) -> Tensor:
    """Distances at which queries meet keys, float64 [M, N]; NaN where one is not seen, infinite where it is twice."""
    met = torch.full((len(m), len(n)), torch.nan, dtype=torch.float64)
    for region in regions:
        seen = (region.lo(m)[:, None] <= n) & (n < region.hi(m)[:, None])
        distance = region.q_pos(m).double()[:, None] - region.k_pos(n).double()
        met = torch.where(seen, torch.where(met.isnan(), distance, torch.inf), met)
    return met


class _Check:
    """One method on one kind of layer."""

    def __init__(self, method: Attending, layer: Layer, tokens: int):
        self.method, self.layer, self.tokens = method, layer, tokens
        self.asked = Told.to(method, layer)
        self.farthest = inf if method.far else layer.window
        regions = method.regions(self.asked)
        if not isinstance(regions, tuple) or not regions:
            self._refuse(f"regions gives {regions!r}, expected a tuple of regions")
        if not method.sets_regions and regions is not PLAIN:
            self._refuse(
                f"it has regions, and its axes are {', '.join(sorted(method.axes))}, expected 'positions' or "
                "'visibility' among them"
            )
        self.regions = regions if method.sets_regions else ()
        self.m = _spread(tokens, LOOKED_AT // max(1, len(self.regions)))
        self.bounds = [(self._bound(i, "lo", r.lo).clamp_min(0), self._bound(i, "hi", r.hi)) for i, r in self.numbered]

    @property
    def numbered(self) -> Iterator[tuple[int, Region]]:
        return enumerate(self.regions)

    def run(self) -> None:
        for i, (lo, hi) in enumerate(self.bounds):
            self._never_the_future(i, lo, hi)
            self._never_falling(i, lo, hi)
            self._maps(i)
        if self.regions:
            for first, heads in self._heads():
                self._never_twice(first, heads)
                if not self.method.by_content:  # content may bring keys where regions show none
                    self._never_nothing(first, heads)
        if POSITIONS in self.method.axes:
            self._distances()
            self._distances_of_all()
        self._temperature()

    def _maps(self, i: int) -> None:
        """Maps are of single tokens, finite, and those that are not ``same`` are the method's to decide."""
        region = self.regions[i]
        for name, asked in (("lo", region.lo), ("hi", region.hi), ("q_pos", region.q_pos), ("k_pos", region.k_pos)):
            whole = asked(self.m)
            if name.endswith("pos"):
                whole = self._position(i, name, whole)
            self._of_each_alone(f"{name} of region {i}", whole, self.m, asked)
        if POSITIONS not in self.method.axes and not (region.q_pos is same and region.k_pos is same):
            self._refuse(f"region {i} moves positions, expected 'positions' among the method's axes")

    def _of_each_alone(
        self, what: str, whole: Tensor, m: Tensor, asked: Callable[[Tensor], Tensor | None], rounding: float = 0.0
    ) -> None:
        """For a beginning, a middle and the end of the queries, ``asked`` says what it said for all of them."""
        n = m.shape[-1]
        for some in (slice(n // 3), slice(n // 3, n - n // 3), slice(n - 1, None)):
            found, expected = asked(m[..., some]), whole[..., some].double()
            like = found is not None and found.shape == expected.shape
            if found is None or not like or not torch.allclose(found.double(), expected, rtol=rounding, atol=0):
                self._refuse(
                    f"{what} gives other values for the same tokens among fewer, expected a function of each token "
                    "alone"
                )

    def _bound(self, i: int, name: str, bound: Map) -> Tensor:
        found = bound(self.m)
        if found.shape != self.m.shape or found.is_floating_point():
            self._refuse(
                f"{name} of region {i} gives {found.dtype} {list(found.shape)} for queries {list(self.m.shape)}, "
                "expected one whole number each"
            )
        return found

    def _never_the_future(self, i: int, lo: Tensor, hi: Tensor) -> None:
        ahead = (hi > lo) & (hi > self.m + 1)
        if bool(ahead.any()):
            at = int(ahead.nonzero()[0])
            self._refuse(
                f"region {i} shows the query at {int(self.m[at])} the keys below hi = {int(hi[at])}, expected at most "
                f"hi = m + 1 = {int(self.m[at]) + 1}: no query sees what comes behind it"
            )

    def _never_falling(self, i: int, lo: Tensor, hi: Tensor) -> None:
        shows = hi > lo
        m = self.m[shows]
        for name, bound in (("lo", lo[shows]), ("hi", hi[shows])):
            falls = bound[1:] < bound[:-1]
            if bool(falls.any()):
                at = int(falls.nonzero()[0]) + 1
                self._refuse(
                    f"{name} of region {i} falls from {int(bound[at - 1])} to {int(bound[at])} at the query at "
                    f"{int(m[at])}, expected bounds that never fall"
                )

    def _heads(self) -> Iterator[tuple[int, list[int]]]:
        """A head of every set that has the same regions, and the indices of these."""
        edges = {0}
        for i, region in self.numbered:
            if region.heads is not None:
                first, last = region.heads
                if not 0 <= first < last <= self.layer.heads:
                    self._refuse(f"region {i} is for heads {first} to {last - 1}, expected 0 to {self.layer.heads - 1}")
                edges |= {first, last}
        for head in sorted(edges - {self.layer.heads}):
            has = [i for i, r in self.numbered if r.heads is None or r.heads[0] <= head < r.heads[1]]
            yield head, has

    def _never_twice(self, head: int, has: list[int]) -> None:
        """No key is seen twice, and if visibility is not what the method decides, none is left out."""
        seen = torch.zeros_like(self.m)
        end = torch.zeros_like(self.m)
        empty = torch.zeros_like(self.m)
        pairs = [self.bounds[i] for i in has]
        lo = torch.stack([torch.where(b > a, a, empty) for a, b in pairs] or [empty])
        hi = torch.stack([torch.where(b > a, b, empty) for a, b in pairs] or [empty])
        lo, order = lo.sort(dim=0)
        hi = hi.gather(0, order)
        for a, b in zip(lo, hi, strict=True):
            twice = (b > a) & (a < end)
            if bool(twice.any()):
                at = int(twice.nonzero()[0])
                both = [i for i in has if int(self.bounds[i][0][at]) <= int(a[at]) < int(self.bounds[i][1][at])]
                self._refuse(
                    f"regions {' and '.join(map(str, both))} both show the query at {int(self.m[at])} (head {head}) "
                    f"the key at {int(a[at])}, expected every key at most once"
                )
            seen, end = seen + (b - a), torch.maximum(end, b)
        if VISIBILITY not in self.method.axes and bool((seen < self.m + 1).any()):
            at = int((seen < self.m + 1).nonzero()[0])
            gone = _first_gap(lo[:, at].tolist(), hi[:, at].tolist())
            self._refuse(
                f"no region shows the query at {int(self.m[at])} (head {head}) the key at {gone}, expected all keys up "
                "to the query: only methods with 'visibility' among their axes leave keys out"
            )

    def _never_nothing(self, head: int, has: list[int]) -> None:
        """Every query sees a key, also inside the model's own window or chunk."""
        blind = torch.ones_like(self.m, dtype=torch.bool)
        for region in self.layer.clip(tuple(self.regions[i] for i in has)):
            blind &= region.hi(self.m) <= region.lo(self.m).clamp_min(0)
        if bool(blind.any()):
            self._refuse(
                f"no region shows the query at {int(self.m[blind][0])} (head {head}) any key, expected one at least"
            )

    def _distances(self) -> None:
        chosen = torch.linspace(0, len(self.m) - 1, min(FAR, len(self.m))).long().unique()
        m = self.m[chosen]
        for i, region in self.numbered:
            lo, hi = (bound[chosen] for bound in self.bounds[i])
            shown = (hi > lo).nonzero()[:, 0].tolist()
            if not shown:
                continue
            k = self._position(i, "k_pos", region.k_pos(torch.arange(int(hi.max()))))
            q = self._position(i, "q_pos", region.q_pos(m))
            for at in shown:
                keys = k[int(lo[at]) : int(hi[at])]
                near, far = float(q[at] - keys.max()), float(q[at] - keys.min())
                if near < 0 or far > self.farthest:
                    worst = keys.argmax() if near < 0 else keys.argmin()
                    self._refuse_distance(i, int(m[at]), int(lo[at]) + int(worst), near if near < 0 else far)

    def _distances_of_all(self) -> None:
        """From every query to the first and the last of its keys, and to some between."""
        for i, region in self.numbered:
            lo, hi = self.bounds[i]
            shown = hi > lo
            if not bool(shown.any()):
                continue
            lo, last = lo[shown], hi[shown] - 1
            m, q = self.m[shown], region.q_pos(self.m).double()[shown]
            for share in (0.0, 0.23, 0.5, 0.81, 1.0):
                n = lo + ((last - lo) * share).long()
                distance = q - region.k_pos(n).double()
                outside = (distance < 0) | (distance > self.farthest)
                if bool(outside.any()):
                    at = int(outside.nonzero()[0])
                    self._refuse_distance(i, int(m[at]), int(n[at]), float(distance[at]))

    def _refuse_distance(self, i: int, m: int, n: int, distance: float) -> NoReturn:
        self._refuse(
            f"region {i} lets the query at {m} meet the key at {n} at a distance of {distance:g}, expected "
            + ("0 or more" if self.method.far else f"0 to the {self.layer.window} tokens that the model was trained on")
        )

    def _position(self, i: int, name: str, found: Tensor) -> Tensor:
        if found.ndim != 1 or not bool(torch.isfinite(found).all()):
            self._refuse(f"{name} of region {i} gives {list(found.shape)}, expected one finite number per token")
        return found.double()

    def _temperature(self) -> None:
        m = _spread(self.tokens, LOOKED_AT // 64)[None]
        found = self.method.temperature(m, self.asked)
        if found is None:
            return
        fits = found.shape in (m.shape, (1, self.layer.heads, m.shape[1]), (1, 1, m.shape[1]))
        if not fits or not bool((torch.isfinite(found) & (found > 0)).all()):
            self._refuse(
                f"its temperature has shape {list(found.shape)} or values that are not above 0 and finite, expected "
                f"one number above 0 per query, {list(m.shape)}, or per head and query"
            )
        self._of_each_alone("its temperature", found, m, lambda some: self.method.temperature(some, self.asked), 1e-5)

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(
            f"{self.method.id}: {what}",
            f"Choose other options, or mend {type(self.method).__name__}.regions (layer {self.layer.index}, text of "
            f"{self.tokens} tokens).",
        )


def _spread(tokens: int, most: int) -> Tensor:
    """Positions below ``tokens``, all of them or evenly spread runs of ``RUN``, the first and the last among them."""
    runs = max(2, most // RUN)
    if tokens <= runs * RUN:
        return torch.arange(tokens)
    starts = torch.linspace(0, tokens - RUN, runs, dtype=torch.float64).long().unique()
    return (starts[:, None] + torch.arange(RUN)).flatten().unique()


def _first_gap(lo: list[int], hi: list[int]) -> int:
    """The first key that no interval holds."""
    end = 0
    for a, b in sorted(zip(lo, hi, strict=True)):
        if b > a:
            if a > end:
                break
            end = max(end, b)
    return end
