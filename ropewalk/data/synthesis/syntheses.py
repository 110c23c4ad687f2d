"""The ways to make rows out of documents: what is asked about them, and who writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ropewalk.backends.chat.answering import Engine
    from ropewalk.data.synthesis.synthesis import Questions

ENGINE = "engine"  # the field of those that ask one
NAME_ONE = "Name one: --engine URL, --engine demo or --engine FOLDER."


@dataclass(frozen=True)
class SynthesisEntry:
    """One of them; its options are the fields of its classes.

    Attributes:
        title: what it makes.
        paper: arXiv id.
        plain: "module:Class" of what needs no engine; empty if there is none.
        written: "module:Class" of what an engine writes; empty if there is none.
    """

    title: str
    paper: str
    plain: str = ""
    written: str = ""

    def load(self, engine: bool) -> type[Any] | None:
        """The class with or without an engine; None if there is none."""
        where = self.written if engine else self.plain
        if not where:
            return None
        module, name = where.split(":")
        loaded: type[Any] = getattr(import_module(f"ropewalk.data.synthesis.{module}"), name)
        return loaded


SYNTHESES = {
    "in2": SynthesisEntry(
        "a question about segments of 128 tokens, which stand anywhere", "2404.16811",
        "information_intensive:InformationIntensive", "written_questions:WrittenQuestions",
    ),
    "rag": SynthesisEntry(
        "a question about one of many passages that are similar to it", "2410.05983",
        written="retrieved_passages:RetrievedPassages",
    ),
    "selflong": SynthesisEntry(
        "an instruction, documents that are similar to it, and an answer out of notes on their chunks", "2412.18860",
        written="instructed_documents:InstructedDocuments",
    ),
    "longmit": SynthesisEntry(
        "a question that needs a few documents, which are similar to each other", "2409.01893",
        written="linked_questions:LinkedQuestions",
    ),
    "self-lengthen": SynthesisEntry(
        "a long output, lengthened round by round", "2410.23933", written="lengthened_outputs:LengthenedOutputs"
    ),
    "tables": SynthesisEntry(
        "tables among texts, and a question that SQL answers", "2406.00605", "table_questions:TableQuestions"
    ),
    "chunks": SynthesisEntry(
        "chunks under ids: which holds a quote, which comes first, in what order they stand", "2406.00605",
        "chunk_tasks:ChunkTasks",
    ),
    "longpo": SynthesisEntry(
        "a model's answer to short evidence, preferred over its answer to the whole text", "2502.13922",
        written="answer_pairs:AnswerPairs",
    ),
}  # fmt: skip


def synthesis_class(kind: str, engine: bool, sieved: bool = False) -> type[Any]:
    """The class of a kind.

    Args:
        kind: of ``SYNTHESES``.
        engine: whether there is an engine.
        sieved: whether one is to answer questions, so that it need not write them.

    Raises:
        UserError: if there is no such kind, or none of it with or without an engine, or none to answer.
    """
    if kind not in SYNTHESES:
        hint = did_you_mean(kind, SYNTHESES)
        raise UserError(f"no questions {kind!r}{hint}", f"There are {', '.join(SYNTHESES)}.")
    if sieved and not engine:
        raise UserError("whether rows are grounded or robust is asked of an engine", NAME_ONE)
    found = SYNTHESES[kind].load(engine)
    if found is None and engine and sieved:
        found = SYNTHESES[kind].load(engine=False)
    if found is None and engine:
        raise UserError(f"no engine writes {kind}", "Leave --engine out, or have it answer: --grounded, --robust.")
    if found is None:
        raise UserError(f"{kind} is written by an engine", NAME_ONE)
    return found


def options_of(cls: type[Any]) -> frozenset[str]:
    """Names of what may be said of a synthesis, besides the engine."""
    return frozenset(one.name for one in fields(cls)) - {ENGINE}


def synthesis(cls: type[Any], options: Mapping[str, Any], engine: Engine | None) -> Questions:
    """Made of its options."""
    made: Questions = cls(**options, **({} if engine is None else {ENGINE: engine}))
    return made
