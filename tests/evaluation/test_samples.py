from __future__ import annotations

import random
import re
from dataclasses import dataclass

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.evaluation.grid import PlantedGrid
from ropewalk.evaluation.samples import PlantedCell, QuestionCell, cells
from ropewalk.tasks import registry
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.tasks.ruler.qa import QAExample
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts.pieces import TokenUnits

LENGTHS = (512, 1024, 4096)
DEPTHS = tuple(tenth / 10 for tenth in range(11))


@pytest.fixture(scope="module")
def material(tokenizer: PreTrainedTokenizerFast) -> registry.Material:
    return registry.Material(tokenizer)


@pytest.fixture(scope="module")
def grid(material: registry.Material, tokenizer: PreTrainedTokenizerFast) -> PlantedGrid:
    return PlantedGrid(registry.make("niah", material), LENGTHS, DEPTHS, 3, 0, TokenUnits(tokenizer))


def shared(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_every_cell_of_a_planted_grid_has_its_needle_and_its_length(grid: PlantedGrid) -> None:
    units = grid.units
    for length in LENGTHS:
        for depth in DEPTHS:
            sample = grid.sample(length, depth)
            assert len(sample.prompt) + len(sample.answer) == length
            text = units.decode(sample.prompt)
            assert grid.task.score(grid.task.solve(text), sample) == 1.0
            assert text.count(sample.text) == 1
            fact = grid.facts[length, depth]
            context = length - len(units.ids(" What is the access code for Rome? The access code for Rome is")) - 6
            size = len(fact.pin)
            assert abs(fact.start - depth * (context - size)) <= 2 * size + 20, (length, depth)


def test_contexts_of_a_planted_grid_are_prefixes_of_each_other(grid: PlantedGrid) -> None:
    rows = [grid.sample(length, depth).prompt for length in LENGTHS for depth in DEPTHS]
    longest = grid.sample(4096, 0.5).prompt
    for row in rows:
        assert shared(row, longest) >= len(row) - 40
    cities = [re.findall(r"access code for (\w+) is \d", grid.units.decode(longest))]
    assert len(set(cities[0])) == len(cities[0])


def test_another_round_is_another_haystack_with_other_needles(grid: PlantedGrid) -> None:
    again = PlantedGrid(grid.task, LENGTHS, DEPTHS, 3, 0, grid.units)
    other = PlantedGrid(grid.task, LENGTHS, DEPTHS, 3, 1, grid.units)
    assert again.stream == grid.stream and shared(other.stream, grid.stream) < 30
    with pytest.raises(ValueError, match="more than the 80 cities"):
        PlantedGrid(grid.task, tuple(range(512, 520)), DEPTHS, 3, 0, grid.units)
    with pytest.raises(TooShort, match="20 tokens do not hold a needle"):
        PlantedGrid(grid.task, (20, 512), DEPTHS, 3, 0, grid.units)


def test_single_needles_of_a_round_share_their_haystack(
    material: registry.Material, tokenizer: PreTrainedTokenizerFast
) -> None:
    found, _ = cells(["niah"], [512, 1024], 6, [0.0, 0.5, 1.0], 0, tokenizer, material)
    assert [len(cell) for cell in found] == [6, 6] and [found[0].context(i) for i in range(6)] == [0, 1] * 3
    short, long = found
    assert shared(short.sample(4).prompt, short.sample(2).prompt) > 180, "depths 1 and 0.5 of the first round"
    assert shared(short.sample(5).prompt, short.sample(4).prompt) < 20, "two rounds at depth 1"
    assert shared(short.sample(4).prompt, long.sample(4).prompt) > 400, "two lengths at depth 1"
    text = short.units.decode(short.sample(2).prompt)
    assert len(re.findall(r"The access code for \w+ is \d", text)) == 1


@dataclass(frozen=True)
class Colours(Task):
    """Three questions about each context, but two in every other one."""

    name: str = "colours"

    def questions(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int) -> list[Sample]:
        key = rng.randint(100, 200)
        n = min(n, 2 + key % 2)
        return [Sample([key, i], [7], "7", float("nan")) for i in range(n)]


def test_several_questions_share_a_context(tokenizer: PreTrainedTokenizerFast) -> None:
    cell = QuestionCell(Colours(), 64, (None,) * 11, 0, TokenUnits(tokenizer), per_context=3)
    prompts = [one.prompt for one in cell.samples(range(11))]
    assert len(prompts) == 11 and all(cell.sample(i).prompt == prompts[i] for i in range(11))
    by_context = {cell.context(i): prompts[i][0] for i in range(11)}
    assert [by_context[cell.context(i)] for i in range(11)] == [prompt[0] for prompt in prompts]
    assert 4 <= len(by_context) <= 6 and set(cell.stands) == {None}


def test_lengths_that_do_not_fit_are_skipped(material: registry.Material, tokenizer: PreTrainedTokenizerFast) -> None:
    found, skipped = cells(["passkey", "niah", "niah-planted"], [16, 400], 2, [0.0, 1.0], 0, tokenizer, material)
    assert [(cell.name, cell.length) for cell in found] == [("passkey", 400), ("niah", 400), ("niah-planted", 400)]
    assert [(one.task, one.length) for one in skipped] == [("passkey", 16), ("niah", 16), ("niah-planted", 16)]
    assert isinstance(found[2], PlantedCell)


def test_names_of_the_registry_lead_to_tasks(material: registry.Material) -> None:
    assert isinstance(registry.make("niah", material), NeedleInHaystack)
    with pytest.raises(UserError, match="unknown task 'niahh'; did you mean 'niah'"):
        registry.make("niahh", material)


def test_questions_that_a_length_does_not_hold_are_left_out_with_a_count(tokenizer: PreTrainedTokenizerFast) -> None:
    long = QAExample("Who?", ("Ann",), ("Ann did it. " * 200,))
    short = [QAExample(f"Where is {name}?", ("Rome",), (f"{name} is in Rome.",)) for name in ("Ann", "Bob", "Cid")]

    def asked(*examples: QAExample):
        given = registry.Material(tokenizer, {"hotpotqa": examples})
        return cells(["qa_2"], [300], 40, (0.5,), 0, tokenizer, given)

    [cell], [lost] = asked(long, *short)
    assert 0 < len(cell) < 40 and (lost.task, lost.length) == ("qa_2", 300)
    assert lost.reason.startswith(f"{40 - len(cell)} of 40 questions left out: qa_2 needs")
    assert all(len(one.prompt) + one.room <= 300 for one in cell.samples(range(len(cell))))
    made, [lost] = asked(long)
    assert not made and lost.reason.startswith("qa_2 needs")
