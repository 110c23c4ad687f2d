"""The loop: stages of a recipe, steps of a stage, forward passes of a step; and what a run goes on from.

A run is a function of the recipe, the model, the texts and the target. Rows depend on seed and step, losses are sums
over the tokens of all processes divided by their number, and a state holds all the rest, so that a run that was killed
ends with the weights of one that was not, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ropewalk.common.errors import UserError
from ropewalk.common.underway import flat
from ropewalk.data.arranged import Arranged
from ropewalk.methods.base import require_beyond
from ropewalk.methods.catalogue import method as method_of
from ropewalk.methods.compose import compose
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.config import pretrained_specs, read, trained_window
from ropewalk.training.arranged_sampler import AnySampler, ArrangedSampler
from ropewalk.training.checks import check_windows
from ropewalk.training.longpo import LongPO
from ropewalk.training.one_shot import OneShot, require_apart
from ropewalk.training.optimizers import Optimizer
from ropewalk.training.pair_sampler import PairSampler
from ropewalk.training.processes import ALONE, Processes
from ropewalk.training.readings import CAME
from ropewalk.training.recipe import Recipe, Stage
from ropewalk.training.recurrent import Recurrent
from ropewalk.training.references import References
from ropewalk.training.sampler import Sampler
from ropewalk.training.schedule import factor
from ropewalk.training.sequence import cut, refuse_spread
from ropewalk.training.sharding import is_sharded, whole
from ropewalk.training.states import States
from ropewalk.training.training_batch import PADDING, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from ropewalk.methods.base import Method
    from ropewalk.training.positions.training_positions import Ints


@dataclass(frozen=True)
class StepLog:
    """What one step was.

    Attributes:
        step: steps done with it.
        loss: mean over the tokens (or samples, or pairs of answers) of all processes, in nats.
        norm: of the gradient, before clipping.
        learning_rate: that it was taken with.
        tokens: that were read, padding aside.
        seconds: that it took.
        memory: largest bytes of tensors on the device; 0 where torch does not count them.
        taken: False where the gradient was not finite, so that no weight moved.
    """

    step: int
    loss: float
    norm: float
    learning_rate: float
    tokens: int
    seconds: float
    memory: int = 0
    taken: bool = True


class Passing(Protocol):
    """A way through a batch."""

    def backward(self, model: Any, batch: Batch, denominator: float) -> Tensor:
        """The weighted sum of losses over ``denominator``, gradients added to those of the parameters."""

    def losses(self, model: Any, batch: Batch) -> Tensor:
        """Every place's loss, float32 [B, N], 0 where there is no target; without gradients."""


@dataclass(frozen=True)
class Part:
    """A stage of a run.

    Attributes:
        stage: as in the recipe.
        start: steps before it.
        steps: in it.
        rope: tokens that the rope is made for.
        reach: one more than the largest position.
        window: tokens of a sample.
        rows: samples per step, over all processes.
        first: samples before it.
    """

    stage: Stage
    start: int
    steps: int
    rope: int
    reach: int
    window: int
    rows: int
    first: int


def parts(recipe: Recipe, to: int, trained: int, cue: tuple[int, ...] = ()) -> list[Part]:
    """The stages of a run to ``to`` tokens, of a model whose pretrained window is ``trained``.

    Raises:
        UserError: if positions, window and target do not fit, the target is not beyond the window, or the last stage's
            rope is made for another length.
    """
    require_beyond([method_of(recipe.method)], to, trained)
    layout, found, start, first = recipe.layout(cue), [], 0, 0
    for stage, steps in recipe.schedule_of_stages():
        reach = max(round(to * stage.reach), 2) if stage.reach else trained
        rope = max(round(to * stage.rope), reach)
        window = recipe.window or layout.window_for(trained, reach)
        rows = max(1, round(recipe.batch * stage.batch))
        layout.require(window, reach)
        found.append(Part(stage, start, steps, rope, reach, window, rows, first))
        start, first = start + steps, first + rows * steps
    if rope != to:
        raise UserError(
            f"the last stage has a rope for {rope:,} tokens (rope {stage.rope:g}, reach {stage.reach:g}), and what is "
            f"written is for {to:,}",
            "Let it have a rope of 1, and a reach of 1 or less; --to says another length.",
        )
    return found


