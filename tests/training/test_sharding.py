"""Two processes that share the weights end with those of one; their states go on in one, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from ropewalk.common.errors import UserError
from ropewalk.rope.live import decoder
from ropewalk.training.loop import Run
from ropewalk.training.processes import ALONE, Processes
from ropewalk.training.self_test import self_test
from ropewalk.training.sharding import is_sharded, shard, weights, whole
from ropewalk.training.states import States
from tests.training.test_loop import BEGIN, TARGET, documents, plain, short, trained
from tests.training.workers import in_two

CASES: dict[str, dict[str, Any]] = {
    "packed": {"packing": "documents"},
    "pose": {"positions": "pose", "memory": "checkpointed", "evaluate_every": 1},
    "s2": {"attention": "s2-attention"},
    "bfloat16": {"positions": "pose", "dtype": "bfloat16"},
}


def model_for(case: str) -> Any:
    model = plain(tie_word_embeddings=case == "pose")
    if case == "bfloat16":
        for one in model.parameters():
            one.data = one.data.bfloat16()
    return model


def logit(model: Any) -> dict[str, float]:
    """Read through the model and through its decoder."""
    for n in (3, 5):
        decoder(model)(input_ids=torch.arange(n)[None])
    return {"logit": float(model(torch.arange(9)[None]).logits[0, -1, 5])}


def sharded_run(case: str, together: Processes, states: States | None = None, **more: Any) -> Run:
    recipe, model = short(**CASES[case], **more), model_for(case)
    shard(model, recipe, together)
    assert all(isinstance(one, DTensor) for one in model.parameters())
    return Run(recipe, model, TARGET, documents(), BEGIN, states, together, (5, 6))


def states_of(folder: Path, together: Processes = ALONE) -> States:
    return States(folder, {"of": "a test"}, together)


def _whole(folder: Path, together: Processes) -> None:
    for case in CASES:
        seen = self_test(sharded_run(case, together), "tiny", 0)  # which leaves the rope on
        assert seen.sound, seen
        run = sharded_run(case, together)
        run.measure = logit
        run.run()
        held = weights(run.model)
        assert bool(held) is together.first
        if together.first:
            log, readings = [(one.loss, one.norm) for one in run.log], {n: dict(one) for n, one in run.readings.items()}
            torch.save((held, log, readings), folder / f"{case}.pt")


def _stopped(folder: Path, together: Processes) -> None:
    """Goes on after two steps, in the same layout and from that of one process; and leaves a state for one process."""
    for name in ("same", "other", "alone"):
        states = states_of(folder / name, together)
        with states.opened():
            run = sharded_run("pose", together, states)
            if name != "alone":
                assert states.latest == 2
            else:
                run.heard = lambda log: (_ for _ in ()).throw(KeyboardInterrupt) if log.step == 3 else None
            try:
                run.run()
            except KeyboardInterrupt:
                continue
        held = weights(run.model)
        if together.first:
            torch.save(held, folder / f"{name}.pt")


def _stop(folder: Path, together: Processes) -> None:
    states = states_of(folder / "same", together)
    with states.opened():
        run = sharded_run("pose", together, states)
        run.heard = lambda log: (_ for _ in ()).throw(KeyboardInterrupt) if log.step == 3 else None
        with pytest.raises(KeyboardInterrupt):
            run.run()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes end with, by case."""
    folder = tmp_path_factory.mktemp("ended")
    in_two(_whole, folder)
    return folder


@pytest.mark.slow
def test_two_that_share_the_weights_end_with_those_of_one(ended: Path) -> None:
    for case, more in CASES.items():
        alone = trained(short(**more), model_for(case), measure=logit)
        held, log, readings = torch.load(ended / f"{case}.pt", weights_only=True)
        near = 1e-2 if case == "bfloat16" else 1e-6
        for (loss, norm), one in zip(log, alone.log, strict=True):
            assert (loss, norm) == (pytest.approx(one.loss, rel=near), pytest.approx(one.norm, rel=20 * near)), case
        for step, one in alone.readings.items():
            assert readings[step]["logit"] == pytest.approx(one["logit"], rel=100 * near, abs=100 * near), case
        assert set(held) == set(alone.model.state_dict())
        for key, one in alone.model.state_dict().items():
            assert held[key].dtype == one.dtype
            assert torch.allclose(held[key], one, atol=2e-2 if case == "bfloat16" else 2e-5), (case, key)


@pytest.mark.slow
def test_states_go_on_in_another_layout(ended: Path, tmp_path: Path) -> None:
    def stopped(log: Any) -> None:
        if log.step == 3:
            raise KeyboardInterrupt

    with states_of(tmp_path / "other").opened(), pytest.raises(KeyboardInterrupt):
        trained(short(**CASES["pose"]), model_for("pose"), states=states_of(tmp_path / "other"), heard=stopped)
    in_two(_stop, tmp_path)
    in_two(_stopped, tmp_path)
    undisturbed, *_ = torch.load(ended / "pose.pt", weights_only=True)
    same, other = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("same", "other"))
    states = states_of(tmp_path / "alone")
    with states.opened():
        assert states.latest == 2
        alone = trained(short(**CASES["pose"]), model_for("pose"), states=states).model.state_dict()
    for key, one in undisturbed.items():
        assert torch.equal(same[key], one), key
        assert torch.allclose(other[key], one, atol=2e-5), key
        assert torch.allclose(alone[key], one, atol=2e-5), key


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"memory": "recurrent"}, "reads a text in pieces"),
        ({"trainable": "lora"}, "adapters are small"),
        ({"optimizer": "muon"}, "belong to whole tensors"),
    ],
)
def test_what_is_not_sharded_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        shard(plain(), short(**more), Processes(0, 2))


def test_one_process_is_not_sharded() -> None:
    with pytest.raises(UserError, match="one process alone"):
        shard(plain(), short(), ALONE)
    model = plain()
    with whole(model):
        assert not is_sharded(model)
    assert weights(model) is None
