"""A training looked at before its first step: who sees whom, whose loss it is, by which rope, on the run's own rows.

Where one of these is wrong there is no error: the loss stays plausible, and what is trained is another thing. So the
run's own model, way through a batch and processes are tried on rows of the run, and held against a plain model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ropewalk.attention.engine import engine_on
from ropewalk.common.errors import UserError
from ropewalk.common.results import Result, columns
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod, check_live
from ropewalk.planning.hardware import GIB
from ropewalk.rope import live
from ropewalk.rope.config import trained_window
from ropewalk.training.loop import ANY, Part, Run, is_pretrained, roped, ropes, weighted
from ropewalk.training.one_shot import OneShot
from ropewalk.training.sequence import cut
from ropewalk.training.sharding import is_sharded
from ropewalk.training.training_batch import PADDING, Batch

if TYPE_CHECKING:
    from rich.console import Console

ROWS = 2  # of a forward pass at most
COMPARED = 4  # processes whose rows are read again by one
SEARCHED = 256  # rows, for one that has what the recipe has: a second document, or a jump
FEW = 3  # tokens of a row that keep their loss in some passes, so that a mean of means is another number
EXACT = 1e-6  # of a loss: the rounding of float32; what does not depend on a token does not even change by that
ROUTED = 0.05  # of the perturbation's own effect: experts are given other numbers of tokens, and round otherwise
ALIKE = {torch.float32: (1e-5, 1e-3)}  # how far loss and norm may be off, relative
HALF = (5e-3, 5e-2)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: it is.
        seen: in words.
        sound: whether it is as it must be; None: there was nothing to see.
        wanted: whether the recipe has it, so that it is missed where there was nothing to see.
    """

    what: str
    seen: str
    sound: bool | None
    wanted: bool = False


@dataclass(frozen=True, repr=False)
class SelfTest(Result):
    """What became of it.

    Attributes:
        recipe: its name.
        model: as the user named it.
        to: target length in tokens.
        processes: that took part.
        findings: in their order.
        seconds: that a step takes, as far as the sample tells.
        memory: largest bytes of tensors on a GPU; None on a CPU, where Python and the texts cannot be told from them.
        forecast: bytes that were expected of a step.
    """

    recipe: str
    model: str
    to: int
    processes: int
    findings: Sequence[Finding]
    seconds: float
    memory: int | None
    forecast: int

    @property
    def sound(self) -> bool:
        return all(one.sound is not False for one in self.findings)

    def show(self, console: Console) -> None:
        many = f"{self.processes} processes" if self.processes > 1 else "one process"
        console.print(f"{self.recipe} to {self.to:,} tokens, on {self.model}, by {many}", style="bold")
        table = columns("", "", "seen")
        for one in self.findings:
            mark = {True: "ok", False: "WRONG", None: "-"}[one.sound]
            table.add_row(one.what, mark, one.seen, style="bold red" if one.sound is False else "")
        console.print(table)
        took = "" if self.memory is None else f"its tensors took {self.memory / GIB:.2f} GiB at most, and "
        console.print(
            f"\na step takes about {self.seconds:,.3g} s; {took}{self.forecast / GIB:.2f} GiB are expected",
        )
        missed = ", ".join(one.what for one in self.findings if one.sound is None and one.wanted)
        if not self.sound:
            console.print("this training would not be what its recipe says")
        elif missed:
            console.print(f"not tried, for no row that was looked at has any: {missed}; all else is right")
        else:
            console.print("nothing wrong was found")

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "sound": self.sound}


def self_test(run: Run, model: str, forecast: int) -> SelfTest:
    """Look at a run before its first step; no weight moves.

    Args:
        run: made, and not begun.
        model: as the user named it.
        forecast: bytes that are expected of a step.

    Raises:
        UserError: if the model does not fit the recipe at all.
    """
    device = run.model.device
    findings: list[Finding] = []
    run.refer(run.parts[-1].first, 2 * min(run.recipe.micro, ROWS) * run.processes.readers)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for part, sampler in zip(run.parts, run.samplers, strict=True):
        with roped(run.model, run.recipe, part):
            if hasattr(live.decoder(run.model), live.ROWS):
                raise UserError(
                    "rows see each other by the method's design, which is what a self-test looks for as a fault",
                    "Test it without: --method 'fot(negatives=0)'.",
                )
            findings.append(_rope(run, part))
            if part is not run.parts[-1]:
                continue
            with _trained_steadily(run.model):
                findings.append(_shared(run, part, run.batch(part.start, part, sampler)))
                first = part.first + _searched(run, part)
                findings += _perturbed(run, part, first)
                compared, seconds = _compared(run, part, first)
                findings += compared
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return SelfTest(run.recipe.name, model, run.to, run.processes.count, findings, seconds, memory, forecast)


