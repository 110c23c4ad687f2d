"""The lines that apply a recommendation."""

import shlex
from dataclasses import replace

import pytest

from ropewalk.fitting.recommendation import Recommendation
from ropewalk.methods.fit_file import TRUST, Fit


def made(how: str, model: str = "tiny", engine: str = "", **more) -> Recommendation:
    """By its lines alone."""
    fields = {
        "method": "yarn(beta_fast=16.0)", "to": 256, "model": {"name": model, "fingerprint": "0"},
        "settings": {"engine": engine}, "fit": None, "how": how, "loading": ("--dtype", "float32", TRUST),
    }  # fmt: skip
    one = object.__new__(Recommendation)
    vars(one).update(fields | more)
    return one


@pytest.mark.parametrize(
    ("how", "loaded"),
    [("extend", [TRUST]), ("serve", ["--dtype", "float32", TRUST]), ("export", []), ("nothing", [])],
)
def test_the_model_is_opened_as_it_was_where_the_verb_can(how, loaded):
    lines = made(how, engine="vllm").lines
    for line in lines:
        words = shlex.split(line)
        assert words[:3] == ["ropewalk", how, "tiny"]
        assert [word for word in words if word in ("--dtype", "float32", TRUST)] == loaded
    assert bool(lines) == (how != "nothing")


def test_where_the_model_is_the_folder_here_it_goes_beside(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    assert made("extend", ".").lines[0].endswith("-o ../m-256")
    extend, export = made("gguf", ".", "llama.cpp").lines
    assert extend.endswith("-o ../m-256") and "export ../m-256 " in export and export.endswith("../m-256.gguf")


def test_a_file_is_named_as_a_method_reads_it():
    fit = Fit("yarn", {"beta_fast": 16.0}, {}, {}, 256, {}, {}, {}, {}, "0", path="a b,c.json")
    for one in (fit, replace(fit, path="c.json")):
        spelled = shlex.split(made("extend", fit=one).lines[0])[6]
        assert spelled == ("yarn(fitted='a b,c.json')" if one is fit else "yarn(fitted=c.json)")
