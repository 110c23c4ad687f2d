"""What is trained is kept, put on, and taken off; another base, another option and a changed file are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ropewalk import MemoryMethod, UserError, method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.fingerprints import base_fingerprint
from ropewalk.methods import catalogue
from ropewalk.methods.catalogue import Entry
from ropewalk.methods.memory.reader import Reader
from ropewalk.methods.memory.trained_memory import (
    FILE,
    PLACE,
    TENSORS,
    MemoryFolder,
    TrainedMemory,
    hash_of,
    spelled_with,
)
from ropewalk.rope.live import decoder
from ropewalk.training.loop import Run
from ropewalk.training.recipe import Recipe
from ropewalk.training.states import States
from tests.matrix import TWICE, buffers, logits, same, subject, text, traces
from tests.models import tiny

IDS = text(2, 98)
LEARNT = "model.norm.weight"


class Summed(Reader):
    def __init__(self, model: Any, power: float):
        self.body, self.nudge, self.power = decoder(model), model.ropewalk_memory.nudge, power

    def begin(self, rows):
        return [torch.zeros(rows, 0, dtype=torch.long)]

    def read(self, ids, state):
        state[0] = torch.cat([state[0], ids], 1)
        return self.body(input_ids=state[0], use_cache=False)[0][:, -ids.shape[1] :] + self.power * self.nudge


class Added(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.nudge = nn.Parameter(torch.randn(width))
        self.register_buffer("count", torch.arange(3))


@dataclass(frozen=True)
class Nudge(TrainedMemory, MemoryMethod):
    """Made for these tests: a vector on every hidden state, and the last norm."""

    power: float = 0.5
    name = "nudge"
    target_free = True

    def added(self, model):
        return Added(model.config.hidden_size)

    def learns(self, name):
        return name == LEARNT

    def auxiliary(self, model, batch):
        return 1e-3 * model.ropewalk_memory.nudge.square().sum()

    def reader(self, model, to):
        return Summed(model, self.power)


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    entry = Entry("nudge", "Nudge", "nowhere:Nudge", "for tests", "memory", "no", catalogue.CODE)
    monkeypatch.setitem(catalogue.BY_NAME, "nudge", entry)
    own = Entry.load
    monkeypatch.setattr(Entry, "load", lambda self: Nudge if self.id == "nudge" else own(self))


def plain(**more: Any) -> Any:
    return tiny("llama", vocab_size=300, **more)


def run(recipe: Recipe, model: Any, **more: Any) -> Run:
    rng = np.random.default_rng(0)
    recipe.memory_method.carried(model, recipe.seed)
    return Run(recipe, model, TWICE, [rng.integers(3, 297, 200) for _ in range(4)], np.array([1]), **more)


def recipe(**more: Any) -> Recipe:
    usual: dict[str, Any] = dict(name="nudge", method="nudge", steps=4, batch=2, learning_rate=0.05, warmup=0)
    return Recipe(**{**usual, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return trained(tmp_path)[0]


def trained(out: Path, **more: Any) -> tuple[Path, Run]:
    """A folder and the run that it is of, whose model carries the memory still."""
    model, chosen = plain(), recipe(**more)
    base = base_fingerprint(model)
    done = run(chosen, model)
    done.run()
    beside = {part.id: part.spelling for part in getattr(method(chosen.method), "parts", ()) if part.name != "nudge"}
    chosen.memory_method.write(out, model, {"name": "tiny", "fingerprint": base}, TWICE, beside)
    return out, done


def test_what_was_trained_is_read_again_and_the_base_comes_back_bit_for_bit(tmp_path):
    folder, done = trained(tmp_path)
    assert done.log[-1].loss < done.log[0].loss
    with Nudge().begun().on(done.model, TWICE):
        expected = logits(done.model, IDS)
    model = plain()
    before, state = traces(model), buffers(model)
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    with method(f"nudge(trained={folder})").on(model, TWICE):
        assert torch.equal(logits(model, IDS), expected)
        assert not torch.equal(model.get_parameter(LEARNT), weights[LEARNT])
        assert f"{PLACE}.nudge" in dict(model.named_parameters())
    assert traces(model) == before and same(buffers(model), state)
    assert all(torch.equal(one, weights[name]) for name, one in model.named_parameters())
    with pytest.raises(KeyboardInterrupt), method(f"nudge(trained={folder})").on(model, TWICE):
        raise KeyboardInterrupt
    assert traces(model) == before and torch.equal(logits(model, IDS), logits(subject(), IDS))


def test_nothing_but_what_it_says_is_trained():
    model, start = plain(), plain()
    done = run(recipe(), model)
    assert set(done.optimizer.parameters) == {LEARNT, f"{PLACE}.nudge"}
    fresh = model.ropewalk_memory.nudge.detach().clone()
    again = plain()
    run(recipe(), again)
    assert torch.equal(again.ropewalk_memory.nudge, fresh), "new parameters follow from the seed"
    run(recipe(seed=1), other := plain())
    assert not torch.equal(other.ropewalk_memory.nudge, fresh)
    done.run()
    moved = {name for name, one in start.named_parameters() if not torch.equal(one, model.get_parameter(name))}
    assert moved == {LEARNT} and not torch.equal(model.ropewalk_memory.nudge, fresh)


def test_a_further_loss_counts_in_loss_and_gradient():
    done = run(recipe(), plain())
    batch = done.batch(0, done.parts[0], done.samplers[0])
    with Nudge().begun().on(done.model, TWICE):
        loss, _ = done.gradients(batch, 2)
        gradient = done.model.ropewalk_memory.nudge.grad.clone()
        done.model.zero_grad()
        done.memory = None
        bare, _ = done.gradients(batch, 2)
    nudge, tokens = done.model.ropewalk_memory.nudge, float(batch.weights.sum())
    assert loss - bare == pytest.approx(1e-3 * float(nudge.detach().square().sum()) / tokens, rel=1e-3)
    assert torch.allclose(gradient - nudge.grad, 2e-3 * nudge / tokens, atol=1e-7)


def test_a_run_that_was_stopped_ends_as_if_it_had_not(tmp_path):
    whole = run(recipe(), plain())
    whole.run()
    states = States(tmp_path / "states", {"asked": 1})

    def heard(log):
        if log.step == 3:
            raise KeyboardInterrupt

    with states.opened(), pytest.raises(KeyboardInterrupt):
        run(recipe(save_every=1), plain(), states=states, heard=heard).run()
    with states.opened():
        again = run(recipe(save_every=1), plain(), states=states)
        again.run()
    assert len(again.log) == 4
    ours, theirs = (dict(one.model.named_parameters()) for one in (whole, again))
    assert all(torch.equal(one, theirs[name]) for name, one in ours.items())


def test_a_training_may_start_from_another(folder):
    model = plain()
    run(recipe(method=f"nudge(trained={folder})"), model)
    held = MemoryFolder.read(str(folder)).load()
    assert torch.equal(model.ropewalk_memory.nudge, held[f"{PLACE}.nudge"])
    assert torch.equal(model.get_parameter(LEARNT), held[LEARNT])


def test_the_type_in_which_the_base_is_opened_does_not_matter(tmp_path):
    model = plain()
    for one in model.parameters():
        one.data = one.data.bfloat16().float()
    half = plain()
    for one, wide in zip(half.parameters(), model.parameters(), strict=True):
        one.data = wide.data.bfloat16()
    assert base_fingerprint(half) == base_fingerprint(model) != base_fingerprint(plain(num_hidden_layers=1))
    Nudge().begun().carried(model)
    Nudge().write(tmp_path, model, {"name": "tiny", "fingerprint": base_fingerprint(half)}, TWICE, {})
    with method(f"nudge(trained={tmp_path})").on(half, TWICE):
        assert half.ropewalk_memory.nudge.dtype == torch.bfloat16 and logits(half, IDS).isfinite().all()


def test_options_come_from_the_folder_and_others_are_refused(tmp_path):
    trained(tmp_path, method="nudge(power=0.25)")
    spelling = f"nudge(trained={tmp_path})"
    assert method(spelling).power == 0.25 == Nudge(trained=str(tmp_path)).power
    assert method(method(spelling).id) == method(spelling)
    for said in ("0.5", "0.75"):
        with pytest.raises(UserError, match=rf"(?s)trained with power = 0.25, not {said}.*power={said}"):
            method(f"nudge(power={said}, trained={tmp_path})")
    with pytest.raises(UserError, match=r"power = 0.25, not 0.75"):
        Nudge(power=0.75, trained=str(tmp_path))


def test_results_are_of_the_tensors(folder):
    model, chosen = subject(), Nudge(trained=str(folder))
    first = chosen.fingerprint(model, TWICE)
    trained(folder, steps=1)
    assert Nudge(trained=str(folder)).fingerprint(model, TWICE) != first


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("nudge", r"nudge has no trained.*ropewalk train nudge MODEL TEXTS -o OUT\nThen say nudge\(trained=OUT\)"),
        ("nudge(power=0.1)", r"ropewalk train nudge MODEL TEXTS --method 'nudge\(power=0.1\)' -o OUT"),
        ("pi+nudge(trained=FOLDER)", r"was trained by itself, and is used beside pi"),
    ],
)
def test_what_it_is_not_for_is_refused(spelling, said, folder):
    with (
        pytest.raises(UserError, match=f"(?s){said}"),
        method(spelling.replace("FOLDER", str(folder))).on(subject(), TWICE),
    ):
        pass


def test_another_base_is_refused(folder):
    other = plain()
    other.model.layers[0].mlp.up_proj.weight.data[0, 0] += 0.1
    with (
        pytest.raises(UserError, match=r"is a memory of tiny, .*; this model is"),
        Nudge(trained=str(folder)).on(other),
    ):
        pass
    assert not hasattr(other, PLACE)


def test_it_is_used_beside_what_it_was_trained_beside(tmp_path):
    trained(tmp_path, method="pi+nudge")
    line = spelled_with(method("pi+nudge"), tmp_path)
    assert method(line).fingerprint(subject(), TWICE) != method("pi+nudge").begun().fingerprint(subject(), TWICE)
    with method(line).on(subject(), TWICE):
        pass
    with pytest.raises(UserError, match=r"(?s)trained beside pi, and is used by itself.*pi[+]nudge"):
        Nudge(trained=str(tmp_path)).require(subject(), TWICE)
    with pytest.raises(UserError, match=r"for 128 tokens by pi, and 256 are the target"):
        method(line).require(subject(), 2 * TWICE)


def test_a_folder_of_a_memory_is_no_model(folder):
    with pytest.raises(UserError, match=rf"(?s){folder} is a memory of tiny, and no model.*evaluate tiny --methods"):
        Checkpoint(str(folder)).config  # noqa: B018


def test_files_that_are_not_what_was_written_are_refused(folder, tmp_path):
    def refused(said: str) -> None:
        with pytest.raises(UserError, match=said), method(f"nudge(trained={folder})").on(subject(), TWICE):
            pass
        assert not hasattr(subject(), PLACE)

    kept = tmp_path / "kept"
    shutil.copytree(folder, kept, ignore=lambda *_: ["kept"])
    held = bytearray((folder / TENSORS).read_bytes())
    held[-1] ^= 1
    (folder / TENSORS).write_bytes(held)
    refused("its hash is another than memory.json says")
    shutil.copy(kept / TENSORS, folder)
    content = json.loads((folder / FILE).read_text())
    others = [("to", 0), ("beside", {"pi": 3}), ("beside", ["pi"]), ("model", {"name": "x"}), ("tensors", None)]
    for name, value in others:
        (folder / FILE).write_text(json.dumps(content | {name: value}))
        refused(f"{FILE}: {name} is")
    (folder / FILE).write_text(json.dumps(content | {"options": {"hover": 1}}))
    refused("nudge has no option 'hover'")
    (folder / FILE).write_text(json.dumps(content | {"method": "longgen"}))
    refused("holds a trained longgen, not nudge")
    for name, value in (("to", TWICE + 1), ("options", {"power": 2.0})):
        (folder / FILE).write_text(json.dumps(content | {name: value}))
        refused("does not say what it said")
    (folder / TENSORS).write_bytes(b"no tensors")
    (folder / FILE).write_text(json.dumps(content | {"tensors": hash_of(folder / TENSORS)}))
    refused("holds no tensors")
    (folder / FILE).write_text(json.dumps({"kind": "else"}))
    refused("is no file of a trained memory")
    (folder / FILE).unlink()
    refused("holds no trained memory")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"trainable": "lora"}, "trainable is 'lora'"),
        ({"memory": "recurrent"}, "memory is 'recurrent'"),
        ({"memory": "checkpointed", "method": "beacon"}, "memory is 'checkpointed'"),
        ({"positions": "pose"}, "positions is 'pose'"),
    ],
)
def test_recipes_that_do_not_go_with_a_memory_are_refused(more, said):
    with pytest.raises(UserError, match=said):
        recipe(**more).require(plain().config, TWICE)
