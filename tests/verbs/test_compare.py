"""``ropewalk compare`` as a user meets it: where results lie, and what is computed anew."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

import ropewalk
from ropewalk.backends.local import LiveModel
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.cli.main import run
from ropewalk.common import fingerprints
from ropewalk.common.errors import UserError
from ropewalk.evaluation import experiment as experiment_module
from ropewalk.methods.base import require_beyond
from ropewalk.report.schema import Results
from ropewalk.verbs.compare import CompareRequest
from tests.models import tiny
from tests.tokenizers import VOCABULARY, byte_level

DEFAULT = CompareRequest.methods


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two checkpoints of the same name."""
    for folder in ("a", "b"):
        tiny("llama", vocab_size=VOCABULARY).save_pretrained(tmp_path / folder / "rope")
        byte_level().save_pretrained(tmp_path / folder / "rope")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(model: str = "a/rope", **options: object) -> ropewalk.Outcome:
    return ropewalk.compare(model, **{"to": 256, "methods": "pi", "tasks": "passkey", "samples": 2} | options)


def read(outcome: ropewalk.Outcome) -> int:
    return sum(one.tokens["read"] for one in outcome.results.subjects if one.tokens)


@pytest.mark.slow
def test_no_two_experiments_share_a_folder_and_all_share_samples(here: Path) -> None:
    first = compared()
    assert read(first) and first.folder.name.startswith("compare-rope-256-") and first.folder.parent == Path("runs")
    before = {file.name: file.read_bytes() for file in first.folder.iterdir()}
    others = [compared(methods="pi,yarn"), compared(samples=3), compared(tasks="niah"), compared("b/rope")]
    assert len({one.folder for one in (first, *others)}) == 5
    assert {file.name: file.read_bytes() for file in first.folder.iterdir()} == before
    assert [one.method for one in others[0].results.subjects if read_one(one)] == ["yarn"], "the others were there"
    assert not read(others[3]), "the same weights under another path are the same samples"
    assert not read(compared()) and compared().folder == first.folder
    assert [file.name for file in Path("runs").glob("*.sqlite")] == ["samples.sqlite"]


@pytest.mark.parametrize(("method", "shorter", "nearer"), [("none", 0, 0), ("pi", 0, 1), ("dynamic-ntk", 1, 1)])
def test_no_forward_is_made_twice_for_other_lengths(
    method: str, shorter: int, nearer: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    rolling = LiveModel.rolling

    def counted(self: LiveModel, rows: list[list[int]]) -> Iterator[tuple[int, Any]]:
        made.extend(map(len, rows))
        yield from rolling(self, rows)

    monkeypatch.setattr(LiveModel, "rolling", counted)
    Path("text.txt").write_text("The rope is long, and the lane is straight. " * 80)

    def forwards(lengths: str, to: int) -> int:
        made.clear()
        compared(tasks="ppl", methods=method, data="text.txt", lengths=lengths, to=to)
        return len(made)

    assert forwards("64,256", 256) and not forwards("64,256", 256)
    assert forwards("128,256", 256) == shorter, "one more where losses depend on the length"
    assert forwards("64,128", 128) == nearer * (1 + shorter), "one more where the target is a part of the method"


def read_one(subject: ropewalk.report.schema.Subject) -> int:
    return subject.tokens["read"] if subject.tokens else 0


def test_a_named_folder_keeps_the_results_of_another_experiment(here: Path, capsys) -> None:
    compared(out="out")
    before = Path("out/results.json").read_bytes()
    with pytest.raises(UserError) as caught:
        compared(out="out", methods="pi,yarn")
    assert "holds the results of another experiment: ropewalk compare" in caught.value.message
    assert Path("out/results.json").read_bytes() == before
    second = compared(out="out", methods="pi,yarn", overwrite=True)
    assert [one.method for one in second.results.subjects if read_one(one)] == ["yarn"]
    assert len(Results.read(Path("out/results.json")).subjects) == 3
    assert not read(compared(out="out", methods="pi,yarn", workers=1)), "the same again needs no --overwrite"


@pytest.mark.parametrize("begins", [False, True])
def test_perplexity_is_that_of_a_plain_script(begins: bool, here: Path) -> None:
    """As anybody would write it who does not know ropewalk; also where BOS exists and the tokenizer does not add it."""
    if not begins:
        backend = AutoTokenizer.from_pretrained("a/rope").backend_tokenizer
        backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
        backend.save("a/rope/tokenizer.json")
    Path("texts").mkdir()
    for name in "xy":
        Path("texts", f"{name}.txt").write_text(f"The {name} is long, and the lane is straight. " * 40)
    found = compared(tasks="ppl", methods="none", data="texts", lengths="200")
    tokenizer = AutoTokenizer.from_pretrained("a/rope")
    model = AutoModelForCausalLM.from_pretrained("a/rope", dtype="auto").eval()
    losses = []
    for file in sorted(Path("texts").iterdir()):
        ids = tokenizer(file.read_text(), return_tensors="pt").input_ids[:, :200]
        with torch.no_grad():
            losses.append(model(ids, labels=ids).loss.item())
    (row,) = (row for row in found.results.rows if row.task == "ppl" and row.length == 200)
    assert row.value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)
    forced = compared(tasks="ppl", methods="none", data="texts", lengths="200", bos=True)
    assert ([one.value for one in forced.results.rows] == [one.value for one in found.results.rows]) == begins
    assert forced.results.settings["bos"] is True


