"""Questions that an engine writes about hidden segments: supported, once in the row, and counted when they are not."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.synthesis import drawing
from ropewalk.data.synthesis.drawing import FRUITLESS
from ropewalk.data.synthesis.information_intensive import SEGMENT
from ropewalk.data.synthesis.written_questions import ROOM, Question, unsupported
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening
from tests.data.synthesis.written import TOKENIZER, content, passages, talker, text_of, write

LENGTH, ROWS = 2048, 40


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Documents whose words are numbers that nobody else has."""
    folder, chance = tmp_path_factory.mktemp("texts"), random.Random(0)
    for i in range(12):
        words = [f"n{chance.randrange(10**6):06}" for _ in range(600)]
        (folder / f"{i:02}.txt").write_text(" ".join(words))
    return folder


def say(prompt: str, again: int) -> str:
    """A question whose answer is two words of each passage."""
    parts = [" ".join(passage.split()[2:4]) for passage in passages(prompt)]
    labels = ["Answer"] if len(parts) == 1 else [f"Answer {i}" for i in range(1, len(parts) + 1)]
    return "\n".join(["Question: Which numbers stand third and fourth?",
                      *(f"**{label}:** {part}" for label, part in zip(labels, parts, strict=True))])  # fmt: skip


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    return write("in2", texts, tmp_path_factory.mktemp("in2") / "rows", talker(say), LENGTH, rows=ROWS)


def test_every_answer_stands_in_its_evidence_and_nowhere_else(made) -> None:
    told, arranged, _ = made
    assert len(arranged) == ROWS and told.counts.rows == ROWS and arranged.about.asks
    some = arranged.arrangement
    for row in range(ROWS):
        ids, _, scopes, weights = arranged.row(row)
        assert len(ids) <= LENGTH and not scopes.any()
        provenance, learnt, rest = arranged.provenance[row], text_of(arranged, row, True), text_of(arranged, row, False)
        answers = learnt.strip().split("; ")
        assert len(answers) == len(provenance.evidence) == len(provenance.pieces)
        for answer, where, piece in zip(answers, provenance.evidence, provenance.pieces, strict=True):
            i = arranged.pieces(row)[0] + piece
            text = arranged.corpus.tokens(int(some.document[i]), where["start"], where["stop"])
            assert np.array_equal(ids[where["at"] : where["at"] + SEGMENT], text)
            assert arranged.corpus.name(int(some.document[i])) == where["document"]
            assert answer in TOKENIZER.decode(text.tolist()) and rest.count(answer) == 1
        assert weights[-1] and rest.rstrip().endswith("Answer:")
        marks = sum(i >= arranged.about.documents for i in some.document[list(arranged.pieces(row))])
        assert marks == 3, "a question, an answer, and its end"
    assert told.about.told["answers that end"] == ROWS


def test_the_answers_first_token_is_learnt(made) -> None:
    _, arranged, _ = made
    for row in range(ROWS):
        answer, _ = arranged.pieces(row)[-2:]
        tokens = int(arranged.arrangement.stop[answer] - arranged.arrangement.start[answer])
        assert arranged.row(row)[3].sum() == tokens + 1 and arranged.arrangement.loss[answer]


def test_a_tokenizer_without_an_end_of_text_has_rows_without_one(texts, tmp_path) -> None:
    endless: Any = deepcopy(TOKENIZER)
    endless.eos_token = None
    told, arranged, _ = write("in2", texts, tmp_path / "out", talker(say), LENGTH, tokenizer=endless, rows=2)
    assert told.about.told["answers that end"] == 0
    assert TOKENIZER.eos_token_id not in arranged.row(0)[0] and arranged.row(0)[3][-1] == 1


def test_calls_and_tokens_are_what_is_computed_beforehand(made) -> None:
    told, arranged, engine = made
    counts = arranged.about.told
    segments = {tuple((where["document"], where["start"]) for where in one.evidence) for one in arranged.provenance}
    assert counts["asked"] == counts["calls"] == counts["answered"] == len(engine.chat.prompts) == len(segments)
    assert counts["draws"] == ROWS, "segments that were drawn twice are asked about once"
    begin = len(opening(TOKENIZER))
    read = sum(begin + len(token_ids(prompt, TOKENIZER)) for prompt in engine.chat.prompts)
    assert counts["prompt tokens"] == counts["our prompt tokens"] == read
    assert counts["rows wanted"] == ROWS and told.about == arranged.about and "draws" in repr(told)
    assert not counts["wrong usage"] and not counts["given up"]


