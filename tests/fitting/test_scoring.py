"""Losses of candidates: those of the plain way, each read once, and none without the method on."""

import dataclasses

import numpy as np
import pytest
import torch

import ropewalk
from ropewalk import UserError
from ropewalk.backends.nll import token_nll
from ropewalk.common.store import SampleStore
from ropewalk.fitting.fitter import _new
from ropewalk.fitting.race import Race
from ropewalk.fitting.scoring import PIECES, Scoring, require_causal
from ropewalk.fitting.searching import Searching
from ropewalk.fitting.slope import slope
from ropewalk.methods.attention.vertical_slash import VerticalSlash
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.frequencies.none import Plain
from ropewalk.methods.frequencies.pi import PositionInterpolation
from ropewalk.methods.frequencies.yarn import YaRN
from ropewalk.rope.live import ON, decoder
from ropewalk.texts.pieces import TokenUnits
from tests.fitting.grounds import ground
from tests.models import shared, tokens

IDS = tokens(3, 256)


def scoring(**more):
    of = ground(shared("llama"), IDS, **more)
    return Scoring.of_texts(of, of.texts(256))


def test_far_tokens_are_those_of_the_second_half_and_near_ones_a_window_by_itself():
    model, one, pi = shared("llama"), scoring(), PositionInterpolation()
    with pi.on(model, 256):
        far, near = token_nll(model, IDS)[:, -128:], token_nll(model, IDS[:, :64])
    for row in range(3):
        np.testing.assert_allclose(one.far(pi, row), far[row].view(PIECES, -1).mean(1), rtol=1e-5)
    np.testing.assert_allclose(one.near(pi), near.mean(1), rtol=1e-5)
    assert not np.allclose(one.far(pi, 0), one.far(Plain(), 0), rtol=1e-5)


@pytest.fixture
def read(monkeypatch):
    """Tokens that the model reads."""
    seen = []
    monkeypatch.setattr(
        "ropewalk.fitting.scoring.token_nll",
        lambda model, ids, **how: seen.append(ids.numel()) or token_nll(model, ids, **how),
    )
    return seen


def test_what_was_read_is_not_read_again_whoever_asks(tmp_path, read):
    with SampleStore(tmp_path / "candidates") as records:
        first = scoring(records=records)
        losses = first.far(YaRN(), 1), first.near(YaRN())
        assert read == [256, 3 * 64] and first.tokens == 256 + 3 * 64
        read.clear()
        again = scoring(records=records)
        for one, other in zip(losses, (again.far(YaRN(), 1), again.near(YaRN())), strict=True):
            np.testing.assert_array_equal(one, other)
        assert read == [] and again.tokens == first.tokens, "what was read before counts all the same"
        again.far(YaRN(beta_fast=31.0), 1)
        again.far(YaRN(), 2)
        assert read == [256, 256]
        read.clear()
        beside = scoring(records=records, others=(VerticalSlash(),))
        beside.far(YaRN(), 1)
        assert read == [256], "beside another method it is another number"


def test_another_model_has_other_losses(tmp_path, read):
    with SampleStore(tmp_path / "candidates") as records:
        scoring(records=records).far(YaRN(), 0)
        of = ground(shared("qwen3"), IDS, records=records)
        other = Scoring.of_texts(of, of.texts(256))
        other.far(YaRN(), 0)
        assert read == [256, 256]


def test_other_code_has_other_losses(tmp_path, read, monkeypatch):
    with SampleStore(tmp_path / "candidates") as records:
        scoring(records=records).far(YaRN(), 0)
        monkeypatch.setattr("ropewalk.fitting.scoring.code_fingerprint", lambda rooms: f"later {len(rooms)}")
        scoring(records=records).far(YaRN(), 0)
        assert read == [256, 256]


def test_a_candidate_leaves_what_is_compared_and_no_more(tmp_path):
    class Kept(SampleStore):
        def put(self, records):
            kept.extend(records.values())
            super().put(records)

    kept: list[dict] = []
    one = scoring(records=Kept())
    far, near = one.far(YaRN(), 1), one.near(YaRN())
    assert [np.shape(record["losses"]) for record in kept] == [(1, PIECES), (3, 1)]
    np.testing.assert_array_equal(kept[0]["losses"][0], far)
    np.testing.assert_array_equal(kept[1]["losses"], near[:, None])


