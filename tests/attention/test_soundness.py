"""What is no attention is refused when a method is put on, with the query, the region and the rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from ropewalk import method
from ropewalk.attention import soundness
from ropewalk.attention.regions import Layer, Region, zero
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, TEMPERATURE, VISIBILITY, AttentionMethod
from ropewalk.methods.attention.self_extend import SelfExtend
from tests.matrix import logits
from tests.models import tiny, tokens

LAYER = Layer(index=0, window=64, target=256, heads=4, kv_heads=2)


@dataclass(frozen=True)
class Strange(AttentionMethod):
    """A stranger's method: regions as they are given."""

    drawn: tuple[Region, ...] = ()
    tempered: object = field(default=None, compare=False)

    name: ClassVar[str] = "strange"
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, TEMPERATURE})

    def regions(self, layer):
        return self.drawn

    def temperature(self, m, layer):
        return None if self.tempered is None else self.tempered(m)


class Far(Strange):
    far: ClassVar[bool] = True


class Hiding(Strange):
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})


def refused(*regions: Region, kind=Strange, **options) -> str:
    with pytest.raises(UserError) as error:
        soundness.check(kind(regions, **options), LAYER, LAYER.target)
    return error.value.message


def near(**changes) -> Region:
    return Region(**{"lo": lambda m: m - 15, **changes})


def far(**changes) -> Region:
    met = {"hi": lambda m: m - 15, "q_pos": lambda m: torch.full_like(m, 16), "k_pos": zero}
    return Region(**met | changes)


def test_a_sound_method_passes():
    soundness.check(Strange((near(), far())), LAYER, LAYER.target)
    soundness.check(Hiding((near(),)), LAYER, LAYER.target)


def test_the_next_token_is_not_seen():
    message = refused(near(hi=lambda m: m + 2), far())
    assert "region 0 shows the query at 0 the keys below hi = 2, expected at most hi = m + 1 = 1" in message


def test_the_future_is_found_at_a_single_query():
    message = refused(near(hi=lambda m: torch.where(m == 201, m + 2, m + 1)), far())
    assert "the query at 201" in message


def test_no_key_is_seen_twice():
    message = refused(near(), far(hi=lambda m: m - 14))
    assert "regions 0 and 1 both show the query at 15 (head 0) the key at 0" in message


def test_overlaps_are_looked_for_head_by_head():
    halves = near(heads=(0, 2)), near(heads=(2, 4)), far()
    soundness.check(Strange(halves), LAYER, LAYER.target)
    assert "(head 2)" in refused(near(), near(heads=(2, 4), lo=lambda m: m), far())


def test_no_key_is_left_out_without_saying_so():
    message = refused(near(), far(hi=lambda m: m - 16))
    assert "no region shows the query at 16 (head 0) the key at 0" in message
    assert "(head 3) the key at 0" in refused(near(heads=(0, 3)), far())


@pytest.mark.parametrize("end", ["lo", "hi"])
def test_bounds_never_fall(end):
    fallen = {
        "lo": lambda m: torch.where(m == 100, m - 40, m - 15),
        "hi": lambda m: torch.where(m == 100, m - 5, m + 1),
    }
    message = refused(near(**{end: fallen[end]}), kind=Hiding)
    assert f"{end} of region 0 falls" in message and "at the query at 10" in message


def test_regions_that_show_nothing_may_have_any_bounds():
    soundness.check(Hiding((near(), Region(hi=lambda m: torch.where(m % 2 == 0, 0, -m)))), LAYER, LAYER.target)


def test_heads_exist():
    assert "for heads 2 to 4, expected 0 to 3" in refused(near(heads=(2, 5)), far())


def test_distances_stay_in_the_trained_window():
    message = refused(near(), far(q_pos=lambda m: m, k_pos=lambda n: n))
    assert "region 1 lets the query at" in message and "expected 0 to the 64 tokens" in message
    assert "distance of -" in refused(near(), far(q_pos=zero, k_pos=lambda n: n % 8))


