"""Matrix entropy at values worked out by hand and with numpy, and which heads are chosen by it."""

import math

import pytest
import torch

from ropewalk import UserError
from ropewalk.fitting.noisy_heads import NoisyHeads, matrix_entropy
from ropewalk.methods.attention.dope import DoPE
from ropewalk.rope.rotation import rotate, tables
from tests.fitting.grounds import ground
from tests.methods.attention.pairs import distinct, one_layer, read
from tests.models import shared, tiny, tokens


def rank(keys, largest=0):
    return float(matrix_entropy(keys, largest).exp())


def rotated_ones(n):
    w = 1e4 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    return rotate(torch.ones(1, 1, n, 8).double(), *tables(torch.arange(n)[None], w, 1.0), style="half")[0, 0]


def test_effective_rank():
    assert rank(torch.ones(24, 8)) == pytest.approx(1)
    assert rank(torch.zeros(24, 8)) == 1
    assert rank(torch.linalg.qr(torch.randn(24, 8, generator=torch.Generator().manual_seed(0))).Q) == pytest.approx(8)
    assert rank(rotated_ones(24)) == pytest.approx(2.850482, abs=2e-6)
    assert rank(rotated_ones(1000)) == pytest.approx(7.109501, abs=2e-6)


def test_effective_rank_of_every_pair():
    pairs = [rank(rotated_ones(1000)[:, [i, i + 4]]) for i in range(4)]
    assert pairs == pytest.approx([1.999999, 1.999974, 1.997041, 1.319126], abs=2e-6)


def test_the_largest_eigenvalues_alone():
    keys = torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0]))  # shares 2/3, 1/6, 1/6, 0
    shares = [4 / 6, 1 / 6, 1 / 6]
    for largest in (1, 2, 3):
        expected = -sum(share * math.log(share) for share in shares[:largest])
        assert float(matrix_entropy(keys, largest)) == pytest.approx(expected)
    assert float(matrix_entropy(keys)) == float(matrix_entropy(keys, 3))


def test_the_head_with_the_least_entropy_of_rotated_keys_is_chosen():
    model, ids = one_layer(num_key_value_heads=4), distinct(2)
    found = NoisyHeads(share=0.6).search(DoPE(), ground(model, ids))  # 2 of 4
    every = []
    for seen in read(model, "none", ids, [ids.shape[1]]):
        turned = torch.stack([seen.rotated(seen.k[:, n], n) for n in range(ids.shape[1])], 1)
        values = torch.linalg.svdvals(turned) ** 2
        shares = values / values.sum(-1, keepdim=True)
        every.append(-(shares * shares.log()).sum(-1))
    entropies = torch.stack(every).mean(0)
    assert found.options == {"heads": (tuple(sorted(entropies.argsort()[:2].tolist())),)}
    assert found.seen["least effective rank"] == pytest.approx(float(entropies.min().exp()), rel=1e-4)
    last = float(entropies.sort().values[1].exp())
    assert found.seen["largest effective rank among these"] == pytest.approx(last, rel=1e-4)


def test_a_head_whose_keys_are_all_alike_is_found():
    model = tiny("llama")
    projection = model.model.layers[1].self_attn.k_proj
    with torch.no_grad():  # its second key head reads nothing, and has a key of slow pairs
        projection.weight[16:] = 0
        projection.bias = torch.nn.Parameter(torch.zeros(32).index_fill(0, torch.tensor([23, 31]), 1.0))
    found = NoisyHeads().search(DoPE(), ground(model, tokens(1, 64)))
    assert found.options == {"heads": ((), (1,))} and found.seen["least effective rank"] < 1.1


def test_layers_without_positions_have_no_such_heads():
    model = tiny("smollm3", no_rope_layers=[1, 0])
    found = NoisyHeads(share=0.9).search(DoPE(), ground(model, tokens(1, 64)))
    assert found.options["heads"][0] and found.options["heads"][1] == ()


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.0}, {"share": float("nan")}, {"rank": -1}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError, match="expected a share between 0 and 1, and a rank of 0 or more"):
        NoisyHeads(**settings).search(DoPE(), ground(shared("llama"), tokens(1, 64)))


def test_short_texts_are_refused():
    with pytest.raises(UserError, match="no text has 100 tokens, the longest has 64"):
        NoisyHeads().search(DoPE(), ground(shared("llama"), tokens(1, 64), to=100))
