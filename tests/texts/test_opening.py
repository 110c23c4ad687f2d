from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.texts.documents import tokenise
from ropewalk.texts.opening import force_bos, opening
from ropewalk.texts.pieces import TokenUnits


def made(template: str | None, **special: str) -> PreTrainedTokenizerFast:
    vocabulary = {"<s>": 0, "</s>": 1, "a": 2, "b": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="b"))
    if template:
        tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


BOTH = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [(None, [], []), ("<s> $A", [0], []), ("$A </s>", [], [1]), ("<s> $A </s>", [0], [1]), ("<s> <s> $A", [0, 0], [])],
)
def test_texts_begin_as_the_tokenizer_says(template: str | None, before: list[int], after: list[int]) -> None:
    tokenizer = made(template, **BOTH)
    assert opening(tokenizer) == before and tokenizer("a").input_ids == [*before, 2, *after]
    assert TokenUnits(tokenizer).bos == before
    assert tokenise({"x": "a"}, tokenizer, 1)["x"] == [*before, 2], "what follows a text is no part of it"


@pytest.mark.parametrize("template", [None, "<s> $A", "$A </s>"])
def test_bos_can_be_forced(template: str | None) -> None:
    tokenizer = made(template, **BOTH)
    for _ in range(2):
        force_bos(tokenizer)
        assert opening(tokenizer) == [0] and tokenizer("a").input_ids[:2] == [0, 2]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="no BOS token"):
        force_bos(made(None, eos_token="</s>"))

    def changing(text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[7] if add_special_tokens else [2])

    with pytest.raises(UserError, match="do not contain it"):
        opening(changing)  # type: ignore[arg-type]
