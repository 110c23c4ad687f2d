"""From domains to one folder of rows, through the verb: shares, what is taken as it stands, stops, and what is told."""

import json
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import PAIRED, Arranged
from ropewalk.data.knots.marks import Marks
from ropewalk.training.arranged_sampler import ArrangedSampler
from tests.data.killed import KILLED, SMALL_SHARDS
from tests.data.test_making import content

LENGTH = 256
WORDS = {
    "code": "def rope lane tar hemp return yield class import".split(),
    "books": "the sailor walked along a lane and sang".split(),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Repositories of short files, books longer than a row, and notes, some of them as knotted rows."""
    home, chance = tmp_path_factory.mktemp("domains"), random.Random(0)

    def write(file: Path, words: list[str], count: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(" ".join(f"{chance.choice(words)}{chance.randint(0, 99)}" for _ in range(count)))

    for i in range(12):
        for j in range(chance.randint(1, 6)):
            write(home / "code" / f"repo{i:02}" / f"{j}.py", WORDS["code"], chance.randint(20, 60))
        write(home / "books" / f"{i:02}.txt", WORDS["books"], chance.randint(50, 400))
        write(home / "notes" / f"{i:02}.txt", WORDS["books"], chance.randint(20, 200))
    ropewalk.knot_data(home / "notes", out=home / "knotted", length=LENGTH, tokenizer="demo", share=1.0, chunks=2)
    return home


def asked(home: Path, **more) -> dict:
    said = {
        "of": [f"code={home / 'code'}", f"books={home / 'books'}", f"knots={home / 'knotted'}"],
        "shares": "code=0.3,books=0.5,knots=0.2", "least": f"books={LENGTH}", "joined": "code", "tokenizer": "demo",
        "length": LENGTH, "epochs": 20,
    }  # fmt: skip
    return said | more


@pytest.mark.parametrize("tokens", [20_000, 50_000])
def test_shares_come_to_within_one_row_and_are_counted(home, tmp_path, tokens: int) -> None:
    made = ropewalk.mix_data(**asked(home, out=tmp_path / "out", tokens=tokens))
    arranged = Arranged.open(tmp_path / "out")
    assert [one.name for one in made.domains] == ["code", "books", "knots"]
    counted = {one.name: 0 for one in made.domains}
    for row in range(len(arranged)):
        counted[arranged.domain(row)] += len(arranged.row(row)[0])
        places = {arranged.corpus.name(int(arranged.arrangement.document[i])) for i in arranged.pieces(row)}
        kind = {"code": "code", "books": "books", "knots": "notes"}[arranged.domain(row)]
        assert any(str(home / kind) in place for place in places)
        assert not any(str(home / other) in place for place in places for other in {"code", "books", "notes"} - {kind})
    for one in made.domains:
        assert one.tokens == counted[one.name] and one.came == one.tokens / made.counts.tokens
        assert abs(one.tokens - one.share * tokens) <= LENGTH
        assert one.epochs == pytest.approx(one.tokens / one.available)
    assert sum(counted.values()) == made.counts.tokens
    assert made.domains[1].unused == sum(
        len(ropewalk.load("demo")[1](file.read_text()).input_ids) < LENGTH for file in (home / "books").iterdir()
    ), "books that are shorter than a row"
    assert f"{made.domains[0].came:.2%}" in repr(made)
    assert "see what the rows of their domain let them see" in repr(made), "knots do, books do not"


def test_rows_are_taken_as_they_stand_and_only_linked(home, tmp_path) -> None:
    ropewalk.mix_data(**asked(home, out=tmp_path / "out"))
    source, made = Arranged.open(home / "knotted"), Arranged.open(tmp_path / "out")
    known = {row.tobytes() for row in (np.stack(source.row(i)) for i in range(len(source)))}
    rows = [i for i in range(len(made)) if made.domain(i) == "knots"]
    assert rows and all(np.stack(made.row(i)).tobytes() in known for i in rows)
    for ours, theirs in (("00000_2", "00000"), ("marks_2", "marks")):
        for part in ("ids.npy", "ends.npy", "names.json"):
            assert (tmp_path / "out" / f"{ours}.{part}").samefile(home / "knotted" / f"{theirs}.{part}")
    assert made.about.documents < made.arrangement.document.max(), "marks stand behind the documents of all domains"
    assert [one.documents for one in made.domains][2] == source.about.documents


def test_files_of_a_repository_see_each_other_and_books_fill_rows_alone(home, tmp_path) -> None:
    ropewalk.mix_data(**asked(home, out=tmp_path / "out"))
    made = Arranged.open(tmp_path / "out")
    some, joined = made.arrangement, 0
    for row in range(len(made)):
        pieces = np.array(made.pieces(row))
        names = [Path(made.corpus.name(int(some.document[i]))) for i in pieces]
        if made.domain(row) == "books":
            assert len(pieces) == 1 and len(made.row(row)[0]) == LENGTH
        if made.domain(row) == "code":
            of = {}
            for name, scope in zip(names, some.scope[pieces], strict=True):
                assert of.setdefault(int(scope), name.parent) == name.parent
            joined += len(of) < len(names)
    assert joined


def test_the_same_request_gives_the_same_bytes_and_another_seed_other_rows(home, tmp_path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        ropewalk.mix_data(**asked(home, out=tmp_path / name, seed=seed, tokens=20_000))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    one, other = Arranged.open(tmp_path / "a"), Arranged.open(tmp_path / "c")
    assert one.about.pieces != other.about.pieces and one.about.corpus == other.about.corpus


def test_stopped_at_any_moment_it_goes_on_to_the_same_bytes(home, tmp_path, monkeypatch) -> None:
    import ropewalk.data.making as making
    import ropewalk.data.mixing.mixing as mixing
    import ropewalk.data.tokenising as tokenising
    from ropewalk.common.underway import Underway

    ropewalk.mix_data(**asked(home, out=tmp_path / "whole"))

    def stop(*_, **__):
        raise KeyboardInterrupt

    for place, name in (
        (tokenising, "write_text"), (mixing, "drawn"), (mixing, "new_folder"), (making.Arranged, "write"),
        (Underway, "remove"),
    ):  # fmt: skip
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, stop)
            ropewalk.mix_data(**asked(home, out=tmp_path / "part"))
        left = {one.name for one in tmp_path.iterdir()} - {"whole", "part.code.shards", "part.books.shards"}
        assert left == ({"part"} if place is Underway else set())
    ropewalk.mix_data(**asked(home, out=tmp_path / "part"))
    assert content(tmp_path / "part") == content(tmp_path / "whole")
    assert {one.name for one in tmp_path.iterdir()} == {"whole", "part"}
    with pytest.raises(UserError, match="exists already"):
        ropewalk.mix_data(**asked(home, out=tmp_path / "part"))


@pytest.mark.slow
def test_killed_behind_any_write_it_ends_in_the_same_bytes(home, tmp_path) -> None:
    mixed = "import json; ropewalk.mix_data(**json.loads(sys.argv[1]), out=sys.argv[2]); print(done)"
    code = f"{KILLED}\n{SMALL_SHARDS}\n{mixed}"

    def run(name: str, fatal: int) -> subprocess.CompletedProcess:
        line = [sys.executable, "-c", code, json.dumps(asked(home)), str(tmp_path / name), str(fatal)]
        return subprocess.run(line, capture_output=True, text=True)

    writes = int(run("part", 0).stdout)
    (tmp_path / "part").rename(tmp_path / "whole")
    for fatal in sorted({*random.Random(0).sample(range(1, writes + 1), 4), writes - 1, writes}):
        assert run("part", fatal).returncode == -signal.SIGKILL
        done = run("part", 0)
        assert done.returncode == 0, (fatal, done.stderr[-500:])
        assert content(tmp_path / "part") == content(tmp_path / "whole"), fatal
        assert sorted(one.name for one in tmp_path.iterdir()) == ["part", "whole"], fatal
        shutil.rmtree(tmp_path / "part")


def test_a_domain_that_is_used_up_is_read_again_only_when_that_is_said(home, tmp_path) -> None:
    once = ropewalk.mix_data(**asked(home, out=tmp_path / "once", epochs=1))
    scarce = max(once.domains, key=lambda one: one.epochs)
    assert scarce.epochs == pytest.approx(1, abs=LENGTH / scarce.available) and scarce.epochs <= 1
    with pytest.raises(UserError, match=f"{scarce.name} has {scarce.available:,} tokens in rows") as refused:
        ropewalk.mix_data(**asked(home, out=tmp_path / "more", epochs=1, tokens=3 * once.counts.tokens))
    said = int(refused.value.mend.split("--epochs ")[1].split(",")[0])
    assert not (tmp_path / "more").exists()
    more = ropewalk.mix_data(**asked(home, out=tmp_path / "more", epochs=said, tokens=3 * once.counts.tokens))
    assert said - 1 < max(one.epochs for one in more.domains) <= said


def test_a_document_that_is_read_again_is_not_cut(home, tmp_path) -> None:
    said = {"of": f"books={home / 'books'}", "shares": "books=1", "tokenizer": "demo", "length": 2048}
    for name, epochs in (("once", 1), ("thrice", 3)):
        made = ropewalk.mix_data(**said, out=tmp_path / name, epochs=epochs)
        assert made.counts.rows % epochs == 0 and not made.counts.cut and not made.counts.dropped
        assert made.domains[0].epochs == epochs


@pytest.mark.parametrize(("change", "words"), [
    ({"shares": "code=0.5,books=0.5"}, "no share for knots"),
    ({"shares": "prolong"}, "no texts for arxiv, fineweb"),
    ({"of": ["code"]}, "--of is 'code'"),
    ({"of": ["a=x", "a=y"], "shares": "a=1"}, "another has that name"),
    ({"of": ["a/b=x"], "shares": "a=1"}, "--of is 'a/b=x'"),
    ({"least": "book=4k"}, "names book, which is no domain"),
    ({"least": "books=4k"}, "a row has 256"),
    ({"least": "knots=64"}, "--least changes none"),
    ({"joined": "knots"}, "--joined changes none"),
    ({"length": 512, "least": ""}, "holds rows of 256 tokens"),
    ({"of": ["code=stdlib"], "shares": "code=1", "least": ""}, "stdlib is no folder of repositories"),
    ({"tokens": 300}, "less than half a row"),
    ({"tokenizer": ""}, "no tokenizer for"),
    ({"on_error": "ignore"}, "expected stop or skip"),
])  # fmt: skip
def test_mistakes_are_refused_and_nothing_is_written(home, tmp_path, change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ropewalk.mix_data(**asked(home, out=tmp_path / "out") | change)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="inside the source"):
        ropewalk.mix_data(**asked(home, out=home / "code" / "inside"))


def test_rows_that_would_be_taken_apart_are_refused(home, tmp_path) -> None:
    ropewalk.pack_data(home / "books", out=tmp_path / "rows", length=LENGTH, tokenizer="demo", packing="decompose",
                       least=64)  # fmt: skip
    said = asked(home, of=f"rows={tmp_path / 'rows'}", shares="rows=1", least="", joined=(), out=tmp_path / "out")
    with pytest.raises(UserError, match="rows of many lengths"):
        ropewalk.mix_data(**said)
    ropewalk.pack_data(home / "books", out=tmp_path / "rows", length=LENGTH, tokenizer="demo", overwrite=True)
    rows = Arranged.open(tmp_path / "rows")
    replace(rows, about=replace(rows.about, how=PAIRED)).write(tmp_path / "rows")
    with pytest.raises(UserError, match="pairs of answers"):
        ropewalk.mix_data(**said)
    assert not (tmp_path / "out").exists()


def test_domains_that_are_none_are_refused_when_they_are_opened(home, tmp_path) -> None:
    ropewalk.mix_data(**asked(home, out=tmp_path / "out"))
    file = tmp_path / "out" / "arrangement.json"
    good = json.loads(file.read_text())
    first, *others = good["options"]["domains"]
    for bad in (
        [first], [first | {"share": 2.0}, *others], [first | {"documents": 0}, *others], [{"name": "x"}], 5,
        [first | {"documents": first["documents"] + 1}, *others],
    ):  # fmt: skip
        file.write_text(json.dumps(good | {"options": good["options"] | {"domains": bad}}))
        with pytest.raises(UserError, match="domains"):
            Arranged.open(tmp_path / "out")


def test_questions_keep_their_evidence_and_plain_rows_have_none(home, tmp_path) -> None:
    ropewalk.synth_data("in2", "stdlib", out=tmp_path / "in2", length=1024, rows=6, tokenizer="demo", least=512)
    ropewalk.mix_data(of=[f"asks={tmp_path / 'in2'}", f"books={home / 'books'}"], shares="asks=0.5,books=0.5",
                      out=tmp_path / "out", length=1024, tokenizer="demo")  # fmt: skip
    made = Arranged.open(tmp_path / "out")
    for row, told in enumerate(made.provenance):
        assert (told.kind != "plain") == bool(told.evidence) == (made.domain(row) == "asks")
        for where, piece in zip(told.evidence, told.pieces, strict=True):
            i = made.pieces(row)[piece]
            assert made.corpus.name(int(made.arrangement.document[i])) == where["document"]
            assert int(made.arrangement.start[i]) == where["start"]
    page = ropewalk.show_data(tmp_path / "out", rows=20, out=tmp_path / "page.html").page.read_text()
    assert "evidence: " in page and "books" in page and "share that came" in page


def test_it_is_shown_counted_and_read_by_training(home, tmp_path) -> None:
    made = ropewalk.mix_data(**asked(home, out=tmp_path / "out"))
    assert ropewalk.show_data(tmp_path / "out", check=True).domains == made.domains
    found = ropewalk.survey_data(tmp_path / "out", quick=True)
    assert found.domains.keys() == {"code", "books", "knots"} and sum(found.domains.values()) == found.tokens
    assert "tokens by domain" in repr(found)
    arranged = Arranged.open(tmp_path / "out")
    rows = list(ArrangedSampler(arranged, LENGTH).rows(0, 0, len(arranged)))
    assert sum(len(row.ids) for row in rows) == made.counts.tokens
    with pytest.raises(UserError, match=f"samples of {2 * LENGTH}") as refused:
        ArrangedSampler(arranged, 2 * LENGTH)
    assert f"ropewalk data mix ... --length {2 * LENGTH}" in refused.value.mend
    again = ropewalk.pack_data(tmp_path / "out", out=tmp_path / "again", length=512)
    assert again.counts.documents == made.counts.documents and not again.counts.marks


def test_marks_are_of_no_domain() -> None:
    from ropewalk.data.mixing.domain import Domain, domain_of

    some = (Domain("a", "", 0.5, 0, False, 2, 9), Domain("b", "", 0.5, 0, False, 3, 9))
    marks = Marks(lambda text: [0], 5)
    assert domain_of(some, np.array([0, 1, 2, 4, marks.add("x")[0]])).tolist() == [0, 0, 1, 1, 2]
