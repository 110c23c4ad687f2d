"""Fit files: what is written is read, what does not belong is refused with both values; who refuses to run unfitted."""

import json
import pickle
from dataclasses import replace

import pytest
import torch

from ropewalk import TCA, UserError, compose, method
from ropewalk.common.fingerprints import model_fingerprint
from ropewalk.methods.catalogue import CATALOGUE, entry
from ropewalk.methods.fit_file import TRUST, VERSUS, Fit, apart
from tests.matrix import LONG, TARGET, logits, near
from tests.models import shared, tiny

PLAN = (((0.5, 0.35, 0.2), (0.45, 0.4, 0.3)),) * 2
CONDENSED = {"beacon", "ext-tok"}  # whose ratio goes by the target
TRAINED = {"landmark", "longgen", "fot", "lact", "hylo", *CONDENSED}
BARE = [entry.id for entry in CATALOGUE if entry.load().measured or entry.load().given]


def fit(**changed) -> Fit:
    fields = {
        "method": "tca",
        "found": {"plan": PLAN},
        "options": {"block": 8, "local": 16},
        "beside": {},
        "to": TARGET,
        "model": {"name": "tiny", "fingerprint": model_fingerprint(shared("llama"))},
        "data": {"source": "topics", "texts": 2, "tokens": 512, "hash": "0"},
        "settings": {"tolerance": 0.05},
        "seen": {"thinned": 4},
        "ropewalk": "0.1.0",
    }
    return Fit(**fields | changed)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a b-tca.json"
    fit().written(path)
    return path


def test_a_text_past_the_target_of_a_fit_is_refused(tmp_path):
    path = tmp_path / "tau.json"
    fit(method="attention-alignment", found={"tau": 0.8}, options={}, to=128).written(path)
    model = shared("llama")
    with method(f"attention-alignment(fitted={str(path)!r})").on(model, to=128):
        assert logits(model, LONG[:, :128]).isfinite().all()
        with pytest.raises(UserError, match=r"the text has 129 tokens, .* was fitted and put on for 128"):
            logits(model, LONG[:, :129])
    with method("attention-alignment(tau=0.8)").on(model, to=128):  # chosen by hand: the user's to say
        assert logits(model, LONG[:, :129]).isfinite().all()


# Nothing is inert


@pytest.mark.parametrize("name", [entry.id for entry in CATALOGUE])
def test_every_method_as_its_name_alone_changes_something_or_refuses(name):
    model, chosen = shared("llama"), method(name)
    if name == "vertical-slash":  # by itself sparse in longer texts than these
        (chosen,) = type(chosen).examples(model.config)
    if name in BARE:
        for attempt in (lambda: chosen.on(model, to=TARGET).__enter__(), lambda: chosen.fingerprint(model, TARGET)):
            with pytest.raises(UserError, match=f"{name} has no ") as error:
                attempt()
            assert name in error.value.mend
    elif name == "mrope-pp":  # for models whose tokens have three positions
        with pytest.raises(UserError, match="tokens of this model have one position"):
            chosen.on(model, to=TARGET).__enter__()
    elif name == "longcache":  # whose own defaults are too large for so small a window
        with pytest.raises(UserError, match="64 trained"):
            chosen.on(model, to=TARGET).__enter__()
    elif name != "none":
        with chosen.on(model, to=TARGET):
            changed = logits(model, LONG)
        assert not near(changed, logits(model, LONG), 1e-4)


def test_the_methods_that_refuse_by_name_alone():
    assert set(BARE) == {
        "attention-alignment", "tca", "squeezed", "head-scale", "dope", "clex", "longrope", "harpe",
        "visual-window", *TRAINED,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["clex", "longrope", "harpe"])
def test_what_must_be_given_is_asked_for_by_extend_too(name):
    with pytest.raises(UserError, match=f"{name} has no "):
        method(name).extend(tiny("llama"), to=TARGET)


def test_a_part_of_a_composition_refuses_and_the_line_fits_it_there():
    joined = compose(method("yarn"), method("tca(block=8, local=16)"))
    for attempt in (lambda m: joined.on(m, to=TARGET).__enter__(), lambda m: joined.fingerprint(m, TARGET)):
        with pytest.raises(UserError, match="tca has no plan") as error:
            attempt(shared("llama"))
        assert "--method 'yarn+tca(block=8, local=16)' --to 256 -o tca.json" in error.value.mend


# Files


