from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ropewalk.backends.backend import Ask, Reply
from ropewalk.backends.local import LiveModel
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import model_fingerprint, tokenizer_fingerprint
from ropewalk.common.store import SampleStore
from ropewalk.evaluation.asking import Answer, Progress
from ropewalk.evaluation.compare import compare, default_lengths
from ropewalk.evaluation.findings import Comparison, Gain, Measured, Row, summarise
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.tasks.passkey import Passkey
from ropewalk.texts.documents import load, tokenise
from tests.models import THETA, tiny
from tests.tokenizers import VOCABULARY, byte_level


@dataclass(frozen=True)
class Scaled:
    """Multiplies the head, so that losses change and 1 changes nothing."""

    factor: float = 1.0
    length_dependent: bool = False

    @property
    def id(self) -> str:
        return f"scaled({self.factor})"

    @contextmanager
    def on(self, model: PreTrainedModel, to: int) -> Iterator[None]:
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
SMALL = {"window": 128, "to": 400, "documents": DOCUMENTS, "samples_per_cell": 2, "depths": (0.0, 1.0), "seed": 5}


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny("llama", vocab_size=VOCABULARY)


def pick(found: Comparison, **wanted: object) -> Row:
    (row,) = (row for row in found.results if all(getattr(row, name) == value for name, value in wanted.items()))
    return row


def test_lengths_double_up_to_the_target() -> None:
    assert default_lengths(512, 4096) == [256, 512, 1024, 2048, 4096]
    assert default_lengths(512, 3000) == [256, 512, 1024, 2048, 3000]
    assert default_lengths(512, 200) == [200]


def test_the_plain_model_comes_first_and_equals_a_method_that_does_nothing(model, tokenizer) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = compare(model, tokenizer, [Scaled(1.0), Scaled(0.5)], **SMALL)
    assert [method["id"] for method in found.methods] == ["none", "scaled(1.0)", "scaled(0.5)"]
    plain, same, other = found.summary
    assert [change.value for change in same.short_tax] == [0.0] * 2 and same.perplexity_at_to == plain.perplexity_at_to
    assert all(change.value < 0 and change.high < 0 for change in other.short_tax), "a random model gains by doubt"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_perplexity_rows_are_those_of_separate_forwards(model, tokenizer) -> None:
    found = compare(model, tokenizer, [], tasks=["ppl"], **SMALL)
    ids = torch.tensor([row[:400] for row in tokenise(DOCUMENTS, tokenizer, 400).values()])
    for n in (64, 128, 256, 400):
        with torch.no_grad():
            loss = model(ids[:, :n], attention_mask=torch.ones_like(ids[:, :n]), labels=ids[:, :n]).loss.item()
        row = pick(found, task="ppl", length=n)
        assert row.value == pytest.approx(math.exp(loss), rel=1e-5)
        assert row.n == 3 and row.low < row.value < row.high
    buckets = [row for row in found.results if row.task == "position"]
    assert [row.start for row in buckets] == [1, 128, 181, 256, 362] and [row.length for row in buckets][-1] == 400
    mean = sum(row.value * (row.length - row.start) for row in buckets) / 399
    assert math.exp(mean) == pytest.approx(found.summary[0].perplexity_at_to.value, rel=1e-12)
    assert found.summary[0].tail_perplexity.value == pytest.approx(math.exp(buckets[-1].value))
    assert found.summary[0].effective_length is None


def test_length_dependent_models_get_a_forward_per_length(tokenizer) -> None:
    rope = {**THETA, "rope_type": "dynamic", "factor": 4.0}
    found = compare(tiny("llama", vocab_size=VOCABULARY, rope_parameters=rope), tokenizer, [], tasks=["ppl"], **SMALL)
    assert found.methods[0]["length_dependent"]
    model = tiny("llama", vocab_size=VOCABULARY, rope_parameters=rope)  # afresh: dynamic rope remembers lengths
    ids = torch.tensor([row[:256] for row in tokenise(DOCUMENTS, tokenizer, 400).values()])
    with torch.no_grad():
        loss = model(ids, attention_mask=torch.ones_like(ids), labels=ids).loss.item()
    assert pick(found, task="ppl", length=256).value == pytest.approx(math.exp(loss), rel=1e-5)


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
        model, tokenizer, [], window=512, to=2048, tasks=["passkey", "niah"], documents={}, samples_per_cell=3,
        depths=(0.0, 0.5, 1.0),
    )  # fmt: skip
    accuracy = {row.length: row.value for row in found.results if row.task == "niah" and row.depth is None}
    assert accuracy[256] == accuracy[512] == 1.0 and accuracy[2048] == pytest.approx(1 / 3)
    by_depth = {row.depth: row.value for row in found.results if row.task == "niah" and row.length == 2048}
    assert (by_depth[0.0], by_depth[0.5], by_depth[1.0]) == (0.0, 0.0, 1.0)
    passkeys = pick(found, task="passkey", length=2048)
    assert passkeys.n == 9 and 0 < passkeys.value < 0.5 and passkeys.low < passkeys.value < passkeys.high
    effective = found.summary[0].effective_length
    assert effective.value == 512 and effective.low == 0 and effective.high in (512, 1024)
    assert found.summary[0].accuracy_at_to.n == 18
    assert found.summary[0].beyond_window.p == 1.0
    assert found.settings["documents"] == []


