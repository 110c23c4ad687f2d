"""Questions whose answer is the text itself: supported, once in the row, anywhere, and all that is learnt."""

import json
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.synthesis.information_intensive import ANSWER, QUOTE, SEGMENT
from tests.data.synthesis.written import TOKENIZER

LENGTH, ROWS = 2048, 150


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in2") / "texts"
    ropewalk.pack_data("stdlib", out=folder, length=LENGTH, tokenizer="demo")
    return folder


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory) -> Arranged:
    folder = tmp_path_factory.mktemp("in2") / "rows"
    ropewalk.synth_data("in2", texts, out=folder, length=LENGTH, tokenizer="demo", rows=ROWS)
    return Arranged.open(folder)


def test_rows_fit_and_only_answers_are_learnt(made: Arranged) -> None:
    some = made.arrangement
    assert len(made) == ROWS == len(made.provenance) and made.counts.padding > 0
    read = [np.zeros(n, bool) for n in made.corpus.lengths[: made.about.documents]]
    for i in np.flatnonzero(some.document < len(read)):
        read[some.document[i]][some.start[i] : some.stop[i]] = True
    assert made.counts.dropped == sum(int((~one).sum()) for one in read)
    for row in range(ROWS):
        ids, positions, scopes, weights = made.row(row)
        assert len(ids) <= LENGTH and not scopes.any() and np.array_equal(positions, np.arange(len(ids)))
        *learnt, end = [i for i in made.pieces(row) if some.loss[i]]
        assert weights.sum() == ANSWER * len(learnt) + 1
        assert all(some.stop[i] - some.start[i] == ANSWER for i in learnt)
        assert weights[-ANSWER - 1 :].all(), "a row ends in its answer"
        assert ids[-1] == TOKENIZER.eos_token_id and end == made.pieces(row)[-1], "which ends, and is seen to"
    assert made.about.told["answers that end"] == ROWS


