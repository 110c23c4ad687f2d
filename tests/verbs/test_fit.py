"""``ropewalk fit`` as a user types it, and the file in the hands of other verbs."""

import json
import re
import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

import ropewalk
from ropewalk import UserError
from ropewalk.cli.main import run
from ropewalk.common.store import SampleStore
from ropewalk.fitting import scoring
from ropewalk.fitting.fitter import FITTERS
from ropewalk.fitting.race import Race
from ropewalk.methods import catalogue
from ropewalk.methods.catalogue import CATALOGUE, entry
from ropewalk.methods.fit_file import DOUBT, Fit
from ropewalk.report.page import Page
from ropewalk.training.recipes.interpolation import longrope
from ropewalk.verbs.fit import MARK
from tests.models import shared
from tests.verbs.typed import refused, said

QUICK = {  # small enough for a window of 64 and texts of 256 tokens
    "attention-alignment": ("attention-alignment", "queries=16"),
    "tca": ("tca(block=8, local=16)", "tolerance=0.8"),
    "squeezed": ("squeezed(observed=20, clusters=0.2)", "percentile=0.5"),
    "dope": ("dope", "share=0.3"),
    "head-scale": ("head-scale", "steps=4, least=0.5"),
    "longrope": ("longrope", "rounds=1"),
}


def test_what_is_measured_has_a_fitter_and_nothing_else():
    assert set(FITTERS) == {entry.id for entry in CATALOGUE if entry.load().measured}


def test_what_is_measured_is_not_searched_as_well():
    assert not [entry.id for entry in CATALOGUE if entry.load().measured and entry.load().tunable]


TUNABLE = [entry.id for entry in CATALOGUE if entry.load().tunable and entry.load().causal is True]


@pytest.mark.parametrize("name", TUNABLE)
def test_options_of_every_method_that_names_them_are_searched_and_used(name, model, texts, capsys):
    words = "fit", model, "-m", name, "--to", 256, "--data", texts, "--samples", 2, "--settings", "rounds=1"
    found = json.loads(said(capsys, *words, "-o", "found.json", "--json"))
    method = entry(name).load()()
    assert (DOUBT in found["seen"]) is ("visibility" in method.axes)
    assert found["found"].keys() <= method.tunable.keys() and found["settings"]["rounds"] == 1
    assert Path("found.html").exists()
    use = catalogue.method(f"{name}(fitted=found.json)")
    assert {key: getattr(use, key) for key in found["found"]} == found["found"]
    without = catalogue.method(Fit.read(Path("found.json")).spelling)
    assert without == use and without.id == use.id


@pytest.mark.slow
def test_searched_options_are_said_without_a_file_and_used_with_one(model, texts, capsys):
    words = "fit", model, "-m", "ntk-aware", "--data", texts, "--samples", 2, "--settings", "rounds=2"
    alone, kept = said(capsys, *words), said(capsys, *words, "-o", "ntk.json")
    assert not Path("ntk.json.candidates").exists()
    (spelling,) = set(re.findall(r"ntk-aware\(stretch=[0-9.]+\)", alone))
    assert f"without its file: {spelling}" in kept and "written to ntk.json" in kept
    compare = ["compare", model, "--to", 256, "--tasks", "ppl", "--data", texts, "--out", "run", "--json"]
    found = json.loads(said(capsys, *compare, "--methods", f"{spelling},ntk-aware(fitted=ntk.json),ntk-aware"))
    searched, default = ([r["value"] for r in found["rows"] if r["method"] == m] for m in (spelling, "ntk-aware"))
    assert len(searched) == len(default) > 0 and searched != default
    longer = refused(capsys, "compare", model, "--to", 512, "--methods", "ntk-aware(fitted=ntk.json)")
    assert "was fitted for 256 tokens, and 512 are the target" in longer and "--method ntk-aware --to 512" in longer
    with pytest.raises(UserError, match=r"was fitted on .*; this model is"):
        catalogue.method("ntk-aware(fitted=ntk.json)").require(shared("llama"), 256)


