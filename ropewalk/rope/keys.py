"""What the keys of a configuration can hold at all, whatever the architecture: right types, and sizes within reason.

transformers checks few types and no sizes: a billion layers become a list of a billion names, half a head no pair that
rotates. Everybody who reads a configuration passes this gate first.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import MOST, said
from ropewalk.common.outside import RESTORE, read_bytes, read_json

LAYERS, HEADS, WIDTH, EXPERTS = 1 << 12, 1 << 14, 1 << 24, 1 << 16
LARGEST_BASE, LARGEST_FACTOR = 1e18, 1e6  # published: 1e11 and 128
WHOLE = {  # key -> least and most
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers".split(), (1, LAYERS)),
    **dict.fromkeys("num_attention_heads num_key_value_heads n_head n_heads".split(), (1, HEADS)),
    **dict.fromkeys("head_dim global_head_dim rotary_dim qk_rope_head_dim".split(), (2, HEADS)),
    **dict.fromkeys("qk_nope_head_dim qk_head_dim v_head_dim".split(), (0, HEADS)),
    **dict.fromkeys("hidden_size n_embd vocab_size".split(), (1, WIDTH)),
    **dict.fromkeys("intermediate_size moe_intermediate_size kv_lora_rank q_lora_rank".split(), (0, WIDTH)),
    **dict.fromkeys(
        "num_experts num_local_experts n_routed_experts n_shared_experts num_experts_per_tok".split(), (0, EXPERTS)
    ),
    **dict.fromkeys("max_position_embeddings original_max_position_embeddings".split(), (1, MOST)),
    **dict.fromkeys("sliding_window attention_chunk_size".split(), (0, MOST)),
}
OF_LAYERS = ("heads", "head", "head_dim", "intermediate_size", "experts")  # ends of keys that may hold one per layer
OF_ALL = frozenset({"qk_head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"})  # one for all layers
OBJECTS = frozenset({"text_config", "rope_parameters", "rope_scaling"})
NAMES = frozenset({"architectures", "layer_types"})  # lists of names
EXPERTS_OF = ("num_experts", "num_local_experts", "n_routed_experts")
SWITCHES = frozenset({"truncate", "finetuned", "mrope_interleaved"})  # in a rope dict
NUMBERS = frozenset(  # in a rope dict; of the others ``rope.problems`` says what they can be
    "mscale mscale_all_dim short_mscale long_mscale attn_factor alpha extrapolation_factor max_trained_positions "
    "llama_4_scaling_beta".split()
)
SINGLE = NUMBERS | frozenset(
    "rope_theta factor original_max_position_embeddings attention_factor beta_fast beta_slow low_freq_factor "
    "high_freq_factor partial_rotary_factor".split()
)
COMMON = frozenset({"float32", "bfloat16", "float16"})  # types of weights
SHARES = frozenset(
    "attention_dropout attn_dropout hidden_dropout hidden_dropout_prob attention_probs_dropout_prob attn_pdrop "
    "resid_pdrop embd_pdrop resid_dropout embedding_dropout activation_dropout dropout classifier_dropout".split()
)
OF_GENERATION = dict.fromkeys("do_sample use_cache".split(), bool) | dict.fromkeys(
    "temperature top_p top_k min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty length_penalty "
    "no_repeat_ngram_size num_beams num_return_sequences".split(),
    float,
)
TOKENIZER, TOKENS = "tokenizer.json", "added_tokens.json"
TOKEN_LISTS = frozenset({"additional_special_tokens", "extra_special_tokens", "model_input_names"})
SIDES = frozenset({"padding_side", "truncation_side"})
FEW = 64  # bytes
MODEL = re.compile(rb'"model"\s*:\s*\{')
LIMITS = frozenset({"model_max_length", "max_length", "max_new_tokens"})  # in tokens
BESIDE = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json", TOKENS)  # read too


def read_config(file: Path) -> dict[str, Any]:
    """A config.json whose keys hold what they can hold.

    Raises:
        UserError: as ``read_json``, or naming the key, the value seen and what is expected.
    """
    content = read_json(file)
    refuse_impossible(content, file)
    return content


def read_beside(file: Path) -> dict[str, Any]:
    """A file of ``BESIDE`` whose keys hold what they can hold; empty if it is not there.

    Raises:
        UserError: as ``read_json``, or naming the key, the value seen, what is expected and the mend.
    """
    if not os.path.lexists(file):
        return {}
    content = read_json(file)
    found = list(impossible_beside(file.name, content))
    if found:
        seen = "; ".join(f"{key} is {said(value)}, expected {expected}" for key, value, expected in found)
        raise UserError(f"{file}: {seen}", _mend(file, [key for key, *_ in found]))
    return content


def _mend(file: Path, keys: list[str]) -> str:
    """One line for all faults of a file, if taking keys away mends them."""
    if file.name in (TOKENS, TOKENIZER) or any("." in key or "=" in key or ":" in key for key in keys):
        return RESTORE
    return setting(file.parent, {f"{file.name}:{key}": None for key in keys}) + "   (the default then counts)"


def refuse_beside(folder: Path) -> None:
    """Refuse what cannot be right in a file beside a config.json, whichever verb asks.

    Raises:
        UserError: as ``read_beside``.
    """
    for name in BESIDE:
        read_beside(folder / name)
    file = folder / TOKENIZER
    if os.path.lexists(file) and (content := read_bytes(file))[:FEW].lstrip()[:1] != b"{":
        raise UserError(f"{file} is not valid JSON, expected an object with the key 'model'", RESTORE)
    elif os.path.lexists(file) and not MODEL.search(content):
        raise UserError(f"{file}: model is no object, expected an object", RESTORE)


def impossible_beside(name: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Key, value seen and what is expected, in the content of a file of ``BESIDE``."""
    for key, value in content.items():
        if name == TOKENS:
            if not (type(value) is int and 0 <= value < WIDTH):
                yield key, value, "the number of a token"
            continue
        if name == "special_tokens_map.json":
            if expected := _expected_of_tokenizer(key, value) if value is not None else "":
                yield key, value, expected
            continue
        if value is None:
            continue
        if name == "tokenizer_config.json" and (expected := _expected_of_tokenizer(key, value)):
            yield key, value, expected
        elif key in LIMITS and not (_number(value) and math.isfinite(value) and value >= 1 and value == int(value)):
            yield key, value, "a number of tokens above 0"
        elif name == "tokenizer_config.json":
            continue
        elif key.endswith("_token_id"):  # -1: none
            ids = value if isinstance(value, list) and value else [value]
            if not all(type(one) is int and -1 <= one < WIDTH for one in ids):
                yield key, value, "the number of a token, or a list of such"
        elif not _finite(value):
            yield key, value, "finite numbers"
        elif (kind := OF_GENERATION.get(key)) and not (isinstance(value, bool) if kind is bool else _number(value)):
            yield key, value, "true or false" if kind is bool else "a number"


