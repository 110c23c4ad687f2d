"""Extensible Tokenization: a small model's outputs stand in place of token embeddings of the past (arXiv 2401.07793).

The small model reads each past window by itself; of its outputs every ``ratio``-th goes to the model as an embedding.
The two passes of the paper's loss, over all such embeddings and then over the tokens of each window behind those of
earlier ones, are here one pass from window to window: it gives each token the same loss.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.methods.base import require_above
from ropewalk.methods.memory.condensing import CondensingMethod, State, WindowReader, Windows
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 4  # of the layers, that the small model has where none is said: 8 of 32 in the paper


class SmallModel(nn.Module):
    """What is learnt: copies of the model's first layers, which go through its own code.

    Args:
        model: a live transformers model.
        layers: how many.
    """

    def __init__(self, model: nn.Module, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in _layers(model)[:layers])

    def read(self, body: Any, embedded: Tensor) -> Tensor:
        """Outputs [B, n, D] of token embeddings [B, n, D]: the hidden states behind the last of the layers."""
        with self._in_place(body):
            outputs: Tensor = body(inputs_embeds=embedded, use_cache=False)[0]
        return outputs

    @contextmanager
    def _in_place(self, body: Any) -> Iterator[None]:
        own = body.layers, body.norm
        body.layers, body.norm = self.layers, nn.Identity()
        try:
            yield
        finally:
            body.layers, body.norm = own


class ExtensibleReader(WindowReader):
    """Carries on the keys and values that the model itself has for a small model's outputs.

    Args:
        small: as it is trained.
    """

    def __init__(self, model: nn.Module, small: SmallModel, windows: Windows, ratio: int, drawn: Sequence[int]):
        super().__init__(model, windows, ratio, drawn)
        self.small = small

    def condense(self, state: State, ratio: int) -> None:
        embedded = self.body.get_input_embeddings()(state.ids)
        outputs = self.small.read(self.body, embedded)[:, ratio - 1 :: ratio]
        cached: Any
        for cached in state.cache.layers:
            cached.keys, cached.values = cached.keys[:, :, : state.carried], cached.values[:, :, : state.carried]
        self.behind(state, state.carried, inputs_embeds=outputs)


def _layers(model: nn.Module) -> nn.ModuleList:
    body = decoder(model)
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(getattr(body, "norm", None), nn.Module):
        raise UserError(
            f"ext-tok: {type(body).__name__} has no layers and norm of these names, of which a small model is made",
            "Use another method: ropewalk methods",
        )
    return layers


@dataclass(frozen=True)
class ExtensibleTokenization(CondensingMethod):
    """Past windows are read as one embedding for every ``ratio`` tokens; only what makes them is learnt.

    Attributes:
        layers: of the small model; None means a quarter of the model's.
    """

    layers: int | None = None

    name: ClassVar[str] = "ext-tok"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(0, self, "layers")

    def costs(self, model: nn.Module) -> str:
        return (
            f"tokens of past windows are read again by {self._count(model)} layers, and an embedding for every "
            f"{self.every} of them by all"
        )

    def added(self, model: PreTrainedModel) -> nn.Module:
        return SmallModel(model, self._count(model))

    def _count(self, model: nn.Module) -> int:
        """Layers of the small model."""
        count = len(_layers(model))
        layers = self.layers or -(-count // SHARE)
        if layers > count:
            raise UserError(f"{self.name}: layers is {layers}, expected at most the {count} that the model has")
        return layers

    def reader(self, model: nn.Module, to: int) -> ExtensibleReader:
        windows = self.windows(model.config)  # type: ignore[arg-type]
        small: Any = model.ropewalk_memory
        return ExtensibleReader(model, small, windows, self.ratio_for(windows, to), self.drawn)
