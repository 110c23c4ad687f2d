"""The one list of tasks: what they are called, where they are, what they are made from, how they are asked.

A task is added by one line in ``TASKS``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ropewalk.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ropewalk.evaluation.tasks.base import Task

PPL = "ppl"  # no task with samples: perplexity by length and loss by position

# How a task is asked at one length: "spread": one question per context, at depths that cover it evenly; "grid": at
# every depth of a grid, in one haystack per round; "planted": the same with the needles of all cells in one haystack;
# "questions": several questions per context where the task has them.
Asked = Literal["spread", "grid", "planted", "questions"]


@dataclass(frozen=True)
class Entry:
    """A task of the list.

    Attributes:
        target: "module:callable" that makes the task.
        family: the suite that it belongs to.
        title: as in reports.
        asked: see ``Asked``.
        options: arguments of the callable.
        material: arguments of the callable that ``Material`` has.
    """

    target: str
    family: str
    title: str
    asked: Asked = "questions"
    options: Mapping[str, Any] = field(default_factory=dict)
    material: tuple[str, ...] = ()


NIAH = "ropewalk.evaluation.tasks.niah:NeedleInHaystack"
HAY = ("haystack", "sentence_ends")
TASKS: dict[str, Entry] = {
    "passkey": Entry("ropewalk.evaluation.tasks.passkey:Passkey", "retrieval", "Passkey", "spread"),
    "niah": Entry(NIAH, "retrieval", "Needle in a haystack", "grid", material=HAY),
    "niah-planted": Entry(NIAH, "retrieval", "Needle among needles", "planted", material=HAY),
}


class Material:
    """What tasks are made from, for one tokenizer; each part is made when it is first asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = getattr(self, f"_{name}")()
        return self._made[name]

    def _haystack(self) -> tuple[int, ...]:
        """Token ids of the language reference that Python ships."""
        from ropewalk.demo.corpus import topics
        from ropewalk.evaluation.documents import token_ids

        return tuple(token_ids(topics(), self.tokenizer))

    def _sentence_ends(self) -> frozenset[int]:
        """Ids of the haystack that end a sentence."""
        ids = set(self["haystack"])
        return frozenset(i for i in ids if str(self.tokenizer.decode([i])).rstrip().endswith((".", "!", "?")))


def entry(name: str) -> Entry:
    """The entry called ``name``.

    Raises:
        UserError: if there is none; the nearest name is offered.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}", f"Known: {', '.join((PPL, *TASKS))}.")
    return TASKS[name]


def make(name: str, material: Material) -> Task:
    """The task called ``name``.

    Raises:
        UserError: if there is none.
    """
    found = entry(name)
    module, _, attribute = found.target.partition(":")
    given = {part: material[part] for part in found.material}
    task: Task = getattr(import_module(module), attribute)(**found.options, **given)
    return task
