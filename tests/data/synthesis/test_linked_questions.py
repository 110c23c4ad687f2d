"""Multi-hop questions: as many documents as hops, all in the row, and a count for every filter."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.synthesis.linked_questions import HOPS
from ropewalk.data.synthesis.similarity import Similarity
from tests.data.synthesis.written import TOKENIZER, content, talker, text_of, write

LENGTH, ROWS, CHUNK = 2560, 12, 256
COLOURS = "red green blue white black brown grey pink".split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Documents about ropes of one colour; every rope has a name and a number that no other has."""
    folder, chance = tmp_path_factory.mktemp("texts"), random.Random(0)
    numbers = iter(chance.sample(range(10**5, 10**6), 2000))
    for i in range(40):
        words = [f"the {COLOURS[i % 8]} rope m{next(numbers)} is number n{next(numbers)}" for _ in range(20)]
        (folder / f"{i:02}.txt").write_text(". ".join(words))
    return folder


def say(prompt: str, again: int) -> str:
    facts = re.findall(r"rope (m\d{6}) is number (n\d{6})", prompt)
    if "Write one question that is" in prompt:
        return f"Question: Which number has rope {facts[1][0]}?\nAnswer: {facts[1][1]}"
    if "Answer the question" in prompt:
        return "It is {}.".format(dict(facts)[re.search(r"has rope (m\d{6})", prompt)[1]])
    if prompt.startswith("Here are questions"):
        names, answers = re.findall(r"m\d{6}", prompt), re.findall(r"n\d{6}", prompt)
        return f"Question: Which number has the last of the ropes {', '.join(names)}?\nAnswer: {answers[-1]}"
    return "Score: **2**"


def rows(texts: Path, out: Path, asked=say, **more):
    return write("longmit", texts, out, talker(asked), LENGTH, **{"rows": ROWS, "chunk": CHUNK} | more)


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    return rows(texts, tmp_path_factory.mktemp("longmit") / "rows")


def test_every_hop_is_in_the_row_and_in_a_document_of_its_own(made) -> None:
    _, arranged, _ = made
    some, seen = arranged.arrangement, set()
    for row in range(ROWS):
        provenance, first = arranged.provenance[row], arranged.pieces(row)[0]
        names = re.findall(r"m\d{6}", text_of(arranged, row, False).split("\n\nQuestion: ")[1])
        assert provenance.kind == f"{len(names)} hops" and 2 <= len(names) <= HOPS
        documents = [one["document"] for one in provenance.evidence]
        assert len(set(documents)) == len(documents) == len(provenance.pieces) == len(names)
        for name, piece, where in zip(names, provenance.pieces, provenance.evidence, strict=True):
            i = first + piece
            ids = arranged.corpus.tokens(int(some.document[i]), where["start"], where["stop"])
            assert name in TOKENIZER.decode(ids.tolist())
            assert np.array_equal(arranged.row(row)[0][where["at"] : where["at"] + len(ids)], ids)
        answer = text_of(arranged, row, True).strip()
        assert text_of(arranged, row, False).count(answer) == 1 and len(arranged.row(row)[0]) <= LENGTH
        seen.add(len(names))
    assert seen == {2, 3}


def test_hops_are_neighbours_in_the_graph(made) -> None:
    _, arranged, _ = made
    texts = [TOKENIZER.decode(ids.tolist()) for ids in map(arranged.corpus.tokens, range(arranged.about.documents))]
    similar, names = Similarity(texts), [arranged.corpus.name(i) for i in range(len(texts))]
    for provenance in arranged.provenance:
        one, other = (names.index(where["document"]) for where in provenance.evidence[:2])
        assert other in similar.ranked(texts[one])[0][:12], "of one colour, as 5 of 40 documents are"


def test_calls_are_two_for_every_hop_and_two_to_merge_and_score(made) -> None:
    _, arranged, engine = made
    hops = {(where["document"], where["start"]) for one in arranged.provenance for where in one.evidence}
    counts = arranged.about.told
    assert counts["draws"] == ROWS == counts["rows wanted"]
    assert counts["calls"] == len(engine.chat.prompts) == 2 * len(hops) + 2 * ROWS, "a chunk is asked about once"


@pytest.mark.parametrize(("prompt", "reply", "why"), [
    ("Write one question that is", "Which?", "no question"),
    ("Write one question that is", "Question: What is in the passage?\nAnswer: rope", "a question without a subject"),
    ("Write one question that is", "Question: Who walks there?\nAnswer: a goose", "the answer is not in its evidence"),
    ("Answer the question", "n1", "answered otherwise when asked again"),
    ("Here are questions", "Nothing comes to mind.", "not merged"),
    ("Here are questions", "Question: Who walks there?\nAnswer: a goose", "the answer is not in its evidence"),
    ("How good", "I like it.", "not scored"),
    ("How good", "Score: 1", "scored below 2"),
])  # fmt: skip
def test_every_filter_is_counted(texts, tmp_path, few_draws, prompt: str, reply: str, why: str) -> None:
    def wrong(asked: str, again: int) -> str:
        return reply if prompt in asked else say(asked, again)

    with pytest.raises(UserError, match=f"none of {few_draws} draws gives a row: {why} {few_draws};"):
        rows(texts, tmp_path / "out", wrong)


def test_what_a_filter_drops_is_drawn_anew(texts, tmp_path) -> None:
    def often(asked: str, again: int) -> str:
        return "Score: 1" if asked.startswith("How good") and sum(map(ord, asked)) % 2 else say(asked, again)

    _, arranged, _ = rows(texts, tmp_path / "some", often, draws=200)
    told = arranged.about.told
    assert len(arranged) == ROWS and told["dropped: scored below 2"] == told["draws"] - ROWS > 0


def test_a_question_that_tells_a_step_is_dropped(texts, tmp_path, few_draws) -> None:
    def telling(prompt: str, again: int) -> str:
        if not prompt.startswith("Here are"):
            return say(prompt, again)
        answers = re.findall(r"n\d{6}", prompt)
        return f"Question: Which number comes behind {answers[0]}?\nAnswer: {answers[-1]}"

    with pytest.raises(UserError, match=f"the question tells a step {few_draws}"):
        rows(texts, tmp_path / "out", telling)


def test_a_killed_run_goes_on_to_the_same_bytes(made, texts, tmp_path) -> None:
    _, whole, first = made
    seen = []

    def dying(prompt: str, again: int) -> str:
        seen.append(prompt)
        if len(seen) == len(first.chat.prompts) // 2:
            raise KeyboardInterrupt
        return say(prompt, again)

    with pytest.raises(KeyboardInterrupt):
        rows(texts, tmp_path / "part", dying)
    _, _, again = rows(texts, tmp_path / "part")
    assert content(tmp_path / "part") == content(Path(whole.corpus.folder))
    assert len(again.chat.prompts) < len(first.chat.prompts)


def test_mistakes_are_refused(texts, tmp_path) -> None:
    for length, chunk, words in (
        (1024, CHUNK, "where 3 chunks have up to 768"),
        (2**17, CHUNK, "documents have chunks"),
    ):
        with pytest.raises(UserError, match=words):
            write("longmit", texts, tmp_path / "out", talker(say), length, rows=2, chunk=chunk)