@contextmanager
def stopping(monkeypatch):
    """Searches stop after three candidates."""
    kept = Race._keep

    def stop(race, standing):
        kept(race, standing)
        if len(race.ran) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Race, "_keep", stop)
        yield


def test_a_search_that_was_stopped_goes_on_without_a_file_too(model, texts, capsys, monkeypatch):
    words = ["fit", str(model), "-m", "ntk-aware", "--data", str(texts), "--samples", "2", "--settings", "rounds=2"]
    with stopping(monkeypatch):
        assert run(words) == 130
    assert "what was finished is kept, and the same command goes on" in capsys.readouterr().err
    (store,) = Path("runs").glob("fit-*.candidates")
    with SampleStore(store) as records:
        assert len(records) > 3
    there = said(capsys, *words)
    assert not Path("runs").exists() and there == said(capsys, *words)


def test_auto_ends_in_a_line_that_applies_it(model, texts, capsys):
    settings = "exportable=true, families=1, rounds=1, factors=1"
    result = ropewalk.fit(model, method="auto", to=256, data=texts, samples=4, settings=settings, out="best.json")
    found, shown = json.loads(result.to_json()), repr(result)
    assert shown.splitlines()[-1] == found["lines"][0] and "times the perplexity of the model as it is" in shown
    assert found["rivals"][-1]["method"] == "none" and found["runner_up"] == found["rivals"][0]["method"]
    assert found["file"] == ("best.json" if found["found"] else "") and not Path("best.json.candidates").exists()
    assert "the race is on best.html" in shown and "Left out" in Path("best.html").read_text()
    _, *line = shlex.split(found["lines"][0])
    assert line[0] == "extend" and found["method"].partition("(")[0] in said(capsys, *line)


def test_what_cannot_be_said_needs_a_file(model, texts, capsys):
    told = refused(capsys, "fit", model, "-m", "longrope", "--to", 256, "--data", texts)
    assert "cannot be said without a file" in told and "-o longrope.json" in told


@pytest.mark.parametrize("name", QUICK)
def test_the_printed_line_mends_the_refusal(name, model, texts, capsys):
    spelling, settings = QUICK[name]
    compare = ["compare", model, "--to", 256, "--tasks", "ppl", "--data", texts, "--out", "run", "--json"]
    line, use = refused(capsys, *compare, "--methods", spelling).splitlines()[-2:]
    _, *words = shlex.split(line)
    said(capsys, *words, "--data", texts, "--settings", settings)
    method = use.removeprefix("Then say ").removesuffix(".")
    found = json.loads(said(capsys, *compare, "--methods", f"none,{method}"))
    methods = dict.fromkeys(row["method"] for row in found["rows"])
    plain, fitted = ([r["value"] for r in found["rows"] if r["method"] == m] for m in methods)
    assert len(plain) == len(fitted) > 0 and plain != fitted
    content = json.loads(Path(f"{name}.json").read_text())
    assert content["to"] == 256 and content["data"]["source"] == str(texts) and content["model"]["name"] == str(model)


def test_the_target_is_four_windows_where_the_configuration_promises_no_more(model, texts, capsys):
    words = "fit", model, "-m", "attention-alignment", "--data", texts, "-o", "tau.json", "--settings", "queries=8"
    assert json.loads(said(capsys, *words, "--json"))["to"] == 256


