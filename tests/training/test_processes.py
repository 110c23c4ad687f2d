"""Two processes end with the weights of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.training.processes import ALONE, Processes, processes
from tests.training.test_loop import short, trained
from tests.training.workers import in_two

CASES: dict[str, dict[str, Any]] = {
    "packed": {"packing": "documents"},
    "pose": {"positions": "pose"},
    "s2": {"attention": "s2-attention"},
    "recurrent": {"memory": "recurrent", "chunk": 16},
    "samples": {"loss": "sample", "positions": "pose"},
}


def _work(folder: Path, together: Processes) -> None:
    for name, more in CASES.items():
        run = trained(short(**more), processes=together)
        weights = {key: one.detach() for key, one in run.model.named_parameters()}
        torch.save((weights, [log.loss for log in run.log]), folder / f"{name}-{together.rank}.pt")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_two(_work, tmp_path)
    for name, more in CASES.items():
        alone = trained(short(**more))
        for rank in (0, 1):
            weights, losses = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert losses == pytest.approx([log.loss for log in alone.log], rel=1e-6), name
            for key, one in alone.model.named_parameters():
                assert torch.allclose(weights[key], one, atol=2e-5), (name, key)


def test_one_process_is_left_alone() -> None:
    with processes() as together:
        assert together is ALONE
        assert together.first
        one = torch.tensor([1.0])
        together.add_up([one])
        assert together.sum(one) is one
