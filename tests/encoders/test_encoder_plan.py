"""Plans of embedding models: work that is counted without values is the work that is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_entries import ENCODER_METHODS
from ropewalk.encoders.encoder_plan import work
from ropewalk.planning.measure import peak_bytes
from tests import clips
from tests.encoders import tiny_encoders
from tests.encoders.rotating_models import MODELS, WINDOW, made, t5


@pytest.mark.parametrize("name", [*MODELS, "t5"])
def test_memory_is_about_what_a_forward_takes(name: str) -> None:
    live = (t5 if name == "t5" else MODELS[name][0])().eval()
    parameters, found = work(live.config, 512)
    assert parameters == sum(one.numel() for one in live.parameters())
    ids = torch.zeros(1, 512, dtype=torch.long)
    with torch.no_grad():
        taken = peak_bytes(lambda: live(input_ids=ids))
    assert 0.85 < found.bytes / taken < 1.4


@pytest.mark.parametrize("tokens", [64, 640])
def test_operations_are_those_of_the_formula(tokens: int) -> None:
    hidden, inner, layers = 32, 64, 3
    maps = layers * (4 * hidden * hidden + 3 * hidden * inner)  # a gated MLP
    expected = 2 * tokens * maps + layers * 4 * tokens**2 * hidden
    assert work(MODELS["gte"][0]().config, tokens)[1].flops == expected


def test_a_rope_is_planned_by_the_methods_of_language_models(tmp_path: Path, capsys: Any) -> None:
    found = ropewalk.plan(str(made("modernbert", tmp_path / "m")), to=2 * WINDOW)
    choices = {one.id: one.folder for one in found.methods}
    assert choices["yarn"] == "yarn x2" and choices["self-extend"].startswith("no: run-time code")
    assert not {"late-chunking", "recurrent"} & choices.keys() and "chunks" in choices  # it pools the first token
    assert not {"lm-infinite", "gali"} & choices.keys()
    assert [one.tokens for one in found.work] == [WINDOW, 2 * WINDOW]
    assert found.commands[1].endswith("--to 128 --method yarn")
    from rich.console import Console

    found.show(Console(width=120))
    assert "times the work" in capsys.readouterr().out
    assert found.to_dict()["work"][1]["tokens"] == 2 * WINDOW


def test_of_clip_the_tower_of_texts_is_planned(tmp_path: Path) -> None:
    found = ropewalk.plan(str(clips.save(tmp_path / "clip")), to=248)
    assert [one.tokens for one in found.work] == [77, 248] and found.window == 77
    assert found.parameters == sum(one.numel() for one in clips.tower().text_model.parameters())
    hidden, inner, layers = 32, 48, 2
    for one in found.work:
        products = 2 * one.tokens * layers * (4 * hidden * hidden + 2 * hidden * inner)
        assert one.flops == products + layers * 4 * one.tokens**2 * hidden


def test_a_table_and_a_bias_have_their_own(tmp_path: Path) -> None:
    table = ropewalk.plan(str(tiny_encoders.folder(tmp_path / "b")), to=96)
    assert {"pi", "recurrent", "recurrent+tempscale"} < {one.id for one in table.methods} and table.positions == "table"
    bias = ropewalk.plan(str(made("t5", tmp_path / "t")), to=2 * WINDOW)
    assert {one.id for one in bias.methods} >= {"uncut", "uncut+tempscale"} and bias.window is None


def test_what_the_table_holds_needs_its_limits_raised_alone(tmp_path: Path) -> None:
    found = ropewalk.plan(str(tiny_encoders.folder(tmp_path / "b", limit=16)), to=tiny_encoders.WINDOW)
    assert [one.tokens for one in found.work] == [16, tiny_encoders.WINDOW]
    assert found.commands[1].endswith(f"--to {tiny_encoders.WINDOW} --method uncut")
    assert "uncut" in {one.id for one in found.methods} and not {"pi", "recurrent"} & {one.id for one in found.methods}
    with pytest.raises(UserError, match="not beyond the 16 that it reads"):
        ropewalk.plan(str(tmp_path / "b"), to=16)


@pytest.mark.parametrize("kind", ["bert", "clip", "t5", "cut"])
def test_what_is_listed_is_written_and_what_is_not_is_refused(kind: str, tmp_path: Path) -> None:
    """Every method but ways of reading, by ``extend`` itself."""
    place, to = tmp_path / "m", 2 * tiny_encoders.WINDOW
    if kind == "clip":
        clips.save(place)
        to = 248
    elif kind == "t5":
        made("t5", place)
        to = 2 * WINDOW
    else:
        tiny_encoders.folder(place, limit=16 if kind == "cut" else tiny_encoders.WINDOW)
        to = tiny_encoders.WINDOW if kind == "cut" else to
    found = ropewalk.plan(str(place), to=to)
    listed = {one.id: one for one in found.methods}
    for one in listed.values():
        if not one.folder.startswith("no"):
            assert ropewalk.extend(str(place), to=to, method=one.id, out=str(tmp_path / one.id)).target == to
    for entry in ENCODER_METHODS:
        if entry.axis not in ("", "reading") and entry.id not in listed:
            with pytest.raises(UserError):
                ropewalk.extend(str(place), to=to, method=entry.id, out=str(tmp_path / "no"))
    assert {"bert": "recurrent+tempscale", "clip": "recurrent+tempscale", "t5": "uncut+tempscale", "cut": "tempscale"}[
        kind
    ] in listed
    assert ("late-chunking" in listed) == (kind != "clip")
    note = found.notes[-1]
    assert ("but stretch's one of up to 20 tokens" in note) == (kind == "clip")
    assert ("a folder but uncut's reads" in note) == (kind == "cut")
    with pytest.raises(UserError, match="was extended already"):
        ropewalk.plan(str(tmp_path / next(iter(listed))), to=4 * to)


def test_within_the_window_of_a_rope_there_is_a_limit_alone(tmp_path: Path) -> None:
    place = made("gte", tmp_path / "g")
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    with pytest.raises(UserError, match=r"within the 64 that the rope .* cut at 32: there is nothing") as error:
        ropewalk.plan(str(place), to=WINDOW)
    assert f"--set sentence_bert_config.json:max_seq_length={WINDOW}" in str(error.value)


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    folder = str(made("gte", tmp_path / "g"))
    with pytest.raises(UserError, match="not beyond the 64"):
        ropewalk.plan(folder, to=WINDOW)
    with pytest.raises(UserError, match="gpu"):
        ropewalk.plan(folder, to=2 * WINDOW, gpu="h200")