def test_others_are_on_while_one_is_fitted(model, texts, capsys):
    words = "fit", model, "--to", 256, "--data", texts, "--settings", "queries=8", "-o", "tau.json", "--json"
    alone = json.loads(said(capsys, *words, "-m", "attention-alignment"))
    assert "tau.json exists already" in refused(capsys, *words, "-m", "yarn+attention-alignment")
    beside = json.loads(said(capsys, *words, "-m", "yarn+attention-alignment", "--overwrite"))
    assert alone["found"] != beside["found"] and beside["beside"] == {"yarn": "yarn"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "pi"], "pi has nothing to fit Methods that have: abf, attention-alignment, cope, dca, dope, "),
        (["-m", "yarn+yarn-temperature"], "several things to fit, yarn and yarn-temperature"),
        (["-m", "yarn(beta_fast=9,beta_slow=2,attention_factor=1.1)"], "has nothing to fit: all of it is given"),
        (["-m", "longcache"], "sees tokens that come later"),
        (["-m", "auto", "--settings", "engine=vllm, exportable=false"], "contradict each other"),
        (
            ["-m", "auto", "--settings", "engine=vlm"],
            "did you mean 'vllm'? Say --settings engine=... of transformers, ",
        ),
        (["-m", "yarn", "--settings", "rounds=0"], "rounds is 0, expected at least 1"),
        (["-m", "yarn", "--settings", "tax=-1%"], "tax is -0.01, expected a share of 0 or more"),
        (["-m", "yarn", "--settings", "5"], "Write name=value"),
        (["-m", "auto", "--to", "8k"], "no text has 8,192 tokens"),
        (["-m", "tca+attention-alignment"], "several things to fit, attention-alignment and tca"),
        (["-m", "tca", "--settings", "tolerence=1"], "the fit of tca has no option 'tolerence'; did you mean"),
        (["-m", "attention-alignment", "--settings", "by='min'"], "option by is 'min', expected 'max' or 'entropy'"),
        (["-m", "attention-alignment", "--samples", "0"], "samples: '0' is no whole number"),
        (["-m", "attention-alignment", "--to", "64"], "expected queries <= window < target"),
        (["-m", "attention-alignment", "--to", "8k"], "no text has 8,192 tokens"),
        (["-m", "clex+tca"], "clex has no weights"),
        (["-m", "longrope", "--seed", "-1"], "is no whole number from 0"),
        (["-m", "longrope", "--seed", "5", "--settings", "seed=4"], "the seed is said twice, --seed 5 and"),
        (["-m", "auto", "--seed", "5", "--settings", "seed=4"], "the seed is said twice, --seed 5 and"),
        (["-m", "auto+dca"], "method is 'auto+dca': auto races methods one by one"),
        (["-m", "yarn", "--settings", "tax=abc"], "option tax is 'abc', expected a number, or none"),
        (["-m", "yarn", "--settings", "race=maybe"], "option race is 'maybe', expected true or false"),
        (["-m", "tca(block=8, local=8)", "--settings", "candidates=-1"], "candidates is -1, expected at least 1"),
        (["-m", "tca(block=8, local=8)", "--settings", "tolerance=-1"], "tolerance is -1.0, expected at least 0"),
        (["-m", "dope", "--seed", "1"], "the fit of dope draws nothing: it has no seed"),
    ],
)
def test_what_cannot_be_fitted_is_refused(words, message, model, texts, capsys):
    assert message in " ".join(refused(capsys, "fit", model, "--data", texts, "-o", "x.json", *words).split())
    assert not list(Path().glob("x.json*"))


def test_a_search_writes_its_page_beside_the_file_and_replaces_nothing_else(model, texts, capsys):
    words = "fit", model, "--to", 256, "--data", texts, "-m", "longrope", "--settings", "rounds=1", "--samples", 2
    Path("factors.html").write_text("<title>mine</title>")
    for more in ([], ["--overwrite"]):
        assert "did not write it" in refused(capsys, *words, "-o", "factors.json", *more)
    assert Path("factors.html").read_text() == "<title>mine</title>" and not Path("factors.json").exists()
    printed = said(capsys, *words, "-o", "other.json")
    assert "written to other.json; its page is other.html\n" in printed
    assert "longrope(fitted=other.json)" in Path("other.html").read_text()
    Path("other.json").unlink()
    assert "other.html exists already" in refused(capsys, *words, "-o", "other.json")
    found = json.loads(said(capsys, *words, "-o", "other.json", "--overwrite", "--json"))
    assert (found["file"], found["page"]) == ("other.json", "other.html") and found["lines"] and found["verdict"]
    kept = json.loads(Path("other.json").read_text())
    assert {**found, "kind": kept["kind"]}.items() >= kept.items()
    assert not list(Path().glob("*.candidates*"))


def test_another_file_is_refused_before_anything_is_loaded(texts, capsys):
    (texts / "thesis.md").write_text("years of work")
    assert "did not write it" in refused(capsys, "fit", "nowhere", "-m", "tca", "-o", texts / "thesis.md")
    assert (texts / "thesis.md").read_text() == "years of work"


