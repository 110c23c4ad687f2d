"""What methods say of their options: every range is of an option, in bounds that a model can take."""

from dataclasses import fields, replace
from itertools import product

import pytest

from ropewalk.fitting.option_values import Space
from ropewalk.methods.base import Method
from ropewalk.methods.catalogue import CATALOGUE
from ropewalk.methods.frequencies.giraffe import Giraffe
from ropewalk.methods.ranges import Range
from ropewalk.rope.spec import RopeSpec
from tests.fitting.grounds import ground
from tests.models import shared, tokens

ROPE = RopeSpec.plain(1e4, 16, 64)
BASES = [Giraffe(basis=basis) for basis in ("linear", "power", "truncated")]


def tunable() -> list[Method]:
    found = [cls() for entry in CATALOGUE if (cls := entry.load()).tunable and cls is not Giraffe]
    return found + BASES


@pytest.mark.parametrize("method", tunable(), ids=lambda method: method.id)
def test_every_range_is_of_a_number_and_holds_its_default(method):
    options = {one.name: one for one in fields(method)}
    for name, one in method.tunable.items():
        low, high = one.bounds(ROPE, 256)
        default = getattr(method, name)
        assert low < high and (default is None or low <= default <= high), name
        assert ("int" in str(options[name].type)) == one.whole


@pytest.mark.parametrize("method", tunable(), ids=lambda method: method.id)
def test_every_corner_can_be_made(method):
    space = Space.of(method, ground(shared("llama"), tokens(1, 256)), lambda made: True)
    for corner in product((0.0, 1.0), repeat=len(space.bounds)):
        made = space.at(corner)
        assert made is not None
        assert {name: getattr(made, name) for name in space.bounds} == {
            name: pytest.approx(bounds[int(end)], rel=1e-3)
            for (name, bounds), end in zip(space.bounds.items(), corner, strict=True)
        }
        assert replace(made, **{name: getattr(method, name) for name in space.bounds}) == method


def test_bounds_are_of_the_model_and_the_target():
    assert Range(1, 4, of="scale").bounds(ROPE, 256) == (4, 16)
    assert Range(1 / 3, 1, of="window", whole=True).bounds(ROPE, 256) == (22, 64)
    assert Range(0.25, 1, of="pairs", whole=True).bounds(ROPE, 256) == (2, 8)
    assert Range(1, 100, of="base").bounds(ROPE, 256) == (1e4, 1e6)
    assert Range(0.001, 0.01, of="window", whole=True).bounds(ROPE, 256) == (1, 1)
    assert Range(0.5, 4).bounds(ROPE, 256) == (0.5, 4)
