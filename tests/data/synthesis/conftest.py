"""For all tests of syntheses."""

import pytest

from ropewalk.data.synthesis import drawing


@pytest.fixture
def few_draws(monkeypatch) -> int:
    """How many draws in vain end the work, made few."""
    monkeypatch.setattr(drawing, "FIRST", 4)
    monkeypatch.setattr(drawing, "FRUITLESS", 8)
    return 8