def test_every_answer_stands_in_the_evidence_beside_the_quote(made: Arranged) -> None:
    some = made.arrangement
    for row in range(ROWS):
        told = made.provenance[row]
        first = made.pieces(row)[0]
        evidence = [first + piece for piece in told.pieces]
        *learnt, _ = [i for i in made.pieces(row) if some.loss[i]]
        direction = told.kind.split(", ")[1]
        per = 2 if direction == "both" else 1
        assert len(learnt) == per * len(evidence)
        ids = made.row(row)[0]
        for k, i in enumerate(learnt):
            source = evidence[k // per]
            assert some.document[i] == some.document[source]
            assert some.start[source] <= some.start[i] < some.stop[i] <= some.stop[source]
        for piece, where in zip(evidence, told.evidence, strict=True):
            text = made.corpus.tokens(int(some.document[piece]), where["start"], where["stop"])
            assert np.array_equal(ids[where["at"] : where["at"] + SEGMENT], text)
        quotes = [i for i in made.pieces(row) if not some.loss[i] and some.stop[i] - some.start[i] == QUOTE
                  and some.document[i] < made.about.documents]  # fmt: skip
        context = ids[: (len(made.pieces(row)) * SEGMENT)]
        for quote in quotes:
            wanted = made.corpus.tokens(int(some.document[quote]), int(some.start[quote]), int(some.stop[quote]))
            windows = np.lib.stride_tricks.sliding_window_view(context, QUOTE)
            assert (windows == wanted).all(1).sum() <= 2, "in the context once, and in the question"


@pytest.mark.parametrize("kind", ["in2", "chunks"])
def test_quotes_are_whole_characters_and_stand_once_as_text(tmp_path, kind: str) -> None:
    """Runs of dashes and blanks are cut into tokens in many ways; a Chinese character into up to three."""
    chance = np.random.default_rng(0)
    for i in range(20):
        lines = ["-" * int(n) + " " * int(m) + f"{chance.integers(10**6)}" for n, m in chance.integers(1, 70, (300, 2))]
        signs = "".join(map(chr, chance.integers(0x4E00, 0x9FA5, 2000)))
        (tmp_path / f"{i:02}.txt").write_text("\n".join(lines) if i % 2 else signs)
    out = tmp_path.parent / f"once-{kind}"
    ropewalk.synth_data(kind, tmp_path, out=out, length=2 * LENGTH, tokenizer="demo", rows=40)
    made = Arranged.open(out)
    some, cut = made.arrangement, 0
    for row in range(len(made)):
        ids, pieces = made.row(row)[0], list(made.pieces(row))
        own = [i for i in pieces if some.document[i] < made.about.documents]
        read = [TOKENIZER.decode(ids[a:b].tolist()) for a, b in _bounds(made, row)]
        quotes = [i for i in own if not some.loss[i] and some.stop[i] - some.start[i] <= QUOTE]
        context = TOKENIZER.decode(np.concatenate(
            [made.corpus.tokens(int(some.document[i]), int(some.start[i]), int(some.stop[i])) for i in own
             if some.stop[i] - some.start[i] > ANSWER]).tolist())  # fmt: skip
        for i in quotes:
            quote = read[pieces.index(i)]
            assert context.count(quote.strip()) == 1 and "\ufffd" not in quote
            cut += some.stop[i] - some.start[i] < QUOTE
        if kind == "in2":
            assert not any("\ufffd" in read[pieces.index(i)] for i in own if some.loss[i])
    assert cut


def _bounds(made: Arranged, row: int) -> list[tuple[int, int]]:
    some = made.arrangement
    sizes = [int(some.stop[i] - some.start[i]) for i in made.pieces(row)]
    ends = np.cumsum(sizes) + len(made.row(row)[0]) - sum(sizes)
    return [(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]


def test_evidence_is_anywhere(made: Arranged) -> None:
    depth = []
    for row in range(ROWS):
        segments = sum(1 for i in made.pieces(row)
                       if made.arrangement.stop[i] - made.arrangement.start[i] == SEGMENT)  # fmt: skip
        depth += [(one["at"] // SEGMENT + 0.5) / segments for one in made.provenance[row].evidence]
    counts, _ = np.histogram(depth, 4, (0, 1))
    expected = len(depth) / 4
    assert ((counts - expected) ** 2 / expected).sum() < 16.3, "chi-square of 3 degrees of freedom, p = 0.001"
    kinds = [one.kind.split(",")[0] for one in made.provenance]
    assert 0.58 < kinds.count("single") / ROWS < 0.84 and 0.08 < kinds.count("several") / ROWS < 0.3


def test_the_seed_decides_all_of_it(texts, tmp_path) -> None:
    def rows(name: str, seed: int) -> bytes:
        ropewalk.synth_data("in2", texts, out=tmp_path / name, length=2048, tokenizer="demo", rows=3, seed=seed)
        return (tmp_path / name / "pieces.npy").read_bytes() + (tmp_path / name / "provenance.jsonl").read_bytes()

    assert rows("a", 0) == rows("b", 0) != rows("c", 1)


def test_a_page_marks_evidence_and_damage_is_found(made: Arranged, tmp_path) -> None:
    folder = Path(made.corpus.folder)
    shown = ropewalk.show_data(folder, rows=2, out=tmp_path / "page.html")
    page = shown.page.read_text()
    assert "evidence: " in page and "span ink1" in page and "span ink0" in page
    (tmp_path / "copy").mkdir()
    for file in folder.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    lines = (folder / "provenance.jsonl").read_text().splitlines()
    (tmp_path / "copy" / "provenance.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match=f"tells of {ROWS - 1} rows, and there are {ROWS}"):
        Arranged.open(tmp_path / "copy")
    told = [json.loads(line) for line in lines]
    (where, *_), last = told[0]["evidence"], len(made.pieces(0))
    for change, words in (
        ({"pieces": [last]}, "numbers below"), ({"pieces": "0"}, "numbers below"), ({"kind": 5}, "kind"),
        ({"evidence": "x"}, "evidence"), ({"evidence": [1]}, "evidence"), ({"evidence": []}, "one of each"),
        ({"evidence": [where | {"start": "a"}]}, "start"), ({"evidence": [where | {"stop": -1}]}, "start"),
        ({"evidence": [where | {"at": 10**9}]}, '"at"'), ({"evidence": [where | {"document": 5}]}, "document"),
        ({"support": "nobody knows"}, "provenance.jsonl is not what was written"),
    ):  # fmt: skip
        changed = [told[0] | {"pieces": told[0]["pieces"][:1], "evidence": [where]} | change, *told[1:]]
        (tmp_path / "copy" / "provenance.jsonl").write_text("\n".join(map(json.dumps, changed)))
        with pytest.raises(UserError, match=words):
            Arranged.open(tmp_path / "copy")
    (tmp_path / "copy" / "provenance.jsonl").write_text("\n".join(lines[::-1]) + "\n")
    with pytest.raises(UserError, match=r"is not what was written|expected"):
        Arranged.open(tmp_path / "copy")
    (tmp_path / "copy" / "provenance.jsonl").unlink()
    with pytest.raises(UserError, match="is not what was written"):
        Arranged.open(tmp_path / "copy")


def test_texts_that_do_not_suffice_are_refused(tmp_path) -> None:
    (tmp_path / "short.txt").write_text("a few words " * 40)
    (tmp_path / "same.txt").write_text("a few words " * 4000)
    said = {"tokenizer": "demo", "rows": 2}
    for texts, length, words in (
        ("short.txt", 2048, "segments of 128 tokens, and a row takes"),
        ("same.txt", 2048, "occurs twice"),
        ("same.txt", 512, "rows of 512 tokens, expected 1,536 at least"),
    ):
        with pytest.raises(UserError, match=words):
            ropewalk.synth_data("in2", tmp_path / texts, out=tmp_path / f"{texts}-{length}", length=length, **said)
    assert not (tmp_path / "same.txt-512.shards").exists(), "it is known before texts are tokenised"
    with pytest.raises(UserError, match=r"no questions 'in3'.*in2"):
        ropewalk.synth_data("in3", "stdlib", out=tmp_path / "in3", length=2048, **said)
    for least in (64, 2048):
        with pytest.raises(UserError, match=f"contexts of {least:,} to"):
            ropewalk.synth_data("in2", "topics", out=tmp_path / f"l{least}", length=2048, least=least, **said)
    with pytest.raises(UserError, match="the tokenizer"):
        ropewalk.pack_data(tmp_path / "same.txt", out=tmp_path / "p", tokenizer="demo", length=512)
        ropewalk.synth_data("in2", tmp_path / "p", length=2048, out=tmp_path / "o", rows=1)
