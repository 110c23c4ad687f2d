"""Vectors of spans in their places: those of spans alone where a window is a span, and of every token once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

import itertools

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from ropewalk.common.errors import UserError
from ropewalk.encoders.extended_encoder import windows
from ropewalk.workflows.embedding import Embedding
from tests.tokenizers import byte_level

LIMIT = 64
SENTENCES = [f"Room {room} has the number {i}.\n" for room in "ABCD" for i in range(3)]
TEXT = "".join(SENTENCES)
STOPS = np.cumsum([0, *map(len, SENTENCES)]).tolist()
SPANS = list(itertools.pairwise(STOPS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A random BERT of 64 positions, with a tokenizer that puts one token before and one behind."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = byte_level()
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(one, tokenizer.convert_tokens_to_ids(one)) for one in ("<s>", "</s>")]
    )
    tokenizer.model_max_length = LIMIT
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LIMIT, initializer_range=0.5, **shape)
    BertModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Embedding:
    return Embedding(str(folder))


def alone(folder: Path, text: str) -> np.ndarray:
    """The mean over the tokens of a text that is encoded on its own, the special ones left out, by transformers."""
    bert, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = bert(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
    return states[1:-1].mean(0).numpy()


def test_the_tokenizer_of_these_tests_puts_one_token_at_either_end(folder: Path, model: Embedding) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model._around() == ([tokenizer.bos_token_id], [tokenizer.eos_token_id])


def test_a_window_of_one_sentence_is_that_sentence_alone(folder: Path, model: Embedding) -> None:
    size = len(model.model.tokenizer(SENTENCES[0], add_special_tokens=False).input_ids)
    same = [one for one in SENTENCES if len(model.model.tokenizer(one, add_special_tokens=False).input_ids) == size]
    text, stops = "".join(same), np.cumsum([0, *map(len, same)]).tolist()
    found = model.within(text, list(itertools.pairwise(stops)), window=size, overlap=0)
    assert len(same) > 2
    for sentence, vector in zip(same, found, strict=True):
        np.testing.assert_allclose(vector, alone(folder, sentence), atol=1e-5)


def test_what_stands_around_a_sentence_is_read_with_it(folder: Path, model: Embedding) -> None:
    one, other = (model.within(before + SENTENCES[1], [(len(before), len(before + SENTENCES[1]))])[0]
                  for before in (SENTENCES[0], SENTENCES[5]))  # fmt: skip
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - alone(folder, SENTENCES[1])).max() > 1e-3


@pytest.mark.parametrize(("window", "overlap"), [(None, None), (20, 5), (20, 0), (7, 3)])
def test_spans_part_the_tokens_whatever_the_windows(model: Embedding, window: int | None, overlap: int | None) -> None:
    """The mean over all tokens is that over spans, each as heavy as it has tokens."""
    tokens = [len(model.model.tokenizer(one, add_special_tokens=False).input_ids) for one in SENTENCES]
    whole = model.within(TEXT, [(0, len(TEXT))], window, overlap)[0]
    parts = model.within(TEXT, SPANS, window, overlap)
    np.testing.assert_allclose(np.average(parts, axis=0, weights=tokens), whole, atol=1e-5)
    none = model.within(TEXT, [*SPANS[:2], (SPANS[2][0], SPANS[2][0]), *SPANS[3:]], window, overlap)
    assert not none[2].any() and np.allclose(none[[0, 1, 3]], parts[[0, 1, 3]])


@pytest.mark.parametrize(
    ("n", "size", "overlap"), [(0, 5, 1), (5, 5, 1), (6, 5, 1), (100, 20, 5), (99, 16, 4), (9, 1, 0)]
)
def test_windows_count_every_token_once_where_it_is_farthest_from_the_ends(n: int, size: int, overlap: int) -> None:
    found = list(windows(n, size, overlap))
    assert [token for _, _, first, last in found for token in range(first, last)] == list(range(n))
    assert all(start <= first and last <= stop <= min(start + size, n) for start, stop, first, last in found)
    assert all(before[1] - after[0] == overlap for before, after in itertools.pairwise(found))
    for start, stop, first, last in found[:-1]:
        assert stop - last == overlap // 2 and (start == 0 or first - start == overlap - overlap // 2)


def test_another_pooling_is_refused(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer, models

    encoder = models.Transformer(str(folder))
    SentenceTransformer(modules=[encoder, models.Pooling(16, pooling_mode="cls")]).save(str(tmp_path / "cls"))
    with pytest.raises(UserError, match="does not pool a text by the mean"):
        Embedding(str(tmp_path / "cls")).within(TEXT, SPANS)
    parts = [encoder, models.Pooling(16, pooling_mode="mean"), models.Dense(16, 8), models.Normalize()]
    SentenceTransformer(modules=parts).save(str(tmp_path / "dense"))
    dense = Embedding(str(tmp_path / "dense"))
    assert dense.within(TEXT, SPANS).shape == (len(SPANS), 8) and dense(SENTENCES[:1]).shape == (1, 8)


def test_what_is_no_embedding_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded as an embedding model"):
        Embedding(str(tmp_path))
