"""Tokenizers as GGUF metadata, both ways: byte-level BPE, and sentencepiece's with the help of its own file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.gguf import sentencepiece
from ropewalk.checkpoint.gguf.header import read_header
from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.common.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

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
STOCK = "Convert it with llama.cpp's convert_hf_to_gguf.py, then write its rope: ropewalk inspect --against."
CUTS = {(GPT2,): "gpt-2", (DIGITS, GPT2): "smollm", (LLAMA3,): "llama-bpe", (QWEN2,): "qwen2", (TEKKEN,): "tekken"}
SAME_CUT = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}  # other names, when read
PROBES = (
    "It is 1984 in Oslo;  and   a\tnaïve 日本語 Ελληνικά",
    "def f(x):\n    return [x ** 2]  # ½\n\n\n        y\n",
    "Hello 🙂👍🏽\u200bworld! 'tis \"it\", isn't it? https://example.org/a-b_c?d=10%",
    "\n",
    "a" * 40 + " " * 20 + "b",
)  # ordinary texts, to compare tokenizers by
WHOLE_WORDS_FIRST = frozenset({"llama-bpe", "tekken"})  # llama.cpp looks a whole piece up before merging


def add_tokenizer(writer: GGUFWriter, live: PreTrainedTokenizerBase, folder: Path, config: PreTrainedConfig) -> None:
    """Write the tokenizer of a checkpoint folder; the vocabulary is padded to the rows of the embedding.

    Raises:
        UserError: if it is neither byte-level BPE nor sentencepiece's, or does something that llama.cpp cannot be told.
    """
    backend = getattr(live, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"the tokenizer of {folder} is no BPE of the tokenizers library", STOCK)
    raw = json.loads(backend.to_str())  # not the file: some classes of transformers cut otherwise than it says
    pieces = sentencepiece.made_of_pieces(raw)
    cut = "default" if pieces else _cut(raw, folder)
    tokens, types = _tokens(raw, folder, int(config.vocab_size))
    begin, end = _added_around(live, folder)
    writer.add_tokenizer_model(sentencepiece.MODEL if pieces else "gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    if pieces:
        types = sentencepiece.types(raw, tokens, types, live.unk_token_id)
        writer.add_add_space_prefix(sentencepiece.prefixed(raw, folder))
        writer.add_token_scores(sentencepiece.scores(raw, tokens, types, folder))
    else:
        merges = raw["model"].get("merges") or []
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_token_types(types)
    identities = {
        "bos": live.bos_token_id if live.bos_token_id is not None else config.bos_token_id,
        "eos": live.eos_token_id,
        "pad": live.pad_token_id,
        "unk": live.unk_token_id,
    }
    for name, identity in identities.items():
        if identity is not None and identity < len(tokens):  # classes add some that the model has no row for
            getattr(writer, f"add_{name}_token_id")(int(identity))
    writer.add_add_bos_token(begin)
    writer.add_add_eos_token(end)
    if isinstance(live.chat_template, str):
        writer.add_chat_template(live.chat_template)


def differences(path: Path, live: PreTrainedTokenizerBase) -> list[str]:
    """Read the tokenizer of a file that was just written, and compare it with the one that it was made of.

    Returns:
        A sentence on every kind of text that llama.cpp reads otherwise, because nothing in a file could tell it.

    Raises:
        UserError: if ordinary texts become other tokens.
    """
    made = tokenizer_of(path)

    def differs(text: str) -> bool:
        return made.encode(text, add_special_tokens=False) != live.encode(text, add_special_tokens=False)

    for text in PROBES:
        if differs(text):
            raise UserError(f"llama.cpp would make other tokens of {text!r} than transformers", STOCK)
    special = live.eos_token or live.bos_token or ""
    cases = {"that begins with spaces": "  a", f"after a special token, as in 'a{special}b',": f"a{special}b"}
    return [
        f"a text {what} becomes other tokens in llama.cpp than in transformers: there, a space stands before each"
        for what, text in cases.items()
        if differs(text)
    ]


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
        if token["id"] >= rows and token["special"]:  # for other models of the family, like Gemma's image token
            continue
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


def tokenizer_of(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, with its chat template.

    Raises:
        UserError: if there is none, it is of another kind, or its text is cut in a way that is not known here.
    """
    from transformers import PreTrainedTokenizerFast

    header = read_header(path)
    values = {**header.values, **header.lists}
    get = {key.removeprefix("tokenizer.ggml."): value for key, value in values.items()}
    if not get.get("tokens"):
        raise UserError(f"{path}: key 'tokenizer.ggml.tokens' is missing", "Convert the checkpoint again.")
    if get.get("model") not in ("gpt2", sentencepiece.MODEL):
        raise UserError(
            f"{path}: key 'tokenizer.ggml.model' is {get.get('model')!r}; tokenizers are read of the models gpt2 and "
            f"{sentencepiece.MODEL}",
            "Use the checkpoint that the file was made from.",
        )
    begins = get["model"] == sentencepiece.MODEL  # llama.cpp's own word where no key says it
    if begins:
        backend = sentencepiece.backend(get)
    else:
        backend, begins = _byte_level(path, get)
    _add_special(backend, get)
    _put_around(backend, get, begins)
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    named = {ours: get[f"{name}_token_id"] for ours, name in names.items() if f"{name}_token_id" in get}
    for ours, identity in named.items():
        if not 0 <= identity < len(get["tokens"]):
            raise UserError(
                f"{path}: the {ours} token is {identity}, expected one of the {len(get['tokens']):,} tokens",
                "Use the checkpoint that the file was made from.",
            )
    roles = {f"{ours}_token": get["tokens"][identity] for ours, identity in named.items()}
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles
    )
    made.chat_template = values.get("tokenizer.chat_template")
    return made


