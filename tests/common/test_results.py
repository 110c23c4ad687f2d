"""Results are read by people at a prompt and in a notebook, and by programs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

import ropewalk
from ropewalk.cli.main import run
from ropewalk.common.results import Result, columns


@dataclass(frozen=True, repr=False)
class Answer(Result):
    name: str
    where: Path

    def show(self, console: Console) -> None:
        table = columns("name", ">length")
        table.add_row(self.name, "7")
        console.print(table)
        console.print(Text("long line " * 30, "bold"), "<&>", sep="", soft_wrap=True)


def test_a_result_reads_as_its_table():
    shown = repr(Answer("a", Path("x")))
    assert re.match(r"name +length *\na +7 *\n(long line ){30}<&>$", shown), shown


def test_a_notebook_shows_the_same_words():
    page = Answer("a", Path("x"))._repr_html_()
    assert "&lt;&amp;&gt;" in page and ">length</th>" in page and ">7</td>" in page


def test_json_has_everything_in_plain_values():
    assert json.loads(Answer("a", Path("x")).to_json()) == {"name": "a", "where": "x"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, tuple[Result, list[str]]]:
    """Verb -> what it answers in Python, and the command line that asks the same."""
    folder = tmp_path_factory.mktemp("results")
    out = folder / "long"
    extended = ropewalk.extend("demo", to="1k", out=out)
    asked = {
        "inspect": ropewalk.inspect("demo"),
        "plan": ropewalk.plan("demo", to="1k", memory="24G"),
        "extend": extended,
        "export": ropewalk.export(out, engine="vllm"),
        "check-export": ropewalk.check_export(out),
        "methods": ropewalk.list_methods(),
        "tasks": ropewalk.list_tasks(),
    }
    lines = {
        "inspect": ["demo"],
        "plan": ["demo", "--to", "1k", "--memory", "24G"],
        "extend": ["demo", "--to", "1k", "-o", str(out), "--overwrite"],
        "export": [str(out), "-e", "vllm"],
        "check-export": [str(out)],
        "methods": [],
        "tasks": [],
    }
    return {name: (asked[name], [name, *lines[name]]) for name in asked}


@pytest.mark.parametrize("name", ["inspect", "plan", "extend", "export", "check-export", "methods", "tasks"])
def test_python_and_the_shell_answer_alike(name, results, capsys):
    answer, line = results[name]
    assert isinstance(answer, Result) and type(answer).__repr__ is Result.__repr__
    assert run(line) == (0 if answer.sound else 1)
    assert [row.rstrip() for row in capsys.readouterr().out.splitlines()] == [
        row.rstrip() for row in repr(answer).splitlines()
    ]
    assert run([*line, "--json"]) == (0 if answer.sound else 1)
    assert json.loads(capsys.readouterr().out) == json.loads(answer.to_json())
    assert "<table>" in answer._repr_html_() or name in ("extend", "export")  # these print no table


def test_typed_answers_can_be_asked(results):
    assert results["inspect"][0].window == 512 and results["plan"][0].scale == 2
    assert results["extend"][0].folder.is_dir() and results["export"][0].profiles[-1].length == 1024
    assert {row.engine for row in results["check-export"][0].rows} >= {"vllm", "sglang"}


def test_load_gives_a_model_and_its_tokenizer():
    model, tokenizer = loaded = ropewalk.load("demo", dtype="float32")
    assert loaded.model is model and not model.training and str(model.dtype) == "torch.float32"
    assert len(tokenizer("def f(x):").input_ids) > 1
    lines = repr(loaded).splitlines()
    assert len(lines) == 3 and "LlamaForCausalLM" in lines[0] and "float32 on cpu" in lines[1], "no tree of modules"
    assert f"{len(tokenizer):,} tokens" in lines[2]
    assert lines[1] in loaded._repr_html_() and json.loads(loaded.to_json()) == loaded.to_dict()
