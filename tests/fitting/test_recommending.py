"""One method to take: everybody is raced or left out with a reason, limits are kept, and what is said is so."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

from ropewalk import UserError
from ropewalk.backends.nll import token_nll
from ropewalk.checkpoint.write import extended_config
from ropewalk.common.statistics import ratio
from ropewalk.common.store import SampleStore
from ropewalk.fitting.entrants import Entrants
from ropewalk.fitting.option_values import OptionValues
from ropewalk.fitting.race_page import page_of_race
from ropewalk.fitting.recommending import Recommending
from ropewalk.fitting.rope_factors import RopeFactors
from ropewalk.fitting.scoring import Scoring
from ropewalk.methods.catalogue import CATALOGUE, method
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.longrope import LongRoPE
from tests.fitting.grounds import ground
from tests.models import shared, tokens

TEXTS = tokens(12, 256)
QUICK = {"families": 1, "rounds": 1, "factors": 1}


def of(**more):
    return ground(shared("llama"), TEXTS, samples=6, name="tiny", source="texts", **more)


def recommended(of, **settings):
    return Recommending(**{**QUICK, **settings}).run(of)


@pytest.fixture(scope="module")
def free():
    records = SampleStore()
    return recommended(of(records=records)), records


@pytest.mark.slow
def test_everybody_takes_part_or_is_left_out_with_a_reason(free):
    found, _ = free
    raced = {method(one.method).name for one in found.families}
    refining = {entry.id for entry in CATALOGUE if entry.kind.startswith("refinement")}
    assert raced | found.left_out.keys() | refining >= {entry.id for entry in CATALOGUE} - {"longrope"}
    assert not raced & found.left_out.keys() and "none" in raced and all(found.left_out.values())
    assert {"dca", "yarn", "gali"} <= raced
    assert {"longcache", "lm-infinite", "tca", "clex", "abf", "dynamic-ntk"} <= found.left_out.keys()


def test_the_best_is_compared_on_other_texts_with_the_runner_up_and_the_plain_model(free):
    found, _ = free
    assert found.families[0].times == pytest.approx(1, abs=1e-4) and found.families[0].method == found.method
    assert [one.method for one in found.rivals] == [found.runner_up, "none"]
    assert method(found.runner_up).name not in (method(found.method).name, "none")
    model, others = shared("llama"), of().halves(256).others

    def losses(spelling):
        with method(spelling).on(model, 256):
            return token_nll(model, others, keep=128).double().mean(1).numpy()

    for one in found.rivals:
        wanted = ratio(losses(found.method), losses(one.method))
        assert one.times.value == pytest.approx(wanted.value, rel=1e-5)
        assert [one.times.low, one.times.high] == pytest.approx([wanted.low, wanted.high], rel=1e-4)
        assert one.sure == (one.times.high < 1)
    assert found.sure == all(one.sure for one in found.rivals)
    assert ("not surely better" in repr(found)) == (not found.sure)


def test_what_was_read_before_is_not_read_again(free):
    found, records = free
    known = len(records)
    assert recommended(of(records=records)) == found and len(records) == known > 100


def test_what_was_found_goes_into_a_file_and_a_method_at_its_defaults_needs_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Entrants, "sorted_out", lambda *of: ([method("yarn")], {}))
    found = recommended(of(), rounds=3)
    assert found.fit is not None and found.method.startswith("yarn(beta_fast=")
    assert "not written" in repr(replace(found, fit=None).written(tmp_path / "none.json"))
    assert not (tmp_path / "none.json").exists()
    kept = found.written(tmp_path / "kept.json")
    assert f"yarn(fitted={tmp_path / 'kept.json'})" in kept.lines[0] and found.method in found.lines[0]
    assert kept.to_dict()["file"] == str(tmp_path / "kept.json")
    assert method(f"{kept.fit.method}(fitted={kept.fit.path})") == method(found.method)


@pytest.mark.slow
def test_what_must_be_exportable_is():
    found = recommended(of(), exportable=True)
    assert found.how == "extend" and "needs code" in found.left_out["dca"]
    for one in found.families:
        made = method(one.method)
        assert isinstance(made, FrequencyMethod)
        if made.name != "none":
            extended_config(shared("llama").config, made, 256)
    (line,) = found.lines
    assert shlex.split(line)[:5] == ["ropewalk", "extend", "tiny", "--to", "256"]


def test_an_engine_must_read_it_as_meant(monkeypatch):
    from ropewalk.fitting import entrants

    def refuse(config, method, to, engine):
        if method.name != "pi":
            raise UserError(f"{engine} would not rotate as meant")

    monkeypatch.setattr(entrants, "refuse_unread", refuse)
    found = recommended(of(), engine="vllm")
    assert {method(one.method).name for one in found.families} == {"none", "pi"}
    assert found.left_out["yarn"] == "vllm would not rotate as meant"
    monkeypatch.setattr(entrants, "refuse_unread", lambda *of: refuse(*of[:1], method("yarn"), *of[2:]))
    with pytest.raises(UserError, match=r"no method is left under engine=vllm: .*vllm would not") as error:
        recommended(of(), engine="vllm")
    assert "Leave out engine=vllm" in str(error.value)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "transformers", "llama.cpp"])
def test_engines_are_asked_as_export_asks_them(engine):
    entrants = Entrants(of(), False, engine, True)
    assert entrants.refusal(method("yarn")) == ""
    assert "run time" in entrants.refusal(method("dca")) or "configuration" in entrants.refusal(method("dca"))


def tax(spelling, texts="searched"):
    """How many times the plain model's perplexity a method has within the window, on the texts of the search."""
    model, rows = shared("llama"), getattr(of().halves(256), texts)

    def near(one):
        with method(one).on(model, 256):
            return token_nll(model, rows[:, :64]).double().mean(1)

    return float((near(spelling) - near("none")).mean().exp())