def _expected_of_tokenizer(key: str, value: Any) -> str:
    """What a key of a tokenizer must hold; empty if it does."""
    one = key.endswith("_token") and not key.startswith(("add_", "use_", "split_"))
    if one and not (isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))):
        return "a token: a text, or an object with its content"
    if key == "tokenizer_class" and not isinstance(value, str):
        return "the name of a class"
    if key == "chat_template" and not isinstance(value, str):
        listed = isinstance(value, list) and all(
            isinstance(one, dict) and {"name", "template"} <= one.keys() for one in value
        )
        named = isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        return "" if listed or named else "a text, or several with their names"
    if key == "added_tokens_decoder" and not (
        isinstance(value, dict) and all(index.isdigit() and isinstance(one, dict) for index, one in value.items())
    ):
        return "an object: number of a token -> what it is"
    if key in TOKEN_LISTS and not isinstance(value, (list, dict) if key == "extra_special_tokens" else list):
        return "a list"
    if key in SIDES and value not in ("left", "right"):
        return "left or right"
    return ""


def _finite(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def refuse_impossible(config: Mapping[str, Any], file: Path) -> None:
    """Refuse a configuration with a value that is right for no architecture.

    Raises:
        UserError: naming the key, the value seen and what is expected.
    """
    for key, seen, expected in impossible(config):
        raise UserError(f"{file}: {key} is {said(seen)}, expected {expected}", RESTORE)


def impossible(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Key, value seen and what is expected, of a configuration and of the language model's part in it."""
    for key, value in config.items():
        if value is None:
            continue
        least, most = WHOLE.get(key, (0, 0))
        if key == "num_experts_per_tok" and any(config.get(name) for name in EXPERTS_OF):
            least = 1
        if most:
            listed = isinstance(value, (list, dict)) and bool(value) and key.endswith(OF_LAYERS) and key not in OF_ALL
            several = (value.values() if isinstance(value, dict) else value) if listed else [value]
            if not all(one is None or _whole(one, least, most) for one in several):
                yield prefix + key, value, f"a whole number from {least} to {most:,}"
        elif key in OBJECTS and not isinstance(value, dict):
            yield prefix + key, value, "an object"
        elif key in NAMES and not (isinstance(value, list) and value and all(isinstance(one, str) for one in value)):
            yield prefix + key, value, "a list of names"
        elif key == "model_type" and not isinstance(value, str):
            yield prefix + key, value, "a name"
        elif key in ("dtype", "torch_dtype") and not all(
            map(_names_a_type, value.values() if isinstance(value, dict) else [value])
        ):
            yield prefix + key, value, "the name of a type of numbers"
        elif key in SHARES and not (value is False or (_number(value) and 0 <= value <= 1)):
            yield prefix + key, value, "a share from 0 to 1"
        elif key.endswith(("_eps", "_epsilon")) and not (_number(value) and 0 <= value < 1):
            yield prefix + key, value, "a number from 0 to below 1"
        elif key == "text_config":
            yield from impossible(value, f"{prefix}{key}.")
        else:
            if key in OBJECTS:
                yield from _impossible_rope(value, f"{prefix}{key}.")
            yield from ((prefix + path, one, "a number of at most 64 bits") for path, one in _vast(key, value))


def _names_a_type(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    if (name := value.removeprefix("torch.")) in COMMON or value in ("", "auto"):
        return True
    import torch  # knows them all, and takes a second to load

    return isinstance(getattr(torch, name, None), torch.dtype)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any, least: int, most: int) -> bool:
    return _number(value) and least <= value <= most and value == int(value)


def _impossible_rope(rope: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, str]]:
    """The same of a rope dict, for one type of layers or all."""
    for key, value in rope.items():
        if key in SINGLE and isinstance(value, (list, dict)):
            yield prefix + key, value, "a number"
        elif key.endswith("_attention") and value is not None and not isinstance(value, dict):
            yield prefix + key, value, "an object"
        elif isinstance(value, dict):
            yield from _impossible_rope(value, f"{prefix}{key}.")
        elif key in SWITCHES and value is not None and not isinstance(value, bool):
            yield prefix + key, value, "true or false"
        elif key == "mrope_section" and value is not None and not _sizes(value):
            yield prefix + key, value, "a list of whole numbers"
        elif key in NUMBERS and value is not None and not (_number(value) and math.isfinite(value)):
            yield prefix + key, value, "a number"


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one <= HEADS for one in value)


def _vast(path: str, value: Any) -> Iterator[tuple[str, int]]:
    """Whole numbers that no engine can hold."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        yield path, value
    elif isinstance(value, (list, dict)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _vast(f"{path}.{key}", one)