# The rope


def _rope(run: Run, part: Part) -> Finding:
    """Whether the model rotates as the recipe says, in its buffers, in a forward, and where a method rotates."""
    stage = f" of stage {run.parts.index(part) + 1}" if len(run.parts) > 1 else ""
    rope = run.recipe.rope_method(part.stage)
    extends = ropes(run.recipe, part.stage)
    what = f"the rope{stage} is the recipe's"
    try:
        window = trained_window(run.model.config)
        if run.recipe.memory_method is not None:
            on = getattr(live.decoder(run.model), live.ON, None)
            return Finding(what, f"{on or 'nothing'} is on", on == rope.id)
        if not extends or part.rope <= window or not isinstance(rope, FrequencyMethod):
            check_live(run.model)
            if extends and part.rope <= window and not is_pretrained(run.model.config):
                return Finding(what, f"an extension is on, where {part.rope:,} tokens are within the window", False)
            return Finding(what, "as it was pretrained" if extends else "as the configuration has it", True)
        tolerance = rope.rounding(run.model.config, part.rope)
        plan = rope.static_plan(run.model.config, part.rope) or rope.plan(run.model.config, part.rope)
        engine = engine_on(run.model)
        if rope.runtime and (engine is None or not engine.rotations):
            return Finding(what, f"{rope.id} is not on", False)
        if rope.runtime and engine is not None:
            plan = rope.plan(run.model.config, part.rope)
            for key, rotation in engine.rotations.items():
                seen, wanted = rotation.frequencies(part.rope), plan[key]
                close = torch.isclose(seen.inv_freq, wanted.inv_freq, rtol=tolerance, atol=1e-30)
                if not bool(close.all()) or abs(seen.attention_factor - wanted.attention_factor) > tolerance:
                    return Finding(what, f"what is on rotates other than {rope.id} for {part.rope:,} tokens", False)
        else:
            live.check(run.model, plan, tolerance)
    except UserError as error:
        return Finding(what, error.message, False)
    return Finding(what, f"{rope.id} for {part.rope:,} tokens", True)


# Who reads what


def _shared(run: Run, part: Part, mine: Batch) -> Finding:
    """Whether the processes together read each token of a step once."""
    sampler = run.samplers[run.parts.index(part)]
    rows = list(sampler.rows(part.start, part.first, part.rows))
    whole = _counted(weighted(Batch.of(rows), run.recipe.loss))
    seen = run.processes.sum(_counted(mine))
    what = "processes read each token once"
    if torch.equal(seen, whole):
        return Finding(what, f"{int(whole[0]):,} tokens of a step", True)
    return Finding(what, f"{int(seen[0]):,} tokens are read, a step has {int(whole[0]):,}, or others", False)


def _counted(batch: Batch) -> Tensor:
    """How many tokens, and a sum over them of a hash of all that is told of one; int64 [2]."""
    found = torch.zeros_like(batch.input_ids)
    positions = batch.position_ids.double().view(torch.int64)
    for column in (batch.input_ids, batch.targets, positions, batch.weights.view(torch.int32).long()):
        found = (found ^ column) * 0x9E3779B97F4A7C1 + 0x632BE59BD9B4E019
        found = found ^ (found >> 29)
    inside = batch.document_ids != PADDING
    return torch.stack([inside.sum(), found[inside].sum()])


# Who sees whom


def _wanted(run: Run, part: Part) -> dict[str, bool]:
    """Which of ``KINDS`` the recipe has, that not every row has."""
    sampler, layout = run.samplers[run.parts.index(part)], run.recipe.layout(ANY)
    jumps = layout.skips and layout.rope == "extended"  # what is trained for every factor is squeezed evenly
    return {"losses in other documents": sampler.packed and sampler.apart, "losses behind a jump": jumps}


def _searched(run: Run, part: Part) -> int:
    """How many rows to pass over until some have what the recipe has; 0 where none are found."""
    sampler, count = run.samplers[run.parts.index(part)], min(run.recipe.micro, ROWS) * run.processes.readers
    for passed in range(0, SEARCHED if any(_wanted(run, part).values()) else 0, count):
        batch = Batch.of(list(sampler.rows(part.start, part.first + passed, count)))
        if batch.packed or bool(_jumps(batch).any()):
            return passed
    return 0


