"""Longer tables of decoders: numbers, live against saved, and what other code makes of the folder."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ropewalk import extend, inspect
from ropewalk.carriers.carrier import carrier_of
from ropewalk.common.errors import UserError
from ropewalk.methods.carriers.carrier_entries import carrier_method
from ropewalk.methods.carriers.longer_table import InterpolatedTable
from ropewalk.methods.carriers.plain_carrier import PlainCarrier
from tests.carriers.ropeless import BUFFERED, TABLES, WINDOW, folder, ids, model

TARGET, METHODS = 72, ("pi", "grouped", "recurrent")
FIRST = {"opt": 2, "biogpt": 2}


def logits(live, tokens, **more):
    with torch.no_grad():
        return live(input_ids=tokens, **more).logits


def table(weights):
    return next(one for name, one in weights.items() if name.endswith(("wpe.weight", "embed_positions.weight")))


def row(table, method, position):
    """What a position reads, by the formulas, one at a time."""
    s = TARGET / WINDOW
    if method == "recurrent":
        return table[position % WINDOW]
    low = int(position / s + 1e-9)
    part = position / s - low
    if method == "grouped" or part < 1e-9:
        return table[low]
    return (1 - part) * table[low] + part * table[min(low + 1, WINDOW - 1)]


def test_numbers():
    own = torch.tensor([[0.0], [10], [20], [50]])
    config = model("gpt2", n_positions=4).config
    assert InterpolatedTable().longer(own, carrier_of(config), 8).flatten().tolist() == [0, 5, 10, 15, 20, 35, 50, 50]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [*TABLES, *BUFFERED])
def test_what_is_saved_is_the_formula_and_is_loaded_by_others(tmp_path, kind, method):
    place, out = folder(tmp_path / "own", kind), tmp_path / "longer"
    done = extend(str(place), to=TARGET, method=method, out=str(out))
    own, new = (table(load_file(one / "model.safetensors")) for one in (place, out))
    first = FIRST.get(kind, 0)
    assert new.shape[0] == TARGET + first and torch.equal(new[:first], own[:first])
    meant = torch.stack([row(own[first:], method, j) for j in range(TARGET)])
    assert torch.allclose(new[first:], meant, atol=1e-6)
    whole = [j for j in range(TARGET) if (j * WINDOW) % TARGET == 0]
    assert method == "recurrent" or torch.equal(new[first:][whole], own[first:][[j * WINDOW // TARGET for j in whole]])
    live = AutoModelForCausalLM.from_pretrained(out).eval()  # by its own configuration
    found = logits(live, ids(TARGET))
    if kind in TABLES:
        with carrier_method(method, "table").on(model(kind), TARGET):
            pass
        plain = model(kind)
        with carrier_method(method, "table").on(plain, TARGET):
            assert torch.equal(logits(plain, ids(TARGET)), found)
        assert torch.equal(logits(plain, ids(WINDOW)), logits(model(kind), ids(WINDOW)))
    short = logits(live, ids(WINDOW))
    assert torch.equal(short, logits(model(kind), ids(WINDOW))) == (method == "recurrent")
    seen = inspect(str(out))
    assert seen.sound and seen.window == TARGET == done.target and seen.extended_by == method
    assert AutoTokenizer.from_pretrained(out).model_max_length == TARGET
    assert json.loads((out / "ropewalk.json").read_text())["window"] == WINDOW


def test_a_window_that_is_believed_in():
    live = model("gpt2")
    with InterpolatedTable(effective_window=16).on(live, TARGET):
        assert torch.equal(live.transformer.wpe.weight[-1], model("gpt2").transformer.wpe.weight[15])
    with pytest.raises(UserError, match="expected 2 to 32"), InterpolatedTable(effective_window=33).on(live, TARGET):
        pass


@pytest.mark.parametrize("kind", BUFFERED)
def test_masks_of_the_windows_size_are_refused_live(kind):
    with pytest.raises(UserError, match="is made for 32 tokens"), InterpolatedTable().on(model(kind), TARGET):
        pass


@pytest.mark.parametrize("kind", TABLES)
def test_padding_and_a_cache(kind):
    from ropewalk.attention.cache_argument import as_argument, of_output

    live, text, start = model(kind), ids(TARGET - 9), 40
    with InterpolatedTable().on(live, TARGET), torch.no_grad():
        alone = logits(live, text)
        out = live(input_ids=text[:, :start], use_cache=True)
        rest = live(input_ids=text[:, start:], use_cache=True, **as_argument(live, of_output(out))).logits
    assert torch.allclose(torch.cat([out.logits, rest], 1), alone, atol=2e-5 * float(alone.abs().max()))


def test_what_makes_nothing_longer_is_refused(tmp_path):
    place = folder(tmp_path / "own", "gpt2")
    for options, said in [
        ({"to": WINDOW}, "not beyond the window"),
        ({"to": TARGET, "method": "none"}, "For it there are none, pi, grouped, recurrent"),
        ({"to": TARGET, "method": "alibi-pi"}, "carried by: alibi; of this one it is: table"),
        ({"to": TARGET, "method": "yarn"}, "yarn is no method for a model"),
        ({"to": TARGET, "method": "pi(factor=2)"}, "has no option 'factor'"),
    ]:
        with pytest.raises(UserError) as seen:
            extend(str(place), out=str(tmp_path / "out"), **options)
        assert said in f"{seen.value.message} {seen.value.mend}" and not (tmp_path / "out").exists()
    extend(str(place), to=TARGET, out=str(tmp_path / "out"))
    with pytest.raises(UserError, match="was extended already"):
        extend(str(tmp_path / "out"), to=2 * TARGET, out=str(tmp_path / "more"))


def test_weights_in_several_files_are_linked_where_they_stay(tmp_path):
    place = folder(tmp_path / "own", "gpt2")
    (place / "model.safetensors").unlink()
    model("gpt2").save_pretrained(place, max_shard_size="30KB")
    extend(str(place), to=TARGET, method="recurrent", out=str(tmp_path / "out"))
    shards = sorted(place.glob("*.safetensors"))
    same = [one.samefile(tmp_path / "out" / one.name) for one in shards]
    assert len(shards) > 2 and sum(same) == len(shards) - 1
    live = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(live, ids(WINDOW)), logits(model("gpt2"), ids(WINDOW)))


def test_a_folder_is_replaced_only_where_that_is_said(tmp_path):
    place, out = folder(tmp_path / "own", "opt"), str(tmp_path / "out")
    extend(str(place), to=TARGET, out=out)
    before = {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError):
        extend(str(place), to=2 * TARGET, out=out)
    assert {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()} == before
    assert extend(str(place), to=2 * TARGET, out=out, overwrite=True).target == 2 * TARGET
    assert inspect(str(place)).sound and inspect(out).window == 2 * TARGET


def test_numbers_beyond_a_type_are_refused(tmp_path):
    place = folder(tmp_path / "own", "t5")
    live = model("t5")
    with torch.no_grad():
        live.get_encoder().block[0].layer[0].SelfAttention.q.weight[0, 0] = 60000
    live.half().save_pretrained(place)
    with pytest.raises(UserError, match="beyond the largest"):
        extend(str(place), to=TARGET, method="t5-align(tau=0.5)", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_alibi_is_refused_with_the_reason(tmp_path):
    place = folder(tmp_path / "own", "mpt")
    with pytest.raises(UserError, match="no key of a checkpoint says them"):
        extend(str(place), to=TARGET, out=str(tmp_path / "out"))
    with pytest.raises(UserError, match="max_alibi_bias of MPT"):
        extend(str(place), to=TARGET, method="alibi-pi(form=geometric)", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_live_model_is_not_changed_for_good():
    live = model("gpt2")
    with pytest.raises(UserError, match="not into a live model for good"):
        InterpolatedTable().extend(live, TARGET)


def test_the_plain_model_is_as_it_was():
    live, tokens = model("opt"), ids(WINDOW)
    before = logits(live, tokens)
    with PlainCarrier().on(live, WINDOW):
        assert torch.equal(logits(live, tokens), before)
