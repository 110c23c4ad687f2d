"""Chunks against one pass: gradients equal to rounding, whatever the chunks, families, documents and methods."""

import gc
import weakref
from itertools import product

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ropewalk import method
from ropewalk.attention.cache_argument import as_argument, of_output
from ropewalk.common.errors import UserError
from ropewalk.training import recurrent
from ropewalk.training.loss import Head
from ropewalk.training.one_shot import OneShot
from ropewalk.training.recurrent import Recurrent
from ropewalk.training.training_batch import Batch
from tests.architectures import ARCHITECTURES, MIXED, build
from tests.models import COMMON, THETA, tiny
from tests.training.passes import error, fractional, gradients, row, trainable
from tests.training.test_checkpointing import on

ALLOWED = 2e-6  # float32
REFUSED = {  # masks of their own, states, heads that are more than one map, no attention interface, no rotation
    "doge", "lfm2", "llama4_text", "minimax", "minimax (window)", "modernbert-decoder", "qwen3_5", "qwen3_next",
    "falcon", "gpt_neox_japanese", "gptj", "bloom",
}  # fmt: skip
BATCHES = {
    "one document": Batch.of([row(61), row(61, seed=1)]),
    "padded": Batch.of([row(61), row(30, seed=1)]),
    "a jump": Batch.of([row(61, jump=25)]),
    "two jumps": Batch.of([row(61, jump=25), row(61, jump=33, seed=1)]),
    "packed": Batch.of([row(61, 23, 38), row(50, 10, 15, 25, seed=1)]),
    "holes": Batch.of([row(61, holes=slice(14, 40))]),
    "fractions": fractional(Batch.of([row(61, 23, 38)])),
}


def differs(model, how, batch):
    loss, expected = gradients(model, OneShot(), batch)
    got, found = gradients(model, how, batch)
    assert got == pytest.approx(loss, rel=1e-6)
    return error(found, expected)


def some(cells, quick):
    """Cells of a grid, of which all but the quick ones are for the slow suite."""
    return [cell if cell in quick else pytest.param(*cell, marks=pytest.mark.slow) for cell in cells]


QUICK = [
    ("llama", "two jumps"),
    ("llama", "holes"),
    ("gemma3", "padded"),
    ("gemma3", "packed"),
    ("gpt_oss", "fractions"),
]


@pytest.mark.parametrize(("family", "kind"), some(product(["llama", "gemma3", "gpt_oss"], BATCHES), QUICK))
def test_gradients_are_those_of_one_pass(family, kind):
    assert differs(tiny(family, tie_word_embeddings=True), Recurrent(chunk=13), BATCHES[kind]) <= ALLOWED


@pytest.mark.parametrize("chunk", [3, 60, 61, 100])
def test_any_chunk_will_do(chunk):
    assert differs(tiny("qwen3"), Recurrent(chunk), BATCHES["holes"]) <= ALLOWED


@pytest.mark.parametrize("offload", [False, True])
def test_layers_may_be_computed_again_inside_a_chunk(offload):
    model = tiny("gemma3").train()
    assert differs(model, Recurrent(13, checkpoint=True, offload=offload), BATCHES["packed"]) <= ALLOWED


def test_in_float64_there_is_no_difference():
    assert differs(tiny("qwen3").double(), Recurrent(13), BATCHES["packed"]) <= 1e-13


METHODS = [
    "dca(chunk_size=20, local_size=5)", "self-extend(group=7, window=9)", "streaming-llm(sinks=3, recent=13)", "yarn",
    "dynamic-ntk", "log-n", "yarn+self-extend",
]  # fmt: skip


