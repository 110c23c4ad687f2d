"""FoT's memory layers, rows that are read as one text in training, and what the card says of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ropewalk import FoT, UserError, method
from ropewalk.attention.cache_argument import as_argument
from ropewalk.common.fingerprints import base_fingerprint
from ropewalk.rope.live import decoder
from ropewalk.training.loop import Run
from ropewalk.training.one_shot import OneShot
from ropewalk.training.recipe import Recipe
from ropewalk.training.recipes.recipe_entries import BY_ID
from ropewalk.training.training_batch import Batch, Row
from tests.matrix import TWICE, logits, near, subject, text
from tests.models import in_pieces, tiny

W = 16
IDS = text(4, 8 * W)


def fot(**more):
    return FoT(**{"window": W, "layers": (1,), **more}).begun()


def hidden(model, ids, **more):
    return decoder(model)(input_ids=ids, use_cache=False, **more)[0]


@pytest.mark.parametrize(
    ("count", "which"), [(26, (6, 12, 18)), (32, (8, 16, 24)), (6, (1, 2, 3)), (2, (1,)), (1, (0,))]
)
def test_memory_layers_are_the_papers(count, which):
    assert FoT().memory_layers(count) == which and FoT(layers=(0,)).memory_layers(count) == (0,)


def test_a_layer_without_a_memory_sees_its_window_alone():
    model = tiny("llama", vocab_size=300)
    with fot(layers=(0,)).on(model, TWICE):
        both = logits(model, IDS[:1])
    other = IDS[:1].clone()
    other[:, :W] = text(1, W, seed=9)
    with fot(layers=(0,)).on(model, TWICE):
        assert not near(logits(model, other)[:, W:], both[:, W:], 1e-3)
    last = tiny("llama", vocab_size=300, num_hidden_layers=3)
    with fot(layers=(2,)).on(last, TWICE):  # the layers before it know nothing of other windows
        one = logits(last, IDS[:1])
        alone = logits(last, IDS[:1, W : 2 * W])
    assert near(one[:, :W], logits(last, IDS[:1, :W])) and not near(one[:, W : 2 * W], alone, 1e-2)


@pytest.mark.parametrize("topk", [1, 7])
def test_few_keys_are_other_than_all_and_as_many_as_there_are_are_all(topk):
    with fot().on(subject(), TWICE):
        everything = logits(subject(), IDS)
    with fot(topk=8 * W).on(subject(), TWICE):
        assert near(logits(subject(), IDS), everything)
    with fot(topk=topk).on(subject(), TWICE):
        few = logits(subject(), IDS)
        assert not near(few, everything, 1e-2) and near(in_pieces(subject(), IDS, 100, 27, 1), few)


# Training


def test_without_negatives_training_reads_rows_as_they_are():
    model = tiny("llama", vocab_size=300).train()
    with fot(negatives=0).on(model, TWICE):
        found = hidden(model, IDS)
        assert near(found, hidden(model.eval(), IDS))


def test_rows_are_read_as_one_text_of_windows_in_turn():
    """Two halves of one text, a window each, are that text; of longer ones, the windows alternate."""
    model = tiny("llama", vocab_size=300).train()
    with fot(negatives=1).on(model, TWICE):
        for n in (1, 3):
            rows = IDS[:2, : n * W]
            found = hidden(model, rows)
            turns = torch.stack(rows.split(W, 1), 0).transpose(0, 1)  # [rows, windows, W]
            joined = torch.cat([turns[r, i] for i in range(n) for r in range(2)])[None]
            model.eval()
            expected = hidden(model, joined)[0].split(W)
            model.train()
            for i in range(n):
                for r in range(2):
                    assert near(found[r, i * W : (i + 1) * W], expected[2 * i + r])


def test_a_query_sees_the_rows_of_its_group_and_gradients_reach_them():
    model = tiny("llama", vocab_size=300).train()
    embedded = []

    def keep(_, __, out):
        out.retain_grad()
        embedded.append(out)

    with fot(negatives=1).on(model, TWICE):
        hook = model.get_input_embeddings().register_forward_hook(keep)
        hidden(model, IDS[:, : 2 * W])[0, W:].sum().backward()
        hook.remove()
    moved = embedded[0].grad.abs().amax(-1).view(2, 2, 2, W).amax(-1) > 0  # [group, window, row of it]
    assert moved.tolist() == [[[True, True], [True, False]], [[False, False], [False, False]]]


def test_padding_of_a_row_is_seen_by_no_other():
    model = tiny("llama", vocab_size=300).train()
    rows, mask = IDS[:2, : 2 * W].clone(), torch.ones(2, 2 * W, dtype=torch.long)
    mask[0, W // 2 :] = 0
    with fot(negatives=1).on(model, TWICE):
        found = hidden(model, rows, attention_mask=mask)
        short = hidden(model, rows[:, : W + 5], attention_mask=mask[:, : W + 5])
        with pytest.raises(UserError, match="more than the ends"):
            hidden(model, rows, attention_mask=mask.flip(1))
    assert near(found[1, : W + 5], short[1])
    model.eval()
    with fot().on(model, TWICE):
        one = torch.cat([rows[0, : W // 2], rows[1, :W]])[None]
        places = torch.cat([torch.arange(W // 2), torch.arange(W, 2 * W)])[None]
        expected = hidden(model, one, position_ids=places)[0, W // 2 :]
    assert near(found[1, :W], expected)


def test_the_first_word_of_a_vocabulary_is_no_padding():
    model, rows = tiny("llama", vocab_size=300, pad_token_id=None).train(), IDS[:2, : 2 * W].clone()
    rows[1, -W // 2 :] = 50
    with fot(negatives=1).on(model, TWICE):
        found = hidden(model, rows)
        table = model.get_input_embeddings().weight.data
        table[[0, 50]] = table[[50, 0]]
        other = torch.where(rows == 50, 0, torch.where(rows == 0, 50, rows))
        assert near(hidden(model, other), found)


def test_padded_rows_are_trained_on_as_rows():
    model, lengths = tiny("llama", vocab_size=300), (70, 41)
    chosen = fot(negatives=1).begun()
    chosen.carried(model)
    rows = [Row(IDS[i, :n].numpy(), np.arange(n), np.zeros(n, np.int64), np.ones(n, np.float32))
            for i, n in enumerate(lengths)]  # fmt: skip
    with chosen.on(model.train(), TWICE):
        loss = OneShot().backward(model, Batch.of(rows), 1.0)
        mask = (torch.arange(70) < torch.tensor(lengths)[:, None]).long()
        logits = model.lm_head(hidden(model, IDS[:2, :70] * mask, attention_mask=mask)).log_softmax(-1)
    targets = IDS[:2, 1:70, None]
    assert near(loss, -(logits[:, :-1].gather(-1, targets)[..., 0] * mask[:, 1:]).sum())


def test_the_losses_of_a_batch_are_of_its_own_targets_and_training_lowers_them(tmp_path):
    model = tiny("llama", vocab_size=300)
    recipe = Recipe(
        name="fot", method="fot(window=16, layers=[1])", steps=6, batch=4, micro=2, learning_rate=3e-3, warmup=0
    )
    recipe.require(model.config, TWICE)
    base = base_fingerprint(model)
    rng = np.random.default_rng(0)
    recipe.memory_method.carried(model)
    run = Run(recipe, model, TWICE, [rng.permutation(np.arange(3, 297))[:200] for _ in range(4)], np.array([1]))
    run.run()
    assert run.log[-1].loss < run.log[0].loss
    recipe.memory_method.write(tmp_path, model, {"name": "tiny", "fingerprint": base}, TWICE, {})
    with fot().on(model, TWICE):
        expected = logits(model, IDS)
    with method(f"fot(trained={tmp_path})").on(tiny("llama", vocab_size=300), TWICE):
        pass
    held = tiny("llama", vocab_size=300)
    with method(f"fot(trained={tmp_path}, window=16)").on(held, TWICE):
        assert torch.equal(logits(held, IDS), expected)
    with pytest.raises(UserError, match="trained with window = 16"):
        method(f"fot(trained={tmp_path}, window=8)")
    with pytest.raises(UserError, match="is a memory of tiny"), method(f"fot(trained={tmp_path})").on(model, TWICE):
        pass


def test_the_recipe_is_the_papers():
    recipe = BY_ID["fot"].load()
    assert recipe.memory_method.name == "fot" and recipe.batch % recipe.micro == 0 and recipe.packing == "none"


def test_forwards_that_do_not_fit_are_refused():
    model = tiny("llama", vocab_size=300).train()
    with fot(negatives=1).on(model, TWICE):
        with pytest.raises(UserError, match="3 rows, expected texts from their beginning, and a multiple of 2"):
            hidden(model, IDS[:3])
        with pytest.raises(UserError, match="packed rows"):
            hidden(model, IDS, document_ids=torch.zeros_like(IDS))
        with pytest.raises(UserError, match="positions that jump"):
            hidden(model, IDS, position_ids=torch.arange(1, 8 * W + 1)[None])
    with pytest.raises(UserError, match="no gradient"), fot(topk=3, negatives=0).on(model, TWICE):
        hidden(model, IDS)
    for wrong, said in [({"layers": (2,)}, "of a model with 2"), ({"window": 65}, "at most the 64 trained")]:
        with pytest.raises(UserError, match=said), fot(**wrong).on(subject(), TWICE):
            pass
    with pytest.raises(UserError, match="different whole numbers"):
        FoT(layers=(1, 1))


# Memory


@torch.no_grad()
def test_layers_without_a_memory_hold_a_window_and_generation_goes_on():
    model, held = tiny("llama", vocab_size=300, num_hidden_layers=3), []
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    for n in (70, 110):
        with fot().on(model, TWICE):
            cache, ids = fot().cache(model), text(1, n)
            mask = torch.ones_like(ids)
            found = model.generate(ids, attention_mask=mask, **options, **as_argument(model, cache))
            assert torch.equal(found, model.generate(ids, attention_mask=mask, use_cache=False, **options))
        held.append([layer.keys.shape[2] for layer in cache.layers])
    assert held[0][1] == 75 and held[1][1] == 115
    assert all(held[i][j] < W + 1 for i in (0, 1) for j in (0, 2))
