"""What inspect says of models without a rope, and which of their files contradict each other."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from ropewalk import inspect
from ropewalk.carriers.carrier import FAMILIES
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.errors import UserError
from tests.carriers.ropeless import ALIBI, BUFFERED, KINDS, STATES, T5, TABLES, TWO_TABLES, WINDOW, folder, ids, model

CARRIER = {**dict.fromkeys(ALIBI, "alibi"), **dict.fromkeys((*TABLES, *BUFFERED), "table"),
           **dict.fromkeys(T5, "buckets"), **dict.fromkeys(TWO_TABLES, "two tables"),
           **dict.fromkeys(STATES, "state")}  # fmt: skip


def change(place, **keys):
    file = place / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_said(tmp_path, kind):
    seen = inspect(str(folder(tmp_path, kind)))
    assert seen.sound and seen.carrier.kind == CARRIER[kind]
    assert seen.window == (None if kind in STATES else WINDOW)
    heads = 1 if kind in ("falcon", "gpt_bigcode") else 6 if "-6" in kind else 4
    assert seen.kv_bytes_per_token == (0 if kind in STATES else 2 * 2 * heads * 8 * 4)
    json.dumps(seen.to_dict())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in STATES])
def test_the_cache_is_what_the_model_caches(kind):
    from ropewalk.attention.cache_argument import of_output
    from ropewalk.carriers.carrier import carrier_of

    live, n = model(kind), 10
    given = {"decoder_input_ids": ids(n)} if kind in (*T5, *TWO_TABLES) else {}
    cache = of_output(live(input_ids=ids(n), use_cache=True, **given))
    cache = getattr(cache, "self_attention_cache", cache)
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert held == n * carrier_of(live.config).cache


@pytest.mark.parametrize("kind", TABLES)
def test_rows_and_configuration_agree_or_the_model_is_refused(tmp_path, kind):
    place = folder(tmp_path / "model", kind)
    key = FAMILIES[kind].key
    change(place, **{key: 2 * WINDOW})
    seen = inspect(str(place))
    assert [(one.code, one.key, one.seen) for one in seen.problems] == [("rows-contradict", key, 2 * WINDOW)]
    with pytest.raises(UserError, match="rows-contradict"):
        Checkpoint.open(place)
    assert inspect(str(place), set=(f"{key}={WINDOW}",)).sound
    Checkpoint.open(place).load()


def test_buckets_and_configuration_agree(tmp_path):
    place = folder(tmp_path, "t5")
    change(place, relative_attention_num_buckets=16)
    assert [one.code for one in inspect(str(place)).problems] == ["rows-contradict"]


@pytest.mark.parametrize(("key", "value"), [("alibi_bias_max", 16), ("alibi", False)])
def test_slopes_that_no_code_has_are_a_problem(tmp_path, key, value):
    place = folder(tmp_path, "mpt")
    own = json.loads((place / "config.json").read_text())["attn_config"]
    change(place, attn_config=own | {key: value})
    assert [(one.code, one.key) for one in inspect(str(place)).problems] == [("alibi-unread", f"attn_config.{key}")]


def test_a_window_that_is_none_is_refused(tmp_path):
    place = folder(tmp_path, "bloom")
    change(place, seq_length="many")
    with pytest.raises(UserError, match="seq_length"):
        inspect(str(place))


def test_a_falcon_with_a_rope_is_none_of_these(tmp_path):
    place = folder(tmp_path, "falcon", alibi=False)
    assert Checkpoint(str(place)).carrier is None and inspect(str(place)).specs


def test_weights_in_several_files_are_read(tmp_path):
    place = folder(tmp_path, "gpt2")
    weights = load_file(place / "model.safetensors")
    short = {name: one[:-1].clone() if name.endswith("wpe.weight") else one for name, one in weights.items()}
    save_file(short, place / "model.safetensors", {"format": "pt"})
    assert [one.expected[:2] for one in inspect(str(place)).problems] == ["31"]