def _byte_level(path: Path, get: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether llama.cpp begins its texts where no key says it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    given = str(get.get("pre", "default"))
    name = SAME_CUT.get(given, given)
    cuts = next((cuts for cuts, known in CUTS.items() if known == name), None)
    if cuts is None:
        raise UserError(
            f"{path}: key 'tokenizer.ggml.pre' is {given!r}: how this tokenizer cuts a text is not known here; known: "
            f"{', '.join([*CUTS.values(), *SAME_CUT])}",
            "Use the checkpoint that the file was made from.",
        )
    tokens, merges = get["tokens"], [tuple(merge.split(" ")) for merge in get.get("merges", [])]
    vocabulary = {text: i for i, text in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in WHOLE_WORDS_FIRST))
    steps: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True) if cut == DIGITS else pre_tokenizers.Split(Regex(cut), "isolated")
        for cut in cuts
        if cut != GPT2
    ]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=GPT2 in cuts))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    backend.decoder = decoders.ByteLevel()
    return backend, name in WHOLE_WORDS_FIRST


def _add_special(backend: Tokenizer, get: Mapping[str, Any]) -> None:
    """The tokens that are found in a text before anything else is."""
    from tokenizers import AddedToken

    kinds, tokens = gguf().TokenType, get["tokens"]
    types = get.get("token_type") or [int(kinds.NORMAL)] * len(tokens)
    special = {int(kinds.UNKNOWN): True, int(kinds.CONTROL): True, int(kinds.USER_DEFINED): False}
    for kind, is_special in special.items():
        texts = [text for text, this in zip(tokens, types, strict=True) if this == kind]
        added = [AddedToken(text, normalized=False, special=is_special) for text in texts]
        (backend.add_special_tokens if is_special else backend.add_tokens)(added)


def _put_around(backend: Any, get: Mapping[str, Any], begins: bool) -> None:
    """Put the begin and end tokens around a text as the file says, or (``begins``) as llama.cpp does without a key."""
    from tokenizers import processors

    flags = {"bos": get.get("add_bos_token", begins), "eos": get.get("add_eos_token", False)}
    ids = {side: get[f"{side}_token_id"] for side in flags if flags[side] and f"{side}_token_id" in get}
    text = {side: get["tokens"][identity] for side, identity in ids.items()}
    single = [*([text["bos"]] if "bos" in text else []), "$A", *([text["eos"]] if "eos" in text else [])]
    pairs = [(text[side], ids[side]) for side in ids]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=pairs)
