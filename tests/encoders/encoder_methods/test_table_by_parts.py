"""NTK-by-parts of a table: of waves it is what ropes do with their frequencies, and PI and recurrence are its ends."""

from __future__ import annotations

from dataclasses import replace
from math import pi

import pytest
import torch

from ropewalk.encoders.encoder_method import RowMethod, encoder_methods
from ropewalk.encoders.encoder_methods.table_by_parts import TableByParts
from ropewalk.methods.frequencies.parts import NTKByParts
from ropewalk.rope.spec import RopeSpec

WINDOW, SCALE = 128, 4
TO = SCALE * WINDOW


def by_parts(frequencies: torch.Tensor, to: int) -> torch.Tensor:
    """What the method for ropes makes of frequencies: float64 [waves]."""
    rope = RopeSpec.plain(10000.0, 2 * len(frequencies), WINDOW)
    asked = replace(rope, factors=tuple((rope.base_inv_freq / frequencies).tolist()))
    return NTKByParts(low=2, high=16).frequencies(asked, to).inv_freq.double()


def waves(frequencies: torch.Tensor, length: int, begin: torch.Tensor) -> torch.Tensor:
    """A table of cosines: float64 [length, waves], that begin at a phase."""
    return torch.cos(torch.arange(length, dtype=torch.float64)[:, None] * frequencies + begin)


@pytest.mark.parametrize("to", [WINDOW + 1, 3 * WINDOW // 2, TO])
def test_of_waves_it_is_what_by_parts_does_with_their_frequencies(to: int) -> None:
    """Whole turns, so that a wave that goes on at its pace is one that begins anew at the window's end."""
    method = TableByParts(low=2, high=16)
    turns = torch.tensor([0.5, 1, 1.5, 2, 16, 24, 40, 60], dtype=torch.float64)
    frequencies = 2 * pi * turns / WINDOW
    begin = frequencies / 2  # a wave of a mirrored table has a crest half a step before it
    found = method.table(waves(frequencies, WINDOW, begin), to)
    expected = waves(by_parts(frequencies, to), to, begin)
    inside = torch.arange(to) * WINDOW / to <= WINDOW - 1  # behind the last row there is nothing to mix
    apart = (found - expected)[inside].abs().amax(0)
    assert (apart[4:] < 1e-9).all()  # fast
    bend = frequencies[:4] ** 2 / 8  # how far a line between two rows is from the wave
    assert (apart[:4] <= bend + 1e-9).all() and (apart[:4] > 0).all()
    moved = (waves(frequencies, to, begin) - expected)[inside].abs().amax(0)
    assert (moved[:4] > 5 * bend).all()  # so that a wave that was left alone would be seen


def test_between_the_bounds_both_waves_have_the_shares_that_by_parts_gives_the_speeds() -> None:
    method = TableByParts(low=2, high=16)
    turns = torch.tensor([3.0, 8, 15], dtype=torch.float64)
    frequencies = 2 * pi * turns / WINDOW
    speeds = by_parts(frequencies, TO) / frequencies
    share = (speeds - 1 / SCALE) / (1 - 1 / SCALE)
    begin = frequencies / 2
    fast = waves(frequencies, TO, begin)
    slow = waves(frequencies / SCALE, TO, begin)
    found, inside = method.table(waves(frequencies, WINDOW, begin), TO), slice(0, SCALE * (WINDOW - 1))
    apart = (found - share * fast - (1 - share) * slow)[inside].abs().amax(0)
    assert (apart <= frequencies**2 / 8).all()


def test_of_other_waves_it_is_that_about_and_jumps_at_the_window() -> None:
    """What the class says of a sine, and of turns that are not whole."""
    window, to = 512, 2048
    turns = torch.tensor([16.0, 33.3], dtype=torch.float64)
    frequencies, begin = 2 * pi * turns / window, torch.tensor([-pi / 2, 0.0], dtype=torch.float64)
    rows = waves(frequencies, window, begin)
    found, again = TableByParts().table(rows, to), torch.arange(to) % window
    share = (16 - 1) / (32 - 1)
    slow = waves(frequencies / SCALE, to, begin)[:, 0]
    apart = (found[:, 0] - share * rows[again, 0] - (1 - share) * slow)[: SCALE * (window - 1)].abs()
    assert 0.01 < apart.mean() < 0.02 and 0.4 < apart.max() < 0.55
    jump = (found[window, 1] - waves(frequencies, to, begin)[window, 1]).abs()
    assert jump > 1


@pytest.mark.parametrize(("low", "high", "end"), [(0, 1e-9, "recurrent"), (WINDOW, 2 * WINDOW, "pi")])
@pytest.mark.parametrize("to", [WINDOW + 3, TO])
def test_recurrent_positions_and_interpolation_are_its_ends(low: float, high: float, end: str, to: int) -> None:
    pretrained = torch.randn(WINDOW, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pretrained -= pretrained.mean(0)  # which has no turn, and is always slow
    other = encoder_methods(end).of(RowMethod)
    assert other is not None
    found = TableByParts(low=low, high=high).table(pretrained, to)
    torch.testing.assert_close(found, other.table(pretrained, to), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_for_the_window_itself_nothing_changes_to_the_bit(dtype: torch.dtype) -> None:
    pretrained = torch.randn(WINDOW, 6).to(dtype)
    found = TableByParts().table(pretrained, WINDOW)
    assert found.dtype == dtype and torch.equal(found, pretrained)


def test_slow_and_fast_parts_are_parted_by_their_turns() -> None:
    method, far = TableByParts(low=2, high=16), torch.arange(WINDOW, dtype=torch.float64)[:, None]
    trend = (far - far.mean()) / WINDOW
    zigzag = (-1.0) ** far
    kept = method.slow(trend + zigzag)
    inside = slice(16, -16)  # a mirror makes a kink of a trend
    assert (kept - trend)[inside].abs().max() < 0.02 and method.slow(zigzag)[inside].abs().max() < 0.02
