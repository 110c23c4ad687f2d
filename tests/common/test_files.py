"""No verb changes what it reads, and nothing is replaced that ropewalk did not write."""

from __future__ import annotations

import json
import os
import shutil
from itertools import product
from pathlib import Path

import pytest

from ropewalk import UserError
from ropewalk.cli.main import run
from ropewalk.common import files
from tests.cli.test_main import byte_tokenizer, refused
from tests.models import tiny

EVALUATE = ["evaluate", "--tasks", "passkey", "--lengths", "64", "--samples", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A model, and an extension of it."""
    folder = tmp_path_factory.mktemp("made")
    tiny("llama", vocab_size=260).save_pretrained(folder / "plain")
    byte_tokenizer().save_pretrained(folder / "plain")
    assert run(["extend", str(folder / "plain"), "--to", "256", "-o", str(folder / "m")]) == 0
    return folder


@pytest.fixture
def source(made, tmp_path) -> Path:
    """A checkpoint that ropewalk wrote: nothing but its being the source protects it."""
    folder = tmp_path / "models" / "m"
    folder.parent.mkdir()
    assert run(["extend", str(made / "plain"), "--to", "256", "-o", str(folder)]) == 0
    return folder


def content(*folders: Path) -> dict[str, bytes]:
    found = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return {str(file): file.read_bytes() for file in found}


def written(folder: Path) -> bool:
    return files.folder_to_write(folder, [], overwrite=True) == folder.resolve()


def link(to: Path, path: Path) -> Path:
    path.symlink_to(to, target_is_directory=True)
    return path


SPELLINGS = {
    "itself": lambda m: m,
    "dots": lambda m: f"{m}/../m",
    "dots through what is not there": lambda m: f"{m.parent}/nowhere/../m",
    "slash": lambda m: f"{m}/./",
    "link": lambda m: link(m, m.parent.parent / "link"),
    "link in a parent": lambda m: link(m.parent, m.parent.parent / "other") / "m",
    "dots behind a link": lambda m: f"{link(m, m.parent.parent / 'deep')}/../m",
    "inside": lambda m: m / "out",
    "inside through a link": lambda m: link(m, m.parent.parent / "link") / "a" / "b",
    "around": lambda m: m.parent,
    "far around": lambda m: m.parent.parent,
}


VERBS = "extend --to 1k", "export --engine vllm", "export --engine llama.cpp --gguf"
AROUND = "around", "far around"
INTO = [(VERBS[2], spelling) for spelling in AROUND]  # a folder that --gguf names gets a file, which is apart


@pytest.mark.parametrize(("verb", "spelling"), [one for one in product(VERBS, SPELLINGS) if one not in INTO])
def test_an_output_lies_apart_from_its_source(verb, spelling, source, capsys):
    (source.parent / "config.json").write_text("{}")
    out, before = SPELLINGS[spelling](source), content(source.parent)
    flags = verb.split()
    target = [out] if flags[-1] == "--gguf" else ["-o", out]
    said = refused(capsys, flags[0], source, *flags[1:], *target, "--overwrite")
    assert any(words in said for words in ("is the source itself", "inside the source", "contains the source"))
    assert content(source.parent) == before


@pytest.mark.parametrize("spelling", AROUND)
def test_a_file_goes_into_a_folder_around_its_source_and_changes_nothing_there(spelling, source):
    (source.parent / "config.json").write_text("{}")
    out, before = SPELLINGS[spelling](source), content(source.parent.parent)
    assert run(["export", str(source), "--gguf", str(out), "--overwrite"]) == 0
    after = content(source.parent.parent)
    new = after.keys() - before.keys()
    assert {Path(file).parent for file in new} == {out} and all(after[file][:4] == b"GGUF" for file in new)
    assert {file: after[file] for file in before} == before


@pytest.mark.parametrize("place", ["link", "link in a parent", "itself"])
def test_the_source_may_be_named_through_links_too(place, source, capsys):
    before, named = content(source), SPELLINGS[place](source)
    assert "source itself" in refused(capsys, "extend", named, "--to", "1k", "-o", source, "--overwrite")
    assert content(source) == before


def test_what_a_source_links_to_is_the_source(source, tmp_path, capsys):
    """As a hub's cache is made: a folder of links."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in source.iterdir():
        (snapshot / file.name).symlink_to(file)
    before = content(source)
    assert f"to which {snapshot}/" in refused(capsys, "extend", snapshot, "--to", "1k", "-o", source, "--overwrite")
    assert content(source) == before


def test_a_link_around_the_source_is_named_as_what_it_is(tmp_path) -> None:
    texts, far, deep = (tmp_path / name for name in ("w/texts", "far", "deep"))
    for folder in (texts, far, deep):
        folder.mkdir(parents=True)
    (texts / "far").symlink_to(far)
    (far / "deep").symlink_to(deep)
    files.refuse_onto(tmp_path / "w" / "out", [texts])
    with pytest.raises(UserError, match=f"lies inside {deep}, to which {far}/deep in the source leads"):
        files.refuse_onto(deep / "out", [texts])
    (texts / "loop").symlink_to("..")
    with pytest.raises(UserError, match=f"lies inside {tmp_path}/w, to which {texts}/loop in the") as told:
        files.refuse_onto(tmp_path / "w" / "out", [texts])
    assert "or take the link away" in told.value.mend
    files.refuse_onto(tmp_path / "out", [texts])


def test_names_that_differ_in_case_are_one_place_where_the_disk_says_so(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: real(str(path).replace("MODEL", "model"), **more))
    with pytest.raises(UserError, match="lies inside the source"):
        files.refuse_onto(tmp_path / "MODEL" / "out", [tmp_path / "model"])


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a\0b", "x" * 300])
def test_names_that_cannot_be_are_refused(path, made):
    with pytest.raises(UserError):
        files.folder_to_write(Path(path), [made / "plain"], True)


def strangers(folder: Path) -> None:
    """What a user may put into a folder."""
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("years of work")
    (folder / "model-tuned.safetensors").write_text("days of training")
    (folder / "link").symlink_to(folder.parent)


@pytest.mark.parametrize("verb", ["extend --to 1k", "export --engine vllm"])
def test_overwrite_replaces_only_what_ropewalk_wrote(verb, made, source, tmp_path, capsys):
    flags, precious = verb.split(), tmp_path / "precious"
    precious.mkdir()
    (precious / "config.json").write_text('{"port": 8080}')
    (precious / "thesis.txt").write_text("years of work")
    plain = Path(shutil.copytree(made / "plain", tmp_path / "plain"))  # a checkpoint, but nobody's record
    (tmp_path / "file").write_text("mine")
    strangers(source)
    for out, said in ((precious, "no ropewalk.json"), (plain, "no ropewalk.json"), (tmp_path / "file", "no folder"),
                      (source, "link, model-tuned.safetensors, notes/thesis.txt")):  # fmt: skip
        before = content(tmp_path)
        for more in ([], ["--overwrite"]):
            err = refused(capsys, flags[0], made / "plain", *flags[1:], "-o", out, *more)
            assert said in err and "add --overwrite" not in err
        assert content(tmp_path) == before


def test_a_folder_of_the_users_is_seen_though_it_is_empty(made, source, capsys):
    (source / "runs" / "tomorrow").mkdir(parents=True)
    command = ["extend", made / "plain", "--to", "1k", "-o", source, "--overwrite"]
    assert "holds runs/tomorrow/; ropewalk replaces only" in refused(capsys, *command)
    assert (source / "runs" / "tomorrow").is_dir()
    shutil.rmtree(source / "runs")
    assert written(source)


def test_weights_saved_under_an_old_name_are_not_ropewalks(made, source, capsys):
    tiny("llama", vocab_size=260, hidden_size=32).save_pretrained(source)  # as a trainer does
    command = ["extend", made / "plain", "--to", "1k", "-o", source, "--overwrite"]
    assert "model.safetensors (changed since)" in refused(capsys, *command)
    assert (source / "model.safetensors").stat().st_size != (made / "plain" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json.bak", "config.json.bak"])
def test_what_a_user_edited_is_not_replaced(name, made, source, capsys):
    file = source / name
    file.write_text(json.dumps({"work": "of years"}))
    command = ["extend", made / "plain", "--to", "1k", "-o", source, "--overwrite"]
    assert name in refused(capsys, *command) and "years" in file.read_text()
    (source / "tokenizer_config.json").write_text('{"model_max_length": 64, "mine": 1}')
    run(["inspect", str(source), "--set", "tokenizer_config.json:model_max_length=128"])
    assert "tokenizer_config.json (changed since)" in refused(capsys, *command), "an edit of ours takes none over"


@pytest.mark.parametrize("record", ["", "{}", "[]", "null", '{"files": 1}', '{"ropewalk": "0.1.0"}', "[" * 100_000])
def test_a_record_that_says_nothing_protects(record, source):
    assert written(source)
    (source / files.RECORD).write_text(record)
    with pytest.raises(UserError, match=r"no ropewalk\.json that lists its files"):
        written(source)


def test_what_ropewalk_itself_edits_it_replaces(made, source):
    for value in ("8192", "4096"):
        run(["inspect", str(source), "--set", f"tokenizer_config.json:model_max_length={value}"])
    assert (source / "tokenizer_config.json.bak.1").is_file()
    assert run(["extend", str(made / "plain"), "--to", "1k", "-o", str(source), "--overwrite"]) == 0
    assert not list(source.glob("*.bak*")) and json.loads((source / files.RECORD).read_text())["target"] == 1024


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--to", "1k"],
        ["--to", "1k", "--two-profiles"],
        ["--to", "256", "--fold", "-m", "yarn(attention_factor=1.3)"],
    ],
)
def test_every_folder_that_export_writes_may_be_replaced(flags, made, tmp_path):
    engine = "llama.cpp" if "--fold" in flags else "vllm"
    command = ["export", str(made / "plain"), "--engine", engine, "-o", str(tmp_path / "out"), *flags]
    assert run(command) == 0
    assert written(tmp_path / "out") and run([*command, "--overwrite"]) == 0
    assert run(["inspect", str(tmp_path / "out" / ("long" if "--two-profiles" in flags else ""))]) in (0, 1)


