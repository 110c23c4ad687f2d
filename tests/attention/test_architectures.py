"""Architectures: regions that change nothing change nothing, and the table of docs/architectures.md says so."""

from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.architectures import ALLOWED, ARCHITECTURES, build, line, without_rotation

PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text("utf-8")
ROWS = [text for text in PAGE[PAGE.index("| architecture") :].splitlines()[2:] if text.startswith("| ")]
names = pytest.mark.parametrize("name", ARCHITECTURES)


def test_the_table_has_all_architectures_and_no_other():
    assert [text.split(" | ")[0].removeprefix("| ") for text in ROWS] == sorted(ARCHITECTURES)


def test_forty_architectures_are_exact_and_every_other_one_is_refused():
    exact = [text for text in ROWS if text.endswith("| exact |")]
    assert len(exact) >= 40
    assert all("refused: " in text for text in ROWS if text not in exact)


@names
def test_a_row_of_the_table_is_what_the_model_does(name):
    if name.split(" ")[0] not in CONFIG_MAPPING:
        pytest.skip("not in this version of transformers")
    assert line(name) in ROWS


@pytest.mark.parametrize("name", [text.split(" | ")[0].removeprefix("| ") for text in ROWS if "| exact |" in text])
def test_it_would_show_if_rotations_were_lost(name):
    if name.split(" ")[0] not in CONFIG_MAPPING:
        pytest.skip("not in this version of transformers")
    assert without_rotation(build(name)) > 0.1 > 1000 * ALLOWED
