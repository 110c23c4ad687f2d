"""LongPO against its numbers, DPO's, and a plain script of one graph; a run that prefers is stopped and goes on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ropewalk.common.errors import UserError
from ropewalk.data.arranged import About, Arranged
from ropewalk.data.arrangement import COLUMNS, Arrangement
from ropewalk.data.corpus import Corpus, Manifest, write_shard
from ropewalk.data.knots.row_builder import Piece, arranged_pieces
from ropewalk.data.pairs import ROWS, Pairs
from ropewalk.methods.catalogue import method
from ropewalk.training.longpo import LongPO
from ropewalk.training.loop import Run, StepLog
from ropewalk.training.one_shot import OneShot
from ropewalk.training.pair_sampler import PairSampler
from ropewalk.training.processes import Processes
from ropewalk.training.references import References
from ropewalk.training.self_test import _preferred, self_test
from ropewalk.training.sequence import refuse_spread
from ropewalk.training.sharding import shard
from ropewalk.training.sharding import weights as gathered
from ropewalk.training.states import States
from ropewalk.training.training_batch import Batch, Row
from tests.models import tiny
from tests.tokenizers import byte_level
from tests.training.runs import arguments
from tests.training.test_loop import BEGIN, TARGET, WINDOW, plain, same, short, weights
from tests.training.test_self_test import wrong
from tests.training.workers import in_two

PAIRS, BETA, LAMBDA = 6, 0.5, 0.7


def paired(folder: Path, alike: bool = False, turns: int = 1) -> Arranged:
    """Texts of up to 64 tokens; evidence is a part of one, or, where contexts are alike, all of it."""
    rng, documents, rows = np.random.default_rng(0), [], []

    def said(tokens: int) -> Piece:
        documents.append(rng.integers(3, 97, tokens))
        return Piece(len(documents) - 1, 0, tokens)

    texts = [said(int(n)) for n in rng.integers(*(20, 24) if alike else (30, TARGET - 9 * turns), PAIRS)]
    for text in texts:
        documents[text.document][0] = BEGIN[0]
        evidence = text if alike else Piece(text.document, 7, 15)
        asked = [replace(said(2), loss=False) for _ in range(turns)]
        answers = [[said(int(n)) for n in rng.integers(3, 7, turns)] for _ in range(2)]
        for context in (text, evidence):
            for own in answers:
                turned = [piece for both in zip(asked, own, strict=True) for piece in both]
                rows.append([replace(context, loss=False), *turned])
    shard = write_shard(folder, "00000", documents, [str(i) for i in range(len(documents))], 97)
    corpus = Corpus(folder, Manifest("tiny", "x", 97, tuple(BEGIN), (shard,)))
    made = arranged_pieces(rows, PAIRS)
    about = About("longpo", {}, TARGET, False, 0, "here", PAIRS, corpus.digest)
    return Arranged(corpus, about, made)


def preferring(**more: Any) -> Any:
    usual: dict[str, Any] = dict(loss="longpo", longpo_beta=BETA, longpo_lambda=LAMBDA, method="abf(base=500000.0)",
                                 batch=2, micro=1)  # fmt: skip
    return short(**usual | more)


def trained(folder: Path, model: PreTrainedModel | None = None, **more: Any) -> Run:
    keys = ("states", "heard", "processes")
    given = {key: more.pop(key) for key in keys if key in more}
    folder.mkdir(exist_ok=True)
    rows = paired(folder, **{key: more.pop(key) for key in ("alike", "turns") if key in more})
    run = Run(preferring(**more), model or plain(), TARGET, rows, BEGIN, **given)
    run.run()
    return run


def answers_of(arranged: Arranged, row: int) -> list[Piece]:
    some = arranged.arrangement
    mine = np.flatnonzero((some.row == row) & some.loss)
    return [Piece(int(some.document[i]), int(some.start[i]), int(some.stop[i])) for i in mine]


def said_by(model: PreTrainedModel, arranged: Arranged, row: int) -> Tensor:
    """Log-probabilities of the learnt tokens of a row, by the model's own logits."""
    ids, _, _, learnt = (torch.from_numpy(np.ascontiguousarray(one)) for one in arranged.row(row))
    assert learnt.sum() == sum(piece.stop - piece.start for piece in answers_of(arranged, row))
    every = F.log_softmax(model(ids[None]).logits[0].double(), -1)
    return every[:-1].gather(1, ids[1:, None])[:, 0][learnt[1:] > 0]


