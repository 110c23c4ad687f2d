"""A question about files, answered by a strategy; every call is kept as soon as it is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.backends.chat.answering import UNKNOWN, UNSEEN
from ropewalk.backends.chat.chat import Prompt
from ropewalk.common.coroutines import finished
from ropewalk.common.errors import UserError, cut
from ropewalk.common.files import is_page
from ropewalk.common.results import Result, columns
from ropewalk.common.whole import write_text
from ropewalk.texts.documents import load
from ropewalk.texts.rows import read as rows_of
from ropewalk.workflows.coherence import Coherence, coherence
from ropewalk.workflows.metered import Metered
from ropewalk.workflows.strategy import PARTS, Reading, Strategy, room_left

if TYPE_CHECKING:
    from rich.console import Console


TRACE, PAGE = "trace.json", "report.html"
SCHEMA = "ropewalk trace 1"

LAST = """{context}

Above is {what}. Answer the question by it, in as few words as it takes.
Question: {question}
Answer:"""


def asked_of(text: str, question: str, room: int) -> Reading:
    """A person's question about a text, in one prompt that ends where the answer begins."""

    def last(context: str, what: str) -> Prompt:
        return LAST.format(context=context.strip(), what=what, question=question.strip())

    return Reading(text, question.strip(), room, last)


@dataclass(frozen=True, repr=False)
class Answered(Result):
    """An answer, and how it came about.

    Attributes:
        answer: to the question.
        question: as asked.
        strategy: its spelling.
        model: who was asked.
        sources: the files that were read.
        text_tokens: of all of them.
        window: tokens that one call may have.
        told: calls, tokens and seconds, by name; tokens are those of our own count, or the server's where it has more.
        notes: what a reader must know: text that nobody read, calls that came to nothing.
        calls: every one.
        critical_path: numbers of the calls in the chain that took longest.
        seconds: of this run; calls that an earlier one made took none.
        coherence: a judge's verdict on each sentence of the answer; None if none was asked for.
        folder: where the trace and its page lie; None if nowhere.
        key: of all that was asked for.
    """

    answer: str
    question: str
    strategy: str
    model: str
    sources: tuple[str, ...]
    text_tokens: int
    window: int
    told: dict[str, float]
    notes: tuple[str, ...]
    calls: tuple[dict[str, Any], ...]
    critical_path: tuple[int, ...]
    seconds: float
    coherence: Coherence | None = None
    folder: Path | None = None
    key: str = ""

    def __str__(self) -> str:
        return self.answer

    def show(self, console: Console) -> None:
        console.print(UNSEEN.sub(UNKNOWN, self.answer), markup=False, highlight=False)
        for note in self.notes:
            console.print(f"note: {note}", markup=False)
        table = columns("by", ">calls", ">tokens read", ">written", ">seconds", ">on the longest chain")
        table.add_row(
            self.strategy, f"{self.told['calls']:,.0f}", f"{self.told['prompt tokens']:,.0f}",
            f"{self.told['completion tokens']:,.0f}", f"{self.told['seconds of calls']:.1f}",
            f"{self.told['seconds of the critical path']:.1f}",
        )  # fmt: skip
        console.print(table)
        if self.coherence:
            console.print(f"coherence {self.coherence}")
        if self.folder:
            console.print(f"page: {self.folder / PAGE}")

    def to_dict(self) -> dict[str, Any]:
        score = {} if self.coherence is None else {"score": self.coherence.score}
        return {"schema": SCHEMA, **asdict(self), **score}

    def write(self, folder: Path, overwrite: bool = False) -> None:
        """The trace as JSON and as a page.

        Raises:
            UserError: if the folder holds another question's and is not to be overwritten, or cannot be written.
        """
        from ropewalk.workflows.trace_page import page_of

        refuse_another(folder, self.key, overwrite)
        write_text(folder / TRACE, self.to_json() + "\n")
        write_text(folder / PAGE, page_of(self).render())


def refuse_another(folder: Path, key: str, overwrite: bool) -> None:
    """Refuse a folder that holds something else than an earlier answer to the same, before anything is asked.

    Args:
        folder: that a trace goes to.
        key: of all that was asked for.
        overwrite: replace another trace.

    Raises:
        UserError: naming it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "Choose another -o.")
    trace, page = folder / TRACE, folder / PAGE
    if trace.exists():
        try:
            before = json.loads(trace.read_text("utf-8"))
            ours = before["schema"] == SCHEMA
            same = before["key"] == key
        except (OSError, ValueError, TypeError, KeyError):
            ours = same = False
        if not ours:
            raise UserError(f"{trace} is none that ropewalk wrote", "Choose another -o, or move it away.")
        if not same and not overwrite:
            raise UserError(
                f"{folder} holds the answer to another question, or of another text, model or way to read",
                "Choose another -o, or add --overwrite.",
            )
    elif page.exists() and not (overwrite and is_page(page)):
        raise UserError(f"{page} is there already", "Choose another -o, or add --overwrite.")


def read_text(
    strategy: Strategy,
    reading: Reading,
    model: Metered,
    sources: Sequence[str],
    scored: bool = False,
) -> Answered:
    """Ask until there is an answer.

    Args:
        strategy: how.
        reading: what.
        model: whom; of this reading alone.
        sources: names of what the text is made of.
        scored: whether the same model then judges the answer's coherence.

    Raises:
        UserError: if nobody answers, or the window or the budget is too small; what was answered is kept.
    """
    begun = time.monotonic()
    room_left(model, reading.last("", PARTS), reading.room, "the last call")  # before anything is paid for

    async def read() -> tuple[str, Coherence | None]:
        answer = await strategy.read(model, reading)
        return answer, await coherence(model, answer) if scored else None

    answer, verdicts = finished(read())
    for other in sorted(getattr(model.chat, "others", ())):
        model.note(f"{model.chat.name} answered as {cut(other)!r}: another model, or another name of it")
    trace = model.trace
    return Answered(
        answer,
        reading.question,
        strategy.spelling,
        model.chat.name,
        tuple(sources),
        len(model.spans(reading.text)),
        model.window,
        trace.told(),
        tuple(trace.notes),
        tuple(asdict(call) for _, call in sorted(trace.calls.items())),
        tuple(call.number for call in trace.critical_path),
        round(time.monotonic() - begun, 3),
        verdicts,
    )


def text_of(strategy: Strategy, files: Sequence[str]) -> tuple[str, list[str]]:
    """What a strategy reads of files, and what its parts are called.

    Raises:
        UserError: if a file is missing, or holds something else.
    """
    if strategy.reads == "examples":
        rows = (row for file in files for row in rows_of(file))
        lines = [json.dumps({key: row.text(key) for key in ("question", "answer")}) for row in rows]
        return "\n".join(lines), list(files)
    places = [Path(file) if Path(file).exists() else file for file in files]  # a folder may be called as our own texts
    documents = [(name, text) for place in places for name, text in load(place).items()]
    return joined(documents), [name for name, _ in documents]


def joined(documents: Sequence[tuple[str, str]]) -> str:
    """Texts one after the other; of several, each behind its name."""
    if len(documents) == 1:
        return documents[0][1]
    return "\n\n".join(f"[{name}]\n{text.strip()}" for name, text in documents)
