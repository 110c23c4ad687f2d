"""Context-adaptive attention: the choice of core tokens."""

import pytest

from ropewalk import TCA, UserError
from tests.matrix import logits
from tests.methods.attention.choices import tca
from tests.methods.attention.pairs import TARGET, N, distinct, error, one_layer, read
from tests.models import shared, tokens

PLAN = (((0.5, 0.35, 0.2), (0.45, 0.4, 0.3)),)  # one layer, two key heads, budgets 1, 2, 4, 8


@pytest.mark.parametrize("ends", [[N], [37, 38, 90, *range(91, N + 1)]], ids=["at once", "pieces"])
def test_a_query_attends_to_the_core_of_every_earlier_block(ends):
    budgets = set()
    for seen in read(one_layer(), TCA(block=8, local=16, plan=PLAN), distinct(2), ends):
        distances = tca(seen, 8, 16, PLAN[0], budgets)
        assert error(seen, distances, range(0, N, 3)) <= 1e-6
    assert len(budgets) >= 3


def test_full_budgets_are_dense_attention():
    model, ids = shared("llama"), tokens(2, N)
    plain = logits(model, ids)
    with TCA(block=8, local=16, plan=(((2.0, 2.0, 2.0),) * 2,) * 2).on(model, to=TARGET):
        got = logits(model, ids)
    assert float((got - plain).abs().max()) <= 2e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TCA(block=12), "block is 12, expected a power of two"),
        (lambda: TCA(block=8, local=12), "local is 12, expected a multiple of block = 8"),
        (lambda: TCA(block=16, plan=PLAN), "the plan is for another block size, expected 4 bounds"),
        (lambda: TCA(block=8, local=16, plan=PLAN).on(shared("llama"), to=TARGET).__enter__(),
         "the plan has no 2 key heads for layer 1"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
