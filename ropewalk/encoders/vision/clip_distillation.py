"""TULIP: a text tower with a rope learns from the one with a table, then reads long captions (arXiv 2410.10034)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.encoders.training.encoder_training import Pace, contrastive, descend
from ropewalk.encoders.vision.clip_training import Captioned, refuse_unfit

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextModelWithProjection

    from ropewalk.encoders.vision.rotary_clip import RotaryCLIPText

DISTILLING = Pace(5e-4, weight_decay=0.1, warmup=1000)
TUNING = Pace(1e-5)
SHARPEST = 100.0  # the most that CLIP multiplies cosines by


def distil(
    teacher: CLIPTextModelWithProjection,
    student: RotaryCLIPText,
    texts: Sequence[Tensor],
    pace: Pace = DISTILLING,
    end: int | None = None,
) -> list[float]:
    """Stage 1: the student's vectors turn to where the teacher's point; the loss before each step.

    Args:
        teacher: does not change.
        student: all of it learns.
        texts: batches of token ids, int64 [B, n], of as many tokens as the teacher reads, with their ends.
        pace: of the student.
        end: as in ``refuse_unfit``.

    Raises:
        UserError: if the teacher cannot read a text, or one has no end token.
    """
    for ids in texts:
        refuse_unfit(teacher.text_model, ids, end)
        refuse_unfit(student.text_model, ids, end)
    teacher.eval()
    student.train()

    def loss(ids: Tensor) -> Tensor:
        with torch.no_grad():
            taught = teacher(ids).text_embeds
        return turned(taught, student(ids).text_embeds)

    try:
        return descend(student.parameters(), loss, texts, pace)
    finally:
        student.eval()


def turned(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - cosine, the mean over rows of [B, e]: nought if all point the same way, however long they are."""
    return 1 - F.cosine_similarity(teacher, student, dim=-1).mean()


def tune_on_captions(
    student: RotaryCLIPText,
    model: CLIPModel,
    batches: Sequence[Captioned],
    pace: Pace = TUNING,
    end: int | None = None,
) -> list[float]:
    """Stage 2: images find their long captions and their short ones; the loss before each step.

    Args:
        student: of stage 1, made for longer texts.
        model: whose images' tower is used. What of it shall stay is frozen by its caller: which weights the paper moves
            here was not verified. Its text tower has no part in this.
        batches: images, each with two captions.
        pace: of all that learns.
        end: as in ``refuse_unfit``.

    Raises:
        UserError: if a caption has no end token, or more than the student reads.
    """
    for batch in batches:
        refuse_unfit(student.text_model, batch.long, end)
        refuse_unfit(student.text_model, batch.short, end)
    images = [model.vision_model, model.visual_projection]
    learning = [*student.parameters(), model.logit_scale, *(one for part in images for one in part.parameters())]
    modes = [student, model.vision_model]
    for part in modes:
        part.train()
    try:
        return descend(learning, lambda batch: captions_loss(student, model, batch), batches, pace)
    finally:
        for part in modes:
            part.eval()


def captions_loss(student: RotaryCLIPText, model: CLIPModel, batch: Captioned) -> Tensor:
    """CLIP's loss on long captions, plus that on short ones."""
    images = F.normalize(model.get_image_features(batch.pixels).pooler_output, dim=-1)
    scale = model.logit_scale.exp().clamp(max=SHARPEST)
    both = [contrastive(images, F.normalize(student(ids).text_embeds, dim=-1), scale)
            for ids in (batch.long, batch.short)]  # fmt: skip
    return torch.stack(both).sum()
