"""What a model's files say about its context window, and what is wrong there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError
from ropewalk.verbs.request import Model, ModelRequest, Place, Source, verb

if TYPE_CHECKING:
    from pathlib import Path

    from ropewalk.checkpoint.adapter_folder import AdapterFolder
    from ropewalk.checkpoint.carrier_inspection import CarrierInspection
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.checkpoint.inspection import Head, Inspection
    from ropewalk.encoders.encoder_inspection import EncoderInspection

TEXTS, TOKENS = 3, 4096  # read for the heads: so many texts, of so many tokens at most


@dataclass(frozen=True, kw_only=True)
class InspectRequest(ModelRequest):
    """What to look at.

    Attributes:
        set: Change a key first: 'key.inside=JSON' (null removes it), 'tokenizer_config.json:key=JSON' for another file;
            refused where it would make a problem that stops every verb, and mend none.
            The old file stays beside it as NAME.bak (then NAME.bak.1, ...). In a GGUF file: 'ARCH.rope.key=JSON',
            together with ``patch``.
        weights: Load the model too, and show, on a few texts, which heads look far and which know distances by the
            dimensions that rotate slowly.
        data: Texts for ``weights``: stdlib, topics, or a file or folder.
        against: A GGUF file only: the checkpoint (folder, config.json, hub id) whose rope the file should have.
        patch: A GGUF file only: write it again here with the rope of ``against``, or with the keys of ``set``.
        overwrite: Replace the file that ``patch`` names, if ropewalk wrote it.
    """

    set: tuple[str, ...] = ()
    weights: bool = False
    data: Source = "stdlib"
    against: Model | None = None
    patch: Place | None = None
    overwrite: bool = False


@verb("inspect")
def inspect(request: InspectRequest) -> Inspection | AdapterFolder | EncoderInspection | CarrierInspection:
    """Show a model's rotary embedding and every misconfiguration that its files give away.

    The model may also be a config.json, a GGUF file, the folder of an adapter, an embedding model, or one that knows
    positions by ALiBi, a table, T5's buckets or a state. Weights are
    needed only where it is asked what the heads do. In a shell it exits with 1 if there are problems; docs/problems.md
    explains each kind.

    Returns:
        The inspection; ``sound`` is False if there are problems. Of an adapter what it is, its base, and its rope; of
        an embedding model where its texts are cut.

    Raises:
        UserError: if there is no configuration, or it cannot be read and no problem explains why.
    """
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.encoders.encoder_folder import is_encoder

    if not request.weights:
        request.refuse_unused(["data"], "without --weights")
    if request.patch is None:
        request.refuse_unused(["overwrite"], "without --patch")
    checkpoint = Checkpoint(request.model, request.trust_remote_code)
    if checkpoint.gguf is not None:
        return _gguf(request, checkpoint.gguf)
    if is_encoder(checkpoint):
        return _encoder(request, checkpoint)
    if checkpoint.adapter is not None:
        request.refuse_unused(["set", "weights", "against", "patch"], "of an adapter")
        return checkpoint.adapter
    if request.against is not None or request.patch is not None:
        raise UserError(
            f"--against and --patch are about GGUF files; {request.model!r} is none", "Name a file that ends in .gguf."
        )
    from ropewalk.carriers import carrier as carriers
    from ropewalk.checkpoint.carrier_inspection import CarrierInspection, inspect_carrier
    from ropewalk.checkpoint.inspection import inspect as look

    wrote: dict[Path, Path] = {}
    if request.set:
        from ropewalk.checkpoint.changes import refuse_worse
        from ropewalk.checkpoint.edits import configuration, set_keys

        checkpoint.refuse_bundled()
        judge = partial(refuse_worse, configuration=configuration(checkpoint.place))
        wrote = set_keys(checkpoint.place, request.set, judge)
        checkpoint = Checkpoint(request.model, request.trust_remote_code)  # what was read before is of before
    try:
        ropeless = carriers.has_none(checkpoint.raw)
        looked = inspect_carrier(checkpoint) if ropeless else look(checkpoint)
    except UserError as error:
        if not wrote:
            raise
        names = ", ".join(file.name for file in wrote)
        raise UserError(
            f"{names} is written as said, and something else is still wrong: {error.message}", error.mend
        ) from None
    found = replace(looked, wrote={str(file): str(old) for file, old in wrote.items()})
    if isinstance(found, CarrierInspection):
        request.refuse_unused(["weights"], "of a model without a rope")
        return found
    return replace(found, heads=_heads(checkpoint, request.data)) if request.weights else found


def _encoder(request: InspectRequest, checkpoint: Checkpoint) -> EncoderInspection:
    """Inspect an embedding model, after keys of its files were changed."""
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.checkpoint.edits import set_keys
    from ropewalk.encoders.encoder_folder import EncoderFolder
    from ropewalk.encoders.encoder_inspection import inspect_encoder

    request.refuse_unused(["weights", "against", "patch"], "of an embedding model")
    wrote = set_keys(checkpoint.place, request.set) if request.set else {}
    found = inspect_encoder(EncoderFolder(Checkpoint(checkpoint.name)))  # what was read before is of before
    return replace(found, wrote={str(file): str(old) for file, old in wrote.items()})


def _gguf(request: InspectRequest, path: Path) -> Inspection:
    """Inspect a GGUF file, or the one that is written from it."""
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.checkpoint.gguf_inspection import inspect_gguf
    from ropewalk.engines.gguf.patch import patch_gguf, set_keys

    patch, against = request.patch, request.against
    if request.set and (patch is None or against is not None):
        raise UserError("--set changes no GGUF file in place, and goes with --patch OUT.gguf and without --against")
    if patch is not None and not request.set and against is None:
        raise UserError("--patch needs the rope to write: --against CHECKPOINT, or --set 'ARCH.rope.key=JSON'")
    if patch is None:
        found = inspect_gguf(path, against)
        return replace(found, heads=_heads(Checkpoint.open(path), request.data)) if request.weights else found
    if request.weights:
        raise UserError("--weights and --patch are two things", "Patch first, then inspect the patched file.")
    if request.set:
        set_keys(path, request.set, patch, request.overwrite)
    elif against is not None:
        patch_gguf(path, against, patch, request.overwrite)
    return inspect_gguf(patch, against)


def _heads(checkpoint: Checkpoint, data: str) -> list[Head]:
    import torch

    from ropewalk.fitting.head_profiles import head_profiles
    from ropewalk.texts import documents

    texts = documents.load(data)
    live, window = checkpoint.load(), checkpoint.window
    length = min(window, TOKENS)
    rows = list(documents.tokenise(texts, checkpoint.tokenizer(), length).values())[:TEXTS]
    ids = [torch.tensor([row[:length]], device=live.device) for row in rows]
    return head_profiles(live, ids, window, queries=min(64, length // 2))
