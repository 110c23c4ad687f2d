"""A checkpoint with a longer window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.verbs.request import Method, ModelRequest, Place, TargetRequest, verb

if TYPE_CHECKING:
    from ropewalk.checkpoint.write import Extension


@dataclass(frozen=True, kw_only=True)
class ExtendRequest(TargetRequest, ModelRequest):
    """By what, and where to.

    Attributes:
        out: Folder to write.
        method: As listed by 'ropewalk methods', options in brackets: yarn(beta_fast=16).
        overwrite: Replace what is there, if ropewalk wrote it.
        on_top: Keep the scaling that the configuration has, as trained in, and extend on top of it. By default llama3
            and longrope are kept, linear, dynamic and yarn are replaced.
    """

    out: Place
    method: Method = "yarn"
    overwrite: bool = False
    on_top: bool | None = None


@verb("extend")
def extend(request: ExtendRequest) -> Extension:
    """Write a checkpoint whose configuration extends the window; weights are linked, not changed.

    Returns:
        The folder, what changed in its configuration, and the line that serves it, per engine.

    Raises:
        UserError: for everything that a user can mend; nothing is left behind.
    """
    from ropewalk.checkpoint.write import extend as write
    from ropewalk.methods.catalogue import method

    return write(
        request.model,
        request.to,
        method(request.method),
        request.out,
        request.overwrite,
        request.on_top,
        request.trust_remote_code,
    )
