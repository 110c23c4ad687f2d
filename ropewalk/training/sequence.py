"""One sequence over several processes: the part of a batch that each has, and what cannot be trained so."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

from ropewalk.attention.engine import attending_plainly
from ropewalk.attention.spread import Spread
from ropewalk.common.errors import UserError
from ropewalk.rope.config import read, text_config
from ropewalk.training.loss import Head
from ropewalk.training.training_batch import IGNORED, PADDING, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ropewalk.training.recipe import Recipe

FILL = {"input_ids": 0, "targets": IGNORED, "weights": 0, "position_ids": 0, "document_ids": PADDING}


def cut(batch: Batch, spread: Spread | None) -> Batch:
    """The columns of one process, padded so that all have as many; targets have been shifted before."""
    if spread is None:
        return batch
    n = batch.input_ids.shape[1]
    width = -(-n // spread.count)
    padded = {}
    for one in fields(batch):
        column = F.pad(getattr(batch, one.name), (0, width * spread.count - n), value=FILL[one.name])
        padded[one.name] = column[:, spread.rank * width : (spread.rank + 1) * width]
    return replace(batch, **padded)


def refuse_spread(model: PreTrainedModel, recipe: Recipe, spread: Spread) -> None:
    """Refuse what would be wrong, without an error, where a process has a part of the tokens.

    Raises:
        UserError: with what mends it.
    """
    if recipe.recurrent:
        raise UserError(
            f"memory is {recipe.memory!r}, which reads a sequence in pieces of its own",
            "Say --memory checkpointed, or leave out --sequence-parallel.",
        )
    if recipe.paired:
        raise UserError(
            "loss is longpo, which sums over whole answers, and a process has a part of them",
            "Leave out --sequence-parallel; --memory recurrent-checkpointed needs less memory too.",
        )
    for key, spec in read(model.config).items():
        if spec.rope_type == "dynamic" or spec.long_factors is not None:
            raise UserError(
                f"the rope ({key}) goes by the length of what a process is given, which is a part of the sequence",
                "Train it with a rope of one set of frequencies: --method yarn.",
            )
    Head.of(model)
    with attending_plainly(model) as engine, engine.spreading(spread):
        layers = int(text_config(model.config).num_hidden_layers)
        if len(engine.attached) != layers:
            raise UserError(
                f"{len(engine.attached)} of {layers} layers of this {text_config(model.config).model_type} attend: "
                "tokens meet in the others too, which would see a part of the sequence",
                "Leave out --sequence-parallel.",
            )
    crossing = [name for name, one in model.named_modules() if isinstance(one, (nn.Conv1d, nn.RNNBase))]
    if crossing:
        raise UserError(f"tokens meet in {crossing[0]}, which would see a part of the sequence")
