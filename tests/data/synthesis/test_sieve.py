"""Questions that are answered without their context, or not with it, are dropped, counted and drawn anew."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.making import Texts, make_rows
from ropewalk.data.synthesis.sieve import CLOSED, KNOWN, LOST, OPEN
from ropewalk.data.synthesis.syntheses import synthesis, synthesis_class
from tests.data.synthesis.written import TOKENIZER, content, passages, talker, text_of
from tests.talkers import engine

LENGTH, ROWS = 2048, 12
CLOSED_BOOK, OPEN_BOOK = CLOSED.partition("\n")[0], OPEN.partition("\n")[0]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Documents whose words are numbers that nobody else has."""
    folder, chance = tmp_path_factory.mktemp("texts"), random.Random(0)
    for i in range(12):
        words = [f"n{chance.randrange(10**6):06}" for _ in range(600)]
        (folder / f"{i:02}.txt").write_text(" ".join(words))
    return folder


def made(kind: str, texts: Path, out: Path, say, length: int = LENGTH, **options) -> tuple[Arranged, list[str]]:
    """Rows of a kind, and all prompts."""
    asked = engine(talker(say))
    cls = synthesis_class(kind, engine=True, sieved=True)
    some = synthesis(cls, {"rows": ROWS, "draws": 400, **options}, asked)
    source = Texts(str(texts), TOKENIZER, "demo")
    make_rows(source, some, kind, options, length, False, 0, out, False, lambda *_: None, asked)
    return Arranged.open(out), asked.chat.prompts


def number_of(prompt: str) -> int:
    """Of the question in a prompt, which names it."""
    return int(re.findall(r"Which follows n(\d+)\?", prompt)[-1])


def say(prompt: str, again: int) -> str:
    """Asks for the word behind the third one of a passage; finds it in a text, and knows a third of all by heart.

    With the text it never finds another third, and what ends in 5 only when it is asked again.
    """
    if prompt.startswith(CLOSED_BOOK):
        assert "\n\n" not in prompt.partition("\n\n")[2], "the question alone"
        number = number_of(prompt)
        return f"It is {BEHIND[number]}." if number % 3 == 0 else "It is n1."
    if prompt.startswith(OPEN_BOOK):
        number = number_of(prompt)
        lost = number % 3 == 1 or (number % 10 == 5 and not again)
        found = re.search(rf"n{number:06} (n\d+)", prompt)
        return "n1" if lost else found[1]
    words = passages(prompt)[0].split()
    number, BEHIND[int(words[2][1:])] = int(words[2][1:]), words[3]
    return f"Question: Which follows n{number:06}?\nAnswer: {words[3]}"


BEHIND: dict[int, str] = {}


def test_in2_keeps_what_needs_its_context_and_is_found_in_it(texts, tmp_path) -> None:
    arranged, prompts = made("in2", texts, tmp_path / "rows", say, grounded=True, robust=True)
    told, numbers = arranged.about.told, []
    for row in range(len(arranged)):
        question = arranged.provenance[row].question
        assert question == f"Question: Which follows n{number_of(question):06}?\nAnswer:"
        assert text_of(arranged, row, False).rstrip().endswith(question)
        numbers.append(number_of(question))
        assert text_of(arranged, row, True).strip() == BEHIND[numbers[-1]]
    assert len(arranged) == ROWS and {number % 3 for number in numbers} == {2}
    assert told[f"dropped: {KNOWN}"] > 0 and told[f"dropped: {LOST}"] > 0
    shown = [one for one in prompts if one.startswith(OPEN_BOOK)]
    assert {number_of(one) % 3 for one in shown} == {1, 2}, "what is known is not asked about again"
    assert all(shown.count(one) == 4 for one in shown if number_of(one) % 3 == 1), "four tries"
    some = arranged.arrangement
    for row in range(len(arranged)):
        pieces = [
            TOKENIZER.decode(
                arranged.corpus.tokens(int(some.document[i]), int(some.start[i]), int(some.stop[i])).tolist()
            )
            for i in list(arranged.pieces(row))[:-2]
        ]
        asked = [one for one in shown if number_of(one) == numbers[row]]
        assert any(all(piece.strip() in one for piece in pieces) for one in asked), "all of the row"


def test_each_filter_is_one_of_its_own(texts, tmp_path) -> None:
    for name, kept in (("grounded", {1, 2}), ("robust", {0, 2})):
        arranged, prompts = made("in2", texts, tmp_path / name, say, **{name: True})
        assert {number_of(one.question) % 3 for one in arranged.provenance} == kept
        assert not any(one.startswith(OPEN_BOOK if name == "grounded" else CLOSED_BOOK) for one in prompts)


def test_rag_names_a_passage_and_is_judged_by_the_answer_alone(texts, tmp_path) -> None:
    arranged, _ = made("rag", texts, tmp_path / "rows", say, grounded=True, robust=True, named=True)
    assert {number_of(one.question) % 3 for one in arranged.provenance} == {2}
    assert all("Passage [" in text_of(arranged, row, True) for row in range(len(arranged)))


def test_what_needs_no_writer_is_sieved_too(texts, tmp_path) -> None:
    """An engine that finds quotes: the first of several ids in the text is all that it ever says."""

    def find(prompt: str, again: int) -> str:
        ids = re.findall(r"^\[(\w{6})\]$", prompt, re.MULTILINE)
        return ids[0] if prompt.startswith(OPEN_BOOK) else "I do not know."

    length = 6144
    arranged, prompts = made("chunks", texts, tmp_path / "rows", find, length, rows=2, grounded=True, robust=True)
    for row in range(len(arranged)):
        first = re.search(r"\[(\w{6})\]", text_of(arranged, row, False))[1]
        assert text_of(arranged, row, True).strip() == first
        assert arranged.provenance[row].question in text_of(arranged, row, False)
    assert arranged.about.told[f"dropped: {LOST}"] and prompts
    assert any(one.startswith(CLOSED_BOOK) for one in prompts)


def test_killed_it_asks_nothing_twice_and_ends_in_the_same_bytes(texts, tmp_path) -> None:
    class Killed(Exception):
        pass

    said = {"grounded": True, "robust": True, "rows": 3}
    _, first = made("in2", texts, tmp_path / "whole", say, **said)
    seen = []

    def dying(prompt: str, again: int) -> str:
        seen.append(prompt)
        if len(seen) > len(first) - 4:
            raise Killed
        return say(prompt, again)

    with pytest.raises(Killed):
        made("in2", texts, tmp_path / "part", dying, **said)
    kept = (tmp_path / "part.answers" / "replies.jsonl").read_text().count('"key"')
    _, again = made("in2", texts, tmp_path / "part", say, **said)
    assert content(tmp_path / "part") == content(tmp_path / "whole") and len(again) + kept == len(first) and kept


def test_mistakes_are_refused(texts, tmp_path) -> None:
    said = {"out": tmp_path / "out", "length": 6144, "tokenizer": "demo", "rows": 2}
    for kind, more, words in (
        ("chunks", {"grounded": True}, "is asked of an engine"),
        ("in2", {"robust": True}, "is asked of an engine"),
        ("selflong", {"robust": True, "engine": "demo"}, "--robust changes nothing in selflong"),
        ("chunks", {"engine": "demo"}, "no engine writes chunks"),
    ):
        with pytest.raises(UserError, match=words):
            ropewalk.synth_data(kind, texts, **said, **more)
        assert not list(tmp_path.iterdir())
