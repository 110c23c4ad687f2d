"""Configurations that say everything themselves, read as JSON: a look at a rope need not wait for torch.

What transformers makes of a file with no key missing, none unknown and nothing scaled is what stands in it. Of all
others transformers is asked: classes fill gaps, rename keys and refuse values, each in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ropewalk.rope.keys import COMMON, LARGEST_BASE

COUNT, SWITCH, REAL, NAME, LIST = (int,), (bool,), (float, int), (str,), (list,)
NEEDED: dict[str, tuple[type, ...]] = {
    **dict.fromkeys("hidden_size intermediate_size max_position_embeddings vocab_size".split(), COUNT),
    **dict.fromkeys("num_attention_heads num_hidden_layers num_key_value_heads".split(), COUNT),
    "architectures": LIST, "hidden_act": NAME, "model_type": NAME, "rms_norm_eps": (float,),
}  # fmt: skip
WELCOME: dict[str, tuple[type, ...]] = {  # what decides nothing here
    **dict.fromkeys("attention_bias mlp_bias tie_word_embeddings use_cache".split(), SWITCH),
    **dict.fromkeys("bos_token_id pad_token_id".split(), (int, type(None))),
    **dict.fromkeys("dtype torch_dtype transformers_version".split(), NAME),
    "_name_or_path": NAME, "eos_token_id": (int, list, type(None)), "attention_dropout": REAL,
    "initializer_range": (float,), "pretraining_tp": COUNT,
    "rope_theta": REAL, "rope_parameters": (dict,), "rope_scaling": (dict, type(None)), "head_dim": COUNT,
}  # fmt: skip
# Families without another rope than that of all layers -> what else they must say: no window that slides.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False},
}
UNREAD: dict[str, tuple[type, ...]] = {"sliding_window": (int, type(None)), "max_window_layers": COUNT}  # of Qwen


class PlainConfig(SimpleNamespace):
    """A configuration with the names of transformers, for those who read ropes and sizes in it."""

    def get_text_config(self, decoder: bool = True) -> PlainConfig:
        return self

    @property
    def module(self) -> str:
        """The module that holds its class."""
        return f"transformers.models.{self.model_type}.configuration_{self.model_type}"


def read(raw: Mapping[str, Any]) -> PlainConfig | None:
    """The configuration that a raw config.json states; None where only transformers knows what it means."""
    kind = raw.get("model_type")
    said = FAMILIES.get(kind) if isinstance(kind, str) else None
    if said is None or any(key not in raw or raw[key] != value for key, value in said.items()):
        return None
    known = {**NEEDED, **WELCOME, **{key: (type(value),) for key, value in said.items()}}
    if "use_sliding_window" in said:
        known |= UNREAD | {"layer_types": LIST}
    if raw.keys() - known.keys() or any(type(raw[key]) not in types for key, types in known.items() if key in raw):
        return None
    if NEEDED.keys() - raw.keys() or not _consistent(raw):
        return None
    rope, layers = _rope(raw), int(raw["num_hidden_layers"])
    kinds = ["full_attention"] * layers
    if rope is None or raw.get("layer_types", kinds) != kinds:
        return None
    head_dim = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    dtype = raw.get("dtype") or raw.get("torch_dtype")
    content = {key: value for key, value in raw.items() if key not in ("rope_theta", "rope_scaling", *UNREAD)}
    if "use_sliding_window" in said:
        content["layer_types"] = kinds
    return PlainConfig(**content | {"rope_parameters": rope, "head_dim": head_dim, "dtype": dtype})


def _consistent(raw: Mapping[str, Any]) -> bool:
    """Whether sizes fit each other, as the classes demand, and nothing is said twice."""
    hidden, heads, groups = (raw[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    names, ends = raw["architectures"], raw.get("eos_token_id")
    single = (raw.get("bos_token_id"), raw.get("pad_token_id"), None if isinstance(ends, list) else ends)
    ids = [*(one for one in single if one is not None), *(ends if isinstance(ends, list) else [])]
    return (
        all(raw[key] > 0 for key, types in NEEDED.items() if types is COUNT)
        and 0 <= (raw.get("initializer_range") or 0) <= 1
        and hidden % heads == 0
        and heads % groups == 0
        and (raw.get("head_dim") or hidden // heads) % 2 == 0  # dimensions rotate in pairs
        and ("head_dim" in raw or raw["model_type"] != "qwen3")  # its class has a size of its own
        and raw["hidden_act"] == "silu"
        and len(names) == 1
        and str(names[0]).endswith("ForCausalLM")
        and not {"dtype", "torch_dtype"} <= raw.keys()
        and {raw[key] for key in ("dtype", "torch_dtype") if key in raw} <= COMMON
        and all(type(one) is int and 0 <= one < raw["vocab_size"] for one in ids)
    )


def _rope(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rope parameters of all layers, if they are plain and said once."""
    new, old, base = raw.get("rope_parameters"), raw.get("rope_scaling"), raw.get("rope_theta")
    if new is None:
        new = {} if base is None or old is not None else {"rope_theta": base, "rope_type": "default"}
    elif base is not None or old is not None:
        return None
    theta: Any = new.get("rope_theta")
    plain = new.keys() == {"rope_theta", "rope_type"} and new["rope_type"] == "default"
    return dict(new) if plain and type(theta) in REAL and 1 < theta <= LARGEST_BASE else None