@pytest.mark.parametrize(
    ("spelling", "kind"),
    some(
        product(METHODS, ["one document", "packed"]),
        [(METHODS[0], "packed"), (METHODS[1], "one document"), ("dynamic-ntk", "packed")],
    ),
)
def test_methods_stay_on(spelling, kind):
    model, plain = tiny("llama", max_position_embeddings=32).train(), tiny("llama", max_position_embeddings=32)
    with method(spelling).on(model, to=128):
        expected = gradients(model, OneShot(), BATCHES[kind])[1]
        for how in (Recurrent(17), Recurrent(17, checkpoint=True)):
            assert error(gradients(model, how, BATCHES[kind])[1], expected) <= ALLOWED
    assert error(gradients(plain, OneShot(), BATCHES[kind])[1], expected) > 0.003


LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [3.0] * 8,
            "original_max_position_embeddings": 32}  # fmt: skip
BY_LENGTH = {
    "longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32}),
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}),
}


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_a_rope_that_goes_by_the_length_goes_by_the_whole_text(kind):
    family, more = BY_LENGTH[kind]
    model = tiny(family, **{"max_position_embeddings": 32, **more})
    before = model.model.rotary_emb.inv_freq.clone()
    how = Recurrent(13)
    found = gradients(model, how, BATCHES["one document"])[1]
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    assert error(found, gradients(model, OneShot(), BATCHES["one document"])[1]) <= ALLOWED
    short = gradients(model, how, Batch.of([row(20)]))[1]
    assert error(short, gradients(model, OneShot(), Batch.of([row(20)]))[1]) <= ALLOWED


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("part", ["q_proj", "layers.1.self_attn.k_proj", "embed_tokens", "lm_head"])
def test_what_is_frozen_gets_no_gradient(part, checkpoint):
    model = trainable(tiny("llama").train(), part)
    assert differs(model, Recurrent(20, checkpoint=checkpoint), BATCHES["packed"]) <= ALLOWED


def test_gradients_are_added_to_those_that_are_there():
    model, batch = tiny("llama"), BATCHES["packed"]
    expected = gradients(model, OneShot(), batch)[1]
    model.zero_grad()
    for part in batch.split(1):
        Recurrent(13).backward(model, part, 50.0)
    assert error({name: p.grad for name, p in model.named_parameters()}, expected) <= ALLOWED


def test_embeddings_go_back_in_several_pieces(monkeypatch):
    monkeypatch.setattr(recurrent, "EMBEDDED", 20)
    assert differs(tiny("llama", tie_word_embeddings=True), Recurrent(13), BATCHES["packed"]) <= ALLOWED


def test_lost_gradients_of_keys_and_values_would_be_seen(monkeypatch):
    left = recurrent._Store.left
    monkeypatch.setattr(recurrent._Store, "left", lambda store, end: torch.zeros_like(store.whole[:, :, :end]))
    with pytest.raises(UserError, match="off by"):
        differs(tiny("llama"), Recurrent(13), BATCHES["one document"])
    monkeypatch.setattr(recurrent, "TOLERANCE", {torch.float32: 10.0})
    assert differs(tiny("llama"), Recurrent(13), BATCHES["one document"]) > 0.1
    monkeypatch.setattr(recurrent._Store, "left", left)
    assert differs(tiny("llama"), Recurrent(13), BATCHES["one document"]) <= ALLOWED


