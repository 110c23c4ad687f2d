"""Latent list: what a Python list holds after many lines, few of them changing it (Michelangelo, arXiv 2409.12640).

The idea is the paper's; lines, numbers and scores are ours. The text is a program that Python would run: the asked list
is changed in a fixed number of places, spread over it, and everything else provably changes nothing: two lines that
undo each other in any state, a line about another list, a line that prints one. So the length grows and the answer does
not.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ropewalk.tasks.assembly import joined
from ropewalk.tasks.context import SPARE, Context, Question, SharedContext, context_tokens, fitting, label, pose, quiet
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

NUMBERS = range(1, 100)
LISTS = ("a", "b", "c", "d")  # the first one is asked about
SIZES = range(4, 9)  # of a list
SCALE, DIGITS = 10.0, 9  # of an error in a number that is graded; a longer one is not near
INTRODUCTION = " Below are lines of Python, each up to a semicolon, that are run one after the other."
SLICE = "slice"  # of a list, a view as those of the whole
WHOLE: dict[str, Callable[[list[int]], int]] = {"len": len, "sum": sum, "min": min, "max": max}
LINE = re.compile(r" ([a-d])(?: = (\[[\d, ]*\])|\.(append|insert|pop|remove|sort|reverse)\(([\d, ]*)\));")
LIST = re.compile(r"\[[\d, ]*\]")


@dataclass(frozen=True)
class LatentList(SharedContext):
    """A view of the list at the end; each of five is asked as often, so that no constant answer is often right.

    Attributes:
        relevant: how many lines change the asked list.
    """

    relevant: int = 5
    name: str = field(init=False, default="latent-list-like")
    scope: str = "large"
    diffusion: str = "high"
    free: bool = True

    def __post_init__(self) -> None:
        label(self, name=f"latent-list-like_{self.relevant}")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """One question per depth about one program; the depths are not used, lines that change the list are spread."""
        lists = {name: [rng.choice(NUMBERS) for _ in range(rng.choice(SIZES))] for name in LISTS}
        first = "".join(f" {name} = {values};" for name, values in lists.items())
        changes = [change("a", lists["a"], rng) for _ in range(self.relevant)]
        questions = [view(kind, lists["a"], rng) for kind in _in_turn(rng, len(depths))]
        head, own = units.ids(INTRODUCTION), [units.ids(line) for line in (first, *changes)]
        n_idle = context_tokens(self.name, n_tokens, units, questions, units.bos, head, *own)
        lines = fitting(n_idle, idle(lists, rng), units)
        places = sorted(rng.randint(0, len(lines)) for _ in changes)
        for place, line in reversed(list(zip(places, own[1:], strict=True))):
            lines.insert(place, line)
        text = joined([own[0], *lines])
        front = units.bos + quiet(n_idle - sum(map(len, lines)) + sum(map(len, own[1:])), units) + head
        return pose(Context(front + text, len(front)), questions, n_tokens, units)

    def solve(self, prompt_text: str) -> str:
        """The view of the list, after the lines were followed one by one."""
        program, _, asked = prompt_text.rpartition(" What does print(")
        lists: dict[str, list[int]] = {}
        for name, start, does, given in LINE.findall(program):
            if start:
                lists[name] = [int(one) for one in re.findall(r"\d+", start)]
            else:
                follow(lists[name], does, [int(one) for one in re.findall(r"\d+", given)])
        a = lists["a"]
        if found := re.match(r"a\[(\d+):(\d+)\]", asked):
            return str(a[int(found[1]) : int(found[2])])
        return str(WHOLE[asked[:3]](a))

    def guess(self, prompt_text: str) -> str:
        """A usual length, which a fifth of the questions ask for."""
        return str(sum(SIZES) // len(SIZES))

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the first list or number is the right one."""
        return float(_said(prediction, sample) == re.findall(r"\d+", sample.text))

    def readings(self, prediction: str, sample: Sample) -> dict[str, float]:
        """How near a number is: exp(-error / ``SCALE``); a list is right or wrong."""
        if sample.text[0] == "[":
            return {}
        said = _said(prediction, sample)
        near = math.exp(-abs(int(said[0]) - int(sample.text)) / SCALE) if said and len(said[0]) < DIGITS else 0.0
        return {"nearness of a number": near}


def _said(prediction: str, sample: Sample) -> list[str] | None:
    """The numbers of the first list, or the first number, whichever is asked for."""
    found = re.search(LIST if sample.text[0] == "[" else r"(?<![\w.])\d+(?![\w.]*\d)", prediction)
    return re.findall(r"\d+", found[0]) if found else None


def _in_turn(rng: random.Random, n: int) -> list[str]:
    """``n`` kinds of views, each as often as any other but for one."""
    kinds = rng.sample([SLICE, *WHOLE], len(WHOLE) + 1)
    return [kinds[i % len(kinds)] for i in range(n)]


def view(kind: str, values: list[int], rng: random.Random) -> Question:
    """A question about a list, and its answer."""
    start = rng.randrange(len(values) - 1)
    end = rng.randint(start + 1, min(len(values), start + 3))
    said, answer = {
        SLICE: (f"a[{start}:{end}]", str(values[start:end])),
        **{name: (f"{name}(a)", str(whole(values))) for name, whole in WHOLE.items()},
    }[kind]
    return Question(f" What does print({said}) print at the end? It prints", answer, facts={"view": kind}, spare=SPARE)


def follow(values: list[int], does: str, given: list[int]) -> None:
    """Does to a list what a line says."""
    if does == "append":
        values[len(values) :] = given
    elif does == "insert":
        values[given[0] : given[0]] = given[1:]
    elif does == "pop":
        del values[given[0] if given else -1]
    elif does == "remove":
        del values[values.index(given[0])]
    elif does == "sort":
        values[:] = sorted(values)
    else:
        values[:] = values[::-1]


def change(name: str, values: list[int], rng: random.Random) -> str:
    """A line that changes a list, which is changed; its size stays near where lists begin."""
    lines = []
    if len(values) < SIZES.stop:
        lines += [f"{name}.append({rng.choice(NUMBERS)})"]
        lines += [f"{name}.insert({rng.randrange(len(values))}, {rng.choice(NUMBERS)})"]
    if len(values) > SIZES.start:
        lines += [f"{name}.pop({rng.randrange(len(values))})", f"{name}.remove({rng.choice(values)})"]
    if values != sorted(values):
        lines.append(f"{name}.sort()")
    if values != values[::-1]:
        lines.append(f"{name}.reverse()")
    line = f" {rng.choice(lines)};"
    ((_, _, does, given),) = LINE.findall(line)
    follow(values, does, [int(one) for one in re.findall(r"\d+", given)])
    return line


def idle(lists: dict[str, list[int]], rng: random.Random) -> Iterator[str]:
    """Lines without end that leave the asked list as it is, wherever they stand; other lists are changed."""
    while True:
        kind, number, name = rng.randrange(6), rng.choice(NUMBERS), rng.choice(LISTS[1:])
        if kind == 0:
            yield f" a.append({number}); a.pop();"
        elif kind == 1:
            yield f" a.insert(0, {number}); a.pop(0);"
        elif kind == 2:
            yield " a.reverse(); a.reverse();"
        elif kind == 3:
            yield f" print({rng.choice(LISTS)});"
        else:
            yield change(name, lists[name], rng)
