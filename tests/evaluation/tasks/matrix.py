"""Every task with small material, and how to change the fact that its answer depends on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ropewalk.demo.corpus import held_out_sources, topics
from ropewalk.evaluation.tasks.altered_qa import AlteredNumericQA, Page
from ropewalk.evaluation.tasks.base import Sample, Task
from ropewalk.evaluation.tasks.lines import Lines
from ropewalk.evaluation.tasks.val_probing import ValCode, ValDatabase, ValDocument, functions, sentences

PAGES = (
    Page("The mill at Oakby was built in 1731. It has 12 wheels, and burnt down in 1731 and in 1840.", "When was the mill at Oakby built?", "1731"),
    Page("Heronton counts 12,480 people.\nIt lies 60 miles from the sea.", "How many people live in Heronton?", "12,480"),
)  # fmt: skip
TEXT = sentences(topics()[:60_000])
CODE = functions([source for name, source in held_out_sources().items() if name in ("fractions", "shutil")])


@dataclass(frozen=True)
class Case:
    """A task to test.

    Attributes:
        task: with small material.
        lengths: tokens to ask for.
        perturb: the prompt's text with another fact where the answer stands.
    """

    task: Task
    perturb: Callable[[str, Sample], str]
    lengths: tuple[int, ...] = (600, 601, 2000)


def swap(pattern: str, new: str | Callable[[re.Match[str]], str]) -> Callable[[str, Sample], str]:
    """Replaces the first match of a pattern, in which {answer} is the sample's."""

    def perturb(text: str, sample: Sample) -> str:
        changed, n = re.subn(pattern.replace("{answer}", re.escape(sample.text)), new, text, count=1)
        assert n == 1, (pattern, text)
        return changed

    return perturb


CASES = {
    "lines": Case(Lines(), swap(r"is {answer}\.", "is <77>.")),
    "lines uuids": Case(Lines(keys="uuids"), swap(r"is {answer}\.", "is <77>.")),
    "lines letters": Case(Lines(keys="letters"), swap(r"is {answer}\.", "is <77>.")),
    "altered_qa": Case(AlteredNumericQA(PAGES), swap(r"(built in|counts) {answer}", r"\1 1999")),
    "val_database": Case(ValDatabase(), swap("label: {answer}>", "label: other, description: another>")),
    "val_code": Case(ValCode(CODE), swap(r"def {answer}\b", "def other"), (1500, 1501, 4000)),
    "val_document": Case(ValDocument(TEXT), swap("{answer}", "Gone."), (1000, 1001, 4000)),
}