class Dropping(nn.Module):
    """A linear map with dropout before it, as adapters have it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(nn.functional.dropout(x, 0.3, self.training))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_dropout_is_the_same_in_both_passes_and_another_in_the_next_step(checkpoint):
    model, batch = tiny("llama").train(), Batch.of([row(61)])
    for layer in model.model.layers:
        layer.self_attn.k_proj = Dropping(layer.self_attn.k_proj)

    torch.manual_seed(5)
    states, cache = [], None
    for part in batch.input_ids.split(13, 1):  # one graph over all chunks
        out = model.model(part, use_cache=True, **({} if cache is None else as_argument(model.model, cache)))
        states.append(out[0])
        cache = of_output(out)
    head = Head.of(model)
    head.loss(torch.cat(states, 1)[0], batch.targets[0], batch.weights[0] / 50).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    behind = torch.get_rng_state()

    gradients(model, Recurrent(13), batch)  # what is tried the first time draws nothing, but let it be past
    torch.manual_seed(5)
    found = gradients(model, Recurrent(13, checkpoint=checkpoint), batch)[1]
    assert error(found, expected) <= ALLOWED
    assert torch.equal(torch.get_rng_state(), behind)


def test_bfloat16_is_off_by_rounding_as_one_pass_is():
    batch, expected = BATCHES["packed"], gradients(tiny("qwen3"), OneShot(), BATCHES["packed"])[1]
    half = tiny("qwen3").to(torch.bfloat16)
    half.model.rotary_emb = tiny("qwen3").model.rotary_emb
    once, chunks = (error(gradients(half, how, batch)[1], expected) for how in (OneShot(), Recurrent(7)))
    assert chunks <= 1.2 * once <= 0.05


@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_stores_are_gone_with_the_pass_not_with_the_garbage(checkpoint, monkeypatch):
    made, init = [], recurrent.KeyValues.__init__
    monkeypatch.setattr(
        recurrent.KeyValues, "__init__", lambda self, *given: (init(self, *given), made.append(weakref.ref(self)))[0]
    )
    model = tiny("llama").train()
    gradients(model, Recurrent(13), BATCHES["one document"])
    gc.collect()
    gc.disable()
    try:
        gradients(model, Recurrent(13, checkpoint=checkpoint), BATCHES["one document"])
        assert len(made) == 3 and made[-1]() is None
    finally:
        gc.enable()


def test_nothing_is_left_behind():
    model = tiny("llama").train()
    before = model.config._attn_implementation
    gradients(model, Recurrent(13, checkpoint=True), BATCHES["packed"])
    assert not on(model) and model.config._attn_implementation == before
    assert recurrent.KEEPS_CACHE not in vars(model.model.layers[0])


@pytest.mark.parametrize(("name", "kind"), [("qwen3_next", "linear_attention"), ("lfm2", "conv")])
def test_layers_that_keep_a_state_are_refused(name, kind):
    model = build(name)
    with pytest.raises(UserError, match=f"cannot be read in chunks; its layers are .*{kind}"):
        gradients(model, Recurrent(13), BATCHES["one document"])
    assert all(weight.grad is None for weight in model.parameters())


def test_shared_keys_and_attention_dropout_are_refused():
    with pytest.raises(UserError, match="attention dropout is"):
        gradients(tiny("llama", attention_dropout=0.1).train(), Recurrent(13), BATCHES["one document"])
    with pytest.raises(UserError, match="chunk is 0"):
        Recurrent(0)
    with pytest.raises(UserError, match="offload without checkpoint"):
        Recurrent(offload=True)


def test_what_is_read_beside_the_embeddings_of_tokens_is_refused():
    more = dict(vocab_size_per_layer_input=97, hidden_size_per_layer_input=8, laurel_rank=4, altup_num_inputs=2,
                activation_sparsity_pattern=[0.0] * 2, num_kv_shared_layers=0)  # fmt: skip
    values = {**COMMON, **MIXED, "rope_parameters": dict(THETA), "attention_dropout": 0.0, **more}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3n_text", **values))
    with pytest.raises(UserError, match="reads embed_tokens_per_layer beside the embedding"):
        gradients(model, Recurrent(13), BATCHES["one document"])


def test_a_phimoe_that_goes_by_the_length_is_refused():
    model = build("phimoe")
    mscales = {"short_mscale": 1.0, "long_mscale": 1.0, "original_max_position_embeddings": 64}
    model.config.rope_parameters.update(rope_type="longrope", **mscales)
    with pytest.raises(UserError, match="which is a chunk"):
        gradients(model, Recurrent(13), BATCHES["one document"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_exact_or_refused(name):
    model = build(name)
    try:
        assert differs(model, Recurrent(13), Batch.of([row(41, jump=25), row(41, jump=18, seed=1)])) <= 5 * ALLOWED
    except UserError as refused:
        assert name in REFUSED, refused.message
    else:
        assert name not in REFUSED
