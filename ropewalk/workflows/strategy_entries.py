"""The one list of strategies: it drives the command line, the documentation's table and the test matrix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ropewalk.workflows.strategy import Strategy


@dataclass(frozen=True)
class StrategyEntry:
    """One way to read.

    Attributes:
        id: as in papers, and in spellings.
        title: the paper's name for it.
        where: "module:Class".
        summary: one line.
        calls: how many, of a text of n chunks.
        needs: of the model, besides that it answers.
        paper: arXiv id, or the address of another source without https://; empty if there is none.
    """

    id: str
    title: str
    where: str
    summary: str
    calls: str
    needs: str = ""
    paper: str = ""

    def load(self) -> type[Strategy]:
        module, name = self.where.split(":")
        loaded: type[Strategy] = getattr(import_module(f"ropewalk.workflows.strategies.{module}"), name)
        return loaded


STRATEGIES: tuple[StrategyEntry, ...] = (
    StrategyEntry("full", "Full window", "full_window:FullWindow", "everything in one prompt", "1",
                  "a window that holds the text"),
    StrategyEntry("truncation", "Truncation", "truncation:Truncation", "what the window holds, not the middle", "1"),
    StrategyEntry("rag", "Retrieval", "retrieval:Retrieval", "the chunks that are most like the question", "1", "",
                  "2310.03025"),
    StrategyEntry("chain-of-agents", "Chain of Agents", "chain_of_agents:ChainOfAgents",
                  "workers note chunk after chunk, a manager answers from the last notes", "n + 1", "", "2406.02818"),
    StrategyEntry("memory-agent", "MemAgent", "memory_agent:MemoryAgent",
                  "a memory of fixed size is written anew after each chunk", "n + 1", "", "2507.02259"),
    StrategyEntry("self-controlled-memory", "Self-Controlled Memory", "self_controlled_memory:SelfControlledMemory",
                  "the model decides which blocks that were found it remembers, whole or as a sentence",
                  "3k at most", "", "2304.13343"),
    StrategyEntry("semantic-compression", "Semantic compression", "semantic_compression:SemanticCompression",
                  "topics are found, each is made shorter, and all are read at once", "one a topic + 1", "",
                  "2312.09571"),
    StrategyEntry("hierarchical-summary", "Hierarchical merging (BooookScore)",
                  "hierarchical_summary:HierarchicalSummary",
                  "summaries of chunks, then of summaries, until they fit", "n + n/f + n/f² + … + 1", "", "2310.00785"),
    StrategyEntry("incremental-summary", "Incremental updating (BooookScore)",
                  "incremental_summary:IncrementalSummary", "one summary, brought up to date chunk by chunk",
                  "n + 1; 2 more where it outgrows its limit", "", "2310.00785"),
    StrategyEntry("many-shot", "Curvilinear Demonstration Selection (a proxy)", "many_shot:ManyShot",
                  "as many examples as fit, in an order that turns little, and the question", "1",
                  "rows of questions and answers"),
    StrategyEntry("xl3m", "XL3M", "xl3m:XL3M", "the segments behind which the model is surest of its answer", "n + 1",
                  "probabilities of the next token", "2405.17755"),
    StrategyEntry("agentic-lu", "AgenticLU", "agentic_lu:AgenticLU",
                  "what is unclear is asked, pointed at and cleared before the answer", "4, and 2 for each window", "",
                  "2502.15920"),
    StrategyEntry("recursive", "Recursive language model", "recursive:RecursiveLM",
                  "the model looks into the text by actions, and asks itself about spans of it",
                  "two for each step at most, and 1", "", "2512.24601"),
    StrategyEntry("late-chunking", "Late chunking", "late_chunking:LateChunking",
                  "sentences are found by vectors that have read the text around them", "1",
                  "an embedding model that pools by the mean", "2409.04701"),
)  # fmt: skip

BY_ID = {entry.id: entry for entry in STRATEGIES}


def strategy(spelling: str) -> Strategy:
    """A strategy from its spelling: ``rag``, ``rag(k=5, order='rank')``.

    Raises:
        UserError: for an unknown id, an unknown option or a wrong value.
    """
    from ropewalk.methods.catalogue import options_of

    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", spelling, re.DOTALL)
    if match is None or match[1] not in BY_ID:
        known = did_you_mean(spelling.partition("(")[0], BY_ID)
        raise UserError(f"unknown strategy {spelling!r}{known}", f"There are {', '.join(BY_ID)}.")
    cls = BY_ID[match[1]].load()
    return cls(**options_of(cls, cls.name, match[2] or ""))
