"""Tasks over chunks: solved here from the row's text alone, unanswerable without the chunk, anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.synthesis.chunk_tasks import CHUNK, SEVERAL, TASKS
from ropewalk.data.synthesis.information_intensive import QUOTE
from tests.data.synthesis.written import TOKENIZER, content, text_of

LENGTH, ROWS = 4096, 90


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chunks") / "texts"
    ropewalk.pack_data("stdlib", out=folder, length=LENGTH, tokenizer="demo")
    return folder


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory) -> Arranged:
    folder = tmp_path_factory.mktemp("chunks") / "rows"
    ropewalk.synth_data("chunks", texts, out=folder, length=LENGTH, tokenizer="demo", rows=ROWS)
    return Arranged.open(folder)


def quotes_of(made: Arranged, row: int) -> list[list[int]]:
    """Tokens of what the question quotes, by what the pieces are."""
    some, ids = made.arrangement, []
    for i in list(made.pieces(row))[-2 * SEVERAL - 3 :]:
        if some.document[i] < made.about.documents and some.stop[i] - some.start[i] == QUOTE:
            ids.append(made.corpus.tokens(int(some.document[i]), int(some.start[i]), int(some.stop[i])).tolist())
    return ids


def test_every_task_is_solved_from_the_text(made: Arranged) -> None:
    seen = set()
    for row in range(ROWS):
        ids, _, scopes, weights = made.row(row)
        told, answer = made.provenance[row], text_of(made, row, True).strip()
        assert len(ids) <= LENGTH and not scopes.any() and weights[-1]
        text = str(TOKENIZER.decode(ids.tolist()))
        context = text[: text.index(TASKS[told.kind])]
        chunks = dict(re.findall(r"\n\n\[(\w{6})\]\n(.*?)(?=\n\n\[\w{6}\]\n|\Z)", context, re.DOTALL))
        order = list(chunks)
        quoted = quotes_of(made, row)
        assert len(quoted) == (1 if told.kind == "find" else SEVERAL) == len(told.evidence)
        found = []
        for tokens in quoted:
            inside = [name for name, chunk in chunks.items() if TOKENIZER.decode(tokens) in chunk]
            assert len(inside) == 1
            found += inside
        expected = {"find": found, "first": sorted(found, key=order.index)[:1],
                    "order": sorted(found, key=order.index)}[told.kind]  # fmt: skip
        assert answer == ", ".join(expected)
        assert all(text.count(name) == 2 for name in answer.split(", ")), "at its chunk, and in the answer"
        for where in told.evidence:
            stands = ids[where["at"] : where["at"] + where["stop"] - where["start"]].tolist()
            (label,) = [name for name, chunk in chunks.items() if chunk and chunk in TOKENIZER.decode(stands)]
            assert label in found and where["stop"] - where["start"] <= CHUNK
        seen.add(told.kind)
    assert seen == set(TASKS)


def test_evidence_is_anywhere(made: Arranged) -> None:
    depth = []
    for row in range(ROWS):
        chunks = sum(made.arrangement.document[i] < made.about.documents for i in made.pieces(row))
        chunks -= len(made.provenance[row].evidence)
        depth += [((number - 1) / 2 + 0.5) / chunks for number in made.provenance[row].pieces]
    counts, _ = np.histogram(depth, 4, (0, 1))
    expected = len(depth) / 4
    assert ((counts - expected) ** 2 / expected).sum() < 16.3, "chi-square of 3 degrees of freedom, p = 0.001"


def test_the_seed_decides_all_of_it(texts, tmp_path) -> None:
    def rows(name: str, seed: int) -> dict[str, bytes]:
        said = {"length": LENGTH, "tokenizer": "demo", "rows": 3, "seed": seed}
        ropewalk.synth_data("chunks", texts, out=tmp_path / name, **said)
        return content(tmp_path / name)

    assert rows("a", 0) == rows("b", 0) and rows("c", 1)["pieces.npy"] != rows("d", 0)["pieces.npy"]


def test_what_does_not_suffice_is_refused(texts, tmp_path) -> None:
    (tmp_path / "short.txt").write_text("a few words " * 40)
    (tmp_path / "same.txt").write_text("a few words " * 9000)
    said = {"tokenizer": "demo", "rows": 2}
    for number, (source, length, words) in enumerate(
        (
            (texts, 1024, "rows of 1,024 tokens, expected 2,048 at least"),
            (tmp_path / "short.txt", 16384, "the texts have .* tokens, and a row 16,384"),
            (tmp_path / "same.txt", 16384, "none of .* draws gives a row: a quote stands twice"),
        )
    ):
        with pytest.raises(UserError, match=words):
            ropewalk.synth_data("chunks", source, out=tmp_path / str(number), length=length, **said)
