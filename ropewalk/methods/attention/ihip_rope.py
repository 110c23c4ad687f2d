"""InfiniteHiP's positions: chunks are scored at other positions than they are attended at, layer by layer (2502.08910).

Of its ways to place what was chosen, this is the one that its scripts use, "streaming". "dynamic_extend" blends the
tables of two positions, which is no rotation; ``leaky-rerope`` has its linear map without that. Of its cache on slower
memory, and of choices that are kept over several decoding steps, there is nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from ropewalk.attention.recall import Recalled, Text, gathered, members
from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, VISIBILITY, BlockwiseMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

STAGES = (256, 32, 8)  # tokens per chunk; those of a short window are cut to a sixteenth of it
Style = Literal["chunk", "relative", "exact"]
_Position = TypeVar("_Position", int, Tensor)


class _Sizes(NamedTuple):
    sinks: int
    window: int
    kept: int
    stages: tuple[int, ...]
    block: int


@dataclass(frozen=True)
class IHipRoPE(BlockwiseMethod):
    """First tokens, chosen chunks and the latest W tokens; what is older than these is counted up to them anew.

    Chunks are halved down to one token that stands for them, each time towards the half whose first token has the
    larger product with a query of the block. The best are cut into the chunks of the next stage, and four times as many
    tokens go on to it as come out of it. For these products only, positions are one of

    - "chunk": of n chunks, the j-th at position j, queries at min(m, n + W);
    - "relative": first halves at 0, second halves at 1, queries at W + 1;
    - "exact": all where they stand.

    The official code takes the first in a few early layers and the second in the others. Attended to, the first tokens
    and the chosen ones are numbered one after the other up to the window, and queries stay where they are: no
    distance exceeds the number of tokens attended to.

    Ours: every query head chooses for itself, and a query sees up to ``block`` - 1 tokens more than W. Queries of one
    block choose together, so results depend on how a text is cut; with ``block=1`` they do not.

    Attributes:
        early: positions for scoring in the first layers.
        late: positions for scoring in the others.
        early_layers: how many layers are early; these choose twice as many tokens.
        sinks: first tokens that are always seen; None means 256, or L / 16 where that is less.
        window: W in tokens; None means 1024, or L / 4 where that is less.
        kept: tokens that late layers choose, whole chunks of the last stage; None means what fits into L, at most 2048.
        stages: tokens per chunk in each stage, falling powers of two; () means 256, 32 and 8, at most L / 16.
        block: queries that choose together; None means 64, or L / 16 where that is less.
    """

    early: Style = "chunk"
    late: Style = "relative"
    early_layers: int = 3
    sinks: int | None = None
    window: int | None = None
    kept: int | None = None
    stages: tuple[int, ...] = ()
    block: int | None = None

    name: ClassVar[str] = "ihip-rope"
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})

    def __post_init__(self) -> None:
        require_above(0, self, "window", "block")
        require_above(-1, self, "early_layers", "sinks", "kept")
        whole = all(isinstance(size, int) and size > 0 and not size & (size - 1) for size in self.stages)
        if not whole or any(a <= b for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise UserError(f"{self.name}: stages is {self.stages}, expected falling powers of two, such as {STAGES}")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        alone = cls(early_layers=1, sinks=w // 16, window=w // 4, kept=w // 8, stages=(w // 32,), block=1)
        return alone, replace(alone, block=w // 16)

    @property
    def together(self) -> int | None:
        return self.block

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        sizes = self._sizes(layer)

        def first(m: Tensor) -> Tensor:
            """The first token of the window; before there is something to choose, the whole text."""
            start = _end(m, sizes)
            return torch.where(start <= sizes.sinks, 0, start)

        return (Region(lo=first),)

    def recall(self, text: Text) -> Iterator[Recalled]:
        sizes, early = self._sizes(self.seen_as(text.layer)), text.layer.index < self.early_layers
        for rows in text.blocks(sizes.block):
            m = text.arange(text.past + rows.start, text.past + rows.stop)
            end = _end(int(m[0]), sizes)
            if end <= sizes.sinks:
                continue
            query = text.query[:, :, rows]
            chosen = query.new_zeros(*query.shape[:2], end + sizes.stages[0], dtype=torch.bool)
            chosen[..., : sizes.sinks] = True
            kept, style = (2 * sizes.kept, self.early) if early else (sizes.kept, self.late)
            chosen.scatter_(-1, _chosen(text, rows, m, end, kept, style, sizes), True)
            index = members(chosen[..., :end])
            yield Recalled(rows, index, (m, text.arange(end - index.shape[-1], end)))

    def check(self, layer: Layer) -> None:
        sizes = self._sizes(layer)
        if sizes.kept % sizes.stages[-1]:
            raise UserError(
                f"{self.name}: kept is {sizes.kept}, expected a multiple of {sizes.stages[-1]}, the tokens of a chunk"
            )
        times = 2 if layer.index < self.early_layers else 1
        most = sizes.sinks + times * sizes.kept + sizes.window + sizes.block - 1
        if most > layer.window:
            raise UserError(
                f"{self.name}: sinks + {'2 ' * (times - 1)}kept + window + block - 1 = {sizes.sinks} + "
                f"{times * sizes.kept} + {sizes.window} + {sizes.block} - 1 = {most}, expected at most the "
                f"{layer.window} trained tokens",
                "Leave out what need not be said: all of it has defaults that fit.",
            )

    def _sizes(self, layer: Layer) -> _Sizes:
        sixteenth = max(1, layer.window // 16)
        most = 2 ** (sixteenth.bit_length() - 1)
        stages = self.stages or tuple(sorted({min(size, most) for size in STAGES}, reverse=True))
        sinks = min(256, sixteenth) if self.sinks is None else self.sinks
        window = max(1, min(1024, layer.window // 4)) if self.window is None else self.window
        block = min(64, sixteenth) if self.block is None else self.block
        room = max(0, min(2048, (layer.window - sinks - window - block + 1) // 2))
        return _Sizes(sinks, window, room // stages[-1] * stages[-1] if self.kept is None else self.kept, stages, block)


def _end(m: _Position, sizes: _Sizes) -> _Position:
    """Tokens in front of the window of the block that ``m`` is in."""
    return m // sizes.block * sizes.block - sizes.window + 1


def _chosen(text: Text, rows: slice, m: Tensor, end: int, kept: int, style: Style, sizes: _Sizes) -> Tensor:
    """Tokens of the chunks that the last stage keeps, int64 [B, H, n]; some may be at ``end`` or behind."""
    starts = text.arange(0, end)[sizes.sinks :: sizes.stages[0]].expand(*text.query.shape[:2], -1)
    before = sizes.stages[0]
    for later, size in zip(reversed(range(len(sizes.stages))), sizes.stages, strict=True):
        starts = _cut(starts, before, size)
        scores = _scores(text, rows, m, starts, size, end, sizes.window, style)
        best = scores.sort(stable=True, descending=True).indices[..., : kept * 4**later // size]
        starts, before = starts.gather(-1, best.sort().values), size
    return _cut(starts, before, 1)


def _cut(starts: Tensor, size: int, smaller: int) -> Tensor:
    """Chunks, by their first tokens [.., n], cut into smaller ones."""
    return (starts[..., None] + torch.arange(0, size, smaller, device=starts.device)).flatten(-2)


def _scores(
    text: Text, rows: slice, m: Tensor, starts: Tensor, size: int, end: int, window: int, style: Style
) -> Tensor:
    """Largest product of a query of the block with the token that stands for a chunk, float32 at least, [B, H, n]."""
    n, near = starts.shape[-1], text.regions[0]
    exact = torch.promote_types(text.query.dtype, torch.float32)
    if style == "exact":
        query = text.queries(near)[:, :, rows]
    else:
        at = m.clamp_max(n + window) if style == "chunk" else torch.full_like(m, window + 1)
        query = text.turned(text.query[:, :, rows], at)

    def score(tokens: Tensor, half: int) -> Tensor:
        inside = tokens.clamp_max(end - 1)
        if style == "exact":
            key = gathered(text.keys(near), inside)
        else:
            at = text.arange(0, n) if style == "chunk" else torch.full((n,), half, device=m.device)
            key = text.turned(gathered(text.key, inside), at)
        return (query.to(exact) @ key.to(exact).mT).amax(-2).masked_fill(tokens >= end, -torch.inf)

    first = starts
    best = score(first, 0)
    while size > 1:
        size //= 2
        left, right = score(first, 0), score(first + size, 1)
        first, best = torch.where(right > left, first + size, first), torch.maximum(left, right)
    return best
