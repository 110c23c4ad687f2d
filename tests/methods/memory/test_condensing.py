"""Windows that are condensed: how many keys are left, how far it reaches, which ratio is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ropewalk import UserError, method
from ropewalk.common.fingerprints import base_fingerprint
from ropewalk.methods.memory.beacon import ActivationBeacon
from ropewalk.methods.memory.condensing import WindowReader, Windows
from ropewalk.methods.memory.ext_tok import ExtensibleTokenization
from tests.models import shared, tiny, tokens

BOTH = pytest.mark.parametrize("kind", [ActivationBeacon, ExtensibleTokenization])


def test_the_card_counts_the_keys_that_are_left():
    sizes = Windows(2048, 0, 32768)
    read = 2048, 2049, 16384, 32768, 400_000
    assert [sizes.kept(n, 8) for n in read] == [2048, 257, 3840, 5888, 50560]
    assert [sizes.kept(n, 32) for n in read] == [2048, 65, 2496, 3008, 13120]
    assert Windows(2048, 1, 32768).kept(2049, 8) == 258


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_it_reaches_as_far_as_the_places_hold_what_is_left(ratio):
    sizes = Windows(16, 1, 64)
    tokens = 1 + sizes.reach(ratio)
    assert sizes.kept(tokens - 1, ratio) <= 64 < sizes.kept(tokens, ratio) + 16 - 1


@BOTH
def test_the_ratio_is_the_smallest_that_reaches_the_target(kind):
    chosen = kind(window=16, ratios=(2, 4, 8))
    sizes = chosen.windows(shared("llama").config)
    assert [chosen.ratio_for(sizes, to) for to in (64, sizes.reach(2), sizes.reach(2) + 1, sizes.reach(8))] == [
        2,
        2,
        4,
        8,
    ]
    with pytest.raises(
        UserError, match=f"reaches {sizes.reach(8)} tokens with ratio 8 .* {sizes.reach(8) + 1} are the"
    ):
        chosen.ratio_for(sizes, sizes.reach(8) + 1)


@BOTH
@pytest.mark.parametrize(
    "options, message",
    [
        ({"window": 12}, "window is 12, expected a multiple of each of ratios, also of 8"),
        ({"window": 48}, "together expected at most the 64 trained positions"),
        ({"ratio": 3}, "ratio is 3, expected one of ratios"),
        ({"ratios": ()}, "expected whole numbers from 1 on"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**{"ratios": (2, 4, 8)} | options).windows(shared("llama").config)


@BOTH
def test_texts_beyond_the_reach_are_refused_while_they_are_read(kind):
    model = shared("llama")
    chosen = kind(window=16, ratio=2, ratios=(2,)).begun()
    reach = chosen.windows(model.config).reach(2)
    with chosen.on(model), torch.no_grad():
        assert model(tokens(1, reach)).logits.isfinite().all()
        with pytest.raises(UserError, match=f"the text has more than the {reach} tokens that ratio 2"):
            model(tokens(1, reach + 1))


@BOTH
def test_memory_grows_by_a_key_per_ratio_tokens(kind):
    model = shared("llama")
    chosen = kind(window=16, ratio=8, ratios=(8,)).begun()
    with torch.no_grad(), chosen.installed(model):
        reader, sizes = chosen.reader(model, 256), chosen.windows(model.config)
        state, ids, done = reader.begin(2), tokens(2, 256), 0
        for end in (16, 17, 64, 161, 256):
            reader.read(ids[:, done:end], state)
            held = sum(x.numel() for layer in state.cache.layers for x in (layer.keys, layer.values))
            assert held == sizes.kept(end, 8) * 2 * 2 * 2 * 2 * 16  # keys and values, layers, rows, heads, dimensions
            done = end


@BOTH
def test_a_memory_is_kept_and_its_ratio_alone_is_chosen_when_it_is_used(kind, tmp_path):
    model, ids = tiny("llama"), tokens(1, 40)
    base = {"name": "tiny", "fingerprint": base_fingerprint(model)}
    begun = kind(window=16, ratios=(2, 4)).begun()
    begun.carried(model, seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.ropewalk_memory.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        begun.write(tmp_path, model, base, 96, {})
        found = {}
        for ratio in (2, 4):
            again = tiny("llama")
            with replace(begun, ratio=ratio).begun().on(model):
                expected = model(ids).logits
            with method(f"{kind.name}(trained='{tmp_path}', ratio={ratio})").on(again):
                found[ratio] = again(ids).logits
            assert torch.equal(found[ratio], expected) and not hasattr(again, "ropewalk_memory")
    assert torch.equal(found[2][:, :16], found[4][:, :16]) and not torch.equal(found[2], found[4])
    with pytest.raises(UserError, match="was trained with window = 16, not 32"):
        method(f"{kind.name}(trained='{tmp_path}', window=32)")
    with (
        pytest.raises(UserError, match="is a memory of tiny"),
        kind(trained=str(tmp_path)).on(tiny("llama", rms_norm_eps=1e-3)),
    ):
        pass


@BOTH
def test_layers_that_are_computed_again_are_refused(kind):
    model = tiny("llama").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with kind(window=16, ratios=(4,)).begun().on(model), pytest.raises(UserError, match="lose their cache"):
        model(tokens(1, 24), use_cache=False)


class Noted(WindowReader):
    """Carries zeros on, and notes the ratios."""

    def begin(self, rows):
        self.noted = []
        return super().begin(rows)

    def condense(self, state, ratio):
        self.noted.append(ratio)
        for layer in state.cache.layers:
            count = self._stays(state) + self.windows.window // ratio
            layer.keys, layer.values = layer.keys[:, :, :count], layer.values[:, :, :count]


def test_ratios_are_drawn_for_each_window_in_training_and_leave_room_for_the_rest():
    model, seen = tiny("llama"), set()
    reader = Noted(model, Windows(8, 0, 24), 4, (2, 4, 8))
    with torch.no_grad():
        reader.read(tokens(1, 24), reader.begin(1))
        assert reader.noted == [4, 4]
        model.train()
        for _ in range(12):
            reader.read(tokens(1, 72), reader.begin(1))
            assert len(reader.noted) == 8 and sum(8 // ratio for ratio in reader.noted) <= 16
            seen |= set(reader.noted)
        assert seen == {2, 4, 8}
        with pytest.raises(UserError, match="rows of training have more than the 136 tokens"):
            reader.read(tokens(1, 145), reader.begin(1))