def test_a_file_gives_the_method_that_was_written(file):
    chosen = method(f"tca(fitted={file})")
    assert chosen == TCA(8, 16, PLAN) and chosen.fit == fit()
    assert method(chosen.spelling) == chosen and method(chosen.spelling).fit == fit()
    quoted = method(f"tca(fitted='{file}')+yarn")
    assert quoted.parts[1] == chosen
    with chosen.on(shared("llama"), to=TARGET):
        fitted = logits(shared("llama"), LONG)
    assert not near(fitted, logits(shared("llama"), LONG), 1e-3)


def test_the_id_and_the_fingerprint_are_those_of_the_values(file, tmp_path):
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    fit(seen={}).written(same)
    fit(found={"plan": ((PLAN[0][1],) * 2,) * 2}).written(other)
    one, again, another = (method(f"tca(fitted={path})") for path in (file, same, other))
    assert one.id == again.id != another.id and len(one.id) < 60 and one.id.startswith("tca(block=8, local=16, fitted=")
    prints = [chosen.fingerprint(shared("llama"), TARGET) for chosen in (one, again, another)]
    assert prints[0] == prints[1] != prints[2]


def test_numbers_are_shown_in_the_id(tmp_path):
    fit(method="attention-alignment", found={"tau": 0.75}, options={}).written(tmp_path / "tau.json")
    chosen = method(f"attention-alignment(fitted={tmp_path / 'tau.json'})")
    assert chosen.id == "attention-alignment(tau=0.75)"


def test_a_copy_still_knows_its_model(file):
    chosen = pickle.loads(pickle.dumps(method(f"tca(fitted={file})")))
    with pytest.raises(UserError, match="was fitted on tiny"):
        chosen.on(tiny("qwen2"), to=TARGET).__enter__()


def test_another_model_is_refused_with_both_fingerprints(file):
    fit(beside={"log-n": "log-n"}).written(beside := file.with_name("beside.json"))
    joined, alone = method(f"tca(fitted={beside})+log-n"), method(f"tca(fitted={file})")
    other = tiny("llama")
    other.model.layers[0].self_attn.q_proj.weight.data[0, 0] += 1
    for chosen in (joined, alone):
        for attempt in (lambda c: c.on(other, to=TARGET).__enter__(), lambda c: c.fingerprint(other, TARGET)):
            with pytest.raises(UserError) as error:
                attempt(chosen)
            for model in (shared("llama"), other):
                assert model_fingerprint(model)[:12] in error.value.message
            assert "tca(block=8, local=16)'" in error.value.mend


def test_another_method_is_refused(file):
    with pytest.raises(UserError, match="was fitted for tca, not for head-scale"):
        method(f"head-scale(fitted={file})")


def test_other_options_are_refused_and_the_same_ones_are_not(file):
    assert method(f"tca(block=8, fitted={file})") == method(f"tca(fitted={file})")
    with pytest.raises(UserError, match="was fitted with block = 8, not 16"):
        method(f"tca(fitted={file}, block=16)")
    with pytest.raises(UserError, match="was fitted with effective_window = None, not 32"):
        method(f"tca(fitted={file}, effective_window=32)")


@pytest.mark.parametrize("spelling", ["pi(fitted=x.json)", "tca(fitted=3)", "tca(fitted=)", "tca(fitted='')"])
def test_what_takes_no_file_or_none_is_refused(spelling):
    with pytest.raises(UserError):
        method(spelling)


