"""A model that is trained to a longer window, by a paper's recipe."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show, whole
from ropewalk.training.recipe import LEAST, Recipe
from ropewalk.verbs.request import (
    Count,
    DeviceRequest,
    Length,
    Method,
    ModelRequest,
    Number,
    Place,
    Request,
    Source,
    Spelling,
    Words,
    attributes,
    named,
    named_place,
    verb,
)

if TYPE_CHECKING:
    from ropewalk.training.forecast import Forecast
    from ropewalk.training.self_test import SelfTest
    from ropewalk.training.trained import Trained


def _recipe(value: Any) -> str:
    fields = isinstance(value, str) and value.startswith("{")
    return named(value) if fields or isinstance(value, Recipe) else named_place(value)


Positions = Annotated[str, Spelling("str | TrainingPositions", named, called="POSITIONS")]
NOTHING_BUT = {  # fields that change nothing but under a value of another
    "rank": ("trainable", "lora"),
    "alpha": ("trainable", "lora"),
    "dropout": ("trainable", "lora"),
    "targets": ("trainable", "lora"),
    "chunk": ("memory", "recurrent"),
    "longpo_beta": ("loss", "longpo"),
    "longpo_lambda": ("loss", "longpo"),
}

ANY_TIME = {"save_every", "evaluate_every", "micro", "memory", "chunk", "offload", "tiled_mlp"}  # changed on the way
FARTHER = 2  # windows, where no target is said
CUE = " The text ends here."


def _overrides() -> type[Request]:
    """A Request with the fields of a recipe, each of which may be left to the recipe."""
    hints, declared = get_type_hints(Recipe), []
    for one in fields(Recipe):
        if one.name in ("name", "stages"):
            continue
        hint = hints[one.name]
        kind = Words if get_origin(hint) is tuple else next(x for x in (*get_args(hint), hint) if x is not NoneType)
        whole_number = Annotated[int, Spelling(int, partial(whole, least=LEAST.get(one.name, 0)), called="NUMBER")]
        special = {"window": Length, "method": Method, "attention": Method, "positions": Positions}
        kind = special.get(one.name) or (whole_number if kind is int else kind)
        declared.append((one.name, kind | None, field(default=None, kw_only=True)))
    described = attributes(Recipe)
    told = "\n".join(f"    {name}: {described[name]}" for name, _, _ in declared)
    space = {
        "__doc__": f"Fields of a recipe, for those who want another value.\n\nAttributes:\n{told}",
        "__module__": __name__,
    }
    made: type[Request] = make_dataclass("Overrides", declared, bases=(Request,), frozen=True, namespace=space)
    return made


Overrides: Any = _overrides()


@dataclass(frozen=True, kw_only=True)
class RecipeRequest(Request):
    """By what it is trained.

    Attributes:
        recipe: A paper's, as 'ropewalk recipes' lists them (pi, yarn, pose, ...), the folder or the recipe.json of a
            training, or fields as JSON: '{"method": "pi", "steps": 200}'.
    """

    recipe: Annotated[str, Spelling("str | Path | Recipe", _recipe)] = field(kw_only=False)


@dataclass(frozen=True, kw_only=True)
class TrainRequest(Overrides, DeviceRequest, ModelRequest, RecipeRequest):  # type: ignore[misc]
    """What is trained, on what, and where it goes.

    Attributes:
        to: Target length in tokens: 4096, 4k, 128K, 1m; of a memory, by default twice the pretrained window.
        texts: To train on: topics (English), stdlib (held-out Python modules), or a file or folder of yours.
        out: Folder to write; by default one here, named after the model, ``to`` and the recipe. States that a run can
            go on from lie in FOLDER.training until it is done.
        test: Texts that are measured on; by default some of those, which are then not trained on.
        documents: At most so many texts for perplexity, and no more than a quarter of those that are trained on; 0:
            none.
        keys: Pass keys per length and evaluation; 0: none.
        track: Log every step and evaluation to tensorboard, wandb or trackio, if it is installed.
        overwrite: Replace what is there, if ropewalk wrote it, and throw away states of another run.
        dry_run: Say what it will take, and do nothing.
        self_test: Try the training on some of its rows, on this very line (with torchrun, if it is run so), and do
            nothing else: who sees whom, whose loss is counted, by which rope.
        shard: Spread weights, gradients and optimizer over the processes of torchrun (FSDP2): each holds a part.
        sequence_parallel: Processes that share every sequence, each with all tokens of some heads (Ulysses).
        gpu: Of ``dry_run``: an accelerator, such as h100; by default what this machine has.
    """

    to: Length | None = None
    texts: Source = field(kw_only=False)
    out: Place | None = None
    test: Source = ""
    documents: Number = 8
    keys: Number = 10
    track: str = ""
    overwrite: bool = False
    dry_run: bool = False
    self_test: bool = False
    shard: bool = False
    sequence_parallel: Count = 1
    gpu: str = ""

    def target(self, recipe: Recipe, window: int) -> int:
        """The target in tokens, of a model with a pretrained window.

        Raises:
            UserError: if none is said, and the recipe trains no memory.
        """
        if self.to is None and recipe.memory_method is None:
            raise UserError(f"{recipe.name} needs a target, in tokens", f"Say --to {show(FARTHER * window)}.")
        return FARTHER * window if self.to is None else self.to

    def resolved(self) -> Recipe:
        """The recipe with what was asked to be other."""
        base = _read(self.recipe)
        names = [one.name for one in fields(Overrides)]
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        made = base.with_changes(said)
        for name, (other, needed) in NOTHING_BUT.items():
            if name in said and not getattr(made, other).startswith(needed):
                raise UserError(
                    f"--{name.replace('_', '-')} changes nothing where {other} is {getattr(made, other)}",
                    f"Add --{other} {needed}.",
                )
        return made


def _read(spelling: str) -> Recipe:
    """A recipe from fields, from what a training wrote, or by its name."""
    from ropewalk.common.outside import parse, read_json
    from ropewalk.training.recipe import RECIPE
    from ropewalk.training.recipes.recipe_entries import BY_ID, recipe

    if spelling.startswith("{"):
        try:
            said = parse(spelling)
        except ValueError as error:
            raise UserError(f"the recipe is not valid JSON: {error}") from None
        return Recipe.from_dict(Recipe().to_dict() | said)
    file = Path(spelling)
    if spelling not in BY_ID and (file / RECIPE).is_file():
        file /= RECIPE
    return Recipe.from_dict(read_json(file)) if file.suffix == ".json" else recipe(spelling)


@verb("train", keeps=True)
def train(request: TrainRequest) -> Trained | Forecast | SelfTest | None:
    """Train a model to a longer window, by a paper's recipe, and write a checkpoint that any engine loads.

    It can be stopped at any moment; the same command goes on where it was. Under torchrun (torchrun -m ropewalk train)
    several processes train together.

    Returns:
        What was seen, and where it is; with ``dry_run``, what it will take; with ``self_test``, what was found
        (``sound`` is False if something is wrong). None in all processes of torchrun but the first.

    Raises:
        UserError: for everything that a user can mend, before the first step.
    """
    if request.self_test:
        request.refuse_unused(["dry_run"], "in a self-test")
    if not request.documents:
        request.refuse_unused(["test"], "where --documents is 0")
    recipe = request.resolved()
    import numpy as np

    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.common.files import folder_to_write
    from ropewalk.common.fingerprints import base_fingerprint, model_fingerprint
    from ropewalk.common.naming import counted
    from ropewalk.common.progress import Progress, shown
    from ropewalk.data.arranged import Arranged, is_arranged
    from ropewalk.encoders.encoder_folder import refuse_encoder
    from ropewalk.evaluation.long_context import LongContext, Reading
    from ropewalk.methods.memory.trained_memory import spelled_with
    from ropewalk.rope.config import text_config, trained_window
    from ropewalk.texts.documents import load as load_documents
    from ropewalk.texts.documents import token_ids
    from ropewalk.texts.opening import opening
    from ropewalk.texts.pieces import TokenUnits
    from ropewalk.training.forecast import forecast
    from ropewalk.training.loop import Run, parts, samplers, unwritten
    from ropewalk.training.preparation import (
        begun,
        carry,
        digest_of,
        expected,
        finished,
        for_rows,
        held_out,
        refuse_fits_elsewhere,
        refuse_quantised,
        refuse_trained_on,
        with_values,
        without_copies,
        written,
    )
    from ropewalk.training.processes import launched, processes, speaks
    from ropewalk.training.self_test import self_test
    from ropewalk.training.sharding import shard, weights
    from ropewalk.training.states import States, beside
    from ropewalk.training.tracking import kind_of, numbers, read, tracked
    from ropewalk.training.trained import Trained, ended

    arranged = Arranged.open(Path(request.texts)) if is_arranged(Path(request.texts)) else None
    if arranged:
        recipe = for_rows(recipe, arranged, request.packing, request.scope)
    checkpoint = Checkpoint(request.model, request.trust_remote_code)
    refuse_encoder(checkpoint)
    checkpoint.refuse_unsound()
    kind, window = str(text_config(checkpoint.config).dtype or "float32"), trained_window(checkpoint.config)
    to = request.target(recipe, window)
    refuse_fits_elsewhere(request.recipe, checkpoint, to)
    recipe = with_values(recipe, checkpoint, to)
    memory = recipe.memory_method
    if memory is not None:
        request.refuse_unused(["shard", "sequence_parallel"], f"where {memory.name} is trained")
    out = request.out or Path(f"{checkpoint.label}-{show(to)}-{recipe.name}")
    forecasted = forecast(
        checkpoint.config, recipe, to, window, checkpoint.name, request.gpu, kind.removeprefix("torch."),
        launched() if request.shard else 1, request.sequence_parallel, launched(),
    )  # fmt: skip
    if not request.dry_run:
        request.refuse_unused(["gpu"], "where something is trained")
        kind_of(request.track)
        before = None if request.overwrite or request.self_test else ended(out, request.command, recipe)
        given = [Path(source) for source in (request.texts, request.test) if source and Path(source).exists()]
        place = before.folder if before else folder_to_write(out, [checkpoint.source, *given], request.overwrite)
        forecasted.refuse_too_large()
    refuse_quantised(checkpoint, recipe)
    tokenizer = checkpoint.tokenizer()
    begin = np.asarray(opening(tokenizer), np.int64)
    texts = {
        name: np.asarray(token_ids(text, tokenizer), np.int64)
        for name, text in ({} if arranged else load_documents(request.texts)).items()
    }
    if arranged:
        arranged.corpus.require(tokenizer, checkpoint.name)
        arranged.corpus.check()  # a token that a disk changed would be learnt
        if not request.test and request.documents:
            raise UserError(
                f"all rows of {request.texts} are trained on, and none is left to measure on",
                "Name texts with --test, or say --documents 0.",
            )
    every = len(texts)
    if request.test:
        kept = {
            name: np.asarray(token_ids(text, tokenizer), np.int64)
            for name, text in load_documents(request.test).items()
        }
        if arranged:
            refuse_trained_on(arranged, kept)
        texts, kept = without_copies(texts, kept)
        copies = every - len(texts)
        if every and not texts:
            raise UserError(
                f"all texts of {request.texts} are among those of {request.test}, and none is left to train on",
                "Leave out --test: then some of them are measured on, and the others trained on.",
            )
    else:
        texts, kept = held_out(texts, to - len(begin), request.documents)
        copies = every - len(texts) - len(kept)
    ground = LongContext.of(
        [[*begin, *ids] for ids in kept.values() if len(begin) + len(ids) >= to],
        TokenUnits(tokenizer), to, request.documents, keys=request.keys, seed=recipe.seed,
    )  # fmt: skip

    cue = tuple(tokenizer(CUE, add_special_tokens=False).input_ids)
    stages = parts(recipe, to, window, cue)
    documents = arranged or list(texts.values())
    rows = samplers(recipe, stages, documents, begin, cue)
    measured = len(ground.documents) if request.documents else None
    notes = expected(checkpoint, recipe, to, stages, rows, measured)
    if copies:
        notes.append(f"{counted(copies, 'text')} left out: the same as one that is measured on")
    if request.track == "tensorboard":
        notes.append(f"tensorboard --logdir {shlex.quote(f'{out}.tensorboard')} shows it meanwhile")
    if request.test and request.documents and not len(ground.documents):
        longest = max((len(begin) + len(ids) for ids in kept.values()), default=0)
        raise UserError(
            f"no text of {request.test} has {to:,} tokens, the longest {longest:,}: none can be measured on",
            "Name longer ones with --test, or say --documents 0.",
        )
    if request.dry_run:
        return replace(forecasted, notes=notes) if speaks() else None

    def measure(model: Any) -> dict[str, Any]:
        tell("measuring")
        seen: Reading = ground.measure(model)
        by_position = {
            f"{start}-{end}": {**asdict(one), "losses": seen.losses[start, end]}
            for (start, end), one in seen.by_position.items()
        }
        return {"perplexity": by_position, "passkey": {str(n): asdict(one) for n, one in seen.passkeys.items()}}

    with processes(request.sequence_parallel) as together:
        model, adapter = begun(checkpoint, recipe, request.device)
        opened, base = model_fingerprint(model)[:16], base_fingerprint(model) if memory else ""
        carry(model, recipe)
        asked = {
            "recipe": {name: value for name, value in recipe.to_dict().items() if name not in ANY_TIME},
            "model": checkpoint.name, "weights and configuration": opened, "to": to,
            "data": request.texts, "contents of texts": arranged.digest if arranged else digest_of(texts),
            "test": request.test, "contents of test": digest_of(kept), "documents": request.documents,
            "keys": request.keys, "texts begin with": begin.tolist(), "a sample may end with": cue,
        }  # fmt: skip
        if request.shard:
            shard(model, recipe, together)
        states = States(beside(out), json.loads(json.dumps(asked)), together)
        if before:
            with states.opened():  # they are of this very run
                pass
            states.remove()
            return before if together.first else None
        run = Run(recipe, model, to, documents, begin, states, together, cue, measure)
        if request.self_test:
            found = self_test(run, checkpoint.name, forecasted.memory.total)
            return found if together.first else None
        with (
            states.opened(request.overwrite),
            shown() as update,
            tracked(request.track if together.first else "", out.name, out.parent, asked) as track,
        ):

            def tell(words: str) -> None:
                if together.first:
                    update(Progress(len(run.log), recipe.steps, words))

            def heard(log: Any) -> None:
                if together.first:
                    track(log.step, numbers(log))
                tell(f"loss {log.loss:.3f}, {log.tokens / max(log.seconds, 1e-9):,.0f} tokens/s")

            if together.first:
                for note in notes:
                    logging.getLogger("ropewalk").warning(note)
                if states.latest:
                    logging.getLogger("ropewalk").warning(
                        f"going on behind step {states.latest:,}, from {states.folder}"
                    )
            run.heard = heard
            run.noted = lambda step, reading: track(step, read(reading))
            try:
                run.run()
            except KeyboardInterrupt as stopped:
                vars(stopped)["kept"] = (  # what the command line says of it
                    f"the same command goes on behind step {states.latest:,} of the {len(run.log):,} that were done"
                    if states.latest
                    else "no state was saved yet, and the same command begins anew"
                )
                raise
            finished(run)
            rope = recipe.rope_method(stages[-1].stage)
            done = Trained(
                place, recipe, checkpoint.name, request.texts, window, to,
                (rows[-1].texts, rows[-1].left_out), run.log, run.readings, notes, request.command,
                unwritten(recipe, checkpoint.config, to) if memory is None else spelled_with(rope, out), bool(memory),
            )  # fmt: skip
            held = weights(run.model)
            if together.first:
                notes += written(run, adapter, checkpoint, out, request.overwrite, done.write, held, base)
        states.remove()
        return done if together.first else None
