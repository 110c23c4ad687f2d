"""Text while it is made: nothing is lost, doubled or broken, and nothing of a stop string gets out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.checkpoint.checkpoint import BUNDLED
from ropewalk.serving.stream import TextStream
from tests.cli.test_main import byte_tokenizer


@pytest.fixture(scope="module", params=["bytes", "demo"])
def tokenizer(request):
    if request.param == "bytes":
        return byte_tokenizer()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BUNDLED)


@given(prompt=st.text(max_size=10), text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_pieces_are_the_text(tokenizer, prompt, text):
    start, ids = tokenizer.encode(prompt), tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tokenizer.decode, start)
    pieces = [stream.add(token) for token in ids] + [stream.end()]
    assert "".join(pieces) == tokenizer.decode(start + ids)[len(tokenizer.decode(start)) :]


def test_a_character_of_several_tokens_comes_out_once_and_whole():
    tokenizer = byte_tokenizer()
    stream = TextStream(tokenizer.decode, [])
    pieces = [stream.add(token) for token in tokenizer.encode("a€b")]
    assert pieces == ["a", "", "", "€", "b"]


def test_half_a_character_at_the_end_is_shown_as_such():
    tokenizer = byte_tokenizer()
    stream = TextStream(tokenizer.decode, [])
    assert [stream.add(token) for token in tokenizer.encode("€")[:2]] == ["", ""]
    assert stream.end() == "\ufffd"


@given(text=st.text("abc", max_size=30), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_stop_string_that_is_complete_first(text, stops):
    stream = TextStream("".join, "", stops)
    given_out = ""
    for character in text:
        given_out += stream.add(character)
        if stream.stopped:
            break
    else:
        given_out += stream.end()
    complete = [n for n in range(len(text) + 1) if any(stop in text[:n] for stop in stops)]
    expected = min(text.index(s) for s in stops if s in text[: complete[0]]) if complete else len(text)
    assert given_out == text[:expected]
    assert stream.stopped == bool(complete)


def test_text_is_held_back_only_while_it_may_be_a_stop_string():
    stream = TextStream("".join, "", ["END"])
    assert [stream.add(character) for character in "xENxEND"] == ["x", "", "", "ENx", "", "", ""]
    assert stream.stopped
