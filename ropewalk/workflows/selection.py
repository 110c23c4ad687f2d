"""Chunks that are worth reading, as many as a prompt has room for."""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.workflows.chunks import Chunk
from ropewalk.workflows.strategy import SLACK

BETWEEN = "\n\n"


def fitting(ranked: Sequence[Chunk], room: int) -> list[Chunk]:
    """The first chunks, as many as ``room`` tokens hold beside what joins them, and the very first at least."""
    found: list[Chunk] = []
    for part in ranked:
        room -= part.tokens + SLACK
        if room < 0:
            break
        found.append(part)
    return found or list(ranked[:1])


def spliced(parts: Sequence[Chunk]) -> str:
    """Chunks as one text; neighbours join as they stood."""
    text = ""
    for i, part in enumerate(parts):
        adjoins = i > 0 and parts[i - 1].stop == part.start
        text = text + part.text if adjoins else f"{text.rstrip()}{BETWEEN if text else ''}{part.text.lstrip()}"
    return text.strip()


def in_order(parts: Sequence[Chunk]) -> list[Chunk]:
    """As in the text."""
    return sorted(parts, key=lambda part: part.start)
