"""Texts packed into rows of training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.verbs.request import Length, Number, Place, Request, Source, verb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ropewalk.backends.chat.answering import Engine
    from ropewalk.common.progress import Progress
    from ropewalk.data.making import Arranger, Made, Texts
    from ropewalk.data.synthesis.synthesis import Synthesis

STOP, SKIP = "stop", "skip"


@dataclass(frozen=True, kw_only=True)
class TokenizerRequest(Request):
    """How texts are read.

    Attributes:
        tokenizer: The model whose tokenizer reads them: a folder, a hub id, or 'demo'.
        on_error: What to do about a document that cannot be read: stop, or skip it and say so.
        signs_as_letters: Read signs such as </s> in texts as the letters that they are; by default they are the
            tokenizer's special tokens, as in texts that have a chat template's, and are counted.
        trust_remote_code: Run code that comes with the tokenizer.
    """

    tokenizer: Source = ""
    on_error: str = STOP
    signs_as_letters: bool = False
    trust_remote_code: bool = False

    def each(self, sources: Iterable[str]) -> list[Texts]:
        """The texts of each source, with their tokenizer.

        Raises:
            UserError: if there is none of that name.
        """
        from ropewalk.checkpoint.checkpoint import Checkpoint
        from ropewalk.data.making import Texts

        if self.on_error not in (STOP, SKIP):
            raise UserError(f"--on-error is {self.on_error!r}, expected {STOP} or {SKIP}", f"Say --on-error {SKIP}.")
        skip = self.on_error == SKIP
        if not self.tokenizer:
            return [Texts(one, None, "", skip, self.signs_as_letters) for one in sources]
        checkpoint = Checkpoint.open(self.tokenizer, self.trust_remote_code)
        tokenizer = checkpoint.tokenizer()
        return [Texts(one, tokenizer, checkpoint.name, skip, self.signs_as_letters) for one in sources]


@dataclass(frozen=True, kw_only=True)
class CorpusRequest(TokenizerRequest):
    """Which texts.

    Attributes:
        texts: A file or folder of .txt, .md, .py, .jsonl, .parquet, a hub id, topics or stdlib; or a folder of rows
            whose texts are arranged anew, without tokenising them again.
    """

    texts: Source = field(kw_only=False)

    def read(self) -> Texts:
        """The texts, with their tokenizer.

        Raises:
            UserError: if there is none of that name.
        """
        return self.each([self.texts])[0]


@dataclass(frozen=True, kw_only=True)
class FolderRequest(Request):
    """Where rows go.

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
class RowsRequest(FolderRequest, CorpusRequest):
    """Into which rows."""

    def made(
        self,
        how: Arranger | Synthesis,
        name: str,
        options: Mapping[str, Any],
        apart: bool,
        engine: Engine | None = None,
        heard: Callable[[Progress], None] | None = None,
    ) -> Made:
        """The rows, written.

        Args:
            how: they are made.
            name: of that.
            options: of that, in plain values.
            apart: whether documents of a row see themselves alone.
            engine: that is asked on the way.
            heard: told how far it is; by default it is shown.

        Raises:
            UserError: if texts cannot be read, or the folder cannot be written.
        """
        from ropewalk.common.progress import Progress, shown
        from ropewalk.data.making import make_rows

        with nullcontext(heard) if heard else shown() as update:
            if engine is not None:
                engine.heard = lambda ledger, waiting: update(Progress(ledger.asked, 0, waiting or ledger.brief))
            return make_rows(
                self.read(), how, name, options, self.length, apart, self.seed, self.out, self.overwrite, update, engine
            )


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

    from ropewalk.data.packing.decomposition import require_powers
    from ropewalk.data.packing.packings import packing

    chosen, options = packing(request.packing), {}
    if request.packing == "decompose":
        require_powers(request.length, request.least)  # before hours of tokenising
        options = {"least": request.least}
        chosen = replace(chosen, pack=partial(chosen.pack, **options))
    else:
        request.refuse_unused(["least"], f"in {request.packing}")
    return request.made(chosen, request.packing, options, chosen.apart)
