"""What an attention method is: regions of keys with position maps, a temperature, or both; the engine does the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, nn

from ropewalk import __version__
from ropewalk.attention.attending import POSITIONS, SPARSITY, TEMPERATURE, VISIBILITY
from ropewalk.attention.engine import engaged
from ropewalk.attention.recall import Recalled, Text
from ropewalk.attention.regions import PLAIN, Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, digest
from ropewalk.rope import config as rope_config

__all__ = ["POSITIONS", "SPARSITY", "TEMPERATURE", "VISIBILITY", "AttentionMethod", "Layer", "Region"]


@dataclass(frozen=True)
class AttentionMethod(Method):
    """A method that changes what attention does.

    Subclasses write ``regions``, ``temperature``, ``recall`` or ``keep``, and ``check``.

    Attributes:
        by_content: whether the method picks keys by content (``recall`` or ``keep``); then it is for inference only.
        by_layer: whether ``temperature`` looks at the layer's index.
        far: whether ``regions`` leave some keys at distances beyond the window, as the plain model does.
        effective_window: treat the model as trained on this many tokens only (large positions are trained least);
            None means the window that its configuration states.
    """

    effective_window: int | None = field(default=None, kw_only=True)

    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS})
    by_content: ClassVar[bool] = False
    by_layer: ClassVar[bool] = False
    far: ClassVar[bool] = False

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        """Disjoint regions of keys; together, all that a query sees."""
        return PLAIN

    def temperature(self, m: Tensor, layer: Layer) -> Tensor | None:
        """Logit multiplier of queries at positions ``m`` (int64 [R, Q]): float [R, Q] or [R, H, Q], or None."""
        return None

    def picks(self, layer: Layer) -> bool:
        """Whether keys of this layer are picked by content; in others, ``recall`` and ``keep`` are not asked."""
        return self.by_content

    def recall(self, text: Text) -> Iterable[Recalled]:
        """Keys picked by content, seen beside those of the regions. Called in every forward pass."""
        return ()

    def keep(self, text: Text) -> Iterable[Recalled] | None:
        """The keys that are left of the regions, picked by content; None leaves the regions whole."""
        return None

    def check(self, layer: Layer) -> None:
        """Refuse options that do not fit the layer.

        Raises:
            UserError: naming the option, its value and the formula that it breaks.
        """

    # What follows is the same for all methods.

    @property
    def sets_regions(self) -> bool:
        """Whether ``regions`` says more than plain attention."""
        return not self.axes.isdisjoint({POSITIONS, VISIBILITY})

    def seen_as(self, layer: Layer) -> Layer:
        """The layer with the window that the method is to believe in.

        Raises:
            UserError: if that is more than the model was trained on.
        """
        if self.effective_window is None:
            return layer
        if not 1 <= self.effective_window <= layer.window:
            raise UserError(
                f"{self.name}: effective_window is {self.effective_window}, expected 1 to the trained window of "
                f"{layer.window} tokens"
            )
        return replace(layer, window=self.effective_window)

    def fingerprint(self, model: nn.Module, to: int, whole: Method | None = None) -> str:
        self.require(model, to, whole)
        specs = rope_config.read(model.config)  # type: ignore[arg-type]
        numbers = sorted((key, spec.window, spec.inv_freq.tolist()) for key, spec in specs.items())
        return digest("attention", __version__, self.id, to, numbers)

    @contextmanager
    def applied(self, model: nn.Module, to: int | None) -> Iterator[None]:
        with engaged(model, to, [self]):
            yield


class BlockwiseMethod(AttentionMethod):
    """Queries of a block pick their keys together: with blocks of one none sees the future, however a text is cut."""

    by_content: ClassVar[bool] = True

    @property
    def together(self) -> int | None:
        """Queries of a block; None means a number that goes by the layer."""
        raise NotImplementedError

    @property
    def cache_exact(self) -> bool:  # type: ignore[override]
        return self.together == 1

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return self.together == 1