def samplers(
    recipe: Recipe, parts: Sequence[Part], documents: Sequence[Ints] | Arranged, begin: Ints, cue: tuple[int, ...]
) -> Sequence[AnySampler]:
    """Where the rows of each stage come from.

    Raises:
        UserError: if the texts are too short, or arranged rows too long, or not what the loss is of.
    """
    if recipe.paired != (isinstance(documents, Arranged) and documents.about.paired):
        raise UserError(
            "loss is longpo, and the texts are no pairs of answers"
            if recipe.paired
            else f"loss is {recipe.loss!r}, and the rows are pairs of answers, one of which is rejected",
            "Make pairs: ropewalk data synth longpo." if recipe.paired else "Say --loss longpo.",
        )
    if isinstance(documents, Arranged):
        kind = PairSampler if recipe.paired else ArrangedSampler
        return [kind(documents, part.window, recipe.seed) for part in parts]
    packed, apart = recipe.packing == "documents", recipe.scope == "document"
    return [
        Sampler(documents, begin, recipe.layout(cue), part.window, part.reach, packed, apart, recipe.seed)
        for part in parts
    ]


def passing(recipe: Recipe, processes: Processes = ALONE) -> Passing:
    """The way through a batch that a recipe asks for."""
    offload, tiled = "activations" in recipe.offload, recipe.tiled_mlp
    if recipe.recurrent:
        return Recurrent(recipe.chunk, recipe.memory == "recurrent-checkpointed", offload, tiled)
    return OneShot(recipe.memory != "plain", recipe.memory == "selective", offload, tiled, processes.spread)


@contextmanager
def roped(model: PreTrainedModel, recipe: Recipe, part: Part) -> Iterator[None]:
    """The model under the rope and the attention of a stage.

    A rope that a configuration can say stays on the model; another one, and the attention, are put on for a while. A
    stage within the window has the rope of the pretraining.
    """
    running: list[Method] = []
    rope = recipe.rope_method(part.stage)
    if ropes(recipe, part.stage):
        if part.rope <= trained_window(model.config):
            pretrained(model)
        elif is_written(rope, model.config, part.rope):
            rope.extend(model, part.rope)
        else:
            running.append(rope)
    if recipe.attention != "full":
        running.append(method_of(recipe.attention))
    with ExitStack() as stack:
        if running:
            chosen = running[0] if len(running) == 1 else compose(*running)
            with whole(model):  # which is looked at
                stack.enter_context(chosen.on(model, max(part.rope, trained_window(model.config))))
        yield


def ropes(recipe: Recipe, stage: Stage) -> bool:
    """Whether a stage is trained under the rope that its recipe names, and no rope is left as it came."""
    return recipe.layout(ANY).rope == "extended" and recipe.rope_method(stage).name != "none"


def pretrained(model: PreTrainedModel) -> None:
    """Put the rope of the pretraining back, where an extension that we wrote has replaced it."""
    if not is_pretrained(model.config):
        method_of("none").extend(model, trained_window(model.config))


def is_pretrained(config: PreTrainedConfig) -> bool:
    """Whether a configuration has the rope of the pretraining, and no extension that we wrote."""
    specs, before = read(config), pretrained_specs(config)
    return all(
        torch.equal(one.inv_freq, before[key].inv_freq) and one.attention_factor == before[key].attention_factor
        for key, one in specs.items()
    )


ANY = (0,)  # a cue, where only the kind of positions is asked for


def is_written(rope: Method, config: PreTrainedConfig, to: int) -> bool:
    """Whether a configuration can say the method itself, not a stand-in."""
    if not isinstance(rope, FrequencyMethod) or rope.runtime:
        return False
    try:
        rope.saved(config, to)
    except UserError:
        return False
    return True


SAVED_EVERY = 300  # seconds after which a state is saved, whatever the number of steps
SAVED_COST = 20  # times what saving took, after which it is done again


def unwritten(recipe: Recipe, config: PreTrainedConfig, to: int) -> str:
    """The rope that a recipe ends with, if no configuration can say it, else nothing."""
    rope = recipe.rope_method(recipe.schedule_of_stages()[-1][0])
    return "" if rope.name == "none" or is_written(rope, config, to) else rope.id


def require_written(recipe: Recipe, config: PreTrainedConfig, to: int) -> None:
    """Refuse a rope that no configuration can say where it is put on only when the training is over.

    Raises:
        UserError: naming it.
    """
    rope = unwritten(recipe, config, to)
    if rope and recipe.layout(ANY).rope == "trained":
        raise UserError(
            f"{recipe.positions} trains for every rope, and is written with {rope}, which no configuration can say",
            "Say --method pi, ntk-aware or yarn.",
        )


