"""An embedding model, shown."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_what_is_about_other_models_is_refused(bert: Path) -> None:
    with pytest.raises(UserError, match="--weights changes nothing of an embedding model"):
        ropewalk.inspect(bert, weights=True)
