"""From texts to a folder of rows, through the verbs: whole or not at all, the same bytes after any stop, told of."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.corpus import Corpus
from tests.data.killed import KILLED, SMALL_SHARDS


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    chance = random.Random(0)
    for i in range(30):
        words = chance.choices(
            "the rope walks on, and on; a long lane of hemp and tar".split(), k=chance.randint(5, 900)
        )
        (folder / f"{i:02}.txt").write_text(" ".join(words))
    (folder / "empty.txt").write_text("")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """All but what tells times."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "ropewalk.json"}


@pytest.mark.parametrize("packing", ["best-fit", "concat", "decompose"])
def test_packed_texts_are_what_a_tokenizer_says_of_them(texts, tmp_path, packing: str) -> None:
    made = ropewalk.pack_data(texts, out=tmp_path / "out", length=512, tokenizer="demo", packing=packing, **(
        {"least": 64} if packing == "decompose" else {}))  # fmt: skip
    arranged = Arranged.open(tmp_path / "out")
    assert made.counts == arranged.counts and made.counts.documents == 30 and made.counts.rows == len(arranged)
    tokenizer = ropewalk.load("demo")[1]
    read: dict[str, dict[int, int]] = {}
    for row in range(len(arranged)):
        ids, positions, scopes, weights = arranged.row(row)
        assert len(ids) == len(positions) == len(scopes) == len(weights) <= 512
        some = arranged.arrangement
        for i in arranged.pieces(row):
            name = arranged.corpus.name(int(some.document[i]))
            for t in range(int(some.start[i]), int(some.stop[i])):
                read.setdefault(name, {})[t] = int(arranged.corpus.tokens(int(some.document[i]))[t])
    for name, tokens in read.items():
        ids = tokenizer(Path(name).read_text()).input_ids
        assert all(ids[t] == token for t, token in tokens.items())
    begins = sum(0 in tokens for tokens in read.values())
    assert sum(map(len, read.values())) - begins == made.counts.learnt > 0 < begins
    assert made.counts.learnt == sum(int((arranged.row(row)[3] > 0).sum()) for row in range(len(arranged)))
    assert "empty: 1 text\n" in repr(made) and json.loads(made.to_json())["counts"]["rows"] == made.counts.rows


def test_what_is_tokenised_is_arranged_anew_without_a_tokenizer(texts, tmp_path) -> None:
    ropewalk.pack_data(texts, out=tmp_path / "a", length=512, tokenizer="demo")
    again = ropewalk.pack_data(tmp_path / "a", out=tmp_path / "b", length=256)
    direct = ropewalk.pack_data(texts, out=tmp_path / "c", length=256, tokenizer="demo")
    assert again.counts == direct.counts
    knotted = ropewalk.knot_data(tmp_path / "b", out=tmp_path / "d", length=512, tokenizer="demo", share=1.0)
    assert knotted.counts.marks and knotted.counts.documents == 30
    assert Corpus.open(tmp_path / "d").manifest.shards[-1].name == "marks"
    twice = ropewalk.knot_data(tmp_path / "d", out=tmp_path / "e", length=512, tokenizer="demo", share=1.0)
    assert twice.counts == knotted.counts, "marks of before are none of the documents"
    with pytest.raises(UserError, match="marks need the tokenizer"):
        ropewalk.knot_data(tmp_path / "b", out=tmp_path / "f", length=512, share=1.0)
    assert not (tmp_path / "f").exists()
    plain = ropewalk.knot_data(tmp_path / "b", out=tmp_path / "g", length=512, knot="interleave")
    assert plain.counts.marks == 0 and plain.counts.crossing


def test_marks_have_no_loss_and_documents_have(texts, tmp_path) -> None:
    ropewalk.knot_data(texts, out=tmp_path / "out", length=512, tokenizer="demo", share=1.0)
    arranged, tokenizer = Arranged.open(tmp_path / "out"), ropewalk.load("demo")[1]
    ids, _, scopes, weights = arranged.row(0)
    marked = tokenizer.decode(ids[weights == 0])
    assert not scopes.any()
    assert "<knot" in marked and "<knot" not in tokenizer.decode(ids[weights > 0])
    assert "rope" in tokenizer.decode(ids[weights > 0])


