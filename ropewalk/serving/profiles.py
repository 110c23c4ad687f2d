"""One rotation for every length of request: short ones are read as by the plain model, long ones no more stretched than
they need.

A static method costs a little on short text, and its factor is chosen for the longest. Here the target of a request is
the least of L, 2 L, 4 L, .. that holds its prompt and all that it may answer, and stays so for the life of the request:
keys that were rotated for one target are never read with another.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope import config as rope_config
from ropewalk.rope import live

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ropewalk.methods.base import Method


@dataclass(frozen=True, eq=False)
class Profile:
    """The rotation of requests of some length.

    Attributes:
        length: tokens of prompt and answer together, at most.
        state: what the model's rotary modules hold for them.
    """

    length: int
    state: live.State


def lengths(window: int, limit: int) -> list[int]:
    """``window``, twice it, four times it, .. below ``limit``, and ``limit``."""
    found = [window]
    while found[-1] * 2 < limit:
        found.append(found[-1] * 2)
    return [one for one in found if one < limit] + [limit]


def profiles(model: PreTrainedModel, method: Method, limit: int) -> list[Profile]:
    """What ``method`` makes of the model for requests of every length up to ``limit`` tokens; the least first.

    Raises:
        UserError: if the method is not one vector of frequencies per target, or changes nothing.
    """
    static = isinstance(method, FrequencyMethod) and not method.runtime and "frequencies" in method.axes
    window = rope_config.trained_window(model.config)
    record = rope_config.record_of(model.config)
    if method.id == "none" and record is not None:
        raise UserError(
            f"the model is stretched by {record['method']} for every request alike; --per-request needs the method, to "
            "stretch each by its own factor",
            f"Add it: --method {shlex.quote(record['method'])} --to {limit}",
        )
    if method.id == "none":
        raise UserError(
            "--per-request stretches requests by a method, and none is named",
            f"Add one: --method yarn --to {max(limit, 2 * window)}",
        )
    if not static:
        raise UserError(
            f"{method.id} has no factor that could be chosen per request: it is no static method of frequencies",
            f"Serve it without --per-request, or: --method yarn --to {max(limit, 2 * window)} --per-request",
        )
    window = rope_config.window_of(method.starting(model.config))  # type: ignore[attr-defined]
    found = []
    for length in lengths(window, limit):
        with method.on(model, to=length):
            found.append(Profile(length, live.state(model)))
    return found


def described(profiles: Sequence[Profile]) -> str:
    """For whoever runs the server."""
    return f"requests are stretched to {', '.join(f'{one.length:,}' for one in profiles)} tokens, as each needs"


def chosen(profiles: Sequence[Profile], length: int) -> Profile | None:
    """The least that holds ``length`` tokens; None where the model has one rotation for all requests."""
    return next((one for one in profiles if one.length >= length), None)
