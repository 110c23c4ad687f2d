"""Whether an output is as long as was asked for (LonGen, arXiv 2410.23933), and whether it only repeats itself."""

from __future__ import annotations


def about(words: float) -> tuple[float, float]:
    """The lengths that "about so many words" allows: a fifth to either side."""
    return 0.8 * words, 1.2 * words


def above(words: float) -> tuple[float, float]:
    """The lengths that "more than so many words" allows."""
    return words, 1.5 * words


def below(words: float) -> tuple[float, float]:
    """The lengths that "less than so many words" allows."""
    return 0.5 * words, words


def length_score(length: float, least: float, most: float) -> float:
    """1 within the bounds, falling to 0 at half of the lower and at one and a half times the upper one."""
    if length < least:
        return max(2 * length / least - 1, 0.0)
    return 1.0 if length <= most else max(3 - 2 * length / most, 0.0)


def distinct(text: str, n: int) -> float:
    """Share of the runs of ``n`` words that are different from each other, 0 to 1; 1 of a text that has none."""
    words = text.split()
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0
