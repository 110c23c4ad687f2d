"""What is read out of an engine's answer, and whether a text holds it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ropewalk.backends.chat.answering import Nonsense


def labelled(text: str, labels: Sequence[str]) -> list[str]:
    """What stands behind each label, in their order: ``Question: ...`` and ``Answer: ...`` on lines of their own.

    Raises:
        Nonsense: if one is missing, stands twice, or has nothing behind it.
    """
    names = "|".join(map(re.escape, labels))
    parts = re.split(rf"^[\s*#]*({names})[\s*]*:[\s*]*", text, flags=re.MULTILINE | re.IGNORECASE)
    found = [(name.lower(), value.strip()) for name, value in zip(parts[1::2], parts[2::2], strict=True)]
    if [name for name, _ in found] != [label.lower() for label in labels] or not all(value for _, value in found):
        raise Nonsense(f"not {' and '.join(labels)}".lower())
    return [value for _, value in found]


def plain(text: str) -> str:
    """A text without case, and with single blanks."""
    return " ".join(text.split()).casefold()


def holds(text: str, part: str) -> bool:
    """Whether a text has a part word for word, blanks and case aside."""
    return re.search(rf"(?<!\w){re.escape(plain(part))}(?!\w)", plain(text)) is not None