def test_numbers_of_the_paper() -> None:
    losses = torch.tensor([[40.0], [55.0]], dtype=torch.float64)
    reference = torch.tensor([[-42.0, -50.0]], dtype=torch.float64)
    loss = LongPO(beta=0.1, weight=0.01)
    assert float(loss.preference(-losses[:1, 0], -losses[1:, 0], reference)) == pytest.approx(0.403186, abs=1e-6)
    spread = losses.repeat(1, 100) / 100  # an answer of 100 tokens: what is added is 0.4 a token
    assert float(loss.of(spread, torch.ones(2, 100, dtype=torch.bool), reference)) == pytest.approx(0.40403186)
    assert pytest.approx(1.204032, abs=1e-6) == 1.2 + 0.01 * 0.403186
    nothing = loss.preference(-losses[:1, 0], -losses[1:, 0], -losses[None, :, 0])
    assert float(nothing) == pytest.approx(math.log(2))


def test_the_first_step_on_one_context_is_ln_2(tmp_path: Path) -> None:
    """Both contexts alike, and the model still what it came as: log 2, whatever beta is."""
    run = trained(tmp_path, alike=True, method="none", steps=1, warmup=0, longpo_beta=3.0)
    came, rows = plain(), run.samplers[0].numbers(0, 2)
    nll = [-said_by(came, run.documents, ROWS * row).mean().item() for row in rows]
    assert run.log[0].loss == pytest.approx(LAMBDA * math.log(2) + sum(nll) / 2, rel=1e-6)


@pytest.mark.parametrize("turns", [1, 2])
def test_it_is_what_a_plain_script_does(tmp_path: Path, turns: int) -> None:
    run = trained(tmp_path, turns=turns)
    model, reference = plain(), plain()
    method("abf(base=500000.0)").extend(model, to=TARGET)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
    losses = []
    for step in range(4):
        total = torch.zeros((), dtype=torch.float64)
        for pair in run.samplers[0].numbers(2 * step, 2):
            chosen, rejected = (said_by(model, run.documents, ROWS * pair + i) for i in (0, 1))
            with torch.no_grad():
                ours, theirs = (said_by(reference, run.documents, ROWS * pair + i).sum() for i in (2, 3))
            odds = torch.sigmoid(BETA * ((chosen.sum() - ours) - (rejected.sum() - theirs)))
            total = total + (-LAMBDA * odds.log() - chosen.mean()) / 2
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, step / 2)
        optimizer.step()
        losses.append(total.item())
    assert [one.loss for one in run.log] == pytest.approx(losses, rel=2e-5)
    assert run.log[0].loss - run.log[-1].loss > 0.1
    for name, one in model.named_parameters():
        assert torch.allclose(one, weights(run)[name], atol=5e-5), name


def test_on_one_context_it_is_dpo_beside_sft_by_trl(tmp_path: Path) -> None:
    """Loss and gradient of a model that has moved, against TRL's trainer."""
    run = trained(tmp_path, alike=True, method="none", steps=3)
    copy, rows = plain(), [run.documents.row(row) for row in (0, 1)]
    copy.load_state_dict(run.model.state_dict())
    answers = [ids[learnt > 0].tolist() for ids, _, _, learnt in rows]
    prompt = rows[0][0][rows[0][3] == 0].tolist()
    tokenizer = byte_level()
    texts = Dataset.from_list([{"prompt": "the", "chosen": "rope", "rejected": "tar"}])
    asked = arguments(
        tmp_path / "trl", DPOConfig, beta=BETA, loss_type=["sigmoid", "sft"], loss_weights=[LAMBDA, 1.0], bf16=False
    )
    trainer = DPOTrainer(copy, plain(), asked, train_dataset=texts, processing_class=tokenizer)
    given = DataCollatorForPreference(pad_token_id=2)(
        [{"prompt_ids": prompt, "chosen_ids": answers[0], "rejected_ids": answers[1]}]
    )
    expected = trainer.compute_loss(copy.eval(), given)
    expected.backward()
    batch = Batch.of([Row(*row) for row in rows])
    loss, _ = run.gradients(batch, 1, run.references.logs[:1])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, one), other in zip(run.model.named_parameters(), copy.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5), name


