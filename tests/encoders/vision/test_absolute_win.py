"""Tables of images in two parts: against SAM 2's own code, and against resizing the whole."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Sam2HieraDetConfig
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

from ropewalk.common.errors import UserError
from ropewalk.encoders.vision.absolute_win import WindowedTable, repeats


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def table():
    """A background of 7 x 7 and windows of 8 x 8, as SAM 2 has them."""
    return WindowedTable(noise(6, 7, 7), noise(6, 8, 8, seed=1))


@pytest.mark.parametrize("size", [(32, 32), (8, 24), (64, 16)])
def test_it_is_what_sam_2_computes(size):
    torch.manual_seed(0)
    config = Sam2HieraDetConfig(hidden_size=16, embed_dim_per_stage=[16, 32], blocks_per_stage=[1, 1],
                                num_attention_heads_per_stage=[1, 2], window_size_per_stage=[8, 4],
                                global_attention_blocks=[1], num_query_pool_stages=1)  # fmt: skip
    model = Sam2HieraDetModel(config)
    with torch.no_grad():
        model.pos_embed.normal_()
        model.pos_embed_window.normal_()
        ours = WindowedTable(model.pos_embed[0], model.pos_embed_window[0]).at(*size)
        assert torch.equal(ours, model._get_pos_embed(size)[0].permute(2, 0, 1))


def test_only_the_background_is_resized(table):
    rest = table.at(32, 48) - F.interpolate(table.background[None], size=(32, 48), mode="bicubic")[0]
    assert torch.allclose(rest[:, :24, :40], rest[:, 8:, 8:])  # periodic in the window
    assert torch.allclose(WindowedTable(0 * table.background, table.window).at(16, 16), table.window.tile(1, 2, 2))
    even = WindowedTable(torch.full((6, 7, 7), 3.0, dtype=torch.float64), 0 * table.window)
    assert torch.allclose(even.at(40, 16), torch.tensor(3.0, dtype=torch.float64))
    assert torch.allclose(WindowedTable(table.background, noise(6, 7, 7)).at(7, 7), table.background + noise(6, 7, 7))


def test_windows_that_do_not_fit_are_cut(table):
    cut, whole = (WindowedTable(0 * table.background, table.window).at(*size) for size in ((13, 21), (16, 24)))
    assert torch.equal(cut, whole[:, :13, :21])


def test_a_table_is_the_sum_of_its_parts():
    learnt = noise(4, 24, 32)
    parts = WindowedTable.of(learnt, 8, 8)
    assert torch.allclose(parts.at(24, 32), learnt)
    assert torch.allclose(parts.window.mean((1, 2)), torch.zeros(4, dtype=torch.float64), atol=1e-12)
    tiled = WindowedTable.of(learnt[:, :8, :8].tile(1, 3, 4), 8, 8)
    assert torch.allclose(tiled.background, learnt[:, :8, :8].mean((1, 2), keepdim=True).expand(4, 24, 32))


def test_a_pattern_that_repeats_outlives_another_size_better_than_in_the_whole(table):
    """How far from the true positions at twice the size; the background's own steps are what is left."""
    smooth = WindowedTable(0.3 * table.background, table.window)
    learnt, truth = smooth.at(32, 32), smooth.at(64, 64)
    whole = F.interpolate(learnt[None], size=(64, 64), mode="bicubic")[0]
    parts = WindowedTable.of(learnt, 8, 8).at(64, 64)
    wrong_whole, wrong_parts = ((one - truth).square().mean().sqrt() for one in (whole, parts))
    assert wrong_parts < 0.2 * wrong_whole and wrong_parts > 1e-3  # an approximation


def test_how_much_repeats():
    window = noise(4, 8, 8)
    assert repeats(window.tile(1, 3, 4), 8, 8) == pytest.approx(1)
    assert repeats(noise(64, 32, 32), 8, 8) == pytest.approx(1 / 16, rel=0.1)  # chance
    assert repeats(torch.arange(4.0)[None, :, None].repeat_interleave(8, 1).expand(1, 32, 32), 8, 8) < 1e-12


@pytest.mark.parametrize("size", [(7, 8), (8, 5), (16, 16)])
def test_windows_that_do_not_tile_are_refused(size):
    with pytest.raises(UserError, match="do not tile a table of 16 x 16"):
        WindowedTable.of(noise(2, 16, 16), *size)
    with pytest.raises(UserError, match="do not tile"):
        repeats(noise(2, 16, 16), *size)
    with pytest.raises(UserError, match="the same everywhere"):
        repeats(torch.ones(2, 16, 16), 8, 8)
