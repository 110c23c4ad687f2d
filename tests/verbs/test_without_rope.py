"""Verbs on models without a rope: what is measured, and what is refused with what fits."""

from __future__ import annotations

import pytest

from ropewalk import compare, evaluate, serve
from ropewalk.common.errors import UserError
from tests.carriers.ropeless import folder

WINDOW, TARGET = 128, 256
KEY = {"bloom": "seq_length", "mpt": "max_seq_len", "falcon": "max_position_embeddings", "gpt2": "n_positions",
       "opt": "max_position_embeddings", "bart": "max_position_embeddings", "t5": "n_positions"}  # fmt: skip
SMALL = {"tasks": ["ppl", "passkey"], "samples": 1, "documents": 2, "depths": 1, "lengths": [WINDOW, TARGET]}


def test_a_plan_names_what_fits_and_its_commands_are_taken(place, tmp_path):
    from ropewalk import extend, plan

    for kind, methods in [("bloom", ["alibi-pi"]), ("gpt2", ["pi", "grouped", "recurrent"]), ("mamba", [])]:
        made = plan(place(kind), to=TARGET)
        assert [one.id for one in made.methods] == methods and made.commands
        assert made.cache == (0 if kind == "mamba" else TARGET * 2 * 2 * 32 * 4)
    assert extend(place("gpt2"), to=TARGET, out=str(tmp_path / "out")).method == "pi"
    with pytest.raises(UserError, match="not beyond the window"):
        plan(place("gpt2"), to=WINDOW)


def test_the_methods_are_listed():
    from ropewalk import list_methods

    assert {one.id for one in list_methods(without_rope=True)} == {
        "none", "alibi-pi", "pi", "grouped", "recurrent", "t5-align", "unlimiformer", "attendre"}  # fmt: skip


@pytest.fixture
def place(tmp_path):
    return lambda kind: str(folder(tmp_path / kind, kind, **({KEY[kind]: WINDOW} if kind in KEY else {})))


def measured(results, method):
    return {(row.task, row.length) for row in results.rows if row.method == method and row.length is not None}


@pytest.mark.parametrize(("kind", "method"), [
    ("bloom", "alibi-pi(follow=True)"), ("mpt", "alibi-pi"), ("falcon", "alibi-pi(form='ntk')"),
])  # fmt: skip
def test_slopes_are_compared(place, tmp_path, kind, method):
    done = compare(place(kind), to=TARGET, methods=[method], out=str(tmp_path / "out"), **SMALL).results
    everything = {(task, n) for task in ("ppl", "passkey") for n in (WINDOW, TARGET)}
    assert measured(done, "none") >= everything and measured(done, method) >= everything


def test_a_table_is_compared_and_the_plain_model_as_far_as_its_rows_go(place, tmp_path):
    done = compare(place("gpt2"), to=TARGET, methods=["pi"], out=str(tmp_path / "out"), **SMALL).results
    assert {("ppl", WINDOW), ("ppl", TARGET), ("passkey", TARGET)} <= measured(done, "pi")
    plain = measured(done, "none")
    assert ("ppl", WINDOW) in plain and not {("ppl", TARGET), ("passkey", TARGET)} & plain
    lost = {(one.task, one.length) for one in done.not_measured if one.method == "none"}
    assert lost >= {("ppl", TARGET), ("passkey", TARGET)}


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_reads_and_a_decoder_writes(place, tmp_path, kind):
    asked = SMALL | {"tasks": ["ppl", "passkey", "niah"], "methods": ["unlimiformer(topk=16)"]}
    done = compare(place(kind), to=TARGET, out=str(tmp_path / "out"), **asked).results
    assert measured(done, "unlimiformer(topk=16)") >= {("passkey", TARGET), ("niah", TARGET), ("passkey", WINDOW)}
    assert (("passkey", TARGET) in measured(done, "none")) == (kind == "t5")  # whose buckets have no end
    left_out = [one.reason for one in done.not_measured if one.task == "ppl"]
    assert all(
        "the decoder, which sees all of it" in one or one == "128 tokens are all that it reads" for one in left_out
    )


def test_a_state_is_evaluated_at_any_length(place, tmp_path):
    done = evaluate(place("mamba"), tasks=["ppl"], documents=2, lengths=[64, 128], out=str(tmp_path / "out")).results
    assert {("ppl", 64), ("ppl", 128)} <= measured(done, "none")


@pytest.mark.parametrize(("kind", "method", "said"), [
    ("bloom", "yarn", "For it there are none, alibi-pi."),
    ("gpt2", "alibi-pi", "For it there are none, pi, grouped, recurrent."),
    ("mamba", "pi", "For it there are none."),
    ("t5", "pi", "For it there are none, t5-align, unlimiformer, attendre."),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_does(place, tmp_path, kind, method, said):
    with pytest.raises(UserError) as seen:
        compare(place(kind), to=TARGET, methods=[method], out=str(tmp_path / "out"), **SMALL)
    assert seen.value.mend == said


@pytest.mark.parametrize("kind", ["bloom", "gpt2", "mamba", "t5"])
def test_where_a_rope_is_needed_it_is_said_what_there_is_instead(place, kind):
    pytest.importorskip("uvicorn", reason="needs the extra: pip install -e '.[serve]'")
    with pytest.raises(UserError, match=f"is of model_type '{kind}', which has no rope") as seen:
        serve(place(kind), port=0)
    assert seen.value.mend == "For models without a rope there are inspect, plan, extend, compare and evaluate."


def test_models_of_two_kinds_are_not_compared_together(place, tmp_path):
    with pytest.raises(UserError, match="gpt2: table; demo: a rope"):
        compare(place("gpt2"), more_models=["demo"], to=TARGET, out=str(tmp_path / "out"), **SMALL)
