"""``inspect --set`` and ``check-export --fix``: all of it or nothing, and never the old file lost."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ropewalk.checkpoint.edits import set_keys
from ropewalk.cli.main import run
from ropewalk.common.errors import UserError
from ropewalk.common.files import folder_to_write, inventory
from ropewalk.common.whole import new_folder
from tests.models import config


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


def test_a_file_in_a_folder_of_the_model_is_set_and_none_outside(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    inside = folder / "1_Pooling" / "config.json"
    inside.write_text('{"pooling_mode": "strange"}')
    (folder / "ropewalk.json").write_text(json.dumps({"files": inventory(folder)}))
    (path,) = set_keys(str(folder), ["1_Pooling/config.json:pooling_mode=mean"])
    assert path == inside and json.loads(inside.read_text()) == {"pooling_mode": "mean"}
    assert json.loads(inside.with_name("config.json.bak").read_text()) == {"pooling_mode": "strange"}
    assert folder_to_write(folder, [], overwrite=True) == folder, "all of it is still ropewalk's own"
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    (folder / "2_Other").symlink_to(outside)
    other = "config.json"
    for name in (f"../{outside.name}/{other}", f"1_Pooling/../{other}", f"2_Other/{other}", str(outside / other)):
        with pytest.raises(UserError, match="changes files of a local model folder"):
            set_keys(str(folder), [f"{name}:a=1"])
    assert (outside / "config.json").read_text() == "{}"


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


class Full:
    """A disk that is full at the k-th step that needs room, or from there on; removing and renaming still work."""

    def __init__(self, patch: pytest.MonkeyPatch, k: int, once: bool):
        self.seen, self.k, self.once = 0, k, once
        for owner, name in ((os, "fsync"), (os, "link"), (os, "replace"), (Path, "mkdir"), (FileLock, "acquire"),
                            (Path, "write_text"), (shutil, "copyfile"), (shutil, "copystat")):  # fmt: skip
            patch.setattr(owner, name, self.step(getattr(owner, name), name))

    def step(self, real: Any, name: str) -> Any:
        def stepped(*arguments: Any, **named: Any) -> Any:
            self.seen += 1
            if self.seen == self.k or (self.seen > self.k and not self.once and name != "replace"):
                if name in ("write_text", "copyfile"):  # as far as it goes
                    Path(arguments[name == "copyfile"]).write_bytes(b"{")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        return stepped


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {file.name: (file.stat().st_mode, file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}


LINEAR = {"rope_type": "linear", "factor": 4, "rope_theta": 10000.0}  # an engine wants a number with a point
COMMANDS = {
    "set": [
        "inspect",
        "--set",
        "rope_parameters.rope_theta=20000.0",
        "--set",
        "tokenizer_config.json:model_max_length=128",
    ],
    "fix": ["check-export", "--fix"],
}


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_wherever_the_disk_is_full_all_stays_as_it_was(command: str, once: bool, tmp_path: Path) -> None:
    with new_folder(tmp_path / "own", []) as stage:
        config("llama", rope_parameters=LINEAR).save_pretrained(stage)
        (stage / "tokenizer_config.json").write_text('{"model_max_length": 32}')
        (stage / "config.json.bak").write_text("the first")
        (stage / "config.json").chmod(0o640)
    before, (verb, *flags) = state(tmp_path / "own"), COMMANDS[command]
    for k in itertools.count(1):
        folder = Path(shutil.copytree(tmp_path / "own", tmp_path / str(k)))
        with pytest.MonkeyPatch.context() as patch:
            full = Full(patch, k, once)
            failed = run([verb, str(folder), *flags]) == 2
        if full.seen < k:
            break
        assert failed or once, "a single step may have another way"
        assert state(folder) == before or not failed, f"step {k}"
    after = state(folder)
    assert k > 20 and not failed and after["config.json"] != before["config.json"]
    assert after["config.json.bak"] == before["config.json.bak"] and after["config.json.bak.1"] == before["config.json"]
    assert folder_to_write(folder, [], overwrite=True) == folder, "what was ropewalk's stays so"
