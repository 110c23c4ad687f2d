"""Sentencepiece's tokenizers: the same tokens there and back; what llama.cpp cannot be told is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("gguf")

import gguf
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from ropewalk import UserError
from ropewalk.checkpoint.gguf.header import read_header
from ropewalk.checkpoint.gguf.tokenizer import tokenizer_of
from ropewalk.engines.gguf.to_gguf import write_gguf
from tests.engines.gguf.checkpoints import checkpoint
from tests.tokenizers import RUNS, sentencepiece

TEXTS = [
    "It is 1984 in Oslo;  and  naïve 日本\n\n",
    "",
    "a" + " " * 30 + "b\t\n \n",
    "🙂👍🏽 \u200b <0x0A> \ufffd\x07",
    "The grass is green. The sky is blue. Here we go. " * 3,
]
EDGES = [" x", "   x", "a<s>b</s> c", "<eos>a <bos>b"]  # spaces before a text, and special tokens in it


def changed(live, change, base=PreTrainedTokenizerFast):
    """A tokenizer with its tokenizer.json changed."""
    raw = json.loads(live.backend_tokenizer.to_str())
    change(raw)
    backend = Tokenizer.from_str(json.dumps(raw))
    return base(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def legacy(raw):
    """As the tokenizer.json of Llama 2, TinyLlama and Mistral says it."""
    raw["pre_tokenizer"] = None
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    raw["normalizer"] = {"type": "Sequence", "normalizers": steps}


def always(raw):
    raw["pre_tokenizer"]["prepend_scheme"] = "always"


def never(raw):
    raw["pre_tokenizer"]["prepend_scheme"] = "never"
    del raw["decoder"]["decoders"][-1]  # which takes the first space away


KINDS = {  # kind -> tokenizer, whether a space stands before a text, how many notes there are on texts read otherwise
    "gemma": (lambda: sentencepiece(GemmaTokenizer), False, 0),
    "llama": (lambda: sentencepiece(LlamaTokenizer), True, 2),
    "tokenizer.json of Llama 2": (lambda: changed(sentencepiece(), legacy), True, 0),
    "Metaspace, always": (lambda: changed(sentencepiece(), always), True, 1),
    "Metaspace, never": (lambda: changed(sentencepiece(), never), False, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind, tmp_path):
    make, prefixed, n_notes = KINDS[kind]
    folder = checkpoint(tmp_path, {"gemma": "gemma", "llama": "llama"}.get(kind, "phi3"), tokenizer=make())
    live = AutoTokenizer.from_pretrained(folder)
    steps = [json.loads(one.backend_tokenizer.to_str()) for one in (live, make())]
    assert all(steps[0][key] == steps[1][key] for key in ("normalizer", "pre_tokenizer"))  # no class puts its own there
    written = write_gguf(folder, tmp_path / "m.gguf")
    values = read_header(written.path).values
    assert (values["tokenizer.ggml.model"], values["tokenizer.ggml.add_space_prefix"]) == ("llama", prefixed)
    back = tokenizer_of(written.path)
    texts = TEXTS if n_notes else TEXTS + EDGES
    for text in texts:
        ids = live(text, add_special_tokens=False).input_ids
        assert back(text, add_special_tokens=False).input_ids == ids, text
        assert back.decode(ids) == live.decode(ids)
    assert len(written.notes) == n_notes
    for role in ("bos", "eos", "unk", "pad"):
        assert getattr(back, f"{role}_token_id") == getattr(live, f"{role}_token_id")


def file_of(path: Path, tokens: list[str], scores: list[float]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {"context_length": 64, "embedding_length": 64, "attention.head_count": 4, "block_count": 1}
    for key, value in sizes.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types([2, 3, 3] + [1] * (len(tokens) - 3))
    for side, identity in {"unk": 0, "bos": 1, "eos": 2}.items():
        getattr(writer, f"add_{side}_token_id")(identity)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_scores_say_what_is_joined_first(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "ab", "▁ab", "▁abc"]
    path = file_of(tmp_path / "m.gguf", tokens, [0.0] * 3 + [-9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -3.0])
    made = tokenizer_of(path)
    assert made("abc ab").input_ids == [1, 9, 8]
    assert made.decode([9, 8]).strip() == "abc ab"


def test_what_each_token_is(tmp_path):
    live = sentencepiece(LlamaTokenizer)
    live.add_tokens([AddedToken("<b>", normalized=False), AddedToken("▁▁", normalized=False)])
    folder = checkpoint(tmp_path, tokenizer=live)
    header = read_header(write_gguf(folder, tmp_path / "m.gguf").path)
    get = {key.removeprefix("tokenizer.ggml."): value for key, value in header.lists.items()}
    kinds = gguf.TokenType
    kind = dict(zip(get["tokens"], get["token_type"], strict=True))
    score = dict(zip(get["tokens"], get["scores"], strict=True))
    wanted = {"<unk>": kinds.UNKNOWN, "<s>": kinds.CONTROL, "<0x41>": kinds.BYTE, "<b>": kinds.USER_DEFINED,
              "▁▁": kinds.NORMAL, "▁the": kinds.NORMAL, get["tokens"][-1]: kinds.UNUSED}  # fmt: skip
    assert {text: kind[text] for text in wanted} == {text: int(one) for text, one in wanted.items()}
    assert [score[run] for run in RUNS] == [-float(i) for i in range(len(RUNS))]
    assert score["▁the"] < score[RUNS[-1]] and score["<0x41>"] < min(score[run] for run in RUNS)


def test_a_folder_made_of_the_file_has_the_same_tokenizer(tmp_path):
    from ropewalk import method
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.checkpoint.write import extend

    source = checkpoint(tmp_path, "gemma", tokenizer=sentencepiece(GemmaTokenizer))
    done = extend(write_gguf(source, tmp_path / "m.gguf").path, 256, method("yarn"), tmp_path / "out")
    again = write_gguf(done.folder, tmp_path / "again.gguf").path
    for text in TEXTS + EDGES:
        want = Checkpoint.open(source).tokenizer()(text).input_ids
        assert want == Checkpoint.open(done.folder).tokenizer()(text).input_ids == tokenizer_of(again)(text).input_ids


def unlisted(raw):
    """The merges of a trained BPE: one pair for every token."""
    kept = {}
    for one, other in raw["model"]["merges"]:
        kept.setdefault(one + other, [one, other])
    raw["model"]["merges"] = list(kept.values())


def mixed(raw):
    """Pairs of two tokens in turns."""
    merges = raw["model"]["merges"]
    twice = [[pair for pair in merges if "".join(pair) == text] for text in {a + b: 0 for a, b in merges}]
    first, second = [pairs for pairs in twice if len(pairs) > 1 and len(set("".join(pairs[0]))) > 1][:2]
    rest = [pair for pair in merges if pair not in first + second]
    raw["model"]["merges"] = [*rest, first[0], second[0], *first[1:], *second[1:]]


def without_a_byte(raw):
    raw["model"]["vocab"]["<0xZZ>"] = raw["model"]["vocab"].pop("<0x41>")


def lower(raw):
    raw["normalizer"] = {"type": "Lowercase"}


def split(raw):
    raw["pre_tokenizer"]["split"] = True


def whole_words(raw):
    raw["model"]["ignore_merges"] = True


def strips(raw):
    raw["added_tokens"][2]["rstrip"] = True


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (unlisted, "llama.cpp would join"),
        (mixed, "mixed in their order"),
        (without_a_byte, "<0x41>"),
        (lower, "Lowercase"),
        (split, "Metaspace"),
        (whole_words, "ignore_merges"),
        (strips, "strips its neighbours"),
    ],
)
def test_what_llama_cpp_would_read_otherwise_is_refused(change, named, tmp_path):
    folder = checkpoint(tmp_path, "phi3", tokenizer=changed(sentencepiece(), change))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=named):
        write_gguf(folder, tmp_path / "out" / "m.gguf")
    assert list((tmp_path / "out").iterdir()) == []
