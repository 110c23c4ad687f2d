"""Benchmarks as tasks: their subsets by name, graded by rule or by a named judge whose grades are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ropewalk import __version__
from ropewalk.common.errors import UserError
from ropewalk.common.store import Records, content_key
from ropewalk.tasks.benchmarks import benchmark
from ropewalk.tasks.benchmarks.judge import Judge
from ropewalk.tasks.benchmarks.question import ALL, Benchmark, JudgedScore, Question, Score, Subset


def subsets(
    names: Sequence[str], rows: str, judge: Judge | None, store: Records
) -> tuple[dict[str, Subset], list[tuple[str, str]]]:
    """Subsets of benchmarks as tasks.

    Args:
        names: "BENCHMARK/SUBSET" or "BENCHMARK/all".
        rows: file, folder or hub id of a benchmark, of several a folder with one folder each.
        judge: a language model that grades; without one, questions that need it are left out.
        store: where its grades are kept.

    Returns:
        Tasks by name, and (name, reason) of what is left out: bad rows, and questions that need a judge.

    Raises:
        UserError: if there is no such benchmark, subset or file, or no row that can be read, naming file and line.
    """
    wanted: dict[str, list[str]] = {}
    for name in names:
        wanted.setdefault(name.partition("/")[0], []).append(name.partition("/")[2])
    made, left_out = {}, []
    for name, parts in wanted.items():
        found = benchmark(name)
        if not rows:
            raise UserError(
                f"{name} asks about texts that are not there", f"Download {found.home}; give --rows FOLDER."
            )
        source = str(Path(rows) / name) if len(wanted) > 1 else rows
        bad: list[tuple[str, str]] = []
        questions = found.load(source, None if ALL in parts else parts, bad)
        by_subset: dict[str, list[Question]] = {}
        for one in questions:
            by_subset.setdefault(one.subset, []).append(one)
        for subset, some in by_subset.items():
            asked = tuple(one for one in some if judge is not None or one.metric not in found.judged)
            if len(asked) < len(some):
                metric = next(one.metric for one in some if one.metric in found.judged)
                why = f"{metric} is given by a language model, and no judge was named"
                left_out.append((f"{name}/{subset}", f"{len(some) - len(asked)} of {len(some)} questions: {why}"))
            if asked:
                task = Subset(found, subset, asked, grade(found, judge, store))
                made[task.name] = task
        if not by_subset:
            why = "".join(f"; {reason}" for _, reason in bad[:1])
            raise UserError(f"{source} holds no question of {name}{why}", f"Download {found.home}; give --rows FOLDER.")
        left_out += [(f"{name}/{subset}", why) for subset, why in bad]
    return made, left_out


def grade(found: Benchmark, judge: Judge | None, store: Records) -> Score:
    """The score of an answer; a judge is asked once for each."""
    kept: Mapping[str, JudgedScore] = {metric: _kept(score, store) for metric, score in found.judged.items()}

    def graded(prediction: str, question: Question) -> float:
        prediction = question.answer(prediction)
        if question.metric not in kept:
            return found.score(prediction, question)
        assert judge is not None
        return kept[question.metric](judge, prediction, question)

    return graded


def _kept(score: JudgedScore, store: Records) -> JudgedScore:
    def scored(judge: Judge, prediction: str, question: Question) -> float:
        about = repr(replace(question, source=""))
        key = content_key({"judge": repr(judge), "about": about, "prediction": prediction, "version": __version__})
        if key not in (records := store.get([key])):
            records[key] = {"judge": judge.name, "id": question.id, "score": score(judge, prediction, question)}
            store.put(records)
        return float(records[key]["score"])

    return scored
