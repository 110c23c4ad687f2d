"""Printed lines are what they say, whatever stands in names and values."""

from __future__ import annotations

import json
import shlex

import pytest

from ropewalk.common.command_lines import command, setting

STRANGE = ["plain", "two words", "author's", '"quoted"', "$HOME", "a;b", "", "back\\slash", "new\nline"]


@pytest.mark.parametrize("word", STRANGE)
def test_words_come_back_from_a_shell(word):
    assert shlex.split(command("plan", word, "--to", 4096)) == ["ropewalk", "plan", word, "--to", "4096"]
    changes = {"rope_scaling.note": word, "other": [1.5, {word: None}], "gone": None}
    begin, *words = shlex.split(setting(word, changes))[1:]
    assert (begin, words[0]) == ("inspect", word) and words[1::2] == ["--set"] * 3
    read = dict(one.split("=", 1) for one in words[2::2])
    assert {key: json.loads(value) for key, value in read.items()} == changes
