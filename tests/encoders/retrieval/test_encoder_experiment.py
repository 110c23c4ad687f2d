"""Embedding models compared: by their own scores, resumable, on the page that everything else has."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore
from ropewalk.encoders.encoder import Encoder
from ropewalk.encoders.encoder_folder import EncoderFolder
from ropewalk.encoders.encoder_method import encoder_methods
from ropewalk.encoders.extended_encoder import ExtendedEncoder
from ropewalk.encoders.retrieval import encoder_experiment
from ropewalk.encoders.retrieval.encoder_experiment import EncoderExperiment, Measuring, Vectors, run
from ropewalk.report.experiment_page import page_of_results
from tests.encoders import tiny_encoders

LONG = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a window that holds a passkey."""
    from tests.encoders.tiny_encoders import WINDOW

    place = tmp_path_factory.mktemp("wide") / "bert"
    old, tiny_encoders.WINDOW = WINDOW, 128
    try:
        return tiny_encoders.folder(place, limit=128)
    finally:
        tiny_encoders.WINDOW = old


def test_a_comparison_is_a_table_and_a_page_and_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"to": LONG, "methods": "none,recurrent,pi(follow=True),chunks(size=64)", "samples": 4, "seeds": "0,1",
             "out": tmp_path / "out"}  # fmt: skip
    outcome = ropewalk.compare(folder, **asked)
    found = outcome.results
    assert [one.method for one in found.subjects] == ["none", "recurrent", "pi(follow=True)", "chunks(size=64)"]
    rows = {(row.method, row.task, row.length): row for row in found.rows if row.depth is None}
    assert rows["none", "passkey", LONG].n == 8 and rows["none", "short", _short(found)].n == 64
    assert rows["recurrent", "short-likeness", _short(found)].value == pytest.approx(1.0, abs=1e-6)
    assert rows["recurrent", "passkey", 128].value == rows["none", "passkey", 128].value
    gain = next(one for one in found.subjects if one.method == "recurrent").beyond_window
    assert gain is not None and found.models[0].lengths == [64, 128, LONG]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Recurrent positions" in page and "accuracy@1" in page and "likeness" in page
    assert "Plain model (cut)" in repr(outcome)
    monkeypatch.setattr(encoder_experiment.ExtendedEncoder, "vectors", _never)
    monkeypatch.setattr(encoder_experiment.ExtendedEncoder, "question", _never)
    again = ropewalk.compare(folder, **asked)  # from the store alone
    assert [row.value for row in again.results.rows] == [row.value for row in found.rows]
    with pytest.raises(UserError, match="another experiment"):
        ropewalk.compare(folder, **(asked | {"samples": 5}))


def _never(*_: Any) -> Any:
    raise AssertionError("a vector is computed twice")


def _short(found: Any) -> int:
    return next(row.length for row in found.rows if row.task == "short")


def test_the_scores_are_those_of_the_library(folder: Path, tmp_path: Path) -> None:
    """Held against sentence-transformers' own vectors and similarities, on a set of files."""
    from sentence_transformers import SentenceTransformer

    place = tmp_path / "set"
    place.mkdir()
    texts = [f"The cook of ship {i} is called Mara {i * 7}." for i in range(12)]
    asked = [f"Who is the cook of ship {i}?" for i in range(12)]
    for name, some in (
        ("corpus", [{"doc_id": str(i), "text": text} for i, text in enumerate(texts)]),
        ("queries", [{"qid": str(i), "text": text} for i, text in enumerate(asked)]),
        ("qrels", [{"qid": str(i), "doc_id": str(i)} for i in range(12)]),
    ):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    outcome = ropewalk.evaluate(folder, rows=place, out=tmp_path / "out")
    row = next(row for row in outcome.results.rows if row.task == "rows/set")
    model = SentenceTransformer(str(folder))
    best = (model.encode(asked) @ model.encode(texts).T).argmax(1)
    assert row.n == 12 and row.value == pytest.approx(float((best == np.arange(12)).mean()))


