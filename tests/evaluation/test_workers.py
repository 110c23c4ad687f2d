from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.backends.local import live
from ropewalk.common.errors import UserError
from ropewalk.common.store import Record, SampleStore
from ropewalk.evaluation.evaluate import evaluate
from ropewalk.evaluation.workers import Done, jobs, requests, sweep
from ropewalk.methods.catalogue import method
from ropewalk.texts.documents import load
from ropewalk.verbs.evaluate import Request, measure
from tests.models import tiny
from tests.tokenizers import VOCABULARY, byte_level

DOCUMENTS = {name: text[:3000] for name, text in list(load("stdlib").items())[:3]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    tiny("llama", vocab_size=VOCABULARY).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


def numbers(results: Mapping[str, Any]) -> Any:
    """What an evaluation found, without times and ways."""
    return json.loads(
        json.dumps({name: results[name] for name in ("results", "tasks", "average", "passing", "settings")})
    )


def test_jobs_are_parts_that_give_the_samples_of_the_whole() -> None:
    pattern = Request("", suite="smoke", lengths=(512, 1024))
    wanted = requests(["a", "b"], ["none", "yarn"], [0, 1], pattern)
    assert [(r.model, r.method, r.seed) for r in wanted][:3] == [("a", "none", 0), ("a", "none", 1), ("a", "yarn", 0)]
    parts = [job.request for job in jobs(wanted[:1])]
    assert {(part.tasks, part.lengths) for part in parts} == {
        (("ppl",), (512, 1024)), (("passkey",), (512,)), (("passkey",), (1024,)), (("niah",), (512,)),
        (("niah",), (1024,)), (("niah-planted",), (512, 1024)),
    }  # fmt: skip
    assert {part.to for part in parts} == {1024} and max(parts[0].lengths) == 1024
    assert [part.lengths for part in parts if not part.controls] == [(1024,)] * 2
    with pytest.raises(UserError, match="told its lengths"):
        jobs([Request("a")])


@pytest.mark.parametrize(("change", "message"), [({"on": "moon"}, "one of local, ray"), ({"workers": 0}, "at least 1")])
def test_places_that_are_none_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep([], tmp_path / "samples.sqlite", **change)


def small(checkpoint: Path) -> list[Request]:
    pattern = Request("", tasks=("passkey", "niah-planted"), lengths=(128, 256), samples=6)
    return requests([str(checkpoint)], ["none", "yarn"], [3], pattern)


@pytest.mark.slow
def test_a_sweep_survives_a_killed_worker_and_equals_one_evaluation_after_another(checkpoint, tmp_path: Path) -> None:
    wanted, file, killed = small(checkpoint), tmp_path / "samples.sqlite", []
    expected = [numbers(measure(request, SampleStore())) for request in wanted]

    def kill_one() -> None:
        while not killed:
            time.sleep(0.01)
            children = multiprocessing.active_children()
            if children and file.exists() and len(SampleStore(file)) > 3:
                os.kill(children[0].pid, signal.SIGKILL)
                killed.append(children[0].pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    seen: list[Done] = []
    found = sweep(wanted, file, workers=2, progress=seen.append)
    assert killed and [numbers(one) for one in found] == expected
    assert seen[-1].done == seen[-1].total == len(jobs(wanted))
    with SampleStore(file) as store:
        kept = len(store)
    assert [numbers(one) for one in sweep(wanted, file, workers=1)] == expected
    with SampleStore(file) as store:
        assert len(store) == kept


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'sweep' is not installed")
def test_a_sweep_on_ray_equals_one_evaluation_after_another(checkpoint, tmp_path: Path) -> None:
    import ray

    root = str(Path(__file__).parents[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    try:
        wanted = small(checkpoint)
        found = sweep(wanted, tmp_path / "samples.sqlite", on="ray", workers=2)
    finally:
        ray.shutdown()
    assert [numbers(one) for one in found] == [numbers(measure(request, SampleStore())) for request in wanted]


class Logged(SampleStore):
    """Writes the keys that it keeps to a file."""

    def __init__(self, path: Path, log: Path):
        super().__init__(path)
        self.log = log

    def put(self, records: Mapping[str, Record]) -> None:
        super().put(records)
        with self.log.open("a") as file:
            file.write("".join(f"{key}\n" for key in records))


def measured(store: SampleStore) -> Any:
    torch.set_num_threads(1)
    model, tokenizer = tiny("llama", vocab_size=VOCABULARY), byte_level()
    with live(model, tokenizer, method("pi"), 512) as backend:
        return evaluate(
            backend, tasks=["ppl", "passkey"], lengths=[128, 160, 192, 256], samples=20, documents=DOCUMENTS,
            store=store,
        )  # fmt: skip


def test_killed_ten_times_at_random_moments_the_numbers_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    file, log, rng = tmp_path / "samples.sqlite", tmp_path / "log", random.Random(0)
    fork = multiprocessing.get_context("fork")
    kills = 0
    while kills < 10:
        before = len(log.read_text().splitlines()) if log.exists() else 0
        child = fork.Process(target=lambda: measured(Logged(file, log)))
        child.start()
        while child.is_alive() and (not log.exists() or len(log.read_text().splitlines()) < before + 2):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        child.kill()
        child.join()
        kills += 1
        if child.exitcode == 0:
            break
    assert kills == 10, "the run ended before it was killed ten times"
    with Logged(file, log) as store:
        resumed = measured(store)
        kept = len(store)
    keys = log.read_text().split()
    assert len(keys) == len(set(keys)), "computed twice"
    assert kept - 10 <= len(keys) <= kept, "a kill may fall between keeping a sample and noting it"
    undisturbed = measured(SampleStore())
    assert resumed.average == undisturbed.average and resumed.tasks == undisturbed.tasks
    for ours, theirs in zip(resumed.results, undisturbed.results, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-5) and ours.n == theirs.n
