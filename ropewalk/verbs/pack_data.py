"""Texts packed into rows of training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError
from ropewalk.verbs.request import Length, Number, Place, Request, Source, verb

if TYPE_CHECKING:
    from ropewalk.data.making import Made, Texts

STOP, SKIP = "stop", "skip"


@dataclass(frozen=True, kw_only=True)
class CorpusRequest(Request):
    """Which texts, by which tokenizer.

    Attributes:
        texts: A file or folder of .txt, .md, .py, .jsonl, .parquet, a hub id, topics or stdlib; or a folder of rows
            whose texts are arranged anew, without tokenising them again.
        tokenizer: The model whose tokenizer reads them: a folder, a hub id, or 'demo'.
        on_error: What to do about a document that cannot be read: stop, or skip it and say so.
        trust_remote_code: Run code that comes with the tokenizer.
    """

    texts: Source = field(kw_only=False)
    tokenizer: Source = ""
    on_error: str = STOP
    trust_remote_code: bool = False

    def read(self) -> Texts:
        """The texts, with their tokenizer.

        Raises:
            UserError: if there is none of that name.
        """
        from ropewalk.checkpoint.checkpoint import Checkpoint
        from ropewalk.data.making import Texts

        if self.on_error not in (STOP, SKIP):
            raise UserError(f"--on-error is {self.on_error!r}, expected {STOP} or {SKIP}")
        if not self.tokenizer:
            return Texts(self.texts, None, "", self.on_error == SKIP)
        checkpoint = Checkpoint.open(self.tokenizer, self.trust_remote_code)
        return Texts(self.texts, checkpoint.tokenizer(), checkpoint.name, self.on_error == SKIP)


@dataclass(frozen=True, kw_only=True)
class RowsRequest(CorpusRequest):
    """Into which rows, and where they go.

    Attributes:
        out: Folder to write. What is tokenised lies in FOLDER.shards until it is done.
        length: Tokens of a row: 4096, 4k, 128K, 1m.
        seed: Of all that is drawn.
        overwrite: Replace what is there, if ropewalk wrote it, and throw away what another run left.
    """

    out: Place
    length: Length
    seed: Number = 0
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class PackRequest(RowsRequest):
    """How they are packed.

    Attributes:
        packing: best-fit (no document is cut that fits a row, 2404.10830), concat (one behind the other, cut where a
            row is full) or decompose (pieces of powers of two, 2405.13226).
        least: Tokens of the shortest piece; of decompose.
    """

    packing: str = "best-fit"
    least: Length = 256


@verb("data pack", keeps=True)
def pack_data(request: PackRequest) -> Made:
    """Pack texts into rows of training, tokenised once; it can be stopped at any moment, and goes on where it was.

    Returns:
        The folder, and what was cut, padded and dropped.

    Raises:
        UserError: if texts cannot be read, or the folder cannot be written.
    """
    from functools import partial

    from ropewalk.common.progress import Progress, shown
    from ropewalk.data.making import make_rows
    from ropewalk.data.packing.decomposition import require_powers
    from ropewalk.data.packing.packings import packing

    chosen, options = packing(request.packing), {}
    if request.packing == "decompose":
        require_powers(request.length, request.least)  # before hours of tokenising
        options = {"least": request.least}
        chosen = replace(chosen, pack=partial(chosen.pack, **options))
    else:
        request.refuse_unused(["least"], f"in {request.packing}")
    texts = request.read()
    with shown() as update:
        return make_rows(
            texts, chosen, request.packing, options, request.length, chosen.apart, request.seed, Path(request.out),
            request.overwrite, lambda done, tokens: update(Progress(done, 0, f"{done:,} texts, {tokens:,} tokens")),
        )  # fmt: skip
