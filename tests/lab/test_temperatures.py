"""Temperatures that are found: what they are for, that nothing else moves, and the closed form beside them."""

import pytest
import torch

from ropewalk.lab.cell import Budget, Cell, answers, trained
from ropewalk.lab.decoder import Decoder, DecoderConfig
from ropewalk.lab.temperatures import STEPS, fit, gaussian_temperature


def model(name, window=8):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return Decoder(DecoderConfig(encoding=name, window=window, vocab_size=16, **shape)).eval()


def repeated(step, length):
    """Rows whose second half repeats the first."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(2, 16, (4, length // 2), generator=generator).repeat(1, 2)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def loss(one, way, length):
    ids, _ = repeated(STEPS + 1, length)
    with torch.no_grad(), one.extended(way, length):
        return float(torch.nn.functional.cross_entropy(one(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


def test_temperatures_of_heads_are_learnt_and_nothing_else_moves(monkeypatch):
    monkeypatch.setattr("ropewalk.lab.temperatures.STEPS", 30)
    one = model("nope")
    with torch.no_grad():
        one.head.weight.mul_(20)
    before = {key: value.clone() for key, value in one.state_dict().items()}
    plain = loss(one, "", 24)
    fit(one, "temperatures", 24, repeated)
    found = torch.cat([each.temperature for each in one.each_encoding])
    assert bool((found >= 1).all()) and not torch.equal(found, torch.full_like(found, 1.6))
    assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items() if "temperature" not in key)
    assert loss(one, "", 24) == plain != loss(one, "temperatures", 24)
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_one_temperature_makes_long_rows_as_sharp_as_those_of_the_window():
    one = model("t5")
    with torch.no_grad():
        for block in one.blocks:
            block.attention.q.weight.mul_(40)
    (t5,) = one.each_encoding

    def sharpness(way, length):
        t5.seen = []
        with torch.no_grad(), one.extended(way, length):
            one(repeated(0, length)[0])
        found, t5.seen = t5.seen, None
        assert len(found) == 2
        return sum(found) / 2

    wanted, before = sharpness("", 8), sharpness("", 64)
    fit(one, "align", 64, repeated)
    assert before < wanted == pytest.approx(sharpness("align", 64), rel=0.02) and 0.1 < t5.temperature < 1
    assert sharpness("", 64) == before


def test_sharpness_is_that_of_the_weights_that_are_used():
    """A temperature near 0 leaves one key to each query, whose value then comes out."""
    one = model("t5")
    (t5,) = one.each_encoding
    t5.take("align", 8)
    t5.temperature = 1e-4
    q, k, v = (torch.randn(1, 2, 8, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    from ropewalk.lab.encoding import Standing

    t5.seen = []
    with torch.no_grad():
        out = t5.attended(q, k, v, Standing(0, torch.arange(8)))
    assert t5.seen[0] > 0.99
    assert torch.cdist(out[0, 0], v[0, 0]).amin(-1).max() < 0.2


def test_the_closed_form():
    assert gaussian_temperature(2, 512, 2048) == pytest.approx(0.768516, abs=1e-6)
    assert gaussian_temperature(2, 512, 15360) == pytest.approx(0.608513, abs=1e-6)


@pytest.mark.parametrize(("name", "way"), [("nope", "temperatures"), ("t5", "align")])
def test_answers_fit_them_first(name, way, monkeypatch):
    monkeypatch.setattr("ropewalk.lab.temperatures.STEPS", 3)
    tiny = Budget(window=12, steps=2, batch=4, learning_rate=1e-2, width=16, layers=1, heads=2)
    one = trained(Cell(name, "copy", 0), tiny)
    found = answers(one, "copy", way, 20, 3)
    assert float(torch.as_tensor(one.each_encoding[0].temperature).max()) != 1.0
    assert answers(one, "copy", way, 20, 3) == found != answers(one, "copy", "", 20, 3)
