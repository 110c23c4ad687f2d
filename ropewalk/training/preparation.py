"""Before and behind the loop: texts kept aside, a model whose weights can move, the rope that is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from ropewalk.checkpoint.write import extension_notes, refuse_fitted_elsewhere, trained_folder
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD
from ropewalk.common.whole import new_folder, write_text
from ropewalk.methods.catalogue import method
from ropewalk.methods.fit_file import fitted
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.memory.trained_memory import beside
from ropewalk.rope.config import trained_window
from ropewalk.training.adapters import Adapter, adapt
from ropewalk.training.arranged_sampler import ArrangedSampler
from ropewalk.training.loop import ANY, Part, Run, is_written, pretrained, ropes, unwritten
from ropewalk.training.merging import merge
from ropewalk.training.pair_sampler import PairSampler
from ropewalk.training.recipes.recipe_entries import BY_ID, files_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.data.arranged import Arranged
    from ropewalk.training.arranged_sampler import AnySampler
    from ropewalk.training.positions.training_positions import Ints
    from ropewalk.training.recipe import Recipe

ADAPTER = "adapter"  # folder beside the merged weights
FILLED = 0.5  # of samples, on average; less is said
LEFT = 3  # texts that are trained on for each that is kept aside, at least

Texts = dict[str, "Ints"]


def held_out(texts: Texts, length: int, most: int) -> tuple[Texts, Texts]:
    """Texts to train on, and texts to measure on: up to ``most`` long ones, a quarter of all at most.

    Which ones depends on their contents alone. A copy of one to measure on is in neither.

    Args:
        texts: token ids by name.
        length: tokens that a text to measure on must have.
        most: so many at most.
    """
    names = {_digest(ids): name for name, ids in reversed(texts.items())}  # the first of those that are the same
    long = sorted(digest for digest, name in names.items() if len(texts[name]) >= length)
    aside = {names[digest] for digest in long[: min(most, len(names) // (LEFT + 1))]}
    return without_copies(texts, {name: ids for name, ids in texts.items() if name in aside})


def without_copies(texts: Texts, kept: Texts) -> tuple[Texts, Texts]:
    """Texts to train on without those to measure on, and these without their own copies.

    Args:
        texts: token ids by name, to train on.
        kept: to measure on.
    """
    names = {_digest(ids): name for name, ids in reversed(kept.items())}
    return (
        {name: ids for name, ids in texts.items() if _digest(ids) not in names},
        {name: ids for name, ids in kept.items() if names[_digest(ids)] == name},
    )


def refuse_trained_on(arranged: Arranged, kept: Texts) -> None:
    """Refuse to measure on texts that rows are made of.

    Args:
        arranged: rows that are trained on.
        kept: texts to measure on, by name.

    Raises:
        UserError: naming one.
    """
    corpus, skipped = arranged.corpus, len(arranged.corpus.manifest.begin)
    for name, ids in kept.items():
        for i in np.flatnonzero(corpus.lengths == skipped + len(ids)):
            if np.array_equal(corpus.tokens(int(i), skipped), ids):
                raise UserError(
                    f"{name} is to be measured on, and the rows of {corpus.folder} are made of it",
                    "Name other texts with --test, or say --documents 0.",
                )


def _digest(ids: Ints) -> bytes:
    return hashlib.sha256(ids.tobytes()).digest()


def for_rows(recipe: Recipe, arranged: Arranged, packing: str | None, wanted: str | None) -> Recipe:
    """The recipe, for rows that were arranged before: they say who sees whom.

    Args:
        recipe: to be done.
        arranged: what it is done on.
        packing: that was asked for beside the recipe.
        wanted: scope that was asked for beside the recipe.

    Raises:
        UserError: if the recipe lays out samples of its own, or wants another scope.
    """
    folder, scope = arranged.corpus.folder, "document" if arranged.about.apart else "sequence"
    if recipe.positions != "full":
        raise UserError(
            f"{folder} holds rows, and positions {recipe.positions} lay out samples of their own",
            "Say --positions full, or train on the texts themselves.",
        )
    if packing == "none":
        raise UserError(f"packing is 'none', and {folder} holds rows that are packed", "Leave --packing out.")
    if (wanted is not None or recipe.packing != "none") and recipe.scope != scope:
        raise UserError(
            f"scope is {recipe.scope!r}, and the rows of {folder} ({arranged.about.how}) are of scope {scope!r}",
            f"Say --scope {scope}, or arrange the texts in another way: ropewalk data pack.",
        )
    return recipe.with_changes({"packing": "documents", "scope": scope})


def digest_of(texts: Mapping[str, Ints]) -> str:
    """A hash of token ids, in their order."""
    digest = hashlib.sha256()
    for ids in texts.values():
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    return digest.hexdigest()[:16]


def refuse_fits_elsewhere(spelling: str, checkpoint: Checkpoint, to: int) -> None:
    """Refuse a recipe's fit files that are of another model, or of another length than their leg.

    Args:
        spelling: of the recipe, as the user writes it.
        checkpoint: what is to be trained.
        to: target length in tokens.

    Raises:
        UserError: naming the file.
    """
    if spelling.partition("(")[0] not in BY_ID:
        return
    legs = {"half": to // 2, "whole": to}
    for leg, file in files_of(spelling)[1].items():
        refuse_fitted_elsewhere(checkpoint, fitted(LongRoPE, file, {}), legs[leg])


def with_values(recipe: Recipe, checkpoint: Checkpoint, to: int) -> Recipe:
    """The recipe with what its methods were fitted to in the place of the files, for the weights are about to move.

    Args:
        recipe: whose methods may be of fit files.
        checkpoint: what is to be trained.
        to: target length in tokens.

    Raises:
        UserError: if a file is of another model, or of another length than its stage.
    """

    def values(spelling: str, share: float) -> str:
        found = method(spelling) if spelling else None
        if found is None or all(part.fit is None for part in getattr(found, "parts", (found,))):
            return spelling
        refuse_fitted_elsewhere(checkpoint, found, round(share * to))
        bare: str = found.bare.id
        return bare

    last = recipe.schedule_of_stages()[-1][0]
    stages = tuple(replace(stage, method=values(stage.method, stage.rope)) for stage in recipe.stages)
    return recipe.with_changes({"method": values(recipe.method, last.rope), "stages": stages})


def refuse_quantised(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Refuse adapters for a file that has no weights to merge them into.

    Raises:
        UserError: with the line that writes some.
    """
    if recipe.trainable == "lora" and checkpoint.gguf is not None:
        raise UserError(
            f"{checkpoint.name} is quantised, and an adapter could not be merged into it",
            f"Write it as a folder first: {checkpoint.extending(checkpoint.promised, 'none')}",
        )


