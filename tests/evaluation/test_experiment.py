"""Several methods on one model: the same documents and prompts, every sample computed once."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ropewalk.backends.backend import Ask, Reply
from ropewalk.backends.local import LiveModel
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import model_fingerprint, tokenizer_fingerprint
from ropewalk.common.progress import Progress
from ropewalk.common.store import SampleStore
from ropewalk.evaluation.asking import Answer
from ropewalk.evaluation.contestants import Live
from ropewalk.evaluation.experiment import Experiment, default_lengths
from ropewalk.evaluation.findings import gain
from ropewalk.methods.base import Method
from ropewalk.methods.catalogue import method
from ropewalk.methods.frequencies.none import Plain
from ropewalk.report.schema import Gain, Results
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.tasks.passkey import Passkey
from ropewalk.texts.documents import load, tokenise
from ropewalk.workflows.strategies.many_shot import ManyShot
from tests.experiments import experiment, row, rows
from tests.models import THETA, tiny
from tests.tokenizers import VOCABULARY, byte_level


@dataclass(frozen=True)
class Scaled(Method):
    """Multiplies the head, so that losses change and 1 changes nothing."""

    factor: float = 1.0
    name: ClassVar[str] = "scaled"
    axes: ClassVar[frozenset[str]] = frozenset({"temperature"})

    @property
    def id(self) -> str:
        return f"scaled({self.factor})"

    @contextmanager
    def applied(self, model: PreTrainedModel, to: int | None) -> Iterator[None]:
        head = model.get_output_embeddings().weight
        kept = head.detach().clone()
        with torch.no_grad():
            head.mul_(self.factor)
        try:
            yield
        finally:
            with torch.no_grad():
                head.copy_(kept)

    def fingerprint(self, model: PreTrainedModel, to: int) -> str:
        return f"{self.factor} {to}"


DOCUMENTS = {name: text[:4000] for name, text in list(load("stdlib").items())[:3]}
SMALL: dict[str, Any] = {"to": 400, "texts": DOCUMENTS, "samples": 4, "depths": (0.0, 1.0), "seeds": (5,)}
TASKS = ("ppl", "passkey", "niah")


def compare(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, methods: Sequence[Method], **options: Any
) -> Results:
    """The plain model and other methods, on a model with a window of 128 tokens."""
    arguments: dict[str, Any] = {"tasks": TASKS, "controls": False, **SMALL, **options}
    window = arguments.pop("window", 128)
    return experiment(Live(model, tokenizer, "m", window), methods=[Plain(), *methods], **arguments)


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny("llama", vocab_size=VOCABULARY)


def test_lengths_double_up_to_the_target() -> None:
    assert default_lengths(512, 4096) == [256, 512, 1024, 2048, 4096]
    assert default_lengths(512, 3000) == [256, 512, 1024, 2048, 3000]
    assert default_lengths(512, 200) == [200]


def test_the_plain_model_comes_first_and_equals_a_method_that_does_nothing(model, tokenizer) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = compare(model, tokenizer, [Scaled(1.0), Scaled(0.5)])
    plain, same, other = found.subjects
    assert [subject.method for subject in found.subjects] == ["none", "scaled(1.0)", "scaled(0.5)"]
    assert [change.value for change in same.short_tax] == [0.0] * 2 and same.perplexity_at_to == plain.perplexity_at_to
    assert all(change.value < 0 and change.high < 0 for change in other.short_tax), "a random model gains by doubt"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_perplexity_rows_are_those_of_separate_forwards(model, tokenizer) -> None:
    found = compare(model, tokenizer, [], tasks=["ppl"])
    ids = torch.tensor([row[:400] for row in tokenise(DOCUMENTS, tokenizer, 400).values()])
    for n in (64, 128, 256, 400):
        with torch.no_grad():
            loss = model(ids[:, :n], attention_mask=torch.ones_like(ids[:, :n]), labels=ids[:, :n]).loss.item()
        one = row(found, task="ppl", length=n)
        assert one.value == pytest.approx(math.exp(loss), rel=1e-5)
        assert one.n == 3 and one.low < one.value < one.high
    buckets = rows(found, task="position")
    assert [one.start for one in buckets] == [1, 128, 181, 256, 362] and [one.length for one in buckets][-1] == 400
    mean = sum(one.value * (one.length - one.start) for one in buckets) / 399
    assert math.exp(mean) == pytest.approx(found.subjects[0].perplexity_at_to.value, rel=1e-12)
    assert found.subjects[0].tail_perplexity.value == pytest.approx(math.exp(buckets[-1].value))
    assert found.subjects[0].effective_length is None


def test_length_dependent_models_get_a_forward_per_length(tokenizer) -> None:
    rope = {**THETA, "rope_type": "dynamic", "factor": 4.0}
    found = compare(tiny("llama", vocab_size=VOCABULARY, rope_parameters=rope), tokenizer, [], tasks=["ppl"])
    assert found.subjects[0].length_dependent
    model = tiny("llama", vocab_size=VOCABULARY, rope_parameters=rope)  # afresh: dynamic rope remembers lengths
    ids = torch.tensor([row[:256] for row in tokenise(DOCUMENTS, tokenizer, 400).values()])
    with torch.no_grad():
        loss = model(ids, attention_mask=torch.ones_like(ids), labels=ids).loss.item()
    assert row(found, task="ppl", length=256).value == pytest.approx(math.exp(loss), rel=1e-5)


@pytest.fixture
def reader_of_the_last(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    """Stands in for the model: answers from the last ``window`` tokens of each prompt."""

    def install(window: int) -> None:
        def answer(backend: LiveModel, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
            tasks = (Passkey(), NeedleInHaystack((0,)))
            for i, ask in enumerate(asks):
                seen, wanted = tokenizer.decode(ask.prompt[-window:]), tokenizer.decode(ask.answer).strip()
                right = any(task.solve(seen) == wanted for task in tasks)
                yield i, Reply(right, -1.0, tuple(ask.answer) if right else ())

        monkeypatch.setattr(LiveModel, "ask", answer)

    return install


def test_retrieval_rows_show_where_a_reader_stops(model, tokenizer, reader_of_the_last) -> None:
    reader_of_the_last(700)
    found = compare(
        model,
        tokenizer,
        [],
        window=512,
        to=2048,
        tasks=["passkey", "niah"],
        texts={},
        samples=9,
        depths=(0.0, 0.5, 1.0),
    )
    accuracy = {one.length: one.value for one in rows(found, task="niah", depth=None)}
    assert accuracy[256] == accuracy[512] == 1.0 and accuracy[2048] == pytest.approx(1 / 3)
    by_depth = {one.depth: one.value for one in rows(found, task="niah", length=2048)}
    assert (by_depth[0.0], by_depth[0.5], by_depth[1.0]) == (0.0, 0.0, 1.0)
    passkeys = row(found, task="passkey", length=2048)
    assert passkeys.n == 9 and 0 < passkeys.value < 0.5 and passkeys.low < passkeys.value < passkeys.high
    effective = found.subjects[0].effective_length
    assert effective.value == 512 and effective.low == 0 and effective.high in (512, 1024)
    assert found.subjects[0].average(2048).n == 18
    assert found.subjects[0].beyond_window is None and found.settings["documents"] == []


def test_a_gain_pairs_a_method_with_the_plain_model_beyond_the_window() -> None:
    def answers(short: str, long: str) -> dict[tuple[str, int], list[Answer]]:
        right = {("passkey", 256): short, ("passkey", 1024): long}
        return {cell: [Answer(0.5, mark == "x") for mark in marks] for cell, marks in right.items()}

    plain, other = answers("x" * 10, "x........."), answers("........xx", ".xxxxxxxx.")
    assert gain(other, plain, 512) == Gain(only_this=8, only_none=1, p=pytest.approx(20 / 512))
    assert gain(answers("", ""), plain, 512) is None, "not the same samples"


def test_lengths_without_room_are_skipped_with_a_reason(model, tokenizer) -> None:
    found = compare(model, tokenizer, [], tasks=["passkey"], lengths=[16, 200, 400])
    (skipped,) = found.not_measured
    assert (skipped.task, skipped.length, skipped.method) == ("passkey", 16, None)
    assert "passkey needs more than" in skipped.reason
    assert [one.length for one in found.rows] == [200, 400]


def test_what_is_written_is_read_again(model, tokenizer) -> None:
    found = compare(model, tokenizer, [Scaled(0.5)])
    assert Results.of(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_seeds_are_pooled(model, tokenizer) -> None:
    one, two, both = (
        row(compare(model, tokenizer, [], tasks=["passkey"], seeds=seeds), length=256) for seeds in ((5,), (6,), (5, 6))
    )
    assert both.n == one.n + two.n == 8 and both.value == (one.value + two.value) / 2


def test_what_is_not_causal_has_no_losses_and_decodes_its_answers(model, tokenizer) -> None:
    block = method("longcache(block=8,local=8,span=8)")
    assert not block.causal
    found = compare(model, tokenizer, [block], tasks=["ppl", "passkey"])
    plain, other = found.subjects
    assert plain.causal and not other.causal and plain.perplexity_at_to and other.perplexity_at_to is None
    assert not rows(found, method=block.id, task="ppl") and not rows(found, method=block.id, task="position")
    (lost,) = (one for one in found.not_measured if one.method)
    assert (lost.task, lost.method, lost.length) == ("ppl", block.id, None) and "see the future" in lost.reason
    assert "decoded token by token" in other.how and rows(found, method=block.id, task="passkey")
    with Live(model, tokenizer, "m").asked(block, 400) as backend, pytest.raises(UserError, match="see the future"):
        list(backend.rolling([[1, 2, 3]]))


def test_finished_samples_are_never_computed_again(model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    with SampleStore() as store:
        first = compare(model, tokenizer, [Scaled(0.5)], store=store, progress=seen.append)
        kept = len(store)
        assert seen[-1].done == seen[-1].total and seen[0].done == 0
        later = [progress.done for progress in seen if progress.done]
        assert later == sorted(set(later))
        for name in ("ask", "rolling"):
            monkeypatch.setattr(LiveModel, name, None)
        again = compare(model, tokenizer, [Scaled(0.5)], store=store)
        assert again.rows == first.rows and undated(again) == undated(first)
        assert len(store) == kept
        monkeypatch.undo()
        compare(model, tokenizer, [Scaled(0.5), Scaled(0.25)], store=store)
        assert len(store) == kept * 3 // 2, "a new method is all that is computed"


@pytest.mark.parametrize(
    "change",
    [{"seeds": (6,)}, {"model": "weights"}, {"model": "config"}, {"methods": [Scaled(0.4)]}],
    ids=["seed", "weights", "config", "method"],
)
def test_whatever_matters_makes_new_samples(model, tokenizer, change: dict) -> None:
    with SampleStore() as store:
        arguments: dict[str, Any] = {"tasks": ["passkey"]}
        compare(model, tokenizer, [], store=store, **arguments)
        kept = len(store)
        if change.get("model") == "weights":
            with torch.no_grad():
                model.get_output_embeddings().weight[3, 5] += 0.1
        if change.get("model") == "config":
            model.config.rms_norm_eps = 1e-3
        arguments |= {"seeds": change.get("seeds", SMALL["seeds"])}
        compare(model, tokenizer, change.get("methods", []), store=store, **arguments)
        assert len(store) == 2 * kept


ROOT = Path(__file__).parents[2]
CHILD = """
import sys, torch
torch.set_num_threads(1)
from ropewalk.common import store
from tests.evaluation.test_experiment import interrupted
log = open(sys.argv[2], "a")
class Logged(store.SampleStore):
    def put(self, records):
        super().put(records)
        print(*records, file=log, flush=True)
