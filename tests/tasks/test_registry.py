"""Every task of the registry, through ``evaluate``."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.backends.backend import Ask, Backend
from ropewalk.backends.local import live
from ropewalk.backends.oracles import ConstantModel, WindowOracle
from ropewalk.common.errors import UserError
from ropewalk.methods.catalogue import method
from ropewalk.tasks.altered_qa import Page
from ropewalk.tasks.length_generalization import ALGORITHMS
from ropewalk.tasks.registry import ALGORITHMS as LISTED
from ropewalk.tasks.registry import TASKS, Material, make
from ropewalk.tasks.ruler import CONFIGURATIONS
from ropewalk.tasks.ruler.qa import fictional
from ropewalk.tasks.ruler.qa_files import material as qa_material
from ropewalk.tasks.suites import names, possible, suite
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts.pieces import TokenUnits
from ropewalk.verbs.evaluate import EvaluateRequest, asked
from tests.experiments import averages, experiment, task
from tests.models import THETA, tiny
from tests.tokenizers import VOCABULARY, byte_level

FAMILIES = [
    "retrieval", "ruler", "infinitebench", "longchat", "film", "longbio", "babilong", "flenqa", "more-documents",
    "posgen", "position-wise", "length-generalisation", "longproc", "quoted",
]  # fmt: skip
IN_COMMON = {"rot-repeat": 0.01}  # letters of any two texts, where similar ones score something
PAGE = Page("The mill at Oakby was built in 1731. It has 12 wheels.", "When was the mill at Oakby built?", "1731")
GIVEN = {"squad": fictional(40, 1), "hotpotqa": fictional(40, 2), "pages": (PAGE,)}


@cache
def material() -> Material:
    return Material(byte_level(), GIVEN)


@cache
def parts() -> dict[str, Any]:
    """The material, made once for all tests."""
    return GIVEN | {part: material()[part] for part in ("haystack", "sentence_ends", "functions", "sentences")}


def shortest(task: Task, units: TokenUnits) -> int:
    """The smallest power of two from 1024 on that holds a context."""
    length = 1024
    while True:
        try:
            for seed in range(4):
                task.questions(length, random.Random(seed), units, 1)
            return length
        except TooShort:
            length *= 2


def several(task: Task, length: int, units: TokenUnits) -> list[list[Sample]]:
    """Three questions about each of some contexts, at the first power of two that holds them."""
    try:
        return [task.questions(length, random.Random(seed), units, 3) for seed in range(4)]
    except TooShort:
        return several(task, 2 * length, units)


@pytest.mark.parametrize("name", TASKS)
def test_every_prompt_is_what_stands_before_a_text_the_text_and_a_question(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    made, units, guessed = make(name, material()), TokenUnits(tokenizer), []
    for some in several(made, shortest(made, units), units):
        for one in some:
            if name.startswith(("posgen", "lengen")):
                assert (one.before, one.after) == (0, 0), "what is asked about is the question"
                continue
            assert one.before >= len(units.bos) and one.after > 0
            assert len(one.prompt) - one.before - one.after > len(one.prompt) // 4
            assert one.prompt[: -one.after] == some[0].prompt[: -some[0].after], "questions share all but the question"
            stem = units.decode(one.prompt[-one.after :])
            assert stem[0].isspace() and not stem[-1].isspace()
            apart = units.decode(one.prompt[: one.before]) + stem
            try:
                guessed.append(made.score(made.solve(apart), one) == 1.0)
            except Exception:  # a solver may rely on the text
                guessed.append(False)
        if len({one.text for one in some}) == len(some) > 1 and some[0].after:
            assert len({tuple(one.prompt[-one.after :]) for one in some}) == len(some)
    assert not guessed or not all(guessed), "the answer stands in the text alone"


@pytest.mark.parametrize("name", TASKS)
def test_rules_solve_every_task_and_a_constant_model_none(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    made = make(name, material())
    assert made.name == name or name == "niah-planted"
    assert made.scope in ("small", "large") and made.diffusion in ("low", "high")
    arguments: dict[str, Any] = {
        "tasks": [name], "lengths": [shortest(made, TokenUnits(tokenizer))], "samples": 2, "given": parts(),
        "depths": (0.3, 0.8), "controls": False,
    }  # fmt: skip
    backends: list[tuple[Backend, float]] = [
        (WindowOracle(tokenizer, [made]), 1.0), (ConstantModel(tokenizer, VOCABULARY), 0.0),
    ]  # fmt: skip
    for backend, expected in backends:
        found = experiment(backend, **arguments)
        assert not found.not_measured
        if name in IN_COMMON and not expected:
            assert {0 < row.value < IN_COMMON[name] for row in found.rows} == {True}
        else:
            assert {row.value for row in found.rows} == {expected}
        json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "name", ["babilong_qa6", "flenqa_rules_text", "posgen_recurrent", "kv_retrieval", "qa_1", "cwe"]
)
def test_controls_that_stay_take_the_answer_away(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    made = make(name, material())
    length = shortest(made, TokenUnits(tokenizer))
    found = experiment(WindowOracle(tokenizer, [made]), tasks=[name], lengths=[length], samples=4, given=parts())
    controls = {control: score.value for control, score in task(found, name).controls.items()}
    assert controls.pop("ceiling") == 1.0
    assert set(controls.values()) <= {0.0}


def test_families_and_algorithms_are_complete() -> None:
    assert names()[4 : 4 + len(FAMILIES)] == FAMILIES and set(LISTED) == set(ALGORITHMS)
    assert suite("ruler").tasks == tuple(CONFIGURATIONS)
    for family in FAMILIES:
        assert suite(family).tasks


def test_what_the_user_does_not_have_is_replaced_or_left_out() -> None:
    ruler, instead = possible(suite("ruler"), {})
    assert instead == {"qa_1": "qa_1_synthetic", "qa_2": "qa_2_synthetic"} and len(ruler.tasks) == 13
    assert ruler.tasks[-2:] == ("qa_1_synthetic", "qa_2_synthetic")
    assert possible(suite("longchat"), {})[0].tasks == ("lines", "lines_uuids", "lines_letters")
    assert possible(suite("ruler"), GIVEN) == (suite("ruler"), {})
    with pytest.raises(UserError, match="qa_2 asks about texts that are not there"):
        experiment(ConstantModel(byte_level(), 9), tasks=["qa_2"], lengths=[512])


def test_questions_come_from_the_users_files(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    answer = {"text": "1731", "answer_start": PAGE.document.index("1731")}
    qas = [{"id": "1", "question": PAGE.question, "answers": [answer]}]
    squad = {"data": [{"title": "Oakby", "paragraphs": [{"context": PAGE.document, "qas": qas}]}]}
    (tmp_path / "qa_1.json").write_text(json.dumps(squad))
    given = qa_material(tmp_path)
    assert given["pages"] == (PAGE,) and list(given) == ["squad", "pages"]
    chosen, instead = asked(EvaluateRequest("demo", suite="ruler", qa=str(tmp_path)))
    assert "qa_1" in chosen.tasks and instead == {"qa_2": "qa_2_synthetic"}
    sample = make("qa_1", Material(tokenizer, given)).sample(600, random.Random(0), TokenUnits(tokenizer))
    assert sample.text == "1731" and PAGE.question in TokenUnits(tokenizer).decode(sample.prompt)
    with pytest.raises(UserError, match="neither qa_1"):
        qa_material(tmp_path / "nothing")


def test_shared_prefixes_give_what_separate_prompts_give(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", vocab_size=VOCABULARY, max_position_embeddings=2048, rope_parameters=THETA)
    tasks = ["kv_retrieval", "qa_1_synthetic", "val_database", "babilong_qa1", "longbio_pronoun"]
    arguments: dict[str, Any] = {"tasks": tasks, "lengths": [600], "samples": 4, "controls": False}
    with live(model, tokenizer, method("none"), 2048) as backend:
        packed = experiment(backend, **arguments)
        (subject,) = packed.subjects
        assert subject.how == "packed" and subject.tokens["read"] < 0.5 * subject.tokens["asked"]
    with live(model, tokenizer, method("none"), 2048) as backend:
        backend.runner.way, backend.checks = "plain", False
        plain = experiment(backend, **arguments)
    assert packed.rows == plain.rows
    assert all(one.checked == one.agreed for one in subject.tasks)


class Written(ConstantModel):
    """Counts what is asked of it."""

    asked = 0

    def ask(self, asks: list[Ask]) -> Any:
        self.asked += len(asks)
        return super().ask(asks)


def test_a_lite_suite_asks_fifty_contexts(tokenizer: PreTrainedTokenizerFast) -> None:
    lite = suite("ruler-lite")
    assert (lite.samples, lite.contexts) == (200, 50)
    backend = Written(tokenizer, VOCABULARY)
    found = experiment(
        backend, tasks=["niah_single_1", "niah_multikey_1"], lengths=[512], samples=12, contexts=3, controls=False
    )
    assert {row.task: row.n for row in found.rows} == {"niah_single_1": 3, "niah_multikey_1": 12}
    assert backend.asked == 15 and averages(found)[512].se > 0
