"""Nothing in a GGUF is trusted: cut, flipped, huge and mistyped files end in a message that names the place."""

from __future__ import annotations

import struct
import time

import pytest

pytest.importorskip("gguf")

from hypothesis import given
from hypothesis import strategies as st

from ropewalk import UserError
from ropewalk.checkpoint.gguf.from_gguf import read
from ropewalk.checkpoint.gguf_inspection import inspect_gguf
from tests.engines.gguf.checkpoints import foreign


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    return foreign(path, "llama", {"rope.freq_base": 5e5, "rope.scaling.attn_factor": 1.25}, [2.0] * 8)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "broken.gguf"


def test_a_sound_file_says_its_rope(sound):
    spec = read(sound).spec()
    assert (spec.base, spec.attention_factor, spec.window, spec.rotary_dim) == (5e5, 1.25, 64, 16)
    assert spec.factors == pytest.approx([2.0] * 8)


def test_every_cut_is_refused(sound, scratch):
    content = sound.read_bytes()
    for length in range(0, len(content) - 256, 7):
        scratch.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"broken\.gguf"):
            read(scratch)


@given(at=st.integers(0, 10_000), value=st.integers(0, 255), width=st.sampled_from([1, 4, 8]))
def test_flipped_bytes_are_read_or_refused_and_never_hang(sound, scratch, at, value, width):
    content = bytearray(sound.read_bytes())
    at %= len(content) - width
    content[at : at + width] = bytes([value]) * width
    scratch.write_bytes(content)
    start = time.monotonic()
    try:
        inspect_gguf(scratch)
    except UserError as error:
        assert "broken.gguf" in error.message
    assert time.monotonic() - start < 5


def header(n_tensors=0, n_keys=1, key=b"a.list", body=b""):
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + struct.pack("<Q", len(key)) + key + body


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "cannot be read"),
        (b"GGML" + bytes(60), "GGML"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version is 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
        (header(n_keys=1 << 40), "1,099,511,627,776 keys"),
        (header(n_tensors=1 << 40), "1,099,511,627,776 tensors"),
        (header(body=struct.pack("<IIQ", 9, 0, 1 << 60)), "'a.list' is a list of 1,152,921,504,606,846,976"),
        (header(body=struct.pack("<IIQ", 9, 10, 1 << 20)), "'a.list' wants 8,388,608 bytes"),
        (header(body=struct.pack("<IIQ", 9, 9, 1)), "'a.list' is a list of type 9"),
        (header(body=struct.pack("<IQ", 8, 1 << 62)), "the value of key 'a.list'"),
        (header(body=struct.pack("<I", 77)), "type 77"),
        (header(key=b"\xff\xfe", body=struct.pack("<II", 4, 1)), "not UTF-8"),
    ],
)
def test_impossible_headers_name_the_place_and_the_value(content, named, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read(path)
    assert named in refused.value.message and str(path) in refused.value.message


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("rope.freq_base", "10000", "a number above 1"),
        ("rope.freq_base", 0.5, "a number above 1"),
        ("rope.freq_base", float("nan"), "a number above 1"),
        ("rope.dimension_count", 16.0, "a whole number"),
        ("context_length", 0, "a whole number"),
        ("rope.scaling.attn_factor", 0.0, "a number above 0"),
        ("rope.scaling.factor", -4.0, "0 or above"),
        ("rope.scaling.yarn_ext_factor", True, "a number"),
        ("rope.scaling.type", 3, "a word"),
    ],
)
def test_values_of_the_wrong_kind_are_named_with_what_is_expected(key, value, expected, tmp_path):
    path = foreign(tmp_path / "m.gguf", "llama", {key: value})
    with pytest.raises(UserError) as refused:
        read(path)
    assert all(part in refused.value.message for part in (f"'llama.{key}' is {value!r}", expected, str(path)))


@pytest.mark.parametrize(
    ("factors", "named"), [([2.0] * 7, "7 entries, expected 8"), ([2.0] * 7 + [0.0], r"\[7\] is 0.0"),
                           ([float("inf")] * 8, r"\[0\] is inf")]
)  # fmt: skip
def test_impossible_factors_are_refused(factors, named, tmp_path):
    with pytest.raises(UserError, match=named):
        read(foreign(tmp_path / "m.gguf", "llama", {}, factors))


def test_an_odd_number_of_rotary_dimensions_is_refused(tmp_path):
    with pytest.raises(UserError, match="7 rotary dimensions"):
        read(foreign(tmp_path / "m.gguf", "llama", {"rope.dimension_count": 7}))
