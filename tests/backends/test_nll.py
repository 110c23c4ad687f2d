from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, PreTrainedModel

from ropewalk.backends import nll
from ropewalk.backends.nll import answer_match, token_nll
from tests.models import COMMON, FAMILIES, THETA, shared, tiny, tokens


def gemma2() -> PreTrainedModel:
    config = Gemma2Config(**COMMON, rope_parameters=THETA, final_logit_softcapping=3.0, query_pre_attn_scalar=16)
    return Gemma2ForCausalLM(config)


def granite() -> PreTrainedModel:
    values = {key: value for key, value in COMMON.items() if key != "head_dim"}
    return GraniteForCausalLM(GraniteConfig(**values, rope_parameters=THETA, logits_scaling=8.0))


def larger_logits(model: PreTrainedModel) -> PreTrainedModel:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


def reference(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(ids.shape[0], -1)


def forbid_fallback(monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel) -> None:
    """From here on the model's own logits may not be asked for."""
    assert nll._head_is_enough(model)
    monkeypatch.setattr(nll, "_own_logits", None)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_equal_all_logits_at_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = shared(family), tokens(3, 21)
    expected = reference(model, ids)
    forbid_fallback(monkeypatch, model)
    torch.testing.assert_close(token_nll(model, ids, chunk=7), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [gemma2, granite, lambda: tiny("cohere")], ids=["gemma2", "granite", "cohere"])
def test_what_happens_behind_the_head_is_done(build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = larger_logits(build()), tokens(2, 17)
    with torch.no_grad():
        bare = model.get_output_embeddings()(model.get_decoder()(input_ids=ids).last_hidden_state)
        assert (bare - model(ids).logits).abs().max() > 0.1 * bare.abs().max(), "the model must transform its logits"
    expected = reference(model, ids)
    forbid_fallback(monkeypatch, model)
    torch.testing.assert_close(token_nll(model, ids, chunk=5), expected, rtol=1e-5, atol=1e-5)


def test_unknown_transformation_falls_back_to_the_models_own_logits() -> None:
    class Squared(type(tiny("llama"))):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits**2
            return out

    model, ids = tiny("llama"), tokens(2, 9)
    model.__class__ = Squared
    assert not nll._head_is_enough(model)
    torch.testing.assert_close(token_nll(model, ids, chunk=3), reference(model, ids))


def test_keep_scores_the_last_tokens_of_each_row() -> None:
    model, ids = shared("llama"), tokens(3, 12)
    torch.testing.assert_close(token_nll(model, ids, keep=4), token_nll(model, ids)[:, -4:])


def test_dynamic_rope_does_not_remember_longer_inputs() -> None:
    rope, ids = {**THETA, "rope_type": "dynamic", "factor": 4.0}, tokens(1, 200)
    fresh = token_nll(tiny("llama", rope_parameters=rope), ids[:, :100])
    used = tiny("llama", rope_parameters=rope)
    token_nll(used, ids)
    assert torch.equal(token_nll(used, ids[:, :100]), fresh)


def test_half_precision_is_upcast_before_the_softmax() -> None:
    model, ids = tiny("llama").bfloat16(), tokens(1, 30)
    losses = token_nll(model, ids)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, reference(model, ids))


def test_pad_tokens_in_the_text_count_as_text() -> None:
    model, ids = shared("llama"), tokens(1, 16)
    ids[0, 3:6] = model.config.pad_token_id
    torch.testing.assert_close(token_nll(model, ids), reference(model, ids))


def test_a_training_model_is_evaluated_without_dropout_and_stays_in_training() -> None:
    model, ids = tiny("llama", attention_dropout=0.5), tokens(1, 16)
    expected = token_nll(model, ids)
    model.train()
    model.model.layers[0].eval()  # as those do who train a part of a model
    flags = [module.training for module in model.modules()]
    torch.testing.assert_close(token_nll(model, ids), expected)
    assert [module.training for module in model.modules()] == flags
    model(ids, labels=ids).loss.backward()  # what evaluation left behind can be differentiated


@pytest.mark.parametrize(("length", "keep"), [(1, None), (5, 5), (5, 0)])
def test_nothing_to_score_is_an_error(length: int, keep: int | None) -> None:
    with pytest.raises(ValueError, match="first token has no context"):
        token_nll(shared("llama"), tokens(1, length), keep=keep)


def test_answer_match_is_what_greedy_decoding_writes() -> None:
    model = shared("llama")
    for seed in range(20):
        prompt = torch.randint(0, 97, (1, 20), generator=torch.Generator().manual_seed(seed))  # pad and eos included
        written = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False, pad_token_id=2
        )[0, 20:].tolist()
        corrupted = [*written[:-1], (written[-1] + 1) % 97]
        (right, logprob), (wrong, worse) = answer_match(model, [prompt[0].tolist()] * 2, [written, corrupted])
        assert right and not wrong and worse < logprob < 0


def test_answers_of_different_lengths_share_a_batch() -> None:
    model, row = shared("llama"), tokens(1, 12)[0].tolist()
    cuts = [3, 1, 2]
    verdicts = answer_match(model, [row[:-cut] for cut in cuts], [row[-cut:] for cut in cuts], batch_tokens=24)
    losses = token_nll(model, torch.tensor([row]))[0]
    assert [logprob for _, logprob in verdicts] == pytest.approx([-losses[-cut:].mean().item() for cut in cuts])


def test_answer_match_refuses_what_it_cannot_batch() -> None:
    with pytest.raises(ValueError, match="one length"):
        answer_match(shared("llama"), [[3, 4], [3]], [[5], [5]])
    with pytest.raises(ValueError, match="no tokens"):
        answer_match(shared("llama"), [[3, 4]], [[]])