@pytest.mark.slow
def test_a_tax_is_kept_on_the_texts_of_the_search():
    found = recommended(of(), tax=0.001)
    assert tax(found.method) <= 1.001 + 1e-6
    over = [one.method for one in found.families if one.times is None]
    assert over and all(tax(spelling) > 1.001 for spelling in over)


def test_a_tax_that_nobody_keeps_is_refused_with_one_that_somebody_does(monkeypatch):
    dear = "yarn(attention_factor=4.0)"
    taxes = {dear: tax(dear)}
    assert taxes[dear] > 1
    monkeypatch.setattr(Entrants, "sorted_out", lambda *of: ([method(dear)], {}))
    with pytest.raises(UserError, match=r"no method reads short texts within 0\.000% of the plain model") as error:
        recommended(of(), tax=0.0, families=0, factors=0)
    least = float(re.findall(r"Say tax=([0-9.]+)", str(error.value))[0])
    assert taxes[dear] - 1 <= least <= taxes[dear] - 1 + 0.001
    assert recommended(of(), tax=least, families=0, factors=0).families[-1].times is not None


LLAMA3, OVER, PI, MR = "llama3", "yarn(attention_factor=4.0)", "pi", "mr-rope"


def raced(monkeypatch, *spellings, of=of, **settings):
    monkeypatch.setattr(Entrants, "sorted_out", lambda *of: ([method(one) for one in spellings], {}))
    return recommended(of(), **{"families": 0, "factors": 0, **settings})


def test_who_is_over_the_tax_is_no_runner_up(monkeypatch):
    assert raced(monkeypatch, LLAMA3, OVER, PI).method == OVER, "without a limit it is the best"
    found = raced(monkeypatch, LLAMA3, OVER, PI, MR, tax=0.01)
    assert {one.method for one in found.families if one.times is None} == {OVER}
    assert OVER not in [found.method, *(one.method for one in found.rivals)] and found.runner_up == PI
    alone = raced(monkeypatch, LLAMA3, OVER, tax=0.01)
    assert alone.runner_up == "" and [one.method for one in alone.rivals] == ["none"]


