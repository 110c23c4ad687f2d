"""Folding an attention factor into the weights, for engines that have no key for it.

cos and sin times t make rotary logits t^2 as large; so do query rows times t^2. Only the rotated rows of each query
head change: the rest of a partly rotated head never saw t. Where queries are normalised before they rotate, a factor in
front of the norm would be lost, so the norm's own weight takes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import ALL

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Queries are normalised without a weight, their projection is compressed, or some layers do not rotate.
UNFOLDABLE = frozenset(
    "afmoe cohere2 cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 exaone4 exaone_moe llama4 llama4_text "
    "longcat_flash minicpm3 nanochat smollm3".split()
)
ONE_PLUS = frozenset("gemma3 gemma3_text gemma3n gemma3n_text".split())  # these norms multiply by 1 + weight
PARAMETER = re.compile(r"layers\.(\d+)\.(?:self_attn|attention|attn)\.(\w+)\.(weight|bias)$")
OTHER_TOWERS = re.compile(r"vision|visual|audio")


@dataclass(frozen=True)
class Heads:
    """Where the rotated query rows lie.

    Attributes:
        heads: query heads.
        head_dim: rows per head.
        rotary_dim: rotated rows at the start of each head.
        factors: layer -> what its rotary logits are multiplied by (t^2); layers with 1 are left out.
    """

    heads: int
    head_dim: int
    rotary_dim: int
    factors: Mapping[int, float]

    def scaled(self, rows: Tensor, factor: float) -> Tensor:
        """Query rows [heads * head_dim, ...] with the rotated ones times ``factor``, computed in float64."""
        grouped = rows.double().reshape(self.heads, self.head_dim, -1).clone()
        grouped[:, : self.rotary_dim] *= factor
        return grouped.reshape(rows.shape).to(rows.dtype)


def heads_of(config: PreTrainedConfig, factors: Mapping[str, float]) -> Heads:
    """Geometry and factors of a model; ``factors``: layer type -> t.

    Raises:
        UserError: if this model type has no place for a folded factor.
    """
    text = rope_config.text_config(config)
    if text.model_type in UNFOLDABLE:
        raise UserError(
            f"an attention factor cannot be folded into {text.model_type}: its queries pass a norm without weights or "
            "a compressed projection, or some of its layers do not rotate",
            "Serve it with an engine that reads the factor from a key (transformers, vLLM).",
        )
    specs = rope_config.read(config)
    spec = next(specs[key] for key in factors)
    kinds = getattr(text, "layer_types", None) or [ALL] * int(text.num_hidden_layers)
    by_layer = {i: factors.get(kind, factors.get(ALL, 1.0)) ** 2 for i, kind in enumerate(kinds)}
    return Heads(
        heads=int(text.num_attention_heads),
        head_dim=spec.head_dim,
        rotary_dim=spec.rotary_dim,
        factors={i: factor for i, factor in by_layer.items() if factor != 1.0},
    )


def fold(files: Collection[Path], out: Path, config: PreTrainedConfig, factors: Mapping[str, float]) -> list[str]:
    """Write copies of the safetensors files that hold folded tensors.

    Args:
        files: all weight files of the checkpoint.
        out: folder that takes the changed ones, under the same names; the others are not written.
        config: of the checkpoint, before folding.
        factors: layer type -> t.

    Returns:
        The names of the changed tensors.

    Raises:
        UserError: if the model type has no place for it, or the expected tensors are not there.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    heads = heads_of(config, factors)
    one_plus = rope_config.text_config(config).model_type in ONE_PLUS
    names = {file: _names(file) for file in files}
    normed = any("q_norm" in name for found in names.values() for name in found)
    changes: dict[str, Callable[[Tensor], Tensor]] = {}
    for name in (name for found in names.values() for name in found):
        change = _change(name, heads, normed, one_plus)
        if change is not None:
            changes[name] = change
    _refuse_incomplete(changes, heads)
    for file, found in names.items():
        if changes.keys() & set(found):
            with safe_open(file, "pt") as stream:
                tensors = {name: stream.get_tensor(name) for name in found}
                metadata = stream.metadata()
            for name in changes.keys() & set(found):
                if not tensors[name].is_floating_point():
                    raise UserError(f"tensor {name} is {tensors[name].dtype}: quantised weights cannot be folded")
                tensors[name] = changes[name](tensors[name]).contiguous()
            save_file(tensors, out / file.name, metadata)
    return sorted(changes)


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as stream:
        return list(stream.keys())


def _change(name: str, heads: Heads, normed: bool, one_plus: bool) -> Callable[[Tensor], Tensor] | None:
    """How one tensor changes, None if it does not."""
    match = PARAMETER.search(name)
    if match is None or OTHER_TOWERS.search(name) or int(match[1]) not in heads.factors:
        return None
    factor, module = heads.factors[int(match[1])], match[2]
    if normed:
        return (lambda weight: _scaled_norm(weight, heads, factor, one_plus)) if module == "q_norm" else None
    if module == "q_proj":
        return lambda rows: heads.scaled(rows, factor)
    if module == "qkv_proj":  # Phi-3: all queries, all keys, all values
        return lambda rows: torch.cat([heads.scaled(rows[: _queries(heads)], factor), rows[_queries(heads) :]])
    if module == "query_key_value":  # GPT-NeoX: query, key and value of one head after another
        return lambda rows: _scaled_by_head(rows, heads, factor)
    return None


def _queries(heads: Heads) -> int:
    return heads.heads * heads.head_dim


def _scaled_by_head(rows: Tensor, heads: Heads, factor: float) -> Tensor:
    parts = rows.reshape(heads.heads, 3, heads.head_dim, *rows.shape[1:]).clone()
    parts[:, 0] = heads.scaled(parts[:, 0].reshape(_queries(heads), *rows.shape[1:]), factor).reshape(parts[:, 0].shape)
    return parts.reshape(rows.shape)


def _scaled_norm(weight: Tensor, heads: Heads, factor: float, one_plus: bool) -> Tensor:
    """A norm's weight, [head_dim] for all heads, or one for each of them."""
    shift = 1.0 if one_plus else 0.0
    each = Heads(weight.numel() // heads.head_dim, heads.head_dim, heads.rotary_dim, heads.factors)
    scaled = each.scaled(weight.double() + shift, factor) - shift
    return scaled.to(weight.dtype)


def _refuse_incomplete(changes: Collection[str], heads: Heads) -> None:
    matches = [PARAMETER.search(name) for name in changes]
    layers = {int(match[1]) for match in matches if match is not None and match[3] == "weight"}
    missing = sorted(heads.factors.keys() - layers)
    if missing:
        raise UserError(
            f"no query weights found in layers {missing[:4]}: the attention factor cannot be folded into this "
            "architecture's tensors",
            "Serve it with an engine that reads the factor from a key (transformers, vLLM).",
        )
