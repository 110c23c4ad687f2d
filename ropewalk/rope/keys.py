"""What the keys of a configuration can hold at all, whatever the architecture: right types, and sizes within reason.

transformers checks few types and no sizes: a billion layers become a list of a billion names, half a head no pair that
rotates. Everybody who reads a configuration passes this gate first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.common.lengths import MOST, said
from ropewalk.common.outside import RESTORE, read_json

LAYERS, HEADS, WIDTH, EXPERTS = 1 << 12, 1 << 14, 1 << 24, 1 << 16
LARGEST_BASE, LARGEST_FACTOR = 1e18, 1e6  # published: 1e11 and 128
WHOLE = {  # key -> least and most
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers".split(), (1, LAYERS)),
    **dict.fromkeys("num_attention_heads num_key_value_heads n_head n_heads".split(), (1, HEADS)),
    **dict.fromkeys("head_dim global_head_dim rotary_dim".split(), (2, HEADS)),
    **dict.fromkeys("qk_rope_head_dim qk_nope_head_dim qk_head_dim v_head_dim".split(), (0, HEADS)),
    **dict.fromkeys("hidden_size n_embd vocab_size".split(), (1, WIDTH)),
    **dict.fromkeys("intermediate_size moe_intermediate_size kv_lora_rank q_lora_rank".split(), (0, WIDTH)),
    **dict.fromkeys(
        "num_experts num_local_experts n_routed_experts n_shared_experts num_experts_per_tok".split(), (0, EXPERTS)
    ),
    **dict.fromkeys("max_position_embeddings original_max_position_embeddings".split(), (1, MOST)),
    **dict.fromkeys("sliding_window attention_chunk_size".split(), (0, MOST)),
}
OF_LAYERS = ("heads", "head", "head_dim", "intermediate_size", "experts")  # ends of keys that may hold one per layer
OBJECTS = frozenset({"text_config", "rope_parameters", "rope_scaling"})
NAMES = frozenset({"architectures", "layer_types"})  # lists of names


def read_config(file: Path) -> dict[str, Any]:
    """A config.json whose keys hold what they can hold.

    Raises:
        UserError: as ``read_json``, or naming the key, the value seen and what is expected.
    """
    content = read_json(file)
    refuse_impossible(content, file)
    return content


def refuse_impossible(config: Mapping[str, Any], file: Path) -> None:
    """Refuse a configuration with a value that is right for no architecture.

    Raises:
        UserError: naming the key, the value seen and what is expected.
    """
    for key, seen, expected in _impossible(config):
        raise UserError(f"{file}: {key} is {said(seen)}, expected {expected}", RESTORE)


def _impossible(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Key, value seen and what is expected, of the language model's part too."""
    for key, value in config.items():
        if value is None:
            continue
        least, most = WHOLE.get(key, (0, 0))
        if most and not (isinstance(value, (list, dict)) and key.endswith(OF_LAYERS)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not least <= value <= most or value != int(value):
                yield prefix + key, value, f"a whole number from {least} to {most:,}"
        elif key in OBJECTS and not isinstance(value, dict):
            yield prefix + key, value, "an object"
        elif key in NAMES and not (isinstance(value, list) and value and all(isinstance(one, str) for one in value)):
            yield prefix + key, value, "a list of names"
        elif key == "model_type" and not isinstance(value, str):
            yield prefix + key, value, "a name"
        elif key == "text_config":
            yield from _impossible(value, f"{prefix}{key}.")
        else:
            yield from ((prefix + path, one, "a number of at most 64 bits") for path, one in _vast(key, value))


def _vast(path: str, value: Any) -> Iterator[tuple[str, int]]:
    """Whole numbers that no engine can hold."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        yield path, value
    elif isinstance(value, (list, dict)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _vast(f"{path}.{key}", one)
