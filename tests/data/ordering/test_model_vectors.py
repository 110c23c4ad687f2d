import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.ordering.kept_vectors import kept_vectors
from ropewalk.data.ordering.model_vectors import ModelVectors
from tests.data.ordering.test_token_vectors import corpus_of

TEXTS = ("a rope of hemp", "the lane is long, and the rope is longer", "tar")


@pytest.fixture(scope="module")
def tokenizer():
    return ropewalk.load("demo")[1]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tokenizer):
    """A random BERT with a tokenizer of its own kind."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_plain_encoder_is_read_as_the_mean_over_its_tokens(encoder, tokenizer, tmp_path) -> None:
    corpus = corpus_of(tmp_path, [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS])
    found = ModelVectors(str(encoder), tokenizer).over(corpus)(list(corpus))
    model, own = BertModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            wanted = model(**own(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-5)


def test_it_may_be_sent_to_another_machine(encoder, tokenizer, tmp_path) -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")  # what ray sends a task by
    corpus = corpus_of(tmp_path, [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS])
    here = ModelVectors(str(encoder), tokenizer).over(corpus)
    there = cloudpickle.loads(cloudpickle.dumps(here))
    np.testing.assert_array_equal(there(list(corpus)), here(list(corpus)))


def test_other_weights_are_another_model(encoder, tokenizer, tmp_path) -> None:
    before = ModelVectors(str(encoder), tokenizer).digest
    assert ModelVectors(str(encoder), tokenizer).digest == before
    model = BertModel.from_pretrained(encoder)
    model.embeddings.LayerNorm.bias.data[3] += 1e-3
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    assert ModelVectors(str(tmp_path / "other"), tokenizer).digest != before


def test_what_is_no_embedding_model_is_refused(encoder, tokenizer, tmp_path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "writer")
    tokenizer.save_pretrained(tmp_path / "writer")
    with pytest.raises(UserError, match="is a LlamaForCausalLM, and no embedding model"):
        _ = ModelVectors(str(tmp_path / "writer"), tokenizer).digest
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded as an embedding model"):
        _ = ModelVectors(str(tmp_path / "empty"), tokenizer).digest


def test_pickled_weights_are_not_loaded(encoder, tokenizer, tmp_path) -> None:
    for file in encoder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(BertModel.from_pretrained(encoder).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded as an embedding model"):
        _ = ModelVectors(str(tmp_path), tokenizer).digest


def test_weights_that_are_not_finite_are_seen(encoder, tokenizer, tmp_path) -> None:
    model = BertModel.from_pretrained(encoder)
    model.embeddings.LayerNorm.bias.data[3] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    (tmp_path / "corpus").mkdir()
    corpus = corpus_of(tmp_path / "corpus", [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS])
    with pytest.raises(UserError, match="gives text 0 a vector that is not finite"):
        kept_vectors(corpus, ModelVectors(str(tmp_path / "broken"), tokenizer), tmp_path)


def test_texts_are_ordered_by_it(encoder, tmp_path) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(12):
        (tmp_path / "texts" / f"{i:02}.txt").write_text(f"{TEXTS[i % 3]}, said {'he she they we'.split()[i // 3]} {i}")
    asked = {"length": 64, "tokenizer": "demo", "keep_duplicates": True, "embed": encoder}
    made = ropewalk.order_data("icp", tmp_path / "texts", out=tmp_path / "a", **asked)
    assert made.about.options["vectors"] == str(encoder) and made.about.told["without a vector"] == 0
    assert made.about.told["similarity"] > made.about.told["similarity before"]
    ropewalk.pack_data(tmp_path / "texts", out=tmp_path / "rows", length=64, tokenizer="demo")
    ropewalk.order_data("icp", tmp_path / "rows", out=tmp_path / "b", **asked)
    assert (tmp_path / "a" / "pieces.npy").read_bytes() == (tmp_path / "b" / "pieces.npy").read_bytes()