@dataclass(eq=False)
class Run:
    """One training, from its first step or from a state to its last step.

    Attributes:
        recipe: what is done.
        model: live, in float32 or bfloat16; trained in place.
        to: target length in tokens.
        documents: token ids of the texts, without what texts begin with; or rows that were made of them.
        begin: ids that texts begin with.
        states: where the run can go on from; None keeps none.
        processes: that train together.
        cue: token ids of a sentence that ends a sample, for positions that need one.
        measure: asked of the model as it came, before the first step, every ``evaluate_every`` and after the last, with
            the rope that it will be written with and full attention; gives plain values.
        heard: told of every step.
        noted: told of every measurement.
        log: of the steps done.
        readings: what ``measure`` gave, by steps done; ``CAME``: of the model as it came, under its own rope.
    """

    recipe: Recipe
    model: PreTrainedModel
    to: int
    documents: Sequence[Ints] | Arranged
    begin: Ints
    states: States | None = None
    processes: Processes = ALONE
    cue: tuple[int, ...] = ()
    measure: Callable[[PreTrainedModel], Mapping[str, Any]] | None = None
    heard: Callable[[StepLog], None] = lambda log: None
    noted: Callable[[int, Mapping[str, Any]], None] = lambda step, reading: None
    log: list[StepLog] = field(default_factory=list)
    readings: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.saved, self.saving = time.monotonic(), 0.0  # when a state was saved, and the seconds that it took
        self.recipe.require(self.model.config, self.to)
        require_written(self.recipe, self.model.config, self.to)
        self.way = passing(self.recipe, self.processes)
        self.parts = parts(self.recipe, self.to, trained_window(self.model.config), self.cue)
        self.samplers = samplers(self.recipe, self.parts, self.documents, self.begin, self.cue)
        self.memory = self.recipe.memory_method
        self.longpo = LongPO(self.recipe.longpo_beta, self.recipe.longpo_lambda) if self.recipe.paired else None
        last, came = self.samplers[-1], trained_window(self.model.config)
        self.references = References.of(last, came) if isinstance(last, PairSampler) else None
        self.optimizer = Optimizer(
            self.model.named_parameters(),
            self.recipe.optimizer,
            learning_rate=self.recipe.learning_rate,
            betas=(self.recipe.beta1, self.recipe.beta2),
            weight_decay=self.recipe.weight_decay,
            clip=self.recipe.clip or None,
            offload="optimizer" in self.recipe.offload and self.model.device.type != "cpu",
        )
        self._refuse_rest()
        if self.recipe.packing == "documents" and self.recipe.scope == "document":
            training = self.model.training
            try:
                with whole(self.model):
                    require_apart(self.model.train())
            finally:
                self.model.train(training)
        check_windows(self.model.config, self.recipe.layout(ANY), self.to)
        for part in self.parts:
            if part.rows % (readers := self.processes.readers):
                raise UserError(
                    f"a step is of {part.rows} samples, which {readers} processes cannot share evenly",
                    f"Say --batch {-(-self.recipe.batch // readers) * readers}.",
                )
        if self.processes.spread is not None:
            refuse_spread(self.model, self.recipe, self.processes.spread)

    def run(self) -> None:
        """Train to the end.

        Raises:
            UserError: if the model does not fit the recipe, or gradients stay without a finite norm.
        """
        torch.manual_seed(self.recipe.seed + self.processes.rank)
        done, steps, every = self._go_on(), self.recipe.steps, self.recipe.evaluate_every
        if done == 0:
            self._read(CAME)
            self.refer()
        for part, sampler in zip(self.parts, self.samplers, strict=True):
            end = part.start + part.steps
            while done < end:
                if done == 0 or (every and done % every == 0):
                    self._read(done)
                until = min(end, (done // every + 1) * every) if every else end
                with roped(self.model, self.recipe, part):
                    self.model.train()
                    for step in range(done, until):
                        self._step(step, part, sampler)
                        self._save(step + 1)
                done = until
        self._refuse_infinite()
        with roped(self.model, self.recipe, self.parts[-1]):
            pass  # also of a run that ended before it was written
        self._read(steps)
        self.model.eval()

    def batch(self, step: int, part: Part, sampler: AnySampler) -> Batch:
        """What this process reads in a step."""
        first, mine = self._share(step, part)
        rows = sampler.rows(step, first, part.rows, mine)
        return cut(weighted(Batch.of(list(rows)), self.recipe.loss), self.processes.spread)

    def _share(self, step: int, part: Part) -> tuple[int, slice]:
        """The number of a step's first sample over the whole run, and which of its samples this process reads."""
        share = part.rows // self.processes.readers
        mine = slice(self.processes.reader * share, (self.processes.reader + 1) * share)
        return part.first + (step - part.start) * part.rows, mine

    def gradients(self, batch: Batch, micro: int, reference: Tensor | None = None, left: int = 0) -> tuple[float, int]:
        """Loss, and tokens read, of the batches of all processes; the gradients of that loss are in ``.grad``.

        Args:
            batch: of this process.
            micro: rows per forward pass.
            reference: log-probabilities of a batch of pairs by the model as it came, behind short contexts, [P, 2].
            left: stages of the run after this one.

        Raises:
            UserError: if no token has a loss.
        """
        size, tokens = batch.weights.double().sum(), (batch.document_ids != PADDING).double().sum()
        objective: Tensor | None = None
        if self.longpo is not None:
            assert reference is not None
            size = torch.tensor(float(len(reference)), dtype=torch.float64)
            with torch.random.fork_rng():  # dropout is drawn again in the pass that has gradients
                losses = self._losses(batch, micro)
            batch, objective = self.longpo.weighed(batch, losses, reference)
        denominator, tokens = self.processes.sum(torch.stack([size, tokens])).tolist()
        if denominator == 0:
            raise UserError("no token of a step has a loss", "Take longer samples, or more of them: --batch.")
        device = self.model.device
        loss = torch.zeros((), dtype=torch.float64, device=device)
        for some in (one.to(device) for one in batch.split(micro)):
            taught = None if self.memory is None else self.memory.taught(self.model, some, left)
            if taught is None:
                loss += self.way.backward(self.model, some, denominator).double()
            else:
                (taught / denominator).backward()
                loss += taught.detach().double() / denominator
            loss += self.beside(some, denominator)
        self.processes.add_up(one.grad for one in self.model.parameters() if one.grad is not None)
        if objective is not None:
            loss = objective / denominator
        return float(self.processes.sum(loss)), int(tokens)

    def beside(self, batch: Batch, denominator: float) -> Tensor:
        """The further loss that a memory has of a batch, over ``denominator``; its gradients are added to ``.grad``."""
        further = None if self.memory is None else self.memory.auxiliary(self.model, batch)
        if further is None:
            return torch.zeros((), dtype=torch.float64, device=self.model.device)
        (further / denominator).backward()
        return further.detach().double() / denominator

    def refer(self, first: int = 0, most: int | None = None) -> None:
        """Keep what the model, as it is now, says of the answers of pairs, by default of all that the run reads."""
        if self.references is None:
            return
        part, sampler = self.parts[-1], self.references.sampler
        count = min(part.first + part.rows * part.steps, 2 * len(sampler.pairs)) if most is None else most
        self.model.eval()
        with torch.random.fork_rng():
            numbers = sorted({*sampler.numbers(first, count)})
            self.references.ask(numbers, lambda batch: self._losses(batch, len(batch.input_ids)), self.processes)

    def _losses(self, batch: Batch, micro: int) -> Tensor:
        """Every place's loss, on the CPU, [B, N]."""
        return torch.cat([self.way.losses(self.model, some.to(self.model.device)).cpu() for some in batch.split(micro)])

    def _step(self, step: int, part: Part, sampler: AnySampler) -> None:
        began, device = time.perf_counter(), self.model.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        first, mine = self._share(step, part)
        reference = None if self.references is None else self.references.of_samples(first, part.rows, mine)
        left = len(self.parts) - 1 - self.parts.index(part)
        total, tokens = self.gradients(self.batch(step, part, sampler), self.recipe.micro, reference, left)
        rate = self._rate(step, part)
        taken = self.optimizer.step(rate)
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        one = StepLog(
            step + 1, total, taken.norm, rate * self.recipe.learning_rate, tokens,
            time.perf_counter() - began, memory, taken.taken,
        )  # fmt: skip
        self.log.append(one)
        self.heard(one)

    def _rate(self, step: int, part: Part) -> float:
        """What the peak learning rate is multiplied by."""
        recipe = self.recipe
        within, steps = (step - part.start, part.steps) if recipe.restart else (step, recipe.steps)
        how = {"warmup": recipe.warmup, "warmup_from": recipe.warmup_from, "floor": recipe.floor}
        return part.stage.rate * factor(within, steps, schedule=recipe.schedule, **how)  # type: ignore[arg-type]

    def _refuse_rest(self) -> None:
        """Refuse a run whose learning rate is never above 0.

        Raises:
            UserError: naming what it is made of.
        """
        every = (self._rate(step, part) for part in self.parts for step in range(part.start, part.start + part.steps))
        if self.recipe.learning_rate == 0 or not any(every):
            raise UserError(
                f"no weight would move: the learning rate is 0 in all of {self.recipe.steps} steps (its peak is "
                f"{self.recipe.learning_rate:g}, after a warmup of {self.recipe.warmup})",
                "Say --warmup 0, or more --steps." if self.recipe.learning_rate else "Say --learning-rate 2e-5.",
            )

    def _refuse_infinite(self) -> None:
        """Refuse weights that the last steps made infinite: no gradient after them told.

        Raises:
            UserError: naming one.
        """
        trained = self.optimizer.parameters.items()
        here = ((name, one.to_local() if isinstance(one, DTensor) else one) for name, one in trained)
        wrong = [name for name, one in here if not bool(torch.isfinite(one).all())]
        if self.processes.sum(torch.tensor(float(len(wrong)))):
            raise UserError(
                f"the last step made {wrong[0] if wrong else 'weights of another process'} infinite",
                f"Say a lower --learning-rate ({self.recipe.learning_rate:g}), and --overwrite.",
            )

    def _read(self, done: int) -> None:
        """Measure, in evaluation mode, and with the random numbers of the training left as they are."""
        if self.measure is None or done in self.readings:
            return
        with whole(self.model):
            if self.processes.first or is_sharded(self.model):
                self.model.eval()
                rope = nullcontext() if done == CAME else self._to_be_written()
                with torch.random.fork_rng(), torch.no_grad(), rope:
                    self.readings[done] = self.measure(self.model)
                self.model.train()
            if self.processes.first and done != CAME:
                self.noted(done, self.readings[done])
            self.readings.setdefault(done, {})  # the others know that it is done
            self.processes.wait()

    def _to_be_written(self) -> AbstractContextManager[None]:
        """The rope that the model ends with, which is another one before the last stage."""
        rope = self.recipe.rope_method(self.parts[-1].stage)
        return nullcontext() if rope.name == "none" else rope.on(self.model, self.to)

    # What a run goes on from

    def _tensors(self, inner: Mapping[str, Any]) -> dict[str, Tensor]:
        """All tensors of a state, by name; none is a copy, but for those of chance."""
        trained = {name: one.detach() for name, one in self.optimizer.parameters.items()}
        chance = {str(self.processes.rank): torch.get_rng_state()}
        if self.model.device.type == "cuda":
            chance[f"cuda {self.processes.rank}"] = torch.cuda.get_rng_state(self.model.device)
        references = {} if self.references is None else {"references": self.references.logs}
        return flat({"model": trained, "optimizer": inner, "chance": chance, **references}, " ")

    def _save(self, done: int) -> None:
        """Save a state if it is due: by steps, by time, or as the last one."""
        if self.states is None:
            return
        recipe, began = self.recipe, time.monotonic()
        late = float(began - self.saved > max(SAVED_EVERY, SAVED_COST * self.saving))
        if done % recipe.save_every == 0 or done == recipe.steps or self.processes.sum(torch.tensor(late)):
            readings = {str(step): dict(one) for step, one in self.readings.items()}
            notes = {"log": [asdict(one) for one in self.log], "readings": readings}
            self.states.save(done, self._tensors(self.optimizer.state_dict()), notes)
            self.saved = time.monotonic()
            self.saving = self.saved - began

    def _go_on(self) -> int:
        """Take the newest state; steps done."""
        done = None if self.states is None else self.states.latest
        if self.states is None or done is None:
            return 0
        inner = self.optimizer.state_dict()
        tensors = self._tensors(inner)
        self.states.load(tensors)
        self.optimizer.load_state_dict(inner)
        torch.set_rng_state(tensors[f"chance {self.processes.rank}"])
        if self.model.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"chance cuda {self.processes.rank}"], self.model.device)
        notes = self.states.notes()
        if not {"log", "readings"} <= notes.keys():
            raise UserError(f"the notes of the state in {self.states.folder} hold no log", self.states.anew)
        self.log[:] = [StepLog(**one) for one in notes["log"]]
        self.readings.clear()
        self.readings.update({int(step): one for step, one in notes["readings"].items()})
        return done


def weighted(batch: Batch, loss: str) -> Batch:
    """Weights as they are (every token counts the same), or shared out so that every document's sum to 1."""
    if loss != "sample":
        return batch
    weights = batch.weights.clone()
    for row, documents in zip(weights, batch.document_ids, strict=True):
        for document in documents.unique():
            inside = documents == document
            total = row[inside].sum()
            if total > 0:
                row[inside] /= total
    return replace(batch, weights=weights)
