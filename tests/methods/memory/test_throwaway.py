"""What is trained on a text while it is read: against loops written out, within budgets, and thrown away."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ropewalk import QTTT, TempLoRA, UserError
from ropewalk.methods.memory.reader import reading
from ropewalk.methods.memory.throwaway import generator
from tests.matrix import TWICE, logits, near, subject, text
from tests.models import step, tiny

IDS = text(1, 98)
LORA = TempLoRA(chunk=24, context=20, rank=3, alpha=6, learning_rate=3e-3, epochs=2, warmup=2, dropout=0.25)
QUERIES = QTTT(steps=4, span=20, learning_rate=2e-3, every=40, clip=0.5)


@torch.no_grad()
def merged(model, weights, scale):
    """A model with the adapter in its weights."""
    linear = [one for one in model.model.modules() if isinstance(one, torch.nn.Linear)]
    for layer, down, up in zip(linear, weights[::2], weights[1::2], strict=True):
        layer.weight += scale * up @ down
    return model


def adapters(model, seed):
    drawing, found = generator(seed, 0, torch.device("cpu")), []
    for layer in model.model.modules():
        if isinstance(layer, torch.nn.Linear):
            down = torch.empty(3, layer.in_features)
            torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=drawing)
            found += [down.requires_grad_(), torch.zeros(layer.out_features, 3).requires_grad_()]
    return found


def test_temp_lora_is_a_loop_over_chunks():
    """Without dropout, which is drawn layer by layer: the adapter merged into weights, losses by plain autograd."""
    method = TempLoRA(**{**vars(LORA), "dropout": 0.0})
    base = tiny("llama", vocab_size=300)
    weights = adapters(base, 0)
    optimizer = torch.optim.AdamW(weights, 1.0, (0.9, 0.999), 1e-7, weight_decay=0.0)
    expected = []
    for number, start in enumerate(range(0, 98, 24)):
        row = IDS[:, max(0, start - 20) : start + 24]
        own = min(24, 98 - start)
        expected.append(logits(merged(tiny("llama", vocab_size=300), weights, 2.0), row)[:, -own:])
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, number / 2)
        for _ in range(2):
            names = [name for name, one in base.named_modules() if isinstance(one, torch.nn.Linear)][:-1]
            changed = {f"{name}.weight": base.get_submodule(name).weight.detach() + 2.0 * up @ down
                       for name, down, up in zip(names, weights[::2], weights[1::2], strict=True)}  # fmt: skip
            scores = torch.func.functional_call(base, changed, (row,), {"use_cache": False}).logits[0, :-1]
            keep = min(24, row.shape[1] - 1)
            loss = F.cross_entropy(scores[-keep:], row[0, 1:][-keep:])
            for one, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                one.grad = gradient
            optimizer.step()
    with method.on(base, TWICE):
        assert near(logits(base, IDS), torch.cat(expected, 1), 1e-4)


def test_qttt_is_a_loop_over_spans_with_the_models_own_keys_and_values():
    """No cache at all: what stands before a span is read by the model's own queries, layer by layer, in one forward."""
    base, twin = tiny("llama", vocab_size=300), tiny("llama", vocab_size=300)
    expected = [logits(base, IDS[:, :40])]
    for n in (40, 80):
        queries = [one.self_attn.q_proj for one in twin.model.layers]
        for one, own in zip(queries, base.model.layers, strict=True):
            one.weight.data = own.self_attn.q_proj.weight.data.clone()
        weights = [one.weight for one in queries]
        optimizer = torch.optim.AdamW(weights, 2e-3, weight_decay=0.01)
        drawing = generator(0, n, torch.device("cpu"))
        for _ in range(4):
            start = int(torch.randint(n - 20, (1,), generator=drawing))
            row = IDS[:, start : start + 21]
            cache = step(base, IDS[:, :start])[1] if start else None
            loss = F.cross_entropy(step(twin, row[:, :-1], cache)[0][0], row[0, 1:])
            twin.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 0.5)
            optimizer.step()
        with torch.no_grad():
            _, cache = step(base, IDS[:, :n])
            expected.append(step(twin, IDS[:, n : n + 40], cache)[0])
    with QUERIES.on(base, TWICE):
        assert near(logits(base, IDS), torch.cat(expected, 1), 1e-4)


@torch.no_grad()
def test_an_answer_is_written_with_queries_that_know_all_of_the_prompt():
    """The last token of a prompt is read again; the model's keys and values before it stay bit for bit."""
    model = subject()
    with QUERIES.on(model, TWICE):
        once, _ = step(model, IDS, logits_to_keep=1)
        every, held = step(model, IDS)
        losses = logits(model, IDS)
    kept = held._ropewalk_memory.states[0]
    plain = step(model, IDS)[1]
    assert near(once, every[:, -1:]) and not near(once, losses[:, -1:], 1e-4)
    assert torch.equal(every[:, :-1], losses[:, :-1]), "losses never know what follows"
    assert kept.frozen == 97 and len(kept.weights) == 2
    for one, own in zip(kept.cache.layers, plain.layers, strict=True):
        assert near(one.keys[:, :, :97], own.keys[:, :, :97]) and near(one.values[:, :, :97], own.values[:, :, :97])


