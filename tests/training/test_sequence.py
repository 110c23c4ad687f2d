"""Two processes that share every sequence against one, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.attention.spread import Spread
from ropewalk.common.errors import UserError
from ropewalk.training.loop import Run
from ropewalk.training.processes import Processes, processes
from ropewalk.training.self_test import self_test
from ropewalk.training.sequence import cut, refuse_spread
from ropewalk.training.sharding import shard, weights
from ropewalk.training.training_batch import PADDING, Batch
from tests.models import tiny
from tests.training.passes import row
from tests.training.test_loop import BEGIN, TARGET, WINDOW, documents, plain, short, trained
from tests.training.workers import in_two

CASES: dict[str, dict[str, Any]] = {
    "packed": {"packing": "documents", "memory": "checkpointed"},
    "pose": {"positions": "pose"},
    "s2": {"attention": "s2-attention"},
    "odd": {"window": 31, "positions": "pose"},
    "regions": {"method": "dca(chunk_size=20, local_size=5)"},
    "gpt_oss": {"packing": "documents", "method": "none"},
    "e2": {"positions": "e2"},
    "sharded": {"packing": "documents"},
}


def model_for(case: str) -> Any:
    return tiny("gpt_oss", max_position_embeddings=TARGET) if case == "gpt_oss" else plain()


def _work(folder: Path, together: Processes) -> None:
    spread = Spread(torch.distributed.group.WORLD, together.rank, 2)
    together = replace(together, spread=spread)
    assert (together.readers, together.reader) == (1, 0)
    for case, more in CASES.items():
        model = model_for(case)
        if case == "sharded":
            shard(model, short(**more), together)
        run = Run(short(**more), model, TARGET, documents(), BEGIN, processes=together, cue=(5, 6))
        seen = self_test(run, "tiny", 0)
        assert seen.sound, seen
        if case == "packed":
            _finds(run)
        run.run()
        held = weights(run.model) if case == "sharded" else run.model.state_dict()
        log = [(one.loss, one.norm, one.tokens) for one in run.log]
        if together.first or case != "sharded":
            torch.save((held, log), folder / f"{case}-{together.rank}.pt")


def _finds(run: Run) -> None:
    """A sequence that is cut again, and documents that stayed behind."""
    plain_batch, way = Run.batch, run.way
    try:
        Run.batch = lambda *given: cut(plain_batch(*given), run.processes.spread)  # type: ignore[method-assign]
        assert [one.what for one in self_test(run, "", 0).findings if one.sound is False] == [
            "processes read each token once"
        ]
    finally:
        Run.batch = plain_batch  # type: ignore[method-assign]
    alone = replace(way, spread=None)  # each part of a sequence by itself
    run.way = alone
    wrong = [one.what for one in self_test(run, "", 0).findings if one.sound is False]
    run.way = way
    assert {"loss per token", "gradient per token"} <= set(wrong)


@pytest.mark.slow
def test_two_that_share_sequences_end_with_the_weights_of_one(tmp_path: Path) -> None:
    in_two(_work, tmp_path)
    for case, more in CASES.items():
        alone = trained(short(**more), model_for(case))
        for rank in (0,) if case == "sharded" else (0, 1):
            held, log = torch.load(tmp_path / f"{case}-{rank}.pt", weights_only=True)
            for (loss, norm, tokens), one in zip(log, alone.log, strict=True):
                assert loss == pytest.approx(one.loss, rel=1e-6), case
                assert norm == pytest.approx(one.norm, rel=2e-5), case
                assert tokens == one.tokens, case
            for key, one in alone.model.state_dict().items():
                assert torch.allclose(held[key], one, atol=2e-5), (case, key)


def spread_of(count: int, rank: int = 0) -> Spread:
    return Spread(None, rank, count)


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_a_batch_are_disjoint_and_whole(count: int) -> None:
    batch = Batch.of([row(60, 23, 37), row(47, 20, 27, seed=1)])
    parts = [cut(batch, spread_of(count, rank)) for rank in range(count)]
    for name in vars(batch):
        joined = torch.cat([getattr(part, name) for part in parts], 1)
        assert torch.equal(joined[:, :60], getattr(batch, name))
    assert bool((torch.cat([part.document_ids for part in parts], 1)[:, 60:] == PADDING).all())
    assert len({part.input_ids.shape for part in parts}) == 1
    assert cut(batch, None) is batch


def test_what_a_part_of_a_sequence_cannot_be_trained_with() -> None:
    with pytest.raises(UserError, match="pieces of its own"):
        refuse_spread(plain(), short(memory="recurrent"), spread_of(2))
    with pytest.raises(UserError, match="3 processes cannot share evenly"):
        refuse_spread(plain(), short(), spread_of(3))
    with pytest.raises(UserError, match="2 key-value heads"):
        refuse_spread(plain(), short(), spread_of(4))
    theta = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(UserError, match="goes by the length"):
        refuse_spread(tiny("llama", rope_parameters=theta), short(), spread_of(2))
    with pytest.raises(UserError, match="share a sequence"), processes(2):
        pass
    refuse_spread(plain(), short(), spread_of(2))


def test_layers_in_which_tokens_meet_otherwise_are_refused() -> None:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], max_position_embeddings=WINDOW,
    )  # fmt: skip
    with pytest.raises(UserError, match="tokens meet in the others too"):
        refuse_spread(Lfm2ForCausalLM(config).eval(), short(), spread_of(2))
    model = plain()
    model.model.layers[0].crossing = torch.nn.Conv1d(1, 1, 3)
    with pytest.raises(UserError, match=r"layers\.0\.crossing"):
        refuse_spread(model, short(), spread_of(2))
