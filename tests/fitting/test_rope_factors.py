"""Searched factors: what the spline can say, what it finds, and a search that goes on as if nothing had happened."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from ropewalk import UserError
from ropewalk.backends.nll import token_nll
from ropewalk.common.store import SampleStore
from ropewalk.fitting import scoring as scoring_module
from ropewalk.fitting.evolution import population
from ropewalk.fitting.rope_factors import SEEDS, RopeFactors, Spline, as_factors, critical_dimensions, pairs
from ropewalk.fitting.searching import FOR_THE_FRONT, GRADIENTS, SHARE, TOKENS
from ropewalk.methods.catalogue import method
from ropewalk.methods.fit_file import LIMIT, SHORT_OTHERS
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.frequencies.none import Plain
from ropewalk.methods.frequencies.pi import PositionInterpolation
from ropewalk.methods.frequencies.resonance import Resonance
from ropewalk.methods.frequencies.yarn import YaRN
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import decoder
from ropewalk.rope.spec import RopeSpec
from tests.fitting.grounds import ground
from tests.models import shared, tiny, tokens

ROPE = RopeSpec.plain(1e4, 64, 512)
CONFIG = LlamaConfig(hidden_size=64, num_attention_heads=1, max_position_embeddings=512,
                     rope_parameters={"rope_type": "default", "rope_theta": 1e4})  # fmt: skip
TEXTS = tokens(8, 256)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Searches for the front of a round each."""
    monkeypatch.setattr("ropewalk.fitting.rope_factors.FRONT_ROUNDS", 1)
    monkeypatch.setattr("ropewalk.fitting.rope_factors.FRONT_STEPS", 1)


def spline(**more):
    return Spline(**{"rope": ROPE, "s": 8.0, "knots": 6, "attention_factor": None, "rounds": 30, "seed": 0, **more})


@pytest.mark.parametrize(
    ("base", "dim", "window", "first", "last"), [(1e4, 96, 2048, 19, 31), (5e5, 128, 8192, 24, 35)]
)
def test_critical_dimensions_of_the_papers_models(base, dim, window, first, last):
    assert critical_dimensions(RopeSpec.plain(base, dim, window)) == range(first, last + 1)


def test_a_tiny_window_has_a_critical_dimension_too():
    found = critical_dimensions(RopeSpec.plain(1e4, 16, 16))
    assert len(found) >= 1 and 1 <= found[0] <= found[-1] <= 7


def seeds(attention_factor=None):
    return [as_factors(seed, CONFIG, 4096, attention_factor) for seed in SEEDS]


def test_the_search_begins_with_the_seeds_as_they_are():
    for seed, one in zip(SEEDS, next(spline().search(seeds())), strict=True):
        here, there = seed.at(ROPE, 4096), one.at(ROPE, 4096)
        torch.testing.assert_close(here.inv_freq, there.inv_freq, rtol=1e-12, atol=0)
        assert here.attention_factor == pytest.approx(there.attention_factor)
        still = spline().method(one, np.zeros(7))
        assert still.factors == pytest.approx(one.factors) and still.attention_factor == one.attention_factor


def test_whatever_the_coordinates_factors_rise_within_their_bounds():
    draw = np.random.default_rng(0)
    for seed in seeds() * 30:
        factors = spline().method(seed, draw.normal(0, 2, 7)).factors
        assert list(factors) == sorted(factors) and factors[0] >= 1 and factors[-1] <= 10 + 1e-9


def test_a_bend_at_one_knot_is_felt_between_its_neighbours():
    ntk, x = seeds()[1], np.zeros(7)
    x[2] = 0.1  # of 6 knots: where a fifth of the log wavelengths are from it, there is nothing
    moved = np.log(np.array(spline().method(ntk, x).factors) / ntk.factors)
    places = np.arange(32) / 31
    assert moved == pytest.approx(0.1 * np.maximum(0, 1 - 5 * np.abs(places - 0.4)), abs=1e-9)


def test_a_given_attention_factor_is_not_searched():
    given = spline(attention_factor=1.3)
    assert given.size == 6 and given.method(seeds(attention_factor=1.3)[0], np.ones(6)).attention_factor == 1.3
    assert all(one.attention_factor == 1.3 for one in seeds(attention_factor=1.3))


