"""Outputs that grow round by round, of the length that was asked for, and not by saying things again."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.synthesis.lengthened_outputs import first_half, two_thirds
from ropewalk.tasks.output_length import about, distinct, length_score
from tests.data.synthesis.written import talker, text_of, write

LENGTH, ROWS, WORDS = 4096, 4, 240
VOCABULARY = "a rope lane hemp tar walks holds long the and of in strand yarn top harbour wind rain".split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for i in range(4):
        (folder / f"{i}.txt").write_text(" ".join(f"m{i}{k:03}" for k in range(400)))
    return folder


def say(prompt: str, again: int) -> str:
    """Lines of eight words in an order that nobody has said: ten at first, one and a half times the outline's later."""
    if prompt.startswith("Text:"):
        return f"Write an essay about {prompt.split()[2]}."
    outline = re.search(r"Draft:\n(.*?)\n\n", prompt, re.DOTALL)
    lines = len(outline[1].splitlines()) if outline else 0
    begun = re.search(r"Beginning:\n(.*?)\n\n", prompt, re.DOTALL)
    count = int(1.5 * lines) + 1 - (len(begun[1].splitlines()) if begun else 0) if lines else 10
    chance = random.Random(prompt)
    return "\n".join(" ".join(chance.choices(VOCABULARY, k=8)) for _ in range(count))


def rows(texts: Path, out: Path, asked=say, **more):
    return write(
        "self-lengthen", texts, out, talker(asked), LENGTH, **{"rows": ROWS, "words": WORDS, "draws": 40} | more
    )


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    return rows(texts, tmp_path_factory.mktemp("lengthen") / "rows")


def test_outputs_are_as_long_as_their_instruction_says(made) -> None:
    _, arranged, _ = made
    assert len(arranged) == ROWS
    for row in range(ROWS):
        output, asked = text_of(arranged, row, True), text_of(arranged, row, False)
        words = int(re.search(r"Write about ([\d,]+) words", asked)[1].replace(",", ""))
        assert WORDS / 4 <= words <= WORDS
        assert length_score(len(output.split()), *about(words)) == 1 and distinct(output, 4) >= 0.75
        assert arranged.provenance[row].evidence == [] and f"{words:,} words" in arranged.provenance[row].kind
        assert not any(i < arranged.about.documents for i in
                       arranged.arrangement.document[list(arranged.pieces(row))])  # fmt: skip


def test_calls_are_two_and_two_for_every_round(made) -> None:
    _, arranged, engine = made
    asked = [prompt.split()[0] + (" on" if "\n\nBeginning:\n" in prompt else "") for prompt in engine.chat.prompts]
    told = arranged.about.told
    rounds = asked.count("Task:")
    assert asked.count("Text:") == told["draws"] and rounds == asked.count("Task: on") > 0
    assert told["calls"] == len(asked) == 2 * told["draws"] + 2 * rounds == told["answered"]


def test_a_round_keeps_two_thirds_of_the_lengthened_half() -> None:
    lines = [f"line {i}" for i in range(9)]
    assert first_half("\n\n".join(lines)) == "\n".join(lines[:5]) and two_thirds("\n".join(lines)) == "\n".join(
        lines[:6]
    )
    assert first_half("one") == two_thirds("one") == "one" and two_thirds("a\nb") == "a"


@pytest.mark.parametrize(("start", "reply", "why"), [
    ("Text:", "Hm.", "no instruction"),
    ("Write", "", "no output"),
    ("Write", "short", "not as long as was asked for"),
    ("Write", "a rope walks " * 70, "repeats itself"),
])  # fmt: skip
def test_what_is_of_no_use_is_counted(texts, tmp_path, few_draws, start: str, reply: str, why: str) -> None:
    def wrong(prompt: str, again: int) -> str:
        if start == "Write" and prompt.startswith("Task:"):
            return ""  # nothing grows
        return reply if prompt.startswith(start) else say(prompt, again)

    if why == "repeats itself":
        with pytest.raises(UserError, match=f"{why} [1-9]"):
            rows(texts, tmp_path / "out", wrong, draws=8)
    else:
        with pytest.raises(UserError, match=f"none of {few_draws} draws gives a row: {why} {few_draws};"):
            rows(texts, tmp_path / "out", wrong)


def test_what_does_not_grow_is_tried_again(texts, tmp_path) -> None:
    def slow(prompt: str, again: int) -> str:
        return "too short" if prompt.startswith("Task:") and again == 0 else say(prompt, again)

    _, arranged, _ = rows(texts, tmp_path / "out", slow)
    told = arranged.about.told
    assert told["nonsense: not longer than before"] > 0 and told["given up"] == 0
    assert told["calls"] == told["asked"] + told["nonsense: not longer than before"]


def test_rows_without_documents_are_shown(made, tmp_path) -> None:
    shown = ropewalk.show_data(Path(made[1].corpus.folder), out=tmp_path / "page.html")
    assert "Write about" in shown.page.read_text() and "words, " not in repr(shown.notes)


def test_rows_too_short_for_the_words_are_refused(texts, tmp_path) -> None:
    with pytest.raises(UserError, match="outputs of 4,000 words in rows of 4,096 tokens"):
        rows(texts, tmp_path / "out", words=4000)
