"""What must hold before a transformers ``Trainer`` trains at positions of ours; each failure would be a silent one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.methods.frequencies.frequency_method import check_live
from ropewalk.rope import architecture
from ropewalk.rope.config import promised_by, read, text_config, trained_window
from ropewalk.rope.live import decoder, rotaries, still
from ropewalk.training.positions.training_positions import TrainingPositions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments

LOOKED_AT = 1000  # texts whose length is looked at before the first step


def check_settings(args: TrainingArguments, positions: TrainingPositions, shortest: int) -> None:
    """Refuse settings of a Trainer under which a sample would not reach the model as it was drawn.

    Args:
        args: of transformers or TRL.
        positions: that are trained.
        shortest: tokens that a text must have.

    Raises:
        UserError: naming the setting.
    """
    for option in ("packing", "padding_free", "eval_packing"):
        if getattr(args, option, None):
            raise UserError(
                f"{option} is on: samples would be drawn across texts that were joined before",
                f"Set {option}=False; samples of one length need no packing.",
            )
    cut = getattr(args, "max_length", None)
    if cut is not None and cut < shortest:
        raise UserError(
            f"max_length={cut} cuts every text before samples are drawn, which need {shortest:,} tokens",
            "Set max_length=None.",
        )
    parallel = getattr(args, "parallelism_config", None)
    if parallel is not None and (getattr(parallel, "cp_enabled", False) or getattr(parallel, "sp_enabled", False)):
        raise UserError(
            "parallelism_config cuts sequences, and takes away the mask that keeps a sample in one piece",
            "Leave cp_size and sp_size at 1.",
        )
    if positions.rope == "trained" and sharded(args):
        raise UserError(
            f"{positions.id}: positions are fractions, which DeepSpeed and FSDP round to half precision",
            "Train on one device or with DDP, or with pose.",
        )


def sharded(args: TrainingArguments) -> bool:
    """Whether a Trainer spreads the parameters over processes."""
    return bool(args.fsdp or args.deepspeed)


def check_rope(model: nn.Module, to: int, mend: str = "") -> None:
    """Refuse a model that does not rotate as its configuration says, or is not made for ``to`` tokens.

    Args:
        model: a live transformers model.
        to: tokens that it is to read.
        mend: another line that mends the latter.

    Raises:
        UserError: with the line that mends it.
    """
    check_live(model)
    promised = promised_by(read(model.config))  # type: ignore[arg-type]
    if promised < to:
        raise UserError(
            f"the model reads {promised:,} tokens by its rope, and is to learn {to:,}",
            mend or f"Before the Trainer is made: ropewalk.YaRN().extend(model, to={to}), or another static method.",
        )


def check_model(model: PreTrainedModel, positions: TrainingPositions, window: int, to: int) -> None:
    """Refuse a model whose rope or layers are not those that the positions train.

    Raises:
        UserError: with the line that mends it.
    """
    reach = positions.reach(window, to)
    if positions.rope == "trained":
        promised, trained = promised_by(read(model.config)), trained_window(model.config)
        if promised > trained:
            raise UserError(
                f"{positions.id} trains the rope that the model was made with, of {trained:,} tokens; this one is "
                f"extended to {promised:,}",
                "Give the model as it was, and extend it afterwards: "
                f"ropewalk.PositionInterpolation().extend(model, to={to}).",
            )
        check_rope(model, reach, f"Take samples of {promised} tokens or fewer.")
    else:
        check_rope(model, reach)
    check_windows(model.config, positions, to)


def check_windows(config: PreTrainedConfig, positions: TrainingPositions, to: int) -> None:
    """Refuse positions that jump where layers see a number of tokens.

    Raises:
        UserError: naming the layers and their window.
    """
    text = text_config(config)
    for kind in sorted(set(architecture.layers(text))):
        size = architecture.bound(text, kind)
        if positions.skips and size is not None and size < to:
            raise UserError(
                f"{kind} layers see the last {size:,} tokens of a sample, counted without its jumps: they would train "
                f"at distances beyond {size:,}, which they never meet in a text",
                "Train this model at full length: full.",
            )


def check_texts(dataset: Any, shortest: int, positions: TrainingPositions) -> None:
    """Refuse a dataset with texts that are too short, as far as some of them show.

    Args:
        dataset: of examples with ``input_ids``; a stream is not looked at.
        shortest: tokens that a text must have.
        positions: that are trained.

    Raises:
        UserError: with how many are too short.
    """
    if isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__len__"):
        return
    total = len(dataset)
    if not total:
        raise UserError("the dataset is empty, expected texts to train on")
    if "input_ids" not in dataset[0]:
        raise UserError(
            f"examples of the dataset have {', '.join(dataset[0])}, expected input_ids",
            'Tokenise it: dataset.map(lambda row: tokenizer(row["text"]), remove_columns=dataset.column_names).',
        )
    places = sorted({i * total // LOOKED_AT for i in range(LOOKED_AT)}) if total > LOOKED_AT else range(total)
    lengths = [len(dataset[i]["input_ids"]) for i in places]
    short = sum(n < shortest for n in lengths)
    if short:
        raise UserError(
            f"{short} of {len(lengths)} texts that were looked at have fewer than the {shortest:,} tokens that "
            f"{positions.id} needs; the shortest has {min(lengths):,}",
            f'Leave them out: dataset.filter(lambda row: len(row["input_ids"]) >= {shortest}).',
        )


@torch.no_grad()
def check_sight(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> bool:
    """See for ourselves that tokens behind a jump see those before it, and rows see themselves alone.

    transformers takes positions that jump for packed documents wherever it gets no mask.

    Args:
        model: a live transformers model.
        batch: as the collator makes it.

    Returns:
        Whether its first row has a jump, so that there was something to see.

    Raises:
        UserError: if they do not.
    """
    jumps = (batch["position_ids"][0].diff() != 1).nonzero()
    if not len(jumps):
        return False
    behind = int(jumps[0]) + 1
    body, vocabulary = decoder(model), model.get_input_embeddings().num_embeddings  # type: ignore[union-attr]
    given = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
    other = given["input_ids"].clone()
    other[0, :behind] = (other[0, :behind] + 1) % int(vocabulary)  # type: ignore[arg-type]
    with still(body):
        before, after = (body(**{**given, "input_ids": ids}, use_cache=False)[0] for ids in (given["input_ids"], other))
    if torch.equal(before[0, behind:], after[0, behind:]) or not torch.equal(before[1:], after[1:]):
        raise UserError(
            f"{type(model).__name__} with attn_implementation={model.config._attn_implementation!r} does not keep a "
            "sample in one piece: tokens behind a jump do not see those before it, or rows see each other",
            'Load the model with attn_implementation="sdpa".',
        )
    return True


class Arrival:
    """Watches the first forward pass of training: positions and mask must come to the model, and to its rotation.

    Args:
        model: a live transformers model; what watches it is gone after that pass.
    """

    def __init__(self, model: nn.Module):
        self.sent: Tensor | None = None
        self.hooks = [model.register_forward_pre_hook(self._enters, with_kwargs=True)]
        modules = {id(rotary.module): rotary.module for rotary in rotaries(model)}
        self.hooks += [module.register_forward_pre_hook(self._rotates, with_kwargs=True) for module in modules.values()]

    def end(self) -> None:
        """Watch no longer."""
        for hook in self.hooks:
            hook.remove()

    def _enters(self, model: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        if not model.training:
            return
        lost = [name for name in ("position_ids", "attention_mask") if given.get(name) is None]
        if lost:
            raise UserError(
                f"{' and '.join(lost)} of the collator did not reach the model",
                "Pass the whole batch on to the model, and let nothing else derive these.",
            )
        self.sent = given["position_ids"]

    def _rotates(self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        if self.sent is None:
            return
        found = given.get("position_ids", args[1] if len(args) > 1 else None)
        half = self.sent.is_floating_point() and self.sent.dtype not in (torch.float32, torch.float64)
        alike = isinstance(found, Tensor) and found.shape[-2:] == self.sent.shape and bool((found == self.sent).all())
        if half or not alike:
            raise UserError(
                "the model rotates by other positions than the collator gave"
                + (f": they were rounded to {self.sent.dtype}" if half else ""),
                "Let nothing between the collator and the model change position_ids (prompt tuning leaves them out).",
            )
        self.sent = None
        self.end()
