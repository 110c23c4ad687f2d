"""``ropewalk evaluate`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ropewalk
from ropewalk.cli.main import run
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import span
from ropewalk.verbs.compare import ExperimentRequest
from tests.models import tiny
from tests.tokenizers import VOCABULARY, byte_level


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "rope"
    tiny("llama", vocab_size=VOCABULARY).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(checkpoint: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    text = out / "text.txt"
    text.write_text("The rope is long, and the lane is straight. " * 60)
    arguments = ["evaluate", checkpoint, "--lengths", "128..256", "--samples", 5, "--methods", "yarn", "--data", text]
    assert run([*map(str, arguments), "--out", str(out / "run")]) == 0
    return out / "run"


def refused(capsys, *arguments: object) -> str:
    code = run([str(argument) for argument in arguments])
    err = capsys.readouterr().err
    assert code == 2 and "error" in err and "Traceback" not in err, err
    return " ".join(err.split())


def test_an_evaluation_leaves_results_and_a_page(evaluated: Path) -> None:
    results = json.loads((evaluated / "results.json").read_text())
    (model,), (subject,) = results["models"], results["subjects"]
    assert subject["method"] == "yarn" and model["lengths"] == [128, 256]
    assert {row["task"] for row in results["rows"]} == {"ppl", "position", "passkey", "niah", "niah-planted"}
    assert subject["how"] == "packed" and subject["tokens"]["read"] < subject["tokens"]["asked"]
    assert model["window"] == 64 and model["to"] == 256 and results["settings"]["suite"] == "smoke"
    assert results["command"].startswith("ropewalk evaluate ") and "--methods yarn" in results["command"]
    page = (evaluated / "report.html").read_text()
    for text in ("rope with YaRN", "Needle among needles", "Closed book", "Perplexity", "shared prefixes read once"):
        assert text in page, text
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://arxiv.org", ""), "self-contained"


def test_the_same_command_takes_what_is_there(evaluated: Path, checkpoint: Path, capsys) -> None:
    before = json.loads((evaluated / "results.json").read_text())
    arguments = ["evaluate", checkpoint, "--lengths", "128..256", "--samples", 5, "--methods", "yarn", "--json"]
    data = ["--data", evaluated.parent / "text.txt", "--out", evaluated]
    assert run([*map(str, arguments), *map(str, data)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["subjects"][0]["tokens"] == {"asked": 0, "read": 0}, "nothing was computed"
    assert again["rows"] == before["rows"] and again["subjects"][0]["tasks"] == before["subjects"][0]["tasks"]


def test_lengths_as_people_write_them() -> None:
    assert span("512..8k") == [512, 1024, 2048, 4096, 8192]
    assert span("1k..3000, 512") == [512, 1024, 2048, 3000]
    with pytest.raises(UserError, match="runs backwards"):
        span("8k..512")


def test_mistakes_are_named_before_anything_is_loaded(checkpoint: Path, capsys) -> None:
    assert "did you mean 'smoke'" in refused(capsys, "evaluate", checkpoint, "--suite", "smok")
    assert "did you mean 'passkey'" in refused(capsys, "evaluate", checkpoint, "--tasks", "passkeys")
    assert "no length in tokens" in refused(capsys, "evaluate", checkpoint, "--lengths", "512..many")
    assert "cannot be applied to a server" in refused(capsys, "evaluate", "http://127.0.0.1:9/v1", "-m", "yarn")
    assert "is no whole number" in refused(capsys, "evaluate", checkpoint, "--lengths", "512", "--seeds", "a")
    assert "one of local, ray" in refused(capsys, "evaluate", checkpoint, "--lengths", "128", "--on", "moon")
    assert "did you mean 'longbench'" in refused(capsys, "evaluate", checkpoint, "--suite", "longbenc")


def test_several_models_methods_and_seeds_are_one_table(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny("llama", vocab_size=VOCABULARY, hidden_size=32).save_pretrained(other)
    byte_level().save_pretrained(other)
    found = ropewalk.evaluate(
        str(checkpoint), more_models=[str(other)], methods="none,yarn", tasks="passkey", lengths="128,256", samples=4,
        seeds="0,1", out=tmp_path / "out",
    )  # fmt: skip
    subjects = [(one.model, one.method) for one in found.results.subjects]
    assert subjects == [(str(model), method) for model in (checkpoint, other) for method in ("none", "yarn")]
    assert {row.n for row in found.results.rows} == {8}
    assert "YaRN" in repr(found) and str(tmp_path / "out" / "report.html") in repr(found)
    assert "YaRN" in found._repr_html_()


def test_a_target_that_lengths_leave_out_is_measured_and_said(monkeypatch):
    seen = []
    monkeypatch.setattr(ExperimentRequest, "conducted", lambda *words, **more: seen.append((words[1].lengths, more)))
    ropewalk.compare("demo", to="1k", lengths="512")
    ropewalk.compare("demo", to="1k", lengths="512,1k")
    assert seen == [((512, 1024), {"more": {"added length": 1024}}), ((512, 1024), {"more": {}})]
