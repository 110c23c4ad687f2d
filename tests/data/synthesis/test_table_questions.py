"""Questions about tables: answered here once more without SQL, unanswerable without their table, anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.corpus import Corpus, Manifest, write_shard
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import Text, texts_of
from ropewalk.data.synthesis.replies import holds
from ropewalk.data.synthesis.tables import FORMS, WHAT, Query, Table, beside, query_of, table_of
from ropewalk.texts.documents import token_ids
from tests.data.synthesis.written import TOKENIZER, content, text_of

LENGTH, ROWS = 6144, 60
TABLE = re.compile(r"\n\nTable (\w{6})\n(.*?)\n\n", re.DOTALL)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "texts"
    ropewalk.pack_data("stdlib", out=folder, length=LENGTH, tokenizer="demo")
    return folder


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory) -> Arranged:
    folder = tmp_path_factory.mktemp("tables") / "rows"
    ropewalk.synth_data("tables", texts, out=folder, length=LENGTH, tokenizer="demo", rows=ROWS)
    return Arranged.open(folder)


def solved(question: str, tables: dict[str, Table]) -> str:
    """The answer by a reader of tables who knows no SQL."""
    first, *second = (tables[title] for title in re.findall(r"table (\w{6})", question))
    lines = [dict(zip(first.columns, row, strict=True)) for row in first.rows]
    who, where, *_ = first.columns
    if found := re.search(rf"What is the (\w+) of the {who} with the largest (\w+)\?", question):
        return str(max(lines, key=lambda line: line[found[2]])[found[1]])
    if found := re.search(rf"What is the (\w+) of the {who} (.+)\?", question):
        return str(next(line for line in lines if line[who] == found[2])[found[1]])
    if found := re.search(rf"the sum of (\w+) over all rows whose {where} is (\w+)\?", question):
        return str(sum(int(line[found[1]]) for line in lines if line[where] == found[2]))
    if found := re.search(r"the largest (\w+) less the smallest", question):
        every = [int(line[found[1]]) for line in lines]
        return str(max(every) - min(every))
    found = re.search(rf"the {where} of the {who} (.+) from table", question)
    assert found and second
    return str(dict(second[0].rows)[next(line for line in lines if line[who] == found[1])[where]])


@pytest.mark.slow
def test_every_answer_is_that_of_a_reader_without_sql_and_stands_nowhere_else(made: Arranged) -> None:
    kinds = set()
    for row in range(ROWS):
        ids, _, scopes, weights = made.row(row)
        assert len(ids) <= LENGTH and not scopes.any()
        last = made.pieces(row)[-2]
        assert weights.sum() == made.arrangement.stop[last] - made.arrangement.start[last] + 1
        text, answer = text_of(made, row, False), text_of(made, row, True).strip()
        tables = {found[1]: Table.read(found[0]) for found in TABLE.finditer(text)}
        question, told = text[text.rindex("Question: ") :], made.provenance[row]
        assert solved(question, tables) == answer
        needed = re.findall(r"table (\w{6})", question)
        pieces = [list(made.pieces(row))[i] for i in told.pieces]
        assert [one["document"] for one in told.evidence] == [
            made.corpus.name(int(made.arrangement.document[i])) for i in pieces
        ]
        assert len(tables) == 2 + len(needed) and "sqlite: SELECT" in told.support
        for where, title in zip(told.evidence, needed, strict=True):
            stands = TOKENIZER.decode(ids[where["at"] : where["at"] + where["stop"]].tolist())
            assert stands == where["document"] and stands.strip().startswith(f"Table {title}\n")
            text = text.replace(stands, "")
        assert not re.search(rf"(?<!\w){answer}(?!\w)", text), "without its tables nothing in the row says it"
        kinds.add(told.kind)
    assert kinds == {"lookup", "largest", "sum", "difference", "join"}


def test_tables_are_anywhere_and_lengths_are_uniform(texts, tmp_path) -> None:
    ropewalk.synth_data("tables", texts, out=tmp_path / "rows", length=LENGTH, tokenizer="demo", rows=200, seed=5)
    many, depth, sizes = Arranged.open(tmp_path / "rows"), [], []
    for row in range(len(many)):
        places = list(many.pieces(row))
        kept = [i for i, place in enumerate(places) if many.arrangement.document[place] < many.about.documents]
        slot = sum(i < many.provenance[row].pieces[0] for i in kept)
        depth.append((slot + 0.5) / (len(kept) + 1))
        sizes.append(len(many.row(row)[0]))
    for values, ends in ((depth, (0, 1)), (sizes, (3200, LENGTH))):
        counts, _ = np.histogram(values, 4, ends)
        expected = len(values) / 4
        assert counts.sum() > 0.95 * len(values)
        assert ((counts - expected) ** 2 / expected).sum() < 16.3, "chi-square of 3 degrees of freedom, p = 0.001"


def test_a_table_is_read_back_from_every_form() -> None:
    rng = np.random.default_rng(0)
    for what in WHAT:
        table = table_of(rng, what)
        for one in (table, beside(rng, table)):
            assert all(Table.read(one.written(form)) == one for form in FORMS)
        assert len({row[0] for row in table.rows}) == len(table.rows)
    for form in FORMS:
        broken = table.written(form).replace(str(table.rows[0][3]), "1")
        assert Table.read(broken) != table


def test_a_tie_has_no_answer() -> None:
    table = Table("T", ("who", "price"), (("a", 3), ("b", 3), ("c", 1)))
    sql = 'SELECT "who" FROM t0 WHERE "price" = (SELECT max("price") FROM t0)'
    assert Query("largest", "", sql).answer([table]) is None
    assert Query("largest", "", sql.replace("max", "min")).answer([table]) == "c"


def test_a_query_does_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        table = table_of(rng, WHAT[0])
        query, second = query_of(rng, table), beside(rng, table)
        turned = Table(table.title, table.columns, table.rows[::-1])
        assert query.answer([table, second]) == query.answer([turned, second]) is not None


def test_the_seed_decides_all_of_it(texts, tmp_path) -> None:
    def rows(name: str, seed: int) -> dict[str, bytes]:
        ropewalk.synth_data("tables", texts, out=tmp_path / name, length=LENGTH, tokenizer="demo", rows=3, seed=seed)
        return content(tmp_path / name)

    assert rows("a", 0) == rows("b", 0) and rows("c", 1)["pieces.npy"] != rows("d", 0)["pieces.npy"]


def test_what_cannot_be_is_refused_with_what_mends_it(texts, tmp_path) -> None:
    def refused(source: Path, **said: object) -> str:
        with pytest.raises(UserError) as error:
            ropewalk.synth_data("tables", source, out=tmp_path / "a", tokenizer="demo", rows=2, overwrite=True, **said)
        return str(error.value)

    assert re.search(r"rows of 2,048 tokens, .*greater --length, 3,200 at least\.", refused(texts, length=2048), re.S)
    assert re.search(r"512 to 6,144 .*--least of 3,200 to 6,144", refused(texts, length=LENGTH, least=512), re.S)
    assert re.search(r"9,000 to 6,144 .*--least of 3,200 to 6,144", refused(texts, length=LENGTH, least=9000), re.S)
    few = tmp_path / "few"
    few.mkdir()
    (few / "1.txt").write_text("".join(f"{i:05} is a rope\n" for i in range(800)))
    most = int(
        re.search(r"more texts, or a smaller --length: ([\d,]+) at most", refused(few, length=64000))[1].replace(
            ",", ""
        )
    )
    assert "Give more texts." in refused(few, length=64000, least=most + 1)
    for source, length in ((texts, 3200), (few, most)):
        ropewalk.synth_data(
            "tables", source, out=tmp_path / "a", length=length, tokenizer="demo", rows=2, overwrite=True
        )
    (few / "1.txt").write_text("short")
    assert "Give more texts." in refused(few, length=3200)


def test_no_engine_writes_them(texts, tmp_path) -> None:
    with pytest.raises(UserError, match="no engine writes tables"):
        ropewalk.synth_data("tables", texts, out=tmp_path / "b", length=LENGTH, tokenizer="demo", engine="demo")


def test_pieces_behind_each_other_are_read_as_one_text(tmp_path) -> None:
    """A number whose halves stand in two pieces is that number, and neither of its halves."""
    ids = token_ids("sums of 4123 ropes", TOKENIZER)
    shard = write_shard(tmp_path, "00000", [ids], ["a"], len(TOKENIZER))
    corpus = Corpus(tmp_path, Manifest("demo", "", len(TOKENIZER), (), (shard,)))
    marks = Marks(lambda text: token_ids(text, TOKENIZER), 1, lambda ids: str(TOKENIZER.decode(list(ids))))
    cut = next(i for i in range(len(ids)) if TOKENIZER.decode(ids[:i]).endswith("41"))
    parts = [Piece(0, 0, cut), Piece(0, cut, len(ids)), Text.of(" | ", marks), Piece(0, cut, len(ids))]
    assert texts_of(parts, corpus, marks) == ["sums of 4123 ropes", " | ", "23 ropes"]
    assert not holds(texts_of(parts, corpus, marks)[0], "23")
