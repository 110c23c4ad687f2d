"""``ropewalk check-export`` as a user meets it: its exit code, and mends that can be pasted."""

from __future__ import annotations

import json
import shlex

import ropewalk
from ropewalk.cli.main import run
from tests import cases


def test_a_length_that_an_engine_would_not_take_is_no_success_until_the_printed_mend_ran(tmp_path, capsys):
    folder = cases.write(tmp_path / "my model", cases.llama(2048, rope_theta=1e4))
    (tmp_path / "my model" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    assert run(["check-export", folder]) == 1
    printed = capsys.readouterr().out
    assert "vllm needs 2048" in printed
    (mend,) = {line.strip() for line in printed.splitlines() if line.startswith("  ropewalk")}
    assert run(shlex.split(mend)[1:]) == 0
    assert "no" not in capsys.readouterr().out.split()


def test_a_length_that_a_launch_line_states_is_fine_and_the_line_is_whole(tmp_path, capsys):
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    folder = cases.write(tmp_path / "m", cases.llama(2048, rope_parameters=rope, rope_theta=1e4, rope_scaling=rope))
    rows = {row.engine: row for row in ropewalk.check_export(folder).rows}
    assert not rows["vllm"].same_length and rows["vllm"].usable
    run(["check-export", folder])
    printed = capsys.readouterr().out
    assert "by its line" in printed and f"  vllm serve {folder} --max-model-len 2048" in printed.splitlines()
    assert "..." not in printed


def test_a_gguf_file_is_refused_in_words(capsys):
    assert run(["check-export", "m.gguf"]) == 2
    said = capsys.readouterr().err
    assert "check-export is about a folder" in said and "ropewalk inspect m.gguf" in said and "Errno" not in said
