"""Sentences are found by what an encoder says of them in the text, and read with their neighbours in its order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import sentences
from ropewalk.workflows.strategies.late_chunking import LateChunking
from tests.workflows.readers import answer_of, metered

TEXT = "".join(f"Line {i:02d} is about ropes.\n" for i in range(90))
WINDOW = 512


class Likes:
    """Vectors by which the sentences of a text are like the question as told; the others are not."""

    def __init__(self, **likeness: float):
        self.likeness, self.read = likeness, list[tuple[str, Sequence[tuple[int, int]]]]()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[1.0, 0.0]] * len(texts), np.float32)

    def within(self, text: str, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        self.read.append((text, spans))
        cosines = [self.likeness.get(f"l{text[start + 5 : start + 7]}", 0.0) for start, _ in spans]
        return np.array([[5 * one, 5 * (1 - one**2) ** 0.5] for one in cosines], np.float32)


def lines_read(likes: Likes, **options: Any) -> list[int]:
    _, model = answer_of(LateChunking(**options), TEXT, metered(window=WINDOW, embed=likes), room=64)
    (call,) = model.trace.calls.values()
    assert call.counted + 64 <= WINDOW
    return [int(line[5:7]) for line in call.prompt.splitlines() if line.startswith("Line ")]


def test_the_text_is_encoded_once_in_sentences_that_part_it() -> None:
    likes = Likes(l40=0.9)
    lines_read(likes)
    ((text, spans),) = likes.read
    assert text == TEXT and "".join(text[start:stop] for start, stop in spans) == TEXT
    assert [text[start:stop] for start, stop in spans] == sentences(TEXT)


@pytest.mark.parametrize(
    ("k", "around", "expected"),
    [
        (1, 0, [40]),
        (2, 0, [40, 70]),
        (3, 0, [7, 40, 70]),
        (1, 2, [38, 39, 40, 41, 42]),
        (2, 1, [39, 40, 41, 69, 70, 71]),
    ],
)
def test_the_likest_are_read_with_those_around_in_the_order_of_the_text(
    k: int, around: int, expected: list[int]
) -> None:
    assert lines_read(Likes(l40=0.9, l70=0.8, l07=0.7), k=k, around=around) == expected


def test_neighbours_at_the_ends_and_between_are_read_once() -> None:
    assert lines_read(Likes(l00=0.9, l02=0.8, l89=0.7), k=3, around=1) == [0, 1, 2, 3, 88, 89]


def test_no_more_than_the_window_holds() -> None:
    read = lines_read(Likes(**{f"l{i:02d}": 0.9 - i / 200 for i in range(90)}), around=0)
    assert read == list(range(len(read))) and 5 < len(read) < 30


def test_the_same_sentence_is_no_second_hit() -> None:
    text = "".join("A rope is a rope.\n" for _ in range(60)) + "The rope is red.\n" + "A lane is long.\n" * 60

    class Same(Likes):
        def within(self, text: str, spans: Sequence[tuple[int, int]]) -> np.ndarray:
            likes = {"A rope is a rope.": 0.9, "The rope is red.": 0.8}
            cosines = [likes.get(text[start:stop].strip(), 0.0) for start, stop in spans]
            return np.array([[one, (1 - one**2) ** 0.5] for one in cosines], np.float32)

    _, model = answer_of(LateChunking(k=2, around=0), text, metered(window=WINDOW, embed=Same()), room=64)
    prompt = next(iter(model.trace.calls.values())).prompt
    assert prompt.count("A rope is a rope.") == 1 and "The rope is red." in prompt


def test_without_an_embedding_model_it_is_refused() -> None:
    with pytest.raises(UserError, match="needs an embedding model"):
        answer_of(LateChunking(), TEXT, metered(window=WINDOW))
