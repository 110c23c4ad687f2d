"""What a kind of rows needs is known from its options."""

from __future__ import annotations

from typing import Any

import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.knots.marks import Marks
from ropewalk.data.making import Texts, make_rows
from ropewalk.data.synthesis.syntheses import SYNTHESES, options_of, synthesis, synthesis_class
from tests.data.synthesis.written import TOKENIZER
from tests.talkers import Talker, echo, engine

KINDS = [(kind, asked) for kind, one in SYNTHESES.items() for asked in (False, True) if one.load(asked)]
LONGER: list[dict[str, Any]] = [{}, {"least": 700}, {"chunk": 900}, {"words": 800}]
CASES = [(*one, more) for more in LONGER for one in KINDS if more.keys() <= options_of(synthesis_class(*one))]


@pytest.mark.parametrize(("kind", "asked", "more"), CASES)
def test_rows_that_are_too_short_by_any_tokenizer_are_no_context(kind, asked, more: dict[str, Any], tmp_path) -> None:
    """``shortest`` is a bound: one token less is refused by the synthesis itself too, whatever the texts are."""
    cls = synthesis_class(kind, asked)
    made = synthesis(cls, {"rows": 1, **more}, engine(Talker(echo)) if asked else None)
    assert made.shortest >= max(more.values(), default=1)
    ropewalk.pack_data("topics", tokenizer="demo", length=512, out=tmp_path / "rows")
    texts = Texts(str(tmp_path / "rows"), TOKENIZER, "demo")
    with pytest.raises(UserError, match="--length") as told:
        make_rows(
            texts, made, kind, {}, made.shortest - 1, False, 0, tmp_path / "out", False, lambda *_: None
        )  # fmt: skip
    assert "more texts" not in told.value.mend or kind in ("tables", "longpo")


def test_it_is_said_before_texts_are_tokenised(tmp_path) -> None:
    with pytest.raises(UserError, match="rows of 20 tokens, expected 1,536 at least"):
        ropewalk.synth_data("in2", "topics", tokenizer="demo", length=20, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


SIZED = [(*one, least) for one in KINDS if "least" in options_of(synthesis_class(*one)) for least in (2, 60_000)]


@pytest.mark.parametrize(("kind", "asked", "least"), SIZED)
def test_contexts_that_rows_do_not_hold_are_refused_before_texts_are_tokenised(kind, asked, least, tmp_path) -> None:
    made = synthesis(synthesis_class(kind, asked), {"rows": 1, "least": least}, engine(Talker(echo)) if asked else None)
    if least == 2 and kind in ("selflong", "longmit"):  # a document of any size
        assert made.bounds(8192, 1, Marks(lambda text: [0], 0))[0] == 2
        return
    with pytest.raises(UserError, match=f"{least:,} to [\\d,]+ tokens") as told:
        make_rows(
            Texts("topics", TOKENIZER, "demo"), made, kind, {}, 8192, False, 0, tmp_path / "out", False, unheard
        )  # fmt: skip
    assert "--least" in told.value.mend and not list(tmp_path.iterdir())


def unheard(documents: int, tokens: int) -> None:
    raise AssertionError("it was tokenised")
