from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.backends.backend import Ask
from ropewalk.backends.local import LiveModel, live
from ropewalk.backends.oracles import ConstantModel, WindowOracle
from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore
from ropewalk.evaluation.asking import CHECKED, Asking
from ropewalk.evaluation.contestants import Live
from ropewalk.evaluation.controls import altered, controls, without_context
from ropewalk.evaluation.samples import Cell
from ropewalk.methods.catalogue import method
from ropewalk.report.experiment_page import render
from ropewalk.report.schema import Results
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.tasks.passkey import Passkey
from ropewalk.tasks.sessions import SessAbstain
from ropewalk.tasks.suites import names, suite
from ropewalk.texts.documents import load
from ropewalk.texts.pieces import TokenUnits
from tests.experiments import averages, by_length, experiment, rows, task
from tests.models import THETA, tiny
from tests.tokenizers import VOCABULARY

TASKS = (Passkey(), NeedleInHaystack((0,)))
RETRIEVAL = ("passkey", "niah", "niah-planted")
DOCUMENTS = {name: text[:3000] for name, text in list(load("stdlib").items())[:3]}
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def oracle(tokenizer: PreTrainedTokenizerFast, window: int | None = None) -> WindowOracle:
    return WindowOracle(tokenizer, TASKS, window)


def test_a_solver_scores_everything_and_its_controls_say_so(tokenizer) -> None:
    found = experiment(oracle(tokenizer), tasks=RETRIEVAL, lengths=[512, 1024], samples=10)
    assert all(by_length(found, task) == {512: 1.0, 1024: 1.0} for task in RETRIEVAL)
    for summary in found.subjects[0].tasks:
        assert summary.effective_length.value == 1024 and summary.checked == 0
        values = {name: score.value for name, score in summary.controls.items()}
        assert values == {"ceiling": 1.0, "closed book": 0.0, "altered": 0.0}
    assert averages(found)[1024].value == 1.0 and averages(found)[1024].passing > 0.7
    assert not averages(found, "small/low"), "all are of one kind"
    assert found.subjects[0].effective_length.value == 1024
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_window_shows_as_effective_length_and_depth(tokenizer) -> None:
    found = experiment(
        oracle(tokenizer, 1100), tasks=["niah", "niah-planted"], lengths=[512, 1024, 2048], samples=15, depths=DEPTHS
    )
    for name in ("niah", "niah-planted"):
        assert by_length(found, name) == {512: 1.0, 1024: 1.0, 2048: pytest.approx(0.6)}
        depths = {row.depth: row.value for row in rows(found, task=name, length=2048)}
        assert [depths[p] for p in DEPTHS] == [0, 0, 1, 1, 1]
    assert {summary.effective_length.value for summary in found.subjects[0].tasks} == {1024}
    assert averages(found)[2048].passing < 0.1 < 0.5 < averages(found)[1024].passing


def test_a_constant_model_has_the_perplexity_of_its_vocabulary(tokenizer) -> None:
    found = experiment(
        ConstantModel(tokenizer, 1234),
        tasks=["ppl", "passkey"],
        lengths=[256, 512],
        samples=5,
        texts=DOCUMENTS,
    )
    assert all(value == pytest.approx(1234) for value in by_length(found, "ppl").values())
    assert all(row.value == pytest.approx(math.log(1234)) for row in found.rows if row.task == "position")
    assert by_length(found, "passkey") == {256: 0.0, 512: 0.0}


class Guard(WindowOracle):
    """A window's oracle that counts what it is asked."""

    asked = 0

    def ask(self, asks: Sequence[Ask]):
        self.asked += len(asks)
        return super().ask(asks)


def test_stopping_early_finds_the_same_length_with_fewer_samples(tokenizer) -> None:
    lengths = [512 * 2**i for i in range(6)]
    whole, few = Guard(tokenizer, TASKS, 5000), Guard(tokenizer, TASKS, 5000)
    arguments = {"tasks": ["passkey"], "lengths": lengths, "samples": 40}
    plain, early = experiment(whole, **arguments), experiment(few, **arguments, sequential=True)
    assert task(plain, "passkey").effective_length.value == task(early, "passkey").effective_length.value == 4096
    assert few.asked < 0.65 * whole.asked and set(task(early, "passkey").early) <= set(lengths)
    tested = by_length(early, "passkey")
    assert {4096, 8192} <= set(tested) and len(tested) < len(lengths)
    assert early.settings["sequential"]["p1"] == 0.9 and task(early, "passkey").early


def test_controls_keep_the_question_and_take_the_answer(tokenizer) -> None:
    units = TokenUnits(tokenizer)
    cell = Cell(Passkey(), 300, (0.1, 0.9, 0.5), 0, units)
    made = controls(cell, 3)
    for i in range(3):
        ceiling, closed, other = (
            units.decode(made[name].sample(i).prompt) for name in ("ceiling", "closed book", "altered")
        )
        original = cell.sample(i)
        assert all(text.endswith("What is the pass key? The pass key is") for text in (ceiling, closed, other))
        assert len(ceiling) < 0.6 * len(units.decode(original.prompt)) and made["ceiling"].sample(i).text in ceiling
        assert made["closed book"].sample(i).text not in closed and len(closed) < 120
        text = units.decode(original.prompt[original.before : len(original.prompt) - original.after])
        assert closed == units.decode(original.prompt).replace(text, ""), "the question alone"
        assert original.text not in other and len(made["altered"].sample(i).prompt) == len(original.prompt)
        assert Passkey().solve(other) not in ("", original.text)