@pytest.mark.parametrize("arguments", [["nosuchfolder"], ["a/rope", "--methods", "clex"], ["a/rope", "--data", "no"]])
def test_what_fails_leaves_nothing(here: Path, capsys, arguments: list[str]) -> None:
    assert run(["compare", *arguments, "--to", "256"]) == 2
    assert run(["compare", *arguments, "--to", "256", "-o", "out"]) == 2
    assert sorted(file.name for file in here.iterdir()) == ["a", "b"]


def test_results_of_an_older_kind_are_kept_and_the_mend_mends(here: Path) -> None:
    first = compared(out="out")
    file = Path("out/results.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": "ropewalk results 1"}))
    with pytest.raises(UserError, match="results that are not read here") as caught:
        compared(out="out")
    assert "add --overwrite" in caught.value.mend
    assert compared(out="out", overwrite=True).results.rows == first.results.rows


def test_another_experiment_that_ended_meanwhile_is_not_replaced(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = experiment_module.run

    def slower(*arguments: Any, **named: Any) -> Results:
        monkeypatch.setattr(experiment_module, "run", real)
        found = real(*arguments, **named)
        compared(out="out", methods="yarn")
        return found

    monkeypatch.setattr(experiment_module, "run", slower)
    with pytest.raises(UserError, match="holds the results of another experiment"):
        compared(out="out")
    assert [one.method for one in Results.read(Path("out/results.json")).subjects] == ["none", "yarn"]


@pytest.mark.parametrize("change", ["tokens that end a text", "release of transformers"])
def test_samples_of_other_circumstances_are_not_taken(change: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"tasks": "qa_1_synthetic", "lengths": "512", "to": 512, "methods": "none"}
    fingerprints.code_fingerprint.cache_clear()
    assert read(compared(**options)) and not read(compared(**options))
    if change == "tokens that end a text":
        file = here / "a" / "rope" / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": list(range(3, VOCABULARY))}))
    else:
        monkeypatch.setattr(fingerprints, "version", lambda package: "99.0")
        fingerprints.code_fingerprint.cache_clear()
    assert read(compared(**options))
    fingerprints.code_fingerprint.cache_clear()


def test_other_references_are_other_samples(here: Path) -> None:
    def asked(*answers: str) -> int:
        Path("qa").mkdir(exist_ok=True)
        text = "Ann went home"
        given = [{"text": one, "answer_start": text.index(one)} for one in answers]
        questions = [{"question": "Who went?", "id": "1", "is_impossible": False, "answers": given}]
        paragraphs = [{"context": f"{text} {i}.", "qas": questions if not i else []} for i in range(40)]
        squad = {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}
        Path("qa/qa_1.json").write_text(json.dumps(squad))
        return read(compared(tasks="qa_1", lengths="512", to=512, methods="none", samples=1, qa="qa"))

    assert asked("Ann") and not asked("Ann")
    assert asked("Ann", "home"), "the same prompt, and another right answer"


@pytest.mark.parametrize("tasks", ["ppl", "passkey", "niah_multivalue"])
def test_weights_that_hold_nan_are_refused_whatever_is_asked(tasks: str, here: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained("a/rope", dtype="auto")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    model.save_pretrained("a/rope")
    Path("text.txt").write_text("The rope is long, and the lane is straight. " * 80)
    with pytest.raises(UserError, match="holds NaN or infinite numbers"):
        compared(tasks=tasks, lengths="512", to=512, methods="none", data="text.txt")


def test_a_target_inside_the_window_is_refused(here: Path) -> None:
    for to in (32, 64):
        with pytest.raises(UserError, match=f"target of {to} tokens is not beyond the window of 64, where yarn is the"):
            compared(to=to, methods="none,yarn")
    assert {row.length for row in compared(to=128, methods="pi", lengths="128").results.rows} == {128}


def test_a_target_inside_the_window_is_refused_before_weights_are_read(here: Path, monkeypatch) -> None:
    monkeypatch.setattr(Checkpoint, "load", lambda *_: pytest.fail("weights were read"))
    for asked in ({"to": 32}, {"to": 64, "methods": "yarn,dca"}):
        with pytest.raises(UserError, match="where every method is the plain model\nSay --to 128, "):
            ropewalk.compare("a/rope", **asked)


def test_a_method_that_believes_in_less_of_the_window_works_inside_it() -> None:
    require_beyond([ropewalk.method("dca(effective_window=32)")], 64, 64)  # believes in less of the window


def test_a_store_that_is_no_file_is_refused(here: Path, capsys) -> None:
    Path("out").mkdir()
    Path("out/samples.sqlite").symlink_to("elsewhere")
    with pytest.raises(UserError, match="no regular file"):
        compared(out="out")
    assert not Path("out/elsewhere").exists()
    Path("out/samples.sqlite").unlink()
    with sqlite3.connect("out/samples.sqlite") as database:
        database.execute("CREATE TABLE accounts (name TEXT)")
    with pytest.raises(UserError, match="something else") as caught:
        compared(out="out")
    assert "another folder" in caught.value.mend


@pytest.mark.slow
def test_strategies_stand_beside_the_plain_model_by_the_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny("llama", vocab_size=VOCABULARY, max_position_embeddings=2048)
    model.save_pretrained("a/rope")
    line = "compare a/rope --to 4k --strategies full,rag,chain-of-agents --tasks niah_single_1 --samples 2 --lengths 4k"
    assert run([*line.split(), "--methods", "none", "--spend", "2", "--json"]) == 0
    found = Results.of(json.loads(capsys.readouterr().out))
    assert [one.method for one in found.subjects] == ["none", "rag", "chain-of-agents"]
    assert [len(one.costs) for one in found.subjects] == [0, 1, 1]
    assert all(0 < cost.share <= 2 for one in found.subjects for cost in one.costs)
    assert found.settings["strategies"] == ["rag", "chain-of-agents"] and found.settings["spend"] == 2.0
    assert "--strategies full,rag,chain-of-agents" in found.command and "--spend 2" in found.command
    alone = compared(strategies="rag", to=4096, lengths="512", methods=DEFAULT).results
    assert [one.method for one in alone.subjects] == ["none", "rag"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spend": 2.0}, "--spend changes nothing without --strategies"),
        ({"window": 64}, "--window changes nothing without --strategies"),
        ({"strategies": "rag"}, "--methods changes nothing where full is not among --strategies"),
        ({"strategies": "full,ragg"}, "unknown strategy 'ragg'"),
        ({"strategies": "full,rag", "window": "4k"}, "window is 4,096"),
    ],
)
def test_options_of_strategies_that_change_nothing_are_refused(here: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compared(**options)
