from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ropewalk.backends.nll import token_nll
from ropewalk.evaluation.probing import ContextProbe, context_probe
from tests.models import VOCABULARY, shared, tiny, tokens


def one_context_at_a_time(model: PreTrainedModel, ids: Tensor, window: int) -> ContextProbe:
    """A forward for each target and context length."""
    losses = torch.full((len(ids), window + 1), float("nan"))
    divergences = losses.clone()
    for t in range(1, len(ids)):
        for c in range(1, min(t, window) + 1):
            losses[t, c] = token_nll(model, ids[None, t - c : t + 1], keep=1)
            full, part = (
                model(ids[None, t - size : t], attention_mask=torch.ones(1, size)).logits[0, -1].log_softmax(-1)
                for size in (min(t, window), c)
            )
            divergences[t, c] = (full.exp() * (full - part)).sum()
    return ContextProbe(losses, divergences)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox"])
@pytest.mark.parametrize("batch_tokens", [1, 40])
def test_windows_equal_one_forward_per_context(family: str, batch_tokens: int) -> None:
    model, ids = shared(family), tokens(1, 14)[0]
    with torch.no_grad():
        expected = one_context_at_a_time(model, ids, 5)
    probe = context_probe(model, ids, 5, divergence=True, batch_tokens=batch_tokens)
    torch.testing.assert_close(probe.losses, expected.losses, rtol=1e-4, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(probe.divergences, expected.divergences, rtol=1e-3, atol=1e-6, equal_nan=True)


def test_importances_sum_to_what_the_whole_context_gains() -> None:
    ids, window = tokens(1, 20)[0], 7
    unigram = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    probe = context_probe(shared("llama"), ids, window, unigram=unigram)
    for t in range(20):
        longest = min(t, window)
        assert probe.losses[t, 0] == -unigram[ids[t]]
        gained = probe.losses[t, 0] - probe.losses[t, longest]
        assert probe.importance()[t, :longest].sum().item() == pytest.approx(gained.item(), abs=1e-5)
        assert probe.importance()[t, longest:].isnan().all()


def test_a_bigram_model_finds_nothing_but_the_last_token_important() -> None:
    model = tiny("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    probe = context_probe(model, tokens(1, 15)[0], 6, divergence=True)
    for metric in ("losses", "divergences"):
        further = probe.importance(metric)[:, 1:]
        assert further.nan_to_num(0).abs().max() < 1e-5 and not further.isnan().all()


def test_the_only_token_that_matters_is_found() -> None:
    """Tokens further back than the longest context change nothing; those within it do."""
    ids, window = tokens(1, 20)[0], 6
    changed = ids.clone()
    changed[4] = (ids[4] + 1) % VOCABULARY
    before, after = (context_probe(shared("llama"), one, window).losses for one in (ids, changed))
    differs = ~torch.isclose(before, after, equal_nan=True)
    reached = torch.tensor([[t - c <= 4 <= t and c > 0 for c in range(window + 1)] for t in range(20)])
    assert not (differs & ~reached).any()
    assert (differs & reached).sum() >= 0.9 * (reached & ~before.isnan()).sum()


def test_normalized_importances_are_at_most_one() -> None:
    importance = context_probe(shared("llama"), tokens(1, 12)[0], 4).importance(normalize=True)
    assert importance[4:, 1:].abs().amax(1).allclose(torch.ones(8))


def test_a_window_longer_than_the_text_uses_all_of_it() -> None:
    ids = tokens(1, 6)[0]
    probe = context_probe(shared("llama"), ids, 50)
    assert probe.losses.shape == (6, 6)
    torch.testing.assert_close(probe.losses[range(1, 6), range(1, 6)], token_nll(shared("llama"), ids[None])[0])


def test_what_was_not_measured_is_said() -> None:
    probe = context_probe(shared("llama"), tokens(1, 4)[0], 2)
    with pytest.raises(ValueError, match="no divergences; measure them with divergence=True"):
        probe.importance("divergences")
    for ids, window in ((tokens(1, 1)[0], 2), (tokens(1, 4), 2), (tokens(1, 4)[0], 0)):
        with pytest.raises(ValueError, match="at least 2 token ids"):
            context_probe(shared("llama"), ids, window)