def test_what_makes_no_sense_is_refused_before_a_model_is_opened(folder: Path, tmp_path: Path) -> None:
    for named, said in (
        ({"tasks": "ppl"}, "unknown task for encoders 'ppl'"), ({"samples": 65}, "samples is 65"),
        ({"methods": "yarn"}, "unknown method for encoders"), ({"lengths": "512"}, "length 512 is not in"),
        ({"strategies": "rag"}, "--strategies changes nothing about an embedding model"),
        ({"bos": True}, "--bos changes nothing"), ({"methods": "pi", "to": 128}, "not beyond the 128 rows"),
        ({"rows": tmp_path / "nowhere"}, "is no folder"),
        ({"methods": "pi(effective_window=64)", "to": 128}, "has nothing to do for 128 tokens"),
        ({"methods": "pi+chunks(size=32)"}, "has nothing to do beside chunks"),
        ({"methods": "pi+uncut"}, "both decide how far"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            ropewalk.compare(folder, **{"to": LONG, "out": tmp_path / "out", **named})
    with pytest.raises(UserError, match="method for embedding models, and demo is none"):
        ropewalk.compare("demo", to=1024, methods="recurrent")
    with pytest.raises(UserError, match="no length holds a task"):
        run(EncoderExperiment(str(folder), (encoder_methods("none"),), 8, (8,)), SampleStore())


def test_prompts_stand_before_texts_and_questions(folder: Path, tmp_path: Path) -> None:
    import shutil

    place = tmp_path / "prompted"
    shutil.copytree(folder, place)
    (place / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: ", "document": "passage: "}})
    )
    plain, prompted = (
        run(EncoderExperiment(str(one), (encoder_methods("none"),), 128, (128,), samples=8), SampleStore()).rows
        for one in (folder, place)
    )
    asked = [[(row.task, row.n) for row in some if row.task != "short"] for some in (plain, prompted)]
    assert {task for task, _ in asked[0]} == {task for task, _ in asked[1]} and len(asked[1]) > 8
    from sentence_transformers import SentenceTransformer

    own = EncoderFolder.open(place)
    encoder = Encoder(str(place))
    e = EncoderExperiment(str(place), (encoder_methods("none"),), 128, (128,), samples=2)
    measuring = Measuring(e, Vectors(encoder, own, SampleStore()), 128, lambda _: None)
    assert {len(text) + 2 for text in measuring.sets[0].documents} == {128}
    text = "Mara cooks."
    ours = ExtendedEncoder(encoder, own, encoder_methods("none"), 128)
    assert measuring.sets[0].documents[0][: len(encoder.ids("passage: "))] == encoder.ids("passage: ")
    vector = ours.vectors(encoder.ids("passage: " + text))[0]
    np.testing.assert_allclose(vector, SentenceTransformer(str(place)).encode_document(text), atol=2e-6)
    pooling = place / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    with pytest.raises(UserError, match="pools without its prompt"):
        run(e, SampleStore())


def test_none_is_the_folder_as_it_comes_and_uncut_reads_to_the_end_of_its_table(folder: Path, tmp_path: Path) -> None:
    import shutil

    from sentence_transformers import SentenceTransformer

    place = tmp_path / "cut"
    shutil.copytree(folder, place)
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    own, encoder = EncoderFolder.open(place), Encoder(str(place))
    text = "Mara cooks on the ship that sails at nine. " * 6
    ids = encoder.ids(text)[:200]
    stock, whole = SentenceTransformer(str(place)), SentenceTransformer(str(folder))

    def read(spelling: str) -> Any:
        return ExtendedEncoder(encoder, own, encoder_methods(spelling), LONG).vectors(ids)[0]

    np.testing.assert_allclose(read("none"), stock.encode(encoder.tokenizer.decode(ids)), atol=2e-6)
    np.testing.assert_allclose(read("uncut"), whole.encode(encoder.tokenizer.decode(ids)), atol=2e-6)
    found = ropewalk.compare(place, to=LONG, lengths="128", tasks="needle", samples=4, out=tmp_path / "out").results
    assert [one.method for one in found.subjects][:2] == ["none", "uncut"] and found.models[0].lengths == [128, LONG]


def test_a_question_that_is_drawn_again_counts_once(folder: Path) -> None:
    e = EncoderExperiment(str(folder), (encoder_methods("none"),), 128, (128,), ("needle",), 64, (0, 1, 2))
    row = next(row for row in run(e, SampleStore()).rows if row.task == "needle" and row.depth is None)
    one = replace(e, seeds=(0,))
    alone = next(row for row in run(one, SampleStore()).rows if row.task == "needle" and row.depth is None)
    assert row.n == 192 and row.high - row.low > 0.6 * (alone.high - alone.low)  # of 192 others it would be a half


def test_vectors_are_of_all_that_decides_them(folder: Path, tmp_path: Path) -> None:
    """Whatever file of a folder changes, nothing that was kept is taken for what it gives now."""
    import shutil

    place = tmp_path / "bert"
    shutil.copytree(folder, place)
    before = EncoderFolder.open(place).digest
    assert EncoderFolder.open(folder).digest == before  # wherever it lies
    for file in ("tokenizer.json", "1_Pooling/config.json", "config.json", "model.safetensors"):
        data = (place / file).read_bytes()
        (place / file).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert EncoderFolder.open(place).digest != before, file
        (place / file).write_bytes(data)


@pytest.mark.parametrize(("prompts", "default", "expected"), [
    ({"query": None, "document": None}, None, ("", "")), ({"corpus": "c: ", "query": "q: "}, None, ("", "q: ")),
    ({"document": "", "passage": "p: "}, None, ("", "")), ({"all": "a: "}, "all", ("", "")),
])  # fmt: skip
def test_prompts_are_chosen_as_by_the_library(
    prompts: dict[str, Any], default: str | None, expected: tuple[str, str], folder: Path, tmp_path: Path
) -> None:
    import shutil

    from sentence_transformers import SentenceTransformer

    place = tmp_path / "bert"
    shutil.copytree(folder, place)
    told = {"prompts": prompts, "default_prompt_name": default}
    (place / "config_sentence_transformers.json").write_text(json.dumps(told))
    own, encoder = EncoderFolder.open(place), Encoder(str(place))
    e = EncoderExperiment(str(place), (encoder_methods("none"),), 128, (128,), samples=2)
    measuring = Measuring(e, Vectors(encoder, own, SampleStore()), 128, lambda _: None)
    names = encoder_experiment.DOCUMENT_PROMPTS, encoder_experiment.QUESTION_PROMPTS
    assert tuple(measuring._prompt(some) for some in names) == expected
    stock, ours = SentenceTransformer(str(place)), ExtendedEncoder(encoder, own, encoder_methods("none"), 128)
    for prompt, vector in zip(expected, (stock.encode_document("Mara."), stock.encode_query("Mara.")), strict=True):
        np.testing.assert_allclose(ours.vectors(encoder.ids(prompt + "Mara."))[0], vector, atol=2e-6)


def test_a_model_that_compares_by_products_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    place = tmp_path / "bert"
    shutil.copytree(folder, place)
    modules = json.loads((place / "modules.json").read_text())
    (place / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "dot"}))
    ropewalk.evaluate(place, lengths="128", tasks="needle", samples=2, out=tmp_path / "same")  # of length 1
    (place / "modules.json").write_text(json.dumps(modules[:2]))
    with pytest.raises(UserError, match="compares vectors by 'dot'"):
        ropewalk.evaluate(place, lengths="128", tasks="needle", samples=2, out=tmp_path / "out")


