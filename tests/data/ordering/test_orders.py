"""Documents in an order, through the verb: each once, the same bytes after any stop and on any number of cores."""

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.common.progress import Progress
from ropewalk.data import near_duplicates
from ropewalk.data.arranged import Arranged
from ropewalk.data.ordering import kept_vectors, neighbours, orders, smooth_path
from ropewalk.data.ordering.orders import ORDERS, Ordering, adjacent, ordered
from ropewalk.data.ordering.token_vectors import TokenVectors
from tests.data.killed import KILLED
from tests.data.ordering.test_token_vectors import corpus_of

WORDS = ("rope hemp tar lane spin".split(), "sail mast deck keel helm".split(), "corn mill rye oats bran".split())
ASKED = {"length": 256, "tokenizer": "demo"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """24 texts of three topics in turn, of which 05 and 17 say what 02 says, and nearly."""
    folder = tmp_path_factory.mktemp("texts")
    chance = random.Random(0)
    said = [" ".join(chance.choices([*WORDS[i % 3], "the", "a"], k=chance.randint(60, 90))) for i in range(24)]
    said[5], said[17] = said[2], said[2] + " and"
    for i, text in enumerate(said):
        (folder / f"{i:02}.txt").write_text(text)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """All but what tells times."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "ropewalk.json"}


def order_in(folder: Path) -> list[str]:
    """Names of documents, in the order in which their first tokens stand."""
    arranged = Arranged.open(folder)
    some = arranged.arrangement
    return [Path(arranged.corpus.name(int(some.document[i]))).stem for i in np.flatnonzero(some.start == 0)]


@pytest.mark.parametrize("kind", ORDERS)
def test_every_document_is_read_once_but_for_near_duplicates(kind: str, texts, tmp_path) -> None:
    made = ropewalk.order_data(kind, texts, out=tmp_path / "out", **ASKED)
    arranged = Arranged.open(tmp_path / "out")
    read: dict[int, list[np.ndarray]] = {}
    some = arranged.arrangement
    for i in range(len(some.row)):
        document, start = int(some.document[i]), int(some.start[i])
        assert sum(map(len, read.get(document, []))) == start
        read.setdefault(document, []).append(arranged.corpus.tokens(document, start, int(some.stop[i])))
    assert sorted(read) == [i for i in range(24) if i not in (5, 17)]
    for document, parts in read.items():
        np.testing.assert_array_equal(np.concatenate(parts), arranged.corpus[document])
    assert not some.scope.any() and some.loss.all() and not made.about.apart
    assert made.about.told["near duplicates"] == 2 and made.counts.documents == 24
    lengths = arranged.corpus.lengths
    assert made.counts.dropped == lengths[5] + lengths[17] and made.counts.cut_in_vain <= 22
    names = order_in(tmp_path / "out")
    assert len(names) == 22
    if kind == "length":
        assert names == sorted(names, key=lambda name: (lengths[int(name)], name))
    if kind == "random":
        other = ropewalk.order_data(kind, texts, out=tmp_path / "other", seed=1, **ASKED)
        assert order_in(tmp_path / "other") != names and other.about.told["near duplicates"] == 2


def test_texts_of_one_topic_follow_each_other(texts, tmp_path) -> None:
    made = ropewalk.order_data("icp", texts, out=tmp_path / "out", **ASKED)
    topics = [int(name) % 3 for name in order_in(tmp_path / "out")]
    assert sum(a != b for a, b in pairwise(topics)) == 2
    told = made.about.told
    assert told["similarity"] > 2 * told["similarity before"] and "similarity before" in repr(made)
    shown = ropewalk.show_data(tmp_path / "out", out=tmp_path / "page.html", check=True)
    page = shown.page.read_text()
    assert "icp" in page and "similarity before" in page and str(told["similarity"]) in page


def test_similarity_is_that_of_the_vectors_in_their_order(texts, tmp_path) -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 0]]
    assert adjacent(vectors, np.arange(4)) == pytest.approx(1 / 3)
    assert adjacent(vectors, np.array([2, 0, 1, 3])) == pytest.approx(2 / 3)


def test_duplicates_can_be_kept(texts, tmp_path) -> None:
    made = ropewalk.order_data("icp", texts, out=tmp_path / "out", keep_duplicates=True, **ASKED)
    assert len(order_in(tmp_path / "out")) == 24
    assert made.about.told["near duplicates"] == 0 == made.counts.dropped


def test_parts_are_ordered_each_by_itself(texts, tmp_path) -> None:
    ropewalk.order_data("icp", texts, out=tmp_path / "out", parts=2, keep_duplicates=True, **ASKED)
    names = [int(name) for name in order_in(tmp_path / "out")]
    assert sorted(names[:12]) == list(range(12)) and names[:12] != list(range(12))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_on_ray_the_rows_are_the_same_bytes(texts, tmp_path, monkeypatch) -> None:
    import ray

    monkeypatch.setattr(orders, "kept_vectors", partial(kept_vectors.kept_vectors, block=5))
    root = str(Path(__file__).parents[3])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    try:
        said = {"parts": 3, "seed": 2, **ASKED}
        ropewalk.order_data("icp", texts, out=tmp_path / "here", **said)
        ropewalk.order_data("icp", texts, out=tmp_path / "there", on="ray", workers=2, **said)
        assert content(tmp_path / "here") == content(tmp_path / "there")
    finally:
        ray.shutdown()


def test_how_far_it_is_is_told_of_each_step_that_takes_long(texts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(orders, "kept_vectors", partial(kept_vectors.kept_vectors, block=5))
    monkeypatch.setattr(near_duplicates, "TOLD", 2)
    monkeypatch.setattr(neighbours, "BLOCK", 5)
    monkeypatch.setattr(neighbours.neighbours, "__defaults__", (0, 5, *neighbours.neighbours.__defaults__[2:]))
    said: list[Progress] = []
    ropewalk.pack_data(texts, out=tmp_path / "rows", **ASKED)
    corpus = Arranged.open(tmp_path / "rows").corpus
    Ordering("icp", TokenVectors(), tmp_path, heard=said.append).write(corpus, 256, None, 0)
    assert list(dict.fromkeys(one.what.split()[0] for one in said)) == ["near", "vectors", "18", "neighbours"]
    for what in {one.what for one in said}:
        done = [one.done for one in said if one.what == what]
        assert done == sorted(done) and all(one.done < one.total for one in said if one.total)
    assert sum(one.startswith("near duplicates: ") for one in {one.what for one in said}) == 2


def test_rows_are_arranged_anew_without_a_tokenizer(texts, tmp_path) -> None:
    ropewalk.pack_data(texts, out=tmp_path / "rows", **ASKED)
    ropewalk.order_data("icp", texts, out=tmp_path / "a", **ASKED)
    ropewalk.order_data("icp", tmp_path / "rows", out=tmp_path / "b", length=256)
    assert (tmp_path / "a" / "pieces.npy").read_bytes() == (tmp_path / "b" / "pieces.npy").read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "b", "rows"]
    with pytest.raises(UserError, match="no tokenizer") as caught:
        ropewalk.order_data("icp", tmp_path / "rows", out=tmp_path / "c", length=256, embed=tmp_path)
    assert "--tokenizer" in caught.value.mend
    with pytest.raises(UserError, match="99 parts of 24 texts"):
        ropewalk.order_data("icp", tmp_path / "rows", out=tmp_path / "c", length=256, parts=99)
    with pytest.raises(UserError, match="99 parts of 24 texts"):
        ropewalk.order_data("icp", texts, out=tmp_path / "d", parts=99, **ASKED)
    assert not [one.name for one in tmp_path.iterdir() if one.name.startswith("d")], "before texts are tokenised"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "b", "rows"], "it had made nothing yet"


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_one_text_in_the_end_is_in_order(count: int, tmp_path) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(count):
        (tmp_path / "texts" / f"{i}.txt").write_text("a rope walks on " * 40)
    for kind in ORDERS:
        made = ropewalk.order_data(kind, tmp_path / "texts", out=tmp_path / kind, **ASKED)
        assert order_in(tmp_path / kind) == ["0"] and made.about.told["near duplicates"] == count - 1
        assert "similarity" not in made.about.told


def test_documents_without_a_vector_are_counted_and_kept(tmp_path) -> None:
    class Nothing(TokenVectors):
        def over(self, corpus):
            return lambda documents: np.stack(
                [np.eye(2, dtype=np.float32)[0] * (one[0] // 10 % 2) for one in documents]
            )

    (tmp_path / "corpus").mkdir()
    corpus = corpus_of(tmp_path / "corpus", [[10 * i + j for j in range(9)] for i in range(6)])
    for kind in ORDERS:
        written = Ordering(kind, Nothing(), tmp_path).write(corpus, 20, None, 0)
        assert written.told["without a vector"] == 3 and np.isfinite(list(written.told.values())).all()
        assert sorted({*written.arrangement.document.tolist()}) == list(range(6))


@pytest.mark.slow
def test_any_number_of_cores_gives_the_same_rows(texts, tmp_path) -> None:
    for threads in ("1", "4"):
        line = [sys.executable, "-m", "ropewalk", "data", "order", "icp", str(texts), "--tokenizer", "demo", "--length",
                "256", "-o", str(tmp_path / threads)]  # fmt: skip
        subprocess.run(line, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": threads,
                                                                   "OPENBLAS_NUM_THREADS": threads})  # fmt: skip
    assert content(tmp_path / "1") == content(tmp_path / "4")


def test_stopped_at_any_moment_it_goes_on_with_the_vectors_that_it_has(texts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(orders, "kept_vectors", partial(kept_vectors.kept_vectors, block=5))
    ropewalk.order_data("icp", texts, out=tmp_path / "whole", **ASKED)
    import ropewalk.data.making as making

    real, calls = kept_vectors.make, []

    def third(*some):
        calls.append(some)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*some)

    def stop(*_, **__):
        raise KeyboardInterrupt

    for module, name, with_what in ((kept_vectors, "make", third), (orders, "neighbours", stop),
                                    (making, "new_folder", stop), (making.Arranged, "write", stop)):  # fmt: skip
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, with_what)
            ropewalk.order_data("icp", texts, out=tmp_path / "part", **ASKED)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["part.shards", "whole"]
        assert len(list((tmp_path / "part.shards").glob("*.????????????????.npy"))) == (2 if with_what is third else 5)
    ropewalk.order_data("icp", texts, out=tmp_path / "part", **ASKED)
    assert content(tmp_path / "part") == content(tmp_path / "whole")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["part", "whole"]


ORDERED = f"""{KILLED}
import functools
import ropewalk.data.ordering.orders as orders

orders.kept_vectors = functools.partial(orders.kept_vectors, block=7)
tokenizer = "" if sys.argv[1].endswith("rows") else "demo"
ropewalk.order_data("icp", sys.argv[1], out=sys.argv[2], length=256, tokenizer=tokenizer)
print(done)
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["texts", "rows"])
def test_killed_behind_any_write_it_ends_in_the_same_bytes(source: str, texts, tmp_path) -> None:
    if source == "rows":
        ropewalk.pack_data(texts, out=tmp_path / "rows", **ASKED)
    asked = str(texts if source == "texts" else tmp_path / "rows")
    (tmp_path / "made").mkdir()

    def run(name: str, fatal: int) -> subprocess.CompletedProcess:
        line = [sys.executable, "-c", ORDERED, asked, str(tmp_path / "made" / name), str(fatal)]
        return subprocess.run(line, capture_output=True, text=True)

    writes = int(run("whole", 0).stdout)
    assert writes > 20
    for fatal in sorted({*random.Random(0).sample(range(1, writes + 1), 4), writes - 1, writes}):
        assert run("part", fatal).returncode == -signal.SIGKILL
        done = run("part", 0)
        assert done.returncode == 0, (fatal, done.stderr[-500:])
        assert content(tmp_path / "made" / "part") == content(tmp_path / "made" / "whole"), fatal
        assert sorted(one.name for one in (tmp_path / "made").iterdir()) == ["part", "whole"], fatal
        shutil.rmtree(tmp_path / "made" / "part")


