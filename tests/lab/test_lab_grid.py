"""A grid is trained once, whatever interrupts it, and says what its cells answered."""

import json
import math
import pickle
import re
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ropewalk.common.errors import UserError
from ropewalk.common.statistics import average
from ropewalk.common.store import SampleStore
from ropewalk.lab import lab_grid as grids
from ropewalk.lab.cell import Budget, Cell, trained
from ropewalk.lab.lab_grid import Grid, is_of_the_lab, perplexity, run, tally
from ropewalk.lab.lab_page import FEWEST, page_of_lab
from ropewalk.report.schema import Results
from ropewalk.report.view import View

TINY = Budget(window=12, steps=2, batch=4, learning_rate=1e-2, width=16, layers=1, heads=2)


def grid(**changes):
    given = {"encodings": ("alibi", "learned", "nope"), "tasks": ("copy", "text"), "seeds": 2, "lengths": (12, 20)}
    return Grid(**({**given, "samples": 3, "ways": True, "budget": TINY} | changes))


def asked(one, folder, heard=lambda progress: None):
    return run(one, folder, folder / "samples.sqlite", heard)


def plain(results):
    return {**results.to_dict(), "created": ""}


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr("ropewalk.lab.temperatures.STEPS", 2)


@pytest.fixture
def counted(monkeypatch):
    """The cells that are trained."""
    seen, trained = [], grids.trained

    def train(cell, budget):
        seen.append(cell)
        return trained(cell, budget)

    monkeypatch.setattr(grids, "trained", train)
    return seen


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, counted):
    whole = asked(grid(), tmp_path / "one")
    assert len(counted) == 12 and asked(grid(), tmp_path / "one").rows == whole.rows and len(counted) == 12

    def stop(progress):
        if progress.done == 5:
            raise KeyboardInterrupt

    counted.clear()
    with pytest.raises(KeyboardInterrupt):
        asked(grid(), tmp_path / "two", stop)
    assert len(counted) == 5
    assert plain(asked(grid(), tmp_path / "two")) == plain(whole)
    assert counted == list(grid().cells)