@pytest.mark.parametrize("line", ["compare demo --to 2k -m tca", "compare demo --to 2k -m yarn+head-scale"])
def test_a_mend_names_the_model_as_the_user_did(line, capsys):
    assert run(line.split()) == 2
    assert "ropewalk fit demo --method" in capsys.readouterr().err


NTK = "-m", "ntk-aware", "--to", 256, "--samples", 2, "--settings", "rounds=1"


@pytest.fixture
def stopped(model, texts, monkeypatch):
    """A search that was stopped after three candidates."""
    words = ["fit", model, "--data", texts, *NTK, "-o", "x.json"]
    with stopping(monkeypatch):
        assert run(list(map(str, words))) == 130
    return words


def test_candidates_of_another_search_are_neither_used_nor_removed(stopped, capsys):
    with SampleStore("x.json.candidates") as store:
        held = len(store)
    for more, differs in (
        ({"--data": "texts/1.txt"}, "data was "),
        ({"--samples": 3}, "samples was 2, is 3"),
        ({"--seed": 4}, "seed was None, is 4"),
        ({"--settings": "rounds=2"}, "settings was 'rounds=1', is 'rounds=2'"),
        ({"-m": "yarn", "--dtype": "bfloat16"}, "method was 'ntk-aware', is 'yarn'; dtype was 'auto', is 'bfloat16'"),
    ):
        options = dict(zip(stopped[2::2], stopped[3::2], strict=True)) | more
        told = refused(capsys, *stopped[:2], *(word for one in options.items() for word in one))
        assert differs in " ".join(told.split()) and "begin anew: rm x.json.candidates*" in told
        with SampleStore("x.json.candidates") as store:
            assert len(store) == held > 3
    assert [one.name for one in Path().glob("x.*")] == ["x.json.candidates"]
    said(capsys, *stopped)
    assert Path("x.json").exists() and not list(Path().glob("*.candidates*"))


def test_where_a_page_finds_no_room_nothing_is_written_and_the_same_command_goes_on(model, texts, capsys, monkeypatch):
    words = "fit", model, "--data", texts, *NTK, "-o", "x.json"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Page, "render", full)
        assert run(list(map(str, words))) != 0
    assert [one.name for one in Path().glob("x.*")] == ["x.json.candidates"]
    said(capsys, *words)
    assert sorted(one.name for one in Path().glob("x.*")) == ["x.html", "x.json"]


def test_a_second_search_to_one_file_is_refused_at_its_start(model, texts, capsys, monkeypatch):
    words = "fit", model, "--data", texts, *NTK, "-o", "x.json"
    monkeypatch.setattr("ropewalk.verbs.fit._found", lambda *_: pytest.fail("it reads texts"))
    with FileLock("x.json.candidates.lock"):
        assert "another search keeps its candidates in x.json.candidates" in refused(capsys, *words)


def test_what_is_refused_leaves_nothing_not_even_a_folder(model, texts, capsys, monkeypatch):
    words = "fit", model, "-m", "ntk-aware", "--data", texts, "-o", "new/deep/x.json", "--to"
    assert "no text has 8,192 tokens" in refused(capsys, *words, "8k")
    monkeypatch.setattr(scoring, "token_nll", lambda model, ids, keep: torch.full((len(ids), keep), torch.nan))
    assert "own losses are no finite numbers" in refused(capsys, *words, 256)
    assert not Path("new").exists()


def test_what_was_opened_otherwise_is_opened_so_by_the_lines_that_are_printed(model, texts, capsys):
    shutil.copytree(model, "here")
    printed = said(capsys, "fit", "here", "--data", texts, *NTK, "--dtype", "bfloat16", "--trust-remote-code",
                   "-o", "x.json")  # fmt: skip
    compare, extend = (shlex.split(line)[1:] for line in printed.splitlines() if line.startswith("ropewalk "))
    assert compare[0] == "compare" and extend[0] == "extend"
    rows = json.loads(said(capsys, *compare, "--tasks", "ppl", "--out", "run", "--json"))["rows"]
    assert len({row["method"] for row in rows}) >= 2
    said(capsys, *extend)
    assert json.loads(Path("here-256/config.json").read_text())["max_position_embeddings"] == 256
    line = refused(capsys, "compare", "here", "--to", 256, "--methods", "ntk-aware(fitted=x.json)").splitlines()[-2]
    assert "--dtype float32" in line


