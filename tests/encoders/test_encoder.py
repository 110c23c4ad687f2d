"""An encoder that runs: its vectors are the library's own, and its table is where it is said to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import CNN

from ropewalk.backends.text_encoder import loaded_from
from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder import Encoder, LiveTable, holding
from ropewalk.encoders.encoder_folder import EncoderFolder
from ropewalk.encoders.encoder_method import encoder_methods
from ropewalk.encoders.extended_encoder import ExtendedEncoder
from tests.encoders import tiny_encoders
from tests.encoders.tiny_encoders import CLASSES, WINDOW

TEXTS = ["Mara cooks.", "The ship sails at nine.", "A cat.", "The ship sails at nine. Its cook"]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens"])
def test_vectors_are_those_of_the_library(pooling: str, tmp_path: Path) -> None:
    encoder = Encoder(str(tiny_encoders.folder(tmp_path / "bert", pooling=pooling)))
    before, behind = encoder.around
    rows = [[*before, *encoder.ids(text), *behind] for text in TEXTS]
    ours = encoder.projected(encoder.pooled(rows))
    np.testing.assert_allclose(ours, encoder.model.encode(TEXTS), atol=2e-6)
    assert encoder.pools_by_mean == (pooling in ("mean", "mean_sqrt_len_tokens"))  # behind these comes a Normalize


def test_where_a_hub_id_was_loaded_from_is_looked_up_in_the_cache(
    bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Encoder(str(bert))
    assert loaded_from(encoder.body) == bert

    def cached(name: str, local_files_only: bool) -> str:
        assert local_files_only
        if name != "a/b":
            raise ValueError(f"{name} is not there")
        return "CACHE"

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    for name, place in (("a/b", Path("CACHE")), ("c/d", None)):
        encoder.body.config.name_or_path = name  # type: ignore[union-attr]
        assert loaded_from(encoder.body) == place
    assert "c/d: the names of the weights were not compared with the model's: c/d is not there" in caplog.text


def test_modules_before_the_pooling_are_read_as_the_library_does(tmp_path: Path) -> None:
    place = tiny_encoders.folder(tmp_path / "bert")
    (place / "0_CNN").mkdir()
    CNN(16, 8, [1, 3]).save(str(place / "0_CNN"))
    listed = json.loads((place / "modules.json").read_text())
    listed.insert(1, listed[0] | {"path": "0_CNN", "type": "sentence_transformers.models.CNN"})
    (place / "modules.json").write_text(json.dumps([one | {"idx": i, "name": str(i)} for i, one in enumerate(listed)]))
    encoder = Encoder(str(place))
    before, behind = encoder.around
    rows = [[*before, *encoder.ids(text), *behind] for text in TEXTS]
    ours = encoder.projected(encoder.pooled(rows))
    np.testing.assert_allclose(ours, encoder.model.encode(TEXTS, batch_size=1), atol=2e-6)
    assert encoder.states(rows[:1]).shape == (1, len(rows[0]), 16) and encoder.pools_by_mean


@pytest.mark.parametrize("kind", CLASSES)
def test_the_table_of_every_family_is_found_and_put_back(kind: str, tmp_path: Path) -> None:
    folder = EncoderFolder.open(tiny_encoders.folder(tmp_path / kind, kind))
    encoder = Encoder(str(folder.path))
    table = LiveTable.of(encoder, folder)
    assert len(table.pretrained) == WINDOW == folder.window
    with table.being(torch.randn(3 * WINDOW, 16)):
        assert encoder.states([[*encoder.around[0], *range(10, 10 + 2 * WINDOW)]]).shape == (1, 2 * WINDOW + 1, 16)
    assert len(table.pretrained) == WINDOW and table.embedding.num_embeddings == tiny_encoders.rows(kind)
    for buffer in table.owner.buffers(recurse=False):
        assert buffer.shape[-1] in (tiny_encoders.rows(kind), 1)


def test_a_model_that_reads_other_rows_is_refused(tmp_path: Path) -> None:
    folder = EncoderFolder.open(tiny_encoders.folder(tmp_path / "roberta", "roberta"))
    encoder = Encoder(str(folder.path))
    encoder.body.embeddings.padding_idx = 4  # type: ignore[union-attr]
    with pytest.raises(UserError, match="does not read row 3"):
        LiveTable.of(encoder, folder)


def test_weights_are_held_for_a_while_and_put_back_after_an_error(bert: Path) -> None:
    encoder = Encoder(str(bert))
    name, old = next((name, one.clone()) for name, one in encoder.body.named_parameters() if "query.weight" in name)
    with pytest.raises(ZeroDivisionError), holding(encoder.body, {name: old * 2}):
        assert torch.equal(encoder.body.get_parameter(name), old * 2)
        raise ZeroDivisionError
    assert torch.equal(encoder.body.get_parameter(name), old)


def test_a_text_that_is_too_long_is_refused_and_late_chunks_want_a_mean(tmp_path: Path, bert: Path) -> None:
    encoder, folder = Encoder(str(bert)), EncoderFolder.open(bert)
    plain = ExtendedEncoder(encoder, folder, encoder_methods("none"), 2 * WINDOW)
    with pytest.raises(UserError, match="longer than the 32"):
        plain.pooled([list(range(10, 50))])
    first = EncoderFolder.open(tiny_encoders.folder(tmp_path / "cls", pooling="cls"))
    late = ExtendedEncoder(Encoder(str(first.path)), first, encoder_methods("late-chunking"), 2 * WINDOW)
    with pytest.raises(UserError, match="does not pool a text by the mean"):
        late.vectors(list(range(10, 20)))
