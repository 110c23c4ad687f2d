"""Which heads DoPE leaves unrotated, and that these do not know the order of tokens."""

import pytest
import torch

from ropewalk import DoPE, UserError, method
from ropewalk.attention.regions import PLAIN, Layer
from tests.matrix import logits, near
from tests.methods.attention.choices import dope
from tests.methods.attention.pairs import TARGET, N, distinct, error, one_layer, read
from tests.models import in_pieces, shared, tiny, tokens


@pytest.mark.parametrize("still", [(0,), (1, 2), (0, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("ends", [[N], [37, 38, 90, *range(91, N + 1)]], ids=["at once", "pieces"])
def test_chosen_heads_meet_all_keys_at_distance_0(ends, still):
    (seen,) = read(one_layer(num_key_value_heads=4), DoPE((still,)), distinct(1), ends)
    assert error(seen, dope(seen, set(still)), range(0, N, 3)) <= 1e-6


def test_a_layer_without_chosen_heads_is_the_plain_one():
    layer = Layer(0, 64, 256, heads=4, kv_heads=2)
    assert DoPE(((), (1,))).regions(layer) is PLAIN
    model, ids = tiny("llama", num_hidden_layers=1), tokens(1, N)
    plain = logits(model, ids)
    with method("yarn-temperature(coefficient=1e-18)").on(model, to=TARGET):  # the engine, with nothing to change
        engine = logits(model, ids)
    deeper = DoPE(((), (1,)))
    with deeper.on(model, to=TARGET):
        assert torch.equal(logits(model, ids), engine) and near(engine, plain)


def test_without_rotation_a_layer_does_not_know_the_order_of_what_it_read():
    model, ids = tiny("llama", num_hidden_layers=1), tokens(1, N)
    other = torch.cat([ids[:, :-1].flip(1), ids[:, -1:]], 1)
    for chosen, alike in ((DoPE(((0, 1),)), True), (DoPE(((1,),)), False)):
        with chosen.on(model, to=TARGET):
            assert near(logits(model, ids)[:, -1], logits(model, other)[:, -1]) == alike


def test_it_joins_frequencies():
    model, ids = shared("llama"), tokens(1, N)
    with method("yarn+dope(heads=((0,), (1,)))").on(model, to=TARGET):
        assert near(in_pieces(model, ids, 90, *[1] * 10), logits(model, ids))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (((0,),), "heads are given for 1 layers, expected some, or (), for layer 1 too"),
        (((0,), (2,)), "heads of layer 1 are (2,), expected different ones of its 2 key heads, 0 to 1"),
        (((0,), (-1,)), "heads of layer 1 are (-1,), expected different ones"),
        (((0, 0), ()), "heads of layer 0 are (0, 0), expected different ones"),
        (((0.5,), ()), "heads of layer 0 are (0.5,), expected different ones"),
        (((), ()), "would be the plain model"),
        ((), "dope has no heads"),
    ],
)
def test_heads_that_the_model_does_not_have_are_refused(heads, message):
    with pytest.raises(UserError) as caught, DoPE(heads).on(shared("llama"), to=TARGET):
        pass
    assert message in str(caught.value)
