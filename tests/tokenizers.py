"""Small tokenizers of both common kinds, trained in a moment."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from ropewalk.tasks.niah import CITIES, needle, stem
from ropewalk.tasks.passkey import FILLER, INTRODUCTION, STEM
from ropewalk.texts.opening import force_bos

VOCABULARY = 600
TEXTS = [*FILLER * 5, INTRODUCTION, STEM, *(needle(city, "") + stem(city) for city in CITIES)]
SPECIAL = ["<s>", "</s>", "<pad>"]


def _train(tokenizer: Tokenizer, alphabet: list[str], extra: list[str]) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS + extra, trainer)
    live = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    force_bos(live)
    return live


def byte_level() -> PreTrainedTokenizerFast:
    """One token per digit, as the bundled model has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, pre_tokenizers.ByteLevel.alphabet(), [])


def metaspace() -> PreTrainedTokenizerFast:
    """SentencePiece's manner: a space before every text; digits merge, so that keys differ in their token count."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    printable = [chr(code) for code in range(33, 127)]
    return _train(tokenizer, printable, [f" {code}" for code in range(10000, 99999, 700)])


RUNS = ["\u2581" * n for n in range(2, 9)]


def sentencepiece(kind: type = LlamaTokenizer, **more: Any) -> LlamaTokenizer | GemmaTokenizer:
    """Sentencepiece's BPE as transformers makes it of a ``tokenizer.model``: bytes, and every split of a token a merge.

    Args:
        kind: LlamaTokenizer (a space before a text) or GemmaTokenizer (none).
        more: of its constructor.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=320, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    joined = ["".join(pair) for pair in learnt["merges"]]
    first = ["<pad>", "<eos>", "<bos>", "<unk>"] if kind is GemmaTokenizer else ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    order = dict.fromkeys([*first, *bytes_, *RUNS, *joined, *sorted(learnt["vocab"])])
    vocabulary = {text: i for i, text in enumerate(order)}
    merges = [
        (text[:i], text[i:])
        for text in dict.fromkeys([*RUNS, *joined])
        for i in range(len(text) - 1, 0, -1)
        if text[:i] in vocabulary and text[i:] in vocabulary
    ]
    return kind(vocab=vocabulary, merges=merges, **more)
