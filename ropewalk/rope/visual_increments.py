"""Smaller steps between visual tokens than between words (variable visual position encoding, arXiv 2412.09616).

A choice of positions for a live model, like ``fractional``. The authors' code was read for one axis; on M-RoPE's each
axis is scaled alike. They train a model with increments of 1 down to 1/256; that one trained without them reads better
so is not what they claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.rope.fractional import worked_out

MANTISSA = 24  # binary digits of a float32, in which models turn positions into angles


def visual_positions(positions: Tensor, visual: Tensor, increment: float) -> tuple[Tensor, Tensor]:
    """Positions in which visual tokens are ``increment`` apart, and text stays at whole positions, one apart.

    A run of visual tokens behind position a goes from p to a + (p - a) x increment on every axis; where the last of
    them stands at b, text goes on at ceil(b) + 1. What has no visual token stays the same to the last bit.

    Args:
        positions: int64 [axes, B, n], text at the same position on all axes; or [B, n] of one axis.
        visual: the tokens of pictures and videos, bool [B, n]; each run of them is one.
        increment: of a visual token, above 0 and at most 1.

    Returns:
        float32, as ``positions``; and by how much the text at the end of each row moved, int64 [B], never above 0:
        what ``rope_deltas`` grows by.

    Raises:
        UserError: if shapes do not fit, the increment is none, positions are fractions, a run does not begin at one
            position on all axes, or stands so far behind that a float32 does not hold its steps.
    """
    if visual.shape != positions.shape[-2:] or positions.ndim not in (2, 3):
        raise UserError(
            f"positions have the shape {list(positions.shape)} and visual {list(visual.shape)}, expected "
            "[axes, batch, tokens] or [batch, tokens], and [batch, tokens]"
        )
    if not (isinstance(increment, (int, float)) and 0 < increment <= 1):
        raise UserError(f"increment is {increment!r}, expected a number above 0 and at most 1")
    found = positions.double().reshape(-1, *visual.shape).clone()
    if not torch.equal(found, found.round()):
        raise UserError(
            "positions are fractions, expected whole ones: as the model works them out",
            "Scale them once, and divide the time of videos (fractional_time) afterwards.",
        )
    moved = torch.zeros(visual.shape[0], dtype=torch.long, device=positions.device)
    for row, seen in enumerate(visual.tolist()):
        places, shift, i = found[:, row], 0, 0
        while i < len(seen):
            end = next((j for j in range(i, len(seen)) if seen[j] != seen[i]), len(seen))
            run = places[:, i:end]
            if seen[i]:
                if bool((run[:, 0] != run[0, 0]).any()):
                    raise UserError(
                        f"row {row}, token {i}: visual tokens begin at {run[:, 0].tolist()}, expected the same "
                        "position on all axes",
                        "Models that count pictures on an axis of its own (HunYuan-VL) have no such positions.",
                    )
                before, last = float(run[0, 0]) - 1, float(run.max())
                places[:, i:end] = before + shift + (run - before) * increment
                shift += math.ceil(before + (last - before) * increment) - int(last)
            else:
                places[:, i:end] = run + shift
            i = end
        moved[row] = shift
    _refuse_beyond(found[:, visual.to(found.device).bool()], increment)
    return found.reshape(positions.shape).float(), moved


def _refuse_beyond(places: Tensor, increment: float) -> None:
    """Refuse positions at which steps are no multiples of what a float32 tells apart, nor four times as large."""
    last, finest = float(places.max()) if places.numel() else 0.0, 1 / float(increment).as_integer_ratio()[1]
    holds = 2**MANTISSA * max(finest, 2.0 ** (math.frexp(increment)[1] - 3))
    if last > holds:
        larger = 2 ** (MANTISSA - math.ceil(math.log2(last)))
        raise UserError(
            f"a visual token stands at {last:,.1f}, expected {holds:,.0f} at most: beyond, a float32 does not hold "
            f"steps of {increment:g}",
            f"Say a larger increment, such as 1/{larger}." if larger > 1 else "Say an increment of 1.",
        )


@contextmanager
def visual_increment(model: nn.Module, increment: float) -> Iterator[None]:
    """While it is on, the positions that a model works out for pictures and videos are ``visual_positions``.

    What ``generate`` adds for later tokens (``rope_deltas``) moves with the text. Text alone is read as before, bit for
    bit.

    Args:
        model: a live vision-language model of transformers with ``get_rope_index`` (Qwen2-VL and its kind).
        increment: of a visual token, above 0 and at most 1.

    Raises:
        UserError: if the model works out no such positions.
    """
    config = getattr(model, "config", None)
    tokens = [getattr(config, key, None) for key in ("image_token_id", "video_token_id")]

    def change(positions: Tensor, deltas: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
        ids = arguments["input_ids"]
        visual = torch.stack([ids == token for token in tokens if token is not None]).any(0)
        if not bool(visual.any()):
            return positions, deltas
        positions, moved = visual_positions(positions, visual, increment)
        return positions, deltas + moved.to(deltas.device).reshape(deltas.shape)

    if not (isinstance(increment, (int, float)) and 0 < increment <= 1):
        raise UserError(f"increment is {increment!r}, expected a number above 0 and at most 1")
    with worked_out(model, any(token is not None for token in tokens), "visual_positions", change):
        yield