@pytest.mark.slow
def test_two_workers_find_what_one_finds(model, texts, capsys):
    words = "fit", model, "-m", "longrope", "--to", 256, "--data", texts, "--settings", "rounds=2"
    alone = said(capsys, *words, "-o", "one.json", "--json")
    together = said(capsys, *words, "-o", "two.json", "--json", "--workers", 2)
    assert json.loads(alone) == json.loads(together.replace("two.", "one."))
    assert not list(Path().glob("*.candidates*"))


def test_a_fit_that_is_no_search_takes_one_worker(model, texts, capsys):
    words = "fit", model, "--to", 256, "--data", texts, "-o", "x.json", "--workers", 2
    assert "dope is measured in one reading, by one worker" in refused(capsys, *words, "-m", "dope")
    assert "on is 'there'" in refused(capsys, *words, "-m", "longrope", "--on", "there")


@pytest.fixture
def factors(model, texts, capsys):
    """A fit of longrope to 256 tokens."""
    said(capsys, "fit", model, "-m", "longrope", "--to", 256, "--data", texts, "--settings", "rounds=1", "-o", "f.json")
    return "longrope(fitted=f.json)"


@pytest.mark.slow
def test_documents_too_short_to_be_read_are_told(model, texts, capsys):
    shutil.copytree(texts, "some")
    Path("some/short.txt").write_text("Too short.")
    words = "fit", model, "--to", 256, "--data", "some"
    printed = said(capsys, *words, "-m", "longrope", "--settings", "rounds=1", "-o", "f.json")
    assert "documents too short to be read: 1\n" in printed


def test_a_fit_is_written_into_no_other_model_and_for_no_other_length(model, factors, capsys):
    other = Path("other")
    shutil.copytree(model, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 0.25
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    for words in (["extend", other, "-o", "x"], ["export", other, "--engine", "vllm", "-o", "x"]):
        message = refused(capsys, *words, "--to", 256, "--method", factors)
        assert "f.json was fitted on" in message and "this model is" in message
    short = refused(capsys, "extend", model, "--to", 128, "--method", factors, "-o", "x")
    assert "f.json was fitted for 256 tokens, and 128 are the target" in short
    assert not Path("x").exists()
    said(capsys, "extend", model, "--to", 256, "--method", factors, "-o", "x")
    assert json.loads(Path("x/config.json").read_text())["max_position_embeddings"] == 256


@pytest.mark.slow
def test_a_recipe_takes_fits_of_its_model_and_of_its_legs(model, texts, factors, capsys):
    words = "fit", model, "-m", "longrope", "--data", texts, "--settings", "rounds=1"
    said(capsys, *words, "--to", 128, "-o", "half.json")
    train = "--out", "y", "--to", 256, "--dry-run"
    said(capsys, "train", "longrope(half=half.json, whole=f.json)", model, texts, *train)
    for spelling, message in (
        ("longrope(half=f.json, whole=half.json)", "f.json was fitted for 256 tokens, and 128 are"),
        ("longrope(half=half.json, whole=half.json)", "half.json was fitted for 128 tokens, and 256 are"),
    ):
        assert message in refused(capsys, "train", spelling, model, texts, *train)


def test_what_was_trained_gets_a_second_profile_for_short_texts(model, texts, capsys):
    values = [1 + 3 * i / 7 for i in range(8)]
    Path("recipe.json").write_text(
        json.dumps(longrope(values, values).with_changes({"steps": 2, "batch": 2}).to_dict())
    )
    said(capsys, "train", "recipe.json", model, texts, "-o", "long", "--to", 256, "--keys", 0, "--documents", 0)
    words = "--to", 128, "--method"
    said(capsys, "fit", "long", *words, "longrope", "--data", texts, "--samples", 2, "--settings", "rounds=1",
         "-o", "short.json")  # fmt: skip
    said(capsys, "extend", "long", *words, "longrope(fitted=short.json)", "-o", "short")
    long, short = (json.loads(Path(name, "config.json").read_text()) for name in ("long", "short"))
    assert (long["max_position_embeddings"], short["max_position_embeddings"]) == (256, 128)
    assert long["rope_parameters"] != short["rope_parameters"]
    assert Path("short/model.safetensors").samefile("long/model.safetensors")


def test_what_was_given_is_not_searched(model, texts, factors, capsys):
    words = "fit", model, "--to", 256, "--data", texts, "-o", "x.json", "--settings", "rounds=1"
    assert "all of it is given" in refused(capsys, *words, "-m", factors)
    assert "all of it is given" in refused(capsys, *words, "-m", f"longrope(factors={[2.0] * 8})")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [("yarn", "rounds=1"), ("dope", "share=0.3")])
