from __future__ import annotations

import json
import random
import re
from itertools import groupby

import pytest

from ropewalk.tasks.kv import KeyValue
from ropewalk.tasks.number import NumberString, repeating_digits
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts.pieces import TokenUnits
from tests.tasks.test_ruler import with_lines

TASKS = [KeyValue(), NumberString()]


@pytest.fixture(scope="module", params=["byte_level", "metaspace", "line_ends_merged"])
def units(request: pytest.FixtureRequest) -> TokenUnits:
    return TokenUnits(with_lines(request.param))


@pytest.mark.parametrize("n", [700, 701, 2048])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_length_is_exact_and_the_solver_always_right(task: Task, n: int, units: TokenUnits) -> None:
    for depth in (0.0, 0.4, 1.0, None):
        sample = task.sample(n, random.Random(n), units, depth)
        assert sample == task.sample(n, random.Random(n), units, depth)
        assert len(sample.prompt) + sample.room == n
        assert sample.room == max({"kv_retrieval": 50, "number_string": 12}[task.name], len(sample.answer))
        assert sample.prompt[0] == units.bos[0] and sample.prompt.count(units.bos[0]) == 1
        text = units.decode(sample.prompt)
        assert task.score(task.solve(text), sample) == task.score(sample.text, sample) == 1.0
        assert units.decode(sample.prompt + sample.answer) == text + " " + sample.text


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_reader_of_the_last_half_finds_what_stands_there(task: Task, units: TokenUnits) -> None:
    passed = []
    for tenth in range(11):
        sample = task.sample(4096, random.Random(tenth), units, tenth / 10)
        text = units.decode(sample.prompt[-2150:])
        passed.append(float(sample.references[0] in text))
        assert sample.depth == tenth / 10
    assert passed == [0.0] * 5 + [passed[5]] + [1.0] * 5


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_too_short_is_said(task: Task, units: TokenUnits) -> None:
    with pytest.raises(TooShort, match=f"{task.name} needs more than .* 80 were asked for"):
        task.sample(80, random.Random(0), units)


def test_pairs_are_one_json_object(units: TokenUnits) -> None:
    sample = KeyValue().sample(4096, random.Random(0), units)
    text = units.decode(sample.prompt)
    pairs = json.loads(text[text.index("{") : text.index("}") + 1])
    key = text.rsplit('"', 2)[1]
    assert len(pairs) == text.count('":') > 20 and pairs[key] == sample.references[0]
    assert len({*pairs, *pairs.values()}) == 2 * len(pairs)
    assert text.count(key) == 2 and text.count(sample.references[0]) == 1


def test_several_keys_of_one_object_are_asked_for(units: TokenUnits) -> None:
    task = KeyValue()
    samples = task.questions(4096, random.Random(0), units, 5)
    texts = [units.decode(sample.prompt) for sample in samples]
    assert len({text.rpartition("Key:")[0] for text in texts}) == 1
    assert len({sample.text for sample in samples}) == 5
    assert max(len(sample.prompt) + sample.room for sample in samples) == 4096
    assert all(task.score(task.solve(text), sample) == 1.0 for text, sample in zip(texts, samples, strict=True))


def test_a_value_is_a_word_of_the_prediction() -> None:
    task, sample = KeyValue(), Sample([], [], '"a1-b2"', 0.5, ("a1-b2",))
    assert task.score('"a1-b2", and so on', sample) == task.score("it is: a1-b2.", sample) == 1.0
    assert task.score("a1-b2c", sample) == task.score("a1 b2", sample) == task.score("A1-B2", sample) == 0.0


def test_ten_digits_come_from_five_by_doubling() -> None:
    rng, runs = random.Random(0), []
    for _ in range(200):
        digits = repeating_digits(rng)
        assert re.fullmatch(r"\d{10}", digits)
        runs.append(len(list(groupby(digits))))
    assert max(runs) == 5 and min(runs) >= 1 and sum(runs) / 200 > 4


def test_all_digits_must_be_right() -> None:
    task, sample = NumberString(), Sample([], [], "0012233345", 0.5)
    assert task.score(" 0012233345. Here", sample) == 1.0
    assert task.score("12233345", sample) == task.score("00122333455", sample) == task.score("", sample) == 0.0
