"""A descent that was stopped goes on bit for bit, and from nothing else than its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.encoders.training.encoder_training import Pace, descend
from ropewalk.encoders.training.kept_descent import KeptDescent

PACE = Pace(1e-2, weight_decay=0.1, warmup=2, hold=3, fall="root")


class Stopped(Exception):
    pass


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).train()


def batches() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(3, 4, generator=draw) for _ in range(9)]


def run(model: Any, kept: KeptDescent | None, until: int = 99) -> list[float]:
    seen = 0

    def loss(batch: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        if seen > until:
            raise Stopped
        found: Tensor = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        return found

    torch.manual_seed(7)
    return descend(model.parameters(), loss, batches(), PACE, kept)


def test_a_stopped_one_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = net()
    losses = run(whole, None)
    kept, stopped = KeptDescent(tmp_path / "at.safetensors", "this", every=2), net()
    with pytest.raises(Stopped):
        run(stopped, kept, until=5)
    begun = kept.path.read_bytes()
    again = net()
    assert run(again, kept) == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert kept.path.read_bytes() != begun
    over = net()
    assert run(over, kept, until=0) == losses  # nothing is left to do
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), over.parameters(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["at.safetensors"]


def test_another_ones_file_is_refused_and_stays(tmp_path: Path) -> None:
    kept = KeptDescent(tmp_path / "at.safetensors", "this", every=2)
    run(net(), kept)
    before = kept.path.read_bytes()
    with pytest.raises(UserError, match="of another descent"):
        run(net(), KeptDescent(kept.path, "that"))
    assert kept.path.read_bytes() == before
    kept.path.write_bytes(before[:100])
    with pytest.raises(UserError, match="cannot be read"):
        run(net(), kept)
    (tmp_path / "mine.txt").write_text("a letter")
    with pytest.raises(UserError, match="cannot be read"):
        run(net(), KeptDescent(tmp_path / "mine.txt", "this"))
    assert (tmp_path / "mine.txt").read_text() == "a letter"