def test_one_subject_alone_is_told_with_its_numbers(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    for name, some in (
        ("corpus", [{"doc_id": str(i), "text": f"The cook of ship {i} is Mara {i * 7}."} for i in range(9)]),
        ("queries", [{"qid": str(i), "text": f"Who cooks on ship {i}?"} for i in range(9)]),
        ("qrels", [{"qid": str(i), "doc_id": str(i)} for i in range(9)]),
    ):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    outcome = ropewalk.evaluate(folder, rows=place, samples=5, out=tmp_path / "out")
    row = next(row for row in outcome.results.rows if row.task == "rows/set")
    shown = repr(outcome)
    assert row.n == 5 and "nothing that can be said" not in shown and "rows/set, accuracy@1" in shown
    assert f"{row.value:.0%}" in shown
    whole = ropewalk.evaluate(folder, lengths="128", tasks="needle", samples=4, out=tmp_path / "other")
    assert "At 128 tokens" in repr(whole)


def test_what_an_extension_costs_is_asked_up_to_where_the_folder_cuts(tmp_path: Path) -> None:
    """There, and at a quarter of it; recurrent positions cost nothing up to the last token, others do."""
    place = tiny_encoders.folder(tmp_path / "bert", limit=512)
    _of_a_wider_table(place, 1024)
    ways = tuple(map(encoder_methods, ("none", "recurrent", "pi")))
    found = run(EncoderExperiment(str(place), ways, 2048, (2048,), ("needle",), 3), SampleStore())
    alike = {(row.method, row.length): row for row in found.rows if row.task == "short-likeness"}
    alone, *lengths = sorted({length for _, length in alike})
    assert lengths == [128, 512] and alone < 128
    for length in (alone, *lengths):
        assert alike["none", length].value == pytest.approx(1) == alike["recurrent", length].value
        assert alike["pi", length].value < 0.999
        assert alike["pi", length].n == (64 if length == alone else 3)
    page = page_of_results(found).render()
    assert found.models[0].cut == 512 and ">cut at 512<" in page
    assert not re.search(r'class="note[^"]*">[^<]*window', page)
    assert "from its window of 1,024 to 2,048 tokens; its files cut at 512" in page


def _of_a_wider_table(folder: Path, rows: int) -> None:
    """Give the encoder of a folder a random table of so many rows."""
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    table = "embeddings.position_embeddings.weight"
    drawn = torch.randn(rows, weights[table].shape[1], generator=torch.Generator().manual_seed(0))
    save_file(weights | {table: drawn}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": rows}))


def test_what_no_folder_holds_has_no_column_of_folders(folder: Path) -> None:
    ways = tuple(map(encoder_methods, ("none", "recurrent", "chunks", "pi(follow=True)")))
    found = run(EncoderExperiment(str(folder), ways, LONG, (LONG,), ("needle",), 2), SampleStore())
    assert {row.method for row in found.rows if row.task == "short"} == {"none", "recurrent"}


def test_verbs_for_models_that_write_say_so_of_an_embedding_model(folder: Path, tmp_path: Path) -> None:
    for attempt in (
        lambda: ropewalk.load(folder), lambda: ropewalk.export(folder, engine="vllm"),
        lambda: ropewalk.fit(folder, method="auto", to=512, out=tmp_path / "fit.json"),
        lambda: ropewalk.check_export(folder),
    ):  # fmt: skip
        with pytest.raises(UserError, match="is an embedding model, expected a model that writes"):
            attempt()


def test_a_target_that_the_table_holds_compares_what_there_is_for_it(folder: Path, tmp_path: Path) -> None:
    found = ropewalk.compare(folder, to=128, tasks="needle", samples=2, out=tmp_path / "out").results
    assert [one.method for one in found.subjects] == ["none", "parallel-windows", "chunks", "late-chunking"]