def test_stopped_at_any_moment_it_leaves_nothing_half_and_goes_on(texts, tmp_path, monkeypatch) -> None:
    ropewalk.pack_data(texts, out=tmp_path / "whole", length=512, tokenizer="demo")
    import ropewalk.data.making as making
    import ropewalk.data.tokenising as tokenising

    for module, name in ((tokenising, "write_text"), (making, "new_folder"), (making.Arranged, "write")):
        real = getattr(module, name)

        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            ropewalk.pack_data(texts, out=tmp_path / "part", length=512, tokenizer="demo")
        monkeypatch.setattr(module, name, real)
        assert not (tmp_path / "part").exists()
        assert sorted(one.name for one in tmp_path.iterdir()) == ["part.shards", "whole"]
    ropewalk.pack_data(texts, out=tmp_path / "part", length=512, tokenizer="demo")
    assert content(tmp_path / "part") == content(tmp_path / "whole")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["part", "whole"]


def test_stopped_behind_its_last_write_it_only_clears_up(texts, tmp_path, monkeypatch) -> None:
    from ropewalk.common.underway import Underway

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Underway, "remove", stop)
        ropewalk.pack_data(texts, out=tmp_path / "out", length=512, tokenizer="demo")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "out.shards"]
    ropewalk.pack_data(texts, out=tmp_path / "out", length=512, tokenizer="demo")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match="exists already"):
        ropewalk.pack_data(texts, out=tmp_path / "out", length=512, tokenizer="demo")


PACKED = f"""{KILLED}
{SMALL_SHARDS}
ropewalk.pack_data(sys.argv[1], out=sys.argv[2], length=512, tokenizer="demo")
print(done)
"""


@pytest.mark.slow
def test_killed_behind_any_write_it_ends_in_the_same_bytes(texts, tmp_path) -> None:
    def run(name: str, fatal: int) -> subprocess.CompletedProcess:
        line = [sys.executable, "-c", PACKED, str(texts), str(tmp_path / name), str(fatal)]
        return subprocess.run(line, capture_output=True, text=True)

    writes = int(run("whole", 0).stdout)
    assert writes > 60
    moments = sorted({*random.Random(0).sample(range(1, writes + 1), 8), writes - 1, writes})
    for fatal in moments:
        assert run("part", fatal).returncode == -signal.SIGKILL
        done = run("part", 0)
        assert done.returncode == 0, (fatal, done.stderr[-500:])
        assert content(tmp_path / "part") == content(tmp_path / "whole"), fatal
        assert sorted(one.name for one in tmp_path.iterdir()) == ["part", "whole"], fatal
        shutil.rmtree(tmp_path / "part")


ENDING = f"""
import shutil, sys
from itertools import count
from pathlib import Path
import ropewalk
from tests.instants import ended
{SMALL_SHARDS}
texts, place, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
read = lambda folder: {{file.name: file.read_bytes() for file in folder.iterdir() if file.name != "ropewalk.json"}}

def pack(name):
    try:
        ropewalk.pack_data(texts, out=place / name, length=512, tokenizer="demo")
    except ropewalk.UserError as error:  # it was ended behind all that it does
        if "exists already" not in str(error):
            raise

pack("whole")  # here, so that what is imported is there in all that follow
for moment in count(1, step):
    if not ended(lambda: pack("part"), moment):
        break
    ended(lambda: pack("part"), 0)
    assert read(place / "part") == read(place / "whole"), moment
    assert sorted(one.name for one in place.iterdir()) == ["part", "whole"], (moment, list(place.iterdir()))
    shutil.rmtree(place / "part")
print(moment)
"""


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_ended_at_any_instant_it_goes_on_to_the_same_bytes_and_leaves_nothing(tmp_path, step: int) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(4):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"the rope walks on, {i} " * (200 * i))
    (tmp_path / "rows").mkdir()
    line = [sys.executable, "-c", ENDING, str(tmp_path / "texts"), str(tmp_path / "rows"), str(step)]
    run = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"})
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout.split()[-1]) > 100


