"""What a forward pass of training is of: tokens, targets, positions, documents and weights, each its own tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ropewalk.common.errors import UserError

IGNORED = -100  # a target that is none
PADDING = 2**31 - 1  # the document that padding is in


@dataclass(frozen=True, eq=False)
class Row:
    """One row before padding.

    Attributes:
        ids: int64 [N], its tokens.
        positions: int64 or float64 [N], where the model is told that they stand.
        documents: int64 [N], 0 or more; tokens of different documents do not see each other.
        weights: float32 [N], of the loss of predicting each token; of a document's first one it counts for nothing.
    """

    ids: NDArray[np.int64]
    positions: NDArray[Any]
    documents: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one length. Padding stands behind the end of a row, in a document of its own, and has no loss.

    There is no mask: who sees whom follows from places and documents.

    Attributes:
        input_ids: int64 [B, N].
        targets: int64 [B, N], the token that each place predicts; ``IGNORED`` where it predicts none.
        weights: float32 [B, N], of the loss at each place; 0 where there is no target.
        position_ids: int64 or float32 [B, N].
        document_ids: int64 [B, N].
    """

    input_ids: Tensor
    targets: Tensor
    weights: Tensor
    position_ids: Tensor
    document_ids: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Batch:
        """Rows, padded to the longest; targets are shifted here, and never cross documents.

        Raises:
            UserError: if there is no row, or one is empty or has columns of several lengths.
        """
        for row in rows:
            if not len(row.ids) == len(row.positions) == len(row.documents) == len(row.weights) > 0:
                raise UserError(
                    f"a row of training has {len(row.ids)} tokens, {len(row.positions)} positions, "
                    f"{len(row.documents)} documents and {len(row.weights)} weights, expected one number of each"
                )
        if not rows:
            raise UserError("a batch of no rows, expected one at least")
        parts = [_row(row, max(len(row.ids) for row in rows)) for row in rows]
        return cls(*(torch.stack(column) for column in zip(*parts, strict=True)))

    @property
    def packed(self) -> bool:
        """Whether a row holds more than one document, padding aside."""
        changes = self.document_ids[:, 1:] != self.document_ids[:, :-1]
        return bool((changes & (self.document_ids[:, 1:] != PADDING)).any())

    @property
    def real(self) -> Tensor:
        """What is no padding, bool [B, N]."""
        return self.document_ids != PADDING

    def unpadded(self) -> Batch:
        """All tokens that are no padding, as one row in which the rows' documents are apart (arXiv 2210.03052)."""
        rows = torch.arange(len(self.input_ids), device=self.input_ids.device)[:, None]
        count = int(self.document_ids[self.real].max()) + 1
        apart = replace(self, document_ids=self.document_ids + rows * count)
        return replace(apart, **{one.name: getattr(apart, one.name)[self.real][None] for one in fields(self)})

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        return replace(self, **{one.name: getattr(self, one.name).to(device) for one in fields(self)})

    def split(self, rows: int) -> Iterator[Batch]:
        """Batches of ``rows`` rows each; the last one may have fewer."""
        for start in range(0, len(self.input_ids), rows):
            part = slice(start, start + rows)
            yield replace(self, **{one.name: getattr(self, one.name)[part] for one in fields(self)})

    def apart(self) -> Iterator[Batch]:
        """Every document of every row as a batch of its own; padding is left out."""
        for row, documents in zip(self.split(1), self.document_ids, strict=True):
            for document in documents.unique():
                inside = documents == document
                if document != PADDING:
                    yield replace(row, **{one.name: getattr(row, one.name)[:, inside] for one in fields(self)})


def _row(row: Row, width: int) -> tuple[Tensor, ...]:
    room = width - len(row.ids)
    documents, weights = row.documents, row.weights.astype(np.float32)
    follows = np.append(documents[1:] == documents[:-1], False)
    weight = np.append(weights[1:], np.float32(0)) * follows
    target = np.where(weight > 0, np.append(row.ids[1:], 0), IGNORED)
    positions = row.positions if row.positions.dtype.kind == "i" else row.positions.astype(np.float32)
    ends = positions[-1] + 1 + np.arange(room, dtype=positions.dtype)
    columns: tuple[tuple[NDArray[Any], Any], ...] = (
        (row.ids, 0), (target, IGNORED), (weight, 0), (positions, ends), (documents, PADDING),
    )  # fmt: skip
    return tuple(
        torch.from_numpy(np.concatenate([x, np.broadcast_to(np.asarray(fill, x.dtype), room)])) for x, fill in columns
    )
