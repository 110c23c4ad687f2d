"""Samples that show what a score means: how good it can get, and how good it gets without the information.

"ceiling": the same questions with hardly any other text around the information. "closed book": the question alone.
"altered": the information is there, but says something else; the old answer must not come. "guess": no samples of their
own, but what the task's best guess scores on those that are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ropewalk.evaluation.samples import Cell, QuestionCell
from ropewalk.tasks.task import Sample, TooShort

CEILING, CLOSED_BOOK, ALTERED, GUESS = "ceiling", "closed book", "altered", "guess"
GROWTH = 1.1  # from one tried length to the next


@dataclass(frozen=True)
class FixedCell(Cell):
    """Samples that were made from those of another cell."""

    made: tuple[Sample, ...] = ()

    def sample(self, i: int) -> Sample:
        return self.made[i]


def controls(cell: Cell, n: int) -> dict[str, Cell]:
    """The controls of a task, by name; those that its samples do not allow are left out.

    Args:
        cell: samples at a length that the model was trained on.
        n: how many samples a control has at most.
    """
    ceiling = shortest(cell, n)
    found: dict[str, Cell] = {CEILING: ceiling}
    samples = list(cell.samples(range(min(n, len(cell)))))
    made = {
        CLOSED_BOOK: [without_context(one, cell.units.bos) for one in ceiling.samples(range(len(ceiling)))],
        ALTERED: [altered(one, samples) for one in samples],
    }
    for name, some in made.items():
        usable = tuple(one for one in some if one is not None and not still_says(one, cell))
        if usable and len(usable) == len(some):
            depths = (None,) * len(usable)
            found[name] = FixedCell(
                cell.task, cell.length, depths, cell.seed, cell.units, f"{cell.name}: {name}", usable
            )
    return found


def guessed(cell: Cell) -> list[list[float]]:
    """The scores of the task's best guess on the samples about each text; empty where there is nothing to guess."""
    texts: dict[int, list[float]] = {}
    for i, sample in enumerate(cell.samples(range(len(cell)))):
        guess = cell.task.guess(cell.units.decode(sample.prompt))
        if not guess:
            return []
        texts.setdefault(cell.context(i), []).append(cell.task.score(guess, sample))
    return list(texts.values())


def still_says(sample: Sample, cell: Cell) -> bool:
    """Whether the prompt still gives the answer: by the task's own solver, it does."""
    try:
        return cell.task.score(cell.task.solve(cell.units.decode(sample.prompt)), sample) == 1.0
    except Exception:  # a solver may rely on what is no longer there
        return False


def shortest(cell: Cell, n: int) -> Cell:
    """``n`` samples of a cell's task at the smallest length (within 10 %) that holds all of them."""
    length, name = 8, f"{cell.name}: {CEILING}"
    while True:
        try:
            if isinstance(cell, QuestionCell):
                return QuestionCell(cell.task, length, (None,) * n, cell.seed, cell.units, name)
            return Cell(cell.task, length, (0.5,) * n, cell.seed, cell.units, name)
        except TooShort:
            if length >= cell.length:
                raise
            length = min(cell.length, max(length + 1, int(length * GROWTH)))


def without_context(sample: Sample, bos: Sequence[int]) -> Sample | None:
    """The prompt without its text; of one that is none with a question behind it, what stands behind the answer.

    None if that is said nowhere.
    """
    if sample.after:
        return replace(sample, prompt=[*sample.prompt[: sample.before], *sample.prompt[-sample.after :]])
    found = places(sample.prompt, sample.answer)
    rest = sample.prompt[found[-1] + len(sample.answer) :] if found else []
    return replace(sample, prompt=[*bos, *rest]) if rest else None


def altered(sample: Sample, others: Sequence[Sample]) -> Sample | None:
    """The prompt with another sample's answer wherever its own stood; None if it says its own nowhere."""
    new = next((o.answer for o in others if len(o.answer) == len(sample.answer) and o.answer != sample.answer), None)
    found = places(sample.prompt, sample.answer)
    if new is None or not found:
        return None
    prompt = list(sample.prompt)
    for at in found:
        prompt[at : at + len(new)] = new
    return replace(sample, prompt=prompt)


def places(prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
    """Where ``answer`` stands in ``prompt``."""
    last = len(prompt) - len(answer)
    wanted = list(answer)
    return [i for i in range(last + 1) if prompt[i] == wanted[0] and list(prompt[i : i + len(wanted)]) == wanted]