def test_controls_that_a_task_does_not_allow_are_left_out(tokenizer) -> None:
    sample = Cell(Passkey(), 300, (0.5,), 0, TokenUnits(tokenizer)).sample(0)
    assert altered(sample, [sample]) is None, "nothing to put in its place"
    spread = type(sample)([1, 2, 3], [9], "9", 0.5)
    assert without_context(spread, [0]) is None and altered(spread, [sample]) is None


def test_some_teacher_forced_answers_are_decoded_as_well(tokenizer) -> None:
    model = tiny("llama", vocab_size=VOCABULARY)
    with SampleStore() as store, live(model, tokenizer, method("yarn"), 256) as backend:
        cell = Cell(Passkey(), 200, tuple(i / 21 for i in range(21)), 0, TokenUnits(tokenizer))
        answers = Asking(backend, "yarn", store).answers([cell])["passkey", 200]
        assert [answer.decoded for answer in answers] == [True if i % CHECKED == 0 else None for i in range(21)]
        assert backend.how == "packed"
    with live(model, tokenizer, method("dynamic-ntk"), 256) as backend:
        answers = Asking(backend, "dynamic-ntk", SampleStore()).answers([cell])["passkey", 200]
        assert {answer.decoded for answer in answers} == {None}
        assert backend.how == "plain: results depend on the length of the input" and backend.length_dependent


def test_a_live_model_is_measured_as_by_hand_and_resumes(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", vocab_size=VOCABULARY, max_position_embeddings=512, rope_parameters=THETA)
    arguments = {"tasks": ["ppl", "niah-planted"], "lengths": [128, 256], "samples": 6, "depths": (0.0, 0.5, 1.0),
                 "texts": DOCUMENTS, "methods": [method("pi")], "to": 1024}  # fmt: skip
    contestant = Live(model, tokenizer, "m")
    with SampleStore() as store:
        found = experiment(contestant, store=store, **arguments)
        (subject,) = found.subjects
        assert subject.how == "packed" and subject.tokens["read"] < subject.tokens["asked"]
        monkeypatch.setattr(LiveModel, "ask", None)
        monkeypatch.setattr(LiveModel, "rolling", None)
        again = experiment(contestant, store=store, **arguments)
    assert again.rows == found.rows and again.subjects[0].tasks == subject.tasks
    assert set(by_length(found, "ppl", "pi")) == {128, 256}


def test_perplexity_leaves_out_lengths_that_no_document_has(tokenizer) -> None:
    found = experiment(
        ConstantModel(tokenizer, 10),
        tasks=["ppl"],
        lengths=[64, 100_000],
        texts={"a": "word " * 90, "b": "text " * 99},
    )
    assert by_length(found, "ppl") == {64: pytest.approx(10)}
    (skipped,) = found.not_measured
    assert (skipped.task, skipped.length) == ("ppl", 100_000) and "fewer than 2 documents" in skipped.reason
    assert averages(found) == {} and found.subjects[0].effective_length is None


def test_suites_are_sizes_and_families() -> None:
    assert names()[:3] == ["smoke", "standard", "publication"] and "retrieval" in names()
    assert suite("smoke").samples == 10 and suite("standard").samples >= 50
    assert suite("retrieval").tasks == RETRIEVAL
    with pytest.raises(UserError, match="unknown task or suite 'smok'; did you mean 'smoke'"):
        suite("smok")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"tasks": []}, "no tasks"), ({"lengths": []}, "expected numbers of tokens"), ({"samples": 0}, "at least 1"),
     ({"depths": (0.5, 0.5)}, "different numbers"), ({"tasks": ["nih"]}, "did you mean 'niah'")],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(tokenizer, change: dict, message: str) -> None:
    arguments = {"tasks": ["niah"], "lengths": [256], "samples": 2, **change}
    with pytest.raises(UserError, match=message):
        experiment(oracle(tokenizer), **arguments)


def test_oracles_answer_behind_the_seam_of_models(tokenizer) -> None:
    rng, units = random.Random(0), TokenUnits(tokenizer)
    sample = Passkey().sample(200, rng, units)
    solver, constant = oracle(tokenizer), ConstantModel(tokenizer, 50)
    assert solver.generate([sample.prompt], [6]) == [sample.text]
    assert constant.loglikelihood([(sample.prompt, [0, 0]), (sample.prompt, [0, 1])]) == [
        (pytest.approx(-2 * math.log(50)), True), (pytest.approx(-2 * math.log(50)), False),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="does not know probabilities"):
        solver.loglikelihood([(sample.prompt, sample.answer)])


class Refusing(WindowOracle):
    """Says that it does not know, whatever is asked."""

    def _solve(self, prompt: str) -> str:
        return "unknown; unknown"


def test_what_answers_show_besides_their_score_is_told_by_length(tokenizer) -> None:
    for backend, score, told in (
        (Refusing(tokenizer, []), 0.0, 0.0),
        (WindowOracle(tokenizer, [SessAbstain()]), 1.0, 1.0),
    ):
        found = experiment(backend, tasks=["sess-abstain"], lengths=[1500, 2000], samples=4, controls=False)
        assert by_length(found, "sess-abstain") == {1500: score, 2000: score}
        readings = {(one.name, one.length): one for one in task(found, "sess-abstain").readings}
        assert len(readings) == 6 and {one.n for one in readings.values()} == {4}
        for length in (1500, 2000):
            assert readings["told and answered", length].value == told
            assert readings["not told and refused", length].value == 1.0
            assert readings["not told and something else given", length].value == 0.0
        assert Results.of(json.loads(json.dumps(found.to_dict()))).subjects == found.subjects
        assert "A fact that is told, and one that is not: not told and refused" in render(found)
