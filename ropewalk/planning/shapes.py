"""What memory and cost depend on: parameters and widths, read from a model whose tensors have shapes but no data."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.rope.architecture import latent as latent_width
from ropewalk.rope.architecture import of_layer
from ropewalk.rope.config import quiet, text_config

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k", "top_k")
BOUNDED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


@dataclass(frozen=True)
class Layer:
    """One kind of decoder layer; widths are numbers of elements per token.

    Attributes:
        kind: as in ``config.layer_types``.
        attends: False for layers with a state of fixed size in the place of a key-value cache.
        window: tokens that a query sees at most; None if it sees all.
        parameters: of the whole layer.
        expert_parameters: those in routed experts.
        active_parameters: those that one token uses.
        adaptable: rows plus columns of all linear maps: parameters of a rank-1 adapter on each.
        heads: attention heads.
        key_value_heads: heads of keys and values.
        query: width of all queries.
        key_value: width of keys and values together.
        cached: width that an engine keeps per token; smaller than ``key_value`` for latent attention.
        norm_bytes: (bytes of the compute type, bytes per token that normalisations keep for the backward pass).
        fused: queries, keys and values are views of one tensor, which stays as long as any of them.
        routed_rows: routed experts per token; 0 in a dense layer.
        inner: inner width of the MLP, summed over the experts that a token uses.
        inner_kept: how many vectors of that width the forward pass keeps: 4 for a gated MLP, 2 for a plain one.
        gated: whether the inner vector is a product of two.
    """

    kind: str
    attends: bool
    window: int | None
    parameters: int
    expert_parameters: int
    active_parameters: int
    adaptable: int
    heads: int
    key_value_heads: int
    query: int
    key_value: int
    cached: int
    norm_bytes: tuple[tuple[int, int], ...]
    fused: bool
    routed_rows: int
    inner: int
    inner_kept: int
    gated: bool

    def seen(self, length: int) -> int:
        """Tokens whose keys and values are kept for a text of ``length`` tokens."""
        return 0 if not self.attends else length if self.window is None else min(length, self.window)


@dataclass(frozen=True)
class Shapes:
    """A decoder as numbers.

    Attributes:
        model_type: as in the configuration.
        hidden: width of the residual stream.
        vocabulary: rows of the output projection.
        embedding: parameters of the input embedding.
        head: parameters of the output projection; 0 if it is the embedding.
        other: parameters outside of layers, embedding and head.
        layers: (kind of layer, how many).
        fused_attention: whether transformers runs it with a kernel that holds no scores, without further packages.
    """

    model_type: str
    hidden: int
    vocabulary: int
    embedding: int
    head: int
    other: int
    layers: tuple[tuple[Layer, int], ...]
    fused_attention: bool = True

    @property
    def depth(self) -> int:
        return sum(n for _, n in self.layers)

    @property
    def parameters(self) -> int:
        """All parameters, shared ones once."""
        return self.embedding + self.head + self.other + sum(n * layer.parameters for layer, n in self.layers)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: all, less the experts it is not sent to."""
        return self.embedding + self.head + self.other + sum(n * layer.active_parameters for layer, n in self.layers)

    @property
    def matrix_parameters(self) -> int:
        """Active parameters that multiply something: the input embedding is only looked up."""
        return self.active_parameters - (self.embedding if self.head else 0)

    @property
    def largest_layer(self) -> int:
        """Parameters of the largest layer."""
        return max(layer.parameters for layer, _ in self.layers)

    @property
    def heads(self) -> int:
        return max(layer.heads for layer, _ in self.layers)


