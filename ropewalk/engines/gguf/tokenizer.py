"""A byte-level BPE tokenizer as GGUF metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.errors import UserError
from ropewalk.engines.gguf.library import gguf
from ropewalk.rope.config import text_config

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

# How text is cut before merging -> llama.cpp's name for it. Byte-level's own cut is GPT-2's pattern; the patterns are
# those of the published tokenizers.
GPT2 = "byte-level"
DIGITS = "digits"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
STOCK = "Convert with llama.cpp's convert_hf_to_gguf.py, then: ropewalk inspect IN.gguf --against DIR --patch OUT.gguf"
CUTS = {(GPT2,): "gpt-2", (DIGITS, GPT2): "smollm", (LLAMA3,): "llama-bpe", (QWEN2,): "qwen2", (TEKKEN,): "tekken"}
WHOLE_WORDS_FIRST = frozenset({"llama-bpe", "tekken"})  # llama.cpp looks a whole piece up before merging


def add_tokenizer(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    """Write the tokenizer of a checkpoint; the vocabulary is padded to the rows of the embedding.

    Raises:
        UserError: if it is no byte-level BPE, or does something that llama.cpp cannot be told.
    """
    live, folder, config = checkpoint.tokenizer(), checkpoint.folder, text_config(checkpoint.config)
    backend = getattr(live, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"the tokenizer of {folder} is no byte-level BPE of the tokenizers library", STOCK)
    raw = json.loads(backend.to_str())  # not the file: some classes of transformers cut otherwise than it says
    cut = _cut(raw, folder)
    tokens, types = _tokens(raw, folder, int(config.vocab_size))
    begin, end = _added_around(live, folder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = raw["model"].get("merges") or []
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    identities = {
        "bos": live.bos_token_id if live.bos_token_id is not None else config.bos_token_id,
        "eos": live.eos_token_id,
        "pad": live.pad_token_id,
        "unk": live.unk_token_id,
    }
    for name, identity in identities.items():
        if identity is not None:
            getattr(writer, f"add_{name}_token_id")(int(identity))
    writer.add_add_bos_token(begin)
    writer.add_add_eos_token(end)
    if isinstance(live.chat_template, str):
        writer.add_chat_template(live.chat_template)


def _cut(raw: Mapping[str, Any], folder: Path) -> str:
    """llama.cpp's name for the pre-tokenizer."""
    model = raw.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = model.get("type") if isinstance(model, dict) else None
        raise UserError(
            f"the tokenizer of {folder}: model.type is {kind!r}, expected a byte-level 'BPE' (without byte_fallback)",
            STOCK,
        )
    before = raw.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    cuts = tuple(cut for cut in map(_pattern, steps) if cut)
    name = CUTS.get(cuts)
    if name is None or (raw.get("normalizer") or {"type": "NFC"}).get("type") != "NFC":
        raise UserError(
            f"the tokenizer of {folder}: llama.cpp has no name for the pre-tokenizer {cuts} with normalizer "
            f"{raw.get('normalizer')}; known here: {', '.join(CUTS.values())}",
            STOCK,
        )
    if bool(model.get("ignore_merges")) != (name in WHOLE_WORDS_FIRST):
        raise UserError(
            f"the tokenizer of {folder}: model.ignore_merges is {model.get('ignore_merges')!r}, llama.cpp assumes "
            f"{name in WHOLE_WORDS_FIRST} for {name}"
        )
    return name


def _pattern(step: Mapping[str, Any]) -> str:
    """One step's cut; empty for the byte alphabet alone, and the step itself where it is not understood."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return GPT2 if step.get("use_regex", True) else ""
    if kind == "Digits" and step.get("individual_digits"):
        return DIGITS
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return str((step.get("pattern") or {}).get("Regex"))
    return str(dict(step))


def _tokens(raw: Mapping[str, Any], folder: Path, rows: int) -> tuple[list[str], list[int]]:
    """Text and type of each token, one per row of the embedding."""
    kinds = gguf().TokenType
    tokens: list[str | None] = [None] * rows
    types = [int(kinds.UNUSED)] * rows
    entries = [(text, identity, kinds.NORMAL) for text, identity in raw["model"]["vocab"].items()]
    for token in raw.get("added_tokens") or []:
        if token.get("lstrip") or token.get("rstrip"):
            raise UserError(
                f"the tokenizer of {folder}: token {token['content']!r} strips its neighbours; llama.cpp's does not"
            )
        entries.append((token["content"], token["id"], kinds.CONTROL if token["special"] else kinds.USER_DEFINED))
    for text, identity, kind in entries:
        tokens[identity], types[identity] = text, int(kind)
    padded = [f"[PAD{i}]" if text is None else text for i, text in enumerate(tokens)]
    if len(set(padded)) < rows:
        raise UserError(
            f"the tokenizer of {folder}: two tokens share one text", "Use the tokenizer that came with the checkpoint."
        )
    return padded, types


def _added_around(live: PreTrainedTokenizerBase, folder: Path) -> tuple[bool, bool]:
    """Whether the begin and end tokens are put around a text."""
    bare: list[int] = live.encode("a", add_special_tokens=False)
    full: list[int] = live.encode("a")
    for begin in (False, True):
        for end in (False, True):
            if full == [live.bos_token_id] * begin + bare + [live.eos_token_id] * end:
                return begin, end
    raise UserError(
        f"the tokenizer of {folder}: 'a' becomes {full}; llama.cpp can add one begin and one end token, nothing else"
    )