def test_what_is_not_supported_is_dropped_counted_and_drawn_anew(texts, tmp_path) -> None:
    wrong = {
        0: "I would say that it is hard to say.",
        1: "Question: Which?\nAnswer: seven geese",
        2: "Question: Which of {0}?\nAnswer: {0}",
        3: "Question: Which?\nAnswer: {0}\nAnswer: {0}",
        4: "",
        5: "Question: Which number of the passage?\nAnswer: {0}",
    }

    def sometimes(prompt: str, again: int) -> str:
        number = sum(map(ord, prompt)) % 10
        return wrong[number].format(passages(prompt)[0].split()[2]) if number in wrong else say(prompt, again)

    fixed = talker(sometimes)
    fixed.varies = False
    _, arranged, _ = write("in2", texts, tmp_path / "out", fixed, LENGTH, rows=ROWS, draws=400)
    counts = arranged.about.told
    dropped = {name: n for name, n in counts.items() if name.startswith("dropped: ")}
    assert len(arranged) == ROWS and counts["draws"] == ROWS + sum(dropped.values())
    assert set(dropped) == {f"dropped: {why}" for why in (
        "no question", "the answer is not in its evidence", "the question tells the answer",
        "another number of answers", "a question without a subject")}  # fmt: skip
    assert dropped["dropped: no question"] >= counts["given up"] > 20, "a segment may be drawn twice"
    assert counts["nonsense: empty"] + counts["nonsense: not question and answer"] == counts["given up"]
    for row in range(ROWS):
        assert "geese" not in text_of(arranged, row, True)
    few, arranged, _ = write("in2", texts, tmp_path / "few", fixed, LENGTH, rows=ROWS, draws=ROWS)
    assert 0 < len(arranged) < ROWS == arranged.about.told["draws"]
    assert f"{len(arranged):,} of {ROWS:,} rows" in repr(few), "it says how many came"


def test_an_answer_that_stands_elsewhere_too_is_dropped(tmp_path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(" ".join(["same words again"] * 900))
    with pytest.raises(
        UserError, match=rf"none of {FRUITLESS} draws gives a row: the answer stands elsewhere too"
    ) as error:
        write("in2", tmp_path, tmp_path.parent / "out-elsewhere", talker(say), LENGTH, rows=ROWS)
    assert error.value.mend.startswith("Ask another engine, give other texts, or more --draws.")


def test_nonsense_alone_is_refused_with_its_reasons(texts, tmp_path) -> None:
    with pytest.raises(
        UserError, match=rf"none of {FRUITLESS} draws .*no question {FRUITLESS}; talker: .*empty \d+"
    ) as error:
        write("in2", texts, tmp_path / "out", talker(lambda *_: ""), LENGTH, rows=ROWS)
    assert error.value.mend.startswith("Ask another engine: talker does not answer as it is asked to.")
    assert not (tmp_path / "out").exists()


def test_whatever_stops_it_the_bytes_are_the_same_and_nothing_is_asked_twice(made, texts, tmp_path) -> None:
    _, whole, first = made

    class Killed(Exception):
        pass

    for moment in (1, 30):
        seen = []

        def dying(prompt: str, again: int, seen=seen, moment=moment) -> str:
            seen.append(prompt)
            if len(seen) > moment:
                raise Killed
            return say(prompt, again)

        with pytest.raises(Killed):
            write("in2", texts, tmp_path / "part", talker(dying), LENGTH, rows=ROWS)
        kept = (tmp_path / "part.answers" / "replies.jsonl").read_text().count('"key"')
        _, _, again = write("in2", texts, tmp_path / "part", talker(say), LENGTH, rows=ROWS)
        assert content(tmp_path / "part") == content(Path(whole.corpus.folder))
        assert len(again.chat.prompts) + kept == len(first.chat.prompts) and kept >= moment
        assert sorted(one.name for one in tmp_path.iterdir()) == ["part"]
        for file in (tmp_path / "part").iterdir():
            file.unlink()
        (tmp_path / "part").rmdir()


def test_stopped_behind_its_last_write_it_only_clears_up(texts, tmp_path, monkeypatch) -> None:
    from ropewalk.common.underway import Underway

    removed = []
    real = Underway.remove

    for last in (0, 1):
        removed.clear()

        def stop(self, last=last):
            if len(removed) == last:
                raise KeyboardInterrupt
            removed.append(self.folder.name)
            real(self)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Underway, "remove", stop)
            write("in2", texts, tmp_path / f"out{last}", talker(say), LENGTH, rows=3)
        _, _, again = write("in2", texts, tmp_path / f"out{last}", talker(say), LENGTH, rows=3)
        assert not again.chat.prompts
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out0", "out1"]
    with pytest.raises(UserError, match="exists already"):
        write("in2", texts, tmp_path / "out0", talker(say), LENGTH, rows=3)


