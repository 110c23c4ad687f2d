"""A run against a plain script, against itself after a stop, and against itself in other pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ropewalk import PositionInterpolation
from ropewalk.common.errors import UserError
from ropewalk.rope.config import read
from ropewalk.rope.live import rotaries
from ropewalk.training import loop
from ropewalk.training.loop import Run, StepLog, parts, weighted
from ropewalk.training.readings import CAME
from ropewalk.training.recipe import Recipe, Stage
from ropewalk.training.states import States
from ropewalk.training.training_batch import Batch, Row
from tests.architectures import build
from tests.models import tiny

WINDOW, TARGET = 32, 64
BEGIN = np.array([1])


def documents(n: int = 6, tokens: int = 100) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, 97, tokens) for _ in range(n)]


def plain(**more: Any) -> PreTrainedModel:
    return tiny("llama", max_position_embeddings=WINDOW, vocab_size=97, **more)


def short(**more: Any) -> Recipe:
    usual: dict[str, Any] = dict(method="pi", steps=4, batch=4, micro=2, learning_rate=1e-2, warmup=2, save_every=2)
    return Recipe(**{**usual, **more})


def trained(recipe: Recipe, model: PreTrainedModel | None = None, **more: Any) -> Run:
    run = Run(recipe, model or plain(), TARGET, documents(), BEGIN, cue=(5, 6), **more)
    run.run()
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in run.model.named_parameters()}


def same(one: Run, other: Run) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize("positions", ["full", "pose"])
def test_it_is_what_a_plain_script_does(positions: str) -> None:
    recipe = short(positions=positions, weight_decay=0.1)
    run = trained(recipe)
    model = plain()
    PositionInterpolation().extend(model, to=TARGET)
    decays = [one for one in model.parameters() if one.ndim > 1]
    others = [one for one in model.parameters() if one.ndim == 1]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(4):
        batch = Batch.of(list(run.samplers[0].rows(step, 4 * step, 4)))
        ones = torch.ones_like(batch.input_ids)
        logits = model(batch.input_ids, position_ids=batch.position_ids, attention_mask=ones).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, step / 2)
        optimizer.step()
        losses.append(loss.item())
    assert [one.loss for one in run.log] == pytest.approx(losses, rel=2e-5)
    for name, one in model.named_parameters():
        assert torch.allclose(one, weights(run)[name], atol=2e-5), name


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"positions": "pose", "optimizer": "muon"},
        {"packing": "documents"},
        {"positions": "e2"},
        {"stages": (Stage(2, rope=0.75, reach=0.5), Stage(2)), "restart": True},
        {"method": "entropy-abf", "dtype": "bfloat16"},
        {"attention": "s2-attention"},
        {"name": "dropout"},
    ],
    ids=str,
)
@pytest.mark.parametrize("stop", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_ends_as_if_it_had_not(more: dict[str, Any], stop: int, tmp_path: Path) -> None:
    recipe = short(save_every=1, **more)

    def fresh() -> PreTrainedModel:
        model = plain(attention_dropout=0.3 if recipe.name == "dropout" else 0.0)
        for one in model.parameters() if recipe.dtype == "bfloat16" else ():
            one.data = one.data.bfloat16()
        return model

    whole = trained(recipe, fresh())
    states = States(tmp_path / "run", {"asked": 1})

    def heard(log: StepLog) -> None:
        if log.step == stop + 1:
            raise KeyboardInterrupt

    with states.opened(), pytest.raises(KeyboardInterrupt):
        trained(recipe, fresh(), states=states, heard=heard)
    with states.opened():
        again = trained(recipe, fresh(), states=states)
    assert again.log[0].seconds > 0
    assert len(again.log) == 4
    assert [one.loss for one in again.log] == [one.loss for one in whole.log]
    assert same(whole, again)


@pytest.mark.parametrize("positions", ["full", "pose"])
@pytest.mark.parametrize("loss", ["token", "sample"])
def test_pieces_of_a_step_give_its_gradient(positions: str, loss: str) -> None:
    one, other = (trained(short(positions=positions, loss=loss, micro=micro, steps=2)) for micro in (1, 4))
    assert [log.loss for log in one.log] == pytest.approx([log.loss for log in other.log], rel=1e-5)
    for name, weight in weights(one).items():
        assert torch.allclose(weight, weights(other)[name], atol=1e-4), name


def test_token_and_sample_means_are_those_of_the_cards() -> None:
    """Targets: 3 and 11, whose losses are 2 and 1: 1.214286 a token, 1.5 a sample."""
    rows = [Row(np.arange(n), np.arange(n), np.zeros(n, int), np.ones(n, np.float32)) for n in (4, 12)]
    batch = Batch.of(rows)
    losses = torch.tensor([2.0, 1.0])[:, None]
    for loss, expected in (("token", 1.214286), ("sample", 1.5)):
        weight = weighted(batch, loss).weights
        assert float((weight * losses).sum() / weight.sum()) == pytest.approx(expected, rel=1e-6)


def test_a_stage_has_its_rope_and_the_last_one_stays() -> None:
    seen = []
    recipe = short(stages=(Stage(2, rope=0.75, reach=0.5), Stage(2)), steps=4)
    run = Run(recipe, plain(), TARGET, documents(), BEGIN)
    run.heard = lambda log: seen.append(next(iter(read(run.model.config).values())).length)
    run.run()
    assert seen == [48, 48, 64, 64]
    assert [part.window for part in run.parts] == [32, 64]


def test_a_stage_within_the_window_has_the_rope_of_the_pretraining_whatever_the_base_has() -> None:
    seen = []
    recipe = short(stages=(Stage(2, rope=0.5, reach=0.5, method="abf(base=1000000.0)"), Stage(2)), method="yarn")
    base = plain()
    turning = rotaries(base)[0].module.inv_freq.clone()
    PositionInterpolation().extend(base, 128)
    run = Run(recipe, base, TARGET, documents(), BEGIN)
    run.heard = lambda log: seen.append(rotaries(run.model)[0].module.inv_freq.clone())
    run.run()
    fresh = trained(recipe)
    assert torch.equal(seen[1], turning) and not torch.equal(seen[3], turning)
    assert same(run, fresh) and read(run.model.config) == read(fresh.model.config)


@pytest.mark.parametrize("last", [Stage(1, rope=0.5, reach=0.5), Stage(1, reach=3.0)])
def test_a_last_rope_for_another_length_than_is_written_is_refused(last: Stage) -> None:
    with pytest.raises(UserError, match=r"the last stage has a rope for (48|192) tokens .* and what is written is for"):
        parts(short(stages=(Stage(1), last)), 96 if last.rope < 1 else TARGET, WINDOW)


def test_weights_that_the_last_step_made_infinite_are_refused() -> None:
    with pytest.raises(UserError, match=r"the last step made .* infinite"):
        trained(short(steps=1, warmup=0, learning_rate=1e39))


def test_e2_leaves_the_rope_as_it_was_trained() -> None:
    run = trained(short(positions="e2"))
    assert next(iter(read(run.model.config).values())).length == WINDOW


def test_a_rope_that_no_configuration_says_is_on_while_it_trains() -> None:
    method, base = (
        trained(short(method="entropy-abf", steps=1, warmup=0)),
        trained(short(method="abf", steps=1, warmup=0)),
    )
    assert method.log[0].loss != base.log[0].loss
    assert next(iter(read(method.model.config).values())).is_plain


def test_heads_of_one_base_train_as_one_base() -> None:
    heads, one = (
        trained(short(method=method, warmup=0))
        for method in ("harpe(base_min=500000.0, base_max=500000.0)", "abf(base=500000.0)")
    )
    assert [log.loss for log in heads.log] == pytest.approx([log.loss for log in one.log], rel=1e-5)
    spread = trained(short(method="harpe(base_min=1000.0, base_max=500000.0)", steps=1, warmup=0))
    assert abs(spread.log[0].loss - one.log[0].loss) > 1e-3


@pytest.mark.parametrize("pattern", ["flow", "fixed"])
def test_a_chunk_of_the_whole_text_is_full_attention(pattern: str) -> None:
    cut, whole, full = (
        trained(short(attention=attention, warmup=0))
        for attention in (f"scca(pattern={pattern}, chunk=16)", f"scca(pattern={pattern}, chunk={TARGET})", "full")
    )
    assert [log.loss for log in whole.log] == pytest.approx([log.loss for log in full.log], rel=1e-5)
    assert abs(cut.log[0].loss - full.log[0].loss) > 1e-3


def test_the_factors_of_the_second_leg_replace_those_of_the_first() -> None:
    seen: list[torch.Tensor] = []
    legs = [f"longrope(factors={[1.0 + i * k for i in range(8)]})" for k in (0.25, 0.5)]
    stages = (Stage(2, rope=0.75, reach=0.5, method=legs[0]), Stage(2, method=legs[1]))
    run = Run(short(stages=stages), plain(), TARGET, documents(), BEGIN)
    run.heard = lambda log: seen.append(rotaries(run.model)[0].inv_freq.clone())
    run.run()
    base = 1e4 ** (-torch.arange(0, 16, 2) / 16)
    for step, k in enumerate((0.25, 0.25, 0.5, 0.5)):
        assert torch.allclose(seen[step], base / (1 + k * torch.arange(8)))


def test_measuring_changes_no_weight() -> None:
    seen = []

    def measure(model: PreTrainedModel) -> dict[str, Any]:
        torch.rand(3)
        seen.append(model.training)
        return {"seen": 1}

    recipe = short(evaluate_every=2)
    watched = trained(recipe, measure=measure)
    assert same(watched, trained(recipe))
    assert sorted(watched.readings) == [CAME, 0, 2, 4]
    assert not any(seen)


def test_it_is_read_as_it_will_be_written_whatever_is_on_in_training() -> None:
    """Under the last stage's rope, and with full attention; as it came, under its own."""
    ids = torch.arange(3, 3 + TARGET)[None]

    def measure(model: PreTrainedModel) -> dict[str, Any]:
        return {"logits": model(ids).logits, "rope": rotaries(model)[0].module.inv_freq.clone()}

    stages = Stage(2, rope=0.75, reach=0.75), Stage(2)
    recipe = short(evaluate_every=1, stages=stages, attention="s2-attention(group_size=16)", learning_rate=1e-9)
    run = trained(recipe, measure=measure)
    came, other = plain().eval(), plain().eval()
    PositionInterpolation().extend(other, to=TARGET)
    for step, found in run.readings.items():
        expected = came if step == CAME else other
        assert torch.equal(found["rope"], rotaries(expected)[0].module.inv_freq), step
        assert torch.allclose(found["logits"], expected(ids).logits, atol=1e-4), step
    assert torch.equal(run.model.eval()(ids).logits, run.readings[4]["logits"])