def test_cells_run_on_one_thread_whatever_the_machine_has(tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(grids, "trained", lambda *given: seen.append(torch.get_num_threads()) or trained(*given))
    torch.set_num_threads(2)
    try:
        asked(grid(encodings=("nope",), tasks=("copy",), seeds=1), tmp_path)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_do_all_cells_before_they_are_gathered(tmp_path, monkeypatch):
    """Processes are those of ``on_processes``; here it is a loop, with no memory between its parts."""
    done, heard = [], []

    def loop(work, cells, workers):
        for cell in cells:
            pickle.loads(pickle.dumps(work))(cell)
            done.append(cell)
            yield cell

    whole = asked(grid(), tmp_path / "one")
    monkeypatch.setattr(grids, "on_processes", loop)
    one = grid()
    found = run(one, tmp_path / "two", tmp_path / "two" / "samples.sqlite", heard.append, workers=2)
    assert plain(found) == plain(whole) and done == list(one.cells)
    assert [progress.done for progress in heard] == [*range(13), 12] and heard[-1].total == 12


def test_on_ray_cells_travel_as_bytes_and_stay_here(tmp_path, monkeypatch, counted):
    """Ray's part is that of ``spread``; here it is a loop that shares no folder with its parts."""
    sent = []

    @contextmanager
    def far(on, workers):
        assert (on, workers) == ("ray", 3)
        yield lambda work, things: (pickle.loads(pickle.dumps(work(sent.append(one) or one))) for one in things)

    monkeypatch.setattr(grids, "spread", far)
    one, place = grid(encodings=("nope", "learned"), tasks=("copy",)), tmp_path / "far"
    found = run(one, place, place / "samples.sqlite", lambda progress: None, 3, "ray")
    assert len(counted) == 4 and plain(found) == plain(asked(one, tmp_path / "here"))
    for name in (one.name for one in (tmp_path / "here" / "models").iterdir()):
        mine, theirs = (
            load_file(folder / "models" / name / "model.safetensors") for folder in (place, tmp_path / "here")
        )
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    more = replace(one, lengths=(12, 20, 24), ways=False)
    run(more, place, place / "samples.sqlite", lambda progress: None, 3, "ray")
    assert len(counted) == 8 and len(sent) == 8 and sent[-1][2]  # the model went there, and was not trained again
    assert len(list((place / "models").iterdir())) == 4 and counted[4:] == counted[:4]


def test_answers_of_another_length_need_no_training_and_other_steps_do(tmp_path, counted):
    asked(grid(encodings=("nope",), tasks=("copy",)), tmp_path)
    assert len(counted) == 2
    asked(grid(encodings=("nope",), tasks=("copy",), lengths=(12, 30)), tmp_path)
    assert len(counted) == 2
    more = Budget(**{**vars(TINY), "steps": 3})
    asked(grid(encodings=("nope",), tasks=("copy",), budget=more), tmp_path)
    assert len(counted) == 4


def test_a_damaged_model_is_refused(tmp_path):
    one = grid(encodings=("nope",), tasks=("copy",), seeds=1, ways=False)
    asked(one, tmp_path)
    (file,) = tmp_path.glob("models/*/model.safetensors")
    (tmp_path / "samples.sqlite").unlink()
    weights = load_file(file)
    save_file({name: one for name, one in weights.items() if name != "head.weight"}, file)
    with pytest.raises(UserError, match=r"not whole: head\.weight"):
        asked(one, tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        asked(one, tmp_path)


def test_what_was_found_and_what_was_not(tmp_path):
    results = asked(grid(), tmp_path)
    assert Results.of(json.loads(json.dumps(results.to_dict()))) == results and is_of_the_lab(results)
    methods = [one.method for one in results.subjects]
    assert methods == ["alibi", "alibi + pi", "alibi + ntk", "learned", "learned + pi", "learned + grouped",
                       "learned + recurrent", "nope", "nope + temperatures"]  # fmt: skip
    fields = results.settings["receptive fields"]
    assert fields == {"alibi": [math.ceil(math.log(100) * 16) - 1, *[math.ceil(math.log(100) * 256) - 1] * 2]}
    rows = {(row.method, row.task, row.length): row for row in results.rows}
    assert rows["nope", "copy", 12].n == 6 and rows["nope", "text", 20].n == 2
    assert ("alibi + pi", "copy", 12) not in rows and ("learned", "copy", 20) not in rows
    lost = {(one.method, one.task, one.length): one.reason for one in results.not_measured}
    assert lost.keys() == {("learned", "copy", 20), ("learned", "text", 20)}
    assert "a table of 12 positions" in lost["learned", "text", 20]
    assert View(results).repeats == "seeds" and View(replace(results, settings={})).repeats == "samples"


def test_the_numbers_are_those_of_the_records(tmp_path):
    one = grid(encodings=("nope",), tasks=("text",), lengths=(12,), seeds=1)
    row = asked(one, tmp_path).rows[0]
    with SampleStore(tmp_path / "samples.sqlite") as records:
        (record,) = (json.loads(text) for (text,) in records._found().execute("SELECT record FROM samples"))
    nats, counts = (sum(one[i] for one in record["answers"]) for i in (0, 1))
    assert row.value == pytest.approx(2.718281828459045 ** (nats / counts)) and counts == 3 * 11


def test_intervals_are_over_seeds_where_there_are_several():
    right, wrong = (0.0, 1, 0), (9.0, 1, 1)
    alone, apart = tally([[right] * 5 + [wrong] * 5]), tally([[right] * 10, [wrong] * 10])
    assert alone.mean == apart.mean == 0.5
    assert alone.effect == 1 and apart.effect == pytest.approx(10)  # ten answers of a seed say what one does
    mean = perplexity([[(2.0, 2, 0), (4.0, 2, 0)], [(1.0, 2, 0), (1.0, 2, 0)]])
    assert mean.n == 2 and mean.value == pytest.approx(2.718281828459045)
    assert perplexity([[(2.0, 2, 0), (4.0, 2, 0), (1.0, 1, 0)]]).n == 3


def test_seeds_that_agree_do_not_make_few_rows_sure():
    """All seeds are asked the same rows: what differs between rows is not made smaller by asking again."""
    rows = [(float(nats), 1, 0) for nats in (1, 2, 3, 4)]
    one, three = perplexity([rows]), perplexity([rows, rows, [(nats + 0.001, 1, 0) for nats, _, _ in rows]])
    assert three.low == pytest.approx(one.low, rel=1e-2) and three.high == pytest.approx(one.high, rel=1e-2)


def test_the_page_names_encodings_their_papers_and_seeds(tmp_path):
    text = page_of_lab(asked(grid(), tmp_path)).render()
    said = "Position encodings", "ALiBi", "How far biases reach", "1,178", "Learned positions + grouped"
    for one in (*said, "https://arxiv.org/abs/2108.12409", "trained with 2 seeds, and asked 3 rows", "has no row"):
        assert one in text, one
    assert set(re.findall('href="#(method-[^"]+)"', text)) <= set(re.findall('id="(method-[^"]+)"', text))
    assert 'id="word-receptive-field"' in text
    assert "method-1-" in text and "ropewalk methods" not in text and "--methods" not in text
    assert (
        "Of fewer than 4 trainings no two encodings are told apart on one task" in text
        and "In a checkpoint" not in text
    )
    single = page_of_lab(asked(grid(seeds=1, encodings=("nope",), tasks=("copy",)), tmp_path)).render()
    assert "With one seed, intervals say nothing of how trainings differ." in single and "Of fewer than" not in single


def test_four_trainings_are_the_fewest_that_tell_anything_on_one_task():
    right, wrong = [(0.0, 1, 0)] * 64, [(9.0, 1, 1)] * 64
    for seeds in (FEWEST - 1, FEWEST):
        best, worst = (average([tally([rows] * seeds)]) for rows in (right, wrong))
        assert (best.low > worst.high) == (seeds == FEWEST)


@pytest.mark.parametrize(("changes", "message"), [
    ({"encodings": ("alib",)}, "unknown encoding 'alib'"),
    ({"tasks": ("cpy",)}, "unknown task 'cpy'"),
    ({"tasks": ()}, "no tasks are named"),
    ({"tasks": ("copy", "addition_primed")}, "rows beyond the window, and learned has no"),
    ({"lengths": (4, 20)}, "a row that is asked has 4 bytes, and the smallest problem of copy takes 5"),
    ({"tasks": ("text", "addition_hints"), "budget": replace(TINY, window=11)}, "the window has 11 bytes"),
    ({"tasks": ("parity",), "lengths": (5, 20)}, "parity has no row of 5 bytes that is kept from training"),
])  # fmt: skip
def test_what_is_none_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        grid(**changes)


def test_cells_go_seed_by_seed():
    cells = list(grid(encodings=("nope", "rope")).cells)
    assert cells[:3] == [Cell("nope", "copy", 0), Cell("rope", "copy", 0), Cell("nope", "text", 0)]
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