def begun(checkpoint: Checkpoint, recipe: Recipe, device: str) -> tuple[PreTrainedModel, Adapter | None]:
    """The model of a checkpoint, with those weights trainable that the recipe says, and its adapter if it gets one.

    Raises:
        UserError: if it cannot be loaded, or takes no adapter.
    """
    model = checkpoint.load(recipe.dtype, device)
    model.config.use_cache = False
    if recipe.trainable == "all":
        return model, None
    return model, adapt(
        model,
        rank=recipe.rank,
        alpha=recipe.alpha,
        dropout=recipe.dropout,
        targets=recipe.targets,
        also=recipe.also,
        quantise=None if recipe.quantise == "none" else recipe.quantise,
        base=checkpoint.name,
        seed=recipe.seed,
    )


def expected(
    checkpoint: Checkpoint,
    recipe: Recipe,
    to: int,
    stages: Sequence[Part],
    samplers: Sequence[AnySampler],
    measured: int | None,
) -> list[str]:
    """What to know before a training: of the rope that the model has and gets, and of the texts.

    Args:
        checkpoint: that is trained.
        recipe: by what.
        to: target length in tokens.
        stages: of the run.
        samplers: of these.
        measured: texts that perplexity is measured on; None if none was wanted.
    """
    rope, notes = recipe.rope_method(recipe.schedule_of_stages()[-1][0]), []
    if recipe.memory_method is not None:
        notes.append(
            f"what is trained is a memory of {checkpoint.name}, which stays as it is: a folder of what {rope.id} adds "
            "and changes"
        )
    elif is_written(rope, checkpoint.config, to):
        notes += extension_notes(checkpoint.config, rope, to)
    else:
        notes.append(
            f"{rope.id} cannot be written into a configuration: the weights are, and were trained with it, so that it "
            f"must be put on to read texts of any length: --methods '{rope.id}'"
        )
    window = trained_window(checkpoint.config)
    notes += [
        f"stage {i} of {len(stages)}, to {part.rope:,} tokens, is within the window of {window:,}: it trains under the "
        f"rope of the pretraining, not {recipe.rope_method(part.stage).id}"
        for i, part in enumerate(stages, 1)
        if part.rope <= window and ropes(recipe, part.stage)
    ]
    if missing := len(recipe.stages) - len(stages) if recipe.stages else 0:
        notes.append(
            f"{missing} of {len(recipe.stages)} stages of {recipe.name} would have no whole step of {recipe.steps}, "
            "and are left out: say more --steps"
        )
    if recipe.layout(ANY).rope == "trained":
        notes.append(f"trained for every factor, measured and written with {rope.id} for {to:,} tokens")
    last = samplers[-1]
    if last.left_out:
        why = "are in no row" if isinstance(last, ArrangedSampler) else "are too short for a sample"
        notes.append(f"{last.left_out:,} of {last.texts:,} texts {why}")
    if isinstance(last, PairSampler):
        notes.append(
            "before the first step the model as it came reads both answers of every pair behind their evidence"
        )
    if isinstance(last, ArrangedSampler) and (unread := last.unread(recipe.batch)):
        notes.append(
            f"{unread:,} of {len(last.arranged):,} rows are never read: their lengths have too few pieces for a step "
            f"of {recipe.batch} x {last.window:,} tokens; a smaller --batch reads more"
        )
    if last.filled < FILLED:
        notes.append(f"texts are short: they fill {last.filled:.0%} of samples of {last.window:,} tokens")
    if recipe.warmup >= recipe.steps:
        notes.append(f"the warmup of {recipe.warmup:,} steps does not end in {recipe.steps:,}: --warmup says another")
    if measured == 0:
        notes.append(f"no text of {to:,} tokens is left to measure perplexity on: --test TEXTS names some")
    return notes