def test_needles_stand_near_the_start_and_only_their_answers_count():
    model, tokenizer = ropewalk.load("demo")
    text = torch.tensor([tokenizer("The sea is wide, and the ships on it are small. " * 200).input_ids[:1024]] * 4)
    of = ground(model, text, window=512, bos=TokenUnits(tokenizer).bos, units=TokenUnits(tokenizer))
    found = Scoring.of_needles(of, text, seed=0)
    assert found.rows.shape == (4, 1024)
    for row in found.rows.tolist():
        before, _, asked = tokenizer.decode(row).rpartition("What is the access code for ")
        city, code = asked.partition("?")[0], asked.rsplit(" ", 1)[1]
        hidden = f"The access code for {city} is {code}."
        assert hidden in before and before.index(hidden) < 0.35 * len(before)
    with PositionInterpolation().on(model, 1024):
        plain = token_nll(model, found.rows[:1], keep=found.scored)[0]
    assert found.scored < 10
    np.testing.assert_allclose(found.far(PositionInterpolation(), 0), plain, rtol=1e-4)
    assert Scoring.of_needles(of, text, seed=1).rows.tolist() != found.rows.tolist()
    assert Scoring.of_needles(of, text, seed=0).rows.tolist() == found.rows.tolist()


def test_what_reads_ahead_has_no_losses():
    with pytest.raises(UserError, match="vertical-slash sees tokens that come later"):
        require_causal([YaRN(), VerticalSlash()])


def pieces(rows):
    return {tuple(row) for row in rows.tolist()}


def test_texts_that_are_searched_and_others_are_of_other_documents():
    ids = tokens(5, 256).tolist()
    of = ground(shared("llama"), tokens(1, 64), samples=3)
    of = dataclasses.replace(of, documents=[*ids, ids[0], ids[1][:63]])
    searched, others, documents, copies = of.halves(64)
    assert copies == 4
    home = {tuple(row[start : start + 64]): which for which, row in enumerate(ids) for start in range(0, 256, 64)}
    assert {home[piece] for piece in pieces(searched)} == {0, 2, 4}, "of as many documents as there are"
    assert [2 * which + 1 for which in documents] == [home[tuple(row)] for row in others.tolist()] == [1, 3, 1]
    assert len(pieces(searched)) == len(pieces(others)) == 3


def test_of_one_document_the_halves():
    (row,) = tokens(1, 512).tolist()
    of = dataclasses.replace(ground(shared("llama"), tokens(1, 64), samples=8), documents=[row, row])
    searched, others, documents, copies = of.halves(64)
    assert searched.flatten().tolist() == row[:256] and others.flatten().tolist() == row[256:]
    assert copies == 8 and documents == [0] * 4, "a copy is no other document"
    only = dataclasses.replace(of, documents=[row[:64]]).halves(64)
    assert only[0].tolist() == [row[:64]] and only[1].shape == (0, 64) and only[2] == []


def test_a_copy_with_another_title_is_no_other_text():
    one, two, three = tokens(3, 512).tolist()
    title, of = tokens(1, 5, seed=1)[0].tolist(), ground(shared("llama"), tokens(1, 128), samples=8)
    changed = [token if i % 40 else 3 for i, token in enumerate(two)]  # a word here and there
    of = dataclasses.replace(of, documents=[one, title + one, two, changed, three])
    searched, others, documents, copies = of.halves(128)
    cut = [{tuple(row[i : i + 128]) for i in range(0, 512, 128)} for row in (one, two, three)]
    assert pieces(searched) == cut[0] | cut[2] and pieces(others) == cut[1]
    assert documents == [0] * 4 and copies == 8

    def runs(rows):
        return {tuple(row[i : i + 16]) for row in rows.tolist() for i in range(len(row) - 15)}

    assert not runs(searched) & runs(others)


def test_what_two_texts_share_in_part_makes_neither_a_copy():
    head, *bodies = tokens(5, 64).tolist()
    of = ground(shared("llama"), tokens(1, 128), samples=8)
    licensed = [head[:40] + body + body[:24] for body in bodies]
    assert dataclasses.replace(of, documents=licensed).halves(128).copies == 0


