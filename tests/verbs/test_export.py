"""``export``, the verb: which model it opens, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest

import ropewalk
from ropewalk.checkpoint.checkpoint import Checkpoint
from tests.models import tiny


@pytest.mark.parametrize("more", [{}, {"to": 256}, {"out": "out"}, {"gguf": "m.gguf"}])
def test_a_model_is_opened_once(more: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "model"
    tiny("llama").save_pretrained(source)
    opened: list[str] = []
    begin = Checkpoint.__init__

    def counted(self: Checkpoint, model: str, *rest: object) -> None:
        opened.append(model)
        begin(self, model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoint, "__init__", counted)
    asked = {name: tmp_path / value if isinstance(value, str) else value for name, value in more.items()}
    try:
        ropewalk.export(str(source), engine="llama.cpp" if "gguf" in more else "transformers", **asked)
    except ropewalk.UserError as error:
        assert "tokenizer" in str(error)  # which no GGUF file is without
    assert opened.count(str(source)) == 1
