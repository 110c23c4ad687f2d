"""Focused Transformer, LongLLaMA: a few layers see all earlier windows, and learn which of them to trust.

arXiv 2307.03170. Training lets a query of these layers see windows of other documents beside its own document's, in one
softmax: negatives, from which the keys of its own are told apart. The paper takes them from the rows of a batch. Here
rows are read as one text, a window of each in turn, so that what is memory at inference is positives and negatives in
training, by the same regions: a query sees its own earlier windows, and as many of every other row of its group. The
paper shows it the window before its own, and adds negatives as training goes on; their number does not change here.

The k best keys are found by an exact search, a product and a choice; an index would be filled anew with every text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropewalk.attention.kernels import per_query_head
from ropewalk.attention.recall import Recalled, Text, members
from ropewalk.attention.regions import Layer, Region, zero
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.memory.trained_memory import MEMORY, TrainedMemory
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import ROWS, decoder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from transformers.cache_utils import Cache

SEARCHED = 2**25  # logits that exist at once in a search
TOGETHER = 64  # queries at most of one search


@dataclass(frozen=True)
class FoT(TrainedMemory, AttentionMethod):
    """A text is cut into windows of W tokens; queries see their own window, and in memory layers all earlier ones too.

    Keys of earlier windows are met as if they stood at the first place of the query's window, so that no distance is
    beyond W. Every weight of the base is trained; the method adds none.

    Attributes:
        layers: memory layers, counted from 0; none named means three, a quarter of all layers apart.
        window: W in tokens; None means the trained window.
        topk: keys of earlier windows that each query of each head attends to, those with the largest logits; None
            means all. Training sees all.
        negatives: other rows of a batch whose windows a query sees in training; 0 trains without any.
    """

    layers: tuple[int, ...] = ()
    window: int | None = None
    topk: int | None = None
    negatives: int = 1

    name: ClassVar[str] = "fot"
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY, MEMORY})
    by_layer: ClassVar[bool] = True
    target_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(0, self, "window", "topk")
        require_above(-1, self, "negatives")
        if len(set(self.layers)) < len(self.layers) or not all(isinstance(i, int) and i >= 0 for i in self.layers):
            raise UserError(f"{self.name}: layers are {self.layers}, expected different whole numbers from 0 on")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w, last = rope_config.trained_window(config), int(config.num_hidden_layers) - 1
        every = cls(layers=(last,), window=w // 4)
        return every.begun(), replace(every, topk=w // 3).begun()

    @property
    def by_content(self) -> bool:  # type: ignore[override]
        return self.topk is not None

    def learns(self, name: str) -> bool:
        return True

    def memory_layers(self, count: int) -> tuple[int, ...]:
        """Which of so many layers are memory layers."""
        step = max(1, count // 4)
        return self.layers or tuple(i for i in (step, 2 * step, 3 * step) if i < count) or (max(0, count - 1),)

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        w = self._window(layer.window)
        near = Region(lo=lambda m: m // w * w)
        if self.picks(layer) or not self._remembers(layer):
            return (near,)
        return near, Region(hi=lambda m: m // w * w, q_pos=lambda m: m % w, k_pos=zero)

    def picks(self, layer: Layer) -> bool:
        return self.by_content and self._remembers(layer)

    def recall(self, text: Text) -> Iterator[Recalled]:
        assert self.topk is not None  # nobody asks otherwise
        w = self._window(self.seen_as(text.layer).window)
        keys = text.keys(Region(k_pos=zero))
        start = text.past
        while start < text.length:
            window = start // w * w
            size = max(1, min(TOGETHER, SEARCHED // (text.query.shape[1] * max(1, window))))
            end = min(window + w, start + size, text.length)
            rows = slice(start - text.past, end - text.past)
            if window:
                inside = text.arange(start - window, end - window)
                seen = nearest(text.turned(text.query[:, :, rows], inside), keys[:, :, :window], self.topk)
                index = members(seen.any(2))
                visible = seen.gather(-1, index.clamp_min(0)[:, :, None].expand(-1, -1, end - start, -1))
                yield Recalled(rows, index, (inside, torch.zeros_like(index[0, 0])), visible)
            start = end

    def check(self, layer: Layer) -> None:
        if self._window(layer.window) > layer.window:
            raise UserError(f"{self.name}: window is {self.window}, expected at most the {layer.window} trained tokens")
        if layer.layers and max(self.layers, default=0) >= layer.layers:
            raise UserError(f"{self.name}: layers are {self.layers}, of a model with {layer.layers}, counted from 0")

    def _remembers(self, layer: Layer) -> bool:
        return layer.index in self.memory_layers(layer.layers)

    def _window(self, trained: int) -> int:
        return trained if self.window is None else self.window

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        rows = self.negatives + 1
        with super().installed(model):
            config: Any = model.config
            w = self._window(self.effective_window or rope_config.trained_window(config))
            with interleaved(decoder(model), rows, w):
                yield

    def cache(self, model: nn.Module) -> Cache:
        """A cache of which layers without a memory hold a window alone; memory layers keep everything.

        Give it to ``model(..., cache=...)`` or ``model.generate`` while the method is on (``past_key_values`` before
        transformers 5.24).
        """
        from ropewalk.attention.sink_cache import sparse_cache

        config: Any = model.config
        text = config.get_text_config(decoder=True)
        memory = self.memory_layers(text.num_hidden_layers)
        w = self._window(self.effective_window or rope_config.trained_window(config))
        local = [i not in memory for i in range(text.num_hidden_layers)]
        return sparse_cache(text, w, lambda positions: torch.zeros_like(positions, dtype=torch.bool), local)


def nearest(queries: Tensor, keys: Tensor, k: int) -> Tensor:
    """Which keys have the k largest products with each query, bool [B, H, Q, K]: an exact search.

    Args:
        queries: [B, H, Q, D].
        keys: [B, Hkv, K, D].
        k: 1 or more; where there are fewer keys, all.
    """
    exact = torch.promote_types(queries.dtype, torch.float32)
    products = queries.to(exact) @ per_query_head(keys, queries).to(exact).mT
    best = products.topk(min(k, keys.shape[2]), -1).indices
    return torch.zeros_like(products, dtype=torch.bool).scatter(-1, best, True)


@contextmanager
def interleaved(body: nn.Module, rows: int, window: int) -> Iterator[None]:
    """In training, rows of a batch are read as one text, ``rows`` of them together, a window of each in turn.

    What the attention mask leaves out, at the end of a row, is padding, and no other row sees it.

    Args:
        body: a decoder; hooks that are put on it after these see the one text.
        rows: of a group; 1 leaves batches as they are.
        window: in tokens.
    """
    shape: list[tuple[int, int]] = []  # of the batch that is underway

    def join(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        shape.clear()
        if rows == 1 or not (body.training and torch.is_grad_enabled()):
            return None
        ids: Tensor = arguments[0] if arguments else keywords["input_ids"]
        positions, count = keywords.get("position_ids"), ids.shape[1]
        counted = positions is None or bool((positions == torch.arange(count, device=ids.device)).all())
        if len(ids) % rows or not counted or keywords.get("document_ids") is not None:
            what = f"{len(ids)} rows" if len(ids) % rows else "positions that jump" if not counted else "packed rows"
            raise UserError(
                f"a forward of the training has {what}, expected texts from their beginning, and a multiple of {rows} "
                f"rows: a query sees windows of {rows - 1} others",
                f"Say --packing none --micro {rows}, or fot(negatives=0).",
            )
        shape.append((len(ids), count))
        mask = keywords.get("attention_mask")
        real = torch.ones_like(ids) if mask is None else mask.long()
        if real.shape != ids.shape or bool((real.diff(dim=1) > 0).any()):
            raise UserError("an attention mask leaves out more than the ends of rows", "Pad rows behind their texts.")
        ids, padding = (F.pad(x, (0, -count % window)) for x in (ids, real))
        padding = padding == 0
        joined = {name: _in_turn(x, rows, window) for name, x in (("input_ids", ids), ("padding", padding))}
        new = keywords | {"input_ids": joined["input_ids"], "attention_mask": None}
        new["position_ids"] = torch.arange(rows * ids.shape[1], device=ids.device)[None]
        if bool(padding.any()):
            new["document_ids"] = joined["padding"].long()
        return (), new

    def part(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if not shape:
            return None
        batch, count = shape.pop()
        states = _apart(output[0], batch, rows, window)[:, :count]
        if isinstance(output, tuple):
            return (states, *output[1:])
        output.last_hidden_state = states
        return output

    hooks = [body.register_forward_pre_hook(join, with_kwargs=True), body.register_forward_hook(part)]
    if rows > 1:
        setattr(body, ROWS, True)
    try:
        yield
    finally:
        if rows > 1:
            delattr(body, ROWS)
        for hook in hooks:
            hook.remove()


def _in_turn(x: Tensor, rows: int, window: int) -> Tensor:
    """[B, n window] -> [B / rows, rows n window]: the first window of each row of a group, then the second ones."""
    return x.unflatten(0, (-1, rows)).unflatten(-1, (-1, window)).transpose(1, 2).flatten(1)


def _apart(x: Tensor, batch: int, rows: int, window: int) -> Tensor:
    """The way back, of [B / rows, rows n window, D]."""
    return x.unflatten(1, (-1, rows, window)).transpose(1, 2).reshape(batch, -1, x.shape[-1])