def test_too_many_texts_are_refused_before_they_become_vectors(texts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(smooth_path, "MOST", 7)
    monkeypatch.setattr(orders, "kept_vectors", None)
    said = {"out": tmp_path / "out", **ASKED}
    with pytest.raises(UserError, match="11 texts, expected 7 at most"):
        ropewalk.order_data("smooth-path", texts, parts=2, **said)
    monkeypatch.undo()
    assert ropewalk.order_data("smooth-path", texts, parts=2, **said).counts.rows


def test_mistakes_are_refused_before_anything_is_written(texts, tmp_path) -> None:
    for more, words in (
        ({"kind": "ipc"}, "no order 'ipc'; did you mean"),
        ({"kind": "random", "neighbours": 3}, "--neighbours changes nothing in random"),
        ({"embed": texts}, "cannot be loaded as an embedding model"),
        ({"parts": 0}, "parts"),
        ({"on": "moon"}, "one of local, ray"),
        ({"workers": 3}, "--workers changes nothing without --on ray"),
        ({"parts": 23}, "23 parts of 22 texts"),
    ):
        asked = {"kind": "icp", "texts": texts, "out": tmp_path / "out", **ASKED} | more
        with pytest.raises(UserError, match=words):
            ropewalk.order_data(asked.pop("kind"), asked.pop("texts"), **asked)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["out.shards"] * (more == {"parts": 23})
    with pytest.raises(UserError, match="no order 'ipc'"):
        ordered("ipc", np.eye(3, dtype=np.float32), np.ones(3, int))


def test_what_was_told_is_read_again_and_nothing_else(texts, tmp_path) -> None:
    made = ropewalk.order_data("icp", texts, out=tmp_path / "out", **ASKED)
    assert ropewalk.show_data(tmp_path / "out").about.told == made.about.told
    about = tmp_path / "out" / "arrangement.json"
    about.write_text(about.read_text().replace('"near duplicates": 2', '"near duplicates": "2"'))
    with pytest.raises(UserError, match="told is"):
        ropewalk.show_data(tmp_path / "out")
