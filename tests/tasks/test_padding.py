"""Tasks that hold everything but one thing constant: the padding, the number of documents, the position."""

from __future__ import annotations

import random
import re

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.biographies import read_lives
from ropewalk.tasks.flenqa import Flenqa
from ropewalk.tasks.more_documents import MoreDocuments, shared_out
from ropewalk.tasks.posgen import PosGen, sequence
from ropewalk.tasks.position_wise import PositionWise
from ropewalk.tasks.task import Sample, TooShort
from ropewalk.texts.pieces import TokenUnits

ANN, BOB, CAT = "Ada Nora Quillfold", "Basil Otto Yewmantle", "Clara Iris Wrenfold"


IN_HALL, WINDOW = f" {ANN} is in the big red hall.", f"{ANN} is in a room that has a bay window"
RULE, WISE = " If somebody is kind and shy, then this person is wise.", f"{ANN} is wise"


@pytest.mark.parametrize(
    ("kind", "text", "statement", "answer"),
    [
        ("relations", f" {BOB} is older than {CAT}. {ANN} is older than {BOB}.", f"{ANN} is older than {CAT}", "true"),
        ("relations", f" {BOB} is older than {CAT}. {ANN} is older than {BOB}.", f"{CAT} is older than {ANN}", "false"),
        (
            "relations",
            f" {BOB} is taller than {CAT}. {ANN} is older than {BOB}.",
            f"{ANN} is older than {CAT}",
            "false",
        ),
        ("rooms", f"{IN_HALL} The big red hall has a bay window.", WINDOW, "true"),
        ("rooms", f"{IN_HALL} The old red hall has a bay window.", WINDOW, "false"),
        ("rules", f" {ANN} is kind. {ANN} is shy.{RULE}", WISE, "true"),
        ("rules", f" {ANN} is kind. {BOB} is shy.{RULE}", WISE, "false"),
    ],
)
def test_statements_by_hand(kind: str, text: str, statement: str, answer: str) -> None:
    assert Flenqa(kind).solve(f"{text} Is it true or false that {statement}? It is") == answer


@pytest.mark.parametrize(
    ("said", "true"),
    [(" true", 1), (" True.", 1), (" not true", 0), (" false", 0), (" not false", 1), (" false? No, true", 1)],
)
def test_the_last_true_or_false_counts(said: str, true: float) -> None:
    assert Flenqa().score(said, Sample([1], [2], "true", 0.5)) == true
    assert Flenqa().score(said, Sample([1], [2], "false", 0.5)) == 1 - true


@pytest.mark.parametrize("kind", ["relations", "rooms", "rules"])
def test_every_length_asks_the_same_and_half_of_it_is_true(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    units, true = TokenUnits(tokenizer), 0
    for seed in range(80):
        short, long = (Flenqa(kind).sample(n, random.Random(seed), units) for n in (600, 1200))
        assert (short.facts, short.text) == (long.facts, long.text)
        true += short.text == "true"
    assert 28 <= true <= 52


def test_facts_stand_side_by_side_or_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for depth in (0.0, 0.5, 1.0):
        sample = Flenqa(together=True).sample(3000, random.Random(0), units, depth)
        text = units.decode(sample.prompt)
        assert "".join(sample.facts["facts"]) in text
        assert text.index(sample.facts["facts"][0]) / len(text) == pytest.approx(depth, abs=0.12)
    apart = units.decode(Flenqa().sample(3000, random.Random(0), units).prompt)
    assert "".join(Flenqa().sample(3000, random.Random(0), units).facts["facts"]) not in apart


def test_more_documents_leave_the_needed_ones_where_they_are(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for seed in range(5):
        prompts = {n: MoreDocuments(n).sample(8000, random.Random(seed), units).prompt for n in (5, 9, 20)}
        texts = {n: units.decode(prompt) for n, prompt in prompts.items()}
        assert [len(read_lives(text)) for text in texts.values()] == [5, 9, 20]
        assert len({text.rpartition("In which")[2] for text in texts.values()}) == 1
        who = re.findall(r"In which town was (.+) born\?", texts[5])[0]
        other = re.findall(rf"{who} was born in the same place as (.+?)\.", texts[5])[0]
        for name in (who, other):
            needed = units.ids(f" Biography of {name}.")
            starts = {
                n: [i for i in range(len(ids)) if ids[i : i + len(needed)] == needed] for n, ids in prompts.items()
            }
            assert starts[5] == starts[9] == starts[20] and len(starts[5]) == 1


def test_documents_that_do_not_fit_are_said(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TooShort, match="more_documents_40 needs"):
        MoreDocuments(40).sample(3000, random.Random(0), TokenUnits(tokenizer))
    with pytest.raises(ValueError, match="at least 5, not 4"):
        MoreDocuments(4)
    assert shared_out(10, [1, 1, 2]) == [2, 3, 5] and shared_out(0, [1, 2]) == [0, 0]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("recurrent", [1, 2, 3, 4, 10, 2, 2, 1, 15, 3, 4, 6]),
        ("cot", [1, 2, 3, 4, 10, 1, 16, 11, 12, 6, 13, 15]),
        ("semi_recurrent", [1, 2, 3, 4, 10, 1, 0, 13, 0, 16, 16, 2]),
    ],
)
def test_posgen_rows_of_the_paper_s_repository(kind: str, row: list[int]) -> None:
    made = sequence(kind, row[:4], 1, 17)
    assert [next(made) for _ in row] == row
    assert PosGen(kind).solve("Numbers: " + " ".join(map(str, row[:-1]))) == str(row[-1])


def test_posgen_rows_fill_the_length(tokenizer: PreTrainedTokenizerFast) -> None:
    sample = PosGen().sample(500, random.Random(0), TokenUnits(tokenizer))
    assert sample.facts["numbers"] > 180


def test_a_record_moves_and_the_others_stay(tokenizer: PreTrainedTokenizerFast) -> None:
    units, task = TokenUnits(tokenizer), PositionWise(10)
    orders = []
    for tenth in range(10):
        sample = task.sample(1500, random.Random(4), units, tenth / 9)
        names = re.findall(r"The locker of ([\w ]+) has", units.decode(sample.prompt))
        assert sample.facts["position"] == tenth and len(names) == 10
        asked = names.pop(tenth)
        orders.append((asked, tuple(names), sample.text))
    assert len(set(orders)) == 1
    positions = [one.facts["position"] for one in task.questions(1500, random.Random(0), units, 10)]
    assert positions == list(range(10))