def test_a_limit_that_other_texts_break_is_said_first_with_the_next_one_that_keeps_it(monkeypatch):
    found = raced(monkeypatch, LLAMA3, OVER, PI, MR, tax=0.01)
    here, there, mr = tax(LLAMA3), tax(LLAMA3, "others"), tax(MR, "others")
    assert here <= 1.01 < there and tax(PI, "others") > 1.01 >= mr
    assert found.method == LLAMA3 and found.limit == "over" and found.short.value == pytest.approx(there)
    assert found.instead == MR and [one.method for one in found.rivals] == [PI, MR, "none"] and not found.sure
    assert next(one for one in found.rivals if one.method == MR).short.value == pytest.approx(mr)
    shown = repr(found)
    said = f"are read {100 * (there - 1):.3g}% worse than by the plain model, over the limit of 1%; mr-rope keeps it"
    assert said in shown and shown.index(said) < shown.index("llama3 for 256 tokens")
    assert page_of_race(found).headline.startswith("Short texts that were not searched on are read 3.32% worse")
    alone = raced(monkeypatch, LLAMA3, tax=0.01)
    assert alone.instead == "none" and "over the limit of 1%; only the plain model keeps it there" in repr(alone)
    kept = json.loads(alone.to_json())
    assert (kept["limit"], kept["instead"], kept["sure"]) == ("over", "none", False)


def test_a_limit_that_is_not_surely_kept_is_said_to_be_so(monkeypatch):
    found = raced(monkeypatch, LLAMA3, tax=0.04)
    assert found.short.value < 1.04 < found.short.high and found.limit == "not surely kept"
    assert "the limit of 4% to the tax is not surely kept: short texts" in repr(found)
    assert f"up to +{100 * (found.short.high - 1):.3g}% by their interval" in repr(found)
    assert "is not surely kept" in page_of_race(found).notes[0] and not found.instead
    sure = replace(found, rivals=[replace(found.rivals[0], times=replace(found.short, value=0.5, low=0.4, high=0.6))])
    assert sure.rivals[0].sure and not sure.sure and replace(sure, limit="kept").sure
    plenty = raced(monkeypatch, LLAMA3, tax=5.0)
    assert plenty.limit == "kept" and plenty.about_limit == "" and raced(monkeypatch, LLAMA3).limit is None


def test_of_one_document_nothing_is_sure(monkeypatch):
    def one_document():
        return replace(of(), documents=[TEXTS.flatten().tolist()])

    found = raced(monkeypatch, PI, LLAMA3, of=one_document)
    assert found.data["documents"] == 1 and found.data["compared"] == 6
    times = replace(found.rivals[0].times, value=0.5, low=0.4, high=0.6)
    better = replace(found, rivals=[replace(one, times=times) for one in found.rivals])
    page = " ".join(page_of_race(better).render().split())
    for words in (repr(better), page):
        assert "the 6 other texts, all of one document, which makes nothing sure" in words
        assert "not surely better" in words and not re.search(r"(?<!not )\bsurely better", words)
    assert not better.sure and not json.loads(better.to_json())["rivals"][0]["sure"]
    several = raced(monkeypatch, PI, LLAMA3)
    assert several.data["documents"] == 6 and "over the 6 documents of 6 other texts" in repr(several)


def test_a_small_race_is_over_two_texts_and_a_smaller_one_is_refused(monkeypatch):
    for samples, raced_on in ((2, 2), (3, 2), (4, 2), (5, 3), (6, 3)):
        data = raced(monkeypatch, PI, of=lambda samples=samples: replace(of(), samples=samples)).data
        assert (data["searched"], data["short"], data["compared"]) == (raced_on, samples, samples)
    with pytest.raises(UserError, match=r"samples is 1, expected 2 or more[^\n]*\nSay --samples 2"):
        recommended(replace(of(), samples=1))


