"""What a text begins with: the tokenizer says so, as it does to every other tool, unless a user forces BOS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTER = "a"  # any text will do


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that the tokenizer puts before a text: BOS, or nothing, whether or not it has a BOS token.

    Raises:
        UserError: if special tokens change the text itself.
    """
    return surroundings(tokenizer)[0]


def surroundings(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before a text, and behind it.

    Raises:
        UserError: if special tokens change the text itself.
    """
    bare = list(tokenizer(LETTER, add_special_tokens=False).input_ids)
    whole = list(tokenizer(LETTER).input_ids)
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise UserError(
        f"the tokenizer reads {LETTER!r} as {bare}, and with special tokens as {whole}, which do not contain it"
    )


def force_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer put BOS before every text from now on.

    Raises:
        UserError: if it has no BOS token, or is no fast one.
    """
    if tokenizer.bos_token_id is None:
        raise UserError("the tokenizer has no BOS token to begin texts with", "Leave --bos out.")
    if opening(tokenizer)[:1] == [tokenizer.bos_token_id]:
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("this tokenizer cannot be made to put BOS before texts", "Use a fast one (tokenizer.json).")
    from tokenizers.processors import Sequence, TemplateProcessing

    bos = str(tokenizer.bos_token)
    begins = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    backend.post_processor = begins if backend.post_processor is None else Sequence([backend.post_processor, begins])
