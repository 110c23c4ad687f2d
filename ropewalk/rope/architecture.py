"""What an architecture's code does with its rope, read from its source: configurations do not say it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.rope.plain_config import PlainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Layers whose cache stops growing: what they see is bounded, or kept in a state of fixed size.
NEAR = frozenset(
    "sliding_attention chunked_attention window_attention hybrid_sliding reference_sliding_attention".split()
)
STATE = frozenset({"linear_attention", "conv", "mamba", "recurrent", "moe", "mlp"})
UNNAMED = frozenset({"full_attention", "hybrid", "attention"})  # what a layer is whose type says no more
# A condition on the layer's window, above the rotation or where tables are handed on: the others do not rotate.
ONLY_NEAR = re.compile(
    r"^ +if ([^\n]*\bself\.(?:sliding_window|is_sliding|is_local_attention)\b[^\n]*):\n(?: [^\n]*\n)?[^\n]*apply_rotary"
    r"|position_embeddings if \w*layer_type == [\"']sliding_attention[\"'] else None",
    re.MULTILINE,
)
ROTATION = re.compile(r"apply_\w*rotary|RotaryEmbedding|inv_freq|freqs_cis")
# Where no base means no rotation, in layers of every type.
BASE_OR_NONE = re.compile(r"""rope_parameters\.get\(["']rope_theta["']\) is not None""")
# Layers take their base from a list, and only its zeros say which do not rotate.
BASE_BY_LAYER = re.compile(r"for theta in [^\n]*\blayer_rope_theta\b")
# A forward that asks its rope function anew, not the module's buffer: one set of factors at all lengths.
ASKS_ANEW = re.compile(r"def forward\([^\n]*position_ids(?:(?!def )[^\n]*\n)*? +inv_freq, \w+ = self\.rope_init_fn\(")
PARTIAL = re.compile(r"""rope_parameters\[layer_type\]\.get\(["']partial_rotary_factor["'], ([\d.]+)\)""")
# M-RoPE: one run of pairs for each axis; pairs in turn for as long as height and width have any left; or height and
# width in turn, and time behind them (ERNIE).
CHUNKED = re.compile(r"\.split\((?:self\.)?mrope_section\b")
TURNS = re.compile(r"\w+ = slice\(offset, length, 3\)")
TIME_LAST = re.compile(r"freq_h, freq_w, freq_t = \(m\[\(i \+ 1\) % 3\]")
HALVES_APART = re.compile(r"\[section \* 2 for section in self\.mrope_section\]")
SEVERAL = re.compile(r"position_ids = position_ids\.expand\((?:[2-9]|len\()")  # positions per token
SECTION = re.compile(r"""\.get\(["']mrope_section["'], \[([\d, ]+)\]\)""")
ROPE_KEY = re.compile(r"""rope_\w+(?:\[\w+\])?(?:\.get\(\s*|\[)["'](\w+)["']""")


def source(config: PreTrainedConfig) -> str:
    """The source of the module that holds the model of a configuration; empty if there is none."""
    module = config.module if isinstance(config, PlainConfig) else type(config).__module__
    return _source(_beside(module)) or _source(_borrowed(str(config.model_type)))


def _beside(module: str) -> str:
    package, _, name = module.rpartition(".")
    configures = name.startswith("configuration_")
    return f"{package}.modeling_{name.removeprefix('configuration_')}" if configures else ""


def _borrowed(model_type: str) -> str:
    """The module of another model type that one without code of its own runs."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    table: dict[str, str] = transformers._class_to_module  # type: ignore[attr-defined]
    module = table.get(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, ""), "")
    return f"transformers.{module}" if module else ""


@cache
def _source(wanted: str) -> str:
    if not wanted:
        return ""
    top, *inner = wanted.split(".")
    try:
        if file := getattr(sys.modules.get(wanted), "__file__", None):
            return Path(file).read_text("utf-8")
        spec = importlib.util.find_spec(top)  # of a name without dots nothing is imported
        for folder in (spec and spec.submodule_search_locations) or ():
            if (found := Path(folder, *inner).with_suffix(".py")).is_file():
                return found.read_text("utf-8")
    except (ImportError, OSError, ValueError):
        pass
    return ""


def keys_read(config: PreTrainedConfig) -> frozenset[str]:
    """Rope parameters that the model's own code asks for; types' functions read theirs besides."""
    return frozenset(ROPE_KEY.findall(source(config)))


def mrope(text: PreTrainedConfig) -> Literal["chunked", "interleaved", "time last", "halves apart", ""]:
    """How a model lays out the pairs of M-RoPE's axes; empty if its tokens have one position.

    Raises:
        UserError: if they have several, laid out in a way that is not known here.
    """
    code = source(text)
    if CHUNKED.search(code):
        return "chunked"
    if TURNS.search(code):
        return "interleaved"
    if TIME_LAST.search(code):
        return "time last"
    if HALVES_APART.search(code):  # the two dimensions of a pair turn with different axes (HunYuan-VL)
        return "halves apart"
    if SEVERAL.search(code):
        raise UserError(
            f"model_type {text.model_type!r} gives a token several positions, and which of them turns which pair of "
            "dimensions is not known here",
            "Measure the model as it is, with transformers; or report the architecture.",
        )
    return ""


def refuse_own_order(text: PreTrainedConfig) -> None:
    """Refuse a model that no other frequencies can be given to.

    Raises:
        UserError: if its buffer is not in the order of its pairs.
    """
    if mrope(text) == "time last":
        raise UserError(
            f"model_type {text.model_type!r} holds its frequencies in an order of its own, those of height before "
            "those of width, and takes rope_type 'default' alone: no method can be put on it or written for it",
            "ropewalk inspect shows which pairs turn with time, height and width; read it with transformers as it is.",
        )


def mrope_default(text: PreTrainedConfig) -> list[int]:
    """The ``mrope_section`` that the model's own code takes where none is stated; empty if it has none."""
    found = SECTION.search(source(text))
    return [int(size) for size in found[1].split(",")] if found else []


def mrope_axes(layout: str, section: Sequence[int], pairs: int) -> tuple[int, ...]:
    """The axis (0 time, 1 height, 2 width) that turns each of ``pairs`` pairs; empty if the section does not fit."""
    if layout == "chunked":
        runs = [axis for axis, size in enumerate(section) for _ in range(size)]
        return tuple(runs) if len(runs) == pairs and len(section) == 3 else ()
    if layout == "interleaved" and len(section) == 3:
        return tuple(i % 3 if i < 3 * section[i % 3] else 0 for i in range(pairs))
    if layout == "time last" and len(section) == 3 and section[0] == section[1]:  # height, width, time
        return (1, 2) * section[0] + (0,) * section[2] if sum(section) == pairs else ()
    return ()


def rotates(text: PreTrainedConfig) -> str:
    """Why no layer of a model rotates; empty if some do."""
    if getattr(text, "alibi", False):
        return "key 'alibi': positions are a bias of the logits"
    kind = getattr(text, "position_embedding_type", None)
    if isinstance(kind, str) and not kind.startswith(("rope", "rotary")):  # Cohere says rope_gptj
        return f"position_embedding_type is {kind!r}"
    if getattr(text, "use_mem_rope", None) is False:
        return "use_mem_rope is false"
    code, rope = source(text), getattr(text, "rope_parameters", None)
    if rope and rope.get("rope_theta", 0) is None and BASE_OR_NONE.search(code):
        return "rope_theta is null"
    if code and not ROTATION.search(code):
        return "its attention has no rotation"
    return "none of its layers rotates" if layers(text) and not rotating(text) else ""


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


def rotating(text: PreTrainedConfig) -> list[str]:
    """The types of the layers that rotate, one for each."""
    kinds, only = layers(text), ONLY_NEAR.search(source(text))
    turns: list[Any] = list(getattr(text, "no_rope_layers", None) or getattr(text, "layer_rope_theta", None) or [])
    turns = turns if len(turns) == len(kinds) else [True] * len(kinds)  # 0 where a layer does not, whatever its name
    near = [bool(bound(text, kind)) for kind in kinds]
    if only and (any(near) or "is None or" not in (only[1] or "")):  # that form is of hybrids among others
        forced = getattr(text, "prefix_dense_sliding_window_pattern", None) == 1  # Cohere 2 MoE
        dense = [forced and kind == "dense" for kind in getattr(text, "mlp_layer_types", None) or [""] * len(kinds)]
        turns = [turn and (a or b) for turn, a, b in zip(turns, near, dense, strict=False)]
    return [kind for kind, turn in zip(kinds, turns, strict=False) if turn and kind not in STATE]


def reach(text: PreTrainedConfig) -> int | None:
    """The largest distance, in tokens, that any rotating layer looks; None if one looks as far as the text goes."""
    bounds = [bound(text, kind) for kind in rotating(text)]
    found = [size for size in bounds if size]
    return max(found) if found and len(found) == len(bounds) else None


def base(text: PreTrainedConfig, stated: float) -> float:
    """The base that the rotating layers take, where the rope parameters state ``stated``.

    Raises:
        UserError: if layers take another, or several: rope parameters say one base.
    """
    listed = getattr(text, "layer_rope_theta", None)
    if not listed or not BASE_BY_LAYER.search(source(text)):
        return stated
    taken = sorted({float(theta) for theta in listed if theta})
    if len(taken) > 1:
        raise UserError(
            f"key 'layer_rope_theta' gives layers of this {text.model_type} the bases "
            f"{', '.join(f'{theta:g}' for theta in taken)}: one rope_theta cannot say them",
            "Measure the model as it is; what ropewalk extends has one base in all layers.",
        )
    if taken and taken[0] != stated:
        name, key = getattr(text, "name_or_path", ""), "rope_parameters.rope_theta"
        raise UserError(
            f"rope_theta is {stated:g}, which no layer of this {text.model_type} takes: key 'layer_rope_theta' gives "
            f"them {taken[0]:g}",
            f"{setting(name, {key: taken[0]})}   (changes no layer)"
            if name
            else f"Set {key} to {taken[0]!r}, which changes no layer.",
        )
    return stated


def listed_bases(text: PreTrainedConfig, base: float) -> dict[str, list[float]]:
    """The key that gives layers their ``base``, where there is one; 0 stays where a layer does not rotate."""
    listed: list[float] = getattr(text, "layer_rope_theta", None) or []
    return {"layer_rope_theta": [base if theta else 0 for theta in listed]} if listed else {}


def asks_anew(text: PreTrainedConfig) -> bool:
    """Whether a forward computes its frequencies itself, by the same factors at all lengths."""
    return bool(ASKS_ANEW.search(source(text)))


def partial_default(text: PreTrainedConfig) -> float:
    """The share of a head that rotates where the rope parameters do not say it, in the model's own function."""
    found = PARTIAL.search(source(text))
    return float(found[1]) if found else 1.0


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