def test_runs_are_told_apart_exactly():
    rows = np.random.default_rng(0).integers(0, 5, (48, 24))
    for i in range(24):
        rows[24 + i, i:] = rows[i, i:]  # a copy but for what it begins with
    known, wanted = set(), []
    for row in rows.tolist():
        own = [tuple(row[i : i + 16]) for i in range(9)]
        wanted.append(sum(run in known for run in own) < 4.5)
        known |= set(own) if wanted[-1] else set()
    assert _new(rows) == wanted == [True] * 24 + [i > 4 for i in range(24)]


def test_other_texts_are_asked_for_other_codes():
    model, tokenizer = ropewalk.load("demo")
    text = torch.tensor([tokenizer("The sea is wide, and the ships on it are small. " * 200).input_ids[:1024]] * 4)
    of = ground(model, text, window=512, bos=TokenUnits(tokenizer).bos, units=TokenUnits(tokenizer))
    fitter = Searching(by="needles", seed=1)
    ends = [fitter._scoring(of, text, which).rows[:, -4:].tolist() for which in ("searched", "others")]
    assert all(one != other for one, other in zip(*ends, strict=True))


def test_losses_that_are_no_numbers_are_the_worst_or_the_end(monkeypatch):
    bad = {"pi"}

    def overflow(model, ids, **how):
        return token_nll(model, ids, **how) * (float("nan") if bad & {getattr(decoder(model), ON, "none")} else 1)

    monkeypatch.setattr("ropewalk.fitting.scoring.token_nll", overflow)
    one = scoring()
    assert (one.far(PositionInterpolation(), 0) == 700).all()
    race = Race(one, Plain())
    race.run(iter_once([PositionInterpolation(), YaRN()]))
    assert race.best.method == YaRN()
    bad.add("none")
    with pytest.raises(UserError, match="own losses are no finite numbers"):
        Race(scoring(), Plain())


def iter_once(methods):
    yield methods


@pytest.mark.parametrize(
    "record", [{"x": 1}, {"losses": [1, 2]}, {"losses": "much"}, {"losses": [[float("inf")] * PIECES]}]
)
def test_losses_that_nobody_kept_are_refused(record):
    class Damaged(SampleStore):
        def get(self, keys):
            return dict.fromkeys(keys, record)

    with pytest.raises(UserError, match="expected 1 x 16 numbers"):
        scoring(records=Damaged()).far(YaRN(), 0)


def test_beside_others_the_plain_model_is_these_alone():
    pi = PositionInterpolation()
    beside, alone = scoring(others=(pi,)), scoring()
    np.testing.assert_array_equal(beside.far(Plain(), 0), alone.far(pi, 0))


@pytest.fixture
def gone_back(monkeypatch):
    """Texts that were gone back through."""
    seen = []
    monkeypatch.setattr(
        "ropewalk.fitting.scoring.slope", lambda model, ids, *how: seen.append(len(ids)) or slope(model, ids, *how)
    )
    return seen


def test_a_slope_is_the_mean_of_those_of_its_texts_and_brings_their_losses(tmp_path, read, gone_back):
    pi = LongRoPE((4.0,) * 8, 1.0)
    with SampleStore(tmp_path / "candidates") as records:
        one = scoring(records=records)
        both, each = one.far_slope(pi, [0, 2]), [one.far_slope(pi, [row]) for row in (0, 2)]
        np.testing.assert_allclose(both, np.mean(each, axis=0))
        assert gone_back == [256, 256] and one.tokens == one.of_gradients == 2 * 3 * 256 and both.shape == (9,)
        losses = one.far(pi, 2)
        assert read == [], "the losses were read on the way"
        np.testing.assert_allclose(losses, scoring().far(pi, 2), rtol=1e-5)
        np.testing.assert_array_equal(scoring(records=records).far_slope(pi, [0, 2]), both)
        assert len(gone_back) == 2
        assert not np.allclose(one.near_slope(pi, [0, 1, 2]), both, atol=1e-6) and gone_back[2:] == [64, 64, 64]


def test_a_slope_that_is_kept_wrong_is_refused(tmp_path):
    pi = LongRoPE((4.0,) * 8, 1.0)
    with SampleStore(tmp_path / "candidates") as records:
        one = scoring(records=records)
        key = one._key(pi, one.rows[:1], one.scored, PIECES)
        records.put({f"{key}/slope": {"slope": [[1.0, 2.0]]}})
        with pytest.raises(UserError, match="a candidate's slope is kept as"):
            one.far_slope(pi, [0])
