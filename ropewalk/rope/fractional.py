"""Fractional time: several frames of a video to one position (VideoCanvas, arXiv 2510.08555).

A choice of positions for a live model, and no method of the catalogue: frequencies, regions and checkpoints stay, and
what a caller hands to the model changes. VideoCanvas does so in a diffusion model, whose encoder makes one latent of N
frames; that a language model reads videos better by it is not what the paper claims.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.rope.spec import AXES


def fractional_time(positions: Tensor, video: Tensor, frames: float) -> Tensor:
    """Positions of M-RoPE in which time passes N times slower within a video: frame tau is at start + tau / N.

    Height and width stay, and so do the tokens around the video, so that what ``generate`` adds for later tokens stays
    right. Whole positions stay the same to the last bit.

    Args:
        positions: int64 [3, B, n] for time, height and width, or [4, B, n] with a row of the text before them.
        video: the tokens of videos, bool [B, n]; each run of them is one video.
        frames: N, temporal positions that become one.

    Returns:
        float32, as ``positions``.

    Raises:
        UserError: if shapes do not fit, N is not a number of at least 1, or no video has two temporal positions.
    """
    if positions.ndim != 3 or positions.shape[0] not in (len(AXES), len(AXES) + 1):
        raise UserError(
            f"positions have the shape {list(positions.shape)}, expected [3, batch, tokens]: M-RoPE's",
            "A model whose tokens have one position each tells no time from place.",
        )
    if video.shape != positions.shape[1:]:
        raise UserError(f"video has the shape {list(video.shape)}, expected {list(positions.shape[1:])}, one per token")
    if not (isinstance(frames, (int, float)) and 1 <= frames < math.inf):
        raise UserError(f"frames is {frames!r}, expected a number of at least 1")
    found, row = positions.double(), positions.shape[0] - len(AXES)
    time, video = found[row], video.to(positions.device).bool()
    opens = video & ~torch.cat([torch.zeros_like(video[:, :1]), video[:, :-1]], 1)
    count = torch.arange(video.shape[1], device=video.device).expand_as(video)
    start = time.gather(1, torch.where(opens, count, 0).cummax(1).values)
    if bool(video.any()) and not bool((video & (time != start)).any()):
        raise UserError(
            "all tokens of a video have the same temporal position: there is no time to divide",
            "Models that write the time of each frame as text (Qwen3-VL, Qwen3.5) have none within a frame.",
        )
    found[row] = torch.where(video, start + (time - start) / frames, time)
    return found.float()


@contextmanager
def fractional_frames(model: nn.Module, frames: float) -> Iterator[None]:
    """While it is on, the positions that a model works out for its videos are ``fractional_time``.

    Within another one both divide. Videos of one temporal step stay as they are.

    Args:
        model: a live vision-language model of transformers with ``get_rope_index`` (Qwen2-VL and its kind).
        frames: N, temporal positions that become one.

    Raises:
        UserError: if the model works out no such positions.
    """
    token = getattr(getattr(model, "config", None), "video_token_id", None)

    def change(positions: Tensor, deltas: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
        grid = arguments.get("video_grid_thw")
        if grid is not None and bool((grid[:, 0] == 1).all()):
            return positions, deltas
        return fractional_time(positions, arguments["input_ids"] == token, frames), deltas

    with worked_out(model, token is not None, "fractional_time", change):
        yield


Change = Callable[[Tensor, Tensor, dict[str, Any]], tuple[Tensor, Tensor]]


@contextmanager
def worked_out(model: nn.Module, sees: bool, by_hand: str, change: Change) -> Iterator[None]:
    """While it is on, what a model works out for pictures and videos is changed; within another one, once more.

    Args:
        model: a live vision-language model.
        sees: whether its configuration names the tokens that are meant.
        by_hand: the function for who hands positions over.
        change: of positions [axes, B, n], ``rope_deltas`` and the arguments of ``get_rope_index``.

    Raises:
        UserError: if the model works out no positions.
    """
    owner: Any = next((module for module in model.modules() if hasattr(module, "get_rope_index")), None)
    if owner is None or not sees:
        raise UserError(
            f"{type(model).__name__} works out no positions of pictures or videos (no get_rope_index, or no id of "
            "their tokens)",
            f"Hand it positions yourself: model(..., position_ids=...), as {by_hand} gives them.",
        )
    stated, outer = owner.get_rope_index, vars(owner).get("get_rope_index")

    @wraps(stated)
    def get_rope_index(*arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        given = inspect.signature(stated).bind(*arguments, **keywords).arguments
        positions, deltas = stated(*arguments, **keywords)
        return change(positions, deltas, given)

    owner.get_rope_index = get_rope_index
    try:
        yield
    finally:
        if outer is None:
            del owner.get_rope_index
        else:
            owner.get_rope_index = outer
