"""``ropewalk lab`` as a user types it: what it writes, what a kill leaves, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ropewalk
from ropewalk.cli.main import run
from ropewalk.common.errors import UserError
from ropewalk.verbs.run_lab import RunLabRequest

TINY = ["--encodings", "alibi,learned", "--tasks", "copy", "--quick", "--steps", "2", "--samples", "2", "--seeds", "2",
        "--window", "12", "--width", "16", "--layers", "1"]  # fmt: skip


def test_it_trains_reports_and_is_drawn_anew(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["lab", "run", *TINY, "-o", str(out)]) == 0
    assert "ALiBi" in capsys.readouterr().out
    page, results = (out / "report.html").read_text(), json.loads((out / "results.json").read_text())
    assert "How far biases reach" in page and results["command"].startswith("ropewalk lab run --encodings alibi")
    assert len(list((out / "models").iterdir())) == 4
    (out / "report.html").unlink()
    assert run(["lab", "report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert (out / "report.html").read_text() == page


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    out = tmp_path / "out"
    line = [sys.executable, "-m", "ropewalk", "lab", "run", *TINY, "-o", str(out)]
    root = Path(ropewalk.__file__).parent.parent
    started = subprocess.Popen(
        line, env={**os.environ, "PYTHONPATH": str(root)}, cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    for _ in range(1200):
        if (out / "models").is_dir() and any(not one.name.startswith(".") for one in (out / "models").iterdir()):
            break
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.wait()
    kept = {one.name: (one / "model.safetensors").stat().st_mtime_ns for one in (out / "models").glob("[!.]*")}
    assert kept
    assert run(["lab", "run", *TINY, "-o", str(out)]) == 0
    assert run(["lab", "run", *TINY, "-o", str(tmp_path / "whole")]) == 0
    for name, stamp in kept.items():
        assert (out / "models" / name / "model.safetensors").stat().st_mtime_ns == stamp
    weights = [{one.parent.name: one.read_bytes() for one in place.glob("models/[!.]*/*.safetensors")}
               for place in (out, tmp_path / "whole")]  # fmt: skip
    assert weights[0] == weights[1] and len(weights[0]) == 4
    one, two = (json.loads((place / "results.json").read_text()) for place in (out, tmp_path / "whole"))
    assert one["rows"] == two["rows"]


@pytest.mark.slow
def test_workers_find_what_one_process_finds_and_a_kill_of_all_costs_no_finished_cell(tmp_path):
    out = tmp_path / "out"
    line = [sys.executable, "-m", "ropewalk", "lab", "run", *TINY, "--workers", "2", "-o", str(out)]
    root = Path(ropewalk.__file__).parent.parent
    started = subprocess.Popen(
        line, env={**os.environ, "PYTHONPATH": str(root)}, cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    for _ in range(2400):
        if any(out.glob("models/[!.]*")):
            break
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.wait()
    time.sleep(2)  # for the workers, which end with it
    kept = {one.parent.name: one.stat().st_mtime_ns for one in out.glob("models/[!.]*/model.safetensors")}
    assert kept
    assert run(["lab", "run", *TINY, "--workers", "2", "-o", str(out)]) == 0
    assert run(["lab", "run", *TINY, "-o", str(tmp_path / "alone")]) == 0
    for name, stamp in kept.items():
        assert (out / "models" / name / "model.safetensors").stat().st_mtime_ns == stamp
    weights = [{one.parent.name: one.read_bytes() for one in place.glob("models/[!.]*/*.safetensors")}
               for place in (out, tmp_path / "alone")]  # fmt: skip
    assert weights[0] == weights[1] and len(weights[0]) == 4
    two, one = (json.loads((place / "results.json").read_text()) for place in (out, tmp_path / "alone"))
    assert {**two, "created": "", "command": ""} == {**one, "created": "", "command": ""}


def test_other_results_are_not_replaced_and_not_drawn(tmp_path):
    given = {"tasks": "copy", "quick": True, "steps": 1, "samples": 1, "window": 12, "out": tmp_path / "out"}
    ropewalk.run_lab(encodings="nope", plain=True, **given)
    with pytest.raises(UserError, match="another experiment"):
        ropewalk.run_lab(encodings="alibi", plain=True, **given)
    assert (
        ropewalk.run_lab(encodings="alibi", plain=True, overwrite=True, **given).results.subjects[0].method == "alibi"
    )
    file = tmp_path / "out" / "results.json"
    content = json.loads(file.read_text())
    del content["settings"]["width"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="results of another command"):
        ropewalk.report_lab(tmp_path / "out")
    with pytest.raises(UserError):
        ropewalk.report_lab(tmp_path / "nowhere")


def test_what_is_said_counts_beside_quick():
    said = RunLabRequest(quick=True, steps=2000, tasks="sort", lengths="8,40").grid()
    assert said.budget.steps == 2000 and said.tasks == ("sort",) and said.lengths == (8, 40)
    assert (said.budget.window, said.budget.learning_rate, said.seeds) == (16, 5e-3, 1) and len(said.encodings) == 16
    full = RunLabRequest().grid()
    assert (full.budget.window, full.lengths, full.seeds, full.ways) == (64, (64, 128, 256), 5, True)
    assert RunLabRequest(quick=True, tasks="addition_scratchpad").grid().budget.window == 17  # its smallest row


@pytest.mark.parametrize(("words", "message"), [
    (["--encodings", "alib"], "unknown encoding 'alib'; did you mean 'alibi'"),
    (["--tasks", "cpy"], "unknown task 'cpy'; did you mean 'copy'"),
])  # fmt: skip
def test_what_is_none_is_refused(words, message, tmp_path, capsys):
    assert run(["lab", "run", *words, "-o", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
