"""States are whole or not there, are of the run that asked for them, and hold no pickle."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from ropewalk.common.errors import UserError
from ropewalk.training.states import States, beside

ASKED = {"recipe": {"steps": 3}, "model": "m"}


def tensors(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"model a.b": torch.randn(3, 4), "step": torch.tensor(seed), "half": torch.randn(5).bfloat16(),
            "chance": torch.get_rng_state()}  # fmt: skip


def saved(folder: Path, *seeds: int) -> States:
    states = States(folder, ASKED)
    with states.opened():
        for seed in seeds:
            states.save(seed, tensors(seed), {"log": [seed]})
    return states


def test_the_newest_state_comes_back_bit_for_bit_and_the_one_before_is_gone(tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1, 2)
    found = {name: torch.zeros_like(one) for name, one in tensors(0).items()}
    states.load(found)
    assert all(torch.equal(found[name], one) for name, one in tensors(2).items())
    assert (states.latest, states.notes()) == (2, {"log": [2]})
    assert sorted(path.name for path in states.folder.iterdir()) == ["asked.json", "lock", "step-000000002"]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    files = [path.name for path in (saved(tmp_path / "run", 1).folder / "step-000000001").iterdir()]
    assert all(name.endswith((".safetensors", ".json")) for name in files)


def test_what_a_killed_writer_left_goes_and_its_state_does_not_count(tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1)
    (states.folder / "writing").mkdir()
    (states.folder / "writing" / "model.safetensors").write_bytes(b"half")
    with states.opened():
        assert states.latest == 1
        assert not (states.folder / "writing").exists()


def test_a_run_that_asks_for_something_else_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", 1).folder
    other = States(folder, ASKED | {"model": "n"})
    with pytest.raises(UserError, match="model was 'm', is 'n'"), other.opened():
        pass
    with other.opened(overwrite=True):
        assert other.latest is None


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1)
    with states.opened(), pytest.raises(UserError, match="another run"), States(states.folder, ASKED).opened():
        pass


@pytest.mark.parametrize("name", ["thesis.txt", "step-1"])
def test_a_folder_of_somebody_elses_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(UserError, match=name), States(tmp_path / "run", ASKED).opened(overwrite=True):
        pass
    assert (tmp_path / "run" / name).read_text() == "mine" and os.listdir(tmp_path / "run") == [name]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_said_and_the_state_before_stays(tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1)
    before = {name: torch.zeros_like(one) for name, one in tensors(0).items()}
    with (
        states.opened(),
        largest_file(1 << 10),
        pytest.raises(UserError, match=r"(cannot write|no room for) .*run: (File too large|the disk has)"),
    ):
        states.save(2, {"big": torch.zeros(1 << 12)}, {})
    assert states.latest == 1
    states.load(before)


def test_a_stop_while_a_state_is_written_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt(15)

    states = saved(tmp_path / "run", 1)
    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", stopped)
    with states.opened(), pytest.raises(KeyboardInterrupt) as stop:
        states.save(2, tensors(2), {})
    assert stop.value.args == (15,) and states.latest == 1


@pytest.mark.parametrize("change", ["lacks", "has", "shape"])
def test_a_state_of_other_tensors_is_refused(change: str, tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1)
    wanted = tensors(0)
    if change == "has":
        del wanted["half"]
    elif change == "lacks":
        wanted["more"] = torch.zeros(1)
    else:
        wanted["half"] = torch.zeros(6).bfloat16()
    with pytest.raises(UserError, match="state"):
        states.load(wanted)


@pytest.mark.parametrize("damage", ["truncated", "notes"])
def test_a_damaged_state_is_refused(damage: str, tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1)
    state = states.folder / "step-000000001"
    if damage == "notes":
        (state / "notes.json").write_text("{")
        with pytest.raises(UserError, match=r"notes\.json"):
            states.notes()
        return
    (file,) = state.glob("*.safetensors")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(UserError, match="state"):
        states.load(tensors(0))


def test_states_lie_beside_what_they_lead_to(tmp_path: Path) -> None:
    assert beside(tmp_path / "a" / ".." / "out") == tmp_path / "out.training"
    states = saved(tmp_path / "run", 1)
    states.remove()
    assert not states.folder.exists()


def test_what_differs_is_named_by_its_key(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", 1).folder
    other, words = (
        States(folder, ASKED | {"recipe": {"steps": 4}}),
        "asked for something else: recipe.steps was 3, is 4",
    )
    with pytest.raises(UserError, match=re.escape(words)), other.opened():
        pass


def test_the_mend_of_a_broken_state_mends(tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1)
    for file in (states.folder / "step-000000001").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError) as refused:
        states.load(tensors(0))
    assert refused.value.mend.startswith("Begin anew: rm -r ")
    subprocess.run(refused.value.mend.removeprefix("Begin anew: "), shell=True, check=True)
    with states.opened():
        assert states.latest is None


def test_a_state_without_its_notes_is_refused(tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1)
    (states.folder / "step-000000001" / "notes.json").unlink()
    with pytest.raises(UserError, match="lacks notes"):
        states.notes()
    (states.folder / "asked.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON") as refused, states.opened():
        pass
    assert refused.value.mend == states.anew


def test_only_what_is_ours_is_removed_in_the_end(tmp_path: Path) -> None:
    states = saved(tmp_path / "run", 1)
    (states.folder / "thesis.txt").write_text("mine")
    states.remove()
    assert [path.name for path in states.folder.iterdir()] == ["thesis.txt"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    saved(tmp_path / "link", 1).remove()
    assert not list((tmp_path / "elsewhere").iterdir())
