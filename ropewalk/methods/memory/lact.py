"""LaCT: beside a window of attention, a layer that is trained once per large chunk of the text (arXiv 2505.23884)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.memory.fast_weights import FastWeights, Weights
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.methods.memory.mixers import MixedReader, Parts, taken_apart
from ropewalk.methods.memory.trained_memory import PLACE, TrainedMemory
from ropewalk.rope.config import trained_window

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

GAIN = 0.5  # of the fast weights that a text begins with: gain * identity + a product of low rank of that size
RATE = 1e-3  # eta before training
WINDOW = 2048  # of attention, and tokens of a chunk, where the model was trained on as many


class LargeChunk(nn.Module):
    """What one layer adds: the fast weights that every text begins with, and what makes their inputs of the layer's.

    Before training it adds nothing: its strength is 0.

    Args:
        hidden: width of the layer's input.
        width: of all its query heads together.
        heads: of the memory.
        rank: of w0 and w2.
    """

    def __init__(self, hidden: int, width: int, heads: int, rank: int):
        super().__init__()
        self.heads, d = heads, width // heads

        def drawn(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(heads, *shape) * scale)

        narrow, broad = GAIN / math.sqrt(rank), GAIN / math.sqrt(d)
        self.left0, self.right0 = drawn(d, rank, scale=narrow), drawn(rank, d, scale=broad)
        self.left2, self.right2 = drawn(d, rank, scale=narrow), drawn(rank, d, scale=broad)
        self.w1 = drawn(d, d, scale=1 / math.sqrt(d))
        self.stretch, self.shift = nn.Parameter(torch.ones(2, width)), nn.Parameter(torch.zeros(2, width))
        self.rates, self.momentum = nn.Linear(hidden, 3 * heads), nn.Linear(hidden, heads)
        self.strength, self.norm = nn.Linear(hidden, heads), nn.RMSNorm(d, eps=1e-6)
        nn.init.zeros_(self.strength.weight)
        nn.init.zeros_(self.strength.bias)

    def weights(self, rows: int) -> Weights:
        """What texts begin with, float32."""
        same = GAIN * torch.eye(self.w1.shape[1], device=self.w1.device)
        w0 = self.left0.float() @ self.right0.float() + same
        w2 = self.left2.float() @ self.right2.float() + same
        return w0.expand(rows, -1, -1, -1), self.w1.float().expand(rows, -1, -1, -1), w2.expand(rows, -1, -1, -1)

    def inputs(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys, values, rates and momenta of the memory, float32, out of q, k and v [B, n, width]."""
        q, k = q * self.stretch[0] + self.shift[0], k * self.stretch[1] + self.shift[1]
        q, k, v = (self._split(F.silu(one.float())) for one in (q, k, v))
        rates = F.softplus(self.rates(hidden).float() + math.log(math.expm1(RATE)))
        momenta = self.momentum(hidden).float().sigmoid()
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, self._split(rates), self._split(momenta)

    def outputs(self, hidden: Tensor, read: Tensor) -> Tensor:
        """[B, n, width], normed and as strong as the layer says, of what the memory gave, [B, H, n, d]."""
        strength = self._split(F.silu(self.strength(hidden)))
        found: Tensor = self.norm(read.to(hidden.dtype)) * strength
        return found.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@dataclass(eq=False)
class _Beside:
    """A window of attention, and the memory beside it."""

    parts: Parts
    layer: LargeChunk
    chunk: int
    window: int

    def begin(self, rows: int) -> None:
        return None  # fast weights are made where they are read, so that their gradients come from there

    def mix(self, hidden: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
        own, module = self.parts, self.parts.module
        projected = module.q_proj(hidden), module.k_proj(hidden), module.v_proj(hidden)
        q, k, v = own.queries(projected[0]), own.keys(projected[1]), own.values(projected[2])
        q, k = own.turned(q, start), own.turned(k, start)
        if state is None:
            memory = FastWeights.begin(self.layer.weights(len(hidden)), self.chunk)
        else:
            keys, values, memory = state
            k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        near = own.attended(q, k, v, self.window).transpose(1, 2).flatten(2)
        wide = (own.per_query_head(one) for one in projected[1:])
        read, memory = memory.read(*self.layer.inputs(hidden, projected[0], *wide))
        first = max(0, k.shape[2] - self.window + 1)
        kept = k[:, :, first:].clone(), v[:, :, first:].clone(), memory
        out: Tensor = module.o_proj(near + self.layer.outputs(hidden, read))
        return out, kept


@dataclass(frozen=True)
class LaCT(TrainedMemory, MemoryMethod):
    """Attention sees the last ``window`` tokens; what came before is in weights that learn it, chunk by chunk.

    What a text leaves is as large for a long text as for a short one. Queries and keys of the memory do not rotate,
    which the official code found to work too: it is asked at any distance.

    Attributes:
        chunk: tokens per step of the memory, at most ``window``; None means ``window``.
        window: tokens that attention sees, the query's own among them; None means 2048, or the trained window if that
            is smaller.
        heads: of the memory; they divide the width of the query heads.
        rank: of the weights that a text begins with.
    """

    chunk: int | None = None
    window: int | None = None
    heads: int = 4
    rank: int = 32

    name: ClassVar[str] = "lact"
    exact_near: ClassVar[bool] = False
    target_free: ClassVar[bool] = True
    cache_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(0, self, "chunk", "window", "heads", "rank")
        if self.chunk is not None and self.window is not None and self.chunk > self.window:
            raise UserError(
                f"{self.name}: chunk is {self.chunk} and window {self.window}: a token that waits for the end of its "
                "chunk would be seen by neither",
                "Let chunk be at most window.",
            )

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(chunk=8, window=16, heads=2, rank=4).begun(),)

    def added(self, model: PreTrainedModel) -> nn.Module:
        made = []
        for one in taken_apart(model):
            width = one.heads * one.width
            if width % self.heads:
                raise UserError(
                    f"{self.name}: heads is {self.heads}, expected a divisor of the {width} numbers that the query "
                    f"heads of layer {one.index} have"
                )
            made.append(LargeChunk(one.module.q_proj.in_features, width, self.heads, self.rank))
        return nn.ModuleList(made)

    def reader(self, model: nn.Module, to: int) -> MixedReader:
        parts = taken_apart(model)
        window = self.window or min(WINDOW, trained_window(model.config))  # type: ignore[arg-type]
        layers = cast("list[LargeChunk]", list(getattr(model, PLACE)))
        mixers = [_Beside(*both, self.chunk or window, window) for both in zip(parts, layers, strict=True)]
        return MixedReader(model, parts, mixers, piece=window)