def test_mistakes_are_refused(texts, tmp_path) -> None:
    for length, words in ((640, "contexts of"), (2**17, "segments of 128 tokens, and a row takes")):
        with pytest.raises(UserError, match=words):
            write("in2", texts, tmp_path / "out", talker(say), length, rows=2)
    assert 2 * ROOM < 640


@pytest.mark.slow
def test_evidence_is_anywhere(texts, tmp_path) -> None:
    _, arranged, _ = write("in2", texts, tmp_path / "out", talker(say), LENGTH, rows=600)
    some, depth, chance = arranged.arrangement, [], random.Random(0)
    for row, told in enumerate(arranged.provenance):
        segments = sum(some.document[i] < arranged.about.documents for i in arranged.pieces(row))
        depth += [(one + chance.random()) / segments for one in told.pieces]  # anywhere in its segment
    counts, _ = np.histogram(depth, 20, (0, 1))
    expected = len(depth) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8, "chi-square of 19 degrees of freedom, p = 0.001"


def test_rows_that_are_too_long_want_a_greater_length() -> None:
    assert drawing._mend({"the answer stands elsewhere too": 3, drawing.LONGER: 5}, None) == "Give a greater --length."
    assert drawing._mend({"a tie": 3}, None) == "Give other texts, or more --draws."


@pytest.mark.parametrize(("answer", "why"), [
    ("v", "the answer is one letter"), ("_", "the answer is one letter"), ("7", ""), ("麻", ""), ("v 7", ""),
])  # fmt: skip
def test_a_letter_is_no_answer(answer: str, why: str) -> None:
    text = "rope v 7, _ and 麻 rope"
    assert unsupported(Question("Which rope?", [answer]), text, [(0, len(text))]) == why


@pytest.mark.parametrize(("answer", "why"), [
    ("22", "the answer is not in its evidence"), ("son", "the answer is not in its evidence"),
    ("matt", ""), ("hemp", "the answer stands elsewhere too"), ("tarred", "the answer stands elsewhere too"),
])  # fmt: skip
def test_a_segment_is_judged_by_what_stands_around_it(answer: str, why: str) -> None:
    segments = ["tar", "red hemp, reg", "22 matt, tarred he", "mp and ja", "son"]
    edges = [len("".join(segments[:i])) for i in range(len(segments) + 1)]
    place = 4 if answer == "son" else 2
    asked = Question("Which rope?", [answer])
    if answer == "hemp":
        place = 1
    assert unsupported(asked, "".join(segments), [(edges[place], edges[place + 1])]) == why


def test_no_answer_is_a_part_of_a_word_in_the_row_as_it_is_read(tmp_path) -> None:
    """An engine that answers with the first or the last of what it sees, which is mostly cut."""
    chance = random.Random(0)
    for i in range(12):
        words = ["".join(chance.choices("aeioulnrst", k=chance.randint(2, 9))) for _ in range(500)]
        (tmp_path / f"{i:02}.txt").write_text(" ".join(words))

    def say(prompt: str, again: int) -> str:
        parts = [passage.split()[-1 if len(prompt) % 2 else 0] for passage in passages(prompt)]
        labels = ["Answer"] if len(parts) == 1 else [f"Answer {i}" for i in range(1, len(parts) + 1)]
        return "\n".join(["Question: Which?", *map("{}: {}".format, labels, parts)])

    out = tmp_path.parent / "cut-words"
    told, arranged, _ = write("in2", tmp_path, out, talker(say), LENGTH, rows=20, draws=300)
    assert told.about.told["dropped: the answer is not in its evidence"] > 20
    for row in range(len(arranged)):
        context = text_of(arranged, row, False).rpartition("\n\nQuestion:")[0].replace("<s>", " ")
        for answer in text_of(arranged, row, True).strip().split("; "):
            assert context.split().count(answer) == 1
