"""``ropewalk evaluate`` and ``ropewalk sweep`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ropewalk.report.evaluation import render

from ropewalk.cli.main import run
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import span
from ropewalk.verbs.evaluate import Request, default_out
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
    arguments = ["evaluate", checkpoint, "--lengths", "128..256", "--samples", 5, "--method", "yarn", "--data", text]
    assert run([*map(str, arguments), "--out", str(out / "run")]) == 0
    return out / "run"


def refused(capsys, *arguments: object) -> str:
    code = run([str(argument) for argument in arguments])
    err = capsys.readouterr().err
    assert code == 2 and "error" in err and "Traceback" not in err, err
    return " ".join(err.split())


def test_an_evaluation_leaves_results_and_a_page(evaluated: Path) -> None:
    results = json.loads((evaluated / "results.json").read_text())
    assert results["settings"]["method"] == "yarn" and results["settings"]["lengths"] == [128, 256]
    assert {row["task"] for row in results["results"]} == {"ppl", "position", "passkey", "niah", "niah-planted"}
    assert results["how"] == "packed" and results["tokens"]["read"] < results["tokens"]["asked"]
    assert results["model"]["window"] == 64 and results["model"]["to"] == 256
    page = (evaluated / "report.html").read_text()
    for text in ("rope with yarn", "Needle among needles", "Closed book", "Perplexity", "shared prefixes read once"):
        assert text in page, text
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://arxiv.org", ""), "self-contained"


def test_the_page_says_what_a_damaged_file_lacks(evaluated: Path) -> None:
    results = json.loads((evaluated / "results.json").read_text())
    del results["average"]
    with pytest.raises(UserError, match="cannot be reported: KeyError 'average'"):
        render(results)


def test_the_same_command_takes_what_is_there(evaluated: Path, checkpoint: Path, capsys) -> None:
    before = json.loads((evaluated / "results.json").read_text())
    arguments = ["evaluate", checkpoint, "--lengths", "128..256", "--samples", 5, "--method", "yarn", "--json"]
    data = ["--data", evaluated.parent / "text.txt", "--out", evaluated]
    assert run([*map(str, arguments), *map(str, data)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["tokens"] == {"asked": 0, "read": 0}, "nothing was computed"
    assert again["results"] == before["results"] and again["tasks"] == before["tasks"]


def test_lengths_as_people_write_them() -> None:
    assert span("512..8k") == [512, 1024, 2048, 4096, 8192]
    assert span("1k..3000, 512") == [512, 1024, 2048, 3000]
    with pytest.raises(UserError, match="runs backwards"):
        span("8k..512")


def test_folders_are_named_after_what_was_asked() -> None:
    assert default_out(Request("/models/llama", method="yarn")) == Path("runs/evaluate-llama-yarn-smoke")
    assert default_out(Request("http://host:8000/v1", served="org/model")) == Path("runs/evaluate-model-smoke")


def test_mistakes_are_named_before_anything_is_loaded(checkpoint: Path, capsys) -> None:
    assert "did you mean 'smoke'" in refused(capsys, "evaluate", checkpoint, "--suite", "smok")
    assert "did you mean 'passkey'" in refused(capsys, "evaluate", checkpoint, "--tasks", "passkeys")
    assert "no length in tokens" in refused(capsys, "evaluate", checkpoint, "--lengths", "512..many")
    assert "cannot be applied to a server" in refused(capsys, "evaluate", "http://127.0.0.1:9/v1", "-m", "yarn")
    assert "no model to evaluate" in refused(capsys, "sweep", "--lengths", "512")
    assert "expected numbers" in refused(capsys, "sweep", checkpoint, "--lengths", "512", "--seeds", "a")
    assert "one of local, ray" in refused(capsys, "sweep", checkpoint, "--lengths", "128", "--on", "moon")