def carry(model: PreTrainedModel, recipe: Recipe) -> None:
    """Give the model the memory that a recipe trains, if it trains one.

    Raises:
        UserError: if it starts from a memory of another model.
    """
    if recipe.memory_method is not None:
        recipe.memory_method.carried(model, recipe.seed)


def finished(run: Run) -> None:
    """Give the trained model the rope that it is written with.

    Raises:
        UserError: if its rope cannot be written.
    """
    if run.recipe.memory_method is not None:
        pass  # the base stays as it is
    elif run.recipe.layout(ANY).rope == "trained":
        run.recipe.rope_method(run.parts[-1].stage).extend(run.model, run.to)
    elif unwritten(run.recipe, run.model.config, run.to):
        pretrained(run.model)
    run.model.config.use_cache = True


def written(
    run: Run,
    adapter: Adapter | None,
    checkpoint: Checkpoint,
    out: Path,
    overwrite: bool,
    more: Callable[[Path], None],
    weights: dict[str, Tensor] | None = None,
    base: str = "",
) -> list[str]:
    """Write the trained model as an ordinary folder, an adapter merged and beside it; what to know about it.

    A memory is a folder of its own kind.

    Args:
        run: that is done, and ``finished``.
        adapter: of its model.
        checkpoint: that it began as.
        out: folder that appears when it is whole.
        overwrite: replace one that ropewalk wrote.
        more: puts more into it.
        weights: of a sharded model.
        base: fingerprint of the model before it carried a memory.

    Raises:
        UserError: if it cannot be written, or does not compute what was trained.
    """
    method = run.recipe.rope_method(run.parts[-1].stage)
    window, rope = trained_window(run.model.config), method.spelling
    record = {
        "trained": run.recipe.name, "method": rope, "source": checkpoint.name, "window": window, "target": run.to,
        "scale": run.to / window,
    }  # fmt: skip
    memory = run.recipe.memory_method
    if memory is not None:
        with new_folder(out, [checkpoint.source], overwrite) as folder:
            write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
            of = {"name": checkpoint.name, "fingerprint": base}
            memory.write(folder, run.model, of, run.to, beside(method))
            more(folder)
        return []
    if adapter is None:
        with trained_folder(
            run.model, checkpoint, out, record, length=run.to, overwrite=overwrite, weights=weights
        ) as folder:
            more(folder)
        return []
    with TemporaryDirectory() as aside:
        saved = adapter.save(Path(aside) / ADAPTER, training=record)

        def with_it(folder: Path) -> None:
            shutil.copytree(saved, folder / ADAPTER)
            more(folder)

        done = merge(saved, out, checkpoint.name, overwrite=overwrite, more=with_it, home=out / ADAPTER,
                     trust_remote_code=checkpoint.trust_remote_code)  # fmt: skip
    return [
        f"the adapter is merged, and lies in {ADAPTER}/ too; it moves log-probabilities by {done.effect:.2g}, rounding "
        f"by {done.drift:.2g}",
        *done.notes,
    ]
