"""Weights that were trained with a rope which needs code are read with it, or not at all."""

import json
import logging
import shlex
from pathlib import Path

import pytest

import ropewalk
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.unwritten import CODE
from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from ropewalk.common.files import RECORD
from ropewalk.training.adapters import adapt
from tests.engines.gguf.checkpoints import checkpoint

HARPE = "harpe(base_min=1000000.0, base_max=5000000.0)"


def trained(folder: Path, method: str, spelling: str | None = None, target: int = 256) -> Path:
    """A folder whose record says that it was trained with a method; its configuration says another, or none."""
    found = checkpoint(folder, spelling=spelling)
    record = {"trained": "own", "method": method, "source": "m", "window": 64, "target": target, "scale": target / 64}
    (found / RECORD).write_text(json.dumps(record))
    return found


def mend_of(folder: Path) -> list[str]:
    """The command that the inspection prints."""
    problem = next(one for one in ropewalk.inspect(folder).problems if one.code == CODE)
    return shlex.split(problem.mend.partition("   (")[0])[1:]


@pytest.mark.parametrize("method", ["entropy-abf", HARPE, "dca"])
def test_the_line_that_is_printed_measures_the_model_with_its_rope(method, tmp_path, capsys):
    folder = trained(tmp_path, method)
    assert run(["inspect", str(folder)]) == 1
    assert CODE in capsys.readouterr().out
    words = [*mend_of(folder), "--lengths", "256", "--tasks", "passkey", "--samples", "1", "-o", str(tmp_path / "out")]
    assert run(words) == 0, capsys.readouterr().err


LINES = {
    "evaluate": "evaluate {model} --lengths 256 -o {out}",
    "another method": "evaluate {model} --methods yarn --to 256 -o {out}",
    "compare": "compare {model} --methods yarn --to 256 -o {out}",
    "export": "export {model} --engine vllm",
    "export, extended": "export {model} --engine transformers --to 512 -o {out}.d",
    "export to a file": "export {model} --gguf {out}",
    "serve": "serve {model} --port 0",
    "check-export": "check-export {model}",
    "fit": "fit {model} --method tca --to 256 -o {out}",
    "fit, any": "fit {model} --method auto --to 256 -o {out}",
}


@pytest.mark.parametrize("line", LINES)
def test_without_its_rope_it_is_refused(line, tmp_path, capsys):
    folder = trained(tmp_path, "entropy-abf")
    assert run(LINES[line].format(model=folder, out=tmp_path / "out.gguf").split()) == 2
    said = capsys.readouterr().err
    assert "entropy-abf to 256 tokens" in said and "entropy-abf --to 256" in said.splitlines()[-1]
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("out")] == []


def test_with_it_another_method_is_fitted(tmp_path):
    folder, texts = trained(tmp_path, "dca"), tmp_path / "texts.txt"
    texts.write_text(" ".join(str(n * n) for n in range(600)))
    fit = f"fit {folder} --to 256 --data {texts} --settings queries=8"
    assert run([*fit.split(), "--method", "dca+attention-alignment", "-o", str(tmp_path / "x.json")]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["beside"] == {"dca": "dca"}


def test_a_plan_says_it_and_its_lines_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = trained(tmp_path, "entropy-abf")
    plan = ropewalk.plan(folder, to=512)
    assert any("trained with entropy-abf to 256 tokens" in note for note in plan.notes)
    compare, extend = map(shlex.split, plan.commands)
    assert compare[-2:] == ["--methods", "entropy-abf,yarn"] and extend[1] == "extend"
    assert run([*compare[1:], "--lengths", "256", "--tasks", "passkey", "--samples", "1", "-o", "out"]) == 0
    assert run(extend[1:]) == 0, capsys.readouterr().err


def test_python_and_an_extension_are_told(tmp_path, caplog):
    folder = trained(tmp_path, "dca")
    with caplog.at_level(logging.WARNING, "ropewalk"):
        model, _ = ropewalk.load(folder)
    line = "with ropewalk.method('dca').on(model, 256): ..."
    assert line in caplog.text
    exec(line.replace("...", "pass"), {"ropewalk": ropewalk, "model": model})
    notes = extend(folder, 256, ropewalk.YaRN(), tmp_path / "out").notes
    assert any("trained with dca" in note for note in notes)


@pytest.mark.parametrize(
    ("method", "spelling"),
    [("yarn", "yarn"), ("ntk-aware", "ntk-aware"), ("none", None), ("yarn(beta_fast=32)", "yarn")],
)
def test_a_rope_that_the_configuration_says_is_no_problem(method, spelling, tmp_path, caplog):
    folder = trained(tmp_path, method, spelling)
    assert ropewalk.inspect(folder).sound
    ropewalk.load(folder)
    assert not caplog.text


@pytest.mark.parametrize(("method", "spelling"), [("yarn", None), ("entropy-abf", "yarn")])
def test_a_configuration_that_says_another_rope_is_one(method, spelling, tmp_path):
    found = Checkpoint.open(trained(tmp_path, method, spelling)).unwritten
    assert found is not None and found.among([f"{method}+logn"]) and not found.among(["none", "pi"])


def test_a_model_that_an_adapter_is_merged_into_says_the_rope_of_its_training(tmp_path):
    base = checkpoint(tmp_path)
    model, _ = ropewalk.load(base, device="cpu")
    training = {"trained": "own", "method": "entropy-abf", "target": 256}
    adapt(model).save(tmp_path / "adapter", training=training)
    ropewalk.merge_adapter(tmp_path / "adapter", base=base, out=tmp_path / "merged")
    needs = Checkpoint.open(tmp_path / "merged").unwritten
    assert needs is not None and (needs.method, needs.target) == ("entropy-abf", 256)


@pytest.mark.parametrize("record", [{}, {"method": "dca"}, {"trained": "own", "method": None, "target": 256}, []])
def test_other_records_say_nothing(record, tmp_path):
    folder = trained(tmp_path, "dca")
    (folder / RECORD).write_text(json.dumps(record))
    assert Checkpoint.open(folder).unwritten is None
