"""An embedding model that runs: token ids in, the states of tokens or the pooled vector out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ropewalk.backends.text_encoder import loaded_from, text_encoder
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_folder import EncoderFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

PROBE = "A rope of three strands."  # so short that every model reads it whole
TOLERANCE = 0.02  # relative: the rounding of half precision
TOKENS = 16384  # in a batch
MEND = "Name a folder or a hub id of an embedding model, with weights in safetensors."
PER_POSITION = frozenset({"position_ids", "token_type_ids"})  # buffers with an entry for each row of the table


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Of a text, without what stands around it, and not cut."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def around(tokenizer: Any, name: str) -> tuple[list[int], list[int]]:
    """Ids that a tokenizer puts before and behind every text.

    Raises:
        UserError: if it puts something else than ids there.
    """
    encoded = tokenizer(PROBE, return_special_tokens_mask=True)
    ids, special = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
    first, last = special.index(0), len(special) - special[::-1].index(0)
    if ids[first:last] != ids_of(tokenizer, PROBE):
        raise UserError(f"{name} reads a text as other tokens with what stands around it than without", MEND)
    return ids[:first], ids[last:]


class Encoder:
    """A model of sentence-transformers.

    Args:
        name: its folder or hub id.
        mend: what to do where it cannot be loaded.

    Raises:
        UserError: if the library is missing, there is no such model, or its weights lack tensors of the encoder.
    """

    def __init__(self, name: str, mend: str = MEND):
        self.model, self.described = text_encoder(name, mend)
        if hasattr(self.model[0], "auto_model") and (place := loaded_from(self.body)) is not None:
            EncoderFolder(Checkpoint(str(place))).refuse_lacking()
        self.model.eval()
        self.name = name

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    @property
    def body(self) -> torch.nn.Module:
        """The model of transformers."""
        body: torch.nn.Module = self.model[0].auto_model
        return body

    def ids(self, text: str) -> list[int]:
        """Of a text, without what stands around it, and not cut."""
        return ids_of(self.tokenizer, text)

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """Ids that stand before and behind every text, prompts not counted; see ``around``."""
        return around(self.tokenizer, self.name)

    @property
    def pools_itself(self) -> bool:
        """Whether the encoder pools, as CLIP does, and no module behind it."""
        return self._pooling == 0

    @cached_property
    def _pooling(self) -> int:
        """Number of the module that pools; those before it change states of tokens, those behind it vectors.

        Raises:
            UserError: if there is none.
        """
        kinds = [type(module).__name__ for module in self.model]
        if getattr(self.model[0], "module_output_name", None) == "sentence_embedding" or kinds[0] == "CLIPModel":
            return 0
        if "Pooling" not in kinds:
            raise UserError(f"{self.name}: none of its modules pools ({' > '.join(kinds)}), expected Pooling", MEND)
        return kinds.index("Pooling")

    @cached_property
    def pools_by_mean(self) -> bool:
        """Whether a text's vector is made of the mean over its tokens, which late chunking needs."""
        if self.pools_itself:
            return False
        before, behind = self.around
        ids = [*before, *self.ids(PROBE), *behind]
        states, pooled = self.states([ids]), self.pooled([ids])
        if states.shape[2] != pooled.shape[1]:  # two ways to pool, side by side
            return False
        mean = self.projected(states.mean(1))[0]
        own = np.asarray(self.model.encode([PROBE], prompt="", show_progress_bar=False), np.float32)[0]
        return bool(np.linalg.norm(mean - own) <= TOLERANCE * np.linalg.norm(own))

    def states(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """float64 [B, n, e]: what is pooled of each token of rows of one length."""
        features = self._read(rows)
        return np.asarray(features["token_embeddings"].double().cpu())

    def pooled(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """float32 [B, e]: the vectors of texts of any lengths, behind the pooling alone.

        Rows of one length are read together, so that nothing is padded and no text is read otherwise for the others.
        """
        found: dict[int, Any] = {}
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(i)
        for length, some in by_length.items():
            step = max(1, TOKENS // length)
            for first in range(0, len(some), step):
                batch = some[first : first + step]
                features = self._read([rows[i] for i in batch])
                if not self.pools_itself:
                    with torch.no_grad():
                        features = self.model[self._pooling](features)
                found |= dict(zip(batch, features["sentence_embedding"].float().cpu().numpy(), strict=True))
        return np.asarray([found[i] for i in range(len(rows))], np.float32)

    def projected(self, pooled: NDArray[Any]) -> NDArray[np.float32]:
        """float32 [B, e]: what the model makes of pooled vectors, such as one of length 1, or of other size."""
        features = {"sentence_embedding": torch.tensor(pooled, dtype=self.model.dtype, device=self.model.device)}
        with torch.no_grad():
            for module in list(self.model)[self._pooling + 1 :]:
                features = module(features)
        return np.asarray(features["sentence_embedding"].float().cpu())

    def _read(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        ids = torch.tensor([list(row) for row in rows], device=self.model.device)
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self._typed:  # some models keep them for as many tokens as their window has
            features["token_type_ids"] = torch.zeros_like(ids)
        with torch.no_grad():
            for module in list(self.model)[: max(1, self._pooling)]:
                features = module(features)
        return features

    @cached_property
    def _typed(self) -> bool:
        return "token_type_ids" in inspect.signature(self.body.forward).parameters


@dataclass(frozen=True, eq=False)
class LiveTable:
    """The table of positions of a model that runs, which can be another one for a while.

    Attributes:
        embedding: holds the rows.
        owner: the module around it, with buffers that have an entry for each row.
        first: row of position 0.
    """

    embedding: torch.nn.Embedding
    owner: torch.nn.Module
    first: int

    @classmethod
    def of(cls, encoder: Encoder, folder: EncoderFolder) -> LiveTable:
        """The one of an encoder, by the name that its family gives it.

        Raises:
            UserError: if it is not there, or the model does not read its rows in order.
        """
        names = [name for name, _ in encoder.body.named_parameters() if folder.holds_table(name)]
        if len(names) != 1 or folder.family is None:
            raise UserError(f"{folder.name} has {len(names)} tables of positions, expected one")
        where = names[0].removesuffix(".weight")
        embedding, owner = encoder.body.get_submodule(where), encoder.body.get_submodule(where.rpartition(".")[0])
        assert isinstance(embedding, torch.nn.Embedding)
        table = cls(embedding, owner, folder.family.row(folder.config))
        table._check(encoder)
        return table

    @property
    def pretrained(self) -> Tensor:
        """[L, h]: the rows of positions, from that of position 0 on."""
        return self.embedding.weight.detach()[self.first :]

    @contextmanager
    def being(self, rows: Tensor) -> Iterator[None]:
        """Have other rows of positions, [T, h], for a while; bit for bit as before afterwards."""
        weight, size = self.embedding.weight, self.embedding.num_embeddings
        buffers = {name: one for name, one in self.owner.named_buffers(recurse=False) if name in PER_POSITION}
        longer = torch.cat([weight.detach()[: self.first], rows.to(weight)])
        try:
            self.embedding.weight = torch.nn.Parameter(longer, requires_grad=False)
            self.embedding.num_embeddings = len(longer)
            for name, old in buffers.items():
                count = torch.arange(len(longer), device=old.device)[None]
                setattr(self.owner, name, count if name == "position_ids" else torch.zeros_like(count))
            yield
        finally:
            self.embedding.weight, self.embedding.num_embeddings = weight, size
            for name, old in buffers.items():
                setattr(self.owner, name, old)

    def _check(self, encoder: Encoder) -> None:
        """Refuse a model that reads other rows than first, first + 1, ... of the table."""
        before, behind = encoder.around
        ids = [*before, *encoder.ids(PROBE)][: len(self.pretrained) - 1 - len(behind)] + behind
        plain, n = encoder.pooled([ids]), len(ids)
        rows = self.pretrained.clone()
        uneven = torch.linspace(0, 1, rows.shape[1]).to(rows)  # what is even is normalised away
        rows[n:] += uneven
        with self.being(rows):
            beyond = encoder.pooled([ids])
        rows = self.pretrained.clone()
        rows[n - 1] += uneven
        with self.being(rows):
            last = encoder.pooled([ids])
        if not np.array_equal(plain, beyond) or np.array_equal(plain, last):
            raise UserError(
                f"{encoder.name} does not read row {self.first} + j of its table of positions at position j",
                "It cannot be made longer by a table here.",
            )


@contextmanager
def called(body: torch.nn.Module) -> Iterator[None]:
    """Have calls of ``body.forward``, by which sentence-transformers reads, go through its hooks for a while."""
    forward: Any = body.forward

    @wraps(forward)
    def through(*arguments: Any, **keywords: Any) -> Any:
        body.forward = forward
        try:
            return body(*arguments, **keywords)
        finally:
            body.forward = through

    try:
        body.forward = through
        yield
    finally:
        del body.forward


@contextmanager
def holding(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Have other values in some parameters, of the same shapes, for a while."""
    parameters = dict(model.named_parameters())
    kept = {name: parameters[name].data for name in weights}
    try:
        for name, value in weights.items():
            parameters[name].data = value.to(parameters[name])
        yield
    finally:
        for name, old in kept.items():
            parameters[name].data = old
