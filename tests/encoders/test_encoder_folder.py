"""What the files of an embedding model say, and what is said where they contradict each other or are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ropewalk
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.errors import UserError
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