def answering(losses, monkeypatch):
    """Needles that methods answer with these losses; 2 nats where nothing is said."""
    far = lambda self, one, row: np.full(16, losses.get(one.name, 2.0))  # noqa: E731
    monkeypatch.setattr("ropewalk.fitting.scoring.Scoring.far", far)
    monkeypatch.setattr(Scoring, "of_needles", classmethod(lambda cls, ground, texts, seed: cls(ground, texts, 16)))


def test_where_needles_tell_nobody_apart_nobody_is_recommended(monkeypatch):
    answering({"pi": 3e-4, "llama3": 2e-4, "yarn": 0.1}, monkeypatch)
    with pytest.raises(
        UserError, match=r"needles cannot tell candidates apart: pi, llama3 answers? every one"
    ) as error:
        raced(monkeypatch, PI, LLAMA3, "yarn", by="needles")
    assert "by perplexity" in str(error.value)
    assert raced(monkeypatch, PI, "yarn", by="needles").method == PI, "one alone is the best"
    answering({"none": 3e-4}, monkeypatch)
    with pytest.raises(UserError, match=r"the plain model answers every one"):
        raced(monkeypatch, PI, by="needles")


@pytest.mark.parametrize("search", [OptionValues(by="needles"), RopeFactors(by="needles", space="longrope2")])
def test_where_needles_leave_nothing_to_find_nothing_is_searched(search, monkeypatch):
    answering({"yarn": 3e-4}, monkeypatch)
    one = method("yarn") if isinstance(search, OptionValues) else LongRoPE()
    with pytest.raises(UserError, match=r"cannot tell candidates apart: yarn answers every one"):
        search.search(one, of())


@pytest.mark.slow
def test_progress_ends_with_what_is_found_and_says_no_rest_before_a_round_is_over(monkeypatch):
    told = []
    ground = of(progress=lambda *now: told.append(now))
    found = raced(monkeypatch, LLAMA3, PI, "yarn", of=lambda: ground, families=2, rounds=2)
    (*_, (done, total, words)) = told
    assert done == total == 1 + 2 * (1 + 2) + 1, "all, of two their options, the comparison"
    assert f"{found.candidates} candidates, best {method(found.method).name} " in words
    first = [now for now in told if not now[1]]
    assert first and told[: len(first)] == first
    rounds = [now[0] for now in told[len(first) :]]
    assert rounds == sorted(rounds) and {now[1] for now in told[len(first) :]} == {total}


def test_limits_are_read_as_people_write_them():
    found = Recommending.read("exportable=true, tax=0.01, engine=llama.cpp")
    assert (found.exportable, found.tax, found.engine) == (True, 0.01, "llama.cpp")
    assert Recommending.read("engine=vLLM").engine == "vllm"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("engine=vllm, exportable=false", "contradict each other"),
        ("engine=vlm", "engine is 'vlm'; did you mean"),
        ("exportabel=true", "has no option 'exportabel'"),
        ("tax=cheap", "option tax is 'cheap'"),
    ],
)
def test_settings_are_read_before_anything_is_done(settings, message):
    with pytest.raises(UserError, match=message):
        Recommending.read(settings)


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({"rounds": 0}, {}, "rounds is 0"),
        ({"families": -1}, {}, "families is -1"),
        ({"tax": -0.1}, {}, "tax is -0.1"),
        ({}, {"to": 64}, "not beyond the window of 64"),
        ({}, {"to": 512}, "no text has 512 tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, more, message):
    with pytest.raises(UserError, match=message):
        recommended(of(**more), **settings)


def test_two_texts_are_too_few():
    with pytest.raises(UserError, match="have 1 piece of 256 tokens to search on and 1 to tell"):
        recommended(ground(shared("llama"), TEXTS[:2]))
