"""One pass against the model as it is, a document at a time with all logits."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ropewalk import method
from ropewalk.attention import engine
from ropewalk.common.errors import UserError
from ropewalk.training.one_shot import TRIED, OneShot, keeps_apart, require_apart
from ropewalk.training.recurrent import Recurrent
from ropewalk.training.training_batch import Batch
from tests.architectures import LATENT, ROUTED, build
from tests.models import COMMON, THETA, tiny
from tests.training.passes import alone, error, fractional, gradients, row, trainable, written_out
from tests.training.test_checkpointing import on

BATCHES = {
    "one document": Batch.of([row(60), row(60, seed=1)]),
    "padded": Batch.of([row(60), row(41, seed=1)]),
    "a jump": Batch.of([row(60, jump=25, holes=slice(30, 40))]),
    "packed": Batch.of([row(60, 23, 37), row(50, 10, 15, 25, seed=1)]),
    "packed, fractions": fractional(Batch.of([row(60, 23, 37)])),
    "fractions": fractional(Batch.of([row(60)])),
}
FAMILIES = ["llama", "gemma3", "gpt_oss", "phi3"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", BATCHES)
def test_loss_and_gradients_are_those_of_documents_alone(family, kind):
    model, batch = tiny(family, tie_word_embeddings=True), BATCHES[kind]
    loss, expected = written_out(model, batch)
    for how in (OneShot(), OneShot(checkpoint=True), OneShot(checkpoint=True, offload=True)):
        got, found = gradients(model.train(how.checkpoint), how, batch)
        assert got == pytest.approx(loss, rel=1e-6)
        assert error(found, expected) <= 2e-6
    assert not on(model)


@pytest.mark.parametrize("kind", ["padded", "a jump", "packed"])
def test_every_place_has_its_loss(kind):
    model, batch = tiny("llama"), BATCHES[kind]
    for how in (OneShot(), Recurrent(chunk=17)):
        losses = how.losses(model, batch)
        assert losses.shape == batch.targets.shape and not losses[batch.targets < 0].any()
        assert float((losses * batch.weights).sum()) / 50 == pytest.approx(written_out(model, batch)[0], rel=1e-6)
        for one in alone(batch):
            mine = (batch.document_ids == one.document_ids[0, 0]) & (batch.input_ids == one.input_ids[0, 0])
            row, place = mine.nonzero()[0].tolist()
            own = losses[row, place : place + one.targets.shape[1]]
            assert torch.allclose(own, how.losses(model, one)[0], atol=2e-6)


def test_packed_rows_are_never_masked_and_leave_nothing_behind(monkeypatch):
    model, seen = tiny("llama"), []
    plain = engine._mask
    monkeypatch.setattr(engine, "_mask", lambda *sizes, **more: seen.append(plain(*sizes, **more)) or seen[-1])
    before = model.config._attn_implementation
    gradients(model, OneShot(), BATCHES["packed"])
    assert seen and all(mask.shape[1:3] == (1, 1) for mask in seen)
    assert model.config._attn_implementation == before and not engine._ENGINES


def test_documents_that_leak_would_be_seen():
    model, batch = tiny("llama"), BATCHES["packed"]
    leaking = Batch(batch.input_ids, batch.targets, batch.weights, batch.position_ids, torch.zeros_like(batch.targets))
    leaking.position_ids.copy_(torch.arange(60))
    assert error(gradients(model, OneShot(), leaking)[1], written_out(model, batch)[1]) > 0.01


@pytest.mark.parametrize("spelling", ["dca(chunk_size=20, local_size=5)", "self-extend(group=7, window=9)", "yarn"])
@pytest.mark.parametrize("kind", ["one document", "packed"])
def test_methods_stay_on(spelling, kind):
    model, batch = tiny("llama", max_position_embeddings=32), BATCHES[kind]
    plain = written_out(model, batch)[1]
    with method(spelling).on(model, to=128):
        expected = written_out(model, batch)[1]
        assert error(gradients(model, OneShot(), batch)[1], expected) <= 2e-6
    assert error(expected, plain) > 0.01


def test_fractions_are_refused_where_regions_count_tokens():
    model = tiny("llama", max_position_embeddings=32)
    with method("dca").on(model, to=128), pytest.raises(UserError, match="fractions"):
        gradients(model, OneShot(), BATCHES["packed, fractions"])


def test_what_is_frozen_gets_no_gradient():
    model, batch = tiny("llama"), BATCHES["packed"]
    expected = written_out(model, batch)[1]
    trainable(model, "q_proj")
    got = gradients(model.train(), OneShot(checkpoint=True), batch)[1]
    assert error(got, {name: expected[name] for name in expected if "q_proj" in name}) <= 2e-6


def test_checkpoints_are_refused_in_evaluation_mode():
    with pytest.raises(UserError, match="training mode"):
        OneShot(checkpoint=True).backward(tiny("llama"), BATCHES["packed"], 1.0)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss", "phi3", "glm4_moe"])
def test_documents_apart_are_accepted(family):
    require_apart((tiny if family in FAMILIES else build)(family).train())


def made(name, **more):
    """A model of a kind that is in no list, with what an indexer draws."""
    torch.manual_seed(0)
    values = {**COMMON, "rope_parameters": dict(THETA), "attention_dropout": 0.0, **more}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **values))


@pytest.mark.parametrize("name", ["deepseek_v32", "glm_moe_dsa"])
@pytest.mark.parametrize("topk", [8, 1000])
def test_keys_that_an_indexer_picked_are_refused(name, topk):
    model = made(name, **LATENT, **ROUTED, index_n_heads=2, index_head_dim=16, index_topk=topk)
    with pytest.raises(UserError, match=r"'indices' for its attention|mask of its own"):
        gradients(model, OneShot(), BATCHES["packed"])


def test_a_layer_that_attends_twice_is_refused():
    model = made("diffllama")
    with pytest.raises(UserError, match="attends more than once"):
        gradients(model, OneShot(), BATCHES["packed"])
    assert not on(model)
    assert gradients(model, OneShot(), BATCHES["padded"])[0] > 0


def side_by_side():
    """A model whose layers attend and, beside, keep a state."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=16, max_position_embeddings=64)  # fmt: skip
    states = dict(mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon_h1", **sizes, **states, mamba_chunk_size=16))


@pytest.mark.parametrize("name", ["lfm2", "minimax", "qwen3_next", "falcon_h1"])
def test_what_carries_from_one_packed_document_to_the_next_is_refused(name):
    with pytest.raises(UserError, match="document"):
        require_apart((side_by_side() if name == "falcon_h1" else build(name)).train())


def test_packed_rows_refuse_dropout_of_attention_before_the_first_step():
    with pytest.raises(UserError, match="dropout"):
        require_apart(tiny("llama", attention_dropout=0.1).train())


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rows_of_several_lengths_are_read_without_padding_and_give_what_padded_ones_give(family, monkeypatch):
    model, read = tiny(family), []
    body = model.get_decoder()
    body.register_forward_pre_hook(lambda _, args, given: read.append(given["input_ids"].shape), with_kwargs=True)
    ragged = Batch.of([row(60, 23, 37), row(41, seed=1), row(9, seed=2)])
    got, found = gradients(model, OneShot(), ragged)
    losses = OneShot().losses(model, ragged)
    assert [shape for shape in read if shape[1] > 2 * TRIED] == [(1, 110)] * 2  # it is tried on a few tokens first
    read.clear()
    monkeypatch.setattr(OneShot, "_unpadded", lambda self, model, batch: batch)
    loss, expected = gradients(model, OneShot(), ragged)
    assert read == [(3, 60)]
    assert got == pytest.approx(loss, rel=1e-6) and error(found, expected) <= 2e-6
    torch.testing.assert_close(losses, OneShot().losses(model, ragged))


def test_rows_stay_padded_where_documents_would_leak(caplog):
    model, read = side_by_side().train(), []
    with caplog.at_level("INFO", "ropewalk"):
        assert not keeps_apart(model)
    assert "rows are padded" in caplog.text and "carries something" in caplog.text
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, given: read.append(given["input_ids"].shape), with_kwargs=True
    )
    OneShot().losses(model, Batch.of([row(20), row(11, seed=1)]))
    assert (2, 20) in read and (1, 31) not in read
