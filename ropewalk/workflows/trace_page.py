"""A trace as a page: the answer, what it cost, and every call with its prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import cut
from ropewalk.report.page import Cell, Column, Folded, Item, KeyFigure, Page, Section, Table, Text, facts

if TYPE_CHECKING:
    from ropewalk.workflows.answered import Answered

OPEN = 200  # calls whose prompts are on the page
SAID = 120  # signs of an answer in the table


def page_of(read: Answered) -> Page:
    """What is on the page."""
    told, longest, size = read.told, set(read.critical_path), max(1, read.text_tokens)
    failed, left = told["failed calls"], max(0, len(read.calls) - OPEN)
    return Page(
        title=f"{read.strategy}: {cut(read.question, 60)}",
        subject=f"{', '.join(read.sources)}, {read.text_tokens:,} tokens, read by {read.strategy} with {read.model}, "
        f"whose window has {read.window:,}",
        headline=read.answer,
        notes=[f"Question: {read.question}", *read.notes],
        figures=[
            KeyFigure("Calls", f"{told['calls']:,.0f}", f"{failed:,.0f} without an answer" if failed else ""),
            KeyFigure("Tokens read", f"{told['prompt tokens']:,.0f}",
                      f"{told['prompt tokens'] / size:.2f} times the text"),
            *([KeyFigure("Coherence", *str(read.coherence).split(": "))] if read.coherence else []),
            KeyFigure("Tokens written", f"{told['completion tokens']:,.0f}"),
            KeyFigure("Seconds", f"{told['seconds of calls']:,.1f}",
                      f"{told['seconds of the critical path']:,.1f} in the longest chain of calls"),
        ],
        sections=[
            Section("Calls", "In the order in which they began. What a call waited for stands behind it; calls of the "
                    "longest chain, which no further workers make shorter, are bold.", [_table(read, longest)]),
            Section("What was asked", f"{left:,} further calls are in trace.json." if left else "",
                    [_opened(call) for call in read.calls[:OPEN]]),
            Section("How", "", [facts({"strategy": read.strategy, "model": read.model, "window": read.window} | told)]),
        ],
    )  # fmt: skip


def _table(read: Answered, longest: set[int]) -> Table:
    names = ["read", "written", "seconds", "waited for", "said"]
    rows = [
        (
            Item(f"{call['number']}: {call['role']}", "answered before" if call["kept"] else ""),
            [
                Cell(f"{call['prompt_tokens']:,}"),
                Cell(f"{call['completion_tokens']:,}"),
                Cell(f"{call['seconds']:.2f}", best=call["number"] in longest),
                Cell(", ".join(map(str, call["after"])) or "nothing"),
                Cell(cut(call["answer"], SAID) if call["answer"] else f"no answer: {call['failed']}", words=True),
            ],
        )
        for call in read.calls
    ]
    return Table("call", [Column(name) for name in names], rows)


def _opened(call: dict[str, Any]) -> Folded:
    return Folded(
        f"{call['number']}: {call['role']}",
        [Text(call["prompt"]), Text(f"→ {call['answer'] or 'no answer: ' + call['failed']}")],
    )
