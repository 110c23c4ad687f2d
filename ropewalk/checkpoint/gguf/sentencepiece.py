"""Sentencepiece's BPE in a GGUF file, both ways: tokens with a score each, as llama.cpp's tokenizer ``llama`` has them.

llama.cpp joins two neighbours wherever their text is a token, the highest score first, and of equal ones the leftmost;
transformers joins the pairs of a list, the first in the list first. They are the same where the list has every pair
whose text is a token, all pairs of one token together: what transformers makes of a ``tokenizer.model`` is so. In
front of every text, and after every special token, llama.cpp puts a space, or none anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.common.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODEL = "llama"  # llama.cpp's name for it
SPACE = "\u2581"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
NO_CUT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
MEND = "Convert with llama.cpp's convert_hf_to_gguf.py, and compare its tokens with those of transformers."


def made_of_pieces(raw: Mapping[str, Any]) -> bool:
    """Whether a tokenizer is a BPE over characters, which falls back to bytes."""
    model = raw.get("model") or {}
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def prefixed(raw: Mapping[str, Any], folder: Path) -> bool:
    """Whether a space is put in front of a text.

    Raises:
        UserError: if a text is changed or cut in a way that llama.cpp cannot be told.
    """
    normalizer, cut, model = raw.get("normalizer"), raw.get("pre_tokenizer"), raw["model"]
    odd = {key: model[key] for key in ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
           if model.get(key)}  # fmt: skip
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    if not odd and cut in (None, NO_CUT) and steps in ([SPACES], [PREPEND, SPACES]):
        return steps != [SPACES]
    metaspace = {"type": "Metaspace", "replacement": SPACE, "split": False}
    if not odd and not steps and cut and {key: cut.get(key) for key in metaspace} == metaspace:
        return bool(cut["prepend_scheme"] != "never")
    raise UserError(
        f"the tokenizer of {folder}: llama.cpp has no way to say normalizer {normalizer}, pre-tokenizer {cut}"
        + (f" and {odd}" if odd else ""),
        MEND,
    )


def types(raw: Mapping[str, Any], tokens: Sequence[str], given: Sequence[int], unknown: int | None) -> list[int]:
    """The types of the tokens where sentencepiece has more of them than byte-level BPE.

    Added tokens that hold its sign for a space become ordinary ones: they are found by merging, and shown as spaces.
    """
    kinds, found = gguf().TokenType, list(given)
    vocabulary = raw["model"]["vocab"]
    for text in BYTES:
        if text in vocabulary:
            found[vocabulary[text]] = int(kinds.BYTE)
    if unknown is not None:
        found[unknown] = int(kinds.UNKNOWN)
    for i, text in enumerate(tokens):
        if SPACE in text and found[i] == kinds.USER_DEFINED:
            found[i] = int(kinds.NORMAL)
    return found


def scores(raw: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int], folder: Path) -> list[float]:
    """One score per token, so that llama.cpp joins in the order of the merges.

    Raises:
        UserError: if no scores say that order, or bytes are missing.
    """
    vocabulary, model = raw["model"]["vocab"], f"the tokenizer of {folder}"
    lacking = [text for text in BYTES if text not in vocabulary]
    if lacking:
        raise UserError(f"{model} has no token {lacking[0]!r}, which llama.cpp falls back to", MEND)
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in raw["model"]["merges"]]
    ranges: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        ranges.setdefault("".join(pair), [i, i])[1] = i
    ranks: dict[str, int] = {}
    end = last = -1
    tied: list[str] = []
    for text, (first, final) in ranges.items():  # in the order of their first merge
        if first > end:
            last, tied = last + 1, []
        tied.append(text)
        if len(tied) > 1 and any(len(set(other)) > 1 for other in tied):  # runs of one character are joined alike
            raise UserError(f"{model}: the merges that make {tied[0]!r} and {text!r} are mixed in their order", MEND)
        ranks[text], end = last, max(end, final)
    _refuse_unlisted(set(pairs), ranks, tokens, kinds, model)
    return [-float(ranks.get(text, len(ranks))) for text in tokens]


def _refuse_unlisted(
    pairs: set[tuple[str, ...]], ranks: Mapping[str, int], tokens: Sequence[str], types: Sequence[int], model: str
) -> None:
    """Refuse a list of merges that lacks a pair which llama.cpp would join."""
    kinds = gguf().TokenType
    special = {int(kinds.CONTROL), int(kinds.USER_DEFINED), int(kinds.UNKNOWN)}  # found before anything is joined
    for text, kind in zip(tokens, types, strict=True):
        if kind in special:
            continue
        for i in range(1, len(text)):
            one, other = text[:i], text[i:]
            whole = (i == 1 or one in ranks) and (i == len(text) - 1 or other in ranks)
            if whole and (one, other) not in pairs:
                raise UserError(
                    f"{model}: llama.cpp would join {one!r} and {other!r} to {text!r}; transformers does not, as no "
                    "merge says so",
                    MEND,
                )


def backend(get: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a file's keys ``tokenizer.ggml.*`` describe, without its special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = get["tokens"]
    kinds, scored = gguf().TokenType, get.get("scores") or [0.0] * len(tokens)
    types = get.get("token_type") or [int(kinds.NORMAL)] * len(tokens)
    vocabulary = {text: i for i, text in enumerate(tokens)}
    merges = []
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (kinds.NORMAL, kinds.UNUSED):
            splits = ((text[:k], text[k:]) for k in range(len(text) - 1, 0, -1))
            merges += [(scored[i], i, *pair) for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
    merges.sort(key=lambda merge: (-merge[0], merge[1]))
    unknown = get.get("unknown_token_id", 0)
    made = Tokenizer(
        models.BPE(
            vocabulary,
            [(one, other) for _, _, one, other in merges],
            unk_token=tokens[unknown] if unknown < len(tokens) else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if get.get("add_space_prefix", True):
        made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        made.normalizer = spaces
    made.decoder = decoders.Sequence(steps)
    return made
