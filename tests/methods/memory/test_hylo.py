"""HyLo: at full rank the model itself; causal, cut anywhere, a cache as small as promised; taught by the model."""

from __future__ import annotations

import pytest
import torch

from ropewalk import HyLo, UserError
from ropewalk.methods.memory.hylo import attending_layers, logarithmic
from ropewalk.training.training_batch import Batch
from tests.models import in_pieces, tiny, tokens
from tests.training.passes import row

TO = 128
KINDS = [HyLo(attention=0.5, rank=0.5), HyLo(attention=0.5, rank=0.5, linear="mamba2", positions="hype")]
kinds = pytest.mark.parametrize("chosen", KINDS, ids=["rope", "hype"])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "olmo2"])
def test_latent_attention_of_full_rank_in_every_layer_is_the_model(family):
    model, ids = tiny(family), tokens(2, 50)
    before = model(ids).logits
    with HyLo(attention=1, rank=1).begun().on(model, TO):
        torch.testing.assert_close(model(ids).logits, before, atol=5e-5, rtol=1e-5)
        torch.testing.assert_close(in_pieces(model, ids, 23, 1, 26), before, atol=5e-5, rtol=1e-5)
    assert torch.equal(model(ids).logits, before)
    with HyLo(attention=1, rank=0.5).begun().on(model, TO):
        assert float((model(ids).logits - before).abs().max()) > 0.05


@kinds
@torch.no_grad()
def test_a_text_may_be_cut_anywhere_and_nobody_sees_what_comes(chosen):
    model, ids = tiny("llama"), tokens(2, 50)
    with chosen.begun().on(model, TO):
        whole = model(ids).logits
        torch.testing.assert_close(in_pieces(model, ids, 30, 1, 1, 9, 9), whole, atol=5e-5, rtol=1e-5)
        other = ids.clone()
        other[:, 40] = (other[:, 40] + 1) % 97
        changed = (model(other).logits - whole).abs().amax((0, 2))
        assert not changed[:40].any() and bool((changed[40:] > 1e-3).all())


@kinds
@torch.no_grad()
def test_what_grows_with_the_text_is_the_share_that_was_promised(chosen):
    model = tiny("llama")
    chosen.carried(model)
    reader, counts = chosen.reader(model, TO), []
    with reader.attached():
        for n in (40, 80):
            state = reader.begin(1)
            reader.read(tokens(1, n), state)
            counts.append(sum(one.numel() for one in state.layers))
    plain = 2 * 2 * 2 * 16  # layers, keys and values, key-value heads, width
    assert counts[1] - counts[0] == 40 * plain * 0.5 * 0.5


def test_the_layers_that_attend_are_a_share_of_them():
    assert attending_layers(28, 0.25) == [3, 7, 11, 15, 19, 23, 27]
    assert attending_layers(6, 1 / 3) == [2, 5]
    assert attending_layers(6, 1) == list(range(6)) and attending_layers(6, 0) == []
    assert HyLo(layers=(5, 0)).attends(6) == [0, 5]


def test_the_logarithmic_scale_is_halos():
    at = torch.tensor([0, 500, 4096, 16384, 131072, 1048576]).double()
    for base, expected in ((500, (1, 1.111535, 1.356955, 1.566329, 1.896710, 2.230779)),
                           (362, (1, 1.147261, 1.426165, 1.650798, 2.000504, 2.353042))):  # fmt: skip
        torch.testing.assert_close(logarithmic(at, base), torch.tensor(expected).double(), atol=1e-6, rtol=0)


def test_hype_attends_without_positions_and_scales_outside_training_alone():
    """One layer that attends: earlier tokens may change places. In training, base means nothing; else it does."""
    model, ids = tiny("llama", num_hidden_layers=1), tokens(1, 30)
    swapped = torch.cat([ids[:, 1:29], ids[:, :1], ids[:, 29:]], 1)
    last = {}
    for base in (20.0, 500.0):
        with torch.no_grad(), HyLo(attention=1, rank=1, positions="hype", base=base).begun().on(model, TO):
            model.ropewalk_memory.eval()
            last[base] = model(ids).logits[:, -1]
            torch.testing.assert_close(model(swapped).logits[:, -1], last[base], atol=1e-5, rtol=1e-5)
            model.ropewalk_memory.train()
            last[base, "training"] = model(ids).logits[:, -1]
    assert float((last[20.0] - last[500.0]).abs().max()) > 1e-3
    assert torch.equal(last[20.0, "training"], last[500.0, "training"])


@kinds
def test_both_stages_of_teaching_bring_it_nearer_and_leave_the_model_as_it_was(chosen):
    model = tiny("llama")
    before = {name: one.clone() for name, one in model.named_parameters()}
    chosen.carried(model)
    batch = Batch.of([row(40), row(40, seed=1)])
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], 3e-3)
    with chosen.begun().on(model, TO):
        model.train()
        assert chosen.taught(model, batch, 0) is None
        for left in (2, 1):
            losses = []
            for _ in range(12):
                loss = chosen.taught(model, batch, left)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters() if name in before)


def test_a_model_that_is_the_teacher_has_nothing_to_learn():
    model, chosen = tiny("llama"), HyLo(attention=1, rank=1)
    chosen.carried(model)
    with chosen.begun().on(model, TO), torch.no_grad():
        for left in (2, 1):
            assert float(chosen.taught(model, Batch.of([row(40)]), left)) < 1e-5


def test_what_cannot_be_is_refused():
    wrong = {"attention": 1.5, "linear": "rnn", "positions": "none", "rank": 0, "base": 1}
    for option, value in wrong.items():
        with pytest.raises(UserError, match=f"{option} is"):
            HyLo(**{option: value})
    with pytest.raises(UserError, match="layers names 9, expected 0 to 1"):
        HyLo(layers=(9,)).added(tiny("llama"))
