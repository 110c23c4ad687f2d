"""What comes from outside is read here: paths, regular files of a bounded size, and JSON that is no trap.

A pipe waits for ever, a device has no end, nested lists exhaust the stack of whoever walks them, and a number of
thousands of digits fits nothing that reads it: all are refused before anybody else opens the file.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from ropewalk.common.errors import UserError, cut

MOST = 8 << 20  # bytes of a JSON file: a list per three of them takes half a GiB
MOST_WORDS = 64 << 20  # bytes of a tokenizer.json: those of many languages have 10 to 35 MB
DEEPEST = 64  # levels; models' files have up to eight
DIGITS = 40  # of a whole number; "no limit" is written with 31
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
RESTORE = "Restore the file from where the model came."


def spelled(name: str | os.PathLike[str]) -> Path:
    """The path that a user means, which need not exist; ``~`` is followed.

    Raises:
        UserError: if no file can have it, or the system does not let it be looked at.
    """
    try:
        path = Path(name).expanduser()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # too long, forbidden, a null byte, an unknown user
        raise UserError(
            f"{cut(os.fspath(name))!r} cannot be a path here: {_reason(error)}", "Choose another path."
        ) from None
    return path


def open_file(path: Path) -> BinaryIO:
    """A file to read from; nothing else is ever opened, nor waited for.

    Raises:
        UserError: if it is missing, cannot be read, or is a folder, a pipe or a device.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "a folder" if path.is_dir() else "a pipe, socket or device"
            raise UserError(f"{path} is {kind}, expected a regular file", "Give a regular file.")
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "Give a file that is there.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}", "Give a file that you may read.") from None


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a file.

    Raises:
        UserError: as ``open_file``, or if it has more than ``most`` bytes.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UserError(f"{path} has {size:,} bytes, expected at most {most:,}", RESTORE)
        try:
            data: bytes | None = file.read()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {_reason(error)}", RESTORE) from None
    if data is None:  # what the system calls regular and has nothing yet
        raise UserError(f"{path} has no content to be read now, expected a regular file", "Give a regular file.")
    return data


def read_json(path: Path, most: int = MOST, mend: str = RESTORE) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: as ``read_bytes``, or if it is no JSON, no object, or cannot be taken as it stands.
    """
    data = read_bytes(path, most)
    if data.startswith(codecs.BOM_UTF8):
        cut_off = f"tail -c +4 {shlex.quote(str(path))} > WITHOUT"
        raise UserError(f"{path} begins with a byte order mark, which JSON does not have", f"Cut it off: {cut_off}")
    try:
        value = parse(data.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}", mend) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__}, expected an object", mend)
    return value


def parse(text: str, finite: bool = False) -> Any:
    """What JSON says.

    Args:
        text: from outside.
        finite: refuse NaN and infinite numbers, which some configurations hold on purpose.

    Raises:
        ValueError: in words, for everything that cannot be taken as it stands: it is no JSON, nested too deep, holds a
            number of too many digits, half of a character, or two values for one key.
    """
    value, end = parse_at(text, len(text) - len(text.lstrip(" \t\n\r")), finite)
    if text[end:].strip(" \t\n\r"):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def parse_at(text: str, start: int, finite: bool = False) -> tuple[Any, int]:
    """What JSON says from ``start`` on, and where that ends.

    Raises:
        ValueError: as ``parse``.
    """
    try:
        value, end = (FINITE if finite else DECODER).raw_decode(text, start)
        deep, level = 1, [value]
        while level := [one for item in level for one in _inside(item) if isinstance(one, (dict, list))]:
            deep += 1
            if deep > DEEPEST:
                raise RecursionError
    except RecursionError:
        raise ValueError(f"nested too deep, expected at most {DEEPEST} levels") from None
    if SURROGATE.search(text, start, end):  # escapes of half a character are JSON, and no text
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a string holds half of a surrogate pair, expected Unicode text") from None
    return value, end


def _inside(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits, expected at most {DIGITS}")
    return int(digits)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{cut(text)} is no finite number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that says one thing; a key may stand twice with one value, as published files have it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if repr(value) != repr(found[key]):
                seen = ", as ".join(cut(repr(one)) for one in (value, found[key]))
                raise ValueError(f"key {cut(repr(key))} stands twice in one object, as {seen}")
    return found


DECODER = json.JSONDecoder(parse_int=_whole, object_pairs_hook=_object)
FINITE = json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_object)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