def test_far_methods_leave_keys_where_they_are_and_never_ahead():
    assert "expected 0 to the 64 tokens" in refused(Region())
    soundness.check(Far((Region(),)), LAYER, LAYER.target)
    assert "expected 0 or more" in refused(Region(k_pos=lambda n: n + 1), kind=Far)


def test_positions_are_finite_and_one_per_token():
    assert "k_pos of region 1" in refused(near(), far(k_pos=lambda n: n / n))
    assert "q_pos of region 0" in refused(near(q_pos=lambda m: m[None]), far())


def test_bounds_are_whole_numbers_one_per_query():
    assert "lo of region 0 gives torch.float32" in refused(near(lo=lambda m: m - 15.0), far())
    assert "hi of region 1 gives torch.int64 [1]" in refused(near(), far(hi=lambda m: m[:1]))


@pytest.mark.parametrize("tempered", [lambda m: m * 0.0, lambda m: 1 / m, lambda m: m[:, :1].float() + 1])
def test_temperatures_are_positive_and_finite(tempered):
    assert "temperature" in refused(near(), far(), tempered=tempered)


@pytest.mark.parametrize("method", [Strange((near(hi=lambda m: m + 2), far())), Strange((near(), far(hi=lambda m: m)))])
def test_a_stranger_is_refused_before_the_first_token(method):
    model = tiny("llama", max_position_embeddings=64)
    with pytest.raises(UserError, match="strange"), method.on(model, to=256):
        raise AssertionError("was put on")
    assert logits(model, tokens(1, 32)).isfinite().all()


def test_a_text_past_the_target_goes_on_while_the_method_is_sound():
    model = tiny("llama", max_position_embeddings=64)
    group8 = SelfExtend(group=8, window=16)  # reaches (64 - 16) * 8 + 16 = 400 tokens
    with group8.on(model, to=128):
        within = logits(model, tokens(1, 300))
        with pytest.raises(UserError, match="has 600 tokens, the method was put on for 128 and does not reach them"):
            logits(model, tokens(1, 600))
    with group8.on(model, to=400):
        assert torch.equal(logits(model, tokens(1, 300)), within)
    with method("dca").on(model, to=128):
        assert logits(model, tokens(1, 600)).isfinite().all()


def test_regions_need_an_axis():
    class Mute(Strange):
        axes: ClassVar[frozenset[str]] = frozenset({TEMPERATURE})

    assert "expected 'positions' or 'visibility' among them" in refused(near(), kind=Mute)

    class Seeing(Strange):
        axes: ClassVar[frozenset[str]] = frozenset({VISIBILITY})

    assert "region 0 moves positions" in refused(near(q_pos=lambda m: m + 1), kind=Seeing)
    assert "expected a tuple of regions" in refused()


@pytest.mark.parametrize("period", [16, 61, 64])
def test_a_distance_that_is_too_large_now_and_then_is_found(period):
    slip = far(q_pos=lambda m: torch.where(m % period == period - 2, 73, 16))
    assert "distance of 73" in refused(near(), slip)


