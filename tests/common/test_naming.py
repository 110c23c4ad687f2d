"""Names as people write them."""

import pytest

from ropewalk.common.errors import did_you_mean
from ropewalk.common.naming import find, plain

KNOWN = ["ntk-aware", "niah_single_1", "llama.cpp", "LongRoPE"]


@pytest.mark.parametrize(("word", "name"), [
    ("ntk-aware", "ntk-aware"), ("NTK_Aware", "ntk-aware"), ("ntk aware", "ntk-aware"), ("ntkaware", "ntk-aware"),
    ("niah-single-1", "niah_single_1"), ("LLAMA-CPP", "llama.cpp"), ("longrope", "LongRoPE"),
    ("ntk", None), ("", None), ("--", None),
])  # fmt: skip
def test_case_and_separators_do_not_matter(word, name):
    assert find(word, KNOWN) == name
    assert name is None or plain(word) == plain(name)


def test_what_is_spelled_exactly_goes_first():
    assert find("a-b", ["a_b", "a-b", "ab"]) == "a-b"


@pytest.mark.parametrize("word", ["nosuch", "zzz", "foobar", "qqqq-7"])
def test_where_nothing_is_near_nothing_is_suggested(word: str) -> None:
    from ropewalk.tasks.registry import TASKS

    assert did_you_mean(word, TASKS) == ""
