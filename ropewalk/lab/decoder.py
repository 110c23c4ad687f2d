"""A small decoder that takes any position encoding: a transformers model, on this package's attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from ropewalk.attention.cache_argument import NAMES, among
from ropewalk.common.errors import UserError
from ropewalk.lab.battery import BEGIN, END, PAD
from ropewalk.lab.encoding import Encoding, Shape, Standing
from ropewalk.lab.encoding_entries import encoding

BYTES = 256  # tokens are bytes
BESIDE = {*NAMES, "return_dict", "cache_position", "logits_to_keep"}  # what callers hand over, and decides nothing
HANDED_BACK = next(name for name in NAMES if name in {one.name for one in fields(CausalLMOutputWithPast)})


class DecoderConfig(PreTrainedConfig):
    """Of a ``Decoder``; ``encoding`` is the id of an entry, ``window`` the tokens that it is trained on."""

    model_type = "ropewalk-lab"

    encoding: str = "rope"
    window: int = 64
    vocab_size: int = BYTES
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    tie_word_embeddings: bool = False
    pad_token_id: int | None = PAD
    bos_token_id: int | None = BEGIN
    eos_token_id: int | list[int] | None = END

    @property
    def shape(self) -> Shape:
        """What an encoding must know."""
        width, heads = self.hidden_size, self.num_attention_heads
        return Shape(self.window, width, heads, width // heads)


class Attention(nn.Module):
    """Heads of one layer, each with keys of its own."""

    def __init__(self, config: DecoderConfig, index: int):
        super().__init__()
        self.index, self.heads, width = index, config.num_attention_heads, config.hidden_size
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, encoding: Encoding, standing: Standing, cache: Cache | None) -> Tensor:
        q, k, v = (one(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        layer: Any = cache.layers[self.index] if cache is not None and standing.past else None
        k = encoding.kept(k, x, None if layer is None else layer.keys)
        if cache is not None:
            k, v = cache.update(k, v, self.index)
        if k.shape[-2] != len(standing.positions):
            raise UserError(
                f"the cache holds {k.shape[-2]} keys, and the text has {len(standing.positions)} tokens",
                "Pass a DynamicCache, or leave the cache out.",
            )
        return self.out(encoding.attended(q, k, v, standing).transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention and a gated MLP, each behind a norm and beside a residual."""

    def __init__(self, config: DecoderConfig, index: int):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.before_attention, self.before_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(config, index)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, encoding: Encoding, standing: Standing, cache: Cache | None) -> Tensor:
        x = x + self.attention(self.before_attention(x), encoding, standing, cache)
        y = self.before_mlp(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(PreTrainedModel, GenerationMixin):
    """A language model over bytes whose positions are an encoding's alone.

    Rows of a batch are texts from their first token on; padding stands behind them.
    """

    config_class = DecoderConfig

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        made = encoding(config.encoding).load()
        count = 1 if made.shared else config.num_hidden_layers
        self.encodings = nn.ModuleList(made(config.shape) for _ in range(count))
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Encoding):
            missing: Mapping[str, nn.Parameter] = {
                name: one for name, one in module.named_parameters() if not getattr(one, "_is_hf_initialized", False)
            }
            with torch.no_grad():
                module.begin(missing)
        elif not any(module is part for encoding in self.encodings for part in encoding.modules()):
            super()._init_weights(module)

    @property
    def each_encoding(self) -> list[Encoding]:
        """One for all layers, or one for each."""
        return cast(list[Encoding], list(self.encodings))

    @contextmanager
    def extended(self, way: str, to: int) -> Iterator[None]:
        """Read texts of up to ``to`` tokens in one of the encoding's ways, within the block; "" is how it was trained.

        Raises:
            UserError: if there is no such way.
        """
        before = [(one, one.way, one.reach) for one in self.each_encoding]
        try:
            for one in self.each_encoding:
                one.take(way, to)
            yield
        finally:
            for one, old, length in before:
                one.take(old, length)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **named: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, N, V] behind every token of ``input_ids``, int64 [B, N], on top of a cache if one is given.

        Raises:
            UserError: if something is given that it does not know, a token is masked, or stands where an encoding does
                not say, or the cache does not grow.
        """
        if unknown := [
            name for name, value in named.items() if value is not None and value is not False and name not in BESIDE
        ]:
            raise UserError(f"the decoder was given {unknown[0]}, which it does not know", "Leave it out.")
        cache = among({"cache": cache, **named})  # which callers also give by its older names
        if cache is None and use_cache:
            cache = DynamicCache(config=self.config)
        past = 0 if cache is None else cache.get_seq_length()
        total = past + input_ids.shape[1]
        if attention_mask is not None and not bool((attention_mask == 1).all()):
            raise UserError("a token is masked, expected texts from the first token of a row on", "Pad behind texts.")
        if position_ids is not None and bool((position_ids != torch.arange(past, total).to(position_ids)).any()):
            raise UserError("position_ids do not count up from 0, and positions are the encoding's", "Leave them out.")
        if past and self.training:
            raise UserError("a model in training reads on top of a cache", "Call model.eval() first.")
        own = self.each_encoding
        of = [own[i % len(own)] for i in range(len(self.blocks))]
        standing = Standing(past, of[0].positions(total).to(input_ids.device))
        x = of[0].embedded(self.embed(input_ids), standing)
        for block, one in zip(self.blocks, of, strict=True):
            x = block(x, one, standing, cache)
        handed_back: dict[str, Any] = {HANDED_BACK: cache}
        return CausalLMOutputWithPast(logits=self.head(self.norm(x)), **handed_back)
