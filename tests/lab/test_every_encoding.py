"""Every encoding of the list, by name: causal, exact in its gradients, the same token by token, and from a file."""

import pytest
import torch

from ropewalk.attention.cache_argument import as_argument, of_output
from ropewalk.common.errors import UserError
from ropewalk.lab.decoder import Decoder, DecoderConfig
from ropewalk.lab.encoding_entries import BY_ID, ENCODINGS, encoding
from ropewalk.training.optimizers import Optimizer

WINDOW, LONG = 16, 40
WAYS = [(one.id, way) for one in ENCODINGS for way in ("", *one.load().ways)]
named = pytest.mark.parametrize("name", BY_ID)
in_every_way = pytest.mark.parametrize(("name", "way"), WAYS)


def decoder(name, dtype=torch.float64, heads=4):
    torch.manual_seed(0)
    model = Decoder(
        DecoderConfig(
            encoding=name, window=WINDOW, hidden_size=32, num_hidden_layers=2, intermediate_size=40, vocab_size=64,
            num_attention_heads=heads,
        )
    )  # fmt: skip
    with torch.no_grad():  # what begins at zero takes part as well
        for one in model.parameters():
            one.add_(torch.randn_like(one) * 0.05)
    return model.to(dtype).eval()


def text(tokens):
    return torch.randint(4, 64, (2, tokens), generator=torch.Generator().manual_seed(1))


def tokens(name, way):
    """How long a text may be."""
    return WINDOW if name == "learned" and not way else LONG


@in_every_way
@torch.no_grad()
def test_nobody_sees_what_comes_after(name, way):
    model, ids = decoder(name), text(n := tokens(name, way))
    other = ids.clone()
    other[:, n - 5] = (ids[:, n - 5] + 1) % 60 + 4
    with model.extended(way, n):
        one, two = model(ids).logits, model(other).logits
    assert torch.equal(one[:, : n - 5], two[:, : n - 5])
    assert not torch.allclose(one[:, n - 5], two[:, n - 5])


@in_every_way
@torch.no_grad()
def test_token_by_token_and_in_pieces_is_at_once(name, way):
    model, ids = decoder(name), text(n := tokens(name, way))
    with model.extended(way, n):
        whole = model(ids).logits
        for cuts in (range(1, n + 1), (7, 8, n)):
            found, cache, start = [], None, 0
            for end in cuts:
                out = model(ids[:, start:end], use_cache=True, **as_argument(model, cache))
                cache, start = of_output(out), end
                found.append(out.logits)
            assert float((torch.cat(found, 1) - whole).abs().max()) < 1e-9


@in_every_way
def test_slopes_of_all_parameters_are_those_of_a_small_step(name, way):
    model, ids = decoder(name), text(n := min(24, tokens(name, way)))
    trained = [one for one in model.parameters() if one.requires_grad]
    with model.extended(way, n):

        def loss():
            return torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

        slopes = torch.autograd.grad(loss(), trained, allow_unused=True)
        for i, one in enumerate(trained):
            direction, before = torch.randn_like(one), one.detach().clone()
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    one.copy_(before + step * direction)
                    values.append(float(loss()))
                    one.copy_(before)
            expected = (values[0] - values[1]) / 2e-6
            got = 0.0 if slopes[i] is None else float((slopes[i] * direction).sum())
            assert got == pytest.approx(expected, abs=2e-7, rel=2e-5)


@named
def test_a_step_moves_all_that_an_encoding_learns(name):
    model = decoder(name, torch.float32).train()
    learned = {key: one for key, one in model.encodings.named_parameters() if one.requires_grad}
    before = {key: one.detach().clone() for key, one in learned.items()}
    optimizer = Optimizer(model.named_parameters(), learning_rate=0.1)
    model(text(WINDOW)).logits.square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(one, before[key]) for key, one in learned.items())


@named
@torch.no_grad()
def test_a_folder_holds_all_of_it(name, tmp_path):
    model = decoder(name, torch.float32)
    model.save_pretrained(tmp_path)
    torch.manual_seed(7)
    again, problems = Decoder.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(problems.values())
    assert torch.equal(again.eval()(text(WINDOW)).logits, model(text(WINDOW)).logits)


@named
@torch.no_grad()
def test_generate_takes_the_likeliest_token_each_time(name):
    model, ids = decoder(name), text(8)
    model.generation_config.eos_token_id = None
    for _ in range(6):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    got = model.generate(ids[:, :8], attention_mask=torch.ones(2, 8), max_new_tokens=6, do_sample=False)
    assert torch.equal(got, ids)


@pytest.mark.parametrize(("name", "way"), [one for one in WAYS if one[1] not in ("", *encoding(one[0]).load().fitted)])
@torch.no_grad()
def test_a_way_is_off_when_its_block_ends_and_inside_the_window_most_change_nothing(name, way):
    model, ids = decoder(name), text(WINDOW)
    plain = model(ids).logits
    with model.extended(way, LONG):
        changed = model(ids).logits
    with model.extended(way, WINDOW):
        inside = model(ids).logits
    assert torch.equal(model(ids).logits, plain)
    if (name, way) not in {("rope", "hirope"), ("softplus", "reweight")}:
        torch.testing.assert_close(inside, plain, rtol=0, atol=1e-12)
    if (name, way) not in {("xpos", "bca"), ("learned", "recurrent"), ("sinusoidal", "recurrent")}:
        assert not torch.allclose(changed, plain)


@named
@torch.no_grad()
def test_an_odd_number_of_heads_is_no_problem(name):
    torch.manual_seed(0)
    config = DecoderConfig(encoding=name, window=WINDOW, hidden_size=24, num_attention_heads=3, num_hidden_layers=1)
    assert torch.isfinite(Decoder(config).eval()(text(WINDOW)).logits).all()


@torch.no_grad()
def test_what_a_decoder_cannot_read_right_is_refused():
    model, ids = decoder("rope"), text(8)
    mask = torch.ones(2, 8)
    mask[0, 0] = 0
    with pytest.raises(UserError, match="masked"):
        model(ids, attention_mask=mask)
    with pytest.raises(UserError, match="position_ids"):
        model(ids, position_ids=torch.arange(8)[None] + 1)
    with pytest.raises(UserError, match="no way 'yran'; did you mean"):
        model.encodings[0].take("yran", 40)
    with pytest.raises(UserError, match="given labels, which"):
        model(ids, labels=ids)
    cache = of_output(model(ids, use_cache=True))
    with pytest.raises(UserError, match="training"):
        model.train()(ids, **as_argument(model, cache))


def test_an_unknown_encoding_is_refused():
    with pytest.raises(UserError, match=r"unknown encoding 'alib'.*alibi"):
        encoding("alib")
