"""One run at a time in a folder, of one thing asked; what another left is refused, or thrown away if so told."""

import re
import shutil
from itertools import count

import pytest

from ropewalk.common.errors import UserError
from ropewalk.common.underway import Underway, aside, flat
from ropewalk.common.whole import make, new_folder
from tests.instants import ended

KEPT = re.compile(r"part-\d")


def at(folder, **asked) -> Underway:
    return Underway(folder, asked or {"a": 1}, KEPT, "parts")


def test_what_is_kept_is_there_for_the_same_run(tmp_path) -> None:
    with at(tmp_path / "x").opened():
        (tmp_path / "x" / "part-1").write_text("1")
        (tmp_path / "x" / "writing").mkdir()
    with at(tmp_path / "x").opened():
        assert [one.name for one in at(tmp_path / "x").all()] == ["part-1"]
        assert not (tmp_path / "x" / "writing").exists()
    at(tmp_path / "x").remove()
    assert not (tmp_path / "x").exists()


def test_another_run_is_refused_by_what_differs_or_begins_anew(tmp_path) -> None:
    with at(tmp_path / "x", a=1, b={"c": 2}).opened():
        (tmp_path / "x" / "part-1").write_text("1")
    with (
        pytest.raises(UserError, match=r"holds parts of a run .* b\.c was 2, is 3"),
        at(tmp_path / "x", a=1, b={"c": 3}).opened(),
    ):
        pass
    with at(tmp_path / "x", a=1, b={"c": 3}).opened(overwrite=True):
        assert not at(tmp_path / "x").all()


def test_two_runs_at_once_are_refused(tmp_path) -> None:
    with at(tmp_path / "x").opened(), pytest.raises(UserError, match="another run writes"), at(tmp_path / "x").opened():
        pass


def test_a_strangers_folder_stays_as_it_is(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds mine\.txt, which no run of ours left"), at(tmp_path).opened(True):
        pass
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]


def test_names_and_places(tmp_path) -> None:
    assert aside(tmp_path / "out", "shards") == tmp_path / "out.shards"
    assert flat({"a": {"b": 1}, "c": 2}, ".") == {"a.b": 1, "c": 2}


def test_what_killed_runs_left_is_swept_and_files_of_others_are_not(tmp_path) -> None:
    litter = tmp_path / "x" / ".asked.json.ropewalk-0123abcd"
    litter.mkdir(parents=True)
    (litter / "lock").touch()
    with at(tmp_path / "x").opened():
        assert not litter.exists()
    for name, content in (("lock", "precious"), ("writing", "a novel")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(content)
        with pytest.raises(UserError, match=f"holds {name}"), at(tmp_path / name).opened(True):
            pass
        assert (tmp_path / name / name).read_text() == content


def test_what_says_that_others_are_whole_goes_first(tmp_path, monkeypatch) -> None:
    import ropewalk.common.underway as module

    gone = []
    monkeypatch.setattr(module, "_removed", lambda path: gone.append(path.name))
    kept = Underway(tmp_path / "x", {}, re.compile(r"\d+\..*"), "shards")
    with kept.opened():
        for name in ("0.ids.npy", "0.json", "1.ids.npy", "1.json"):
            (tmp_path / "x" / name).write_text("")
        kept.remove()
    assert gone == ["0.json", "1.json", "0.ids.npy", "1.ids.npy"]


def test_a_folder_in_which_nothing_is_kept_goes_whatever_ended_the_work(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), at(tmp_path / "x").opened():
        (tmp_path / "x" / "writing").mkdir()
        (tmp_path / "x" / "writing" / "half").write_text("ha")
        raise KeyboardInterrupt
    assert not (tmp_path / "x").exists()


def test_ended_at_any_instant_the_next_run_goes_on_and_nothing_is_left(tmp_path) -> None:
    underway, out = at(tmp_path / "x"), tmp_path / "out"

    def work() -> None:
        with underway.opened():
            for i in range(2):
                file = underway.folder / f"part-{i}"
                file.unlink(missing_ok=True)
                make(file, lambda path: path.write_text("whole"))
            with new_folder(out, [], overwrite=True) as folder:
                (folder / "deep").mkdir()
                (folder / "deep" / "file").write_text("whole")
            underway.remove()

    for moment in count(1):
        if not ended(work, moment):
            break
        ended(work, 0)
        assert [one.name for one in tmp_path.iterdir()] == ["out"], moment
        assert (out / "deep" / "file").read_text() == "whole"
        shutil.rmtree(out)
    assert moment > 60
