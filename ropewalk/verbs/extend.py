"""A checkpoint with a longer window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show
from ropewalk.common.results import Result
from ropewalk.verbs.request import Method, ModelRequest, OnTopRequest, Place, TargetRequest, verb

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.checkpoint.carrier_extension import CarrierExtension
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.checkpoint.write import Extension
    from ropewalk.encoders.encoder_extension import EncoderExtension

DEFAULT = "yarn"
OF_ENCODERS = {
    "table": "recurrent",
    "bias": "uncut",
}  # by what decides how far they read; these read short texts as before
OF_CARRIERS = {"table": "pi", "alibi": "alibi-pi", "buckets": "t5-align"}  # of models that write, without a rope


@dataclass(frozen=True, kw_only=True)
class ExtendRequest(OnTopRequest, TargetRequest, ModelRequest):
    """By what, and where to.

    Attributes:
        out: Folder to write; by default one here, named after the model and ``to``.
        method: As listed by 'ropewalk methods', options in brackets: yarn(beta_fast=16); by default yarn. Embedding
            models with a table of positions, or a bias, have methods of their own: by default recurrent, and uncut. So
            have models that write without a rope: by default pi of a table, and t5-align.
        overwrite: Replace what is there, if ropewalk wrote it.
    """

    out: Place | None = None
    method: Method | None = None
    overwrite: bool = False


@dataclass(frozen=True, repr=False)
class Extended(Result):
    """A checkpoint with a longer window, and how it is served.

    Attributes:
        extension: what was written.
        launch: engine -> the line that starts it, or why there is none.
    """

    extension: Extension
    launch: dict[str, str]

    @property
    def folder(self) -> Path:
        """The new checkpoint."""
        return self.extension.folder

    def show(self, console: Console) -> None:
        self.extension.show(console)
        for engine, line in self.launch.items():
            console.print(f"{engine:13s} {line}")

    def to_dict(self) -> dict[str, Any]:
        return {**self.extension.to_dict(), "launch": self.launch}


@verb("extend")
def extend(request: ExtendRequest) -> Extended | EncoderExtension | CarrierExtension:
    """Write a checkpoint whose configuration extends the window; weights are linked, not changed.

    An embedding model gets a longer table of positions, or another rope, and stays a folder of sentence-transformers. A
    model that writes without a rope gets a longer table, or T5's temperature, in its weights; ALiBi is refused.

    Returns:
        The folder, what changed in its configuration, and the line that serves it, per engine.

    Raises:
        UserError: for everything that a user can mend; nothing is left behind.
    """
    from ropewalk.carriers import carrier as carriers
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.checkpoint.write import extend as write
    from ropewalk.encoders.encoder_entries import refuse_of_encoders
    from ropewalk.encoders.encoder_folder import is_encoder
    from ropewalk.engines.launch import launch_lines
    from ropewalk.methods.catalogue import method
    from ropewalk.rope.config import window_of

    checkpoint = Checkpoint(request.model, request.trust_remote_code)
    if is_encoder(checkpoint):
        return _encoder(request, checkpoint)
    if carriers.has_none(checkpoint.raw):
        return _without_rope(request, checkpoint)
    refuse_of_encoders(checkpoint.name, [request.method or DEFAULT])
    chosen = method(request.method or DEFAULT)
    checkpoint.refuse_unsound()
    window = window_of(checkpoint.starting(request.on_top))
    if chosen.name == "none" and request.to > window:
        raise UserError(
            f"none does not reach {request.to:,} tokens: the model reads {window:,}", "Choose a method, such as yarn."
        )
    out = request.out or Path(f"{checkpoint.label}-{show(request.to)}")
    done = write(checkpoint, request.to, chosen, out, request.overwrite, request.on_top)
    written = next(iter(done.rope_parameters.values()))
    lines = launch_lines(done.folder, checkpoint.config, written, request.to)
    return Extended(done, lines)


def _without_rope(request: ExtendRequest, checkpoint: Checkpoint) -> CarrierExtension:
    """A longer model that knows positions without a rope."""
    from ropewalk.checkpoint.carrier_extension import extend_carrier
    from ropewalk.methods.carriers.carrier_entries import carrier_method

    carrier = checkpoint.carrier
    assert carrier is not None
    request.refuse_unused(["on_top", "trust_remote_code"], "of a model without a rope")
    chosen = carrier_method(request.method or OF_CARRIERS.get(carrier.kind, "none"), carrier.kind)
    out = request.out or Path(f"{checkpoint.label}-{show(request.to)}")
    return extend_carrier(checkpoint, request.to, chosen, out, request.overwrite)


def _encoder(request: ExtendRequest, checkpoint: Checkpoint) -> EncoderExtension:
    """A longer embedding model."""
    from ropewalk.encoders.encoder_extension import extend_encoder
    from ropewalk.encoders.encoder_folder import EncoderFolder
    from ropewalk.encoders.encoder_method import encoder_methods

    folder = EncoderFolder(checkpoint)
    chosen = encoder_methods(request.method or OF_ENCODERS.get(folder.positions, DEFAULT), folder.positions)
    request.refuse_unused(["on_top", "trust_remote_code"], "of an embedding model")
    out = request.out or Path(f"{checkpoint.label}-{show(request.to)}")
    return extend_encoder(folder, request.to, chosen, out, request.overwrite)