def test_the_spline_finds_what_was_planted():
    places = spline()._wavelengths()
    wanted, t = np.exp(np.interp(places, [0, 0.5, 0.8, 1], np.log([1, 1.2, 6, 8]))), 1.15

    def loss(method):
        return float(np.mean((np.log(method.factors) - np.log(wanted)) ** 2) + np.log(method.attention_factor / t) ** 2)

    search = spline().search(seeds())
    asked = next(search)
    every = list(map(loss, asked))
    first = min(every)
    while True:
        try:
            asked = search.send([loss(one) for one in asked])
        except StopIteration:
            break
        every += map(loss, asked)
    assert len(every) == 3 + 30 * population(7) and min(every) < first / 10


class Killed(Exception):
    pass


class Dying(SampleStore):
    """A store at whose n-th record the process is killed."""

    left = 10**9

    def put(self, records):
        super().put(records)
        self.left -= 1
        if not self.left:
            raise Killed


@pytest.mark.slow
@pytest.mark.parametrize("space", ["descent", "spline", "longrope", "longrope2"])
def test_a_search_that_was_killed_goes_on_and_finds_the_same(space, tmp_path, monkeypatch):
    if space.startswith("longrope"):
        genetic = RopeFactors.genetic
        small = {"population": 6, "mutations": 2, "crossings": 2, "parents": 4}
        monkeypatch.setattr(RopeFactors, "genetic", lambda *of: type(made := genetic(*of))(**{**vars(made), **small}))
    fitter, model = RopeFactors(space=space, rounds=2, seed=3), shared("llama")

    def searched(records):
        return fitter.search(LongRoPE(), ground(model, TEXTS, records=records, samples=3))

    undisturbed = searched(SampleStore())
    for after in (1, 7, 20):
        store = Dying(tmp_path / space)
        store.left = after
        with store, pytest.raises(Killed):
            searched(store)
    with SampleStore(tmp_path / space) as store:
        found = searched(store)
    assert found == dataclasses.replace(undisturbed, texts=found.texts)
    assert found.texts.equal(undisturbed.texts)


@pytest.mark.parametrize("space", ["descent", "spline"])
def test_what_is_found_is_the_best_of_the_searched_texts_and_is_compared_on_others(space):
    model, of = shared("llama"), ground(shared("llama"), TEXTS, samples=4)
    found = RopeFactors(space=space, rounds=3).search(LongRoPE(), of)
    searched, others, *_ = of.halves(256)
    assert found.texts.tolist() == searched.tolist()
    assert not {tuple(row) for row in searched.tolist()} & {tuple(row) for row in others.tolist()}

    def loss(method, ids):
        with method.on(model, 256):
            return token_nll(model, ids, keep=128).double().mean(1)

    best = LongRoPE(**found.options)
    assert loss(best, searched).mean() <= min(loss(seed, searched).mean() for seed in SEEDS) + 1e-6
    for seed in SEEDS:
        one = found.seen["on other texts, times the perplexity of"][seed.id]
        assert one["n"] == 4
        assert math.log(one["value"]) == pytest.approx(
            float((loss(best, others) - loss(seed, others)).mean()), abs=1e-5
        )
    tax = float((token_nll_near(model, best, searched) - token_nll_near(model, Plain(), searched)).mean().exp())
    assert found.seen["perplexity of short texts, times the plain model's"] == pytest.approx(tax, rel=1e-5)


def token_nll_near(model, method, ids):
    with method.on(model, 256):
        return token_nll(model, ids[:, :64]).double().mean(1)


@pytest.mark.slow
def test_a_spline_has_no_more_knots_than_there_are_pairs():
    found = RopeFactors(space="spline", rounds=1, knots=99).search(
        LongRoPE(), ground(shared("llama"), TEXTS, samples=2)
    )
    assert found == dataclasses.replace(
        RopeFactors(space="spline", rounds=1, knots=8).search(LongRoPE(), ground(shared("llama"), TEXTS, samples=2)),
        texts=found.texts,
    )