@pytest.mark.parametrize(
    "more",
    [
        {"micro": 4},
        {"memory": "checkpointed"},
        {"memory": "recurrent", "chunk": 16},
        {"memory": "recurrent-checkpointed", "chunk": 8},
        {"tiled_mlp": True},
    ],
    ids=str,
)
def test_however_rows_go_through_the_model(tmp_path: Path, more: dict[str, Any]) -> None:
    one, other = trained(tmp_path / "one"), trained(tmp_path / "other", **more)
    assert [log.loss for log in one.log] == pytest.approx([log.loss for log in other.log], rel=1e-4)
    for name, weight in weights(one).items():
        assert torch.allclose(weight, weights(other)[name], atol=2e-4), name


def test_dropout_is_the_same_in_both_passes(tmp_path: Path) -> None:
    """The loss that is told is that of the weights and dropout whose gradient is taken."""
    run = trained(tmp_path, plain(attention_dropout=0.5), steps=1, warmup=0)
    sampler, part = run.samplers[0], run.parts[0]
    batch, reference = run.batch(0, part, sampler), run.references.of_samples(0, 2)
    run.model.train()
    run.model.zero_grad()
    torch.manual_seed(3)
    loss, _ = run.gradients(batch, 1, reference)
    found = [one.grad.clone() for one in run.model.parameters()]
    run.model.zero_grad()
    torch.manual_seed(3)
    rows = []
    for row in batch.split(1):
        logits = run.model(row.input_ids, position_ids=row.position_ids, attention_mask=torch.ones_like(row.input_ids))
        rows.append(F.cross_entropy(logits.logits[0].double(), row.targets[0], reduction="none"))
    expected = run.longpo.of(torch.stack(rows), batch.weights > 0, reference).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(found, run.model.parameters(), strict=True):
        assert torch.allclose(one, other.grad, atol=1e-5)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_that_was_stopped_ends_as_if_it_had_not(tmp_path: Path, stop: int) -> None:
    """The reference is of the model as it came, also where the weights that go on are others."""
    whole = trained(tmp_path / "whole", save_every=1)

    def heard(log: StepLog) -> None:
        if log.step == stop + 1:
            raise KeyboardInterrupt

    states = States(tmp_path / "states", {"asked": 1})
    with states.opened(), pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "one", save_every=1, states=states, heard=heard)
    with states.opened():
        again = trained(tmp_path / "two", save_every=1, states=states)
    assert [one.loss for one in again.log] == [one.loss for one in whole.log]
    assert torch.equal(again.references.logs, whole.references.logs) and not whole.references.logs.isnan().any()
    assert same(whole, again)


def _work(folder: Path, together: Processes) -> None:
    run = trained(folder / str(together.rank), processes=together)
    torch.save((weights(run), [log.loss for log in run.log]), folder / f"{together.rank}.pt")
    assert together.count == 2 and self_test(run, "tiny", 0).sound
    model, rows = plain(), run.documents
    shard(model, preferring(), together)
    sharded = Run(preferring(), model, TARGET, rows, BEGIN, processes=together)
    sharded.run()
    held = gathered(model)
    if together.first:
        torch.save((held, [log.loss for log in sharded.log]), folder / "sharded.pt")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_two(_work, tmp_path)
    alone = trained(tmp_path / "alone")
    for name in ("0", "1", "sharded"):
        found, losses = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert losses == pytest.approx([log.loss for log in alone.log], rel=1e-6)
        assert all(torch.allclose(found[name], one, atol=2e-5) for name, one in weights(alone).items())


def test_the_self_test_passes_what_is_right_and_finds_what_is_not(tmp_path: Path) -> None:
    run = Run(preferring(), plain(), TARGET, paired(tmp_path), BEGIN)
    found = self_test(run, "tiny", 0)
    assert found.sound and {"loss per pair", "gradient per pair"} <= {one.what for one in found.findings}

    class Reversed(LongPO):
        def preference(self, chosen: Tensor, rejected: Tensor, reference: Tensor) -> Tensor:
            return super().preference(rejected, chosen, reference.flip(1))

    class Averaged(LongPO):
        def of(self, losses: Tensor, counted: Tensor, reference: Tensor) -> Tensor:
            return super().of(losses / counted.sum(1, keepdim=True), counted, reference)

    for kind in (Reversed, Averaged):
        run.longpo = kind(BETA, LAMBDA)
        assert wrong(self_test(run, "tiny", 0)) == ["loss per pair", "gradient per pair"]


