"""What is read out of an engine's answer, and whether a text holds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ropewalk.backends.chat.answering import Nonsense

SHORTEST = 12  # signs of an instruction
# What speaks of a text that its reader does not see, or of something that it does not name.
UNRESOLVED = re.compile(
    r"^(it|he|she|they|this|that|these|those|its|his|her|their)\b"
    r"|\b(the|this|these) (given |following )?(passage|text|paragraph|author|excerpt)s?\b"
    r"|\b(mentioned|described|given|shown) (above|below|here)\b|\baccording to (it|him|her|them)\b",
    re.IGNORECASE,
)
# What words are made of, but for scripts that put no blanks between words: Thai to Lao, Burmese, Khmer, kana, Chinese.
LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]"


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


def instruction_about(subject: str) -> Callable[[str], str]:
    """Takes an instruction about a text: a line of a few words, which has one of the text's longer ones.

    Models that do not understand what they are asked speak of themselves, or of "the text". Where words have no blanks
    between them, any line has such words.
    """
    known = _longer(subject)

    def read(text: str) -> str:
        text = text.removeprefix("Instruction:").strip()
        if "\n" in text or len(text) < SHORTEST:
            raise Nonsense("no instruction")
        if (said := _longer(text)) and not said & known:
            raise Nonsense("an instruction about something else")
        if UNRESOLVED.search(text):
            raise Nonsense("an instruction without a subject")
        return text

    return read


def _longer(text: str) -> set[str]:
    """Words of five letters at least, without case."""
    return set(re.findall(rf"{LETTER}{{5,}}", text.casefold()))


INSIDE = r"[.,:/'\u2019]"  # signs that, between digits, are part of a number: 3.41, 12:30, 29/11
BEFORE = r"[-\u2212.,]"  # signs that, behind a blank, begin one: -41, .5
THOUSANDS = re.compile(rf"(?<!\d)(?<!\d{INSIDE})\d{{1,3}}(?:([,'\u2019])\d{{3}})(?:\1\d{{3}})*(?!\d|[,'\u2019]\d)")
NUMBER = re.compile(rf"(?:(?<![\w)\]])[-\u2212])?(?:(?<![\w)\]])[.,])?(?<!{LETTER})\d+(?:{INSIDE}\d+)*(?!{LETTER})")
ITEM = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)  # the number of an item in a list


def plain(text: str) -> str:
    """A text without case, with single blanks, and with thousands as 1234 (1,234 and 1'234 are the same number)."""
    joined = " ".join(text.split()).casefold()
    return THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), joined)


def holds(text: str, part: str) -> bool:
    """Whether a text has a part word for word, as ``times`` counts."""
    return times(text, part) > 0


def times(text: str, part: str) -> int:
    """How often a text has a part word for word; blanks, case and the commas of thousands aside.

    A part neither begins nor ends within a word or a number: 41 does not stand in 141, 3.41, 41.5, 12:41 or -41, but in
    41%, $41 and 3-41. Numbers in words, and in other units, are others.
    """
    wanted = plain(part)
    before, after = rf"(?<!{LETTER})", rf"(?!{LETTER})"
    if wanted[:1].isdigit():
        before += rf"(?<!\d{INSIDE})(?<![ (]{BEFORE})(?<!\A{BEFORE})"
    if wanted[-1:].isdigit():
        after += rf"(?!{INSIDE}\d)"
    return len(re.findall(f"{before}(?={re.escape(wanted)}{after})", plain(text)))


def whole_words(text: str, start: int, stop: int) -> str:
    """What a text has from ``start`` to ``stop``, without the words and numbers that go on beyond."""
    joins = f"(?:{LETTER}|{INSIDE}|{BEFORE})"
    if start and re.match(joins, text[start - 1]):
        start = re.compile(f"{joins}*").match(text, start, stop).end()  # type: ignore[union-attr]
    found = text[start:stop]
    goes_on = stop < len(text) and re.match(joins, text[stop])
    return re.sub(f"{joins}*\\Z", "", found, count=1) if goes_on else found


def ungrounded(answer: str, text: str, most: float = 0.5) -> bool:
    """Whether an answer says what a text does not.

    That is: a number that is not in it as a whole, a name that is not in it, or more than ``most`` of its longer words.
    Numbers of items in a list say nothing.
    """
    answer = ITEM.sub("", answer)
    known = set(re.findall(r"\w+", text.casefold()))
    words = re.findall(r"\w+", answer)
    begins = set(re.findall(r"(?:^|[.!?:\n-]\s*)(\w+)", answer))
    named = [one for one in words if _mixed(one) or (one[0].isupper() and one not in begins)]
    longer = [one for one in words if len(one) > 4 and not one.isdigit()]
    missing = sum(one.casefold() not in known for one in longer)
    if set(NUMBER.findall(plain(answer))) - set(NUMBER.findall(plain(text))):
        return True
    return any(one.casefold() not in known for one in named) or not words or missing > most * len(longer)


def _mixed(word: str) -> bool:
    """Whether a word has letters and digits: x86, 3rd."""
    return any(sign.isdigit() for sign in word) and not word.isdigit()
