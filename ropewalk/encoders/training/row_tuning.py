"""Further tuning of a longer table: of the whole encoder only rows that are new learn (LongEmbed, arXiv 2404.12096)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.common.files import record_in
from ropewalk.encoders.encoder_method import RowMethod, encoder_methods
from ropewalk.encoders.training.encoder_training import Pace, descend
from ropewalk.encoders.training.frozen_rows import frozen_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ropewalk.encoders.encoder_folder import EncoderFolder

PACE = Pace(5e-4, warmup=100)
POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class Texts:
    """Texts as token ids, with what stands around them and the prompt.

    Attributes:
        ids: int64 [B, n].
        mask: int64 [B, n], 1 for tokens and 0 for padding behind them; no padding unless given.

    Raises:
        UserError: for anything else than tensors of one shape, such as strings.
    """

    ids: Tensor
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        for name, one in (("ids", self.ids), ("mask", self.ids if self.mask is None else self.mask)):
            if not isinstance(one, Tensor) or one.ndim != 2 or one.shape != self.ids.shape:
                seen = f"of shape {list(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
                raise UserError(
                    f"{name} is {seen}, expected a tensor [texts, tokens]" + (" like ids" if name == "mask" else ""),
                    "Take what a tokenizer gives: tokenizer(texts, padding=True, return_tensors='pt').",
                )


@dataclass(frozen=True)
class RowTuning:
    """How rows are tuned; the pace is the paper's for E5, of 512 pairs a step.

    Attributes:
        pace: of the rows.
        scale: of cosines: the inverse of the temperature that the model was tuned with.
        seed: of the offsets.
    """

    pace: Pace = PACE
    scale: float = 100.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LongTable:
    """The longer table of an encoder, and where its pretrained rows are.

    Attributes:
        embedding: the table, [first + T, h].
        first: row of position 0.
        rows: float64 [T], which pretrained row each position was made of.
    """

    embedding: nn.Embedding
    first: int
    rows: Tensor

    @classmethod
    def of(cls, model: PreTrainedModel, folder: EncoderFolder) -> LongTable:
        """The one of a folder that ``extend`` wrote.

        Raises:
            UserError: if it was not made longer by a table alone.
        """
        made = record_in(folder.path)
        methods = encoder_methods(made.get("method", "none"))
        table = methods.of(RowMethod)
        names = [name for name, _ in model.named_parameters() if folder.holds_table(name)]
        if table is None or len(methods.parts) != 1 or len(names) != 1 or folder.family is None:
            raise UserError(
                f"{folder.name} was extended by {methods.id}, expected a longer table of its rows, and nothing else",
                "Make one: ropewalk extend --method pi",
            )
        embedding = model.get_submodule(names[0].removesuffix(".weight"))
        assert isinstance(embedding, nn.Embedding)
        rows = table.rows(table.effective_window or made["window"], made["target"])
        return cls(embedding, folder.family.row(folder.config), rows)

    @property
    def old(self) -> Tensor:
        """Bool [T]: positions whose row is a pretrained one; of several that have the same one, the first."""
        first = [(self.rows[:j] != row).all() for j, row in enumerate(self.rows)]
        return torch.stack(first) & (self.rows == self.rows.floor())

    def as_before(self, n: int) -> Tensor:
        """int64 [n]: ``position_ids`` by which a text of n tokens is read as before it all, tuned or not.

        Raises:
            UserError: if not all of the first n pretrained rows are in the table.
        """
        at = self.old.nonzero()[:, 0]
        if not torch.equal(self.rows[at][:n], torch.arange(n, dtype=self.rows.dtype)):
            raise UserError(
                f"not all of the first {n:,} pretrained rows are in the longer table",
                "Extend to a multiple of the window.",
            )
        return self.first + at[:n]

    def offset(self, texts: Texts, draw: torch.Generator) -> Tensor:
        """int64 [B, n]: ``position_ids`` of texts that begin anywhere in the table, each by itself.

        Raises:
            UserError: for texts that are longer than the table.
        """
        count, n = texts.ids.shape
        if n > len(self.rows):
            raise UserError(f"a text has {n:,} tokens, and the table {len(self.rows):,} rows", "Cut it.")
        begin = torch.randint(0, len(self.rows) - n + 1, (count, 1), generator=draw)
        return self.first + begin + torch.arange(n)


def tune_rows(
    model: PreTrainedModel,
    folder: EncoderFolder,
    batches: Sequence[tuple[Texts, Texts]],
    settings: RowTuning | None = None,
) -> list[float]:
    """Tune the rows of a longer table that are no pretrained ones: questions find their documents.

    Texts are short, and begin anywhere in the table. Dropout is off.

    Args:
        model: the encoder of the folder, as ``AutoModel`` loads it.
        folder: that ``extend`` wrote.
        batches: questions and their documents.
        settings: how.

    Returns:
        The loss before each step.

    Raises:
        UserError: see ``LongTable``; or the folder pools in another way than by mean or first token.
    """
    settings = settings or RowTuning()
    table, pooling = LongTable.of(model, folder), _pooling(folder)
    draw = torch.Generator().manual_seed(settings.seed)
    frozen = torch.cat([torch.ones(table.first, dtype=torch.bool), table.old])

    def loss(batch: tuple[Texts, Texts]) -> Tensor:
        questions, documents = (pooled(model, texts, table.offset(texts, draw), pooling) for texts in batch)
        logits = settings.scale * F.normalize(questions, dim=-1) @ F.normalize(documents, dim=-1).T
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))

    model.eval()
    with _alone(model), frozen_rows(table.embedding, frozen):
        table.embedding.requires_grad_(True)
        return descend(table.embedding.parameters(), loss, batches, settings.pace)


def pooled(model: PreTrainedModel, texts: Texts, positions: Tensor, pooling: str = "mean") -> Tensor:
    """[B, e]: vectors of texts that stand at given positions.

    Args:
        model: the encoder.
        texts: B texts.
        positions: int64 [B or 1, n], rows of the table.
        pooling: "mean" over tokens, or "cls", the first one's.
    """
    device = texts.ids.device
    mask = torch.ones_like(texts.ids) if texts.mask is None else texts.mask
    positions = positions.to(device).expand_as(texts.ids)
    states: Tensor = model(input_ids=texts.ids, attention_mask=mask, position_ids=positions).last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    weights = mask[..., None].to(states)
    return (states * weights).sum(1) / weights.sum(1)


def _pooling(folder: EncoderFolder) -> str:
    found = folder.poolings or ("mean",)
    if folder.family is not None and folder.family.causal:
        raise UserError(
            f"{folder.name} pools at the end token; its rows learn with all of it",
            "Use vision.clip_training.train_long_clip.",
        )
    if len(found) > 1 or found[0] not in POOLINGS:
        raise UserError(f"{folder.name} pools by {' and '.join(found)}, expected {' or '.join(POOLINGS)}")
    return found[0]


@contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """Have no weight of a model learn, for a while."""
    before = {name: one.requires_grad for name, one in model.named_parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for name, one in model.named_parameters():
            one.requires_grad_(before[name])
