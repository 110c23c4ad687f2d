"""Every answer on the disk before it is used, so that a run that was killed asks again only for those under way."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ropewalk.backends.chat.chat import Answer, Usage
from ropewalk.common.errors import UserError
from ropewalk.common.files import explained
from ropewalk.common.outside import parse, read_bytes


@dataclass(frozen=True)
class Call:
    """The end of one call.

    Attributes:
        key: of the prompt and its room.
        answer: None where it failed.
        failed: why; empty where it did not.
        final: whether another try would end alike.
        unheard: whether nobody took the prompt, which then has all its tries left.
    """

    key: str
    answer: Answer | None = None
    failed: str = ""
    final: bool = False
    unheard: bool = False


class Journal:
    """Calls by key, in the order of their tries; a file that only grows has those that were kept together in a line.

    Args:
        file: made by the first calls that are kept; None keeps them in memory only.

    Raises:
        UserError: if a line is none of ours; the last may be torn, and is taken away.
    """

    def __init__(self, file: Path | None = None):
        self.file = file
        self._calls: dict[str, list[Call]] = {}
        if file is not None and file.exists():
            self._read(file)

    def of(self, key: str) -> Sequence[Call]:
        """The calls for a prompt so far."""
        return tuple(self._calls.get(key, ()))

    def keep(self, calls: Sequence[Call]) -> None:
        """Keep calls; they are on the disk when this returns.

        Raises:
            UserError: if it cannot be written, or the disk is full.
        """
        if self.file is not None:
            line = json.dumps([asdict(call) for call in calls]) + "\n"
            with explained(self.file), open(self.file, "ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        for call in calls:
            self._calls.setdefault(call.key, []).append(call)

    def _read(self, file: Path) -> None:
        data = read_bytes(file)
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                calls = [_call(one) for one in parse(line.decode())]
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{file}:{number} is no list of calls: {error}", f"Move {file} away.") from None
            for call in calls:
                self._calls.setdefault(call.key, []).append(call)
        if len(whole) < len(data):
            with explained(file), open(file, "r+b") as stream:
                stream.truncate(len(whole))


def _call(said: dict[str, object]) -> Call:
    """From a line.

    Raises:
        ValueError: if it says something else; likewise TypeError and KeyError.
    """
    answer = said["answer"]
    if isinstance(answer, dict):
        usage = answer["usage"]
        usage = None if usage is None else Usage(**usage)
        answer = Answer(answer["text"], answer["cut"], usage, answer.get("wrong_usage", False))
        if not isinstance(answer.text, str) or not all(type(one) is bool for one in (answer.cut, answer.wrong_usage)):
            raise ValueError("an answer without text")
        if answer.usage and not all(type(n) is int and n >= 0 for n in vars(answer.usage).values()):
            raise ValueError("a usage without numbers")
    key, failed, final, unheard = said["key"], said["failed"], said["final"], said.get("unheard", False)
    right = isinstance(key, str) and isinstance(failed, str) and type(final) is type(unheard) is bool
    if not right or (answer is None) != bool(failed):
        raise ValueError("neither an answer nor a failure")
    return Call(key, answer, failed, final, unheard)  # type: ignore[arg-type]
