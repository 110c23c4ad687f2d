"""The self-test passes what is right, and finds what is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ropewalk import PositionInterpolation
from ropewalk.training.loop import Run
from ropewalk.training.one_shot import OneShot
from ropewalk.training.processes import ALONE, Processes
from ropewalk.training.recipe import Stage
from ropewalk.training.self_test import SelfTest, self_test
from ropewalk.training.training_batch import Batch
from tests.models import tiny
from tests.training.test_loop import BEGIN, TARGET, WINDOW, documents, plain, short
from tests.training.workers import in_two


def tried(run: Run) -> SelfTest:
    return self_test(run, "tiny", 1 << 30)


def run_of(model: Any = None, kind: type[Run] = Run, **more: Any) -> Run:
    texts = documents() if more.get("packing") is None else documents(40, 17)
    return kind(short(**more), model or plain(), TARGET, texts, BEGIN, cue=(5, 6))


def wrong(found: SelfTest) -> list[str]:
    return [one.what for one in found.findings if one.sound is False]


class Through(OneShot):
    """A way through a batch that is led astray first."""

    def __init__(self, astray: Callable[[Batch], Batch]):
        super().__init__()
        object.__setattr__(self, "astray", astray)

    def backward(self, model: Any, batch: Batch, denominator: float) -> Tensor:
        return super().backward(model, self.astray(batch), denominator)

    def losses(self, model: Any, batch: Batch) -> Tensor:
        return super().losses(model, self.astray(batch))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"positions": "pose"},
        {"packing": "documents"},
        {"positions": "e2"},
        {"positions": "endprompt", "memory": "checkpointed", "loss": "sample"},
        {"attention": "s2-attention"},
        {"method": "entropy-abf"},
        {"batch": 1, "micro": 1},
        {"memory": "recurrent", "chunk": 16, "positions": "pose"},
    ],
    ids=str,
)
def test_what_is_right_passes_and_moves_nothing(more: dict[str, Any]) -> None:
    run = run_of(**more)
    before, chance = [one.detach().clone() for one in run.model.parameters()], torch.get_rng_state()
    found = tried(run)
    assert found.sound, found
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert all(one.grad is None for one in run.model.parameters())
    assert torch.equal(chance, torch.get_rng_state()) and not run.model.training
    seen = {one.what: one.sound for one in found.findings}
    assert (seen["losses behind a jump"] is None) == ("positions" not in more)
    assert (seen["losses in other documents"] is None) == ("packing" not in more)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_in_half_precision(family: str) -> None:
    """Where experts are given other numbers of tokens, they round otherwise."""
    model = tiny(family, max_position_embeddings=WINDOW)
    for one in model.parameters():
        one.data = one.data.bfloat16()
    run = run_of(model, packing="documents", method="none", positions="full")
    assert tried(run).sound
    run.way = Through(lambda batch: replace(batch, document_ids=torch.zeros_like(batch.document_ids)))
    assert "losses in other documents" in wrong(tried(run))


def test_a_leak_across_documents() -> None:
    run = run_of(packing="documents")
    run.way = Through(lambda batch: replace(batch, document_ids=torch.zeros_like(batch.document_ids)))
    assert wrong(tried(run)) == ["losses in other documents", "loss per token", "gradient per token"]


def test_a_leak_of_one_token_across_documents() -> None:
    """A short convolution that does not know where documents end."""
    run = run_of(packing="documents")
    run.model.get_input_embeddings().register_forward_hook(lambda *given: given[-1] + given[-1].roll(1, 1))
    assert "losses in other documents" in wrong(tried(run))


def test_rows_are_searched_for_a_second_document() -> None:
    """A row in nine has an end of a document."""
    run = Run(short(packing="documents", seed=1), plain(), TARGET, documents(4, 9 * TARGET), BEGIN, cue=(5, 6))
    part, sampler = run.parts[-1], run.samplers[-1]
    assert not Batch.of(list(sampler.rows(0, part.first, 2))).packed
    found = tried(run)
    assert {one.what: one.sound for one in found.findings}["losses in other documents"] is True
    assert "nothing wrong was found" in repr(found)
    run.way = Through(lambda batch: replace(batch, document_ids=torch.zeros_like(batch.document_ids)))
    assert wrong(tried(run)) == ["losses in other documents", "loss per token", "gradient per token"]


@pytest.mark.parametrize(
    ("more", "texts", "missed"),
    [
        ({"packing": "documents"}, documents(1, 9 * TARGET), "losses in other documents"),
        ({"positions": "pose"}, documents(40, 2), "losses behind a jump"),
    ],
    ids=["one document", "documents without room for a jump"],
)
def test_what_no_row_has_is_said_to_be_untried(more: dict[str, Any], texts: Any, missed: str) -> None:
    run = Run(short(**more), plain(), TARGET, texts, BEGIN, cue=(5, 6))
    found = tried(run)
    assert found.sound and f"not tried, for no row that was looked at has any: {missed};" in repr(found)
    assert "nothing wrong" not in repr(found)


def test_on_a_cpu_the_expected_memory_is_said_alone() -> None:
    found = tried(run_of())
    assert found.memory is None and "s; 1.00 GiB are expected" in repr(found)


def test_a_leak_across_rows() -> None:
    class Leaking(OneShot):
        def losses(self, model: Any, batch: Batch) -> Tensor:
            found = super().losses(model, batch)
            return found + found.mean() * (batch.targets >= 0)

    run = run_of()
    run.way = Leaking()
    assert wrong(tried(run)) == ["losses before a changed token", "losses in other rows"]


def test_a_look_ahead() -> None:
    run = run_of()
    for layer in run.model.model.layers:
        layer.self_attn.is_causal = False
    assert "losses before a changed token" in wrong(tried(run))


def test_positions_that_are_taken_for_packing() -> None:
    def guessed(batch: Batch) -> Batch:
        """What transformers makes of positions without a mask."""
        starts = torch.nn.functional.pad(batch.position_ids.diff(dim=1) != 1, (1, 0))
        return replace(batch, document_ids=starts.cumsum(1))

    run = run_of(positions="pose")
    run.way = Through(guessed)
    assert wrong(tried(run)) == ["losses behind it", "losses behind a jump", "loss per token", "gradient per token"]


def test_a_mean_of_means() -> None:
    class Means(OneShot):
        def backward(self, model: Any, batch: Batch, denominator: float) -> Tensor:
            return super().backward(model, batch, 2 * float(batch.weights.sum()))

    run = run_of()
    run.way = Means()
    assert wrong(tried(run)) == ["loss per token", "gradient per token"]


@pytest.mark.parametrize("cut", [lambda n: slice(n // 2), lambda n: slice(None, None, 2)], ids=["half", "every other"])
def test_a_sequence_that_is_cut_twice(cut: Callable[[int], slice]) -> None:
    class Cut(Run):
        def batch(self, *given: Any) -> Batch:
            whole = super().batch(*given)
            part = cut(whole.input_ids.shape[1])
            return Batch(*(x[:, part] for x in vars(whole).values()))

    assert wrong(tried(run_of(kind=Cut))) == ["processes read each token once"]


def test_rows_that_are_read_twice() -> None:
    class Same(Run):
        def batch(self, *given: Any) -> Batch:
            whole = super().batch(*given)
            return Batch(*(x[:2].repeat(2, 1) for x in vars(whole).values()))

    assert wrong(tried(run_of(kind=Same))) == ["processes read each token once"]


@pytest.mark.parametrize("method", ["pi", "entropy-abf"])
def test_a_rope_that_is_not_the_recipes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from ropewalk.training import self_test as module

    run = run_of(method=method)
    PositionInterpolation().extend(run.model, to=48)  # as its configuration says, and not as the recipe does
    monkeypatch.setattr(module, "roped", lambda *_: nullcontext())
    assert wrong(tried(run)) == ["the rope is the recipe's"]


def test_an_extension_that_is_left_on_within_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from ropewalk.training import self_test as module

    run = run_of(stages=(Stage(1, rope=0.5, reach=0.5), Stage(1)), steps=2)
    PositionInterpolation().extend(run.model, to=48)
    assert wrong(tried(run)) == []
    PositionInterpolation().extend(run.model, to=48)
    monkeypatch.setattr(module, "roped", lambda *_: nullcontext())
    assert "the rope of stage 1 is the recipe's" in wrong(tried(run))


def test_a_rope_that_is_not_its_configurations() -> None:
    run = run_of(method="none", positions="e2")
    run.model.model.rotary_emb.inv_freq.mul_(0.5)
    assert wrong(tried(run)) == ["the rope is the recipe's"]


def test_what_is_wrong_is_said() -> None:
    run = run_of(positions="pose")
    run.model.model.layers[0].self_attn.is_causal = False
    found = tried(run)
    assert "WRONG" in repr(found) and "would not be what its recipe says" in repr(found)
    assert found.to_dict()["sound"] is False
    assert "nothing wrong" in repr(tried(run_of()))


class Averaged(Run):
    """The mean over two processes of their means."""

    def gradients(self, batch: Batch, micro: int, reference: Tensor | None = None) -> tuple[float, int]:
        together, self.processes = self.processes, ALONE
        loss, tokens = super().gradients(batch, micro, reference)
        self.processes = together
        for one in self.model.parameters():
            one.grad /= together.count  # type: ignore[operator]
        together.add_up(one.grad for one in self.model.parameters())  # type: ignore[misc]
        return float(together.sum(torch.tensor(loss))) / together.count, tokens


class Doubled(Run):
    """Each process reads the rows of the first."""

    def batch(self, *given: Any) -> Batch:
        together, self.processes = self.processes, replace(self.processes, rank=0)
        found = super().batch(*given)
        self.processes = together
        return found


def _in_two(folder: Path, together: Processes) -> None:
    twice, means = ["processes read each token once"], ["loss per token", "gradient per token"]
    for kind, expected in ((Averaged, means), (Doubled, twice), (Run, [])):
        run = kind(short(), plain(), TARGET, documents(), BEGIN, processes=together)
        assert wrong(tried(run)) == expected
    run = Run(short(packing="documents"), plain(), TARGET, documents(40, 17), BEGIN, processes=together)
    if not together.first:  # one of them is enough
        run.way = Through(lambda batch: replace(batch, document_ids=torch.zeros_like(batch.document_ids)))
    assert "losses in other documents" in wrong(tried(run))


@pytest.mark.slow
def test_what_two_processes_do_wrong(tmp_path: Path) -> None:
    in_two(_in_two, tmp_path)
