"""Keys that look like one that decides: each is a problem whose mend mends; what other people write is none."""

from __future__ import annotations

import json
import shlex

import pytest
from transformers import AutoConfig

from ropewalk.checkpoint.checkpoint import Checkpoint, defaults
from ropewalk.cli.main import run
from ropewalk.rope import problems
from tests import cases
from tests.architectures import ARCHITECTURES
from tests.models import COMMON

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
OLD = {"rope_theta": 1e4}
NEW = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
MISSPELT = {
    "rope_scalling": YARN, "ropescaling": YARN, "rope_parameter": YARN, "rope_params": YARN, "rope_scale": 4.0,
    "rope_scaling_factor": 4.0, "rope_freq_base": 1e6, "rope_base": 1e6, "rope_thetha": 1e6,
    "max_position_embedding": 4096, "max_positions": 4096, "context_window": 4096, "max_seq_len": 4096,
    "head_dims": 32, "dim_head": 32,
}  # fmt: skip
TARGETS = {"rope_b": "rope_theta", "rope_f": "rope_theta", "rope_t": "rope_theta", "rope": "rope_", "head": "head_dim",
           "dim": "head_dim", "": "max_position_embeddings"}  # fmt: skip


def misspelt(raw):
    return [one for one in problems.find(raw, "M", defaults(raw)) if one.code == "key-misspelt"]


@pytest.mark.parametrize("base", [OLD, NEW], ids=["old spelling", "new spelling"])
@pytest.mark.parametrize("key", MISSPELT)
def test_a_key_that_nobody_reads_is_named_and_its_mend_mends(key, base, tmp_path):
    target = next(name for start, name in TARGETS.items() if key.startswith(start))
    raw = cases.llama(4096, **base) | {key: MISSPELT[key]}
    if target == "rope_theta":
        raw = cases.llama(4096, **{key: MISSPELT[key]})
    elif target == "max_position_embeddings":
        del raw[target]
    (one,) = misspelt(raw)
    assert one.key == key and one.expected.startswith(target) and one.seen == MISSPELT[key]
    assert one.code in problems.BLOCKING
    if "ropewalk" not in one.mend:
        assert not isinstance(MISSPELT[key], dict) and target == "rope_"
        return
    folder = cases.write(tmp_path, raw)
    (one,) = [one for one in Checkpoint(folder).problems if one.key == key]
    run(shlex.split(one.mend)[1:])
    now = json.loads((tmp_path / "config.json").read_text())
    assert key not in now and not misspelt(now)
    said = {**now, **(now.get("rope_scaling") or {}), **(now.get("rope_parameters") or {})}
    wanted = MISSPELT[key] if isinstance(MISSPELT[key], dict) else {target: MISSPELT[key]}
    assert {name: said[name] for name in wanted} == wanted and said.get("rope_theta")


def test_a_key_that_only_the_code_of_its_class_speaks_of_is_read():
    raw = {"model_type": "gpt_neox", **cases.llama(2048), "rotary_pct": 0.25, "rotary_emb_base": 50000}
    assert not misspelt({**raw, "model_type": "gpt_neox"})


@pytest.mark.parametrize("name", cases.SOUND)
def test_no_false_alarm_over_configurations_in_the_wild(name):
    more = {"use_scaled_rope": True, "rope_ratio": 1, "layer_norm_scale": 2.0, "base_model": "x", "window_layers": 3,
            "position_embedding_type": "rope", "rope_interleaved": False, "pad_head_dim": None}  # fmt: skip
    assert not misspelt(cases.SOUND[name] | more)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_false_alarm_over_architectures(name):
    without, more = ARCHITECTURES[name]
    kind = more.get("model_type", name.partition(" ")[0])
    keys = {key: value for key, value in COMMON.items() if key not in without} | more
    keys.pop("model_type", None)
    config = AutoConfig.for_model(kind, **keys)
    for raw in (json.loads(config.to_json_string(use_diff=False)), {"model_type": kind, **keys}):
        assert not misspelt(raw)