def test_maps_are_of_single_tokens():
    assert "k_pos of region 1 gives other values" in refused(near(), far(k_pos=lambda n: (n - n.max()) // 8))
    assert "hi of region 0 gives other values" in refused(near(hi=lambda m: m + (len(m) > 100)), kind=Hiding)


@dataclass(frozen=True)
class Asking(AttentionMethod):
    """Regions that depend on what is known only later."""

    name: ClassVar[str] = "asking"
    axes: ClassVar[frozenset[str]] = frozenset({VISIBILITY})

    def ahead(self, layer):
        return 0

    def regions(self, layer):
        ahead = self.ahead(layer)
        return (Region(hi=lambda m: (m + 1 + ahead).clamp_min(1)),)


class Sliding(Asking):
    def ahead(self, layer):
        return 2 if layer.sliding else 0


class Short(Asking):
    length_dependent: ClassVar[bool] = True

    def ahead(self, layer):
        return 1 if 0 < layer.length < 192 else 0


class Placed(Asking):
    def ahead(self, layer):
        return -20 * layer.index


class PlacedAndSaysSo(Placed):
    by_layer: ClassVar[bool] = True


@pytest.mark.parametrize(("method", "family"), [(Sliding(), "mistral"), (Short(), "llama")])
def test_what_is_known_in_the_forward_is_checked_there(method, family):
    model = tiny(family)
    with method.on(model, to=192), pytest.raises(UserError, match="no query sees what comes behind it"):
        logits(model, tokens(1, 150))


@pytest.mark.parametrize("first", [0, 50])
def test_every_query_sees_a_key(first):
    blind = Region(lo=lambda m: torch.where(m >= first, m + 1, 0))
    message = refused(blind, kind=Hiding)
    assert f"no region shows the query at {first} (head 0) any key, expected one at least" in message


def test_the_window_of_the_model_may_hide_all_that_a_method_shows():
    class First(Asking):
        def regions(self, layer):
            return (Region(hi=lambda m: (m + 1).clamp_max(4)),)

    model = tiny("mistral", sliding_window=48)
    with First().on(model, to=128), pytest.raises(UserError, match="no region shows the query at 51"):
        logits(model, tokens(1, 100))


@pytest.mark.parametrize(
    "tempered",
    [
        lambda m: torch.full(m.shape, 2.0 + m.shape[-1]),
        lambda m: torch.full(m.shape, 2.0 + float(m.max())),
        lambda m: (m + 1) / (m.double().mean() + 1),
        lambda m: m - m[..., :1] + 1.0,
    ],
)
def test_temperatures_are_of_single_tokens(tempered):
    assert "temperature gives other values for the same tokens" in refused(near(), far(), tempered=tempered)


def test_maps_are_not_relative_to_the_forward():
    ahead = near(lo=lambda m: m - m[0] - 15)
    assert "lo of region 0 gives other values" in refused(ahead, far(hi=lambda m: m - m[0] - 15))
    assert "q_pos of region 0 gives other values" in refused(near(q_pos=lambda m: torch.arange(len(m))), far())


class Long(Asking):
    def regions(self, layer):
        return (Region(lo=lambda m: m - layer.length),)


class LongTempered(Asking):
    axes: ClassVar[frozenset[str]] = frozenset({TEMPERATURE})
    regions = AttentionMethod.regions

    def temperature(self, m, layer):
        return torch.full(m.shape, 1.0 + layer.length)


class LongPlaced(Long):
    by_layer: ClassVar[bool] = True


class LongAndSaysSo(Long):
    length_dependent: ClassVar[bool] = True


def test_the_length_of_the_text_is_asked_for_or_not_known():
    model = tiny("llama")
    for unsaid in (Long(), LongTempered(), LongPlaced()):
        with pytest.raises(UserError, match="ask for the layer's length") as error, unsaid.on(model, to=256):
            raise AssertionError("was put on")
        assert "length_dependent" in error.value.mend
    with LongAndSaysSo().on(model, to=256):
        assert torch.equal(logits(model, tokens(1, 100)), logits(tiny("llama"), tokens(1, 100)))


def test_the_place_of_a_layer_is_asked_for_or_not_known():
    model, ids = tiny("llama"), tokens(1, 100)
    with pytest.raises(UserError, match="ask for the layer's index") as error, Placed().on(model, to=256):
        raise AssertionError("was put on")
    assert "by_layer" in error.value.mend
    with PlacedAndSaysSo().on(model, to=256):
        told = logits(model, ids)
    assert not torch.equal(told, logits(model, ids))


def test_a_part_that_goes_on_does_not_carry_the_others_along():
    model = tiny("llama", max_position_embeddings=64)
    with method("log-n+self-extend").on(model, to=192):
        for _ in range(2):
            with pytest.raises(UserError, match="does not reach them"):
                logits(model, tokens(1, 400))
