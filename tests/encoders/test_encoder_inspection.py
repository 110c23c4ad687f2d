"""An embedding model, shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ropewalk
from ropewalk.common.errors import UserError
from tests.encoders import tiny_encoders


def test_it_says_where_texts_are_cut_and_how_they_are_pooled(bert: Path) -> None:
    found = ropewalk.inspect(bert)
    shown = repr(found)
    assert "positions: table of 32 rows; 2 layers, 16 dimensions" in shown
    assert "texts are cut at 32 tokens" in shown and "Transformer > Pooling > Normalize; pooled by mean" in shown
    assert found.sound and json.loads(found.to_json())["limits"]["sentence_bert_config.json:max_seq_length"] == 32


def test_a_bias_and_an_extension_are_said(tmp_path: Path) -> None:
    found = ropewalk.inspect(tiny_encoders.folder(tmp_path / "mpnet", "mpnet", limit=24))
    assert found.positions == "table, bias by distance" and found.reads == 24
    longer = ropewalk.extend(tmp_path / "mpnet", to=64, out=tmp_path / "out")
    assert "extended by ropewalk with recurrent" in repr(ropewalk.inspect(longer.folder))


@pytest.mark.parametrize("value", ["16", -5, 0, 15.5, 16.0, True, []])
def test_a_limit_that_is_no_number_of_tokens_is_a_problem_and_its_mend_mends(value: Any, tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": value}))
    (problem,) = ropewalk.inspect(place).problems
    assert (problem.code, problem.seen) == ("limit-invalid", value)
    assert problem.mend.endswith("--set sentence_bert_config.json:max_seq_length=32")
    with pytest.raises(UserError, match=r"limit-invalid: sentence_bert_config\.json:max_seq_length is"):
        ropewalk.extend(place, to=64, out=tmp_path / "out")
    assert ropewalk.inspect(place, set=["sentence_bert_config.json:max_seq_length=32"]).sound


def test_a_limit_of_questions_is_shown(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "query_length": 8}))
    found = ropewalk.inspect(place)
    assert found.limits["sentence_bert_config.json:query_length"] == 8 and found.reads == 32 and found.sound


def test_an_encoder_of_another_model_type_is_said_to_be_unknown(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    config = json.loads((place / "config.json").read_text()) | {"model_type": "convbert"}
    (place / "config.json").write_text(json.dumps(config))
    assert ropewalk.inspect(place).positions == "unknown here (model type convbert)"
    with pytest.raises(UserError, match="what this one knows of positions is unknown here"):
        ropewalk.extend(place, to=64, out=tmp_path / "out")


def test_what_is_about_other_models_is_refused(bert: Path) -> None:
    with pytest.raises(UserError, match="--weights changes nothing of an embedding model"):
        ropewalk.inspect(bert, weights=True)
