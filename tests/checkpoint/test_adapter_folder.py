"""What an adapter's folder says, and kinds of adapters that are not read."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch

import ropewalk
from ropewalk import PositionInterpolation, UserError, YaRN
from ropewalk.checkpoint.adapter_folder import CONFIG, KEY, WEIGHTS, AdapterFolder, alike
from ropewalk.rope.config import read
from ropewalk.rope.spec import RopeSpec
from ropewalk.training.adapters import adapt
from tests.models import tiny


@pytest.fixture
def folder(tmp_path):
    model = tiny("llama")
    YaRN().extend(model, to=256)
    return adapt(model, rank=4, also=["norms"], base="owner/name").save(tmp_path / "adapter")


def change(folder, **keys):
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


def test_it_says_what_it_is_and_which_rope_it_belongs_to(folder):
    found = ropewalk.inspect(folder)
    assert found.base == "owner/name" and found.rank == 4 and len(found.factors) == 8 and len(found.replaced) == 5
    assert found.rope["all"].length == 256 and found.extension["method"] == "yarn"
    assert "a LoRA adapter of owner/name: rank 4, alpha 16, on k_proj, o_proj, q_proj, v_proj, and" in repr(found)
    assert "trained under a rope of yarn, base 10,000, 256 tokens (yarn)" in repr(found)
    assert json.loads(found.to_json())["rope"] in repr(found) and found.sound


@pytest.mark.parametrize(("keys", "said"), [
    ({"peft_type": "IA3"}, "'IA3', expected 'LORA'"), ({"use_dora": True}, "use_dora is True"),
    ({"bias": "all"}, "bias is 'all'"), ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"), ({"target_parameters": ["x"]}, "parameters"),
    ({"something_new": 1}, "something_new"), ({"r": "4"}, "r is '4'"), ({"lora_alpha": None}, "lora_alpha is None"),
])  # fmt: skip
def test_other_kinds_of_adapters_are_refused(folder, keys, said):
    change(folder, **keys)
    with pytest.raises(UserError, match=said):
        AdapterFolder.open(folder)


def test_nothing_is_unpickled_and_nothing_incomplete_is_read(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-4])
    with pytest.raises(UserError, match="truncated"):
        AdapterFolder.open(folder)
    (folder / WEIGHTS).write_bytes(whole.replace(b'"rotary_dim\\": 16', b'"rotary_dim\\": 15'))
    with pytest.raises(UserError, match="noted of the rope cannot be read"):
        AdapterFolder.open(folder)
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(UserError, match="pickled"):
        AdapterFolder.open(folder)
    with pytest.raises(UserError, match="holds no adapter"):
        AdapterFolder.open(folder.parent)


def test_the_rope_is_in_the_weights_and_goes_where_they_go(folder, tmp_path):
    (tmp_path / "copy").mkdir()
    for name in (CONFIG, WEIGHTS):
        (tmp_path / "copy" / name).write_bytes((folder / name).read_bytes())
    assert KEY.encode() in (folder / WEIGHTS).read_bytes()[:20000]
    assert AdapterFolder.open(tmp_path / "copy").rope == AdapterFolder.open(folder).rope


def test_ropes_are_alike_if_they_rotate_alike():
    model = tiny("llama")
    plain = read(model.config)
    extended = copy.deepcopy(model)
    PositionInterpolation().extend(extended, to=256)
    assert alike(plain, plain) and not alike(plain, read(extended.config))
    one = plain["all"]
    assert alike(plain, {"all": replace(one, length=4 * one.length)})  # a promise turns nothing
    others: list[RopeSpec] = [
        replace(one, attention_factor=1.1),
        replace(one, style="interleaved"),
        replace(one, base=2e4),
        replace(one, logit_scale=1.5),
        replace(one, long_factors=(2.0,) * len(one.factors)),
        replace(one, rope_type="dynamic"),
        replace(one, beside={"llama_4_scaling_beta": 0.1}),
        RopeSpec.plain(one.base, one.rotary_dim // 2, one.window),
    ]
    assert not any(alike(plain, {"all": other}) for other in others)
    assert not alike(plain, {"full_attention": one})
