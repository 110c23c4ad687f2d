"""Encoders that rotate, and those with a bias alone: folders that stay sentence-transformers', and equal vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralModel, Qwen3Config, Qwen3ForCausalLM

pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer

import ropewalk
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder import Encoder
from ropewalk.encoders.encoder_folder import EncoderFolder, is_encoder
from ropewalk.encoders.encoder_method import encoder_methods
from ropewalk.encoders.extended_encoder import ExtendedEncoder
from ropewalk.encoders.retrieval import encoder_experiment
from tests.encoders.rotating_models import MODELS, SHAPE, TWO, WINDOW, folder_of, made, modernbert

TARGET = 2 * WINDOW
TEXT = "The grass is green. Room A has the number 7. " * 20
CHANGED = {"config.json", "sentence_bert_config.json", "tokenizer_config.json", "ropewalk.json"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> Any:
    """Name -> folder, made when it is first asked for."""
    known: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in known:
            known[name] = made(name, tmp_path_factory.mktemp("encoders") / name)
        return known[name]

    return folder


def reading(folder: Path, spelling: str = "none", to: int = TARGET, as_written: bool = False) -> ExtendedEncoder:
    files = EncoderFolder.open(folder)
    return ExtendedEncoder(Encoder(str(folder)), files, encoder_methods(spelling, files.positions), to, as_written)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spelling", ["yarn", "ntk-aware", "resonance+yarn"])
def test_a_saved_folder_reads_as_the_live_method(folders: Any, tmp_path: Path, name: str, spelling: str) -> None:
    source, out = folders(name), tmp_path / "out"
    before = {file.relative_to(source): file.read_bytes() for file in source.rglob("*") if file.is_file()}
    done = ropewalk.extend(str(source), to=TARGET, method=spelling, out=out)
    assert (done.window, done.target, done.cut_before) == (WINDOW, TARGET, WINDOW)
    assert before == {file.relative_to(source): file.read_bytes() for file in source.rglob("*") if file.is_file()}
    for file, content in before.items():
        assert (out / file).read_bytes() == content or file.name in CHANGED
    assert (out / "model.safetensors").samefile(source / "model.safetensors")

    live, saved, plain = reading(source, spelling, as_written=True), reading(out), reading(source)
    ids = live.encoder.ids(TEXT)
    assert np.array_equal(live.vectors(ids), saved.vectors(ids))
    assert np.array_equal(live.vectors(ids[:20]), saved.vectors(ids[:20]))
    assert float(np.abs(live.vectors(ids) - plain.vectors(ids)).max()) > 1e-3
    assert np.array_equal(reading(source, spelling).vectors(ids[:20]), plain.vectors(ids[:20]))

    loaded = SentenceTransformer(str(out))
    assert loaded.max_seq_length == TARGET and loaded.prompts["query"] == "ask: "
    assert [type(module).__name__ for module in loaded] == ["Transformer", "Pooling", "Normalize"]
    np.testing.assert_allclose(loaded.encode([TEXT], prompt="")[0], saved.vectors(ids)[0], atol=1e-5)


def test_a_saved_dynamic_base_is_said_to_be_that_of_the_target(folders: Any, tmp_path: Path) -> None:
    said = f"is saved for {TARGET:,} tokens: texts of every length have the base of those"
    for spelling, expected in (("dynamic-ntk", True), ("ntk-aware", False)):
        done = ropewalk.extend(str(folders("qwen3")), to=TARGET, method=spelling, out=tmp_path / spelling)
        assert any(said in note for note in done.notes) == expected


def test_local_layers_are_left_alone(folders: Any, tmp_path: Path) -> None:
    ropewalk.extend(str(folders("modernbert")), to=TARGET, method="ntk-aware", out=tmp_path / "out")
    before, after = (Checkpoint(str(place)).specs for place in (folders("modernbert"), tmp_path / "out"))
    assert before["sliding_attention"] == after["sliding_attention"].__class__(
        **{**vars(after["sliding_attention"]), "length": WINDOW}
    )
    d, s = 16, TARGET / WINDOW
    assert after["full_attention"].base == pytest.approx(160_000 * s ** (d / (d - 2)))
    live, saved = (Encoder(str(place)).body.rotary_emb for place in (folders("modernbert"), tmp_path / "out"))
    assert torch.equal(live.sliding_attention_inv_freq, saved.sliding_attention_inv_freq)
    assert not torch.equal(live.full_attention_inv_freq, saved.full_attention_inv_freq)


def test_wavelengths_of_modernbert_are_those_of_its_two_bases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = SHAPE | {"hidden_size": 64, "num_attention_heads": 1}
    folder = folder_of(type(modernbert())(modernbert().config.__class__(**shape)), "cls", tmp_path / "m")
    specs = EncoderFolder.open(folder).rotating.specs
    assert specs["full_attention"].wavelengths[31] == pytest.approx(691307.234, rel=1e-6)
    assert specs["sliding_attention"].wavelengths[31] == pytest.approx(47117.2428, rel=1e-8)


def test_a_method_of_regions_is_used_live_and_not_saved(folders: Any, tmp_path: Path) -> None:
    source = folders("modernbert")
    live, plain = reading(source, "self-extend"), reading(source)
    ids = live.encoder.ids(TEXT)
    assert live.vectors(ids).shape == (1, 32) and not np.array_equal(live.vectors(ids), plain.vectors(ids))
    assert np.array_equal(live.vectors(ids[:20]), plain.vectors(ids[:20]))
    with pytest.raises(UserError, match="cannot be saved"):
        ropewalk.extend(str(source), to=TARGET, method="self-extend", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_late_chunks_are_pooled_under_a_rope_method(folders: Any) -> None:
    read = reading(folders("nomic_bert"), "yarn+late-chunking(size=40)")
    ids = read.encoder.ids(TEXT)[: TARGET - 2]
    vectors, states = read.vectors(ids), read.states(ids)
    assert len(vectors) == 4 and read.methods.title == "YaRN + Late chunking (size=40)"
    mean = states[: len(ids) // 4].mean(0)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "spelling", "said"),
    [
        ("modernbert", "recurrent", "is for other encoders: this one rotates, and has no table"),
        ("modernbert", "tempscale", "is for other encoders: this one rotates, and has no logits"),
        ("modernbert", "none", "none does not reach 128 tokens"),
        ("modernbert", "late-chunking", "cannot be saved"),
        ("t5", "recurrent", "how far this one reads is decided by: bias"),
        ("t5", "yarn", "which is for those that rotate"),
        ("t5", "tempscale", "does not reach 128 tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(folders: Any, tmp_path: Path, name: str, spelling: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ropewalk.extend(str(folders(name)), to=TARGET, method=spelling, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_target_within_the_window_is_refused(folders: Any, tmp_path: Path) -> None:
    for name in ("modernbert", "t5"):
        with pytest.raises(UserError, match="not beyond"):
            ropewalk.extend(str(folders(name)), to=WINDOW // 2, out=tmp_path / "out")


def test_it_is_extended_once(folders: Any, tmp_path: Path) -> None:
    ropewalk.extend(str(folders("gte")), to=TARGET, out=tmp_path / "one")  # by yarn, unless another is named
    with pytest.raises(UserError, match="was extended already, by yarn to 128 tokens"):
        ropewalk.extend(str(tmp_path / "one"), to=2 * TARGET, out=tmp_path / "two")
    assert reading(tmp_path / "one").window == TARGET


def test_a_live_rope_that_is_not_the_configurations_is_refused(folders: Any) -> None:
    read = reading(folders("gte"), "yarn")
    read.encoder.body.rotary_emb.inv_freq[3] *= 1.01
    with pytest.raises(UserError, match="inv_freq"):
        read.vectors(read.encoder.ids(TEXT))


def test_a_writer_that_is_kept_as_an_embedder_is_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = folder_of(Qwen3ForCausalLM(Qwen3Config(**SHAPE, **TWO)), "lasttoken", tmp_path / "q")
    assert is_encoder(Checkpoint(str(source)))
    ropewalk.extend(str(source), to=TARGET, method="yarn", out=tmp_path / "out")
    live, saved = reading(source, "yarn"), reading(tmp_path / "out")
    ids = live.encoder.ids(TEXT)
    assert np.array_equal(live.vectors(ids), saved.vectors(ids))
    (source / "modules.json").unlink()
    assert not is_encoder(Checkpoint(str(source)))


def test_layers_that_see_no_further_are_not_extended(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MistralModel(MistralConfig(**SHAPE, **TWO, sliding_window=32))
    source = folder_of(model, "lasttoken", tmp_path / "m")
    with pytest.raises(UserError, match="32 tokens at most"):
        ropewalk.extend(str(source), to=TARGET, method="yarn", out=tmp_path / "out")


def test_inspect_shows_the_rope_and_where_texts_are_cut(folders: Any, capsys: Any) -> None:
    found = ropewalk.inspect(str(folders("modernbert")))
    assert found.sound and (found.positions, found.window, found.reads) == ("rope", WINDOW, WINDOW)
    assert found.to_dict()["ropes"]["full_attention"]["base"] == 160_000
    from rich.console import Console

    found.show(Console(width=120))
    shown = capsys.readouterr().out
    assert "sliding_attention" in shown and "texts are cut at 64 tokens" in shown and "pooled by cls" in shown


def test_a_cut_behind_the_rope_is_said(folders: Any, tmp_path: Path) -> None:
    source = made("gte", tmp_path / "g")
    settings = source / "sentence_bert_config.json"
    for limit, said in ((32, "cut at 32 tokens, though its rope is for 64"), (512, "cut at 512 tokens, beyond 64")):
        settings.write_text(json.dumps({"max_seq_length": limit}))
        assert said in ropewalk.inspect(str(source)).notes[0]


def test_a_bias_by_distance_has_its_limits_raised(folders: Any, tmp_path: Path) -> None:
    source = folders("t5")
    assert "ends nowhere" in ropewalk.inspect(str(source)).notes[0]
    done = ropewalk.extend(str(source), to=TARGET, out=tmp_path / "plain")
    assert done.method == "uncut" and (tmp_path / "plain/model.safetensors").samefile(source / "model.safetensors")
    ropewalk.extend(str(source), to=TARGET, method="uncut+tempscale(tau=0.5)", out=tmp_path / "sharp")
    ids = reading(source).encoder.ids(TEXT)
    for spelling, folder in (("uncut", "plain"), ("uncut+tempscale(tau=0.5)", "sharp")):
        live, saved = reading(source, spelling, as_written=True), reading(tmp_path / folder, "uncut", to=2 * TARGET)
        assert np.array_equal(live.vectors(ids), saved.vectors(ids[: TARGET - 2]))
    long, short = (reading(tmp_path / one).vectors(ids) for one in ("plain", "sharp"))
    assert float(np.abs(long - short).max()) > 1e-4
    assert not np.array_equal(reading(source).vectors(ids), long)  # which is cut
    assert SentenceTransformer(str(tmp_path / "sharp")).max_seq_length == TARGET


@pytest.mark.parametrize(("name", "methods"), [("modernbert", "none,yarn,self-extend"), ("t5", "none,uncut")])
def test_methods_are_compared(folders: Any, tmp_path: Path, name: str, methods: str) -> None:
    found = ropewalk.compare(
        str(folders(name)),
        to=TARGET,
        methods=methods,
        tasks="needle",
        lengths="64,128",
        samples=4,
        out=tmp_path / "out",
    ).results
    assert [subject.method for subject in found.subjects] == methods.split(",")
    assert found.models[0].window == WINDOW and found.models[0].facts["positions"] in ("rope", "bias")
    rows = {(row.method, row.task, row.length): row.value for row in found.rows}
    short = {method: value for (method, task, length), value in rows.items() if (task, length) == ("needle", 64)}
    if name == "modernbert":
        assert short["yarn"] == short["self-extend"] == short["none"]


def test_a_key_that_is_set_is_seen(tmp_path: Path) -> None:
    source = made("gte", tmp_path / "g")
    found = ropewalk.inspect(str(source), set=("sentence_bert_config.json:max_seq_length=32",))
    assert found.reads == 32 and list(found.wrote) == [str(source / "sentence_bert_config.json")]
    assert ropewalk.inspect(str(source), set=("max_position_embeddings=32",)).window == 32


def test_a_limit_below_the_window_of_a_rope_adds_no_method(folders: Any, tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[str] = []
    place = shutil.copytree(folders("gte"), tmp_path / "cut")
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')

    def seen(experiment: Any, *_: Any) -> None:
        asked.extend(one.id for one in experiment.methods)
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder_experiment, "run", seen)
    with pytest.raises(KeyboardInterrupt):
        ropewalk.compare(str(place), to=TARGET, out=tmp_path / "out")
    assert "yarn" in asked and "uncut" not in asked


@pytest.mark.slow
def test_late_chunks_are_not_compared_where_no_mean_is_pooled(folders: Any, tmp_path: Path) -> None:
    asked = {"to": TARGET, "tasks": "needle", "lengths": "128", "samples": 2}
    found = ropewalk.compare(str(folders("modernbert")), **asked, out=tmp_path / "out").results
    names = [subject.method for subject in found.subjects]
    assert "self-extend" in names and "chunks" in names and "late-chunking" not in names