def test_on_top_of_what_was_fitted_another_is_fitted_and_both_are_used(name, settings, model, texts, capsys):
    words = "fit", model, "--to", 256, "--data", texts, "--samples", 2
    said(capsys, *words, "-m", "attention-alignment", "-o", "tau.json", "--settings", "queries=8")
    fitted = catalogue.method("attention-alignment(fitted=tau.json)").spelling
    words = *words, "-m", f"{fitted}+{name}", "--settings", settings
    assert "cannot be said without a file" in refused(capsys, *words)
    told = said(capsys, *words, "-o", "top.json")
    found = Fit.read(Path("top.json"))
    assert found.method == name and list(found.beside.values()) == [fitted] and "without its file" not in told
    compare = ["compare", model, "--to", 256, "--tasks", "ppl", "--data", texts, "--out", "run", "--json"]
    rows = json.loads(said(capsys, *compare, "--methods", f"none,{found.use}"))["rows"]
    assert len({row["method"] for row in rows}) == 2
    alone = refused(capsys, *compare[:-2], "other", "--methods", f"{name}(fitted=top.json)")
    (known,) = found.beside
    assert f"was fitted beside {known}, and is used by itself" in alone


def test_an_option_that_is_named_is_held_also_at_its_default(model, texts, capsys):
    words = "fit", model, "--to", 256, "--data", texts, "--settings", "rounds=2", "--json"
    found = json.loads(said(capsys, *words, "-m", "yarn(beta_fast=32, beta_slow=1)", "-o", "x.json"))
    assert found["found"].keys() == {"attention_factor"}
    given = "yarn(beta_fast=32, beta_slow=1, attention_factor=none)"
    assert "all of it is given" in refused(capsys, *words, "-m", given)


def test_shares_are_percentages_too(model, texts, capsys):
    words = "fit", model, "--to", 256, "--data", texts, "-m", "yarn", "-o"
    said(capsys, *words, "x.json", "--settings", "rounds=1, tax=900%")
    assert Fit.read(Path("x.json")).settings["tax"] == 9
    extend = "extend", model, "--to", 256, "-o", "out", "-m"
    assert "x.json keeps tax=-0.5" in refused(capsys, *extend, "yarn(fitted=x.json, tax=-50%)")


def test_a_store_of_something_else_is_neither_used_nor_removed(model, texts, capsys):
    words = "fit", model, "--to", 256, "--data", texts, "-o", "x.json", "--settings", "rounds=1"
    with SampleStore("x.json.candidates") as store:
        store.put({"a": {"answer": 1}})
    assert "is a store of something else" in refused(capsys, *words, "-m", "longrope")
    with SampleStore("x.json.candidates") as store:
        assert len(store) == 1
        store.remove()
    with SampleStore("x.json.candidates") as store:
        store.put({MARK: {"method": "yarn", "model": "another", "to": 128}})
    assert "x.json.candidates is a store of something else" in refused(capsys, *words, "-m", "longrope")
    for mark in ({"a": 1}, [], "x", 3, None):
        with SampleStore("x.json.candidates") as store:
            store.remove()
            store.put({MARK: mark, "a": {"losses": []}})
        assert "x.json.candidates is a store of something else" in refused(capsys, *words, "-m", "longrope")
