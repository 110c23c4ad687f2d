"""Texts to a corpus: the tokenizer's own ids, the same bytes however often it was stopped, damage found."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.common.underway import Underway
from ropewalk.data.corpus import Corpus, Manifest, write_shard
from ropewalk.data.tokenising import tokenised
from ropewalk.texts.documents import stream, token_ids
from ropewalk.texts.opening import force_bos, opening
from tests.tokenizers import metaspace

KEPT = re.compile(r"\d{5}\..+|corpus.json")
TEXTS = [(f"text {i}", f"{i} is a number, and {'so on ' * (i % 7)}\n") for i in range(60)] + [("empty", "")]


def run(folder: Path, tokenizer, texts=TEXTS, shard: int = 300, **asked) -> Manifest:
    underway = Underway(folder, asked, KEPT, "shards")
    with underway.opened():
        made = tokenised(iter(texts), tokenizer, "tiny", underway, [], shard=shard)
        made.write(folder)
        return made


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


def test_a_corpus_gives_the_tokenizers_ids_begun_as_texts_are(tmp_path, any_tokenizer) -> None:
    made = run(tmp_path / "c", any_tokenizer)
    corpus = Corpus.open(tmp_path / "c")
    corpus.check()
    assert len(made.shards) > 3 and made.empty == 1 and len(corpus) == 60
    begin = opening(any_tokenizer)
    for i, (name, text) in enumerate(TEXTS[:60]):
        ids = [*begin, *token_ids(text, any_tokenizer)]
        assert corpus[i].tolist() == ids and corpus.name(i) == name and corpus.lengths[i] == len(ids)
        assert corpus.tokens(i, 2, 5).tolist() == ids[2:5]
    assert corpus[-1].tolist() == corpus[59].tolist()
    with pytest.raises(IndexError):
        corpus[60]


@pytest.mark.parametrize("after", [1, 2, 4])
def test_stopped_at_any_shard_it_ends_in_the_same_bytes(tmp_path, tokenizer, after: int, monkeypatch) -> None:
    run(tmp_path / "whole", tokenizer)

    def stopping() -> Iterator[tuple[str, str]]:
        for i, one in enumerate(TEXTS):
            if i == 12 * after:
                raise KeyboardInterrupt
            yield one

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", tokenizer, stopping())
    monkeypatch.setattr("ropewalk.data.tokenising.BATCH", 1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", tokenizer, stopping())
    there = {file: file.stat().st_mtime_ns for file in (tmp_path / "part").glob("0*")}
    run(tmp_path / "part", tokenizer)
    assert content(tmp_path / "part") == content(tmp_path / "whole")
    assert len(there) >= 4 * (after - 1)
    assert there == {file: file.stat().st_mtime_ns for file in there}, "what was whole is not made again"


def test_signs_in_texts_are_special_tokens_and_counted_or_letters(tmp_path, any_tokenizer) -> None:
    sign, special = str(any_tokenizer.eos_token), int(any_tokenizer.eos_token_id)
    texts = [("a", f"one {sign} two {sign} three"), ("b", "none")]
    for letters in (False, True):
        underway = Underway(tmp_path / str(letters), {}, KEPT, "shards")
        with underway.opened():
            made = tokenised(iter(texts), any_tokenizer, "tiny", underway, [], letters=letters)
            made.write(underway.folder)
        corpus = Corpus.open(underway.folder)
        own = corpus[0].tolist()[len(opening(any_tokenizer)) :]
        assert made.signs == own.count(special) == (0 if letters else 2)
        assert own == token_ids(texts[0][1], any_tokenizer, letters)
    assert token_ids(sign, any_tokenizer) == [special], "as ever afterwards"


def test_texts_that_changed_meanwhile_are_refused(tmp_path, tokenizer) -> None:
    run(tmp_path / "c", tokenizer)
    (tmp_path / "c" / "00002.json").unlink()
    changed = [("text 0", "another"), *TEXTS[1:]]
    with pytest.raises(UserError, match="the texts are not those that it was begun with"):
        run(tmp_path / "c", tokenizer, changed)


def test_shards_of_another_question_are_refused(tmp_path, tokenizer) -> None:
    run(tmp_path / "c", tokenizer, texts_of="x")
    with pytest.raises(UserError, match="texts_of was 'x', is 'y'"):
        run(tmp_path / "c", tokenizer, texts_of="y")


def test_no_text_at_all_is_refused(tmp_path, tokenizer) -> None:
    with pytest.raises(UserError, match="none of 2 texts has a token"):
        run(tmp_path / "c", tokenizer, [("a", ""), ("b", "")])


def test_a_document_longer_than_a_shard_is_one(tmp_path, tokenizer) -> None:
    made = run(tmp_path / "c", tokenizer, [("a", "word " * 500), ("b", "c")], shard=50)
    assert [one.documents for one in made.shards] == [1, 1]


@pytest.mark.parametrize("what", ["ids", "ends", "names"])
def test_a_damaged_file_is_found(tmp_path, tokenizer, what: str) -> None:
    run(tmp_path / "c", tokenizer)
    file = next((tmp_path / "c").glob(f"00001.{what}.*"))
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="00001"):
        Corpus.open(tmp_path / "c").check()
    file.write_bytes(data[:-20])
    with pytest.raises(UserError, match="00001"):
        Corpus.open(tmp_path / "c").check()


def test_a_file_of_objects_is_not_unpickled(tmp_path, tokenizer) -> None:
    run(tmp_path / "c", tokenizer)
    np.save(tmp_path / "c" / "00000.ids.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        Corpus.open(tmp_path / "c")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9},
        {"shards": [{"name": "00000"}]},
        {"shards": None},
        {"begin": None},
        {"more": 1},
        {"vocabulary": None},
        {"empty": "x"},
        {"left_out": [5]},
        {"begin": [10**9]},
    ],
)
def test_a_manifest_that_is_none_of_ours_is_refused(tmp_path, tokenizer, change: dict) -> None:
    run(tmp_path / "c", tokenizer)
    file = tmp_path / "c" / "corpus.json"
    said = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    with pytest.raises(UserError, match="corpus"):
        Corpus.open(tmp_path / "c")


def test_another_tokenizer_is_refused(tmp_path, tokenizer) -> None:
    run(tmp_path / "c", tokenizer)
    corpus = Corpus.open(tmp_path / "c")
    corpus.require(tokenizer, "tiny")
    with pytest.raises(UserError, match="tokenised by tiny, and other has another tokenizer"):
        corpus.require(metaspace(), "other")
    otherwise = copy.deepcopy(tokenizer)
    force_bos(otherwise)
    if opening(otherwise) != opening(tokenizer):
        with pytest.raises(UserError, match="has another tokenizer"):
            corpus.require(otherwise, "other")


def test_how_long_a_text_may_be_is_no_part_of_a_tokenizer(tmp_path, tokenizer) -> None:
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(20)
    run(tmp_path / "c", cutting)
    corpus = Corpus.open(tmp_path / "c")
    cutting.backend_tokenizer.enable_truncation(30)
    corpus.require(cutting, "tiny")
    assert corpus.lengths.max() > 20


def test_texts_that_came_meanwhile_are_read_as_if_they_had_been_there(tmp_path, tokenizer) -> None:
    run(tmp_path / "whole", tokenizer, [*TEXTS, ("more", "another text")])
    run(tmp_path / "part", tokenizer)
    run(tmp_path / "part", tokenizer, [*TEXTS, ("more", "another text")])
    assert content(tmp_path / "part") == content(tmp_path / "whole")


def test_what_a_killed_writer_left_goes(tmp_path, tokenizer) -> None:
    run(tmp_path / "c", tokenizer)
    (tmp_path / "c" / "00002.json").unlink()
    litter = tmp_path / "c" / ".00002.ids.npy.ropewalk-0123abcd"
    litter.mkdir()
    (litter / "lock").touch()
    (litter / "00002.ids.npy").write_bytes(b"half")
    run(tmp_path / "c", tokenizer)
    assert not litter.exists()


def test_names_that_are_no_text_are_told_by_their_bytes(tmp_path, tokenizer) -> None:
    run(tmp_path / "c", tokenizer, [("caf\udce9.txt", "a text")])
    assert Corpus.open(tmp_path / "c").name(0) == "caf\\udce9.txt"


def test_ids_beyond_the_vocabulary_are_never_written(tmp_path) -> None:
    with pytest.raises(UserError, match="expected 0 to 9"):
        write_shard(tmp_path, "00000", [[1, 10]], ["a"], 10)
    assert not list(tmp_path.iterdir())


def test_shards_lie_in_another_folder_too(tmp_path, tokenizer) -> None:
    run(tmp_path / "c", tokenizer)
    corpus = Corpus.open(tmp_path / "c")
    (tmp_path / "d").mkdir()
    corpus.put_into(tmp_path / "d")
    corpus.manifest.write(tmp_path / "d")
    assert Corpus.open(tmp_path / "d").digest == corpus.digest
    Corpus.open(tmp_path / "d").check()


def test_sources_are_read_one_after_the_other_and_broken_documents_told(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": 3}\nnonsense\n{"text": ""}\n{"text": "four"}\n')
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    left_out: list[UserError] = []
    assert [text for _, text in stream(tmp_path, left_out)] == ["one", "two", "", "four"]
    assert [re.search(r"(\w+\.\w+):(\d+)", one.message).groups() for one in left_out] == [
        ("b.jsonl", "2"), ("b.jsonl", "3"), ("c.txt", "1")
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"b\.jsonl:2"):
        list(stream(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        list(stream(tmp_path / "none"))
