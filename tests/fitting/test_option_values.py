"""Options that are searched: planted values are found, what the user chose stays, what no model takes is not asked."""

import math

import pytest
import torch

from ropewalk import UserError
from ropewalk.backends.nll import token_nll
from ropewalk.fitting.evolution import population
from ropewalk.fitting.option_values import GRID, OptionValues, Space
from ropewalk.methods.attention.lm_infinite import LMInfinite
from ropewalk.methods.attention.longcache import LongCache
from ropewalk.methods.attention.self_extend import SelfExtend
from ropewalk.methods.frequencies.giraffe import Giraffe
from ropewalk.methods.frequencies.ntk import NTKAware
from ropewalk.methods.frequencies.pi import PositionInterpolation
from ropewalk.methods.frequencies.yarn import YaRN
from tests.fitting.grounds import ground
from tests.models import shared, tokens

TEXTS = tokens(8, 256)


def of(**more):
    return ground(shared("llama"), TEXTS, **more)


def followed(search, loss):
    """All that a search asks for, where ``loss`` answers."""
    asked, told = [], None
    while True:
        try:
            methods = search.send(told) if told is not None else next(search)
        except StopIteration:
            return asked
        asked += methods
        told = [loss(method) for method in methods]


def distance(method, **wanted):
    return sum(math.log(getattr(method, name) / value) ** 2 if getattr(method, name) else 1.0
               for name, value in wanted.items())  # fmt: skip


@pytest.mark.parametrize(
    ("method", "wanted", "rounds", "within"),
    [
        (NTKAware(), {"stretch": 1.37}, 4, 0.03),
        (Giraffe(), {"period": 20}, 4, 0.03),
        (YaRN(), {"beta_fast": 9.0, "beta_slow": 2.0, "attention_factor": 1.2}, 40, 0.02),
        (SelfExtend(), {"group": 7, "window": 20}, 30, 0.2),
    ],
    ids=["one option", "a whole one", "three", "two whole ones"],
)
def test_planted_values_are_found(method, wanted, rounds, within):
    space = Space.of(method, of(), lambda made: True)
    asked = followed(space.search(rounds, 0), lambda made: distance(made, **wanted))
    assert asked[0] == method and len(asked) <= 1 + rounds * GRID
    best = min(asked, key=lambda made: distance(made, **wanted))
    assert distance(best, **wanted) < within**2


def test_the_search_begins_at_the_defaults():
    yarn, extend = Space.of(YaRN(), of()), Space.of(SelfExtend(), of())
    begun = yarn.at(yarn.start())
    assert (begun.beta_fast, begun.beta_slow) == (32, 1) and 1.1 < begun.attention_factor < 1.2
    assert extend.at(extend.start()).window in (13, 14)


def test_what_the_model_does_not_take_is_neither_asked_nor_the_end():
    space = Space.of(SelfExtend(), of())
    assert space.at([0.0, 1.0]) is None, "a group of 4 and a window of 48 do not reach 256"
    assert space.at([1.0, 0.5]) is not None
    asked = followed(space.search(6, 0), lambda made: distance(made, group=5, window=12))
    assert 6 < len(asked) < 1 + 6 * population(2)
    for method in asked:
        with method.on(shared("llama"), 256):
            pass


@pytest.mark.slow
def test_what_is_found_is_at_least_as_good_as_the_defaults_and_what_is_chosen_stays():
    ground, method = of(samples=3), YaRN(beta_slow=0.5)
    found = OptionValues(rounds=3).search(method, ground)
    searched = ground.halves(256).searched

    def loss(one):
        with one.on(shared("llama"), 256), torch.no_grad():
            return token_nll(shared("llama"), searched, keep=128).double().mean().item()

    assert "beta_slow" not in found.options and found.options.keys() <= {"beta_fast", "attention_factor"}
    assert found.options and loss(YaRN(beta_slow=0.5, **found.options)) < loss(method)
    assert list(found.seen["on other texts, times the perplexity of"]) == ["yarn(beta_slow=0.5)"]
    assert all("beta_slow" not in one["options"] for one in found.seen["front"])
    assert OptionValues(rounds=3).search(method, ground).options == found.options
    assert OptionValues(rounds=3, seed=1).search(method, ground).options != found.options


@pytest.mark.parametrize(
    ("method", "settings", "more", "message"),
    [
        (NTKAware(stretch=2.0), {}, {}, "nothing to fit: all of stretch are given"),
        (YaRN(), {"rounds": 0}, {}, "rounds is 0"),
        (YaRN(), {}, {"to": 64}, "not beyond the window of 64"),
        (YaRN(), {"tax": -1.0}, {}, "tax is -1"),
        (LongCache(), {}, {}, "sees tokens that come later"),
        (LMInfinite(recalled=4), {}, {}, "reads every length otherwise"),
        (LongCache(), {"by": "needles"}, {}, "sees tokens that come later"),
        (YaRN(), {}, {"others": (LongCache(),)}, "sees tokens that come later"),
        (SelfExtend(group=1), {}, {}, "reach"),
    ],
)
def test_what_makes_no_sense_is_refused(method, settings, more, message):
    with pytest.raises(UserError, match=message):
        OptionValues(**settings).search(method, of(**more))


def test_a_method_without_ranges_has_no_space():
    assert not Space.of(PositionInterpolation(), of()).bounds
