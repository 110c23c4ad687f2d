"""A temperature that makes attention over a long text as sharp as over a short one (arXiv 2311.00684, for T5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ropewalk.attention.recall import Recalled, Text
from ropewalk.attention.regions import Layer
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import SPARSITY, TEMPERATURE, AttentionMethod
from ropewalk.methods.attention.vertical_slash import probabilities
from ropewalk.methods.base import Method, require_above

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

By = Literal["max", "entropy"]
GRID = torch.linspace(0.2, 1.0, 81, dtype=torch.float64)  # of tau
ROWS = 8  # queries whose attention is held at once


@dataclass(frozen=True)
class AttentionAlignment(AttentionMethod):
    """Logits divided by one tau <= 1, the same for all layers, heads and queries.

    ``AttentionAlignment.fitted`` measures tau.

    Attributes:
        tau: divides the logits.
    """

    tau: float = 1.0

    name: ClassVar[str] = "attention-alignment"
    axes: ClassVar[frozenset[str]] = frozenset({TEMPERATURE})
    exact_near: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_above(0, self, "tau")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(tau=0.8),)

    def temperature(self, m: Tensor, layer: Layer) -> Tensor | None:
        return None if self.tau == 1 else torch.full_like(m, 1 / self.tau, dtype=torch.float64)

    @classmethod
    @torch.no_grad()
    def fitted(
        cls,
        model: nn.Module,
        ids: Tensor,
        window: int,
        *others: Method,
        by: By = "entropy",
        queries: int = 64,
        to: int | None = None,
    ) -> AttentionAlignment:
        """The tau at which attention over all of ``ids`` looks like that over their first ``window`` tokens.

        Compared are means over the last queries of all layers and heads, a few rows of scores at a time. The long text
        is read once, at tau = 1 in all layers; temperatures are tried on the scores of that pass.

        Args:
            model: a live transformers model.
            ids: texts of the target length, without padding, [B, tokens].
            window: L in tokens, the length to look like.
            others: methods that are on as well; without one, positions beyond the trained window are the model's own.
            by: "max", the mean largest probability, or "entropy".
            queries: how many of the last queries are compared.
            to: target length in tokens for ``others``.

        Raises:
            UserError: if the lengths make no sense, or no tau from 0.2 to 1 does it.
        """
        if by not in get_args(By):
            raise UserError(f"{cls.name}: by is {by!r}, expected 'max' or 'entropy'")
        if not 0 < queries <= window < ids.shape[1]:
            raise UserError(
                f"{cls.name}: queries is {queries}, window is {window}, the text has {ids.shape[1]} tokens; expected "
                "queries <= window < tokens"
            )
        wanted = float(_measured(model, ids[:, :window], others, by, queries, to)[-1])
        found = _measured(model, ids, others, by, queries, to)  # for every tau of the grid
        sharp = found <= wanted if by == "entropy" else found >= wanted
        if bool(sharp[-1]):
            return cls(1.0)
        if not bool(sharp[0]):
            raise UserError(
                f"{cls.name}: mean {by} is {wanted:.4g} at {window} tokens and {float(found[0]):.4g} at "
                f"{ids.shape[1]} tokens with tau = {float(GRID[0]):g}; no tau above that makes them equal"
            )
        above = int((~sharp).long().argmax())  # the first tau that is too flat; the one before it is sharp enough
        share = (wanted - found[above - 1]) / (found[above] - found[above - 1])
        return cls(float(GRID[above - 1] + share * (GRID[above] - GRID[above - 1])))


@dataclass(frozen=True)
class _Measuring(AttentionMethod):
    """Changes nothing; notes how sharp the last queries attend at every tau of the grid."""

    by: By = "entropy"
    queries: int = 64
    found: list[Tensor] = field(default_factory=list)

    name: ClassVar[str] = "measuring"
    axes: ClassVar[frozenset[str]] = frozenset({SPARSITY})
    by_content: ClassVar[bool] = True

    def recall(self, text: Text) -> Iterator[Recalled]:
        sums = torch.zeros_like(GRID)
        end = text.query.shape[2]
        for start in range(end - self.queries, end, ROWS):
            logs = probabilities(text, slice(start, min(start + ROWS, end))).log()
            for i, tau in enumerate(GRID.tolist()):
                scaled = (logs / tau).log_softmax(-1)
                sharp = scaled.amax(-1).exp() if self.by == "max" else -(scaled.exp() * scaled.clamp_min(-1e4)).sum(-1)
                sums[i] += float(sharp.double().sum())
        self.found.append(sums / (text.query[:, :, :, 0].numel() * self.queries / end))
        return iter(())


def _measured(
    model: nn.Module, ids: Tensor, others: tuple[Method, ...], by: By, queries: int, to: int | None
) -> Tensor:
    """Mean sharpness for every tau of the grid, over layers, heads and the last queries, float64."""
    from ropewalk.methods.compose import compose

    measuring = _Measuring(by=by, queries=queries)
    with compose(measuring, *others).on(model, to):
        model(ids, use_cache=False)
    return torch.stack(measuring.found).mean(0)
