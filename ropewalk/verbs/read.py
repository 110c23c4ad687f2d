"""A question about files of any length, asked of a language model by a strategy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.verbs.request import Count, Length, Method, Model, Place, RunningRequest, ServedRequest, Source, verb

if TYPE_CHECKING:
    from ropewalk.workflows.answered import Answered

RUNS = Path("runs")
ASKED = (  # what an answer depends on, besides the text, the question and the strategy
    "model", "tokenizer", "served", "window", "method", "to", "room", "tokens", "calls", "thinks", "embed", "score",
    "dtype",
)  # fmt: skip
ROOM = 256  # tokens of an answer; of a small window, a quarter


@dataclass(frozen=True, kw_only=True)
class ReadRequest(ServedRequest, RunningRequest):
    """What is read, and by whom.

    Attributes:
        files: Texts: files or folders (.txt, .md, .py, .jsonl, .parquet), which are read one after the other.
        question: What to answer.
        strategy: How to read: rag, chain-of-agents, memory-agent, truncation, full, ...; options in brackets, as
            rag(k=5).
        model: Who answers: the address of an OpenAI-compatible server, up to and including /v1 (its key is taken from
            OPENAI_API_KEY), or a model that runs here: 'demo', a folder, a hub id.
        window: Tokens that a prompt and its answer may have together; by default what the model's configuration says.
            Of a server that does not tell it must be given.
        method: Put on a model that runs here, as extend knows it; with ``to``.
        to: Window that the method makes.
        room: Tokens of the answer; by default 256, or a quarter of the window if that is less.
        tokens: Budget of all prompts and answers; by default there is none.
        calls: Budget of calls; by default there is none.
        thinks: Tokens that the model may think before each answer; what it thinks is left out.
        embed: An embedding model, for strategies that compare meanings: a folder or a hub id.
        at_once: Calls that a server is asked at the same time.
        trust_remote_code: Run code that comes with a model or a tokenizer.
        out: Folder for the trace, as trace.json and report.html; by default one in runs/. Answers are kept in
            runs/samples.sqlite, or in that folder, and are not asked for again.
        score: Judge each sentence of the answer by BooookScore's types of error, by the same model; of summaries.
        overwrite: Replace the trace of another question in that folder.
    """

    files: tuple[str, ...] = field(kw_only=False)
    question: str = field(kw_only=False, metadata={"flag": True})
    strategy: str
    model: Model
    window: Length | None = None
    method: Method = "none"
    to: Length | None = None
    room: Count | None = None
    tokens: Length | None = None
    calls: Count | None = None
    thinks: Length | None = None
    embed: Source = ""
    at_once: Count = 8
    trust_remote_code: bool = False
    out: Place | None = None
    score: bool = False
    overwrite: bool = False

    @contextmanager
    def answering(self) -> Iterator[tuple[Any, Any, bool, int]]:
        """Who answers, a tokenizer, whether it is that model's own, and the window."""
        from ropewalk.backends.chat.chat_model import chat_model
        from ropewalk.backends.chat.endpoint import Endpoint
        from ropewalk.checkpoint.checkpoint import Checkpoint

        if self.model.startswith(("http://", "https://")):
            self.refuse_unused(["method", "to", "dtype", "device"], "about a model that a server holds")
            if not self.tokenizer:
                raise UserError("a server needs to be told its tokenizer", "Add --tokenizer FOLDER_OR_HUB_ID.")
            tokenizer = Checkpoint.open(self.tokenizer, self.trust_remote_code, sound=False).tokenizer()
            server = Endpoint(self.model, self.served, workers=self.at_once, flag="--served")
            if self.window and server.window and self.window > server.window:
                raise UserError(
                    f"window is {self.window:,}, where {server.name} reads {server.window:,}",
                    f"Say {server.window:,}, or less.",
                )
            window = self.window or server.window
            if window is None:
                raise UserError("a server does not say how much it reads", "Say it: --window 8k.")
            yield server, tokenizer, True, window
            return
        self.refuse_unused(["tokenizer", "served", "at_once"], "about a model that runs here")
        if (self.method == "none") != (self.to is None):
            raise UserError("--method and --to belong together", "Give both, as --method yarn --to 16k, or neither.")
        checkpoint = Checkpoint.open(self.model, self.trust_remote_code)
        with chat_model(checkpoint, self.dtype, self.device, self.method, self.to) as model:
            if self.window and model.window and self.window > model.window:
                raise UserError(
                    f"window is {self.window:,}, where the model has {model.window:,}",
                    f"Say less, or extend it: --method yarn --to {self.window}.",
                )
            window = self.window or model.window
            if window is None:
                raise UserError(f"{self.model} does not say how much it reads", "Say it: --window 8k.")
            yield model, checkpoint.tokenizer(), True, window


