"""One forward and one backward pass over a whole batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu

from ropewalk.attention.engine import attending_plainly
from ropewalk.attention.spread import Spread
from ropewalk.common.errors import UserError
from ropewalk.rope.live import ON, ROWS, decoder, still
from ropewalk.training.checkpointing import checkpointed
from ropewalk.training.loss import Head
from ropewalk.training.sharding import inside, is_sharded
from ropewalk.training.tiled_mlp import tiled_mlps
from ropewalk.training.training_batch import Batch

TRIED = 12  # tokens of each of two documents that a model is tried on
TAIL = 3  # of the first one's, which are changed: those that a short convolution carries across
UNMOVED = 1e-4  # of what hidden states change by elsewhere: experts round otherwise

_apart: WeakKeyDictionary[nn.Module, dict[tuple[str, bool], bool]] = WeakKeyDictionary()


@torch.no_grad()
def require_apart(model: nn.Module) -> None:
    """Refuse a model in which a document of a packed row sees the one before it; no number of anybody's is drawn.

    Raises:
        UserError: also if attention cannot be followed, or has dropout.
    """
    body: Any = decoder(model)
    device = next(body.parameters()).device
    ids = torch.arange(3, 3 + 2 * TRIED, device=device)[None] % int(body.config.vocab_size)
    other = ids.clone()
    other[:, TRIED - TAIL : TRIED] = ids[:, :TAIL]
    places = torch.arange(TRIED, device=device).repeat(2)[None]
    given = {"position_ids": places, "document_ids": (torch.arange(2 * TRIED, device=device) // TRIED)[None]}
    with torch.random.fork_rng(), attending_plainly(model):
        body(input_ids=ids, use_cache=False, **given)  # in the mode that it is in: dropout of attention is refused
        with still(body):
            one, two = (body(input_ids=some, use_cache=False, **given)[0][0] for some in (ids, other))
    moved = (two - one).abs().amax(-1)
    if float(moved[TRIED:].max()) > UNMOVED * float(moved[:TRIED].max()):
        raise UserError(
            f"{type(model).__name__} carries something from one packed document to the next, beside attention: its "
            "layers have states or convolutions",
            "Say --packing none, or --scope sequence, where documents see each other.",
        )


def keeps_apart(model: nn.Module) -> bool:
    """Whether rows may go through a model as documents of one row, unpadded; asked once per method and mode."""
    known, setting = _apart.setdefault(model, {}), (getattr(decoder(model), ON, ""), model.training)
    if setting not in known:
        try:
            require_apart(model)
            known[setting] = True
        except UserError as error:
            logging.getLogger("ropewalk").info("rows are padded: %s", error.message)
            known[setting] = False
    return known[setting]


@dataclass(frozen=True)
class OneShot:
    """All activations at once.

    Rows of one document go through the model as it is, with a mask of ones: without one, transformers takes positions
    that jump for documents. Packed rows go through the region engine, which knows documents, and builds no mask; so do
    rows of several lengths, as one row without padding, where the model keeps documents apart and is not sharded.
    Where a method looks from row to row they stay as they are, and the mask says what is padding.
    Methods that are on stay on.

    Attributes:
        checkpoint: keep each layer's input alone, and compute the rest again in the backward pass.
        selective: keep what attention computed as well, so that it is not computed again; takes ``checkpoint``.
        offload: keep the layers' inputs in the host's memory; takes ``checkpoint``. On the CPU nothing moves.
        tiled_mlp: MLPs over pieces of tokens, which are computed again.
        spread: processes that share each sequence; batches are the part of this one, and so are losses.
    """

    checkpoint: bool = False
    selective: bool = False
    offload: bool = False
    tiled_mlp: bool = False
    spread: Spread | None = None

    def __post_init__(self) -> None:
        for name in ("selective", "offload"):
            if getattr(self, name) and not self.checkpoint:
                raise UserError(f"{name} is about what a checkpoint keeps", "Set checkpoint=True too.")

    def backward(self, model: nn.Module, batch: Batch, denominator: float) -> Tensor:
        """The weighted sum of the tokens' losses over ``denominator``; gradients are added to ``.grad``.

        Args:
            model: a live transformers model with a language-model head.
            batch: on the model's device.
            denominator: what the sum is divided by: the weights of all tokens of the step, over all its batches.

        Raises:
            UserError: if head or attention cannot be followed.
        """
        some = self._unpadded(model, batch)

        def summed(head: Head, hidden: Tensor) -> Tensor:
            return head.loss(hidden, some.targets.flatten(), some.weights.flatten() / denominator)

        with self._read(model, some, summed) as loss:
            loss.backward()
        return loss.detach()

    @torch.no_grad()
    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of every place, float32 [B, N], 0 where there is no target; without gradients and weights.

        Raises:
            UserError: as ``backward``.
        """
        some = self._unpadded(model, batch)
        with self._read(model, some, lambda head, hidden: head.losses(hidden, some.targets.flatten())) as found:
            if some is batch:
                return found.view(batch.targets.shape)
            losses = found.new_zeros(batch.targets.shape)
            losses[batch.real] = found
            return losses

    def _unpadded(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch as it is read."""
        real = batch.real
        stays = self.spread is not None or is_sharded(model) or hasattr(decoder(model), ROWS)
        if stays or bool(real.all()) or not bool(real.any()):
            return batch
        return batch.unpadded() if keeps_apart(model) else batch

    @contextmanager
    def _read(self, model: nn.Module, batch: Batch, use: Callable[[Head, Tensor], Tensor]) -> Iterator[Tensor]:
        """What ``use`` makes of the last hidden states of all places, [B * N, D]; the backward pass belongs inside."""
        given: dict[str, Any] = {}
        with ExitStack() as stack:
            if batch.packed or self.spread is not None:
                engine = stack.enter_context(attending_plainly(model))
                stack.enter_context(engine.spreading(self.spread))
                given["document_ids"] = batch.document_ids
            else:
                rows = hasattr(decoder(model), ROWS)
                given["attention_mask"] = batch.real.long() if rows else torch.ones_like(batch.input_ids)
            stack.enter_context(checkpointed(model, self.checkpoint and torch.is_grad_enabled(), self.selective))
            stack.enter_context(tiled_mlps(model, self.tiled_mlp))

            def forward() -> Tensor:
                body: Any = decoder(model)
                hidden = body(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **given)[0]
                return use(Head.of(model), hidden.flatten(0, 1))

            with save_on_cpu(batch.input_ids.is_cuda) if self.offload else nullcontext():
                found = inside(model, forward)
            yield found
