"""Vertical-slash sparse attention for long prompts: MInference (arXiv 2407.02490), in Qwen2.5-1M with DCA (2501.15383).

``dca+yarn-temperature(growing=True)+vertical-slash`` is Qwen2.5-1M's recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ropewalk.attention.recall import Recalled, Text, for_rows, members
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import SPARSITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BLOCK = 64  # queries that share their keys; a diagonal is 64 keys wide for them


@dataclass(frozen=True)
class VerticalSlash(AttentionMethod):
    """Of what the positions show, each head keeps some columns and some diagonals of the score matrix.

    The last queries of a forward pass attend to everything, at the positions of the method that this is composed with
    (the official code moves Qwen's clamped positions for the estimate). Columns and diagonals with the most of their
    attention are kept, the first columns and the nearest diagonals always; what is kept is attended to exactly, so
    full budgets are dense attention. Passes of fewer queries (decoding) and short texts are dense.

    The estimate belongs to a forward pass, so results depend on how a text is cut.

    Attributes:
        vertical: columns per head.
        slash: diagonals per head.
        sinks: first columns that are always kept; they count as columns.
        near: nearest diagonals that are always kept; they count as diagonals.
        last: queries that estimate.
        threshold: tokens from which on a text is attended to sparsely.
    """

    vertical: int = 1000
    slash: int = 4096
    sinks: int = 30
    near: int = 100
    last: int = 64
    threshold: int = 32768

    name: ClassVar[str] = "vertical-slash"
    axes: ClassVar[frozenset[str]] = frozenset({SPARSITY})
    by_content: ClassVar[bool] = True
    causal: ClassVar[bool] = False  # the last queries of a prompt choose for all
    cache_exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_above(0, self, "vertical", "slash", "near", "last", "threshold")
        require_above(-1, self, "sinks")
        if self.sinks > self.vertical or self.near > self.slash:
            raise UserError(
                f"{self.name}: sinks is {self.sinks}, near is {self.near}, expected at most vertical = "
                f"{self.vertical} and slash = {self.slash}: what is always kept counts"
            )

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        return (cls(vertical=w // 8, slash=2, sinks=2, near=1, last=w // 8, threshold=w + 1),)

    def keep(self, text: Text) -> Iterator[Recalled] | None:
        if text.length < self.threshold or text.query.shape[2] < self.last:
            return None
        if any(region.heads is not None for region in text.regions):
            raise UserError(f"{self.name} does not join methods that give heads different keys")
        return self._kept(text)

    def _kept(self, text: Text) -> Iterator[Recalled]:
        for rows, chosen in self.chosen(text):
            m = torch.arange(text.past, text.length)[rows]
            for region in text.regions:
                lo, hi = (bound(m).to(chosen.device) for bound in (region.lo, region.hi))
                inside = chosen.clone()
                inside[..., : max(0, int(lo.min()))] = False
                inside[..., max(0, int(hi.max())) :] = False
                index = members(inside)
                if index.shape[-1]:
                    n = for_rows(index, text)
                    yield Recalled(rows, index, region, (n >= lo[:, None]) & (n < hi[:, None]))

    def chosen(self, text: Text) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of queries and the keys that each head keeps for them, bool [B, H, keys up to the block's end]."""
        columns, reached = self._columns_and_diagonals(text)
        for rows in text.blocks(BLOCK):
            start = (text.past + rows.start) // BLOCK * BLOCK
            end = min(start + BLOCK, text.length)
            near_by = reached[..., BLOCK - 1 - (end - 1 - start) : BLOCK + start].flip(-1)  # keys 0 .. end - 1
            yield rows, columns[..., :end] | near_by

    def _columns_and_diagonals(self, text: Text) -> tuple[Tensor, Tensor]:
        """Kept columns [B, H, K]; and whether a kept diagonal d meets queries 0 .. 63 in the key at -x.

        The second is [B, H, 63 + K] for x = -63 .. K - 1: diagonals d = x .. x + 63 do.
        """
        seen = probabilities(text, slice(text.query.shape[2] - self.last, None))
        m = text.arange(text.length - self.last, text.length)
        columns = seen.sum(2)
        columns[..., : self.sinks] = torch.inf
        distance = m[:, None] - text.arange(0, text.length)
        diagonals = torch.zeros_like(columns)
        for row, at in enumerate(distance.clamp_min(0)):  # keys behind the query have probability 0
            diagonals.index_add_(-1, at, seen[:, :, row])
        diagonals[..., : self.near] = torch.inf
        kept = [
            torch.zeros_like(score, dtype=torch.bool).scatter_(-1, score.topk(min(n, text.length)).indices, True)
            for score, n in ((columns, self.vertical), (diagonals, self.slash))
        ]
        before = torch.nn.functional.pad(kept[1].int(), (BLOCK, BLOCK - 1)).cumsum(-1)  # of d = -64 .. K + 62
        return kept[0], before[..., BLOCK:] > before[..., :-BLOCK]


def probabilities(text: Text, rows: slice) -> Tensor:
    """Attention of some queries to all keys that the regions show, float32 at least, [B, H, rows, K]."""
    exact = torch.promote_types(text.query.dtype, torch.float32)
    logits = text.query.new_full((*text.query[:, :, rows].shape[:3], text.length), -torch.inf, dtype=exact)
    m, n = torch.arange(text.past, text.length)[rows], torch.arange(text.length)
    for region in text.regions:
        shown = ((n >= region.lo(m)[:, None]) & (n < region.hi(m)[:, None])).to(logits.device)
        q = text.queries(region)[:, :, rows].unflatten(1, (text.key.shape[1], -1))
        score = (q @ text.keys(region)[:, :, None].mT).flatten(1, 2).to(exact) * text.scale
        logits = torch.where(shown, score, logits)
    return logits.softmax(-1)


@dataclass(frozen=True)
class _Measured(VerticalSlash):
    """Notes, for every layer, the attention that is kept."""

    masses: dict[int, Tensor] = field(default_factory=dict, compare=False)

    def keep(self, text: Text) -> Iterator[Recalled] | None:
        found = super().keep(text)
        if found is not None:
            kept = [
                (probabilities(text, rows)[..., : chosen.shape[-1]] * chosen[:, :, None]).sum(-1)
                for rows, chosen in self.chosen(text)
            ]
            self.masses[text.layer.index] = torch.cat(kept, -1).mean((0, 2)).cpu()
        return found


@torch.no_grad()
def kept_mass(model: nn.Module, ids: Tensor, sparse: VerticalSlash, *others: Method, to: int | None = None) -> Tensor:
    """The share of attention that falls on what is kept, a mean over the queries of a prompt: [extended layers, heads].

    1 at full budgets, and no smaller for larger ones. Layers see what the sparse layers below them give.

    Args:
        model: a live transformers model.
        ids: prompts of one length, without padding, [B, tokens].
        sparse: the sparsity to judge.
        others: methods that are on as well, such as ``DualChunk()``.
        to: target length in tokens.

    Raises:
        UserError: if the prompts are too short to be attended to sparsely.
    """
    from ropewalk.methods.compose import compose

    measured = _Measured(sparse.vertical, sparse.slash, sparse.sinks, sparse.near, sparse.last, sparse.threshold)
    with compose(measured, *others).on(model, to=to):
        model(ids, use_cache=False)
    if not measured.masses:
        least = max(sparse.threshold, sparse.last)
        raise UserError(f"{ids.shape[1]} tokens are attended to densely, expected at least {least}")
    return torch.stack([measured.masses[index] for index in sorted(measured.masses)])