def shapes(config: PreTrainedConfig) -> Shapes:
    """The numbers of the language model that ``config`` describes; nothing is downloaded and no weights are made.

    Raises:
        UserError: if transformers has no decoder for it, or the configuration contradicts itself.
    """
    from torch import nn

    text, tied = copy.deepcopy(text_config(config)), _is_tied(config)
    text.tie_word_embeddings = tied
    try:
        model = _decoder(config, text)
    except Exception as error:  # transformers raises many kinds here, all of them about the configuration
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"no decoder can be laid out from this configuration (model_type {text.model_type!r}): {reason}",
            "Look what transformers reads of it: ropewalk inspect.",
        ) from None
    kinds = layer_kinds(text)
    stack = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == len(kinds)), None)
    if stack is None:
        raise UserError(f"model_type {text.model_type!r} has no list of {len(kinds)} layers; plan cannot count them")
    layers = Counter(_layer(module, kind, text) for module, kind in zip(stack, kinds, strict=True))
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings()
    shared = tied if output is None else output.weight is embedding
    rows = int(text.vocab_size) if output is None else int(output.weight.shape[0])
    head = 0 if shared else rows * int(embedding.shape[1]) if output is None else output.weight.numel()
    total = sum(parameter.numel() for parameter in model.parameters()) + (head if output is None else 0)
    inside = sum(n * layer.parameters for layer, n in layers.items())
    return Shapes(
        model_type=str(text.model_type),
        hidden=int(text.hidden_size),
        vocabulary=rows,
        embedding=embedding.numel(),
        head=head,
        other=total - inside - embedding.numel() - head,
        layers=tuple(layers.items()),
        fused_attention=model.config._attn_implementation != "eager",
    )


def _decoder(config: PreTrainedConfig, text: PreTrainedConfig) -> Any:
    """The language model on the meta device: with its head, else alone, else as it stands in the whole model."""
    import torch
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_MAPPING,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMultimodalLM,
    )

    with quiet(), torch.device("meta"):
        if type(config) is type(text) or type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
            return AutoModelForCausalLM.from_config(text)
        if type(text) in MODEL_MAPPING:
            return AutoModel.from_config(text)
        whole = AutoModelForMultimodalLM.from_config(config)
    return next(module for module in whole.modules() if type(getattr(module, "config", None)) is type(text))


def _is_tied(config: PreTrainedConfig) -> bool:
    """Whether the head is the embedding, as the configuration that holds the language model's says."""
    text = text_config(config)
    parts = (config, *vars(config).values())
    holder = next((part for part in parts if getattr(part, "text_config", None) is text), config)
    return bool(getattr(holder, "tie_word_embeddings", False))


def layer_kinds(text: PreTrainedConfig) -> list[str]:
    """The kind of every layer, as transformers' caches decide it."""
    listed = getattr(text, "layer_types", None)
    if listed:
        return list(listed)
    bounded = [kind for kind, key in BOUNDED.items() if getattr(text, key, None)]
    return [bounded[0] if bounded else "full_attention"] * int(text.num_hidden_layers)


