"""Gradients through regions against autograd through written-out attention in float64."""

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from ropewalk import method
from tests.attention import oracle
from tests.attention.oracle import attention, base_frequencies
from tests.models import tiny, tokens

L, T, N = 32, 128, 80
RULES = {
    "self-extend(group=7, window=9)": oracle.self_extend(7, 9),
    "dca(chunk_size=20, local_size=5)": oracle.dual_chunk(15, 20),
    "rerope(window=8)": oracle.rerope(8),
    "leaky-rerope(window=8, slope_divisor=6.0)": oracle.leaky_rerope(8, 6.0),
    "lm-infinite(window=16, sinks=3)": oracle.lm_infinite(16, 3),
    "streaming-llm(sinks=3, recent=13)": oracle.streaming(3, 13),
    "gali(local_window=6)": oracle.gali(L, 6, 6),
    "log-n": oracle.log_n(L),
    "yarn-temperature": oracle.yarn_temperature(L, T),
    "s2-attention(group_size=16)": oracle.s2(16, 4),
    "s2-attention": oracle.s2(N // 4, 4),
    "scca": oracle.scca("flow", 4),
    "scca(pattern='fixed', chunk=16)": oracle.scca("fixed", 4, 16),
}
every = pytest.mark.parametrize("spelling", RULES)


def llama(**more):
    return tiny("llama", max_position_embeddings=L, **more)


def gradients(model, ids, **inputs):
    """Gradients of the loss in every weight."""
    model.zero_grad()
    model(ids, labels=ids, use_cache=False, **inputs).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def close(got, wanted, tolerance=1e-5):
    for name in wanted:
        error = float((got[name].double() - wanted[name].double()).abs().max())
        assert error <= tolerance * max(1.0, float(wanted[name].abs().max())), name


def written_out(rule, ids, documents=None):
    """The same gradients by the per-pair formula, with keys that were never rotated."""

    def attend(module, q, k, v, mask, **more):
        m, n = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None]
        rows = [attention(*row, rule(m, n, len(m)), base_frequencies(16)) for row in zip(q, k, v, strict=True)]
        return torch.stack(rows).transpose(1, 2).to(q.dtype), None

    AttentionInterface.register("written_out", attend)
    AttentionMaskInterface.register("written_out", lambda *sizes, **more: None)
    model = llama(attn_implementation="written_out").double()
    rotary = model.model.rotary_emb
    rotary.register_forward_hook(lambda module, given, out: (torch.ones_like(out[0]), torch.zeros_like(out[1])))
    return gradients(model, ids)


@every
def test_gradients_are_those_of_written_out_attention(spelling):
    model, ids = llama(), tokens(2, N)
    with method(spelling).on(model, to=T):
        close(gradients(model, ids), written_out(RULES[spelling], ids))


@every
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(spelling, reentrant):
    model, ids = llama().train(), tokens(2, N)
    with method(spelling).on(model, to=T):
        expected = gradients(model, ids)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
        got = gradients(model, ids)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("spelling", ["dca", "streaming-llm", "log-n"])
def test_a_layer_computed_again_sees_its_own_forward_pass(spelling):
    """Two texts, both forward passes before the backward pass, as in preference training."""
    model, long, short = llama().train(), tokens(2, N), tokens(1, 50, seed=1)
    documents = (torch.arange(50) >= 20).long()[None]
    packed = {"document_ids": documents, "position_ids": torch.arange(50)[None] - 20 * documents}
    padded = {"attention_mask": (torch.arange(N) >= torch.tensor([[30], [0]])).long()}

    def both():
        model.zero_grad()
        first = model(long, labels=long, use_cache=False, **padded).loss
        (first + model(short, labels=short, use_cache=False, **packed).loss).backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    with method(spelling).on(model, to=T):
        expected = both()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        got = both()
    close(got, expected, 1e-6)


@pytest.mark.parametrize("spelling", ["s2-attention(group_size=16)", "scca(chunk=16)", "dca", "yarn+self-extend"])
def test_packed_documents_have_the_gradients_of_documents_alone(spelling):
    model, ids = llama(), tokens(1, 80)
    documents = (torch.arange(80) >= 30).long()[None]
    positions = torch.arange(80)[None] - 30 * documents
    labels = ids.clone()
    labels[:, 30] = -100  # the first token of the second document is nobody's next one
    with method(spelling).on(model, to=T):
        model(ids, labels=labels, document_ids=documents, position_ids=positions, use_cache=False).loss.backward()
        packed = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        model.zero_grad()
        for part in (ids[:, :30], ids[:, 30:]):
            (model(part, labels=part, use_cache=False).loss * (part.shape[1] - 1) / 78).backward()
        close(packed, {name: weight.grad for name, weight in model.named_parameters()})


@pytest.mark.parametrize("spelling", ["s2-attention(group_size=16)", "self-extend"])
def test_bfloat16_gradients_are_off_by_rounding(spelling):
    model, ids = llama(), tokens(2, N)
    with method(spelling).on(model, to=T):
        expected = gradients(model, ids)
    half = llama().to(torch.bfloat16)
    half.model.rotary_emb = llama().model.rotary_emb  # frequencies stay in float32, as from_pretrained keeps them
    with method(spelling).on(half, to=T):
        got = gradients(half, ids)
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 0.1 * gradient.norm(), name