def broken(content: dict, *path: str, value: object) -> str:
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: "{", "is not valid JSON"),
        (lambda c: "[]", "holds a JSON list, expected an object"),
        (lambda c: "{}", "'kind' is None, expected 'ropewalk fit'"),
        (lambda c: json.dumps({**c, "kind": "report"}), "'kind' is 'report'"),
        (lambda c: json.dumps({**c, "more": 1}), "has the keys"),
        (lambda c: broken(c, "to", value="2k"), "to is '2k', expected a int"),
        (lambda c: broken(c, "model", value={"name": "x"}), "expected name (str) and fingerprint (str)"),
        (lambda c: broken(c, "model", "fingerprint", value=7), "expected name (str) and fingerprint (str)"),
        (lambda c: broken(c, "model", "fingerprint", value=None), "expected name (str) and fingerprint (str)"),
        (lambda c: broken(c, "model", "dtype", value=3), "model's dtype is 3, expected a word"),
        (lambda c: broken(c, "data", "texts", value="2"), "expected source (str) and texts (int) and"),
        (lambda c: broken(c, "data", "texts", value=0), "expected counts of 1 or more"),
        (lambda c: broken(c, "to", value=0), "to is 0, expected tokens"),
        (lambda c: broken(c, "to", value=True), "to is True, expected a int"),
        (lambda c: broken(c, "beside", value={"yarn": 1}), "beside is {'yarn': 1}, expected a spelling of each"),
        (lambda c: broken(c, "seen", "thinned", value=None), "seen, thinned, is None, expected a number, a"),
        (
            lambda c: broken(c, "seen", VERSUS, value={"yarn": {"value": 1, "low": "x", "high": 2}}),
            "expected a number, a",
        ),
        (lambda c: broken(c, "found", "plan", value=[["x"]]), "expected numbers"),
        (lambda c: broken(c, "found", "plan", value=[[1e300]]), "expected numbers"),
        (lambda c: broken(c, "found", "plan", value=[[10**39]]), "expected numbers"),
        (lambda c: broken(c, "options", "block", value="x"), "option block is 'x', expected a whole number"),
        (lambda c: broken(c, "found", value={}), "do not agree on the option 'plan'"),
        (lambda c: broken(c, "options", "blok", value=8), "do not agree on the option 'blok'"),
        (lambda c: broken(c, "options", "block", value=7), "block is 7"),
        (lambda c: broken(c, "found", "plan", value=3), "option plan is 3, expected a list"),
    ],
)
def test_what_is_no_fit_file_is_refused(file, change, message):
    file.write_text(change(json.loads(file.read_text())))
    with pytest.raises(UserError) as error:
        method(f"tca(fitted={file})")
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        method(f"tca(fitted={tmp_path / 'nowhere.json'})")


