from __future__ import annotations

import random

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ropewalk.evaluation.samples import Cell, grid_depths, spread_depths
from ropewalk.tasks import registry
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.tasks.passkey import FILLER, Passkey
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts.pieces import TokenUnits

TASKS = ("passkey", "niah")


@pytest.fixture(scope="session")
def niah(tokenizer: PreTrainedTokenizerFast) -> Task:
    return registry.make("niah", registry.Material(tokenizer))


def short_niah(tokenizer: PreTrainedTokenizerBase) -> NeedleInHaystack:
    """A haystack that has to be repeated, with sentences."""
    hay = tokenizer(" The sky is very blue today. The grass is tall.", add_special_tokens=False).input_ids
    ends = frozenset(i for i in hay if str(tokenizer.decode([i])).strip() == ".")
    return NeedleInHaystack(tuple(hay), ends)


@pytest.mark.parametrize("n", [150, 151, 500, 2048])
@pytest.mark.parametrize("name", TASKS)
def test_length_is_exact_and_the_solver_always_right(name: str, n: int, any_tokenizer: PreTrainedTokenizerBase) -> None:
    task: Task = Passkey() if name == "passkey" else short_niah(any_tokenizer)
    units, rng = TokenUnits(any_tokenizer), random.Random(n)
    for depth in (0.0, 0.3, 1.0, None):
        sample = task.sample(n, rng, units, depth)
        assert len(sample.prompt) + len(sample.answer) == n
        assert sample.prompt[0] == any_tokenizer.bos_token_id and sample.prompt.count(sample.prompt[0]) == 1
        text = units.decode(sample.prompt)
        assert task.score(task.solve(text), sample) == 1.0
        assert text.count(sample.text) == (2 if name == "passkey" else 1)
        assert units.decode(sample.prompt + sample.answer) == text + " " + sample.text


@pytest.mark.parametrize("name", TASKS)
def test_prompts_read_like_text_that_was_tokenised_whole(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    task: Task = Passkey() if name == "passkey" else short_niah(tokenizer)
    sample = task.sample(300, random.Random(0), TokenUnits(tokenizer), 0.5)
    ids = (sample.prompt + sample.answer)[1:]
    again = tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids
    assert len(again) <= len(ids) <= len(again) + (8 if name == "passkey" else 0)  # filler may end inside a word


def test_answers_are_scored_by_their_first_number() -> None:
    sample = Sample([1], [2], "12345", 0.5)
    for task in (Passkey(), NeedleInHaystack((1,))):
        assert task.score(" 12345. The grass 9", sample) == 1.0
        assert task.score("9 12345", sample) == task.score("1234", sample) == task.score("none", sample) == 0.0


@pytest.mark.parametrize("name", TASKS)
def test_too_short_is_said(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    task: Task = Passkey() if name == "passkey" else short_niah(tokenizer)
    with pytest.raises(TooShort, match=f"{name} needs more than .* 20 were asked for"):
        task.sample(20, random.Random(0), TokenUnits(tokenizer))


def test_a_reader_of_the_last_window_passes_exactly_the_deep_needles(tokenizer: PreTrainedTokenizerFast) -> None:
    """Depth p is inside a window of half the prompt if (1 - p) of the haystack, the needle and the question fit."""
    units, task = TokenUnits(tokenizer), NeedleInHaystack(tuple(units_of(tokenizer)))
    window, n = 2048, 4096
    passed = []
    for tenth in range(11):
        sample = task.sample(n, random.Random(tenth), units, tenth / 10)
        seen = units.decode((sample.prompt + sample.answer)[-window : -len(sample.answer)])
        passed.append(task.score(task.solve(seen), sample))
    assert passed == [0.0] * 6 + [1.0] * 5


def units_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(" Words without an end", add_special_tokens=False).input_ids)


def test_a_reader_of_half_the_prompt_finds_half_the_passkeys(tokenizer: PreTrainedTokenizerFast) -> None:
    units, task = TokenUnits(tokenizer), Passkey()
    depths, found = spread_depths(100, seed=0), 0.0
    for i, depth in enumerate(depths):
        sample = task.sample(4096, random.Random(i), units, depth)
        seen = units.decode(sample.prompt[-2048:])
        found += task.score(task.solve(seen), sample)
    overhead = (len(units.ids(" What is the pass key? The pass key is")) + 80) / 4096
    assert 50 - 100 * overhead - 2 <= found <= 50


def test_needles_stand_behind_a_sentence_if_one_ends_near(tokenizer: PreTrainedTokenizerFast, niah: Task) -> None:
    units = TokenUnits(tokenizer)
    for seed in range(20):
        sample = short_niah(tokenizer).sample(500, random.Random(seed), units, 0.5)
        assert units.decode(sample.prompt).split(" The access code for")[0].endswith(".")
        for depth in (0.0, 0.5, 1.0):
            sample = niah.sample(1500, random.Random(seed), units, depth)
            before = units.decode(sample.prompt).index(" The access code for")
            assert before == pytest.approx(depth * len(units.decode(sample.prompt)), abs=300)


def test_filler_breaks_between_sentences(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for n in range(0, 90, 7):
        at = units.filler_break(FILLER, n)
        assert at <= n and (at == 0 or units.decode(units.filler(FILLER, at)).endswith("."))
        longest = max(len(units.ids(unit)) for unit in FILLER)
        assert n - at < longest


def test_depths_cover_the_context_evenly() -> None:
    depths = spread_depths(20, seed=1)
    assert all(i / 20 <= depth < (i + 1) / 20 for i, depth in enumerate(depths))
    assert depths == spread_depths(20, seed=1) != spread_depths(20, seed=2)
    assert grid_depths([0, 1], 2) == (0, 0, 1, 1)


def test_a_sample_depends_on_its_cell_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    cell = Cell(Passkey(), 200, (0.1, 0.5, 0.9), 7, units)
    assert cell.sample(1) == Cell(Passkey(), 200, (0.4, 0.5), 7, units).sample(1)
    assert cell.hashes == Cell(Passkey(), 200, (0.1, 0.5, 0.9), 7, units).hashes
    assert len({*cell.hashes, *Cell(Passkey(), 200, (0.1, 0.5, 0.9), 8, units).hashes}) == 6
