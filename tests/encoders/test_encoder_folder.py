"""What the files of an embedding model say, and what is said where they contradict each other or are broken."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

import ropewalk
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder import Encoder
from ropewalk.encoders.encoder_folder import EncoderFolder, is_encoder
from tests.encoders import tiny_encoders
from tests.encoders.tiny_encoders import CLASSES, WINDOW, rows


def edit(file: Path, **keys: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_sound_folder_of_every_family(kind: str, tmp_path: Path) -> None:
    folder = EncoderFolder.open(tiny_encoders.folder(tmp_path / kind, kind))
    assert (folder.window, folder.reads, folder.poolings) == (WINDOW, WINDOW, ("mean",))
    assert folder.table_shape == (rows(kind), 16)
    assert folder.problems == [] and folder.notes == []
    assert [part.kind for part in folder.parts] == ["Transformer", "Pooling", "Normalize"]


def test_what_is_an_embedding_model(bert: Path, tmp_path: Path) -> None:
    assert is_encoder(Checkpoint(str(bert))) and not is_encoder(Checkpoint("demo"))
    plain = tiny_encoders.folder(tmp_path / "plain", modules=False)
    assert is_encoder(Checkpoint(str(plain))) and EncoderFolder.open(plain).poolings == ()
    edit(plain / "config.json", architectures=["BertLMHeadModel"])
    assert not is_encoder(Checkpoint(str(plain)))
    with pytest.raises(UserError, match="no embedding model"):
        EncoderFolder.open("demo")


def test_where_texts_are_cut(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert", limit=None)
    assert EncoderFolder.open(place).reads == WINDOW  # of the tokenizer
    edit(place / "tokenizer_config.json", model_max_length=10**30)
    assert EncoderFolder.open(place).reads == WINDOW  # of the table
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "document_length": 16}))
    folder = EncoderFolder.open(place)
    assert folder.reads == 16 and folder.problems == []
    assert folder.notes == ["texts are cut at 16 tokens, though its table of positions has 32 rows"]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_limit_behind_the_table_is_a_problem_and_its_mend_mends(kind: str, tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / kind, kind, limit=WINDOW + 8)
    (problem,) = ropewalk.inspect(place).problems
    assert (problem.code, problem.seen) == ("cut-behind-the-table", WINDOW + 8) and str(WINDOW) in problem.expected
    assert f"sentence_bert_config.json:max_seq_length={WINDOW}" in problem.mend
    with pytest.raises(UserError, match="cut-behind-the-table"):
        ropewalk.extend(place, to=64, method="pi", out=tmp_path / "out")
    fixed = ropewalk.inspect(place, set=[f"sentence_bert_config.json:max_seq_length={WINDOW}"])
    assert fixed.sound and fixed.wrote


def test_a_limit_that_only_the_table_of_other_families_has_is_too_long(tmp_path: Path) -> None:
    """sentence-transformers takes all rows for positions, and RoBERTa's first ones are for padding."""
    place = tiny_encoders.folder(tmp_path / "roberta", "roberta", limit=None)
    edit(place / "tokenizer_config.json", model_max_length=10**30)
    (problem,) = EncoderFolder.open(place).problems
    assert problem.key == "tokenizer_config.json:model_max_length" and problem.seen is None
    assert ropewalk.inspect(place, set=[f"tokenizer_config.json:model_max_length={WINDOW}"]).sound


def test_a_table_that_does_not_match_its_configuration(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    edit(place / "config.json", max_position_embeddings=WINDOW + 8)
    (problem,) = ropewalk.inspect(place).problems
    assert (problem.code, problem.seen) == ("table-of-other-length", WINDOW + 8)
    assert ropewalk.inspect(place, set=[f"max_position_embeddings={WINDOW}"]).sound


@pytest.mark.parametrize(("file", "content", "said"), [
    ("1_Pooling/config.json", {"pooling_mode": "attention"}, "pooling is 'attention'"),
    ("1_Pooling/config.json", {"word_embedding_dimension": 16}, "pooling is None"),
    ("modules.json", {"0": "Transformer"}, "expected a list of modules"),
    ("modules.json", [{"idx": 0, "path": "../..", "type": "x.Transformer"}], "expected a folder inside"),
    ("modules.json", [{"idx": 0, "path": "", "type": "x.Router"}], "the first module is Router"),
    ("config.json", {"model_type": "bert", "max_position_embeddings": "many"}, "max_position_embeddings"),
    ("config.json", {"model_type": "bert", "max_position_embeddings": 1}, "max_position_embeddings"),
])  # fmt: skip
def test_broken_files_are_named(file: str, content: Any, said: str, tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    (place / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        ropewalk.inspect(place)


def test_limits_of_the_tokenizer_and_of_calls_stand_before_others(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    model_max, texts = {"model_max_length": 20}, {"text": {"max_length": 12, "truncation": True}}
    for said, reads in (
        ({"processor_kwargs": model_max}, 20),
        ({"tokenizer_args": model_max}, 20),
        ({"processor_kwargs": model_max, "document_length": 16}, 16),
        ({"processor_kwargs": model_max, "processing_kwargs": texts}, 12),
    ):
        (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, **said}))
        folder = EncoderFolder.open(place)
        assert folder.reads == reads and folder.problems == []
        assert min(folder.limits.values()) == reads
        ids = SentenceTransformer(str(place))[0].preprocess(["rope " * 40], task="document")["input_ids"]
        assert ids.shape == (1, reads)


def test_settings_without_modules_are_read_by_nobody(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert", modules=False)
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8}))
    assert EncoderFolder.open(place).reads == SentenceTransformer(str(place)).max_seq_length == WINDOW
    assert ropewalk.extend(place, to=64, out=tmp_path / "out").cut_before == WINDOW