def test_a_state_is_saved_when_time_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(States, "save", lambda states, step, *_: saved.append(step))
    trained(short(save_every=100), states=States(tmp_path / "run", {}))
    assert saved == [4]
    monkeypatch.setattr(loop, "SAVED_EVERY", 0)
    monkeypatch.setattr(loop, "SAVED_COST", 0)
    trained(short(save_every=100), states=States(tmp_path / "run", {}))
    assert saved == [4, 1, 2, 3, 4]


def test_rows_of_several_documents_are_refused_where_states_cross() -> None:
    with pytest.raises(UserError, match="one packed document to the next"):
        Run(short(packing="documents"), build("lfm2"), 256, documents(tokens=400), BEGIN)


def test_a_rope_that_could_not_be_written_is_refused_before_the_first_step() -> None:
    with pytest.raises(UserError, match="no configuration can say"):
        Run(short(positions="e2", method="entropy-abf"), plain(), TARGET, documents(), BEGIN)


def test_windows_that_count_tokens_take_no_jumps() -> None:
    model = tiny("gemma3", vocab_size=97)
    with pytest.raises(UserError, match="counted without its jumps"):
        Run(short(positions="pose"), model, 256, documents(tokens=400), BEGIN)
    Run(short(), model, 256, documents(tokens=400), BEGIN)


def test_processes_must_share_a_step_evenly() -> None:
    from ropewalk.training.processes import Processes

    with pytest.raises(UserError, match="cannot share evenly"):
        Run(short(batch=3), plain(), TARGET, documents(), BEGIN, processes=Processes(0, 2))


def test_stages_that_reach_beyond_the_window_have_their_ropes() -> None:
    stages = parts(short(stages=(Stage(1, reach=0.0), Stage(1))), TARGET, WINDOW)
    assert [part.reach for part in stages] == [WINDOW, TARGET]
