"""``ropewalk train`` as a user types it: what it writes, what it repeats, what it refuses, what a kill leaves."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ropewalk
from ropewalk.cli.main import app, run
from ropewalk.data.arranged import Arranged, digest_of
from ropewalk.data.knots.row_builder import Piece, arranged_pieces
from ropewalk.methods.memory.trained_memory import FILE, TENSORS
from ropewalk.training.loop import Run
from ropewalk.training.one_shot import OneShot
from ropewalk.training.recipe import CHOICES, Recipe, Stage
from ropewalk.training.recipes.interpolation import longrope
from ropewalk.training.recipes.recipe_entries import RECIPES
from ropewalk.verbs.train import NOTHING_BUT, TrainRequest
from tests.verbs.typed import refused, said

TO = 128
TRAINED = "recipe.json", "training.json", "training.html"


QUICK = ["--to", TO, "--steps", 3, "--batch", 2, "--keys", 2]


GIVEN = "given.json"
SMALLER = {"landmark": "landmark(block=8, topk=2)"}  # for a window of 64
SMALLER |= {name: f"{name}(ratios=(8, 16))" for name in ("beacon", "ext-tok")}


def startable(name: str) -> str:
    """A recipe by its name, or the file that holds it with the factors that it wants, of eight pairs."""
    if name != "longrope":
        return name
    Path(GIVEN).write_text(json.dumps(longrope(*([1 + i / k for i in range(8)] for k in (8, 4))).to_dict()))
    return GIVEN


def smaller(name: str) -> list[str]:
    """A recipe's method for so small a window, where its own is too large."""
    return ["--method", SMALLER[name]] if name in SMALLER else []


def rows_for(name: str, model: Path, texts: Path) -> list[Any]:
    """What a recipe trains on: the texts, or pairs of pieces of them."""
    if name != "longpo":
        return [texts]
    folder = texts.parent.parent / f"{texts.parent.name}-pairs"
    ropewalk.pack_data(texts, out=folder, length=TO, tokenizer=model)
    packed = Arranged.open(folder)
    rows = [
        [Piece(int(document), *context, loss=False), Piece(int(document), *answer)]
        for document in np.flatnonzero(packed.corpus.lengths > 100)
        for context in ((0, 80), (60, 80))
        for answer in ((80, 88), (90, 97))
    ]
    pairs = arranged_pieces(rows, len(packed.corpus))
    Arranged(packed.corpus, replace(packed.about, how="longpo", apart=False, pieces=digest_of(pairs)), pairs).write(
        folder
    )
    others = texts.parent.parent / f"{texts.parent.name}-others"
    others.mkdir()
    for i in range(2):
        (others / f"{i}.txt").write_text(" ".join(str((5 * i + 13) * n * n % 997) for n in range(200)))
    return [folder, "--test", others]


@pytest.mark.parametrize("name", [entry.id for entry in RECIPES])
def test_every_recipe_trains_and_what_it_writes_is_sound(name, model, texts, capsys):
    words = ["train", startable(name), model, *rows_for(name, model, texts), "-o", "out", *QUICK, *smaller(name)]
    found = json.loads(said(capsys, *words, "--json"))
    assert [one["step"] for one in found["log"]] == [1, 2, 3]
    assert sorted(path.name for path in Path().iterdir() if path.name not in ("texts", GIVEN)) == ["out"]
    if found["memory"]:
        assert sorted(os.listdir("out")) == sorted([*TRAINED, FILE, TENSORS, "ropewalk.json"])
        reads = ["evaluate", model, "--methods", found["rope"], "--to", TO, "--tasks", "ppl", "--data", "texts"]
        said(capsys, *reads, "--documents", 2, "--lengths", TO, "-o", "seen")
        return
    run(["inspect", "out", "--json"])
    seen = json.loads(capsys.readouterr().out)
    unwritten = name in ("entropy-abf", "harpe")
    assert [one["code"] for one in seen["problems"]] == ["rope-not-written"] * unwritten
    before, after = (load_file(folder / "model.safetensors") for folder in (model, Path("out")))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before) or name == "entropy-abf"
    if unwritten:
        assert "cannot be written" in found["notes"][0]
    else:
        assert seen["length"] == TO
    assert "training.json" in os.listdir("out")
    merged = json.loads(Path("out/ropewalk.json").read_text()).get("merged")
    assert merged is None or Path(merged, "adapter_config.json").exists()


