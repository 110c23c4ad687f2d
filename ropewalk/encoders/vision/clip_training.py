"""Long-CLIP's training: images find their long captions, and their main traits the short ones (arXiv 2403.15378)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.encoders.training.encoder_training import Pace, contrastive, descend
from ropewalk.encoders.training.frozen_rows import frozen_rows
from ropewalk.encoders.vision.end_of_text import HIGHEST

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextModel

PACE = Pace(1e-6, weight_decay=1e-2, warmup=200)


@dataclass(frozen=True)
class Captioned:
    """A batch of images, each with two captions.

    Attributes:
        pixels: float [B, 3, H, W].
        long: int64 [B, n], token ids of long captions, with their ends.
        short: int64 [B, m], of short ones.
    """

    pixels: Tensor
    long: Tensor
    short: Tensor


@dataclass(frozen=True)
class LongClipTraining:
    """What the paper's code does by default.

    Attributes:
        keep: first rows of the table of positions, which stay.
        components: of the images of a batch, that short captions are held against.
        smoothing: of labels, in both losses.
        pace: of all weights.
    """

    keep: int = 20
    components: int = 32
    smoothing: float = 0.1
    pace: Pace = PACE

    def __post_init__(self) -> None:
        for key, fits, expected in (
            ("keep", self.keep >= 0, "0 rows at least"),
            ("components", self.components >= 1, "1 at least"),
            ("smoothing", 0 <= self.smoothing < 1, "from 0 to below 1"),
        ):
            if not fits:
                raise UserError(f"{key} is {getattr(self, key)!r}, expected {expected}")


def train_long_clip(
    model: CLIPModel,
    batches: Sequence[Captioned],
    settings: LongClipTraining | None = None,
    end: int | None = None,
) -> list[float]:
    """Train a CLIP that was stretched: both towers, all but the first rows of its table; the loss before each step.

    Args:
        model: changes in place.
        batches: one for each step.
        settings: the paper's, if not said.
        end: as in ``refuse_unfit``.

    Raises:
        UserError: if no row is left to learn, a caption is longer than the table, or pooled before its end.
    """
    settings = settings or LongClipTraining()
    table = model.text_model.embeddings.position_embedding
    for batch in batches:
        refuse_unfit(model.text_model, batch.long, end)
        refuse_unfit(model.text_model, batch.short, end)
    rows = torch.arange(table.num_embeddings)
    model.train()
    try:
        with frozen_rows(table, rows < settings.keep):
            return descend(model.parameters(), lambda batch: long_clip_loss(model, batch, settings), batches,
                           settings.pace)  # fmt: skip
    finally:
        model.eval()


def long_clip_loss(model: CLIPModel, batch: Captioned, settings: LongClipTraining) -> Tensor:
    """Images against long captions, plus their primary components against short ones."""
    images = F.normalize(model.get_image_features(batch.pixels).pooler_output, dim=-1)
    long, short = (F.normalize(model.get_text_features(ids).pooler_output, dim=-1) for ids in (batch.long, batch.short))
    coarse = primary(images, settings.components)
    scale = model.logit_scale.exp()
    return contrastive(images, long, scale, settings.smoothing) + contrastive(coarse, short, scale, settings.smoothing)


def primary(features: Tensor, components: int) -> Tensor:
    """Features of which the directions stay in which the batch differs most, and its mean.

    The directions are taken as given: gradients flow along them, not through how they were found, which has none where
    two of them weigh the same.

    Args:
        features: [B, e].
        components: directions; of no effect from B - 1 on.

    Returns:
        [B, e].

    Raises:
        UserError: if a feature is no finite number, of which no direction can be found.
    """
    if not bool(features.isfinite().all()):
        raise UserError(
            f"{int((~features.isfinite()).any(-1).sum())} of {len(features)} images have vectors that are not finite",
            "Look for numbers in the pixels that are not finite; if there are none, lower the learning rate.",
        )
    mean = features.mean(0)
    centred = features - mean
    precise = centred.detach().to(torch.promote_types(features.dtype, torch.float32))
    directions = torch.linalg.svd(precise, full_matrices=False).Vh[:components].to(features)
    return centred @ directions.T @ directions + mean


def refuse_unfit(tower: CLIPTextModel, ids: Tensor, end: int | None = None) -> None:
    """Refuse texts that are too long, or at whose end nothing is pooled.

    Args:
        tower: whose configuration says at which token it pools; if that is 2, it pools at the highest id of a text.
        ids: int64 [B, n].
        end: the token that ends a text, where the configuration says 2; the vocabulary's last, as in CLIP, if not said.

    Raises:
        UserError: naming both lengths, or the end token and how many texts have none, or are pooled elsewhere.
    """
    most: int = tower.config.max_position_embeddings
    pools: Any = tower.eos_token_id
    if ids.shape[-1] > most:
        raise UserError(f"a text has {ids.shape[-1]:,} tokens, and {most:,} are read", "Cut them, and keep their ends.")
    if pools != HIGHEST and end not in (None, pools):
        raise UserError(f"end is {end}, and the model pools at {pools}, as its configuration says")
    last = tower.config.vocab_size - 1 if end is None else end
    without = int(((ids.amax(-1) != last) if pools == HIGHEST else (ids != pools).all(-1)).sum())
    if without:
        token = f"{last}, as the highest id" if pools == HIGHEST else pools
        raise UserError(
            f"{without} of {len(ids)} texts have no end token ({token}), where CLIP pools",
            "Cut texts before their end.",
        )
