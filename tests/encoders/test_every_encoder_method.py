"""Every method for encoders meets these by its name: identities, short texts, files, composition."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ropewalk.carriers.table_rows import between_rows
from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder import Encoder
from ropewalk.encoders.encoder_entries import ENCODER_METHODS, FITTING, EncoderEntry, refuse_of_encoders
from ropewalk.encoders.encoder_extension import extend_encoder
from ropewalk.encoders.encoder_folder import EncoderFolder
from ropewalk.encoders.encoder_method import EncoderMethods, Reading, RowMethod, TableMethod, encoder_methods
from ropewalk.encoders.extended_encoder import ExtendedEncoder
from ropewalk.encoders.families import TABLE
from tests.encoders import tiny_encoders
from tests.encoders.tiny_encoders import CLASSES, WINDOW

TEXT = "The ship sails at nine. Its cook is called Mara, and she comes from Riga, as does the captain's cat. " * 3
SHORT = "Mara cooks."
TABLES = [one for one in ENCODER_METHODS if one.axis == "table"]
SPELLED = {"stretch": "stretch(keep=4)", "chunks": "chunks(size=8)", "late-chunking": "late-chunking(size=8)"}
OTHERS = [one for one in ENCODER_METHODS if one.id != "none" and one.axis in FITTING[TABLE]]
BEYOND = [one for one in OTHERS if one.axis != "limits"]  # uncut reads to the end of the table, and no further
TO = 2 * WINDOW


def methods(entry: EncoderEntry) -> EncoderMethods:
    return encoder_methods(SPELLED.get(entry.id, entry.id))


def table_of(entry: EncoderEntry) -> TableMethod:
    found = methods(entry).of(TableMethod)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def encoder(bert: Path) -> Encoder:
    return Encoder(str(bert))


@pytest.fixture(scope="module")
def of(encoder: Encoder, bert: Path) -> Any:
    folder = EncoderFolder.open(bert)

    def made(on: EncoderMethods | str = "none", **more: Any) -> ExtendedEncoder:
        spelled = encoder_methods(on) if isinstance(on, str) else on
        return ExtendedEncoder(encoder, folder, spelled, TO, **more)

    return made


@pytest.mark.parametrize("entry", OTHERS, ids=lambda one: one.id)
def test_its_id_reads_as_itself_and_names_its_class(entry: EncoderEntry) -> None:
    made = methods(entry)
    assert encoder_methods(made.id) == made and made.parts[0].name == entry.id
    assert made.parts[0].axis == entry.axis and made.entries == [entry]
    module, name = entry.where.split(":")
    assert type(made.parts[0]) is getattr(import_module(f"ropewalk.encoders.encoder_methods.{module}"), name)


@pytest.mark.parametrize("entry", TABLES, ids=lambda one: one.id)
def test_a_table_method_for_the_window_itself_changes_no_row(entry: EncoderEntry) -> None:
    pretrained = torch.randn(WINDOW, 5)
    assert torch.equal(table_of(entry).table(pretrained, WINDOW), pretrained)


@pytest.mark.parametrize("entry", TABLES, ids=lambda one: one.id)
@pytest.mark.parametrize("to", [WINDOW + 1, 40, 2 * WINDOW, 5 * WINDOW])
def test_rows_are_those_of_the_table_or_lie_on_a_line_of_two(entry: EncoderEntry, to: int) -> None:
    method, pretrained = table_of(entry), torch.randn(WINDOW, 5, dtype=torch.float64)
    if not isinstance(method, RowMethod):
        assert method.table(pretrained, to).shape == (to, 5)  # and its own test says the rest
        return
    rows = method.rows(WINDOW, to)
    assert rows.shape == (to,) and rows.dtype == torch.float64 and bool((rows >= 0).all())
    longer = method.table(pretrained, to)
    for j in range(to):
        low = min(int(rows[j]), WINDOW - 2)
        part = float(rows[j]) - low
        torch.testing.assert_close(longer[j], pretrained[low] + part * (pretrained[low + 1] - pretrained[low]))


@pytest.mark.parametrize("entry", TABLES, ids=lambda one: one.id)
def test_a_window_that_is_believed_in_is_all_that_is_used(entry: EncoderEntry) -> None:
    inside = EncoderMethods((type(table_of(entry))(**vars(table_of(entry)) | {"effective_window": 8}),))
    method = inside.of(TableMethod)
    assert method is not None and encoder_methods(inside.id) == inside
    pretrained = torch.randn(WINDOW, 5)
    changed = pretrained.clone()
    changed[8:] += 1.0
    assert torch.equal(method.table(pretrained, TO), method.table(changed, TO))
    for bad in (1, WINDOW + 1, 2.5):
        with pytest.raises(UserError, match="effective_window"):
            type(method)(effective_window=bad).check(WINDOW, TO)  # type: ignore[arg-type]


@pytest.mark.parametrize("entry", OTHERS, ids=lambda one: one.id)
def test_short_texts_are_read_as_by_the_plain_model_and_questions_too(entry: EncoderEntry, of: Any) -> None:
    plain, extended = of(), of(methods(entry))
    ids = plain.encoder.ids(SHORT)
    if entry.axis == "table" or entry.id == "parallel-windows":
        assert np.array_equal(extended.vectors(ids), plain.vectors(ids))
    if entry.axis != "logits":
        assert np.array_equal(extended.question(ids), plain.question(ids))


@pytest.mark.parametrize("entry", BEYOND, ids=lambda one: one.id)
def test_a_long_text_is_read_to_its_end_and_the_model_is_put_back(entry: EncoderEntry, of: Any) -> None:
    plain, extended = of(), of(methods(entry))
    state = {name: one.clone() for name, one in plain.encoder.body.named_parameters()}
    ids = plain.encoder.ids(TEXT)[: TO - 2]
    other = [*ids[:-1], (ids[-1] + 1) % 300 + 10]
    found = extended.vectors(ids)
    assert found.dtype == np.float32 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    if entry.axis != "logits":  # the last token counts
        assert not np.array_equal(extended.vectors(other), found)
        assert np.array_equal(plain.vectors(other), plain.vectors(ids))
    assert not np.array_equal(found, plain.vectors(ids))
    after = dict(plain.encoder.body.named_parameters())
    assert all(torch.equal(state[name], one) for name, one in after.items()) and state.keys() == after.keys()


@pytest.mark.parametrize("entry", OTHERS, ids=lambda one: one.id)
def test_a_text_is_read_the_same_whatever_is_read_with_it(entry: EncoderEntry, of: Any) -> None:
    extended = of(methods(entry))
    rows = [extended.encoder.ids(TEXT)[:n] for n in (5, 20, 30)]
    alone = np.concatenate([extended.pooled([row]) for row in rows])
    np.testing.assert_allclose(extended.pooled(rows), alone, atol=1e-6)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("entry", BEYOND, ids=lambda one: one.id)
def test_a_folder_reads_as_the_live_model_does_or_is_refused(entry: EncoderEntry, kind: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    source = EncoderFolder.open(tiny_encoders.folder(tmp_path / kind, kind))
    made, to = methods(entry), WINDOW if entry.axis == "logits" else TO
    if made.of(Reading):
        with pytest.raises(UserError, match="cannot be saved"):
            extend_encoder(source, to, made, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    done = extend_encoder(source, to, made, tmp_path / "out")
    loaded = SentenceTransformer(str(done.folder))
    assert loaded.max_seq_length == to
    live = ExtendedEncoder(Encoder(str(source.path)), source, made, to, as_written=True)
    for text in (TEXT, SHORT):
        ids = live.encoder.ids(text)
        ours = live.vectors(ids[: to - 2])[0]
        np.testing.assert_allclose(loaded.encode([text])[0], ours, atol=2e-6)
    again = EncoderFolder.open(done.folder)
    assert again.problems == [] and again.window == (WINDOW if entry.axis == "logits" else to)
    with pytest.raises(UserError, match="was extended already"):
        extend_encoder(again, 2 * to, encoder_methods("pi"), tmp_path / "twice")


def test_the_toy_tables_of_the_papers() -> None:
    def rows(spelling: str, window: int, to: int) -> list[float]:
        method = encoder_methods(spelling).of(RowMethod)
        assert method is not None
        method.check(window, to)
        return [float(one) for one in method.rows(window, to)]

    assert rows("pi", 8, 32) == [*(i / 4 for i in range(29)), 7, 7, 7]
    assert rows("grouped", 8, 32) == [i // 4 for i in range(32)]
    assert rows("recurrent", 8, 32) == [i % 8 for i in range(32)]
    stretched = rows("stretch", 77, 248)
    places = (0, 19, 20, 21, 23, 24, 243, 244, 245, 247)
    assert [stretched[i] for i in places] == [0, 19, 20, 20.25, 20.75, 21, 75.75, 76, 76.25, 76.75]
    table = torch.tensor([0.0, 10, 20, 50])[:, None]
    halves = encoder_methods("pi").of(TableMethod)
    assert halves is not None and halves.table(table, 8)[:, 0].tolist() == [0, 5, 10, 15, 20, 35, 50, 50]
    beyond = between_rows(torch.arange(77.0)[:, None], torch.tensor([76.75], dtype=torch.float64))
    assert beyond.item() == 76.75


def test_following_a_text_is_a_table_for_its_length(of: Any, encoder: Encoder, bert: Path) -> None:
    ids = encoder.ids(TEXT)[:45]
    fixed = ExtendedEncoder(encoder, EncoderFolder.open(bert), encoder_methods("pi"), 47)
    assert np.array_equal(of("pi(follow=True)").vectors(ids), fixed.vectors(ids))
    assert not np.array_equal(of("pi").vectors(ids), fixed.vectors(ids))
    with pytest.raises(UserError, match="a folder holds one table"):
        extend_encoder(EncoderFolder.open(bert), TO, encoder_methods("pi(follow=True)"), bert.parent / "never")


def test_a_temperature_is_a_scale_of_the_logits(of: Any, encoder: Encoder) -> None:
    """Held against attention that is computed with other logits, by transformers' own code."""
    ids = encoder.ids(TEXT)[:30]
    ours = of("tempscale(tau=0.5)").vectors(ids)
    layers = [one.attention.self for one in encoder.body.encoder.layer]  # type: ignore[union-attr]
    before = [one.scaling for one in layers]
    try:
        for one in layers:
            one.scaling = one.scaling / 0.5  # type: ignore[operator]
        np.testing.assert_allclose(of().vectors(ids), ours, atol=1e-6)
    finally:
        for one, old in zip(layers, before, strict=True):
            one.scaling = old
    assert np.array_equal(of("tempscale(tau=1.0)").vectors(ids), of().vectors(ids))