def test_the_recipe_that_is_written_repeats_the_run(model, texts, capsys):
    said(capsys, "train", "pose", model, texts, "-o", "one", *QUICK, "--learning-rate", 0.01)
    said(capsys, "train", "one/recipe.json", model, texts, "-o", "two", "--to", TO, "--keys", 2)
    one, two = (load_file(f"{name}/model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert Path("one/recipe.json").read_text() == Path("two/recipe.json").read_text()


OTHER = {
    "method": "ntk-aware", "positions": "pose(chunks=3)", "attention": "scca", "targets": ("q_proj", "v_proj"),
    "also": ("embeddings", "norms"), "offload": ("optimizer",),
}  # fmt: skip
NEEDED = {name: {other: value} for name, (other, value) in NOTHING_BUT.items()}
NEEDED |= {"also": {"trainable": "lora"}, "quantise": {"trainable": "lora"}, "scope": {"packing": "documents"}}


@pytest.mark.parametrize("name", [one.name for one in fields(Recipe) if one.name not in ("name", "stages")])
def test_every_field_of_a_recipe_is_an_option(name):
    old = getattr(Recipe(), name)
    if name in CHOICES:
        value = next(word for word in CHOICES[name] if word != old)
    else:
        value = OTHER.get(name, not old if isinstance(old, bool) else 0.5 if isinstance(old, float) else 7)
    request = TrainRequest("pi", "model", "texts", to=TO, **{**NEEDED.get(name, {}), name: value})
    assert getattr(request.resolved(), name) == value
    _, bound, _ = app.parse_args(shlex.split(request.command)[1:])
    assert TrainRequest(*bound.args, **{k: v for k, v in bound.kwargs.items() if k != "json"}) == request


def test_a_dry_run_says_what_it_takes_and_writes_nothing(model, texts, capsys):
    found = json.loads(said(capsys, "train", "yarn", model, texts, "--to", TO, "--dry-run", "--json"))
    assert found["steps"] == 600
    assert found["tokens"] == 600 * 64 * TO // 2
    assert [(stage["steps"], stage["rope"]) for stage in found["stages"]] == [(400, TO // 2), (200, TO)]
    assert found["memory"]["total"] == sum(found["memory"]["parts"].values())
    assert found["fits"]
    table = said(capsys, "train", "yarn", model, texts, "--to", TO, "--dry-run")
    short = said(capsys, "train", "yarn", model, texts, "--to", TO, "--dry-run", "--steps", "1")
    assert "1 of 2 stages of yarn would have no whole step of 1" in " ".join(short.split())
    assert "stages of yarn" not in table
    assert "--memory" in table
    assert os.listdir() == ["texts"]


@pytest.mark.parametrize("name", [entry.id for entry in RECIPES])
def test_every_recipe_passes_the_self_test(name, model, texts, capsys):
    words = ["train", startable(name), model, *rows_for(name, model, texts), "-o", "out", *QUICK, "--self-test"]
    words += ["--method", "fot(negatives=0)"] if name == "fot" else smaller(name)  # with others no document is alone
    assert "nothing wrong was found" in said(capsys, *words)


def test_a_self_test_writes_nothing_and_says_by_its_code_what_is_wrong(model, texts, capsys, monkeypatch):
    line = ["train", "pose", model, texts, "-o", "out", *QUICK, "--self-test"]
    assert json.loads(said(capsys, *line, "--json"))["sound"] is True
    plain = OneShot.losses
    monkeypatch.setattr(OneShot, "losses", lambda *given: plain(*given).flip(1))  # the last sees the first
    assert run(list(map(str, line))) == 1
    assert "WRONG" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["texts"]


def test_one_process_has_nobody_to_share_with(model, texts, capsys):
    line = ["train", "pose", model, texts, "-o", "out", *QUICK]
    assert "one process alone" in refused(capsys, *line, "--shard")
    assert "2 are to share a sequence" in refused(capsys, *line, "--sequence-parallel", 2)


def test_a_last_rope_that_is_not_written_leaves_nothing_of_the_one_before_it(model, texts, capsys):
    stages = [{"steps": 1, "method": "pi", "rope": 0.5, "reach": 0.5}, {"steps": 1, "method": "entropy-abf"}]
    content = Recipe(steps=2, batch=2, warmup=0).to_dict()
    content["stages"] = [Stage(**one).__dict__ for one in stages]
    Path("two.json").write_text(json.dumps(content))
    said(capsys, "train", "two.json", model, texts, "-o", "out", "--to", TO, "--keys", 0)
    config = json.loads(Path("out/config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "default" and config["max_position_embeddings"] == 64
    line = "evaluate out --methods entropy-abf --to 128 --tasks ppl --data texts --documents 2 --lengths 128 -o seen"
    said(capsys, *line.split())


@pytest.mark.parametrize("method", ["dynamic-ntk", "entropy-abf", "self-extend"])
def test_a_rope_that_is_not_written_is_said_beforehand(method, model, texts, capsys):
    found = json.loads(
        said(capsys, "train", "pose", model, texts, "--to", TO, "--method", method, "--dry-run", "--json")
    )
    assert any("cannot be written into a configuration" in note for note in found["notes"])


def test_python_does_the_same_and_takes_a_recipe_itself(model, texts, capsys):
    asked = ropewalk.recipe("pose").with_changes({"steps": 2, "batch": 2})
    found = ropewalk.train(asked, model, texts, to=TO, keys=0)
    assert found.folder.name.endswith(f"-{TO}-pose") and found.recipe == asked
    assert "2 steps" in repr(found)
    said(capsys, *shlex.split(found.command)[1:], "--out", "again")
    one, two = (load_file(folder / "model.safetensors") for folder in (found.folder, Path("again")))
    assert all(torch.equal(one[key], two[key]) for key in one)
    positions = ropewalk.PoSE(chunks=3)
    dry = ropewalk.train("pose", model, texts, to=TO, positions=positions, dry_run=True)
    assert dry.recipe.positions == "pose(chunks=3)"


@pytest.mark.parametrize("name", [entry.id for entry in RECIPES])
def test_a_recipe_is_spelled_by_the_fields_that_it_has_of_its_own(name):
    one = ropewalk.recipe(name)
    assert TrainRequest(one, "model", "texts", to=TO).resolved() == one
    assert json.loads(one.spelling).keys() < one.to_dict().keys()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["poes"], "did you mean"),
        (['{"model_type": "llama"}'], "no recipe"),
        (['{"seed": 18446744073709551616}'], "seed is 18446744073709551616"),
        (["pi", "--to", 64], "not beyond the window"),
        (["pi", "--batch", 0], "batch"),
        (["pi", "--schedule", "cosin"], "cosine"),
        (["pi", "--learning-rate", "nan"], "learning_rate"),
        (["pi", "--positions", "pose", "--packing", "documents"], "pick from one document"),
        (["pi", "--to", "1m"], "no text has"),
        (["longrope"], "longrope has no factors"),
        (["longrope", "--dry-run"], "longrope has no factors"),
        (["pi", "--attention", "vertical-slash"], "no gradient"),
        (["pi", "--attention", "yarn"], "changes more than who is seen"),
        (["pi", "--beta1", 1], "beta1"),
        (["pi", "--learning-rate", 0, "--warmup", 0], "--learning-rate"),
        (["e2", "--method", "entropy-abf"], "no configuration can say"),
        (["pi", "--memory", "plain", "--offload", "activations"], "--memory checkpointed"),
        (["pi", "--offload", "optimiser"], "optimizer"),
        (["pi", "--test", "texts/0.txt", "--to", 2048], "no text"),
        (["segmented", "--window", 30], "multiple"),
        (["pi", "--gpu", "h100"], "--gpu changes nothing"),
        (["recipe.json"], "recipe.json"),
        (['{"steps": 3'], "the recipe is not valid JSON"),
        (['{"stpes": 3}'], "a recipe has no 'stpes'; did you mean"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(words, reason, model, texts, capsys):
    first, *more = words
    target = [] if "--to" in more else ["--to", TO]
    error = refused(capsys, "train", first, model, texts, "-o", "out", *target, *more)
    assert reason in error, error
    assert os.listdir() == ["texts"]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("empty.txt", "", "empty"),
        ("rows.jsonl", '{"text": "some"}\n{"txet": 3}\n', "rows.jsonl:2"),
        ("short.txt", "a few words", "no text has"),
    ],
)
def test_texts_that_do_not_serve_are_refused(file, content, reason, model, texts, capsys):
    Path(file).write_text(content)
    assert reason in refused(capsys, "train", "pi", model, file, "-o", "out", *QUICK)
    assert not Path("out.training").exists()


@pytest.mark.slow
def test_a_method_that_was_fitted_trains_by_its_values(model, texts, capsys, monkeypatch):
    words = "fit", model, "-m", "longrope", "--data", texts, "--settings", "rounds=1", "--to", TO, "-o", "f.json"
    said(capsys, *words)
    asked = ["--method", "longrope(fitted=f.json)", "--learning-rate", 0.01, "--evaluate-every", 1]
    line = ["train", "pi", model, texts, "-o", "out", *QUICK, *asked]
    with monkeypatch.context() as patch:
        patch.setattr("ropewalk.training.preparation.finished", stop)
        assert run([*map(str, line)]) == 128 + signal.SIGINT
    said(capsys, *line)
    factors = json.loads(Path("f.json").read_text())["found"]["factors"]
    assert json.loads(Path("out/config.json").read_text())["rope_parameters"]["long_factor"] == pytest.approx(factors)
    assert "fitted" not in Path("out/recipe.json").read_text()
    assert "f.json was fitted for 128 tokens" in refused(capsys, *line[:4], "-o", "x", "--to", 256, *asked)


def test_texts_are_not_replaced_by_what_is_trained_on_them(model, texts, capsys):
    said(capsys, "data", "pack", texts, "-o", "rows", "--length", TO, "--tokenizer", model)
    before = sorted(os.listdir("rows"))
    more = "--to", TO, "--steps", 1, "--batch", 1, "--keys", 0, "--overwrite"
    assert "source" in refused(capsys, "train", "pi", model, "rows", "-o", "rows", "--documents", 0, *more)
    assert "source" in refused(capsys, "train", "pi", model, "rows", "-o", "texts", "--test", texts, *more)
    assert sorted(os.listdir("rows")) == before


def test_copies_of_a_text_that_is_measured_on_are_not_trained_on(model, texts, capsys):
    for file in list(texts.iterdir()):
        shutil.copy(file, texts / f"again-{file.name}")
    line = ["train", "pi", model, texts, "-o", "out", "--to", TO, "--steps", 1, "--batch", 1, "--keys", 0, "--json"]
    found = json.loads(said(capsys, *line))
    assert "2 texts left out: the same as one that is measured on" in found["notes"]
    assert found["texts"] == [12, 0] and all(
        len(one["losses"]) == 2 for one in found["readings"]["0"]["perplexity"].values()
    )


def test_what_is_measured_on_by_name_is_not_trained_on(model, texts, capsys):
    shutil.copytree(texts, "some")
    for name in os.listdir("some")[2:]:
        os.remove(f"some/{name}")
    line = ["train", "pi", model, texts, "--to", TO, "--steps", 1, "--batch", 1, "--keys", 0]
    found = json.loads(said(capsys, *line, "-o", "out", "--test", "some", "--json"))
    assert found["texts"] == [6, 0] and any(note.startswith("2 texts left out") for note in found["notes"])
    assert "none is left to train on" in refused(capsys, *line, "-o", "x", "--test", texts)
    said(capsys, "data", "pack", texts, "-o", "rows", "--length", TO, "--tokenizer", model)
    line[3] = "rows"
    assert "the rows of" in refused(capsys, *line, "-o", "x", "--test", "some")
    assert "--test changes nothing where --documents is 0" in refused(
        capsys, *line, "-o", "x", "--test", "some", "--documents", 0
    )


def test_a_run_that_is_stopped_says_what_it_goes_on_from(model, texts, capsys, monkeypatch):
    line = ["train", "pose", model, texts, "-o", "out", *QUICK[:-2], "--keys", 0, "--documents", 0]
    plain, stopping = Run._step, [1]

    def step(self, number, *given):
        plain(self, number, *given)
        if number + 1 in stopping:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_step", step)
    assert run([*map(str, line)]) == 128 + signal.SIGINT
    assert "no state was saved yet" in capsys.readouterr().err
    stopping[:] = [2]
    assert run([*map(str, line), "--save-every", "1"]) == 128 + signal.SIGINT
    assert "goes on behind step 1 of the 2 that were done" in capsys.readouterr().err


def test_outputs_are_not_replaced_and_not_put_onto_the_model(model, texts, capsys):
    said(capsys, "train", "pose", model, texts, "-o", "out", *QUICK)
    assert "exists already" in refused(capsys, "train", "pose", model, texts, "-o", "out", *QUICK)
    said(capsys, "train", "pose", model, texts, "-o", "out", *QUICK, "--overwrite")
    assert "source" in refused(capsys, "train", "pose", model, texts, "-o", model, *QUICK, "--overwrite")


def test_states_of_another_run_are_not_gone_on_from(model, texts, capsys):
    states = Path("out.training")
    states.mkdir()
    (states / "asked.json").write_text(json.dumps({"model": "another"}))
    assert "asked for something else" in refused(capsys, "train", "pose", model, texts, "-o", "out", *QUICK)


def stop(_: object) -> None:
    raise KeyboardInterrupt


def test_it_does_not_go_on_on_another_base_of_the_same_name_or_on_other_texts(model, texts, capsys, monkeypatch):
    base = Path(shutil.copytree(model, "base"))
    line = ["train", "pose", base, texts, "-o", "out", *QUICK[:-2], "--keys", 0]
    with monkeypatch.context() as patch:
        patch.setattr("ropewalk.training.preparation.finished", stop)
        assert run([*map(str, line)]) == 128 + signal.SIGINT
    assert "keys was 0, is 3" in refused(capsys, *line[:-1], 3)
    (texts / "9.txt").write_text("8 " * 400)
    assert "contents of texts" in refused(capsys, *line)
    (texts / "9.txt").unlink()
    tokenizer = (base / "tokenizer.json").read_text()
    changed = json.loads(tokenizer)
    changed["post_processor"] = None
    (base / "tokenizer.json").write_text(json.dumps(changed))
    assert "texts begin with" in refused(capsys, *line)
    (base / "tokenizer.json").write_text(tokenizer)
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5e5
    (base / "config.json").write_text(json.dumps(config))
    assert "weights and configuration" in refused(capsys, *line)
    shutil.rmtree(base)
    shutil.copytree(model, base)
    said(capsys, *line, "--micro", 2, "--memory", "checkpointed")  # as after a lack of memory


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(model, texts, capsys):
    words = ["train", "pose", str(model), str(texts), "--to", str(TO), "--steps", "40", "--batch", "4", "--keys", "0",
             "--save-every", "1", "--learning-rate", "0.01"]  # fmt: skip
    said(capsys, *words, "-o", "whole")
    rng, kills = random.Random(0), 0
    environment = os.environ | {"PYTHONPATH": str(Path(ropewalk.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    while True:
        went_on = Path("cut.training").exists()
        process = subprocess.Popen([sys.executable, "-m", "ropewalk", *words, "-o", "cut"], env=environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
        if kills < 10:
            while not any(Path().glob("cut.training/step-*")) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.random() * (1.5 if went_on else 0.5))
            process.send_signal(signal.SIGKILL)
            kills += 1
        error = process.communicate()[1].decode()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error
    assert kills
    whole, cut = (load_file(f"{name}/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert sorted(os.listdir()) == ["cut", "texts", "whole"]
    logs = [json.loads(Path(name, "training.json").read_text())["log"] for name in ("whole", "cut")]
    assert [one["loss"] for one in logs[0]] == [one["loss"] for one in logs[1]]
