"""Workers that search along read what the caller has not read, find the same, and are gone in the end."""

import multiprocessing
import os
import time
from functools import partial

import pytest
import torch

from ropewalk import UserError
from ropewalk.common.store import SampleStore
from ropewalk.fitting.alongside import alongside


def work(folder, records, turn):
    records.put({f"worker {turn[0]} of {turn[1]}": {"pid": os.getpid(), "threads": torch.get_num_threads()}})
    if turn[0] == 1:
        raise UserError("what is wrong is said by the caller")
    time.sleep(600)


@pytest.mark.slow
def test_others_work_in_processes_of_their_own_and_are_stopped(tmp_path):
    store, threads = tmp_path / "candidates", torch.get_num_threads()
    keys = {"worker 1 of 3", "worker 2 of 3"}
    with SampleStore(store) as records:
        with alongside(partial(work, tmp_path), store, "local", 3):
            deadline = time.monotonic() + 300
            while len(found := records.get(keys)) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
        assert found.keys() == keys
    pids = {one["pid"] for one in found.values()}
    assert len(pids) == 2 and os.getpid() not in pids
    assert not multiprocessing.active_children() and torch.get_num_threads() == threads


def test_one_worker_is_the_caller(tmp_path):
    with alongside(partial(work, tmp_path), tmp_path / "candidates", "local", 1):
        assert not multiprocessing.active_children()


@pytest.mark.parametrize(("on", "workers", "message"), [("here", 2, "on is 'here'"), ("local", 0, "workers is 0")])
def test_places_that_are_none_are_refused(on, workers, message, tmp_path):
    with pytest.raises(UserError, match=message), alongside(partial(work, tmp_path), tmp_path / "c", on, workers):
        raise AssertionError("never here")