@pytest.mark.parametrize("margin", [-5000.0, -3.0, 0.5, 5000.0])
def test_the_self_tests_own_loss_has_no_margin_that_is_too_large(margin: float, tmp_path: Path) -> None:
    run = Run(preferring(), plain(), TARGET, paired(tmp_path), BEGIN)
    batch = Batch.of(list(run.samplers[0].rows(0, 0, 1)))
    every = torch.cat([OneShot().losses(run.model, row) for row in batch.split(1)]).double()
    counted = batch.weights > 0
    chosen, rejected = (every * counted).sum(1).tolist()
    reference = torch.tensor([[rejected - chosen - margin / BETA, 0.0]], dtype=torch.float64)
    loss = float(LongPO(BETA, LAMBDA).of(every, counted, reference).sum())
    assert _preferred(run, batch, reference)[1] == pytest.approx(loss, rel=1e-6)


def test_a_reference_that_is_no_number_is_refused(tmp_path: Path) -> None:
    references = References.of(PairSampler(paired(tmp_path), TARGET), WINDOW)
    references.logs[:-1] = -1.0
    last = references.sampler.numbers(0, PAIRS).index(PAIRS - 1)
    assert references.of_samples(0, PAIRS, slice(last)).shape == (last, 2)
    with pytest.raises(UserError, match="no finite log-probability"):
        references.of_samples(0, PAIRS)


def test_what_is_not_supported_is_refused(tmp_path: Path) -> None:
    rows = paired(tmp_path)

    def refused(words: str, recipe: Any, documents: Any = rows, model: Any = None) -> None:
        with pytest.raises(UserError, match=words):
            Run(recipe, model or plain(), TARGET, documents, BEGIN)

    refused("texts are no pairs", preferring(), [np.arange(3, 90)] * 4)
    refused("rows are pairs of answers, one of which is rejected", preferring(loss="token"))
    refused("came with a window of 8", preferring(), model=tiny("llama", max_position_embeddings=8, vocab_size=97))
    with pytest.raises(UserError, match="drop tokens of an answer's context"):
        preferring(positions="pose")
    spread: Any = SimpleNamespace(count=2, rank=0)
    with pytest.raises(UserError, match="sums over whole answers"):
        refuse_spread(plain(), preferring(), spread)


@pytest.mark.parametrize(
    ("row", "words"),
    [(1, "answers of rows 1 and 3"), (2, "answers of rows 0 and 2"), (None, "expected 4 of each pair")],
)
def test_rows_that_are_no_pairs_are_refused(tmp_path: Path, row: int | None, words: str) -> None:
    rows = paired(tmp_path)
    some = rows.arrangement
    if row is None:
        kept = some.row < ROWS * PAIRS - 1
        broken = Arrangement(*(getattr(some, name)[kept] for name in COLUMNS))
    else:
        stop = some.stop.copy()
        stop[(some.row == row) & some.loss] -= 1
        broken = replace(some, stop=stop)
    with pytest.raises(UserError, match=words):
        Pairs(replace(rows, arrangement=broken))


def test_an_epoch_reads_every_pair_once(tmp_path: Path) -> None:
    sampler = PairSampler(paired(tmp_path), TARGET)
    first, second = sampler.numbers(0, PAIRS), sampler.numbers(PAIRS, PAIRS)
    assert sorted(first) == sorted(second) == list(range(PAIRS)) and first != second
    rows = list(sampler.rows(0, 2, 4, slice(1, 3)))
    assert len(rows) == 4 and 0 < sampler.filled < 1
    for number, (chosen, rejected) in zip(first[3:5], zip(rows[::2], rows[1::2], strict=True), strict=True):
        ours, theirs = sampler.evidence(number)
        assert np.array_equal(chosen.ids[chosen.weights > 0], ours.ids[ours.weights > 0])
        assert np.array_equal(rejected.ids[rejected.weights > 0], theirs.ids[theirs.weights > 0])
        assert len(ours.ids) < len(chosen.ids) <= TARGET