@verb("read", keeps=True)
def read(request: ReadRequest) -> Answered:
    """Answer a question about texts of any length, by a strategy that reads more than a window holds.

    Every answered call is kept: the same command, said again after it was stopped, asks only what was not answered.

    Returns:
        The answer, what it cost, and every call.

    Raises:
        UserError: for everything that a user can mend.
    """
    from dataclasses import replace

    from ropewalk.backends.chat.chat import special_signs
    from ropewalk.common.files import require_writable
    from ropewalk.common.naming import counted
    from ropewalk.common.progress import Progress, shown
    from ropewalk.common.store import SampleStore, content_key
    from ropewalk.texts.documents import passed_over
    from ropewalk.workflows.answered import asked_of, read_text, refuse_another, text_of
    from ropewalk.workflows.metered import Metered
    from ropewalk.workflows.spending import Budget
    from ropewalk.workflows.strategy_entries import strategy

    if not request.question.strip():
        raise UserError("the question is empty", "Ask something: --question TEXT.")
    try:
        request.question.encode()
    except UnicodeEncodeError:
        raise UserError("the question is no text: it holds half a character", "Write it in UTF-8.") from None
    how = strategy(request.strategy)
    if not how.embeds:
        request.refuse_unused(["embed"], f"in {how.spelling}, which compares no vectors")
    text, sources = text_of(how, request.files)
    asked = {name: getattr(request, name) for name in ASKED}
    key = content_key({"text": text, "question": request.question.strip(), "strategy": how.spelling, **asked})
    out = request.out or RUNS / f"read-{how.name}-{key[:8]}"
    refuse_another(out, key, request.overwrite)
    require_writable(out)  # before anything is paid for
    store = (request.out or RUNS) / "samples.sqlite"
    with request.answering() as (chat, tokenizer, served, window), SampleStore(store) as records, shown() as tell:
        room = request.room or min(ROOM, window // 4)
        model = Metered(
            chat,
            tokenizer,
            served,
            window,
            records,
            Budget(request.tokens, request.calls),
            thinks=request.thinks or 0,
            embed=_embedding(request.embed),
            reading=key,
            heard=lambda trace: tell(
                Progress(len(trace.calls), 0, f"{counted(len(trace.calls), 'call')}, {trace.tokens:,} tokens")
            ),
        )
        for place in request.files:
            if others := passed_over(Path(place) if Path(place).exists() else place):
                model.note(f"{place}: {others} were not read")
        signs = [] if tokenizer.split_special_tokens else special_signs(text, tokenizer)
        if signs:
            model.note(
                f"the text has signs that a server may read as its own, as the end of a turn: {', '.join(signs)}"
            )
        answered = replace(
            read_text(how, asked_of(text, request.question, room), model, sources, scored=request.score),
            folder=out,
            key=key,
        )
    answered.write(out, request.overwrite)
    return answered


def _embedding(name: str) -> Any:
    """What gives vectors of texts, if a model for that is named."""
    if not name:
        return None
    from ropewalk.workflows.embedding import Embedding

    return Embedding(name)
