"""Heads for tokens and back, and which regions are a process's."""

from pathlib import Path

import pytest
import torch

from ropewalk import method
from ropewalk.attention.engine import attending_plainly, engine_on
from ropewalk.attention.regions import Layer, Region, same
from ropewalk.attention.spread import Spread
from ropewalk.common.errors import UserError
from ropewalk.training.processes import Processes
from tests.models import tiny
from tests.training.workers import in_two

LAYER = Layer(index=0, window=8, target=32, heads=8, kv_heads=4, length=32)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_have_the_regions_of_their_heads(count: int) -> None:
    regions = method("s2-attention").regions(LAYER)
    found = []
    for rank in range(count):
        spread = Spread(None, rank, count)
        heads = range(*spread.heads(8).indices(8))
        assert len(heads) == 8 // count
        mine = spread.regions(regions, 8)
        for local, head in enumerate(heads):
            own = [one for one in mine if one.heads[0] <= local < one.heads[1]]
            whole = [one for one in regions if one.heads[0] <= head < one.heads[1]]
            assert [one.lo for one in own] == [one.lo for one in whole]
            found.append(head)
    assert found == list(range(8))
    assert Spread(None, 0, count).regions((Region(q_pos=same),), 8) == (Region(q_pos=same),)


def test_an_engine_refuses_heads_that_cannot_be_shared_and_goes_back() -> None:
    model = tiny("llama")
    with attending_plainly(model) as engine:
        with pytest.raises(UserError, match="3 processes cannot share evenly"), engine.spreading(Spread(None, 0, 3)):
            pass
        with engine.spreading(Spread(None, 0, 2)):
            assert engine.spread is not None
            with pytest.raises(UserError, match="without a mask or a cache"):
                model(torch.arange(4)[None])
        assert engine.spread is None
    assert engine_on(model) is None


def _exchange(folder: Path, together: Processes) -> None:
    spread = Spread(torch.distributed.group.WORLD, together.rank, 2)
    whole = torch.arange(2 * 4 * 6 * 3.0).view(2, 4, 6, 3)
    mine = whole[:, :, together.rank * 3 : together.rank * 3 + 3].clone().requires_grad_()
    heads = spread.to_heads(mine)
    assert torch.equal(heads, whole[:, together.rank * 2 : together.rank * 2 + 2])
    assert torch.equal(spread.to_tokens(heads), mine)
    (heads * whole[:, together.rank * 2 : together.rank * 2 + 2]).sum().backward()
    assert torch.equal(mine.grad, mine.detach())  # each number's gradient comes back to where it was
    assert torch.equal(spread.joined(mine.detach()[:, 0, :, 0]), whole[:, 0, :, 0])


@pytest.mark.slow
def test_heads_are_exchanged_for_tokens_and_back(tmp_path: Path) -> None:
    in_two(_exchange, tmp_path)
