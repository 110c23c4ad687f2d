"""One method to take: everybody is raced or left out with a reason, limits are kept, and what is said is so."""

import re
import shlex
from dataclasses import replace

import pytest

from ropewalk import UserError
from ropewalk.backends.nll import token_nll
from ropewalk.checkpoint.write import extended_config
from ropewalk.common.statistics import ratio
from ropewalk.common.store import SampleStore
from ropewalk.fitting.entrants import Entrants
from ropewalk.fitting.recommending import Recommending
from ropewalk.methods.catalogue import CATALOGUE, method
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
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
    model, (_, others, _) = shared("llama"), of().texts_and_others(256)

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


def tax(spelling):
    """How many times the plain model's perplexity a method has within the window, on the texts of the search."""
    model, (searched, _, _) = shared("llama"), of().texts_and_others(256)

    def near(one):
        with method(one).on(model, 256):
            return token_nll(model, searched[::2, :64]).double().mean(1)

    return float((near(spelling) - near("none")).mean().exp())


def test_a_tax_is_kept_on_the_texts_of_the_search():
    found = recommended(of(), tax=0.001)
    assert tax(found.method) <= 1.001 + 1e-6
    over = [one.method for one in found.families if one.times is None]
    assert over and all(tax(spelling) > 1.001 for spelling in over)


def test_a_tax_that_nobody_keeps_is_refused_with_one_that_somebody_does(monkeypatch):
    taxes = {one: tax(one) for one in ("pi", "ntk-aware", "yarn", "mr-rope", "ntk-by-parts")}
    dear = max(taxes, key=taxes.get)
    assert taxes[dear] > 1
    monkeypatch.setattr(Entrants, "sorted_out", lambda *of: ([method(dear)], {}))
    with pytest.raises(UserError, match=r"no method reads short texts within 0\.00% of the plain model") as error:
        recommended(of(), tax=0.0, families=0, factors=0)
    least = float(re.findall(r"Say tax=([0-9.]+)", str(error.value))[0])
    assert taxes[dear] - 1 <= least <= taxes[dear] - 1 + 0.001
    assert recommended(of(), tax=least, families=0, factors=0).families[-1].times is not None


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
    with pytest.raises(UserError, match="have 2 pieces of 256 tokens, expected at least 4"):
        recommended(ground(shared("llama"), TEXTS[:2]))
