"""The ledger of claims: complete, true to what is here, and judged by the whole interval."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pytest

from claims.ledger import JUDGED, RESULTS, ROOT, RUNS, Judgement, Row, ledger, rows, systems
from ropewalk.encoders.encoder_entries import ENCODER_METHODS
from ropewalk.lab.encoding_entries import ENCODINGS
from ropewalk.methods.carriers.carrier_entries import CARRIER_METHODS
from ropewalk.methods.catalogue import CATALOGUE
from ropewalk.tasks.benchmarks import MODULES
from ropewalk.tasks.registry import TASKS
from ropewalk.training.recipes.recipe_entries import RECIPES
from ropewalk.workflows.strategy_entries import STRATEGIES

LISTS = {
    "method": {entry.id for entry in CATALOGUE}, "carrier method": {entry.id for entry in CARRIER_METHODS},
    "encoder method": {entry.id for entry in ENCODER_METHODS}, "recipe": {entry.id for entry in RECIPES},
    "encoding": {entry.id for entry in ENCODINGS}, "strategy": {entry.id for entry in STRATEGIES},
    "tasks": {entry.family for entry in TASKS.values()}, "benchmark": {*MODULES},
}  # fmt: skip
NO_PAPER = {"none", "full", "truncation", "yarn-temperature", "leaky-rerope", "recursive"}


@pytest.mark.parametrize("system", systems(), ids=lambda one: one.id)
def test_what_is_said_to_be_here_is_here(system):
    for one in system.here:
        kind, _, name = one.rpartition(" ")
        if kind == "module":
            assert find_spec(f"ropewalk.{name}"), one
        elif kind == "verb":
            assert (ROOT / "ropewalk" / "verbs" / f"{name}.py").is_file(), one
        else:
            assert name in LISTS[kind], one


def test_every_method_and_recipe_of_a_paper_is_in_the_ledger():
    known = {system.source for system in systems()}
    papers = {entry.id: entry.paper for entry in (*CATALOGUE, *RECIPES) if entry.paper and entry.id not in NO_PAPER}
    assert {name: paper for name, paper in papers.items() if paper not in known} == {}


def test_a_system_stands_there_once():
    every = systems()
    for key in ("id", "source", "title"):
        assert [name for name, n in Counter(getattr(one, key) for one in every).items() if n > 1] == []
    groups = [one.group for one in every]
    assert len(dict.fromkeys(groups)) == sum(a != b for a, b in zip(groups, [None, *groups], strict=False))


def test_every_row_is_of_a_system_and_has_a_script():
    known, found = {system.source for system in systems()}, rows()
    assert {row.source for row in found} <= known
    for row in found:
        script = row.command.split()[1]
        assert (ROOT / script).is_file(), row.command
        assert row.n > 0 and (row.measured is None or row.low is None or row.low <= row.measured <= row.high)


def test_what_can_be_run_is_there():
    assert all((ROOT / "claims" / line.split()[0]).is_file() for _, line in RUNS)


@pytest.mark.parametrize(("low", "high", "holds"), [(0.8, 0.9, True), (0.8, 1.1, False), (1.1, 1.2, False)])
def test_a_claim_holds_if_its_whole_interval_does(low, high, holds, tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text(f'{{"value": {(low + high) / 2}, "low": {low}, "high": {high}, "n": 3}}')
    monkeypatch.setattr("claims.ledger.RESULTS", tmp_path)
    assert Judgement("s", "below 1", "x.json", lambda content: content, below=1).row().holds is holds
    assert Judgement("s", "above 1", "x.json", lambda content: content, above=1).row().holds is (low > 1)


def test_every_judgement_reads_its_result():
    assert all(isinstance(one.row(), Row) and (RESULTS / one.file).is_file() for one in JUDGED)


def test_the_ledger_says_what_was_not_measured_and_what_does_not_hold():
    text = ledger()
    assert all(verdict in text for verdict in ("**holds**", "does not hold at this size", "not measured yet"))
    assert all(system.title in text for system in systems())
