"""What a configuration states by itself, against transformers: alike, or transformers is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.inspection import inspect
from ropewalk.common.errors import UserError
from ropewalk.rope import plain_config
from ropewalk.rope.plain_config import FAMILIES, NEEDED, UNREAD, WELCOME

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
         "num_hidden_layers": 3, "vocab_size": 128, "max_position_embeddings": 512, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip
STRANGE: list[Any] = [
    None,
    0,
    1,
    3,
    -1,
    0.5,
    2.0,
    True,
    False,
    "",
    "float16",
    "gelu",
    [],
    [1],
    [2, None],
    {},
    1e30,
    "x",
]
ROPES: list[Any] = [
    {"rope_type": "default", "rope_theta": 10000.0}, {"rope_type": "default", "rope_theta": 10000},
    {"rope_type": "default"}, {"rope_theta": 10000.0}, {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    {"rope_type": "default", "rope_theta": 10000.0, "factor": 2.0}, {"rope_type": "default", "rope_theta": 0.5},
    {"type": "default", "rope_theta": 10000.0}, {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
]  # fmt: skip


def saved(family: str) -> dict[str, Any]:
    """A config.json as transformers 5 writes it."""
    content = json.loads(AutoConfig.for_model(family, **SIZES, **FAMILIES[family]).to_json_string())
    return {**content, "architectures": [f"{family.title()}ForCausalLM"], "dtype": "bfloat16"}


def older(family: str) -> dict[str, Any]:
    """The same as transformers 4 wrote it."""
    content = saved(family)
    theta = content.pop("rope_parameters")["rope_theta"]
    return content | {"rope_theta": theta, "rope_scaling": None, "torch_dtype": content.pop("dtype")}


def seen(content: dict[str, Any], folder: Path, alone: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What ``inspect`` says of a configuration, by itself or by transformers; an error's words, if it refuses."""
    (folder / "config.json").write_text(json.dumps(content))
    with monkeypatch.context() as patch:
        if not alone:
            patch.setattr(Checkpoint, "plain", None)
        try:
            return json.loads(inspect(str(folder)).to_json())
        except UserError as error:
            return str(error)


def perturbed(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The same with one key gone, or with another value in it, or with a further key."""
    without = [{k: v for k, v in content.items() if k != key} for key in content]
    keys = [*NEEDED, *WELCOME, *UNREAD, "use_sliding_window", "layer_types", "rope_base", "partial_rotary_factor"]
    others = [{**content, key: value} for key in keys for value in STRANGE]
    ropes = [{**content, key: rope} for key in ("rope_parameters", "rope_scaling") for rope in ROPES]
    return [*without, *others, *ropes]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", [saved, older])
def test_says_what_transformers_says_of_the_file_and_of_every_file_near_it(family, form, tmp_path, monkeypatch) -> None:
    content, alike = form(family), 0
    assert plain_config.read(content) is not None
    for near in [content, *perturbed(content)]:
        if plain_config.read(near) is None:
            continue
        alone = seen(near, tmp_path, True, monkeypatch)
        asked = seen(near, tmp_path, False, monkeypatch)
        difference = {key: (near.get(key), content.get(key)) for key in near if near.get(key) != content.get(key)}
        assert alone == asked, f"changed: {difference}"
        alike += 1
    assert alike > 20  # most changes that mean nothing here


@pytest.mark.parametrize("kind", ["gemma2", "phi3", "gpt_neox", "mixtral", "smollm3", "no-such-type"])
def test_asks_transformers_of_other_families(kind: str) -> None:
    assert plain_config.read({**saved("llama"), "model_type": kind}) is None


def test_inspect_loads_neither_torch_nor_transformers() -> None:
    code = ("import sys, ropewalk; ropewalk.inspect('demo'); "
            "print({'torch', 'transformers', 'numpy'} & set(sys.modules))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("change", [{"head_dim": 5}, {"hidden_size": 60}])
def test_dimensions_rotate_in_pairs(change):
    content = older("llama") | {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
    content.pop("head_dim", None)
    assert plain_config.read(content) is not None and plain_config.read(content | change) is None
