"""A folder of a tiny model, and one of texts."""

import pytest

from tests.models import tiny
from tests.tokenizers import VOCABULARY, byte_level


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny("llama", vocab_size=VOCABULARY).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Eight of 200 numbers, in a folder of which the parent is where the user is."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(8):
        words = " ".join(str((7 * i + 11) * n * n % 1009) for n in range(200))
        (folder / f"{i}.txt").write_text(words)
    return folder
