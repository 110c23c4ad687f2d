"""Papers' setups: what they name exists, at full size and quick, and what a user says counts more."""

import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.lab.battery import shortest
from ropewalk.lab.encoding_entries import encoding
from ropewalk.lab.lab_page import page_of_lab
from ropewalk.lab.setups import SETUPS, setup
from ropewalk.verbs.run_lab import RunLabRequest


@pytest.mark.parametrize("one", SETUPS, ids=lambda one: one.id)
def test_what_a_setup_names_can_be_trained_and_asked(one):
    full, quick = (RunLabRequest(setup=one.id, quick=some).grid() for some in (False, True))
    assert (full.encodings, full.tasks) == (quick.encodings, quick.tasks) == (one.encodings, one.tasks)
    small = max(16, *map(shortest, one.tasks))
    assert full.budget.window == one.window and quick.budget.window == small and quick.seeds == 1
    assert full.lengths == tuple(int(times * one.window) for times in one.times)
    assert quick.lengths == tuple(int(times * small) for times in one.times) and full.lengths[0] == one.window
    assert setup(one.id) is one and one.differs


def test_the_encoding_that_a_setup_is_named_after_is_in_it_with_its_paper():
    named = [one for one in SETUPS if one.id in ("nope", "randomized", "fire", "xpos", "kerple")]
    assert len(named) == 5
    for one in named:
        assert one.encodings[0] == one.id and encoding(one.id).paper == one.paper


def test_what_is_said_counts_beside_a_setup():
    said = RunLabRequest(setup="kerple", encodings="nope", tasks="copy", window=20, seeds=7).grid()
    assert (said.encodings, said.tasks, said.budget.window, said.seeds) == (("nope",), ("copy",), 20, 7)
    assert said.lengths == (20, 40, 80, 160) and RunLabRequest(setup="xpos", lengths="9").grid().lengths == (9,)
    with pytest.raises(UserError, match="unknown setup 'kerpl'; did you mean 'kerple'"):
        RunLabRequest(setup="kerpl").grid()


def test_the_page_says_whose_setup_it_is_and_what_differs(tmp_path):
    given = {"encodings": "nope", "quick": True, "steps": 1, "samples": 2, "width": 16, "layers": 1}
    results = ropewalk.run_lab(setup="hinting", plain=True, out=tmp_path, **given).results
    assert results.settings["setup"] == "hinting" and {row.task for row in results.rows} == {"sort", "sort_hinted"}
    text = page_of_lab(results).render()
    assert "the setup of arXiv 2310.00726, at this size: digits for numbers" in text
    assert text == page_of_lab(ropewalk.report_lab(tmp_path).results).render()
    plain = ropewalk.run_lab(tasks="copy", plain=True, out=tmp_path / "plain", **given).results
    assert "the setup of" not in page_of_lab(plain).render() and "setup" not in plain.settings
