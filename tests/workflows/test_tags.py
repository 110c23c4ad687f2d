"""A tag of a prompt stands nowhere in its text."""

from __future__ import annotations

import pytest

from ropewalk.workflows.tags import unused


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("plain <p> text", "para 3"), "para"),
        (("<para 3>",), "parax"),
        (("x", "</ PARA>"), "parax"),
        (("<paragraph>",), "parax"),
        (("<para_1> <parax>", "< paraxx 2>"), "paraxxx"),
    ],
)
def test_it_stands_in_no_text(texts: tuple[str, ...], expected: str) -> None:
    assert unused("para", *texts) == expected
