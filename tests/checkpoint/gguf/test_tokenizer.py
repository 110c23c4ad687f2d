"""The tokenizer's metadata: same tokens, same merges, the right name for the cut; everything else refused."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("gguf")

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ropewalk import UserError
from ropewalk.checkpoint.gguf.tokenizer import LLAMA3, QWEN2, TEKKEN, tokenizer_of
from ropewalk.engines.gguf.to_gguf import write_gguf
from tests.engines.gguf.checkpoints import ROWS, checkpoint
from tests.tokenizers import VOCABULARY, byte_level, metaspace


def written(folder, tmp_path):
    fields = gguf.GGUFReader(write_gguf(folder, tmp_path / "m.gguf").path).fields
    return {key.removeprefix("tokenizer."): f.contents() for key, f in fields.items() if key.startswith("tokenizer.")}


def with_tokenizer(tmp_path, change):
    """A checkpoint whose tokenizer is one token per byte, cut as ``change`` says."""
    folder = checkpoint(tmp_path)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    change(tokenizer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def cut_by(*patterns):
    def change(tokenizer):
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, last])

    return change


def set_model(folder, **keys):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] |= keys
    file.write_text(json.dumps(content))
    return folder


def test_tokens_merges_and_special_ids_are_those_of_the_checkpoint(tmp_path):
    keys = written(checkpoint(tmp_path), tmp_path)
    live = byte_level()
    raw = json.loads(live.backend_tokenizer.to_str())
    assert {text: i for i, text in enumerate(keys["ggml.tokens"][:VOCABULARY])} == live.get_vocab()
    assert keys["ggml.merges"] == [" ".join(pair) for pair in raw["model"]["merges"]]
    assert (keys["ggml.model"], keys["ggml.pre"]) == ("gpt2", "smollm")
    assert (keys["ggml.bos_token_id"], keys["ggml.eos_token_id"]) == (live.bos_token_id, live.eos_token_id)
    assert (keys["ggml.add_bos_token"], keys["ggml.add_eos_token"]) == (True, False)
    assert [keys["ggml.token_type"][i] for i in (0, 1, 2, 3)] == [3, 3, 3, 1]


def test_rows_without_a_token_are_filled_up(tmp_path):
    keys = written(with_tokenizer(tmp_path, lambda tokenizer: None), tmp_path)
    assert len(keys["ggml.tokens"]) == len(keys["ggml.token_type"]) == ROWS
    assert keys["ggml.tokens"][-1] == f"[PAD{ROWS - 1}]" and keys["ggml.token_type"][-1] == 5


@pytest.mark.parametrize(
    ("patterns", "name", "whole_words"),
    [((LLAMA3,), "llama-bpe", True), ((QWEN2,), "qwen2", False), ((TEKKEN,), "tekken", True)],
)
def test_published_cuts_have_their_names(patterns, name, whole_words, tmp_path):
    folder = set_model(with_tokenizer(tmp_path, cut_by(*patterns)), ignore_merges=whole_words)
    assert written(folder, tmp_path)["ggml.pre"] == name


def test_begin_and_end_tokens_are_told(tmp_path):
    def around(tokenizer):
        ids = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ids)

    keys = written(with_tokenizer(tmp_path, around), tmp_path)
    assert (keys["ggml.add_bos_token"], keys["ggml.add_eos_token"]) == (True, True)


def test_the_chat_template_is_carried_over(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert written(folder, tmp_path)["chat_template"] == "{{ messages[0].content }}"


def twice(tokenizer):
    ids = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing("<s> <s> $A", special_tokens=ids)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (cut_by(r"\w+"), "no name for the pre-tokenizer"),
        (cut_by(LLAMA3), "ignore_merges"),
        (lambda t: setattr(t, "normalizer", normalizers.Lowercase()), "Lowercase"),
        (twice, "one begin and one end"),
    ],
)
def test_what_llama_cpp_cannot_be_told_is_refused(change, named, tmp_path):
    with pytest.raises(UserError, match=named):
        written(with_tokenizer(tmp_path, change), tmp_path)


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    folder = checkpoint(tmp_path)
    metaspace().save_pretrained(folder)
    with pytest.raises(UserError, match="Metaspace") as refused:
        written(folder, tmp_path)
    assert "convert_hf_to_gguf.py" in refused.value.mend


def test_a_cut_that_is_not_known_is_refused(tmp_path):
    path = write_gguf(checkpoint(tmp_path), tmp_path / "m.gguf").path
    data = path.read_bytes()
    assert data.count(b"smollm") == 1
    path.write_bytes(data.replace(b"smollm", b"gpt-9z"))
    with pytest.raises(UserError, match=r"'tokenizer.ggml.pre' is 'gpt-9z': how this tokenizer cuts"):
        tokenizer_of(path)


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    path = write_gguf(checkpoint(tmp_path), tmp_path / "m.gguf").path
    data = path.read_bytes()
    path.write_bytes(data.replace(b"gpt2", b"bert", 1))
    with pytest.raises(UserError, match=r"'tokenizer.ggml.model' is 'bert'.*gpt2 and llama"):
        tokenizer_of(path)


def test_a_token_without_a_row_is_left_out(tmp_path):
    """Gemma 3's smallest models come with a token for images, one past the end of the embedding."""
    folder = checkpoint(tmp_path, vocab_size=VOCABULARY)
    live = byte_level()
    live.add_tokens([AddedToken("<image>", special=True)])
    live.save_pretrained(folder)
    assert "<image>" not in written(folder, tmp_path)["ggml.tokens"]
    (tmp_path / "m.gguf").unlink()
    live.add_tokens(["<words>"])
    live.save_pretrained(folder)
    with pytest.raises(UserError, match="does not fit the model"):
        written(folder, tmp_path)
