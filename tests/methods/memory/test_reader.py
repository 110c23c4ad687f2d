"""A reader that reads as the model does is the model, whoever asks; what a reader cannot follow is refused."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from transformers.cache_utils import DynamicCache

from ropewalk import MemoryMethod, UserError, compose, method
from ropewalk.attention.cache_argument import as_argument
from ropewalk.backends.backend import Ask
from ropewalk.backends.nll import answer_match, token_nll
from ropewalk.backends.prefix import Runner
from ropewalk.methods.memory.reader import Reader, reading
from ropewalk.rope.live import decoder
from ropewalk.serving.batch import Batch, way_of
from ropewalk.training.one_shot import OneShot
from ropewalk.training.recurrent import Recurrent
from ropewalk.training.training_batch import Batch as Rows
from tests.matrix import TWICE, left_padded, logits, near, subject, text, traces
from tests.models import in_pieces, step, tiny

IDS = text(2, 98)
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}


class AsTheModel(Reader):
    """Keys and values of all tokens are what it carries."""

    def __init__(self, body, apart=False):
        self.body, self.apart, self.pieces = body, apart, []

    def begin(self, rows):
        return rows, DynamicCache()

    def read(self, ids, state):
        rows, cache = state
        assert len(ids) == rows
        self.pieces.append(tuple(ids.shape))
        mask = torch.ones(rows, cache.get_seq_length() + ids.shape[1], dtype=torch.long)
        return self.body(input_ids=ids, attention_mask=mask, use_cache=True, **as_argument(self.body, cache))[0]


class Prompted(AsTheModel):
    def prompt(self, ids, state, last):
        self.pieces.append(last)
        return torch.ones(*ids.shape, 64) + 0 * self.read(ids, state)


@dataclass(frozen=True)
class Plainly(MemoryMethod):
    """Made for these tests."""

    apart: bool = False
    name = "plainly"
    cache_exact = True

    def reader(self, model, to):
        return AsTheModel(decoder(model), self.apart)


every_way = pytest.mark.parametrize("chosen", [Plainly(), Plainly(apart=True)], ids=["together", "apart"])


@every_way
def test_losses_are_the_models(chosen):
    model = subject()
    expected, verdicts = token_nll(model, IDS), answer_match(model, [[5, 6], [7, 8]], [[9, 10], [11, 12]])
    with chosen.on(model, TWICE):
        assert near(token_nll(model, IDS), expected)
        found = answer_match(model, [[5, 6], [7, 8]], [[9, 10], [11, 12]])
    assert [right for right, _ in found] == [right for right, _ in verdicts]
    assert torch.equal(token_nll(model, IDS), expected)


@torch.no_grad()
@every_way
def test_pieces_generation_and_padding_are_the_models(chosen):
    model, mask = subject(), left_padded(IDS, 30)
    expected = model.generate(IDS, attention_mask=torch.ones_like(IDS), **OPTIONS)
    padded = model.generate(IDS, attention_mask=mask, **OPTIONS)
    with chosen.on(model, TWICE):
        assert near(in_pieces(model, IDS, 60, 1, 37), logits(model, IDS))
        assert torch.equal(model.generate(IDS, attention_mask=torch.ones_like(IDS), **OPTIONS), expected)
        assert torch.equal(model.generate(IDS, attention_mask=mask, **OPTIONS), padded)
        alone = model.generate(IDS[:1, 30:], attention_mask=mask[:1, 30:], **OPTIONS)
        assert torch.equal(alone[:, 68:], padded[:1, 98:])
        both = torch.ones_like(IDS)
        both[:, :9] = 0  # padding that all rows have is stripped of all at once
        assert near(logits(model, IDS, attention_mask=both)[:, 9:], logits(model, IDS[:, 9:]))


@every_way
def test_asks_are_answered_as_by_the_model(chosen):
    model = tiny("llama", vocab_size=300, eos_token_id=None)
    asks = [Ask(IDS[0, :n].tolist(), IDS[1, :2].tolist(), room=4) for n in (30, 50, 40)]

    def replies():
        runner = Runner(model)
        return runner, [(i, r.right, r.written, round(r.logprob, 3)) for i, r in sorted(runner.run(asks))]

    _, expected = replies()
    with chosen.on(model, TWICE):
        runner, found = replies()
    assert found == expected and runner.way == "plain" and "cut" in runner.why


@torch.no_grad()
@every_way
def test_texts_are_served_as_by_the_model(chosen):
    model, ids = tiny("llama", max_position_embeddings=64), IDS[0].remainder(90).add(3).tolist()

    def served(on):
        way = way_of(model, on, False, ids[:48])
        batch = Batch.of(model, way, 100)
        return way, torch.cat([batch.read([ids[:60]]), batch.read([ids[60:61]]), batch.read([ids[61:62]])], 1)

    _, expected = served(method("none"))
    with chosen.on(model, TWICE):
        way, found = served(chosen)
    assert near(found, expected) and way.pieces and not way.joined and not way.shared


def test_training_goes_through_the_reader_with_gradients():
    model = tiny("llama", vocab_size=300)
    rows = Rows(IDS, IDS.roll(-1, 1), torch.ones(2, 98), torch.arange(98).expand(2, -1), torch.zeros_like(IDS))
    OneShot().backward(model, rows, 196.0)
    expected = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad()
    with Plainly().on(model, TWICE):
        OneShot().backward(model, rows, 196.0)
        with pytest.raises(UserError, match="inputs_embeds"):
            Recurrent(chunk=32).backward(model, rows, 196.0)
    assert all(near(one.grad, expected[name], 1e-4) for name, one in model.named_parameters())


@torch.no_grad()
def test_a_reader_knows_a_prompt_from_a_text_whose_losses_are_asked_for():
    model = subject()
    reader = Prompted(decoder(model))
    with reading(model, reader):
        assert not (logits(model, IDS) == logits(model, IDS)[:, :1]).all(), "read"
        scores, held = step(model, IDS)
        assert (scores == scores[:, :1]).all(), "as a prompt"
        later, _ = step(model, IDS[:, :1], held)
        assert not torch.equal(later, scores[:, :1]), "a token of an answer is no prompt"
        assert True not in reader.pieces and False in reader.pieces
        step(model, IDS, logits_to_keep=1)
        model.generate(IDS, attention_mask=torch.ones_like(IDS), **OPTIONS)
        assert reader.pieces.count(True) == 2, "where nothing but the last logits are asked for"


@torch.no_grad()
def test_what_cannot_be_followed_is_refused():
    model = subject()
    ones = torch.ones_like(IDS)
    behind, inside = ones.clone(), ones.clone()
    behind[0, -3:], inside[0, 4:6] = 0, 0
    body = decoder(model)
    with Plainly().on(model, TWICE):
        for given, said in [
            ({"inputs_embeds": torch.zeros(1, 3, 64)}, "inputs_embeds"),
            ({"input_ids": IDS, "attention_mask": behind}, "hides tokens inside a row or behind it"),
            ({"input_ids": IDS, "attention_mask": inside}, "hides tokens inside a row or behind it"),
            ({"input_ids": IDS, "attention_mask": torch.zeros_like(IDS)}, "hides tokens"),
            ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 98, 98)}, r"is \[2, 1, 98, 98\], expected"),
            ({"input_ids": IDS, "attention_mask": ones[:, :90]}, "90 columns, expected 98"),
            ({"input_ids": IDS, "position_ids": torch.arange(98)[None] + 1}, "position_ids has 1 for a token that is"),
            ({"input_ids": IDS, "output_hidden_states": True}, "output_hidden_states"),
            ({"input_ids": IDS, "output_attentions": True}, "output_attentions"),
            ({"input_ids": IDS, "document_ids": IDS}, "document_ids"),
            ({"input_ids": IDS, "visual": 1}, "visual, which a memory does not follow"),
            ({"input_ids": IDS[:, :0]}, r"input_ids is \[2, 0\]"),
        ]:
            with pytest.raises(UserError, match=said):
                body(**given)
        with pytest.raises(UserError, match="cannot be given to other rows"):
            model.generate(IDS, attention_mask=ones, num_beams=2, **OPTIONS)
        with pytest.raises(UserError, match="no static cache"):
            model.generate(IDS, attention_mask=ones, cache_implementation="static", disable_compile=True, **OPTIONS)


@torch.no_grad()
def test_caches_that_hold_something_else_are_refused():
    model = subject()
    _, foreign = step(model, IDS)
    with Plainly().on(model, TWICE):
        with pytest.raises(UserError, match="98 tokens that were read without this memory"):
            step(model, IDS[:, :1], foreign)
        _, held = step(model, IDS)
        twin = copy.deepcopy(held)
        assert torch.equal(step(model, IDS[:, :1], held)[0], step(model, IDS[:, :1], twin)[0])
        assert held.get_seq_length() == twin.get_seq_length() == 99
        with pytest.raises(UserError, match="cannot be cut back"):
            held.crop(-1)
        with pytest.raises(UserError, match="100 columns, expected 101"):
            step(model, IDS[:, :2], held, attention_mask=torch.ones(2, 100))
        with pytest.raises(IndexError):
            step(model, torch.full((2, 1), 10**6), held)
        with pytest.raises(UserError, match="a read of this cache has failed"):
            step(model, IDS[:, :1], held)
        held.reset()
        assert near(step(model, IDS, held)[0], logits(model, IDS))
    with pytest.raises(UserError, match="gone on with by the model without its method"):
        step(model, IDS[:, :1], twin)
    with Plainly().on(model, TWICE), pytest.raises(UserError, match="filled by another memory"):
        step(model, IDS[:, :1], twin)


@torch.no_grad()
def test_the_model_is_as_before_and_nothing_else_may_be_on():
    model, hooked = subject(), tiny("llama", vocab_size=300)
    before, expected = traces(model), logits(model, IDS)
    body = decoder(hooked)
    own = body.forward = body.forward  # as libraries do that move weights
    with Plainly().on(hooked, TWICE):
        assert body.forward is not own
    assert body.forward is own
    with pytest.raises(KeyboardInterrupt), Plainly().on(model, TWICE):
        raise KeyboardInterrupt
    assert traces(model) == before and torch.equal(logits(model, IDS), expected)
    on_top = pytest.raises(UserError, match="plainly is on this model already")
    with Plainly().on(model, TWICE), on_top, method("pi").on(model, TWICE):
        pass
    with pytest.raises(UserError, match="target 63 is shorter than"), Plainly().on(model, 63):
        pass
    with pytest.raises(UserError, match="cannot be saved in a configuration"):
        Plainly().extend(model, TWICE)


@torch.no_grad()
@pytest.mark.parametrize("name", ["none", "yarn", "resonance+yarn"])
def test_it_goes_on_top_of_frequencies(name):
    model = subject()
    joined = compose(Plainly(), method(name))
    assert joined == compose(method(name), Plainly()) and joined.id.split("+")[0] == "plainly"
    assert joined.axes == method(name).axes | {"memory"} and joined.cache_exact
    with method(name).on(model, TWICE):
        expected = logits(model, IDS)
    plain = logits(model, IDS)
    with joined.on(model, TWICE):
        assert near(in_pieces(model, IDS, 90, 8), expected)
    assert torch.equal(logits(model, IDS), plain)
    parts = {one.fingerprint(model, TWICE) for one in (joined, Plainly(), method(name))}
    assert len(parts) == 3 and joined.fingerprint(model, 2 * TWICE) not in parts


@pytest.mark.parametrize("name", ["self-extend", "dynamic-ntk", "log-n"])
def test_it_does_not_go_on_top_of_what_attention_does_at_run_time(name):
    with pytest.raises(UserError, match=rf"plainly reads .* {name}"):
        compose(Plainly(), method(name))
    with pytest.raises(UserError, match="both set the memory"):
        compose(Plainly(), Plainly(apart=True))
