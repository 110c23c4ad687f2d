"""Long inputs out of notes: the engine sees chunks alone, notes are in no row, and answers stand in the documents."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.synthesis.instructed_documents import SMALLEST
from ropewalk.data.synthesis.replies import ungrounded
from ropewalk.texts.documents import token_ids
from tests.data.synthesis.written import TOKENIZER, content, talker, write

LENGTH, ROWS, CHUNK = 4096, 6, 200
INSTRUCTED, NOTED, FOLLOWED = "Write one instruction", "Somebody works on", "Follow this instruction"  # what is asked
COLOURS = "red green blue white black brown grey pink".split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Every document is about ropes of one colour, with numbers that nobody else has."""
    folder, chance = tmp_path_factory.mktemp("texts"), random.Random(0)
    for i in range(24):
        words = [
            f"the {COLOURS[i % 8]} rope of n{chance.randrange(10**6):06} holds" for _ in range(chance.randint(10, 60))
        ]
        (folder / f"{i:02}.txt").write_text(". ".join(words))
    return folder


def shown(prompt: str) -> str:
    """The text that a prompt begins with."""
    return re.split("\n\n(?=Write one|Somebody)", prompt.removeprefix("Text:\n"))[0]


def say(prompt: str, again: int) -> str:
    if INSTRUCTED in prompt:
        return "List numbers of ropes that are {}, but {}.".format(
            *re.search(r"the (\w+) rope of (n\d+)", prompt).groups()
        )
    colour = re.search(r"ropes that are (\w+),", prompt)[1]
    if NOTED in prompt:
        found = re.findall(rf"the {colour} rope of (n\d{{6}})", prompt)
        return f"Noted on page nine: {' '.join(found[:2])}" if found else "Nothing."
    return " ".join(re.findall(r"n\d{6}", prompt)[:6])


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    return write(
        "selflong", texts, tmp_path_factory.mktemp("selflong") / "rows", talker(say), LENGTH, rows=ROWS, chunk=CHUNK
    )


def test_rows_are_whole_documents_an_instruction_and_an_answer_that_stands_in_them(made) -> None:
    _, arranged, _ = made
    some = arranged.arrangement
    assert len(arranged) == ROWS
    for row in range(ROWS):
        ids, _, _, weights = arranged.row(row)
        assert len(ids) <= LENGTH and weights[1:].all(), "all but what texts begin with is learnt"
        shown = TOKENIZER.decode(ids.tolist(), skip_special_tokens=True)
        documents, asked = shown.split("\n\nInstruction: ")
        instruction, answer = asked.split("\nAnswer: ")
        colour = re.fullmatch(r"List numbers of ropes that are (\w+), but n\d+\.", instruction)[1]
        assert all(re.search(rf"the {colour} rope of {number} holds", documents) for number in answer.split())
        own = {i for i in arranged.pieces(row) if some.document[i] < arranged.about.documents}
        evidence = {arranged.pieces(row)[0] + piece for piece in arranged.provenance[row].pieces}
        for i in own:
            text = arranged.corpus.tokens(int(some.document[i]), int(some.start[i]), int(some.stop[i]))
            assert (f"the {colour} rope" in TOKENIZER.decode(text.tolist())) == (i in evidence)
        assert len({some.document[i] for i in own}) == len(own) >= 2


def test_no_rest_of_a_few_tokens_is_cut_out_or_asked_about(made) -> None:
    _, arranged, engine = made
    some, cut = arranged.arrangement, 0
    for row in range(ROWS):
        for i in arranged.pieces(row):
            if some.document[i] < arranged.about.documents:
                whole = some.stop[i] == arranged.corpus.lengths[some.document[i]]
                cut += not whole
                assert whole or some.stop[i] - some.start[i] >= SMALLEST
    assert cut
    notes = [shown(one) for one in engine.chat.prompts if NOTED in one]
    assert min(len(token_ids(one, TOKENIZER)) for one in notes) >= SMALLEST


def test_notes_are_in_no_row_and_no_prompt_shows_more_than_a_chunk(made) -> None:
    _, arranged, engine = made
    for row in range(ROWS):
        assert "Noted on page" not in TOKENIZER.decode(arranged.row(row)[0].tolist())
    for name in (arranged.corpus.name(i) for i in range(len(arranged.corpus))):
        assert "Noted on page" not in name
    for prompt in engine.chat.prompts:
        if prompt.startswith("Text:\n"):
            assert len(token_ids(shown(prompt), TOKENIZER)) <= CHUNK + 2


def test_calls_are_an_instruction_a_note_for_each_chunk_and_an_answer(made) -> None:
    _, arranged, engine = made
    some = arranged.arrangement
    notes = 0
    for row in range(ROWS):
        for i in arranged.pieces(row):
            if some.document[i] < arranged.about.documents:
                chunks, rest = divmod(int(some.stop[i] - some.start[i]), CHUNK)
                notes += (chunks + (rest >= SMALLEST)) or 1
    asked = [sum(task in prompt for prompt in engine.chat.prompts) for task in (INSTRUCTED, NOTED, FOLLOWED)]
    assert asked == [ROWS, notes, ROWS]
    assert arranged.about.told["calls"] == 2 * ROWS + notes == arranged.about.told["asked"]


def test_a_killed_run_goes_on_to_the_same_bytes(made, texts, tmp_path) -> None:
    _, whole, first = made
    seen = []

    def dying(prompt: str, again: int) -> str:
        seen.append(prompt)
        if len(seen) == len(first.chat.prompts) - 3:
            raise KeyboardInterrupt
        return say(prompt, again)

    with pytest.raises(KeyboardInterrupt):
        write("selflong", texts, tmp_path / "part", talker(dying), LENGTH, rows=ROWS, chunk=CHUNK)
    _, _, again = write("selflong", texts, tmp_path / "part", talker(say), LENGTH, rows=ROWS, chunk=CHUNK)
    assert content(tmp_path / "part") == content(Path(whole.corpus.folder)) and len(again.chat.prompts) < 12


@pytest.mark.parametrize(("prompt", "reply", "why"), [
    (INSTRUCTED, "Well.", "no instruction"),
    (INSTRUCTED, "Do this.\n\nAnd that too.", "no instruction"),
    (NOTED, "NOTHING", "no document helps"),
    (NOTED, "", "a chunk without a note"),
    (FOLLOWED, "", "no answer"),
    (FOLLOWED, "It is n1234567 of them", "the answer is not in the documents"),
])  # fmt: skip
def test_what_is_of_no_use_is_dropped_by_its_reason(
    texts, tmp_path, few_draws, prompt: str, reply: str, why: str
) -> None:
    def wrong(asked: str, again: int) -> str:
        return reply if prompt in asked else say(asked, again)

    with pytest.raises(UserError, match=f"none of {few_draws} draws gives a row: {why} {few_draws};"):
        write("selflong", texts, tmp_path / "out", talker(wrong), 2048, rows=ROWS, chunk=CHUNK)


@pytest.mark.parametrize(("answer", "wrong"), [
    ("The rope of Ada breaks in 1843.", False),
    ("Ropes break.", True),  # more than half of its longer words are elsewhere
    ("The rope of Bert breaks.", True),
    ("It breaks in 1844.", True),
    ("Bert.", False),  # it may only begin a sentence
    ("", True),
])  # fmt: skip
def test_what_a_text_does_not_say_is_found(answer: str, wrong: bool) -> None:
    assert ungrounded(answer, "In 1843 a rope of Ada, which breaks") is wrong