def test_what_is_only_written_is_not_extended(made, tmp_path, capsys):
    """A record that says nothing of an extension is no extension: the next one starts from the configuration."""
    assert run(["export", str(made / "plain"), "--engine", "vllm", "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert run(["inspect", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["extended_by"] is None
    assert run(["extend", str(tmp_path / "out"), "--to", "256", "-o", str(tmp_path / "more")]) == 0


# Single files.


def test_a_gguf_takes_the_place_of_none_but_its_own_kind(made, source, tmp_path, capsys):
    pytest.importorskip("gguf")
    from tests.engines.gguf.checkpoints import foreign

    write = ["export", source, "--engine", "llama.cpp", "--overwrite", "--gguf"]
    own = tmp_path / "own.gguf"
    assert run([str(part) for part in (*write, own)]) == run([str(part) for part in (*write, own)]) == 0
    (tmp_path / "note.gguf").write_text("mine")
    (tmp_path / "cut.gguf").write_bytes(own.read_bytes()[:-9])
    os.mkfifo(tmp_path / "pipe.gguf")
    foreign(tmp_path / "foreign.gguf", "llama")
    others = [tmp_path / f"{name}.gguf" for name in ("note", "cut", "pipe", "foreign")] + [
        Path(shutil.copy(made / "plain" / name, tmp_path)) for name in ("model.safetensors", "config.json")
    ]
    patch = ["inspect", own, "--against", source, "--overwrite", "--patch"]
    for command in (write, patch):
        for out in others:
            before = content(tmp_path)
            assert "ropewalk did not write it" in refused(capsys, *command, out)
            assert content(tmp_path) == before


def test_a_gguf_of_ropewalks_that_was_quantised_since_is_not_ropewalks(source, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from ropewalk.checkpoint.gguf.header import read_header
    from ropewalk.engines.gguf import output
    from ropewalk.engines.gguf.to_gguf import write_gguf

    file = write_gguf(source, tmp_path / "m.gguf", "F32").path
    assert output.written_here(file)
    mark = read_header(file).values[output.MARK]  # llama-quantize copies all keys, and tensors get another type
    monkeypatch.setattr(output, "_digest", lambda _: mark)
    write_gguf(source, tmp_path / "q.gguf", "Q8_0")
    monkeypatch.undo()
    assert read_header(tmp_path / "q.gguf").values[output.MARK] == mark
    assert not output.written_here(tmp_path / "q.gguf")


def test_a_patch_spares_its_source_under_every_name(source, tmp_path, capsys):
    pytest.importorskip("gguf")
    file = tmp_path / "m.gguf"
    assert run(["export", str(source), "--engine", "llama.cpp", "--gguf", str(file)]) == 0
    os.link(file, tmp_path / "hard.gguf")
    (tmp_path / "soft.gguf").symlink_to(file)
    before = file.read_bytes()
    for name in ("m.gguf", "hard.gguf", "soft.gguf", "models/../m.gguf"):
        for change in (["--against", source], ["--set", "llama.rope.freq_base=5e5"]):
            assert "source itself" in refused(
                capsys, "inspect", file, *change, "--patch", tmp_path / name, "--overwrite"
            )
    assert file.read_bytes() == before


# Folders for results.


def results(verb: str, model: object, out: object) -> list[object]:
    if verb == "compare":
        return ["compare", model, "--to", 256, "--methods", "pi", "--tasks", "passkey", "--samples", 1, "-o", out]
    if verb == "demo":
        return ["demo", "-o", out]
    return [verb, model, *EVALUATE[1:], "-o", out]


@pytest.mark.parametrize("verb", ["compare", "evaluate", "demo"])
@pytest.mark.parametrize("name", ["results.json", "report.html", "answers.jsonl"])
def test_results_replace_no_others(verb, name, made, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"my": "life\'s work"}')
    before = content(tmp_path)
    assert "was not written by ropewalk" in refused(capsys, *results(verb, made / "plain", tmp_path / "out"))
    assert content(tmp_path) == before


@pytest.mark.parametrize("verb", ["compare", "evaluate"])
def test_results_join_no_checkpoint(verb, made, source, tmp_path, capsys):
    before = content(made, source)
    for out in (source, f"{source}/../m", source / "runs" / "x"):
        assert "inside the source" in refused(capsys, *results(verb, source, out))
    assert "is a checkpoint" in refused(capsys, *results(verb, source, made / "plain"))
    assert content(made, source) == before


def test_the_texts_that_are_read_are_not_written(made, tmp_path, capsys):
    assert run([str(part) for part in results("compare", made / "plain", tmp_path)]) == 0
    command = results("compare", made / "plain", tmp_path)
    assert "source itself" in refused(capsys, *command, "--data", tmp_path / "report.html")


def test_results_of_ropewalks_are_replaced_beside_their_model(source):
    command = [str(part) for part in results("compare", source, source.parent)]
    assert run(command) == run(command) == 0


def test_demo_asks_for_its_checkpoints_place_first(tmp_path, capsys):
    (tmp_path / "demo-yarn-2k").mkdir()
    (tmp_path / "demo-yarn-2k" / "thesis.txt").write_text("years of work")
    assert "no ropewalk.json" in refused(capsys, "demo", "-o", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["demo-yarn-2k"]


# Changes in place.


def test_backups_are_never_overwritten(source):
    first = (source / "config.json").read_bytes()
    for value in (1, 2, 3):
        run(["inspect", str(source), "--set", f"bos_token_id={value}"])
    assert (source / "config.json.bak").read_bytes() == first
    kept = [json.loads((source / f"config.json.bak.{n}").read_text())["bos_token_id"] for n in (1, 2)]
    assert kept == [1, 2] and json.loads((source / "config.json").read_text())["bos_token_id"] == 3


def test_a_fix_keeps_every_file_as_it_was_to_the_byte(source, capsys):
    file = source / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 64}, indent=7))
    before = {name: (source / name).read_bytes() for name in ("config.json", "tokenizer_config.json")}
    (source / "config.json.bak").write_text("the user's own")
    run(["check-export", str(source), "--fix"])
    changed = [name for name, bytes_ in before.items() if (source / name).read_bytes() != bytes_]
    kept = {file.read_bytes() for file in source.glob("*.bak*")}
    assert changed and all(before[name] in kept for name in changed)
    assert (source / "config.json.bak").read_text() == "the user's own"


def test_the_bundled_model_is_not_changed_in_place(tmp_path, capsys):
    from ropewalk.checkpoint.checkpoint import BUNDLED

    before = content(BUNDLED)
    for name in ("demo", BUNDLED, link(BUNDLED, tmp_path / "link")):
        assert "bundled" in refused(capsys, "inspect", name, "--set", "rope_theta=1")
        assert "bundled" in refused(capsys, "check-export", name, "--fix")
    assert "source itself" in refused(capsys, "extend", "demo", "--to", "1k", "-o", BUNDLED, "--overwrite")
    assert content(BUNDLED) == before
