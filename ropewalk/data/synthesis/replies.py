"""What is read out of an engine's answer, and whether a text holds it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ropewalk.backends.chat.answering import Nonsense

SHORTEST = 12  # signs of an instruction


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


def one_line(text: str) -> str:
    """An instruction, which has a few words.

    Raises:
        Nonsense: if it is none.
    """
    text = text.removeprefix("Instruction:").strip()
    if "\n" in text or len(text) < SHORTEST:
        raise Nonsense("no instruction")
    return text


# What words are made of, but for scripts that put no blanks between words: Thai to Lao, Burmese, Khmer, kana, Chinese.
LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]"


def plain(text: str) -> str:
    """A text without case, and with single blanks."""
    return " ".join(text.split()).casefold()


def holds(text: str, part: str) -> bool:
    """Whether a text has a part word for word, blanks and case aside."""
    return re.search(rf"(?<!{LETTER}){re.escape(plain(part))}(?!{LETTER})", plain(text)) is not None


def ungrounded(answer: str, text: str, most: float = 0.5) -> bool:
    """Whether an answer says what a text does not.

    That is: a number or a name that is not in it, or more than ``most`` of its longer words.
    """
    known = set(re.findall(r"\w+", text.casefold()))
    words = re.findall(r"\w+", answer)
    begins = set(re.findall(r"(?:^|[.!?:\n-]\s*)(\w+)", answer))
    named = [one for one in words if any(sign.isdigit() for sign in one) or (one[0].isupper() and one not in begins)]
    longer = [one for one in words if len(one) > 4]
    missing = sum(one.casefold() not in known for one in longer)
    return any(one.casefold() not in known for one in named) or not words or missing > most * len(longer)
