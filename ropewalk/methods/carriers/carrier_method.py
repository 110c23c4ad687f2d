"""What a method for models without a rope is: it acts on what carries their positions, live or in the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ropewalk import __version__
from ropewalk.attention import cache_owner
from ropewalk.carriers.carrier import Carrier, carrier_of
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show
from ropewalk.methods.base import Method, digest
from ropewalk.methods.carriers.carrier_entries import BY_ID, fits, fitting
from ropewalk.methods.catalogue import Entry
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CarrierMethod(Method):
    """A method; subclasses write ``acting``, and ``weights`` where a folder can say it.

    Attributes:
        effective_window: treat the model as made for this many tokens; None means what its configuration says.
    """

    effective_window: int | None = field(default=None, kw_only=True)

    axes: ClassVar[frozenset[str]] = frozenset({"carrier"})
    exact_near: ClassVar[bool] = False

    @property
    def entry(self) -> Entry:
        """What the list says of it."""
        return BY_ID[self.name]

    def window(self, carrier: Carrier) -> int:
        """Tokens that the model was made for.

        Raises:
            UserError: if nothing says it, or the option says more than the model has.
        """
        said, own = self.effective_window, carrier.window
        if said is None and own is None:
            raise UserError(
                f"no key of this {carrier.model_type} says for how many tokens it was made, which {self.name} needs",
                f"Say it: {self.name}(effective_window=2048), for 2,048 tokens.",
            )
        if said is not None and not 2 <= said <= (own or said):
            most = "" if own is None else f" to {own}"
            raise UserError(f"{self.name}: effective_window is {said}, expected 2{most}, the window of the model")
        window = said or own
        assert window is not None
        return window

    def check(self, carrier: Carrier, to: int) -> int:
        """Refuse a model or a target that the method is not for; the window that it starts from.

        Raises:
            UserError: naming the two, and what fits.
        """
        if not fits(self.entry, carrier.kind):
            raise UserError(
                f"{self.name} is for models whose positions are carried by: {self.entry.kind}; of this one it is: "
                f"{carrier.kind}",
                f"For it there are {', '.join(fitting(carrier.kind))}.",
            )
        window = self.window(carrier)
        if to <= window:
            raise UserError(
                f"the target of {to:,} tokens is not beyond the window of {window:,}, where {self.id} changes nothing",
                f"Say --to {show(2 * window)}, or more.",
            )
        return window

    def weights(self, carrier: Carrier, pretrained: Mapping[str, Tensor], to: int) -> dict[str, Tensor]:
        """Name -> new value of the weights that say the method.

        Args:
            carrier: of the model.
            pretrained: its weights, by the names of its files.
            to: target length in tokens.

        Raises:
            UserError: if no folder can say it, with the reason.
        """
        raise UserError(f"{self.id} cannot be saved: {self.why_not_saved()}", "Use it at run time: ropewalk compare.")

    def acting(self, model: nn.Module, carrier: Carrier, to: int) -> Iterator[None]:
        """Put it on a live model, yield once, and take it off."""
        raise TypeError(f"{type(self).__name__} does nothing")

    # What follows is the same for all methods.

    def fingerprint(self, model: nn.Module, to: int, whole: Method | None = None) -> str:
        self.check(carrier_in(model), to)
        return digest("carrier", __version__, self.id, to)

    def extend(self, model: PreTrainedModel, to: int | str, on_top: bool | None = None) -> None:
        raise UserError(
            f"{self.id} is written into a folder, or put on a live model for a while; not into a live model for good",
            f"ropewalk extend MODEL --to {to} --method {self.name}, or: with method.on(model, to=...).",
        )

    @contextmanager
    def applied(self, model: nn.Module, to: int | None) -> Iterator[None]:
        carrier = carrier_in(model)
        length = to or carrier.window or 0
        self.check(carrier, length)
        with (
            cache_owner.owned(decoder(model), f"{self.id} for {length:,} tokens"),
            contextmanager(self.acting)(model, carrier, length),
        ):
            yield


def carrier_in(model: nn.Module) -> Carrier:
    """What carries the positions of a live model.

    Raises:
        UserError: if it has a rope, or is not known.
    """
    from ropewalk.carriers.carrier import has_none

    config = model.config
    if not has_none(config.to_dict()):  # type: ignore[operator, union-attr]
        raise UserError(
            f"{type(model).__name__} is no model without a rope that is known here", "ropewalk methods lists others."
        )
    return carrier_of(config)  # type: ignore[arg-type]
