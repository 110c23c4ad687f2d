"""Texts made into questions that only a long context answers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ropewalk.verbs.pack_data import RowsRequest
from ropewalk.verbs.request import Count, Length, Number, Request, Source, verb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ropewalk.backends.chat.answering import Engine
    from ropewalk.data.making import Made


@dataclass(frozen=True, kw_only=True)
class KindRequest(Request):
    """Which questions.

    Attributes:
        kind: in2: a question about segments that stand anywhere (2404.16811); rag: about one of the passages that a
            search finds for it (2410.05983); selflong: an instruction about documents that are read chunk by chunk
            (2412.18860); longmit: a question that needs a few documents (2409.01893); self-lengthen: a long
            output, lengthened round by round (2410.23933); tables: about tables among the texts, answered by SQL
            (2406.00605); chunks: which chunk holds a quote, comes first, or in what order some stand; longpo:
            pairs of answers, to evidence alone and to the whole text, by the model that is to learn from them
            (2502.13922).
    """

    kind: str = field(kw_only=False)


@dataclass(frozen=True, kw_only=True)
class EngineRequest(Request):
    """Who writes.

    Attributes:
        engine: Who writes questions and answers: the address of an OpenAI-compatible server, up to and including /v1
            (its key is taken from OPENAI_API_KEY), or a model that runs here: 'demo', a folder, a hub id.
        engine_model: The model's name on that server; by default its only one.
        engine_tokenizer: The tokenizer of the model on that server, so that its counts of tokens can be compared with
            ours; without it they are compared by a factor of four, with the tokenizer of the rows.
        engine_thinks: Tokens that it may think before each answer; what it thinks is left out.
        engine_deadline: Seconds that a call may take, from its first byte to its last; slow servers need more.
        engine_patience: Seconds that a run waits for a server that takes no prompts, before it ends; the same line goes
            on from there.
    """

    engine: Source = ""
    engine_model: str = ""
    engine_tokenizer: Source = ""
    engine_thinks: Length | None = None
    engine_deadline: Count = 600
    engine_patience: Number = 600

    @contextmanager
    def answering(self, tokenizer: str, trust_remote_code: bool) -> Iterator[Engine | None]:
        """The engine, if one is named.

        Args:
            tokenizer: counts tokens where that of the engine is not known.
            trust_remote_code: run code that comes with a model or a tokenizer.

        Raises:
            UserError: if it cannot be asked.
        """
        if not self.engine:
            unused = ["engine_model", "engine_tokenizer", "engine_thinks", "engine_deadline", "engine_patience"]
            self.refuse_unused(unused, "without --engine")
            yield None
            return
        from ropewalk.backends.chat.answering import Engine
        from ropewalk.backends.chat.chat_model import chat_model
        from ropewalk.backends.chat.endpoint import Endpoint
        from ropewalk.checkpoint.checkpoint import Checkpoint

        if self.engine.startswith(("http://", "https://")):
            counted = Checkpoint.open(self.engine_tokenizer or tokenizer, trust_remote_code, sound=False).tokenizer()
            server = Endpoint(self.engine, self.engine_model or None, self.engine_deadline)
            served = bool(self.engine_tokenizer)
            yield Engine(server, counted, served, thinks=self.engine_thinks or 0, patience=self.engine_patience)
            return
        unused = ["engine_model", "engine_tokenizer", "engine_deadline", "engine_patience"]
        self.refuse_unused(unused, f"of the model {self.engine}, which runs here")
        checkpoint = Checkpoint.open(self.engine, trust_remote_code)
        with chat_model(checkpoint) as model:
            yield Engine(model, checkpoint.tokenizer(), served=True, thinks=self.engine_thinks or 0)


@dataclass(frozen=True, kw_only=True)
class SynthRequest(EngineRequest, RowsRequest, KindRequest):
    """How many of them, and how long.

    Attributes:
        rows: So many are made.
        least: Tokens of a context at least; by default a quarter of ``length``.
        draws: So many rows are drawn at most, where some are dropped because nothing supports their answer; by default
            four for every row.
        chunk: Tokens of documents that the engine reads at once, 4096 by default in selflong, 2048 in longmit.
        words: Of an output at most; of self-lengthen.
        passages: Their order in a row: shuffled, by rank, or ends (1, 3, 5, ..., 6, 4, 2); of rag.
        named: The answer names the passage that it is taken from; of rag.
        tables: A file or folder of .csv, .tsv, .parquet whose tables are asked about, a few rows and columns at a time;
            by default they are of invented people; of tables.
        grounded: Drop rows whose question the engine answers without their context (2512.12967).
        robust: Drop rows whose question the engine, shown the whole row, answers in none of four tries (2512.12967).
    """

    rows: Count = 1000
    least: Length | None = None
    draws: Count | None = None
    chunk: Length | None = None
    words: Count | None = None
    passages: str = "shuffled"
    named: bool = False
    tables: Source | None = None
    grounded: bool = False
    robust: bool = False


OPTIONS = "rows least draws chunk words passages named tables grounded robust".split()  # that not every kind has


@verb("data synth", keeps=True)
def synth_data(request: SynthRequest) -> Made:
    """Make rows of questions about texts, each with its evidence anywhere in a long context; or of long outputs.

    Returns:
        The folder, what it costs, and what was dropped.

    Raises:
        UserError: if texts cannot be read or are too few, the engine does not answer or writes nothing of use, or the
            folder cannot be written.
    """
    from ropewalk.common.errors import UserError
    from ropewalk.data.synthesis.syntheses import options_of, synthesis, synthesis_class

    chosen = synthesis_class(request.kind, bool(request.engine), request.grounded or request.robust)
    request.refuse_unused([name for name in OPTIONS if name not in options_of(chosen)], f"in {request.kind}")
    said = {name: getattr(request, name) for name in OPTIONS if name in options_of(chosen)}
    options = {name: value for name, value in said.items() if value is not None}
    if request.engine and not request.tokenizer:
        raise UserError("what an engine writes needs a tokenizer", "Name one: --tokenizer MODEL.")
    with request.answering(request.tokenizer, request.trust_remote_code) as engine:
        made = synthesis(chosen, options, engine)
        if request.length < made.shortest:  # before hours of tokenising
            raise UserError(
                f"rows of {request.length:,} tokens, expected {made.shortest:,} at least",
                f"Give a greater --length, {made.shortest:,} at least.",
            )
        named = {"engine": engine.name} if engine else {}
        return request.made(made, request.kind, options | named, apart=False, engine=engine)