def _perturbed(run: Run, part: Part, first: int) -> list[Finding]:
    """Change a token, and the last one of its document where another follows, and see whose losses change."""
    micro = min(run.recipe.micro, ROWS)
    sampler, together = run.samplers[run.parts.index(part)], run.processes
    mine = slice(together.reader * micro, (together.reader + 1) * micro)
    batch = Batch.of(list(sampler.rows(part.start, first, micro * together.readers, mine))).to(run.model.device)
    row, places = _places(batch)
    vocabulary = int(run.model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    other = batch.input_ids.clone()
    other[row, places] = (other[row, places] + vocabulary // 2) % vocabulary
    inputs = batch, batch, replace(batch, input_ids=other)
    before, again, after = (_losses(run, one) for one in inputs)
    routed = any(name.endswith("experts") for name, _ in run.model.named_modules())
    counts = together.sum(_seen(batch, row, places[0], before, (again - before).abs(), (after - before).abs(), routed))
    if together.spread is not None:  # all of a group have seen the same
        counts //= together.spread.count
    found, wanted = [], _wanted(run, part)
    for (what, changes), (there, wrong) in zip(KINDS.items(), counts.tolist(), strict=True):
        if not there:
            searched = f"none in {SEARCHED} rows" if wanted.get(what) else "the rows that were tried have none"
            found.append(Finding(what, searched, None, wanted.get(what, False)))
        elif changes:
            found.append(Finding(what, "they do not change with it" if wrong else "they change with it", not wrong))
        else:
            words = f"{wrong:,} of {there:,} losses change with it" if wrong else f"{there:,} losses do not change"
            found.append(Finding(what, words, not wrong))
    return found


def _losses(run: Run, batch: Batch) -> Tensor:
    """Every place's loss, by the processes that share its sequence; float32 [B, N]."""
    spread = run.processes.spread
    found = run.way.losses(run.model, cut(batch, spread)).float()
    return found if spread is None else spread.joined(found)[:, : batch.input_ids.shape[1]]


KINDS = {  # what is looked at -> whether losses there must change
    "losses before a changed token": False,
    "losses in other documents": False,
    "losses in other rows": False,
    "losses behind it": True,
    "losses behind a jump": True,
}


def _places(batch: Batch) -> tuple[int, list[int]]:
    """Row and places of tokens of one document to change.

    It is the last one before a jump. Else it is in the middle of a document, and, where another document follows, the
    last one too: what leaks no further than to the next token shows there alone.
    """
    for row, jumps in enumerate(_jumps(batch)):
        if bool(jumps.any()):
            return row, [int(jumps.nonzero()[int(jumps.sum()) // 2]) - 1]
    several = [bool((ids[ids != PADDING] != ids[0]).any()) for ids in batch.document_ids]
    row = several.index(True) if True in several else 0
    names, sizes = batch.document_ids[row][batch.document_ids[row] != PADDING].unique_consecutive(return_counts=True)
    followed = max(len(names) - 1, 1)
    middle = followed // 2 if int(sizes[followed // 2]) > FEW else int(sizes[:followed].argmax())
    start, size = int(sizes[:middle].sum()), int(sizes[middle])
    return row, [start + size // 2, start + size - 1] if several[row] else [start + size // 2]


def _jumps(batch: Batch) -> Tensor:
    """Where a position is not its neighbour's next, inside of a document; bool [B, N]."""
    steps = batch.position_ids.double().diff(dim=1)
    inside = batch.document_ids.diff(dim=1) == 0
    usual = steps[inside].median() if bool(inside.any()) else steps.new_ones(())
    jumps = torch.zeros_like(batch.document_ids, dtype=torch.bool)
    jumps[:, 1:] = inside & (steps - usual > usual / 2) & (batch.document_ids[:, 1:] != PADDING)
    return jumps


def _seen(batch: Batch, row: int, place: int, losses: Tensor, noise: Tensor, change: Tensor, routed: bool) -> Tensor:
    """Of each of ``KINDS``: how many losses there are, and how many of them are not as they must be; int64 [5, 2]."""
    there = batch.targets >= 0
    places = torch.arange(there.shape[1], device=there.device)
    own = torch.zeros_like(there)
    own[row] = batch.document_ids[row] == batch.document_ids[row, place]
    same_row = torch.zeros_like(there)
    same_row[row] = True
    behind = there & own & (places > place)
    allowed = 2 * float(noise.max()) + EXACT * float(losses.max())
    if routed:
        allowed += ROUTED * float(change[behind].max()) if bool(behind.any()) else 0
    far = _jumps(batch)[row] & (places > place)
    jumped = behind & (places >= int(far.nonzero()[0])) if bool(far.any()) else torch.zeros_like(there)
    found = []
    for where in (there & own & (places < place), there & same_row & ~own, there & ~same_row):
        found.append([int(where.sum()), int((change[where] > allowed).sum())])
    for where in (behind, jumped):
        found.append([int(where.sum()), int(where.any() and not (change[where] > 2 * float(noise.max())).any())])
    return torch.tensor(found)


# Whose loss it is


def _compared(run: Run, part: Part, first: int) -> tuple[list[Finding], float]:
    """Loss and gradient of all processes against those of one, which reads a document at a time; seconds of a step."""
    sampler, together = run.samplers[run.parts.index(part)], run.processes
    micro = min(run.recipe.micro, ROWS)
    share = 2 * micro
    rows = list(sampler.rows(part.start, first, share * together.readers))
    whole = _thinned(weighted(Batch.of(rows), run.recipe.loss), micro)
    per = len(rows) // (share * together.readers)
    mine = cut(list(whole.split(share * per))[together.reader], together.spread)
    references = None if run.references is None else run.references.of_samples(first, share * together.readers)
    own = None if references is None else references.split(share)[together.reader]
    began = time.perf_counter()
    loss, _ = run.gradients(mine, micro, own)
    norm = _norm(run.model)
    seconds = (time.perf_counter() - began) * part.rows / (share * together.readers)
    alone, preferred = torch.zeros((), dtype=torch.float64), None
    denominator = float(whole.weights.double().sum())
    if references is not None:
        (whole, preferred), denominator = _preferred(run, whole, references), len(references)
    copies = together.count if is_sharded(run.model) else 1  # whose gradients are summed up
    for one in whole.apart():
        if bool(one.weights.any()):
            some = one.to(run.model.device)
            alone += OneShot().backward(run.model, some, denominator).double().cpu()
            alone += run.beside(some, denominator).cpu()
    expected = _norm(run.model) / copies
    near, close = ALIKE.get(run.model.dtype, HALF)
    many = f"{together.count} processes" if together.count > 1 else "the run"
    wanted = float(alone) if preferred is None else preferred
    unit = "token" if preferred is None else "pair"
    pairs = ("loss", loss, wanted, near), ("gradient", norm, expected, close)
    found = []
    for what, seen, wanted, most in pairs:
        words = f"{seen:.6g} by {many}, {wanted:.6g} a document at a time"
        found.append(Finding(f"{what} per {unit}", words, abs(seen - wanted) <= most * abs(wanted)))
    return found, seconds


def _preferred(run: Run, batch: Batch, references: Tensor) -> tuple[Batch, float]:
    """A batch of pairs with the weights that LongPO's derivatives are, by their formula, and its mean loss."""
    beta, much = run.recipe.longpo_beta, run.recipe.longpo_lambda
    losses = [float(OneShot().losses(run.model, row.to(run.model.device)).cpu()[row.weights > 0].double().sum())
              for row in batch.split(1)]  # fmt: skip
    weights, loss = batch.weights.clone(), 0.0
    for i, (said, other) in enumerate(references.tolist()):
        chosen, rejected = 2 * i, 2 * i + 1
        margin = beta * (losses[rejected] + other - losses[chosen] - said)
        count = max(int((batch.weights[chosen] > 0).sum()), 1)
        small = math.exp(-abs(margin))  # of a sigmoid and a softplus that overflow at no margin
        pull = much * beta * (small if margin > 0 else 1) / (1 + small)
        weights[chosen] *= pull + 1 / count
        weights[rejected] *= -pull
        loss += much * (max(-margin, 0) + math.log1p(small)) + losses[chosen] / count
    return replace(batch, weights=weights), loss / len(references)


def _thinned(batch: Batch, micro: int) -> Batch:
    """Few losses in the first of two forward passes of every other process, none beyond those that are compared."""
    weights = batch.weights.clone()
    for i, row in enumerate(weights):
        kept = row.nonzero()[:, 0]
        process, within = divmod(i // micro, 2)
        if process >= COMPARED:
            row.zero_()
        elif process % 2 == within == 0:
            row[kept[FEW:]] = 0
    return replace(batch, weights=weights)


def _norm(model: nn.Module) -> float:
    """Of all gradients, which are gone afterwards."""
    found = [one.grad.float() for one in model.parameters() if one.grad is not None]
    total = nn.utils.get_total_norm(found)
    model.zero_grad(set_to_none=True)
    return float(total.full_tensor() if isinstance(total, DTensor) else total)


@contextmanager
def _trained_steadily(model: nn.Module) -> Iterator[None]:
    """In training mode, with no dropout and the numbers of chance as they were; all comes back."""
    flags = [(module, module.training) for module in model.modules()]
    attending = [
        (module, module.attention_dropout) for module in model.modules() if hasattr(module, "attention_dropout")
    ]
    try:
        model.train()
        for module, _ in flags:
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        for module, _ in attending:
            module.attention_dropout = 0.0  # type: ignore[assignment]
        with torch.random.fork_rng():  # chance stays as it was
            yield
    finally:
        for module, training in flags:
            module.training = training
        for module, dropout in attending:
            module.attention_dropout = dropout