@torch.no_grad()
@pytest.mark.parametrize("still", [QTTT(learning_rate=0, steps=2, every=40), QTTT(steps=0, every=40), QTTT(budget=100),
                                   TempLoRA(learning_rate=0), TempLoRA(epochs=0), TempLoRA(budget=10)],
                         ids=lambda one: one.id)  # fmt: skip
def test_what_trains_nothing_is_the_plain_model_within_its_window(still):
    model, ids = subject(), IDS[:, :64]
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": -1, "attention_mask": torch.ones_like(ids)}
    expected, tokens = logits(model, ids), model.generate(ids, **options)
    with still.on(model, TWICE):
        assert near(logits(model, ids), expected)
        if isinstance(still, QTTT):  # beyond the window too, where Temp-LoRA reads what fits
            assert torch.equal(model.generate(ids, **options), tokens)
            assert near(logits(model, IDS), logits(subject(), IDS))


@torch.no_grad()
def test_a_text_that_repeats_itself_is_learned():
    model, ids = subject(), text(1, 24).repeat(1, 5)
    losses = {}
    for rate in (0.0, 1e-2):
        with TempLoRA(chunk=24, context=0, rank=4, learning_rate=rate, epochs=4, warmup=0).on(model, TWICE):
            losses[rate] = F.cross_entropy(logits(model, ids)[0, 96:-1], ids[0, 97:]).item()
    assert losses[1e-2] < 0.5 * losses[0.0]


def elements(state):
    kept = state.cache.layers if state.cache else []
    tensors = [state.before, state.chunk, *state.weights, *(t for one in kept for t in (one.keys, one.values))]
    return sum(one.numel() for one in tensors)


def test_temp_loras_memory_is_flat_and_budgets_are_kept():
    model = subject()
    reader = LORA.reader(model, TWICE)
    state, most = reader.begin(1), []
    for piece in IDS.repeat(1, 2).split(4, 1):
        reader.read(piece, state)
        most.append(elements(state))
    assert max(most) == max(most[:12]) and reader.read_tokens == 196
    assert reader.trained_tokens == 2 * sum(min(24, n) + min(20, max(0, n - 24)) - 1 for n in range(24, 196, 24))
    bounded = {TempLoRA(**{**vars(LORA), "budget": 150}): 2 * (23 + 43), QTTT(steps=8, budget=1000): 8 * 63}
    for method, spent in bounded.items():
        reader = method.reader(model, TWICE)
        with reading(model, reader):
            logits(model, IDS.repeat(1, 2))
        assert reader.trained_tokens == spent <= method.budget


def test_what_cannot_be_trained_is_refused():
    for name, said in (("gpt_neox", "linear layers are .*query_key_value"), ("phi3", "qkv_proj")):
        with pytest.raises(UserError, match=said), QUERIES.on(tiny(name), TWICE):
            pass
        with LORA.on(tiny(name), TWICE):  # all linear layers, whatever their names
            assert logits(tiny(name), IDS % 97).isfinite().all()
    model = tiny("llama", vocab_size=300)
    for method in (LORA, QUERIES):
        with pytest.raises(UserError, match="has no head"), method.on(model.model, TWICE):
            pass
        with method.on(model, TWICE):
            with torch.inference_mode(), pytest.raises(UserError, match="which inference_mode forbids"):
                model(IDS)
            with pytest.raises(UserError, match=r"Call model.eval\(\)"):
                model.train()(IDS)
            model.eval()
    with pytest.raises(UserError, match="expected at most the target of 128 tokens"):
        TempLoRA(chunk=100).reader(model, TWICE)
    with pytest.raises(UserError, match=r"dropout is 1.0, expected 0 to less than 1"):
        TempLoRA(dropout=1.0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt_oss"])
def test_architectures(name):
    model, ids = subject(name), IDS[:, :50]
    expected = logits(model, ids)
    for method in (TempLoRA(chunk=40, context=0, rank=2, epochs=1, warmup=0), QTTT(steps=2, span=10, every=40)):
        with method.on(model, TWICE):
            found = logits(model, ids)
        assert found.isfinite().all() and not torch.equal(found, expected)
    with QTTT(learning_rate=0, steps=1, every=40).on(model, TWICE):
        assert near(logits(model, ids), expected, 1e-4)


@torch.no_grad()
def test_half_precision_moves_queries_that_are_kept_in_float32():
    half = tiny("llama", vocab_size=300).to(torch.bfloat16)
    for name, buffer in subject().named_buffers():  # .to() rounds the frequencies too, from_pretrained does not
        half.get_buffer(name).data = buffer.clone()
    expected = logits(half, IDS[:, :60]).float()
    for rate, kept in ((0, True), (1e-2, False)):
        with QTTT(steps=4, span=30, learning_rate=rate, every=40).on(half, TWICE):
            found = logits(half, IDS[:, :60]).float()
        assert torch.equal(found[:, :40], expected[:, :40]) and near(found, expected, 0.02) == kept
