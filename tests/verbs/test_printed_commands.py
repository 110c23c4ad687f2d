"""A command that a verb prints runs, as it was printed: planned over configurations in the wild."""

from __future__ import annotations

import copy
import shlex
from types import SimpleNamespace

import pytest

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.cli.main import run
from ropewalk.evaluation.experiment import open_contestant
from ropewalk.planning.planner import plan
from ropewalk.verbs.compare import ExperimentRequest
from tests import cases
from tests.cli.test_main import byte_tokenizer

NOWHERE = {  # no method makes them look further
    "sliding everywhere": cases.of("mistral", max_position_embeddings=1024, rope_theta=1e4, sliding_window=64),
    "far layers that do not rotate": cases.hybrid("cohere2"),
    "and these": cases.hybrid("exaone4"),
    "chunks": cases.SOUND["chunks"],
    "DeepSeek-V4": cases.SOUND["DeepSeek-V4"],
}
ONCE_MORE = {"linear, replaced": cases.llama(16384, rope_theta=1e5, rope_scaling=cases.LINEAR)}
CASES = {**cases.SOUND, **NOWHERE, **ONCE_MORE}
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def asked(monkeypatch):
    """Comparisons go as far as the first forward: the model is opened, and every method is put on."""
    found = []

    def dry(request, experiment, *_, **__):
        (name,) = experiment.models
        contestant = open_contestant(name, experiment)
        to, _ = experiment.reach(contestant)
        for method in experiment.methods:
            contestant.check(method, to)
            with method.on(contestant.model, to):
                found.append(method.id)
        return SimpleNamespace(sound=True, show=lambda console: None)

    monkeypatch.setattr(ExperimentRequest, "conducted", dry)
    return found


def built(folder, raw):
    raw = copy.deepcopy(raw)
    raw.get("text_config", raw)["vocab_size"] = 300
    raw.get("vision_config", {}).update(SMALL)
    cases.build(folder, raw)
    byte_tokenizer(300).save_pretrained(folder)
    return str(folder)


def runs(made, tmp_path, monkeypatch):
    """Executes what a plan names, in another folder."""
    monkeypatch.chdir(tmp_path)
    assert made.commands
    for command in made.commands:
        words = shlex.split(command)
        assert words[0] == "ropewalk" and run(words[1:]) == 0, command


@pytest.mark.parametrize("name", CASES)
def test_what_a_plan_names_runs(name, tmp_path, monkeypatch, asked):
    try:
        model = built(tmp_path / "m", CASES[name])
    except KeyError as error:  # MiniCPM3 before 5.20
        pytest.skip(f"this transformers cannot make the model: {error}")
    made = plan(model, 4 * Checkpoint(model).window)
    runs(made, tmp_path, monkeypatch)
    extends = any(" extend " in command for command in made.commands)
    assert extends is (name not in NOWHERE) and "none" in asked
    if name in NOWHERE:
        assert asked == ["none"] and not any(one.written for one in made.methods)
        assert any("no layer of this" in note for note in made.notes)
