"""A GGUF file's header: single values and where the tensors lie, every length checked against the file's own size.

The layout (version 2 and 3, little-endian): magic, version, number of tensors, number of keys; then the keys with
their values; then one entry per tensor; then the tensors, each aligned. The gguf library believes these counts, so a
broken or hostile file would end in a loop of 2 ** 60 rounds; and it makes an array of every token, which on real files
takes seconds. Hence this walk comes first, and is all that reading a rope needs.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.common.errors import UserError
from ropewalk.common.outside import open_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # of struct
MOST_KEYS = MOST_TENSORS = 1 << 16
LONGEST_ARRAY = 1 << 23  # entries; the longest in use are vocabularies and merges
AGAIN = "Download or write the file again."


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: number of its type in the gguf library, shape (the last varies fastest), first byte."""

    kind: int
    shape: tuple[int, ...]
    start: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says before its tensors.

    Attributes:
        values: key -> value.
        lists: key -> entries, where the value is a list.
        tensors: name -> place.
    """

    values: dict[str, Any]
    lists: dict[str, list[Any]]
    tensors: dict[str, Place]


def read_header(path: Path) -> Header:
    """Read the header of ``path``.

    Raises:
        UserError: naming the file, the place in it, and the value that cannot be, if the file is missing, no GGUF,
            truncated, or says lengths that it does not have.
    """
    try:
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _walk(_Cursor(path, data))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped: ValueError
        raise UserError(f"{path} cannot be read: {error}", AGAIN) from None


@dataclass
class _Cursor:
    path: Path
    data: mmap.mmap
    at: int = 0

    def fail(self, message: str) -> UserError:
        return UserError(f"{self.path}: {message}", AGAIN)

    def skip(self, n_bytes: int, what: str) -> int:
        """Where ``n_bytes`` of ``what`` start; moves past them."""
        start, left = self.at, len(self.data) - self.at
        if n_bytes > left:
            raise self.fail(f"{what} wants {n_bytes:,} bytes at byte {start:,}, the file has {left:,} more")
        self.at += n_bytes
        return start

    def number(self, form: str, what: str) -> Any:
        return struct.unpack_from(f"<{form}", self.data, self.skip(struct.calcsize(form), what))[0]

    def text(self, what: str) -> str:
        length = self.number("Q", f"the length of {what}")
        start = self.skip(length, what)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} at byte {start:,} is not UTF-8") from None


def _walk(at: _Cursor) -> Header:
    if at.data[:4] != MAGIC:
        raise at.fail(f"starts with {at.data[:4]!r}, expected {MAGIC!r}: this is no GGUF file")
    at.at = 4
    version = at.number("I", "the version")
    if version not in VERSIONS:
        kind = "big-endian files are not read" if version & 0xFFFF == 0 else "expected 2 or 3"
        raise at.fail(f"GGUF version is {version}, {kind}")
    n_tensors, n_keys = at.number("Q", "the number of tensors"), at.number("Q", "the number of keys")
    if n_tensors > MOST_TENSORS or n_keys > MOST_KEYS:
        raise at.fail(f"says {n_tensors:,} tensors and {n_keys:,} keys, expected at most {MOST_TENSORS:,} of each")
    values: dict[str, Any] = {}
    for i in range(n_keys):
        key = at.text(f"key {i}")
        if key in values:
            raise at.fail(f"key {key!r} stands there twice")
        values[key] = _value(at, at.number("I", f"the type of key {key!r}"), f"the value of key {key!r}")
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise at.fail(f"key 'general.alignment' is {alignment!r}, expected a power of two")
    tensors = _tensors(at, n_tensors, alignment)
    lists = {key: value for key, value in values.items() if isinstance(value, list)}
    return Header({key: value for key, value in values.items() if key not in lists}, lists, tensors)


def _value(at: _Cursor, kind: int, what: str) -> Any:
    """One value, or a list."""
    if kind == STRING:
        return at.text(what)
    if kind in FORMS:
        return at.number(FORMS[kind], what)
    if kind != ARRAY:
        raise at.fail(f"{what} has type {kind}, expected 0 to 12")
    item, n = at.number("I", what), at.number("Q", what)
    if n > LONGEST_ARRAY:
        raise at.fail(f"{what} is a list of {n:,} entries, expected at most {LONGEST_ARRAY:,}")
    if item == STRING:
        return [at.text(what) for _ in range(n)]
    if item not in FORMS:
        raise at.fail(f"{what} is a list of type {item}, expected numbers or strings")
    form = f"<{n}{FORMS[item]}"
    return list(struct.unpack_from(form, at.data, at.skip(struct.calcsize(form), what)))


def _tensors(at: _Cursor, count: int, alignment: int) -> dict[str, Place]:
    """The tensors; refuses a file that does not hold all their bytes."""
    library = gguf()
    places: dict[str, Place] = {}
    ends: dict[str, int] = {}
    for i in range(count):
        name = at.text(f"the name of tensor {i}")
        if name in ends:
            raise at.fail(f"tensor {name!r} stands there twice")
        n_dimensions = at.number("I", f"tensor {name!r}")
        if not 1 <= n_dimensions <= 4:
            raise at.fail(f"tensor {name!r} has {n_dimensions} dimensions, expected 1 to 4")
        shape = tuple(at.number("Q", f"the shape of tensor {name!r}") for _ in range(n_dimensions))[::-1]
        elements = math.prod(shape)
        kind, offset = at.number("I", f"tensor {name!r}"), at.number("Q", f"tensor {name!r}")
        try:
            block, size = library.GGML_QUANT_SIZES[library.GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise at.fail(f"tensor {name!r} has the unknown type {kind}") from None
        if elements % block or offset % alignment:
            raise at.fail(f"tensor {name!r} ({elements:,} elements at {offset:,}) does not fit blocks of {block}")
        places[name] = Place(kind, shape, offset)
        ends[name] = offset + elements // block * size
    start = -(-at.at // alignment) * alignment
    for name, end in ends.items():
        if start + end > len(at.data):
            raise at.fail(f"truncated: {len(at.data):,} bytes, tensor {name!r} ends at byte {start + end:,}")
    return {name: replace(place, start=start + place.start) for name, place in places.items()}
