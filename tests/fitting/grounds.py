"""Texts of token ids to fit on."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ropewalk.fitting.fitter import Ground


def ground(model: PreTrainedModel, ids: Tensor, window: int = 64, to: int | None = None, **more: Any) -> Ground:
    """Every row of ``ids`` is a document; the target is their length."""
    options: dict[str, Any] = {"bos": [], "samples": 8, **more}
    return Ground(model, ids.tolist(), window=window, to=to or ids.shape[1], **options)