def test_longer_texts_and_other_methods_beside_it_are_refused(file, tmp_path):
    tca, model = f"tca(fitted={file})", shared("llama")
    with pytest.raises(UserError, match="was fitted for 256 tokens, and 512 are the target") as error:
        method(tca).on(model, to=512).__enter__()
    assert "--to 512" in error.value.mend
    with method(tca).on(model, to=TARGET // 2):
        pass
    with pytest.raises(UserError, match="was fitted for 256 tokens, and 128 are the target"):
        fit(beside={"yarn": "yarn"}).written(tmp_path / "yarn.json")
        method(f"tca(fitted={tmp_path / 'yarn.json'})+yarn").on(model, to=TARGET // 2).__enter__()
    fit(beside={"yarn": "yarn"}).written(beside := tmp_path / "beside.json")
    for spelling, then, now in (
        (f"{tca}+yarn", "by itself", "beside yarn"),
        (f"tca(fitted={beside})", "beside yarn", "by itself"),
        (f"tca(fitted={beside})+pi", "beside yarn", "beside pi"),
    ):
        for attempt in (lambda c: c.on(model, to=TARGET).__enter__(), lambda c: c.fingerprint(model, TARGET)):
            with pytest.raises(UserError, match=f"was fitted {then}, and is used {now}"):
                attempt(method(spelling))
    scales = {"scales": ((1.0, 0.5, 1.5, 2.0),) * 2}
    on_top = fit(method="head-scale", found=scales, options={}, beside={method(tca).id: tca})
    on_top.written(tmp_path / "scales.json")
    joined = method(f"{tca}+head-scale(fitted={tmp_path / 'scales.json'})")
    assert joined.fingerprint(model, TARGET) == method(joined.spelling).fingerprint(model, TARGET)
    with joined.on(model, to=TARGET):
        pass


FACTORS = {"factors": tuple(1.0 + i / 4 for i in range(8)), "attention_factor": 1.1}


def longrope(path, **changed):
    fit(method="longrope", found=FACTORS | changed, options={}).written(path, overwrite=True)
    return method(f"longrope(fitted={path})")


@pytest.mark.parametrize("to", [64, 128, TARGET - 1, TARGET + 1, None])
def test_factors_are_for_their_target_alone(to, tmp_path):
    chosen, model = longrope(tmp_path / "f.json"), shared("llama")
    with pytest.raises(UserError, match=f"was fitted for 256 tokens, and {to or 64} are the target") as error:
        chosen.on(model, to=to).__enter__()
    assert "Say --to 256, or fit it anew:" in error.value.mend and f"--to {to or 64}" in error.value.mend
    with chosen.on(model, to=TARGET):
        pass


FREE = [entry.id for entry in CATALOGUE if entry.load().target_free]


@pytest.mark.parametrize("name", FREE)
def test_what_holds_for_shorter_targets_reads_texts_the_same_at_every_target(name):
    model = shared("llama")
    for chosen in entry(name).load().examples(model.config):
        read = []
        for to in (128, 256):
            with chosen.on(model, to=to):
                read.append(logits(model, LONG[:, :128]))
        assert torch.equal(*read) and not near(read[0], logits(model, LONG[:, :128]), 1e-4)


def test_what_holds_for_shorter_targets_is_what_is_measured_and_no_frequencies():
    assert set(FREE) == {"attention-alignment", "tca", "squeezed", "head-scale", "dope", *TRAINED} - CONDENSED


@pytest.mark.parametrize("factors", [(1.0,) * 7 + (257.0,), (0.0,) + (1.0,) * 7, (-1.0,) + (1.0,) * 7])
def test_factors_that_no_search_finds_are_refused(factors, tmp_path):
    with pytest.raises(UserError, match=r"f\.json: factors are .*, expected numbers up to the target, 256"):
        longrope(tmp_path / "f.json", factors=factors)


def test_factors_may_fall_with_the_dimension(tmp_path):
    factors = (2.0, 1.0, *[3.0] * 6)
    assert longrope(tmp_path / "f.json", factors=factors).factors == factors


def test_what_stood_beside_is_known_by_its_values_not_by_its_file(tmp_path):
    model, base, scales = shared("llama"), tmp_path / "base.json", {"scales": ((1.0, 0.5, 1.5, 2.0),) * 2}
    below = longrope(base)
    fit(method="head-scale", found=scales, options={}, beside={below.id: below.spelling}).written(tmp_path / "hs.json")
    top = f"head-scale(fitted={tmp_path / 'hs.json'})"
    (tmp_path / "copy.json").write_bytes(base.read_bytes())
    for path in (base, tmp_path / "copy.json"):
        with method(f"longrope(fitted={path})+{top}").on(model, to=TARGET):
            pass
    other = longrope(base, attention_factor=1.2)
    with pytest.raises(UserError) as error:
        method(f"longrope(fitted={base})+{top}").on(model, to=TARGET).__enter__()
    assert f"was fitted beside {below.id}, and is used beside {other.id}" in error.value.message
    assert "base.json" in error.value.mend and ")+head-scale' --to 256 -o head-scale.json" in error.value.mend


def test_lines_open_the_model_as_it_was_opened():
    made = replace(fit(method="yarn", found={"beta_fast": 16.0}, options={}), loading=("--dtype", "float32", TRUST))
    made = replace(made, exportable=True)
    compare, extend = made.lines
    assert compare.endswith("--dtype float32 --trust-remote-code --data topics")
    assert extend == "ropewalk extend tiny --to 256 --method 'yarn(beta_fast=16.0)' --trust-remote-code -o tiny-256"
    assert f"compare it:\n{compare}\nwrite it into a checkpoint:\n{extend}" in repr(made)
    assert len(fit().lines) == 1, "no configuration says it"
    one = replace(made, seen={VERSUS: {"yarn": {"value": 0.9898, "low": None, "high": None, "n": 1}}})
    assert "yarn: 0.9898 (no interval: of one text)" in repr(one)


@pytest.mark.parametrize(("inside", "out"), [("m", "../m-1k"), ("m/deep", "../../m-1k"), (".", "m-1k")])
def test_what_is_made_of_a_model_lies_apart_from_it(inside, out, tmp_path, monkeypatch):
    (tmp_path / "m" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / inside)
    name = {"m": ".", "m/deep": "..", ".": "m"}[inside]
    assert apart(name, 1024) == out
    assert apart(str(tmp_path / "m"), 1024) == out and apart("org/name", 1024) == "name-1k"


def test_only_fit_files_are_replaced_and_only_if_that_is_said(file, tmp_path):
    with pytest.raises(UserError, match="exists already") as error:
        fit(to=512).written(file)
    assert "--overwrite" in error.value.mend and Fit.read(file).to == TARGET
    fit(to=512).written(file, overwrite=True)
    assert Fit.read(file).to == 512
    precious = tmp_path / "thesis.json"
    precious.write_text('{"chapters": 7}')
    with pytest.raises(UserError, match="ropewalk did not write it"):
        fit().written(precious, overwrite=True)
    assert precious.read_text() == '{"chapters": 7}'


def test_a_method_changed_by_hand_is_no_longer_out_of_a_file(file):
    changed = replace(method(f"tca(fitted={file})"), local=8)
    assert changed.fit is None and "plan=" in changed.id


def test_what_programs_read_has_more_than_the_file(tmp_path):
    told = fit().written(tmp_path / "f.json").to_dict()
    kept = json.loads((tmp_path / "f.json").read_text())
    assert told["file"] == str(tmp_path / "f.json") and told["lines"] and told["verdict"] == ""
    assert not {"file", "page", "lines", "verdict", "limit"} & kept.keys()