interrupted(Logged(sys.argv[1]))
"""


def interrupted(store: SampleStore) -> Results:
    model = tiny("llama", vocab_size=VOCABULARY)
    return undated(compare(model, byte_level(), [Scaled(0.5)], tasks=["ppl", "passkey"], store=store))


def undated(found: Results) -> Results:
    """Without what differs from run to run."""
    subjects = [replace(subject, tokens=None) for subject in found.subjects]
    return replace(found, subjects=subjects, seconds=None, created="")


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "samples.sqlite"), str(log)], cwd=ROOT)
    while process.poll() is None and len(log.read_text().splitlines()) < 9:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    before = [key for line in log.read_text().splitlines(keepends=True) if line.endswith("\n") for key in line.split()]
    after: list[str] = []

    class Logged(SampleStore):
        def put(self, records):
            after.extend(records)
            super().put(records)

    with Logged(tmp_path / "samples.sqlite") as store:
        resumed = interrupted(store)
        assert after and not set(before) & set(after)
        assert len(after) == len(set(after))
        assert 0 <= len(store) - len(before) - len(after) <= 1, "committed just before the kill, not yet in the log"
    assert resumed == interrupted(SampleStore())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["pp"]}, "unknown task 'pp'"),
        ({"tasks": []}, "no tasks"),
        ({"lengths": [100, 500]}, "length 500 is not in 2..400"),
        ({"lengths": [1]}, "expected numbers of tokens from 2 on"),
        ({"samples": 0}, "at least 1"),
        ({"seeds": ()}, "no seeds"),
        ({"depths": (0.5, 1.5)}, "from 0 to 1"),
        ({"methods": [Scaled(2.0), Scaled(2.0)]}, "given twice"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(model, tokenizer, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(model, tokenizer, change.pop("methods", []), **change)


def test_a_model_given_twice_is_no_second_model() -> None:
    with pytest.raises(UserError, match="a model is given twice in demo, demo"):
        Experiment(("demo", "demo"), (Plain(),), ("ppl",))


def test_a_way_to_read_examples_is_none_to_read_a_text() -> None:
    with pytest.raises(UserError, match="many-shot reads examples with their answers"):
        Experiment(("demo",), (), ("niah_single_1",), strategies=(ManyShot(),))


def test_fingerprints_tell_what_matters_apart(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    same = model_fingerprint(tiny("llama"))
    moved = tiny("llama")
    moved.config.name_or_path = "/elsewhere"
    assert model_fingerprint(moved) == same
    assert model_fingerprint(tiny("llama").bfloat16()) != same != model_fingerprint(tiny("llama", rms_norm_eps=1e-5))
    monkeypatch.setattr("ropewalk.common.fingerprints.WHOLE_BYTES", 0)
    sampled, changed = model_fingerprint(tiny("llama")), tiny("llama")
    with torch.no_grad():
        changed.model.layers[0].mlp.up_proj.weight.mul_(1.001)
    assert model_fingerprint(tiny("llama")) == sampled != model_fingerprint(changed)
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(byte_level())