@pytest.mark.parametrize("space", ["descent", "spline"])
def test_a_tax_is_kept_or_refused(space):
    of = ground(shared("llama"), TEXTS, samples=2)
    free = RopeFactors(space=space, rounds=3).search(LongRoPE(), of)
    front = free.seen["front"]
    assert [one["tax"] for one in front] == sorted(one["tax"] for one in front)
    limit = float(np.nextafter(front[len(front) // 2]["tax"], 2)) - 1
    kept = RopeFactors(space=space, rounds=3, tax=max(limit, 0.0)).search(LongRoPE(), of)
    assert kept.seen["perplexity of short texts, times the plain model's"] <= 1 + max(limit, 0.0)
    with pytest.raises(UserError, match=r"tax is -1"):
        RopeFactors(tax=-1.0).search(LongRoPE(), of)


@pytest.mark.slow
def test_a_limit_is_looked_at_on_other_texts_too_and_what_keeps_it_there_is_named(monkeypatch):
    of = ground(shared("llama"), TEXTS, samples=2)
    found = RopeFactors(space="spline", rounds=3, tax=0.0).search(LongRoPE(), of)
    others, seen = of.halves(256).others, found.seen

    def there(options):
        method = LongRoPE(**options)
        return float(
            (token_nll_near(shared("llama"), method, others) - token_nll_near(shared("llama"), Plain(), others))
            .mean()
            .exp()
        )

    (short,) = seen[SHORT_OTHERS].values()
    assert short["value"] == pytest.approx(there(found.options), rel=1e-5)
    assert seen[LIMIT] == ("over" if short["value"] > 1 else "kept" if short["high"] <= 1 else "not surely kept")
    looked_at = [one for one in seen["front"] if "other" in one]
    assert looked_at == seen["front"][-len(looked_at) :]
    assert [one["other"] for one in looked_at] == pytest.approx([there(one["options"]) for one in looked_at], rel=1e-5)
    assert all(one["other"] > 1 for one in looked_at[1:]), "the best that keeps it is the last one looked at"
    assert LIMIT not in RopeFactors(rounds=1).search(LongRoPE(), of).seen


@pytest.mark.parametrize("space", ["descent", "spline"])
@pytest.mark.parametrize("tax", [None, 9.0])
def test_progress_ends_with_what_is_found(tax, space):
    told = []
    of = ground(shared("llama"), TEXTS, samples=2, progress=lambda *now: told.append(now))
    found = RopeFactors(space=space, rounds=2, tax=tax).search(LongRoPE(), of).seen
    done, total, words = told[-1]
    assert done == total and told[0][1] == 0, "before a round is over nobody knows how long the others take"
    assert words == f"{found['candidates']} candidates, best {found['perplexity of far tokens']:.4g}"
    bests = [float(words.rpartition(" ")[2]) for *_, words in told if "best" in words]
    assert bests == sorted(bests, reverse=True)
    assert max(int(words.split()[0].replace(",", "")) for *_, words in told) == found["candidates"]


def test_who_reads_everything_reads_all_of_what_reading_everything_takes():
    settings = {"space": "spline", "rounds": 1, "race": False, "tax": 9.0}
    everybody = RopeFactors(**settings).search(LongRoPE(), ground(shared("llama"), TEXTS, samples=2))
    assert everybody.seen[SHARE] == 1 and everybody.seen[TOKENS] == everybody.seen["candidates"] * 2 * (256 + 64)


@pytest.mark.parametrize("tax", [None, 0.01, 9.0])
@pytest.mark.parametrize("space", ["descent", "spline"])
def test_the_tokens_that_are_told_were_read(space, tax, monkeypatch):
    """Counted at the model, until the search is over; those of the plain model's short texts are no candidate's."""
    model, back, told = shared("llama"), [0], []
    read = [-2 * 64]
    seen, slope = RopeFactors._seen, scoring_module.slope
    monkeypatch.setattr(RopeFactors, "_seen", lambda *of: told.append(read[0] + 2 * back[0]) or seen(*of))

    def counted(model, ids, *how):
        back[0] += len(ids)
        return slope(model, ids, *how)

    RopeFactors(rounds=1, front=False).search(LongRoPE(), ground(model, TEXTS, samples=2))  # what is tried but once
    told.clear()
    monkeypatch.setattr(scoring_module, "slope", counted)
    counting = lambda module, args, kwargs: read.__setitem__(0, read[0] + kwargs["input_ids"].numel())  # noqa: E731
    hook = decoder(model).register_forward_pre_hook(counting, with_kwargs=True)
    try:
        of = ground(model, TEXTS, samples=2)
        found = RopeFactors(space=space, rounds=3, tax=tax).search(LongRoPE(), of).seen
    except UserError as error:
        assert tax == 0.01 and "no candidate reads short texts" in error.message
        return
    finally:
        hook.remove()
    again = read[0]
    assert found[TOKENS] == told[0] and again > told[0] - 2 * back[0]
    assert found.get(GRADIENTS, 0) == 3 * back[0] and (SHARE in found) == (space == "spline")


def test_a_short_search_reads_no_more_than_its_settings_say():
    told = []
    of = ground(shared("llama"), TEXTS, samples=4, progress=lambda *now: told.append(now[:2]))
    found = RopeFactors(rounds=3, batch=1, front=False).search(LongRoPE(), of).seen
    assert found[GRADIENTS] == 3 * 3 * 256 and FOR_THE_FRONT not in found
    assert told[-1] == (6, 6), "the seeds, three steps, what they end with, and the comparison"
    RopeFactors(rounds=3, batch=1).search(LongRoPE(), of)
    assert told[-1] == (10, 10), "two limits more, each from its start and a step on"


def test_workers_find_the_same_and_share_what_was_gone_back_through(tmp_path):
    of = ground(shared("llama"), TEXTS, samples=4)
    alone = RopeFactors(rounds=2).search(LongRoPE(), of)
    with SampleStore(tmp_path / "shared") as records:
        for turn in ((0, 2), (1, 2)):
            found = RopeFactors(rounds=2).search(LongRoPE(), dataclasses.replace(of, records=records, turn=turn))
            assert found.options == alone.options and found.seen == alone.seen


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "phi3", "cohere", "gpt_neox", "gpt_oss", "olmo3"])
def test_a_gradient_that_holds_goes_on(name):
    of = ground(shared(name), TEXTS, samples=2)
    found = RopeFactors(rounds=1, batch=1, front=False).search(LongRoPE(), of)
    assert found.seen[GRADIENTS] == 3 * 256


@pytest.mark.parametrize("share", [0.05, 9.0, -1.0])
def test_a_gradient_that_is_lost_on_the_way_is_refused(share):
    """The same numbers, and another share of their gradient, as codes of activations have."""
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(
            lambda module, args, out: (out[0].detach() + share * (out[0] - out[0].detach()), *out[1:])
        )
    with pytest.raises(UserError, match="something between the factors and the loss bends gradients"):
        RopeFactors(rounds=1, front=False).search(LongRoPE(), ground(model, TEXTS, samples=2))


def test_frequencies_that_another_method_rounds_have_no_gradient():
    beside = (Resonance(),)
    with pytest.raises(UserError, match="a method beside this one changes its frequencies"):
        RopeFactors(rounds=1, front=False).search(LongRoPE(), ground(shared("llama"), TEXTS, samples=2, others=beside))


@pytest.mark.slow
def test_keys_that_are_picked_by_content_have_none_and_the_mend_is_a_search_without():
    with pytest.raises(UserError, match="no gradient") as error:
        beside = (method("longcache(block=1)"),)
        RopeFactors(rounds=1).search(LongRoPE(), ground(shared("llama"), TEXTS, samples=2, others=beside))
    assert "space=spline" in error.value.mend


@pytest.mark.parametrize(("kind", "seed"), [("yarn", YaRN()), ("linear", PositionInterpolation())])
def test_a_seed_is_the_method_itself_on_models_that_were_trained_with_it(kind, seed):
    """They raise its factor, where LongRoPE goes on top."""
    scaled = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    config = LlamaConfig(hidden_size=64, num_attention_heads=1, max_position_embeddings=256, rope_parameters=scaled)
    own = next(iter(seed.plan(config, 1024).values()))
    as_it_is = next(iter(as_factors(seed, config, 1024).plan(config, 1024).values()))
    torch.testing.assert_close(as_it_is.inv_freq, own.inv_freq, rtol=1e-12, atol=0)
    assert as_it_is.attention_factor == pytest.approx(own.attention_factor)
    (pair, *_) = pairs(rope_config.full_attention(rope_config.starting_specs(config))[0], config, 1024)
    assert pair[seed.id] == as_factors(seed, config, 1024).factors[0]


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({"space": "spline", "knots": 1}, {}, "knots is 1, expected 2 or more"),
        ({"knots": 3}, {}, "knots is 3, and space is descent, which has none"),
        ({"space": "spline", "batch": 1}, {}, "batch is 1, and space is spline, which has none"),
        ({"space": "longrope", "front": False}, {}, "front is False, and space is longrope, which has none"),
        ({"by": "needle"}, {}, "by is 'needle', expected perplexity or needles"),
        ({"seed": -1}, {}, "seed is -1, expected 0 to"),
        ({"rounds": -1}, {}, "rounds is -1, expected 0 or more"),
        ({"batch": 0}, {}, "batch is 0, expected 1 or more"),
        ({}, {"to": 64}, "within the window"),
        ({}, {"to": 512}, "no text has 512 tokens"),
        ({"by": "needles"}, {}, "without a tokenizer"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, more, message):
    with pytest.raises(UserError, match=message):
        RopeFactors(**settings).search(LongRoPE(), ground(shared("llama"), TEXTS, **more))
