"""The bridge to lm-evaluation-harness; needs the extra ``eval``."""

from __future__ import annotations

import pytest
import torch

from ropewalk.backends.local import live
from ropewalk.backends.nll import token_nll
from ropewalk.backends.oracles import WindowOracle
from ropewalk.evaluation.lm_eval_bridge import as_lm, as_task, pair
from ropewalk.methods.catalogue import method
from ropewalk.tasks.passkey import Passkey
from tests.models import tiny
from tests.tokenizers import VOCABULARY


def test_contexts_and_continuations_are_split_without_losing_a_token(tokenizer) -> None:
    for context, continuation in (("The sky is", " blue"), ("The sky is ", "blue"), ("", "blue")):
        before, after = pair(tokenizer, context, continuation)
        assert before[0] == tokenizer.bos_token_id and after
        assert tokenizer.decode([*before[1:], *after]).strip() == (context + continuation).strip()


def test_likelihoods_are_those_of_one_forward(tokenizer) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    model = tiny("llama", vocab_size=VOCABULARY)
    with live(model, tokenizer, method("none"), 64) as backend:
        lm = as_lm(backend)
        texts = [("The sky is", " blue"), ("The sky is", " green"), ("The sun", " is yellow today")]
        found = lm.loglikelihood([Instance("loglikelihood", {}, text, i) for i, text in enumerate(texts)])
        for (context, continuation), (likelihood, _) in zip(texts, found, strict=True):
            before, after = pair(tokenizer, context, continuation)
            expected = -token_nll(model, torch.tensor([before + after]), keep=len(after)).sum().item()
            assert likelihood == pytest.approx(expected, abs=1e-3)
        (whole,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("The sky is blue.",), 0)])
        ids = [tokenizer.bos_token_id, *tokenizer("The sky is blue.", add_special_tokens=False).input_ids]
        assert whole == pytest.approx(-token_nll(model, torch.tensor([ids])).sum().item(), abs=1e-3)
        asked = [Instance("generate_until", {}, ("The sky", {"until": ["e"], "max_gen_toks": 9}), 0)]
        assert "e" not in lm.generate_until(asked)[0]


def test_our_tasks_run_in_the_harness(tokenizer) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    backend = WindowOracle(tokenizer, (Passkey(),))
    task = as_task("passkey", backend, 300, samples=6)
    found = lm_eval.simple_evaluate(model=as_lm(backend), tasks=[task], bootstrap_iters=0, log_samples=True)
    (scores,) = found["results"].values()
    assert scores["score,none"] == 1.0 and len(next(iter(found["samples"].values()))) == 6
    half = WindowOracle(tokenizer, (Passkey(),), window=180)
    task = as_task("passkey", half, 300, samples=20)
    (scores,) = lm_eval.simple_evaluate(model=as_lm(half), tasks=[task], bootstrap_iters=0)["results"].values()
    assert 0 < scores["score,none"] < 1
