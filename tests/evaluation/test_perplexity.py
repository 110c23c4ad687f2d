from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ropewalk.backends.nll import token_nll
from ropewalk.evaluation.perplexity import (
    context_gain,
    document_sums,
    position_curve,
    position_edges,
    prefix_sums,
    sliding,
    truncated,
    windows,
)
from tests.models import THETA, VOCABULARY, shared, tiny, tokens


def loss(model, ids: torch.Tensor) -> float:
    """Mean loss of one forward with labels, as transformers computes it."""
    with torch.no_grad():
        return model(ids, attention_mask=torch.ones_like(ids), labels=ids).loss.item()


@pytest.fixture(scope="module")
def constant():
    model = tiny("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    return model


@pytest.mark.parametrize(
    "measure",
    [
        lambda model, ids: truncated(model, ids, [40])[40],
        lambda model, ids: sliding(model, ids.tolist(), 16, 5),
        lambda model, ids: sliding(model, ids.tolist(), 16, 5, compat="yarn"),
    ],
    ids=["truncated", "sliding", "yarn"],
)
def test_constant_logits_have_the_vocabulary_as_perplexity(constant, measure: Callable) -> None:
    found = measure(constant, tokens(3, 40))
    assert found.value == pytest.approx(VOCABULARY, rel=1e-6)
    assert found.high - found.low < 1e-3


def test_constant_logits_have_a_flat_curve_and_no_gain(constant) -> None:
    ids, edges = tokens(2, 300), position_edges(300)
    for bucket in position_curve(document_sums(constant, ids, edges), edges):
        assert bucket.nll.value == pytest.approx(math.log(VOCABULARY), rel=1e-6)
    assert context_gain(constant, ids, 32, 300).value == pytest.approx(0, abs=1e-6)


def test_one_forward_holds_every_length() -> None:
    model, ids = shared("llama"), tokens(3, 160)
    lengths = [160, 2, 64, 33]
    found = truncated(model, ids, lengths, batch_tokens=170)
    for n in lengths:
        assert found[n].value == pytest.approx(math.exp(loss(model, ids[:, :n])), rel=1e-5)
        assert found[n].low < found[n].value < found[n].high
    assert list(found) == lengths


def test_length_dependent_frequencies_need_a_forward_per_length() -> None:
    rope = {**THETA, "rope_type": "dynamic", "factor": 4.0}
    lengths = [160, 100]
    ids = tokens(2, 160)
    separate = [math.exp(loss(tiny("llama", rope_parameters=rope), ids[:, :n])) for n in lengths]
    found = truncated(tiny("llama", rope_parameters=rope), ids, lengths, length_dependent=True)
    assert [found[n].value for n in lengths] == pytest.approx(separate, rel=1e-5)
    shortcut = truncated(tiny("llama", rope_parameters=rope), ids, lengths)
    assert shortcut[100].value != pytest.approx(separate[1], rel=1e-3)


def test_perplexity_weighs_tokens_not_documents() -> None:
    model = shared("llama")
    short, long = tokens(1, 8)[0], tokens(1, 120, seed=1)[0]
    total = token_nll(model, short[None]).sum() + token_nll(model, long[None]).sum()
    assert sliding(model, [short.tolist(), long.tolist()], 120, 60).value == pytest.approx(
        math.exp(total / 126), rel=1e-5
    )


def test_a_window_over_the_whole_document_is_one_forward() -> None:
    model, ids = shared("llama"), tokens(1, 90)
    expected = math.exp(loss(model, ids))
    for compat in (None, "yarn"):
        assert sliding(model, ids.tolist(), 128, 64, compat=compat).value == pytest.approx(expected, rel=1e-6)


def test_stride_of_the_window_is_independent_chunks() -> None:
    model, ids = shared("llama"), tokens(1, 70)
    chunks = [ids[:, first : first + 32] for first in (0, 32, 64)]
    total = sum(loss(model, chunk) * (chunk.shape[1] - 1) for chunk in chunks)
    assert sliding(model, ids.tolist(), 32, 32).value == pytest.approx(math.exp(total / (31 + 31 + 5)), rel=1e-5)


def test_stride_one_gives_every_token_a_full_window() -> None:
    model, ids = shared("llama"), tokens(1, 40)
    inside = token_nll(model, ids[:, :16])[0].tolist()
    beyond = [token_nll(model, ids[:, end - 16 : end])[0, -1].item() for end in range(17, 41)]
    assert sliding(model, ids.tolist(), 16, 1).value == pytest.approx(math.exp(np.mean(inside + beyond)), rel=1e-5)


def test_yarn_weighs_windows_equally() -> None:
    model, ids = shared("llama"), tokens(1, 40)
    means = [token_nll(model, ids[:, :16]).mean()]
    means += [token_nll(model, ids[:, s : s + 16], keep=8).mean() for s in (8, 16, 24)]
    found = sliding(model, ids.tolist(), 16, 8, compat="yarn")
    assert found.value == pytest.approx(math.exp(sum(means) / 4), rel=1e-5)
    assert found.value != pytest.approx(sliding(model, ids.tolist(), 16, 8).value, rel=1e-4)


@pytest.mark.parametrize("total", [2, 5, 16, 17, 40, 41])
@pytest.mark.parametrize(("window", "stride"), [(16, 1), (16, 5), (16, 15), (2, 1)])
def test_windows_score_every_token_once_with_enough_context(total: int, window: int, stride: int) -> None:
    scored = [t for w in windows(total, window, stride) for t in range(w.end - w.scored, w.end)]
    assert scored == list(range(1, total))
    assert all(w.end - w.start <= window for w in windows(total, window, stride))
    assert all(w.end - w.scored - w.start >= window - stride for w in windows(total, window, stride)[1:])


@pytest.mark.parametrize(("window", "stride"), [(8, 9), (8, 0), (1, 1)])
def test_a_stride_that_does_not_fit_is_refused(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        windows(100, window, stride)


def test_buckets_partition_the_tokens() -> None:
    losses = token_nll(shared("llama"), tokens(4, 700))
    edges = position_edges(700)
    assert edges == [1, 128, 181, 256, 362, 512, 700]
    buckets = position_curve(prefix_sums(losses, edges), edges)
    weighted = sum(b.nll.value * (b.end - b.start) for b in buckets) / 699
    assert weighted == pytest.approx(losses.double().mean().item(), abs=1e-12)
    last = losses[:, 511:].double().mean(1)
    assert buckets[-1].nll.value == pytest.approx(last.mean().item(), abs=1e-12)
    assert buckets[-1].nll.se == pytest.approx((last.std() / 2).item(), rel=1e-9)


@pytest.mark.parametrize("total", [2, 100, 128, 129])
def test_short_documents_have_a_bucket_too(total: int) -> None:
    edges = position_edges(total)
    assert edges[0] == 1 and edges[-1] == total and edges == sorted(set(edges))


def test_context_gain_is_paired_on_the_same_tokens() -> None:
    model, ids = shared("llama"), tokens(3, 100)
    ids[:, 0] = 0
    near = torch.cat([ids[:, :1], ids[:, 100 - 31 :]], 1)
    expected = (token_nll(model, near)[:, -16:] - token_nll(model, ids)[:, -16:]).mean().item()
    assert context_gain(model, ids, 32, 100, head=1, batch_tokens=150).value == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="cannot compare"):
        context_gain(model, ids, 32, 101)
