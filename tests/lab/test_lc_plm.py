"""LC-PLM: the block's numbers, its symmetry, padding, what is shared, and a folder that gives the same model."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.lab.lc_plm import BiMambaS, LcPlm, LcPlmConfig
from ropewalk.training.training_batch import IGNORED


def waves(shape: tuple[int, ...], offset: float, step: float) -> Tensor:
    """Numbers 0.5 sin(offset + step * k), k along rows."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (0.5 * torch.sin(offset + step * k)).reshape(shape)


@pytest.fixture
def block() -> BiMambaS:
    """Of two dimensions, all weights known."""
    found = BiMambaS(LcPlmConfig(hidden_size=2, state_size=2)).double()
    with torch.no_grad():
        for one in (found.in_proj, found.out_proj):
            one.weight.copy_(waves(tuple(one.weight.shape), 1, 0.7))
        for offset, direction in ((1, found.onward), (2, found.backward_)):
            for weight in direction.parameters():
                weight.copy_(waves(tuple(weight.shape), offset, 0.3))
    return found


def test_a_block_of_known_weights_gives_known_numbers(block) -> None:
    found = block(waves((1, 6, 2), 1, 0.7))[0]
    assert found[0].tolist() == pytest.approx([0.019365274920, -0.013699965837], abs=1e-12)
    assert found[5].tolist() == pytest.approx([0.019355058661, -0.013845952146], abs=1e-12)


def test_a_turned_row_is_read_by_directions_in_each_others_place(block) -> None:
    x = torch.randn(1, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    straight = block(x)
    block.onward, block.backward_ = block.backward_, block.onward
    torch.testing.assert_close(block(x.flip(1)).flip(1), straight, rtol=0, atol=0)


@pytest.fixture
def model() -> LcPlm:
    torch.manual_seed(0)
    return LcPlm(LcPlmConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, state_size=3)).eval()


def test_a_padded_row_is_the_row_alone(model) -> None:
    ids, padded = torch.randint(10, (1, 7)), torch.full((2, 12), 10)
    padded[0, :7], padded[1, 5:] = ids[0], ids[0]
    mask = torch.zeros(2, 12, dtype=torch.long)
    mask[0, :7], mask[1, 5:] = 1, 1
    alone, found = model(ids).logits[0], model(padded, mask).logits
    for row in (found[0, :7], found[1, 5:]):
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-6)
    assert (model(padded).logits[0, :7] - alone).abs().max() > 1e-4, "without a mask padding is read"


def test_padding_gets_no_gradient_and_gaps_are_refused(model) -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    labels = torch.tensor([[2, IGNORED, 3, IGNORED, IGNORED]])
    model(torch.tensor([[1, 2, 3, 10, 10]]), mask, labels).loss.backward()
    assert not model.embeddings.weight.grad[10].any() and model.embeddings.weight.grad[3].any()
    with pytest.raises(UserError, match="between tokens"):
        model(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0, 1]]))


def test_what_both_directions_share_is_stored_once_and_comes_back(model, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(one.numel() for one in stored.values()) == sum(one.numel() for one in model.parameters())
    assert sum("proj.weight" in name and "layers.0.mixer.in" in name for name in stored) == 1
    again, told = LcPlm.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    ids = torch.randint(11, (2, 9))
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_the_size_is_the_papers() -> None:
    """48 layers of 1,536 dimensions: 752,788,992 weights, of which 14,155,776 a layer are shared."""
    with torch.device("meta"):
        released = LcPlm(LcPlmConfig(vocab_size=128, hidden_size=1536, num_hidden_layers=48))
    assert sum(one.numel() for one in released.parameters()) == 752_788_992
    layer = released.layers[0].mixer
    assert layer.in_proj.weight.numel() + layer.out_proj.weight.numel() == 14_155_776


def test_weights_begin_as_the_paper_has_them() -> None:
    first = LcPlm(LcPlmConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, state_size=3)).layers[0].mixer.onward
    torch.testing.assert_close(first.A_log.exp()[2], torch.tensor([1.0, 2, 3]))
    assert (first.D == 1).all() and torch.nn.functional.softplus(first.dt_proj.bias).max() < 0.11
