"""Chunks are the text, none is too long, and sentences stay whole where that may be."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.workflows.chunks import chunks, sentence_chunks, sentences
from tests.tokenizers import byte_level
from tests.workflows.readers import metered

SPANS = metered().spans
TEXTS = st.text(st.sampled_from('ab .!?\n"é猫🙂。'), max_size=120)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 30))
def test_joined_they_are_the_text_and_none_is_too_long(text: str, size: int) -> None:
    spans = SPANS(text)
    found = chunks(text, spans, size)
    begins = [start for start, _ in spans]
    assert "".join(one.text for one in found) == text
    assert all(one.text == text[one.start : one.stop] for one in found)
    for one in found:  # counted anew; a character of several tokens is never cut
        tokens = bisect_left(begins, one.stop) - bisect_left(begins, one.start)
        assert one.tokens == tokens and (tokens <= size or len(one.text) == 1)
    assert "".join(sentences(text)) == text


@pytest.mark.parametrize("size", [12, 20, 40])
def test_sentences_stay_whole(size: int) -> None:
    text = "One two three. " * 9
    tokenizer = byte_level()
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    least = len(tokenizer("One two three. ", add_special_tokens=False).input_ids)
    found = chunks(text, spans, max(size, least))
    assert all(one.text.endswith(". ") for one in found)


def test_what_has_no_end_is_cut_all_the_same() -> None:
    text = "x" * 500
    found = chunks(text, [(i, i + 1) for i in range(500)], 64)
    assert [one.tokens for one in found] == [64] * 7 + [52]


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 30))
def test_sentences_joined_are_the_text_and_none_is_too_long(text: str, size: int) -> None:
    spans = SPANS(text)
    found = sentence_chunks(text, spans, size)
    begins = [start for start, _ in spans]
    assert "".join(one.text for one in found) == text
    for one in found:
        tokens = bisect_left(begins, one.stop) - bisect_left(begins, one.start)
        assert one.text == text[one.start : one.stop] and one.tokens == tokens
        assert tokens <= size or len(one.text) == 1
    ends = [one.stop for one in found]
    stop = 0
    for sentence in sentences(text):
        stop += len(sentence)
        assert stop in ends


def test_what_has_no_sentences_is_cut_between_words() -> None:
    text = "at ten the code 48301086 went out to all " * 40
    found = chunks(text, metered().spans(text), 37)
    assert len(found) > 5 and all(one.text[-1].isspace() for one in found[:-1])