def _layer(module: nn.Module, kind: str, text: PreTrainedConfig) -> Layer:
    from torch import nn

    text = of_layer(text, kind)

    parameters = dict(module.named_parameters())
    routed = {name: p for name, p in parameters.items() if ".experts." in f".{name}"}
    total, expert = (sum(p.numel() for p in some.values()) for some in (parameters, routed))
    chosen, experts = (_experts_per_token(text), _expert_count(routed)) if routed else (0, 1)
    hidden, heads = int(text.hidden_size), int(text.num_attention_heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    linears = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    query, key_value = _attention_widths(linears, text)
    latent = latent_width(text)
    norms = [(m, _times(name, m, heads, kv_heads, hidden)) for name, m in module.named_modules() if _is_norm(m)]
    mlp = [m for name, m in linears.items() if not any(part in name for part in ("attn", "attention", "mixer"))]
    entering = sum(m.out_features for m in mlp if m.in_features == hidden and m.out_features > 1)
    inner = sum(m.in_features for m in mlp if m.out_features == hidden)
    for name, parameter in routed.items():
        if parameter.dim() != 2 or "bias" not in name:
            width = chosen * parameter.numel() // experts // hidden
            inner, entering = (inner + width, entering) if "down" in name else (inner, entering + width)
    return Layer(
        kind=kind,
        attends=kind in (*BOUNDED, "full_attention"),
        window=int(getattr(text, BOUNDED[kind])) if kind in BOUNDED else None,
        parameters=total,
        expert_parameters=expert,
        active_parameters=total - expert + expert * chosen // experts,
        adaptable=sum(m.in_features + m.out_features for m in linears.values()),
        heads=heads,
        key_value_heads=kv_heads,
        query=query,
        key_value=key_value,
        cached=int(latent + text.qk_rope_head_dim) if latent else key_value,
        norm_bytes=tuple((e, sum(times * _kept(norm, e) for norm, times in norms)) for e in (2, 4)),
        fused=not latent and not any(name.endswith("q_proj") for name in linears),
        routed_rows=chosen,
        inner=inner,
        inner_kept=_inner_kept(module, gated=entering > inner),
        gated=entering > inner,
    )


def _attention_widths(linears: Mapping[str, nn.Linear], text: PreTrainedConfig) -> tuple[int, int]:
    """Width of all queries, and of keys and values together."""
    heads = int(text.num_attention_heads)
    if latent_width(text):
        return heads * int(text.qk_head_dim), heads * (int(text.qk_head_dim) + int(text.v_head_dim))
    by_name = {name.rpartition(".")[2]: m.out_features for name, m in linears.items()}
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    kv = int(getattr(text, "num_key_value_heads", None) or heads) * head_dim
    return heads * head_dim, by_name.get("k_proj", kv) + by_name.get("v_proj", kv)


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None


def _times(name: str, norm: nn.Module, heads: int, kv_heads: int, hidden: int) -> int:
    """How often a token passes a normalisation: norms of single heads pass once per head."""
    single = norm.weight.numel() * kv_heads < hidden  # type: ignore[operator,union-attr]
    return {"q_norm": heads, "k_norm": kv_heads}.get(name.rpartition(".")[2], 1) if single else 1


def _inner_kept(module: nn.Module, gated: bool) -> int:
    """Vectors of the inner width that an MLP keeps; experts with a gate of their own making are asked."""
    usual = 4 if gated else 2
    experts = next((m for m in module.modules() if hasattr(m, "_apply_gate")), None)
    if experts is None or not gated:
        return usual
    width = 1024
    saved = saved_bytes(lambda rows: experts._apply_gate(rows), 2 * width, 2)  # type: ignore[operator]
    return max(usual, round(saved / (2 * width)) + 1)  # the product itself is kept by the map that comes next


def _kept(norm: nn.Module, itemsize: int) -> int:
    """Bytes per vector that a normalisation keeps; implementations differ in what they compute in float32."""
    norm = copy.deepcopy(norm).to(_dtype(itemsize))
    return saved_bytes(norm, int(norm.weight.shape[-1]), itemsize)  # type: ignore[index,union-attr]


def saved_bytes(function: Callable[[Tensor], Tensor], width: int, itemsize: int) -> int:
    """Bytes per row of [rows, width] that ``function`` saves for its backward pass; parameters and constants aside."""
    import torch

    def saved(rows: int) -> int:
        storages: dict[int, torch.UntypedStorage] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
            return tensor

        given = torch.empty(rows, width, dtype=_dtype(itemsize), device="meta", requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            function(given)
        return sum(storage.nbytes() for storage in storages.values())

    return saved(2) - saved(1)


def _dtype(itemsize: int) -> torch.dtype:
    import torch

    return torch.bfloat16 if itemsize == 2 else torch.float32


def _experts_per_token(text: PreTrainedConfig) -> int:
    for key in EXPERTS_PER_TOKEN:
        value = getattr(text, key, None)
        if value:
            return int(value)
    raise UserError(
        f"model_type {text.model_type!r} has experts, but none of the keys {', '.join(EXPERTS_PER_TOKEN)} "
        "says how many a token uses"
    )


def _expert_count(routed: Mapping[str, nn.Parameter]) -> int:
    """Experts are stacked in one tensor each, or numbered modules."""
    stacked = [int(p.shape[0]) for p in routed.values() if p.dim() == 3]
    return stacked[0] if stacked else len({name.partition("experts.")[2].partition(".")[0] for name in routed})
