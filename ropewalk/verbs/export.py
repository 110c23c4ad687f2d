"""A checkpoint for an engine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show
from ropewalk.verbs.request import Length, Method, Model, OnTopRequest, Place, verb

if TYPE_CHECKING:
    from ropewalk.engines.gguf.output import Written
    from ropewalk.engines.handover import Export


@dataclass(frozen=True, kw_only=True)
class ExportRequest(OnTopRequest):
    """For whom, and what to write.

    Attributes:
        model: A folder, a hub id, a GGUF file (for llama.cpp), or 'demo'; extended already, unless ``to`` is given.
        engine: vllm, sglang, llama.cpp or transformers; with ``gguf`` it is llama.cpp.
        to: Extend to this length first: 4096, 4k, 128K, 1m.
        method: With ``to``: as listed by 'ropewalk methods'.
        out: Folder to write. Without it nothing is written, and the engine's line carries the keys.
        gguf: With llama.cpp: write the model, with the rope that its configuration has, as this GGUF file; in a folder
            (alone: in this one) it is named after the model.
        dtype: Of the GGUF file's matrices: F32, F16, BF16 or Q8_0; where llama.cpp is installed Q4_K_M, Q5_K_M, Q6_K
            and their kin too.
        fold: Put the attention factor into the weights; the folded model is compared with the one that has keys.
        two_profiles: Write OUT/native and OUT/long, which share their weights on disk.
        overwrite: Replace the folder or file that is there, if ropewalk wrote it.
    """

    model: Model = field(kw_only=False)
    engine: str | None = None
    to: Length | None = None
    method: Method = "yarn"
    out: Place | None = None
    gguf: Place | None = field(default=None, metadata={"alone": "."})
    dtype: str = "F16"
    fold: bool = False
    two_profiles: bool = False
    overwrite: bool = False


@verb("export")
def export(request: ExportRequest) -> Export | Written:
    """Give the lines that start an engine on a checkpoint, in its pretrained window and beyond.

    With ``out``, write what the engine needs.

    Returns:
        The engine's lines and keys, and the folder; with ``gguf``, the file and its entries about the rope.

    Raises:
        UserError: if the engine cannot be made to rotate as meant; the message names the key and the mend.
    """
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.encoders.encoder_folder import refuse_encoder
    from ropewalk.engines.handover import called
    from ropewalk.engines.handover import export as write
    from ropewalk.methods.catalogue import method

    if request.engine is None and request.gguf is None:
        raise UserError(
            "export needs --engine",
            "Say --engine transformers, vllm, sglang or llama.cpp. With --gguf alone, a GGUF file is written.",
        )
    checkpoint = Checkpoint(request.model)
    refuse_encoder(checkpoint)
    engine = called(request.engine or ("llama.cpp" if request.gguf else ""))
    if request.gguf is None:
        if request.out is not None and request.out.suffix.lower() == ".gguf":
            file = str(request.out)
            raise UserError(f"--out is a folder, and {file!r} reads like a file", f"Say --gguf {shlex.quote(file)}.")
        return write(
            checkpoint,
            engine,
            request.to,
            None if request.to is None else method(request.method),
            request.out,
            request.fold,
            request.two_profiles,
            request.overwrite,
            request.on_top,
        )
    from ropewalk.engines.gguf.to_gguf import write_gguf

    if engine != "llama.cpp":
        raise UserError(f"engine is {engine!r}, and --gguf writes for llama.cpp", "Say --engine llama.cpp.")
    checkpoint.refuse_unsound()
    out = request.gguf / f"{checkpoint.label}.gguf" if request.gguf.is_dir() else request.gguf
    if request.to is not None:
        folder = f"{checkpoint.label}-{show(request.to)}"
        raise UserError(
            "--gguf writes the rope that the configuration has, and does not extend it",
            f"{checkpoint.extending(request.to, request.method)} -o {shlex.quote(folder)} && "
            + command("export", folder, "--engine", "llama.cpp", "--gguf", out),
        )
    if request.out is not None or request.fold or request.two_profiles:
        raise UserError(
            "--gguf writes one file; --out, --fold and --two-profiles are about a folder", "Write one, then the other."
        )
    return write_gguf(checkpoint, out, request.dtype, request.overwrite)