def test_summary_pairs_a_method_with_the_plain_model_beyond_the_window() -> None:
    def measured(short: str, long: str) -> Measured:
        right = {("passkey", 256): short, ("passkey", 1024): long}
        return Measured(None, {cell: [Answer(0.5, mark == "x") for mark in marks] for cell, marks in right.items()})

    plain, method = measured("x" * 10, "x........."), measured("........xx", ".xxxxxxxx.")
    summary = summarise("yarn", method, plain, window=512, to=1024, threshold=0.5, seed=0)
    assert summary.beyond_window == Gain(only_this=8, only_none=1, p=pytest.approx(20 / 512))
    assert summary.accuracy_at_to.value == 0.8 and summary.effective_length.value == 0
    assert summary.short_tax == [] and summary.perplexity_at_to is None


def test_lengths_without_room_are_skipped_with_a_reason(model, tokenizer) -> None:
    found = compare(model, tokenizer, [], tasks=["passkey"], **{**SMALL, "lengths": [16, 200]})
    assert [(one.task, one.length) for one in found.skipped] == [("passkey", 16)]
    assert "passkey needs more than" in found.skipped[0].reason
    assert [row.length for row in found.results] == [200, 400]


def test_json_has_the_promised_shape(model, tokenizer) -> None:
    whole = json.loads(compare(model, tokenizer, [Scaled(0.5)], **SMALL).to_json())
    assert set(whole) == {"settings", "model", "methods", "results", "summary", "skipped"}
    assert set(whole["summary"][0]["effective_length"]) == {"value", "low", "high"}
    for row in whole["results"]:
        extra = {"niah": {"depth"}, "position": {"start"}}.get(row["task"], set())
        assert {"method", "task", "metric", "length", "value", "low", "high", "n"} <= set(row)
        assert set(row) - {"method", "task", "metric", "length", "value", "low", "high", "n"} <= extra


def test_finished_samples_are_never_computed_again(model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    with SampleStore() as store:
        first = compare(model, tokenizer, [Scaled(0.5)], store=store, progress_callback=seen.append, **SMALL)
        kept = len(store)
        assert seen[-1].done == seen[-1].total == kept
        assert [progress.done for progress in seen] == sorted({progress.done for progress in seen})
        for name in ("ask", "rolling"):
            monkeypatch.setattr(LiveModel, name, None)
        assert compare(model, tokenizer, [Scaled(0.5)], store=store, **SMALL) == first
        assert len(store) == kept
        monkeypatch.undo()
        compare(model, tokenizer, [Scaled(0.5), Scaled(0.25)], store=store, **SMALL)
        assert len(store) == kept * 3 // 2, "a new method is all that is computed"


@pytest.mark.parametrize(
    "change",
    [{"seed": 6}, {"model": "weights"}, {"model": "config"}, {"methods": [Scaled(0.4)]}],
    ids=["seed", "weights", "config", "method"],
)
def test_whatever_matters_makes_new_samples(model, tokenizer, change: dict) -> None:
    with SampleStore() as store:
        arguments = {**SMALL, "tasks": ["passkey"]}
        compare(model, tokenizer, [], store=store, **arguments)
        kept = len(store)
        if change.get("model") == "weights":
            with torch.no_grad():
                model.get_output_embeddings().weight[3, 5] += 0.1
        if change.get("model") == "config":
            model.config.rms_norm_eps = 1e-3
        arguments |= {"seed": change.get("seed", SMALL["seed"])}
        compare(model, tokenizer, change.get("methods", []), store=store, **arguments)
        assert len(store) == 2 * kept


ROOT = Path(__file__).parents[2]
CHILD = """
import sys, torch
torch.set_num_threads(1)
from ropewalk.common import store
from tests.evaluation.test_compare import interrupted
log = open(sys.argv[2], "a")
class Logged(store.SampleStore):
    def put(self, records):
        super().put(records)
        print(*records, file=log, flush=True)
interrupted(Logged(sys.argv[1]))
"""


def interrupted(store: SampleStore) -> Comparison:
    model = tiny("llama", vocab_size=VOCABULARY)
    return compare(model, byte_level(), [Scaled(0.5)], tasks=["ppl", "passkey"], store=store, batch_tokens=400, **SMALL)


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
        ({"lengths": [1]}, "length 1 is not in"),
        ({"samples_per_cell": 0}, "at least 1"),
        ({"depths": (0.5, 1.5)}, "from 0 to 1"),
        ({"documents": {"a": "short"}}, "no document has 400 tokens: the longest, a, has"),
        ({"methods": [Scaled(2.0), Scaled(2.0)]}, "given twice"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(model, tokenizer, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(model, tokenizer, **{"methods": [], **SMALL, **change})


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