def test_broken_rows_stop_the_work_or_are_told(tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a rope"}\n{"txt": "b"}\n' + '{"text": "a longer rope"}\n' * 60)
    said = {"out": tmp_path / "out", "length": 128, "tokenizer": "demo"}
    with pytest.raises(UserError, match=r"rows\.jsonl:2"):
        ropewalk.pack_data(tmp_path / "rows.jsonl", **said)
    made = ropewalk.pack_data(tmp_path / "rows.jsonl", **said | {"out": tmp_path / "other", "on_error": "skip"})
    assert made.counts.documents == 61 and "1 of 62 texts left out" in repr(made)
    with pytest.raises(UserError, match="expected stop or skip"):
        ropewalk.pack_data(tmp_path / "rows.jsonl", **said | {"on_error": "ignore"})


def test_parquet_files_are_read_as_lines_of_json_are(tmp_path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows, said = [f"a rope of {i} fathoms, und ein Seil für {i}" for i in range(200)], {"length": 128}
    for name, column in (("a", rows), ("b", [*rows[:7], None, *rows[8:]])):
        (tmp_path / name).mkdir()
        table = pyarrow.table({"id": range(200), "text": pyarrow.array(column, pyarrow.string())})
        parquet.write_table(table, tmp_path / name / "rows.parquet", row_group_size=64)
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    said |= {"tokenizer": "demo"}
    made = ropewalk.pack_data(tmp_path / "a", out=tmp_path / "out", **said)
    ropewalk.pack_data(tmp_path / "lines.jsonl", out=tmp_path / "other", **said)
    own, other = (Arranged.open(tmp_path / name) for name in ("out", "other"))
    assert made.counts.documents == 200 and own.about.pieces == other.about.pieces
    assert own.corpus.name(9) == f"{tmp_path}/a/rows.parquet:10"
    for one, same in zip(own.corpus, other.corpus, strict=True):
        np.testing.assert_array_equal(one, same)
    with pytest.raises(UserError, match=r'rows\.parquet:8: "text" is None'):
        ropewalk.pack_data(tmp_path / "b", out=tmp_path / "broken", **said)
    made = ropewalk.pack_data(tmp_path / "b", out=tmp_path / "broken", on_error="skip", overwrite=True, **said)
    assert made.counts.documents == 199 and "1 of 200 texts left out" in repr(made)
    (tmp_path / "b" / "rows.parquet").write_bytes((tmp_path / "a" / "rows.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"rows\.parquet: not a parquet file"):
        ropewalk.pack_data(tmp_path / "b", out=tmp_path / "cut", **said)
    assert not (tmp_path / "cut").exists()


def test_what_the_hub_does_not_give_is_said_with_what_mends_it(tmp_path, monkeypatch) -> None:
    def offline(name: str, config: str | None, split: str) -> None:
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", offline)
    with pytest.raises(UserError, match=r"the hub did not give nobody/texts .*Couldn't reach") as error:
        ropewalk.pack_data("nobody/texts", out=tmp_path / "out", length=128, tokenizer="demo")
    assert "give the folder" in error.value.mend and not list(tmp_path.iterdir())


def test_mistakes_are_refused_before_anything_is_written(texts, tmp_path) -> None:
    for more, words in (
        ({"length": 1}, "rows of 1 tokens"),
        ({"tokenizer": ""}, "no tokenizer for"),
        ({"packing": "bestfit"}, "no packing"),
        ({"least": 64}, "changes nothing in best-fit"),
        ({"packing": "decompose", "length": 500}, "a power of two"),
        ({"packing": "concat", "length": 10**6}, "fill no row"),
        ({"out": texts / "inside"}, "inside the source"),
    ):
        with pytest.raises(UserError, match=words):
            ropewalk.pack_data(texts, **{"out": tmp_path / "out", "length": 512, "tokenizer": "demo"} | more)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="fill no row") as told:
        ropewalk.pack_data(texts, out=tmp_path / "out", length=10**6, tokenizer="demo", packing="concat")
    assert f"What was done stays in {tmp_path / 'out.shards'} for a further run" in told.value.mend
    shutil.rmtree(tmp_path / "out.shards")
    with pytest.raises(UserError, match="rows of 1 tokens"):
        ropewalk.pack_data(texts, out=tmp_path / "out", length=1, tokenizer="demo")
    assert not list(tmp_path.iterdir()), "nothing was tokenised for that"
    ropewalk.pack_data(texts, out=tmp_path / "rows", length=64, tokenizer="demo")
    with pytest.raises(UserError, match="rows of 1 tokens"):
        ropewalk.pack_data(tmp_path / "rows", out=tmp_path / "out", length=1)
    with pytest.raises(UserError, match="no knot"):
        ropewalk.knot_data(texts, out=tmp_path / "out", length=512, tokenizer="demo", knot="bow")
    with pytest.raises(UserError, match="changes nothing in interleave"):
        ropewalk.knot_data(texts, out=tmp_path / "out", length=512, tokenizer="demo", knot="interleave", share=0.5)


def test_rows_that_are_not_what_was_written_are_refused(texts, tmp_path) -> None:
    ropewalk.pack_data(texts, out=tmp_path / "out", length=512, tokenizer="demo")
    file = tmp_path / "out" / "pieces.npy"
    table = np.load(file)
    table[3, 0] += 10**6
    np.save(file, table)
    with pytest.raises(UserError, match="has a stop that cannot be"):
        Arranged.open(tmp_path / "out")
    table[3, 0] -= 10**6 + 1
    np.save(file, table)
    with pytest.raises(UserError, match="is not what was written"):
        Arranged.open(tmp_path / "out")
    table[3, 0] += 1
    np.save(file, table)
    about = tmp_path / "out" / "arrangement.json"
    good = about.read_text()
    for change in (
        {"length": "4k"}, {"length": 0}, {"length": 10**30}, {"length": 100}, {"documents": "x"}, {"documents": 10**9},
        {"options": 5}, {"apart": "no"}, {"seed": None}, {"how": 3}, {"told": {"a": float("nan")}},
        {"told": {"a": "1"}}, {"apart": False},
    ):  # fmt: skip
        about.write_text(json.dumps(json.loads(good) | change))
        with pytest.raises(UserError) as told:
            Arranged.open(tmp_path / "out")
        assert "arrangement.json or" not in str(told.value), "a value that cannot be is named"
    for change in (
        {"documents": 1}, {"how": "longpo"}, {"how": "decompose"}, {"seed": 7}, {"asks": True},
        {"source": "elsewhere"}, {"told": {"rows wanted": 10**6}}, {"options": {"least": 1}}, {"counts": {}},
    ):  # fmt: skip
        about.write_text(json.dumps(json.loads(good) | change))
        with pytest.raises(UserError, match=r"arrangement\.json or provenance\.jsonl is not what"):
            Arranged.open(tmp_path / "out")
    about.write_text(good)
    manifest = tmp_path / "out" / "corpus.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"begin": [9]}))
    with pytest.raises(UserError, match="arranges other documents"):
        Arranged.open(tmp_path / "out")
    np.save(file, table[:5])
    with pytest.raises(UserError, match=r"expected int64 \[7, P\]"):
        ropewalk.show_data(tmp_path / "out")
    (tmp_path / "out" / "arrangement.json").unlink()
    with pytest.raises(UserError, match="holds documents, and no arrangement"):
        ropewalk.show_data(tmp_path / "out")


def test_a_page_shows_rows(texts, tmp_path) -> None:
    ropewalk.knot_data(texts, out=tmp_path / "out", length=512, tokenizer="demo", share=1.0)
    shown = ropewalk.show_data(tmp_path / "out", rows=3, check=True, out=tmp_path / "out.html")
    page = shown.page.read_text()
    assert shown.page == tmp_path / "out.html"
    assert page.count("span ink0") >= 3 and "span none" in page and "&lt;knot" in page
    assert f"{shown.counts.rows:,} rows of up to 512 tokens" in page


def test_a_survey_counts(texts, tmp_path) -> None:
    (tmp_path / "more").mkdir()
    long = (texts / "00.txt").read_text()
    for name, text in (("a.txt", long), ("b.txt", long + " x"), ("c.txt", "Съешь же ещё этих мягких булок")):
        (tmp_path / "more" / name).write_text(text)
    found = ropewalk.survey_data(tmp_path / "more", tokenizer="demo", out=tmp_path / "page.html")
    tokenizer = ropewalk.load("demo")[1]
    lengths = [len(tokenizer(file.read_text()).input_ids) for file in sorted((tmp_path / "more").iterdir())]
    assert (found.documents, found.tokens, found.longest) == (3, sum(lengths), max(lengths))
    assert found.duplicates == 1 and found.copied[0][0].endswith("b.txt") and found.copied[0][1].endswith("a.txt")
    assert set(found.scripts) == {"latin", "cyrillic"}
    for one in found.above:
        assert one.documents == sum(n >= one.length for n in lengths)
        assert one.tokens == sum(n for n in lengths if n >= one.length)
    assert "cyrillic" in (tmp_path / "page.html").read_text() and "near duplicates: 1 of 3" in repr(found)
    ropewalk.pack_data(tmp_path / "more", out=tmp_path / "rows", length=64, tokenizer="demo")
    assert ropewalk.survey_data(tmp_path / "rows", quick=True).tokens == found.tokens


def test_files_that_are_not_read_and_what_is_left_behind_are_told(tmp_path) -> None:
    folder = tmp_path / "texts"
    (folder / ".editor").mkdir(parents=True)
    words = " ".join(map(str, range(2000)))
    for name in ("a.txt", "B.TXT", "c.json", "d.txt.gz", "e.gz", "README", ".hidden.txt", ".editor/a.txt"):
        (folder / name).write_text(words + name)
    made = ropewalk.pack_data(folder, out=tmp_path / "out", length=512, tokenizer="demo")
    assert "not read: 4 files of other kinds (.gz 2, without ending 1, .json 1)" in " ".join(repr(made).split())
    assert sorted(Path(name).name for name in map(Arranged.open(tmp_path / "out").corpus.name, range(2))) == [
        "B.TXT",
        "a.txt",
    ]
    asks = ropewalk.synth_data("in2", folder, out=tmp_path / "asks", length=2048, tokenizer="demo", rows=3)
    assert "left behind" not in repr(asks)
    again = ropewalk.pack_data(tmp_path / "asks", out=tmp_path / "again", length=512)
    assert f"left behind: questions and answers of {tmp_path / 'asks'}" in " ".join(repr(again).split())
    with pytest.raises(UserError, match="is tokenised already"):
        ropewalk.pack_data(tmp_path / "asks", out=tmp_path / "x", length=512, tokenizer="demo", signs_as_letters=True)


def test_nothing_is_made_of_rows_that_a_disk_changed(texts, tmp_path) -> None:
    ropewalk.pack_data(texts, out=tmp_path / "rows", length=1024, tokenizer="demo")
    ids = tmp_path / "rows" / "00000.ids.npy"
    data = bytearray(ids.read_bytes())
    data[-40] ^= 1
    ids.unlink()
    ids.write_bytes(data)
    with pytest.raises(UserError, match="shard 00000 is not what was written"):
        ropewalk.train("pi", "demo", tmp_path / "rows", to=1024, documents=0, out=tmp_path / "out")
    for again in (
        lambda: ropewalk.pack_data(tmp_path / "rows", out=tmp_path / "out", length=64),
        lambda: ropewalk.mix_data(of=[f"a={tmp_path / 'rows'}"], shares="a=1", out=tmp_path / "out", length=1024),
    ):
        with pytest.raises(UserError, match="shard 00000 is not what was written"):
            again()
    assert not (tmp_path / "out").exists()
