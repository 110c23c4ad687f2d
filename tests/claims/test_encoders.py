"""What was measured of all-MiniLM-L6-v2 is what another program gave on the same texts; archives stay inside."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from claims import encoders

FOUND = json.loads((Path(__file__).parents[2] / "claims" / "results" / "encoders-minilm.json").read_text())
ROWS = {(row["method"], row["task"], row["to"]): row["value"] for row in FOUND["rows"]}
INDEPENDENT = {  # accuracy@1 of the first draw, by another program
    ("none", 512): 0.422, ("none", 1024): 0.312, ("uncut", 512): 0.672,
    ("uncut", 1024): 0.469, ("uncut+parallel-windows", 1024): 0.375, ("recurrent", 1024): 0.641,
    ("grouped", 1024): 0.594, ("pi", 1024): 0.625, ("grouped(effective_window=128)", 1024): 0.828,
    ("pi(effective_window=128)", 1024): 0.875, ("uncut", 2048): 0.328, ("uncut+parallel-windows", 2048): 0.219,
    ("recurrent", 2048): 0.5, ("grouped", 2048): 0.578, ("pi", 2048): 0.531,
    ("grouped(effective_window=128)", 2048): 0.688, ("pi(effective_window=128)", 2048): 0.672,
}  # fmt: skip


@pytest.mark.parametrize(("method", "to"), INDEPENDENT)
def test_passkeys_are_found_as_by_an_independent_program(method: str, to: int) -> None:
    if (method, "passkey", to) not in ROWS:
        pytest.skip("not measured yet")
    assert ROWS[method, "passkey", to] == pytest.approx(INDEPENDENT[method, to], abs=0.001)


def test_what_was_measured_bears_what_is_said_of_it() -> None:
    half, cut = ROWS["pi(effective_window=128)", "passkey", 1024], ROWS["uncut", "passkey", 1024]
    assert half - cut >= 0.2 and ROWS["recurrent", "passkey", 1024] - cut >= 0.08
    assert ROWS["uncut+parallel-windows", "passkey", 1024] <= cut + 0.1


def test_an_archive_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("model/config.json", "{}")
        archive.writestr("model/1_Pooling/config.json", "{}")
        archive.writestr("other/file", "")
    encoders._unpacked(zipfile.ZipFile(content), "model/", tmp_path / "out")
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == {
        "out/config.json", "out/1_Pooling/config.json",
    }  # fmt: skip
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("model/../../lost", "")
    with pytest.raises(SystemExit, match="leads out"):
        encoders._unpacked(zipfile.ZipFile(content), "model/", tmp_path / "again")
    assert not (tmp_path.parent / "lost").exists() and not (tmp_path / "lost").exists()


@pytest.mark.slow
@pytest.mark.skipif("MINILM" not in os.environ, reason="MINILM names no folder of all-MiniLM-L6-v2")
def test_the_rows_and_vectors_of_the_model_itself() -> None:
    """Numbers of an independent program."""
    import numpy as np

    from ropewalk.encoders.encoder import Encoder
    from ropewalk.encoders.encoder_folder import EncoderFolder
    from ropewalk.encoders.encoder_method import TableMethod, encoder_methods
    from ropewalk.encoders.extended_encoder import ExtendedEncoder

    folder = EncoderFolder.open(os.environ["MINILM"])
    plain = ExtendedEncoder(Encoder(str(folder.path)), folder, encoder_methods("uncut"), 4096)
    vector = plain.question(plain.encoder.ids("The quick brown fox jumps over the lazy dog."))[0]
    np.testing.assert_allclose(vector[:4], [0.043933, 0.058934, 0.048178, 0.077548], atol=2e-6)
    pi = encoder_methods("pi").of(TableMethod)
    assert pi is not None
    longer = pi.table(plain.table.pretrained, 4096)
    for j, own in ((1, [-0.078950, -0.028517, -0.012262]), (8, [-0.032721, 0.002272, 0.021104]),
                   (4095, [-0.023071, -0.008759, -0.020966])):  # fmt: skip
        np.testing.assert_allclose(longer[j, :3], own, atol=1e-6)
