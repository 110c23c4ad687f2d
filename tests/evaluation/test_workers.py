from __future__ import annotations

import importlib.util
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.common.progress import Progress
from ropewalk.common.store import Record, SampleStore
from ropewalk.evaluation.contestants import Live
from ropewalk.evaluation.experiment import Experiment, run
from ropewalk.evaluation.workers import fill, jobs
from ropewalk.methods.catalogue import methods
from ropewalk.report.schema import Results
from ropewalk.texts.documents import load
from tests.experiments import experiment
from tests.models import tiny
from tests.tokenizers import VOCABULARY, byte_level

DOCUMENTS = {name: text[:3000] for name, text in list(load("stdlib").items())[:3]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    tiny("llama", vocab_size=VOCABULARY).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


def numbers(results: Results) -> Any:
    """What an experiment found, without times and ways."""
    subjects = [replace(subject, how="", tokens=None) for subject in results.subjects]
    return results.rows, results.not_measured, results.settings, subjects


def test_jobs_are_parts_that_give_the_samples_of_the_whole() -> None:
    whole = Experiment(
        ("a", "b"), tuple(methods("none,yarn")), ("ppl", "passkey", "niah-planted"), lengths=(512, 1024), seeds=(0, 1)
    )
    parts = [job.part for job in jobs(whole, lambda model: (2048, (512, 1024)))]
    of_a = [one for one in parts if (one.models, one.methods) == (("a",), whole.methods[:1])]
    assert {(one.tasks, one.lengths, one.seeds) for one in of_a} == {
        (("ppl",), (512, 1024), (0,)), (("passkey",), (512,), (0,)), (("passkey",), (1024,), (0,)),
        (("passkey",), (512,), (1,)), (("passkey",), (1024,), (1,)), (("niah-planted",), (512, 1024), (0,)),
        (("niah-planted",), (512, 1024), (1,)),
    }  # fmt: skip
    assert len(parts) == 4 * len(of_a) and {one.to for one in parts} == {2048}
    assert max(parts[0].lengths) == 1024
    assert {(one.tasks[0], one.lengths, one.seeds) for one in of_a if one.controls} == {
        ("ppl", (512, 1024), (0,)), ("passkey", (512,), (0,)), ("niah-planted", (512, 1024), (0,)),
    }  # fmt: skip
    early = [job.part for job in jobs(replace(whole, sequential=True), lambda model: (2048, (512, 1024)))]
    assert {(one.lengths, one.seeds) for one in early if one.tasks == ("passkey",)} == {((512, 1024), (0, 1))}


@pytest.mark.parametrize(("change", "message"), [({"on": "moon"}, "one of local, ray"), ({"workers": 0}, "at least 1")])
def test_places_that_are_none_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fill(small(tmp_path), tmp_path / "samples.sqlite", **change)


def small(checkpoint: Path) -> Experiment:
    both = tuple(methods("none,yarn"))
    return Experiment((str(checkpoint),), both, ("passkey", "niah-planted"), lengths=(128, 256), seeds=(3,), samples=6)


@pytest.mark.slow
def test_workers_survive_a_kill_and_find_what_one_process_finds(checkpoint, tmp_path: Path) -> None:
    wanted, file, killed = small(checkpoint), tmp_path / "samples.sqlite", []
    expected = numbers(run(wanted, SampleStore()))

    def kill_one() -> None:
        while not killed:
            time.sleep(0.01)
            children = multiprocessing.active_children()
            if children and file.exists() and len(SampleStore(file)) > 3:
                os.kill(children[0].pid, signal.SIGKILL)
                killed.append(children[0].pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    seen: list[Progress] = []
    fill(wanted, file, workers=2, progress=seen.append)
    assert killed and seen[0].done == 0 and seen[-1].done == seen[-1].total
    with SampleStore(file) as store:
        kept = len(store)
        assert numbers(run(wanted, store)) == expected
        assert len(store) == kept, "workers had left something to do"


LEADER = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from ropewalk.common.local_workers import follow

line = f"import socket, time; held = socket.create_connection(('127.0.0.1', {sys.argv[1]})); time.sleep(600)"
with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=follow) as pool:
    pool.submit(exec, line)
"""


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(120)
        leader = subprocess.Popen([sys.executable, "-c", LEADER, str(listening.getsockname()[1])])
        worker, _ = listening.accept()
        leader.kill()
        leader.wait()
        worker.settimeout(30)
        assert worker.recv(1) == b"", "the worker goes on"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_ray_finds_what_one_process_finds(checkpoint, tmp_path: Path) -> None:
    import ray

    root = str(Path(__file__).parents[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    try:
        wanted = small(checkpoint)
        fill(wanted, tmp_path / "samples.sqlite", on="ray", workers=2)
    finally:
        ray.shutdown()
    with SampleStore(tmp_path / "samples.sqlite") as store:
        kept = len(store)
        assert numbers(run(wanted, store)) == numbers(run(wanted, SampleStore())) and len(store) == kept


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
    return experiment(
        Live(model, tokenizer, "m"), methods=methods("pi"), to=512, tasks=["ppl", "passkey"],
        lengths=[128, 160, 192, 256], samples=20, texts=DOCUMENTS, store=store,
    )  # fmt: skip


@pytest.mark.slow
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
    ours, theirs = resumed.subjects[0], undisturbed.subjects[0]
    assert ours.averages == theirs.averages and ours.tasks == theirs.tasks
    for ours, theirs in zip(resumed.rows, undisturbed.rows, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-5) and ours.n == theirs.n
