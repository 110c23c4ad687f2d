"""What an architecture's code does with its rope, read from its source: configurations do not say it."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Layers whose cache stops growing: what they see is bounded, or kept in a state of fixed size.
NEAR = frozenset(
    "sliding_attention chunked_attention window_attention hybrid_sliding reference_sliding_attention".split()
)
STATE = frozenset({"linear_attention", "conv", "mamba", "recurrent", "moe", "mlp"})
UNNAMED = frozenset({"full_attention", "hybrid", "attention"})  # what a layer is whose type says no more
# A condition on the layer's window directly above the rotation: the other layers do not rotate.
ONLY_NEAR = re.compile(
    r"^ +if [^\n]*\bself\.(?:sliding_window|is_sliding|is_local_attention)\b[^\n]*:\n(?: [^\n]*\n)?[^\n]*apply_rotary",
    re.MULTILINE,
)
ROTATION = re.compile(r"apply_\w*rotary|RotaryEmbedding|inv_freq|freqs_cis")
# Where no base means no rotation, in layers of every type.
BASE_OR_NONE = re.compile(r"""rope_parameters\.get\(["']rope_theta["']\) is not None""")
ROPE_KEY = re.compile(r"""rope_\w+(?:\[\w+\])?(?:\.get\(\s*|\[)["'](\w+)["']""")


def source(config: PreTrainedConfig) -> str:
    """The source of the module that holds the model of a configuration; empty if there is none beside it."""
    return _source(type(config).__module__)


@cache
def _source(module: str) -> str:
    package, _, name = module.rpartition(".")
    if not name.startswith("configuration_"):
        return ""
    wanted = f"{package}.modeling_{name.removeprefix('configuration_')}"
    try:
        found = sys.modules.get(wanted)
        file = getattr(found, "__file__", None) or getattr(importlib.util.find_spec(wanted), "origin", None)
        return Path(str(file)).read_text("utf-8") if file else ""
    except (ImportError, OSError, ValueError):
        return ""


def keys_read(config: PreTrainedConfig) -> frozenset[str]:
    """Rope parameters that the model's own code asks for; types' functions read theirs besides."""
    return frozenset(ROPE_KEY.findall(source(config)))


def rotates(text: PreTrainedConfig) -> str:
    """Why no layer of a model rotates; empty if some do."""
    if getattr(text, "alibi", False):
        return "key 'alibi': positions are a bias of the logits"
    kind = getattr(text, "position_embedding_type", None)
    if isinstance(kind, str) and kind not in ("rope", "rotary", "rotary_embedding"):
        return f"position_embedding_type is {kind!r}"
    if getattr(text, "use_mem_rope", None) is False:
        return "use_mem_rope is false"
    code, rope = source(text), getattr(text, "rope_parameters", None)
    if rope and rope.get("rope_theta", 0) is None and BASE_OR_NONE.search(code):
        return "rope_theta is null"
    return "its attention has no rotation" if code and not ROTATION.search(code) else ""


def layers(text: PreTrainedConfig) -> list[str]:
    """The type of every layer, as in ``layer_types``; a window that all layers have makes them sliding."""
    count = int(getattr(text, "num_hidden_layers", None) or 0)
    named = list(getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or [])
    if named:
        return named
    window = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    window = window and (not source(text) or "sliding_window" in source(text))  # a key that the model does not read
    return ["sliding_attention" if window else "full_attention"] * count


def bound(text: PreTrainedConfig, layer: str) -> int | None:
    """Tokens that a layer of this type sees at most; None if that is not bounded."""
    if layer not in NEAR:
        return None
    key = "attention_chunk_size" if layer == "chunked_attention" else "sliding_window"
    size = getattr(of_layer(text, layer), key, None)
    return int(size) if isinstance(size, (int, float)) and size else None


def reach(text: PreTrainedConfig) -> int | None:
    """The largest distance, in tokens, that any rotating layer looks; None if one looks as far as the text goes."""
    kinds = layers(text)
    turns: list[Any] = list(
        getattr(text, "no_rope_layers", None) or []
    )  # 1 where a layer rotates, in spite of its name
    if len(turns) == len(kinds):
        kinds = [kind for kind, turn in zip(kinds, turns, strict=True) if turn]
    bounds = [bound(text, kind) for kind in kinds if kind not in STATE]
    if any(bounds) and ONLY_NEAR.search(source(text)):
        bounds = [size for size in bounds if size]
    found = [size for size in bounds if size]
    return max(found) if found and len(found) == len(bounds) else None


def grown_layers(text: PreTrainedConfig) -> list[int]:
    """Indices of the layers whose cache grows with the text."""
    return [i for i, kind in enumerate(layers(text)) if kind not in STATE and bound(text, kind) is None]


def differs(text: PreTrainedConfig) -> bool:
    """Whether sizes differ by layer, so that a configuration has no answer of its own."""
    return bool(getattr(text, "is_heterogeneous", False))


def of_layer(text: PreTrainedConfig, layer: str | int) -> PreTrainedConfig:
    """The configuration as the layers of one type (or one layer) see it: sizes may differ by layer."""
    if not differs(text):
        return text
    table: Any = text.per_layer_config
    found: PreTrainedConfig = table[layer]
    return found


def latent(text: PreTrainedConfig) -> int:
    """Width of the latent that keys and values come from; 0 where the class has none, whatever keys a file has."""
    return int(getattr(text, "kv_lora_rank", None) or 0) if hasattr(text, "qk_head_dim") else 0


def head_dim(own: PreTrainedConfig) -> int:
    """Dimensions of a head that frequencies are counted in; ``own`` as from ``of_layer``."""
    return int(getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads)