def prefixed(weights: dict[str, Any]) -> dict[str, Any]:
    return {f"model.{name}": one for name, one in weights.items()}


def without_table(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in weights.items() if "position_embeddings" not in name}


def with_another(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {"other.embeddings.position_embeddings.weight": torch.zeros(WINDOW, 16)}


@pytest.mark.parametrize(("change", "code", "seen"), [
    (prefixed, "weights-lacking", "without 37 tensors"), (without_table, "weights-lacking", "without 1 tensors"),
    (with_another, "two-tables", "other.embeddings"),
])  # fmt: skip
def test_weights_of_another_model_are_refused_everywhere(change: Any, code: str, seen: str, tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    weights = load_file(place / "model.safetensors")
    save_file(change(weights), place / "model.safetensors", {"format": "pt"})
    (problem,) = ropewalk.inspect(place).problems
    assert problem.code == code and seen in problem.seen
    for refused in (
        lambda: ropewalk.extend(place, to=64, out=tmp_path / "out"),
        lambda: ropewalk.compare(place, to=64, out=tmp_path / "results"),
    ):
        with pytest.raises(UserError, match=code):
            refused()
    assert not (tmp_path / "out").exists()
    if code == "weights-lacking":
        with pytest.raises(UserError, match=code):
            Encoder(str(place))


def test_a_pooler_that_is_not_used_may_be_missing_and_names_may_have_a_prefix(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    weights = load_file(place / "model.safetensors")
    ids = [[0, 5, 6, 7]]
    states = Encoder(str(place)).states(ids)
    kept = {f"bert.{name}": one for name, one in weights.items() if "pooler" not in name}
    save_file(kept, place / "model.safetensors", {"format": "pt"})
    assert EncoderFolder.open(place).problems == []
    assert (Encoder(str(place)).states(ids) == states).all()
    settings = {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
                "module_output_name": "sentence_embedding"}  # fmt: skip
    (place / "sentence_bert_config.json").write_text(json.dumps(settings))
    assert EncoderFolder.open(place).lacking == ["pooler.dense.bias", "pooler.dense.weight"]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    for file in place.glob("tokenizer*"):
        file.unlink()
    (problem,) = ropewalk.inspect(place).problems
    assert problem.code == "tokenizer-missing"
    for verb in (ropewalk.extend, ropewalk.compare, ropewalk.plan):
        with pytest.raises(UserError, match="tokenizer-missing"):
            verb(place, to=64, **({} if verb is ropewalk.plan else {"out": tmp_path / "out"}))


def test_mends_name_files_in_the_folder_of_the_encoder(tmp_path: Path) -> None:
    place = tiny_encoders.in_a_folder(tiny_encoders.folder(tmp_path / "bert", limit=WINDOW + 8))
    edit(place / "0_Transformer" / "config.json", max_position_embeddings=WINDOW + 4)
    table, limit = ropewalk.inspect(place).problems
    assert table.key == "0_Transformer/config.json:max_position_embeddings"
    assert limit.key == "0_Transformer/sentence_bert_config.json:max_seq_length"
    for problem in (table, limit):
        words = shlex.split(problem.mend)
        assert words[:4] == ["ropewalk", "inspect", str(place), "--set"]
        found = ropewalk.inspect(place, set=words[4:])
    assert found.sound


def test_a_mend_makes_the_file_that_is_not_there(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "roberta", "roberta", limit=None)
    (place / "tokenizer_config.json").unlink()
    (problem,) = EncoderFolder.open(place).problems
    assert problem.code == "cut-behind-the-table"
    subprocess.run(problem.mend, shell=True, check=True)
    assert EncoderFolder.open(place).problems == [] and EncoderFolder.open(place).reads == WINDOW


def test_a_pooling_is_mended_as_is_said(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    edit(place / "1_Pooling" / "config.json", pooling_mode="attention")
    with pytest.raises(UserError) as raised:
        ropewalk.inspect(place)
    found = ropewalk.inspect(place, set=shlex.split(raised.value.mend.partition(": ")[2])[4:])
    assert found.poolings == ["mean"] and (place / "1_Pooling" / "config.json.bak").is_file()


@pytest.mark.parametrize("padding", [None, "x", True, -1])
def test_a_padding_token_that_is_none_is_named(padding: Any, tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "roberta", "roberta")
    content = json.loads((place / "config.json").read_text()) | {"pad_token_id": padding}
    (place / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"pad_token_id is {padding!r}, expected the number of a token"):
        ropewalk.inspect(place)


def test_modules_that_pool_nothing_are_refused(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    listed = json.loads((place / "modules.json").read_text())
    (place / "modules.json").write_text(json.dumps(listed[:1]))
    for refused in (lambda: ropewalk.inspect(place), lambda: Encoder(str(place)).pooled([[0, 5]])):
        with pytest.raises(UserError, match="pools"):
            refused()


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config.json"])
def test_what_is_no_json_is_named(file: str, tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    (place / file).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        ropewalk.inspect(place)


def test_older_and_newer_spellings_of_a_pooling(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    file = place / "1_Pooling" / "config.json"
    older = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}
    file.write_text(json.dumps(older))
    assert EncoderFolder.open(place).poolings == ("cls", "max")
    file.write_text(json.dumps({"pooling_mode": ["mean", "cls"]}))
    assert EncoderFolder.open(place).poolings == ("mean", "cls")
