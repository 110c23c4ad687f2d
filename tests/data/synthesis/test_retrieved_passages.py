"""Questions behind what a search finds: one passage answers, the others look like it, in the order asked for."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.synthesis.retrieved_passages import best_at_both_ends
from ropewalk.data.synthesis.similarity import Similarity
from tests.data.synthesis.written import passages, talker, text_of, write

LENGTH, ROWS = 2048, 25
COLOURS = "red green blue white black brown grey pink".split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Documents about ropes of few colours, with a number here and there that nobody else has."""
    folder, chance = tmp_path_factory.mktemp("texts"), random.Random(0)
    for i in range(12):
        words = []
        for _ in range(150):
            words += [
                "the",
                chance.choice(COLOURS),
                "rope",
                chance.choice(["holds", "breaks"]),
                f"n{chance.randrange(10**6):06}.",
            ]
        (folder / f"{i:02}.txt").write_text(" ".join(words))
    return folder


def say(prompt: str, again: int) -> str:
    (passage,) = passages(prompt)
    colour, how, number = re.search(r"(\w+) rope (\w+) (n\d{6})", passage).groups()
    return f"Question: What {how} with the {colour} rope?\nAnswer: {number}"


@pytest.mark.parametrize(("k", "order"), [
    (1, [1]), (2, [1, 2]), (4, [1, 3, 4, 2]), (5, [1, 3, 5, 4, 2]), (6, [1, 3, 5, 6, 4, 2]),
])  # fmt: skip
def test_the_best_stand_at_both_ends(k: int, order: list[int]) -> None:
    assert best_at_both_ends(range(1, k + 1)) == order
    places = {rank: order.index(rank) + 1 for rank in order}
    assert all(at == ((rank + 1) // 2 if rank % 2 else k + 1 - rank // 2) for rank, at in places.items())


def test_similarity_is_the_cosine_of_weighted_words() -> None:
    texts = ["a rope and a rope", "a hemp rope", "tar of the sea", "sea sea"]
    order, cosines = Similarity(texts).ranked("rope")
    n, words = len(texts), [set(re.findall(r"\w\w+", text)) for text in texts]
    weight = {word: np.log((1 + n) / (1 + sum(word in some for some in words))) + 1 for word in set().union(*words)}
    for i, cosine in zip(order, cosines, strict=True):
        counts = {word: re.findall(r"\w\w+", texts[i]).count(word) for word in words[i]}
        vector = {word: (1 + np.log(count)) * weight[word] for word, count in counts.items()}
        norm = np.sqrt(sum(value**2 for value in vector.values()))
        assert cosine == pytest.approx(vector.get("rope", 0) / norm, abs=1e-6)
    assert order.tolist() == [0, 1, 2, 3], "the first that are alike come first"
    with pytest.raises(UserError, match="texts of words"):
        Similarity(["?", "!"])


@pytest.mark.parametrize("how", ["rank", "ends", "shuffled"])
def test_one_passage_answers_and_the_order_is_what_was_asked_for(texts, tmp_path, how: str) -> None:
    told, arranged, engine = write(
        "rag", texts, tmp_path / "out", talker(say), LENGTH, rows=ROWS, passages=how, named=True
    )
    assert told.counts.rows == ROWS and arranged.about.told["calls"] == len(set(engine.chat.prompts))
    ranks = []
    for row in range(ROWS):
        shown, learnt = text_of(arranged, row, False), text_of(arranged, row, True)
        number, answer = re.fullmatch(r" Passage \[(\d+)\] answers it: (n\d{6})", learnt).groups()
        context, question = shown.split("\n\nQuestion: ")
        parts = re.split(r"\[\d+\] ", context)[1:]
        assert [i for i, part in enumerate(parts, 1) if answer in part] == [int(number)]
        provenance, ids = arranged.provenance[row], arranged.row(row)[0]
        count, rank = map(int, re.fullmatch(r"(\d+) passages, rank (\d+) answers", provenance.kind).groups())
        assert count == len(parts) and len(ids) <= LENGTH and question.endswith("Answer:")
        ranks.append(rank)
        wanted = {"rank": rank, "ends": (rank + 1) // 2 if rank % 2 else count + 1 - rank // 2}
        assert wanted.get(how, int(number)) == int(number)
        i, where = arranged.pieces(row)[0] + provenance.pieces[0], provenance.evidence[0]
        some = arranged.arrangement
        assert (some.start[i], some.stop[i]) == (where["start"], where["stop"])
        text = arranged.corpus.tokens(int(some.document[i]), where["start"], where["stop"])
        assert np.array_equal(ids[where["at"] : where["at"] + 128], text)
    assert len(set(ranks)) > 3, "negatives are hard: they are as like the question as what answers"


def test_negatives_are_nearer_to_the_question_than_what_is_left_out(texts, tmp_path) -> None:
    _, arranged, _ = write("rag", texts, tmp_path / "out", talker(say), LENGTH, rows=5, passages="rank")
    for row in range(5):
        context, question = text_of(arranged, row, False).split("\n\nQuestion: ")
        colour = question.split("with the ")[1].split()[0]
        assert all(f"{colour} rope" in part for part in re.split(r"\[\d+\] ", context)[1:])


def test_mistakes_are_refused(texts, tmp_path) -> None:
    for more, words in (({"passages": "end"}, "did you mean 'ends'"), ({"least": 100}, "expected 280 at least")):
        with pytest.raises(UserError, match=words):
            write("rag", texts, tmp_path / "out", talker(say), LENGTH, rows=2, **more)
    with pytest.raises(UserError, match="is written by an engine"):
        import ropewalk

        ropewalk.synth_data("rag", texts, out=tmp_path / "out", length=LENGTH, tokenizer="demo")
    with pytest.raises(UserError, match="passages of 128 tokens, and a row takes"):
        write("rag", texts, tmp_path / "out", talker(say), 2**17, rows=2)
