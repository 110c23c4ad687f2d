"""The long stage of an encoder: masked language modelling on longer and longer rows (ModernBERT, arXiv 2412.13663).

Chinese ModernBERT came from 1,024 tokens to 8,192 by such a stage. The loop of ``ropewalk train`` predicts the next
token, to which its samples, its packing and its loss belong; this one is for encoders, at small scale.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import model_fingerprint
from ropewalk.encoders.encoder import around, ids_of
from ropewalk.encoders.training.encoder_training import Pace, descend
from ropewalk.encoders.training.kept_descent import KeptDescent
from ropewalk.methods.catalogue import method
from ropewalk.rope.config import trained_window

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACE = Pace(3e-4)
NOT_TOLD = -100  # the label of a token that is not to be told


@dataclass(frozen=True)
class MaskedStage:
    """Steps on rows of one length.

    Attributes:
        length: tokens of a row, those around it among them.
        steps: of the optimiser.
        rows: in a step.
    """

    length: int
    steps: int
    rows: int = 8


@dataclass(frozen=True)
class MaskedRecipe:
    """How an encoder is brought to the length of the last stage.

    The rope, of layers that see the whole text, and the rate are those that ModernBERT is told to have had at 8,192
    tokens; of its proportions nothing is verified here.

    Attributes:
        stages: in order, each as long as the one before or longer.
        method: the rope, as in the catalogue: put on before the first step, and written by ``save_pretrained``.
        masked: share of tokens that are to be told; of these 80 % are masked, and 10 % are others.
        pace: of all weights, over all stages.
        seed: of where rows begin, and what is masked.
    """

    stages: tuple[MaskedStage, ...]
    method: str = "abf(base=160000)"
    masked: float = 0.3
    pace: Pace = PACE
    seed: int = 0

    def __post_init__(self) -> None:
        lengths = [stage.length for stage in self.stages]
        if not lengths or lengths != sorted(lengths) or min((s.steps for s in self.stages), default=0) < 1:
            raise UserError(f"stages are of {lengths} tokens, expected lengths that grow, with a step each at least")
        if min(rows := [stage.rows for stage in self.stages]) < 1:
            raise UserError(f"stages have {rows} rows in a step, expected one at least")
        if not 0 < self.masked < 1:
            raise UserError(f"masked is {self.masked!r}, expected a share between 0 and 1")


def modernbert_long(to: int, steps: int, rows: int = 8) -> MaskedRecipe:
    """ModernBERT's long stage: five sixths of the steps at the full rate, and one in which it falls by the root.

    Args:
        to: tokens of a row; 8,192 in the paper.
        steps: of the optimiser.
        rows: in a step.
    """
    return MaskedRecipe((MaskedStage(to, steps, rows),), pace=Pace(3e-4, hold=steps * 5 // 6, fall="root"))


def train_masked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    recipe: MaskedRecipe,
    keep: Path | None = None,
) -> list[float]:
    """Train a model that tells masked tokens on longer rows; ``save_pretrained`` then writes rope and length too.

    Args:
        model: with a head for masked tokens, as ``AutoModelForMaskedLM`` loads it; trained in place, in float32.
        tokenizer: its own, with a token for the mask.
        texts: rows are cut out of them, one text behind the other.
        recipe: how.
        keep: a file (.safetensors) that is written every 50 steps: the same call goes on from it after a kill. It stays
            when the training is over, until what was trained is saved and you remove it.

    Returns:
        The loss before each step.

    Raises:
        UserError: if the model, its tokenizer or the texts do not fit, before the first step; or a loss is no number,
            when the weights are those of the step before. Or ``keep`` is of another training.
    """
    to = recipe.stages[-1].length
    _refuse_unfit(model, tokenizer, to)
    if isinstance(texts, str):
        raise UserError("texts is one string, expected a list of strings", "Put it into a list: [text].")
    batches = _batches(tokenizer, texts, recipe)
    kept = KeptDescent(Path(keep), _asked(model, batches, recipe)) if keep else None
    if kept and kept.path.exists():
        kept.read()  # while the model is as it came
    method(recipe.method).extend(model, to)
    model.train()
    try:
        return descend(model.parameters(), lambda batch: _loss(model, batch), batches, recipe.pace, kept)
    finally:
        model.eval()


def _refuse_unfit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, to: int) -> None:
    if not type(model).__name__.endswith("ForMaskedLM"):
        raise UserError(
            f"{type(model).__name__} tells no masked tokens, expected a model that AutoModelForMaskedLM loads"
        )
    if tokenizer.mask_token_id is None:
        raise UserError("the tokenizer has no token for the mask, expected one (mask_token)")
    embedding: Any = model.get_input_embeddings()
    rows = len(embedding.weight)
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens and the model {rows:,}, expected no more than the model has",
            "Load the tokenizer that the model came with.",
        )
    if model.dtype != torch.float32:
        raise UserError(f"the weights are {str(model.dtype)[6:]}, expected float32", "Load with dtype=torch.float32.")
    window = trained_window(model.config)
    if to <= window:
        raise UserError(f"the last stage is of {to:,} tokens, not beyond the window of {window:,}", "Make it longer.")


def _batches(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], recipe: MaskedRecipe
) -> list[Mapping[str, Tensor]]:
    """``input_ids`` and ``labels`` of each step, int64 [rows, length]."""
    from transformers import DataCollatorForLanguageModeling

    before, behind = around(tokenizer, type(tokenizer).__name__)
    stream = [token for text in texts for token in (*ids_of(tokenizer, text), *behind)]
    longest = recipe.stages[-1].length - len(before) - len(behind)
    if (shortest := recipe.stages[0].length) <= recipe.stages[-1].length - longest:
        raise UserError(f"a stage has rows of {shortest} tokens, and {len(before) + len(behind)} stand around each")
    if len(stream) < longest:
        raise UserError(f"the texts have {len(stream):,} tokens, fewer than the {longest:,} of a row", "Give more.")
    draw = random.Random(recipe.seed)
    masked: Any = DataCollatorForLanguageModeling(tokenizer, mlm_probability=recipe.masked, seed=recipe.seed)
    found = []
    for stage in recipe.stages:
        room = stage.length - len(before) - len(behind)
        for _ in range(stage.steps):
            begins = [draw.randint(0, len(stream) - room) for _ in range(stage.rows)]
            rows = [torch.tensor([*before, *stream[at : at + room], *behind]) for at in begins]
            found.append(masked(rows))
            if bool((found[-1]["labels"] == NOT_TOLD).all()):
                raise UserError(
                    f"step {len(found)} masks none of its {stage.rows} x {room} tokens, of which a share of "
                    f"{recipe.masked:g} is to be told",
                    "Have longer rows, more rows in a step, or mask a larger share.",
                )
    return found


def _asked(model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]], recipe: MaskedRecipe) -> str:
    """A hash of all that decides a training."""
    found = hashlib.sha256(f"{model_fingerprint(model)} {recipe}".encode())
    for batch in batches:
        for name in ("input_ids", "labels"):
            found.update(batch[name].numpy().tobytes())
    return found.hexdigest()


def _loss(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    ids, labels = (batch[name].to(model.device) for name in ("input_ids", "labels"))
    loss: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    return loss