def test_windows_chunks_and_late_chunks_are_what_they_say(of: Any, encoder: Encoder) -> None:
    plain, room = of(), WINDOW - 2
    ids = encoder.ids(TEXT)[: 2 * room + 7]
    unit = lambda some: some / np.linalg.norm(some, axis=1, keepdims=True)  # noqa: E731
    parts = [ids[:room], ids[room : 2 * room], ids[-room:]]
    raw = plain.pooled(parts)
    np.testing.assert_allclose(of("parallel-windows").vectors(ids), unit(raw.mean(0, keepdims=True)), atol=1e-6)
    balanced = [ids[len(ids) * i // 3 : len(ids) * (i + 1) // 3] for i in range(3)]
    mean = unit(plain.pooled(balanced)).mean(0, keepdims=True)
    found = of("parallel-windows(balanced=True, unit=True)").vectors(ids)
    np.testing.assert_allclose(found, unit(mean), atol=1e-6)
    chunked = of("chunks(size=10)").vectors(ids)
    assert len(chunked) == -(-len(ids) // 10)
    np.testing.assert_allclose(chunked[0], plain.vectors(ids[: len(ids) // len(chunked)])[0], atol=1e-6)
    late = of("pi+late-chunking(size=10)")
    states = late.states(ids[: TO - 2])
    whole = late.vectors(ids[: TO - 2])
    np.testing.assert_allclose(whole[0], unit(states[: len(states) // len(whole)].mean(0)[None])[0], atol=1e-5)


def test_what_does_not_compose_or_is_not_there_is_refused(of: Any) -> None:
    assert encoder_methods("pi+tempscale+chunks").id == "pi+tempscale+chunks"
    for bad, said in (
        ("pi+grouped", "both decide the table"), ("none+pi", "composes with nothing"), ("yarn", "unknown method"),
        ("pi(window=3)", "no option"), ("tempscale(tau=0)", "tau is 0"), ("chunks(size=0)", "size is 0"),
        ("stretch(keep=40)", "keep is 40"),
        ("ntk-by-parts(low=32)", "low is 32"), ("late-chunking(size=-1)", "size is -1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            encoder_methods(bad).check(WINDOW, TO)
    with pytest.raises(UserError, match="not beyond the 32 rows"):
        encoder_methods("pi").check(WINDOW, WINDOW)
    with pytest.raises(UserError, match="method for embedding models"):
        refuse_of_encoders("demo", ["yarn", "yarn+grouped(follow=True)"])
    refuse_of_encoders("demo", ["pi", "yarn+dca"])
