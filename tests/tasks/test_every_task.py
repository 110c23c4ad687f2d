from __future__ import annotations

import random

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ropewalk.tasks.context import SPARE
from ropewalk.tasks.task import TooShort
from ropewalk.texts.pieces import TokenUnits
from tests.tasks.matrix import CASES, Case

every_task = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_task
def test_length_is_exact_and_the_solver_always_right(case: Case, any_tokenizer: PreTrainedTokenizerBase) -> None:
    units, rng = TokenUnits(any_tokenizer), random.Random(0)
    for n in case.lengths:
        for depth in (0.0, 0.4, 1.0, None):
            sample = case.task.sample(n, rng, units, depth)
            assert len(sample.prompt) + sample.room == n
            assert sample.room == len(sample.answer) + (SPARE if case.task.free else 0)
            assert [i for i, token in enumerate(sample.prompt) if token == any_tokenizer.bos_token_id] == [0]
            text = units.decode(sample.prompt)
            assert case.task.score(case.task.solve(text), sample) == 1.0
            assert case.task.score(f" {sample.text}", sample) == 1.0
            assert units.decode(sample.prompt + sample.answer) == f"{text} {sample.text}"


@every_task
def test_questions_share_their_context(case: Case, tokenizer: PreTrainedTokenizerFast) -> None:
    units, n = TokenUnits(tokenizer), case.lengths[-1]
    samples = case.task.questions(n, random.Random(1), units, 3)
    assert 1 <= len(samples) <= 3
    prompts = [sample.prompt for sample in samples]
    shared = next((i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1), n)
    assert all(len(sample.prompt) - shared < 300 for sample in samples)
    for sample in samples:
        assert len(sample.prompt) + sample.room == n and sample.room >= len(sample.answer)
        assert case.task.score(case.task.solve(units.decode(sample.prompt)), sample) == 1.0


@every_task
def test_samples_depend_on_the_rng_alone(case: Case, tokenizer: PreTrainedTokenizerFast) -> None:
    units, n = TokenUnits(tokenizer), case.lengths[0]
    first, again, other = (case.task.sample(n, random.Random(seed), TokenUnits(tokenizer)) for seed in (5, 5, 6))
    assert (first.prompt, first.answer) == (again.prompt, again.answer)
    assert (first.prompt, first.answer) != (other.prompt, other.answer)
    assert case.task.sample(n, random.Random(5), units).prompt == first.prompt


@every_task
def test_another_fact_is_another_answer(case: Case, tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for seed in range(8):
        sample = case.task.sample(case.lengths[0], random.Random(seed), units)
        text = units.decode(sample.prompt)
        changed = case.perturb(text, sample)
        assert changed != text
        assert case.task.score(case.task.solve(changed), sample) < 1.0


@every_task
def test_wrong_answers_score_nothing(case: Case, tokenizer: PreTrainedTokenizerFast) -> None:
    sample = case.task.sample(case.lengths[0], random.Random(2), TokenUnits(tokenizer))
    for wrong in ("", " zzz qqq", " ?!", " 987654321987"):
        assert case.task.score(wrong, sample) <= case.in_common


@every_task
def test_too_short_is_said(case: Case, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TooShort, match=f"{case.task.name} needs more than .* 20 were asked for"):
        case.task.sample(20, random.Random(0), TokenUnits(tokenizer))


@every_task
def test_labels_say_how_much_is_needed_and_how_hard_it_is_to_find(case: Case) -> None:
    assert case.task.scope in ("small", "large") and case.task.diffusion in ("low", "high")
