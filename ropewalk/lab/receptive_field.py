"""The theoretical receptive field of a bias: how far back the weight of keys reaches, if nothing else decides it.

A bias B of the distance lets a model read on beyond its window if the sum of exp B(d) over all distances converges; the
receptive field is the distance up to which all but a share of that sum lies (arXiv 2307.10156).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ropewalk.lab.encoding import Additive

EPSILON = 0.01
FARTHEST = 2**20  # distances that are summed up one by one
MOST_OCTAVES = 1000  # beyond which a distance is no number any more


def receptive_field(bias: Callable[[Tensor], Tensor], epsilon: float = EPSILON, farthest: int = FARTHEST) -> float:
    """The distance up to which 1 - ``epsilon`` of the weight lies; infinite if the sum does not converge.

    What lies beyond ``farthest`` follows from how much the last octave of distances weighs against the one before: in
    the same proportion ever after, which is exact for powers, and nothing where the weight falls faster. No less in the
    last octave than in the one before means no convergence.

    Args:
        bias: of distances, float64 [D], to what is added to a logit, [D].
        epsilon: share of the weight that is left out.
        farthest: distance from which on the sum is not computed; a power of two.
    """
    weight = bias(torch.arange(farthest, dtype=torch.float64)).double().exp()
    total = weight.cumsum(0)
    before, last = (float(weight[start : 2 * start].sum()) for start in (farthest // 4, farthest // 2))
    if last >= before > 0:
        return math.inf
    ratio = last / before if before else 0.0
    rest = last * ratio / (1 - ratio)
    whole = float(total[-1]) + rest
    within = total >= (1 - epsilon) * whole
    if bool(within.any()):
        return int(within.nonzero()[0, 0])
    octaves = math.log(epsilon * whole / rest, ratio)  # further ones, until no more than that is left
    return farthest * 2**octaves if octaves < MOST_OCTAVES else math.inf


def receptive_fields(encoding: Additive, epsilon: float = EPSILON, farthest: int = FARTHEST) -> list[float]:
    """The receptive field of every head of an encoding, as it is read."""
    weights = [one.detach() for one in encoding.weights()]

    def of(head: int) -> Callable[[Tensor], Tensor]:
        return lambda distance: encoding.added(distance.long(), *weights)[head]

    return [receptive_field(of(head), epsilon, farthest) for head in range(encoding.shape.heads)]
