"""Tiny folders, each made once."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers")

from tests.encoders import tiny_encoders


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 32 positions that pools by the mean."""
    return tiny_encoders.folder(tmp_path_factory.mktemp("encoder") / "bert")
