"""The temperature that aligns two lengths, against every score of them."""

import math

import pytest
import torch

from ropewalk import AttentionAlignment, UserError, method
from ropewalk.fitting.temperature import Temperature
from tests.fitting.grounds import ground
from tests.matrix import logits
from tests.methods.attention.pairs import distinct, one_layer, read
from tests.models import shared, tiny, tokens


def tau(fitter, *arguments, **more):
    return fitter.search(AttentionAlignment(), ground(*arguments, **more)).options["tau"]


def sharpness(seen, tau, by, queries):
    """Mean over heads and the last queries, from every score."""
    end, values = seen.q.shape[1], []
    for head in range(len(seen.q)):
        for m in range(end - queries, end):
            row = (seen.logits(head, m, {n: m - n for n in range(m + 1)}) / tau).softmax(0)
            values.append(float(row.max()) if by == "max" else float(-(row * row.log()).sum()))
    return sum(values) / len(values)


@pytest.mark.parametrize("by", ["max", "entropy"])
def test_the_fitted_temperature_makes_both_lengths_equally_sharp(by):
    model, ids = one_layer(), distinct(2, 200)
    found = tau(Temperature(by, 20), model, ids, 30)
    long, short = (read(model, "none", text, [text.shape[1]]) for text in (ids, ids[:, :30]))

    def mean(rows, tau):
        return sum(sharpness(seen, tau, by, 20) for seen in rows) / 2

    assert 0.2 < found < 1
    assert mean(long, found) == pytest.approx(mean(short, 1.0), rel=1e-3)
    assert mean(long, 1.0) != pytest.approx(mean(short, 1.0), rel=5e-2)


def test_it_is_measured_under_the_positions_that_are_used():
    model, ids = tiny("llama"), tokens(1, 200)
    alone = tau(Temperature(queries=20), model, ids, 60)
    under = tau(Temperature(queries=20), model, ids, 60, others=(method("rerope(window=8)"),))
    assert alone != under and math.isfinite(under)


def test_measuring_leaves_the_model_alone():
    model, ids = tiny("llama"), tokens(1, 150)
    plain = logits(model, ids)
    tau(Temperature(queries=10), model, ids, 64)
    assert torch.equal(logits(model, ids), plain)


@pytest.mark.parametrize(
    ("window", "queries"), [(150, 64), (30, 64), (60, 0)], ids=["no longer than the window", "many queries", "none"]
)
def test_lengths_that_make_no_sense_are_refused(window, queries):
    with pytest.raises(UserError, match="expected queries <= window < target"):
        tau(Temperature(queries=queries), shared("llama"), tokens(1, 150), window)


def test_a_long_text_that_is_as_sharp_has_nothing_to_align():
    """Who sees eight keys at any length is about as sharp at both, on half of the texts sharper at the longer one."""
    few, refused = method("lm-infinite(window=8, sinks=0)"), []
    for seed in range(6):
        try:
            tau(Temperature(queries=10), shared("llama"), tokens(1, 150, seed), others=(few,))
        except UserError as error:
            refused.append(error.message)
    assert 0 < len(refused) < 6 and all("nothing is to be aligned" in message for message in refused)
