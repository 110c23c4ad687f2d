"""``inspect --set``: all of it or nothing, and never the old file lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ropewalk.checkpoint import edits
from ropewalk.checkpoint.edits import set_keys
from ropewalk.common.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64, "time_step_limit": [0.0, Infinity]}')
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    return tmp_path


def held(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_all_are_set_and_the_first_files_are_kept(folder: Path) -> None:
    before = held(folder)
    words = ["rope_parameters.factor=4.0", "rope_parameters.rope_type=yarn", "my.deep.key=[1]", "my.deep.other=1"]
    set_keys(str(folder), [*words, "tokenizer_config.json:model_max_length=256", "my.deep.other=null"])
    content = json.loads((folder / "config.json").read_text())
    assert content["rope_parameters"] == {"factor": 4.0, "rope_type": "yarn"} and content["my"] == {
        "deep": {"key": [1]}
    }
    assert content["time_step_limit"] == [0.0, float("inf")], "what stands there already is not judged"
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"model_max_length": 256}
    after = held(folder)
    assert after["config.json.bak"] == before["config.json"] and len(after) == 4, "one backup for all changes"
    assert after["tokenizer_config.json.bak"] == before["tokenizer_config.json"]


@pytest.mark.parametrize(
    "word",
    ["x=", "x=NaN", "x=Infinity", "x=[-Infinity]", "x=1e999", "max_position_embeddings=-1", "max_position_embeddings=0",
     "max_position_embeddings=64.5", "max_position_embeddings=true", "text_config.sliding_window=-4",
     "max_position_embeddings=many", "=1", "a..b=1", ".a=1", "a.=1", " =1", ":a=1", "x", "nofile.json:a=1",
     "../config.json:a=1", "max_position_embeddings.inner=1", "tokenizer_config.json:model_max_length=-1"],
)  # fmt: skip
def test_one_that_is_wrong_changes_nothing(word: str, folder: Path) -> None:
    before = held(folder)
    with pytest.raises(UserError):
        set_keys(str(folder), ["rope_theta=1e6", "tokenizer_config.json:model_max_length=128", word])
    assert held(folder) == before


def test_a_failure_in_the_middle_is_undone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = held(folder), edits.write_text

    def full(path: Path, text: str) -> None:
        if path.name == "tokenizer_config.json":
            raise UserError("no room")
        real(path, text)

    monkeypatch.setattr(edits, "write_text", full)
    with pytest.raises(UserError, match="no room"):
        set_keys(str(folder), ["rope_theta=1e6", "tokenizer_config.json:model_max_length=128"])
    assert {name: held(folder)[name] for name in before} == before
