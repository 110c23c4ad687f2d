"""What every method for encoders is: a frozen value that edits weights, or a way to read a text into vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ropewalk.carriers.table_rows import between_rows
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.lengths import show
from ropewalk.common.naming import spelled
from ropewalk.encoders.encoder_entries import BY_ID, ENCODER_METHODS, FITTING, EncoderEntry
from ropewalk.encoders.families import ROPE, TABLE, UNKNOWN
from ropewalk.methods.base import require_beyond
from ropewalk.methods.catalogue import BY_NAME, method, options_of, split
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ropewalk.encoders.extended_encoder import ExtendedEncoder
    from ropewalk.methods.base import Method

PLAIN = "none"
Kind = TypeVar("Kind", bound="EncoderMethod")


@dataclass(frozen=True)
class EncoderMethod:
    """Base of all methods; fields of a subclass are its options.

    Attributes:
        name: the id in the list of methods.
        axis: what it decides: "table", "rope", "limits", "logits" or "reading"; methods compose if their axes differ.
    """

    name: ClassVar[str]
    axis: ClassVar[str]

    @property
    def id(self) -> str:
        """The name, and options that differ from their defaults: ``pi(effective_window=128)``."""
        changed = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return spelled(self.name, changed)

    @property
    def entries(self) -> tuple[EncoderEntry, ...]:
        """What the lists say of it."""
        return (BY_ID[self.name],)

    def check(self, window: int, to: int) -> None:
        """Refuse options that make no sense for a model.

        Args:
            window: tokens that the encoder was made for.
            to: target length in tokens.

        Raises:
            UserError: naming the option, the value seen and what is expected.
        """


@dataclass(frozen=True)
class Growing(EncoderMethod):
    """Has texts of up to the target read at once."""

    @property
    def saved(self) -> bool:
        """Whether a folder says it as it is, for texts of every length."""
        return True

    def check(self, window: int, to: int) -> None:
        if to <= window:
            raise UserError(
                f"the target of {to:,} tokens is not beyond the {window:,} that are read without {self.id}",
                f"Say --to {show(2 * window)}, or more.",
            )


@dataclass(frozen=True)
class RopeMethod(Growing):
    """What extends language models, for encoders that rotate as these do.

    Attributes:
        method: of the list of methods.
    """

    method: Method

    name: ClassVar[str] = "rope"
    axis: ClassVar[str] = "rope"

    @property
    def id(self) -> str:
        return self.method.id

    @property
    def saved(self) -> bool:
        return isinstance(self.method, FrequencyMethod) and not self.method.runtime

    @property
    def entries(self) -> tuple[EncoderEntry, ...]:
        found = [BY_NAME[re.sub(r"\(.*", "", part, flags=re.DOTALL)] for part in split(self.id, "+")]
        return tuple(
            EncoderEntry(one.id, one.title, one.where, one.summary, "rope", one.exportable, one.paper) for one in found
        )

    def check(self, window: int, to: int) -> None:
        require_beyond([self.method], to, window)


@dataclass(frozen=True)
class TableMethod(Growing):
    """Makes a longer table of positions out of the one that there is.

    Attributes:
        effective_window: rows of the table that are used, from its beginning on; all of them unless given. Models are
            often tuned on texts that are much shorter than their table.
        follow: stretch for the length of each text, not for the target; for texts that code reads, since a file holds
            one table.
    """

    effective_window: int | None = None
    follow: bool = False
    axis: ClassVar[str] = "table"

    @property
    def saved(self) -> bool:
        return not self.follow

    def table(self, pretrained: Tensor, to: int) -> Tensor:
        """The longer table.

        Args:
            pretrained: [L, h], a row for each position.
            to: positions, T.

        Returns:
            [T, h], of the same type.
        """
        raise TypeError(f"{type(self).__name__} makes no table")

    def check(self, window: int, to: int) -> None:
        used = self.effective_window
        if used is not None and not (isinstance(used, int) and 2 <= used <= window):
            raise UserError(f"{self.name}: effective_window is {used!r}, expected 2 to {window}, the rows of the table")
        if to <= (used or window):
            raise UserError(
                f"the target of {to:,} tokens is not beyond the {used or window:,} rows that {self.id} uses",
                f"Say --to {show(2 * (used or window))}, or more.",
            )


@dataclass(frozen=True)
class RowMethod(TableMethod):
    """Makes each row of the longer table out of one row, or of two neighbours."""

    def rows(self, window: int, to: int) -> Tensor:
        """Which row each position reads; between two rows, both in proportion.

        Args:
            window: rows that are used.
            to: positions.

        Returns:
            float64 [to].
        """
        raise TypeError(f"{type(self).__name__} has no rows")

    def table(self, pretrained: Tensor, to: int) -> Tensor:
        """See ``TableMethod``; bit for bit the pretrained rows where a position reads a whole one."""
        window = self.effective_window or len(pretrained)
        return between_rows(pretrained[:window], self.rows(window, to))


@dataclass(frozen=True)
class LogitMethod(EncoderMethod):
    """Scales all logits of attention, which a checkpoint says in the projections of its queries."""

    axis: ClassVar[str] = "logits"

    @property
    def scale(self) -> float:
        """What logits are multiplied by."""
        raise TypeError(f"{type(self).__name__} has no scale")


@dataclass(frozen=True)
class Reading(EncoderMethod):
    """How a text becomes one vector or several; of several, a question takes the one that is nearest."""

    axis: ClassVar[str] = "reading"

    def vectors(self, encoder: ExtendedEncoder, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [k, e], of length 1.

        Args:
            encoder: that reads.
            ids: of the text, without what stands around it.
        """
        raise TypeError(f"{type(self).__name__} reads nothing")


@dataclass(frozen=True)
class EncoderMethods:
    """Methods that are on together, at most one for each axis; none of them is the plain model.

    Attributes:
        parts: in the order in which they are spelled.
    """

    parts: tuple[EncoderMethod, ...] = ()

    @property
    def id(self) -> str:
        return "+".join(part.id for part in self.parts) or PLAIN

    @cached_property
    def by_axis(self) -> Mapping[str, EncoderMethod]:
        return {part.axis: part for part in self.parts}

    def of(self, kind: type[Kind]) -> Kind | None:
        """The part of a kind."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    @property
    def saved(self) -> bool:
        """Whether a folder says all of it."""
        growing = self.of(Growing)
        return self.of(Reading) is None and (growing is None or growing.saved)

    def refuse_elsewhere(self, positions: str) -> None:
        """Refuse what changes something that an encoder does not have.

        Args:
            positions: what decides how far it reads, of ``families``.

        Raises:
            UserError: naming the method, and those that there are.
        """
        for part in self.parts:
            if part.axis not in FITTING[positions]:
                fitting = [one.id for one in ENCODER_METHODS if one.axis in FITTING[positions]]
                raise UserError(
                    f"{part.id} changes the {part.axis} of an encoder, and how far this one reads is decided by: "
                    f"{positions}",
                    f"For it there are {', '.join(fitting)}.",
                )

    def check(self, window: int, to: int) -> None:
        """Refuse what makes no sense for a model; see ``EncoderMethod.check``."""
        for part in self.parts:
            part.check(window, to)

    @property
    def entries(self) -> list[EncoderEntry]:
        return [entry for part in self.parts for entry in part.entries] or [BY_ID[PLAIN]]

    @property
    def title(self) -> str:
        """The name in reports, with options that are not the default."""
        parts = [
            " + ".join(entry.title for entry in part.entries) + "".join(" " + one for one in _options(part.id))
            for part in self.parts
        ]
        return " + ".join(parts) or BY_ID[PLAIN].title


def _options(spelling: str) -> list[str]:
    return [part[part.index("(") :] for part in split(spelling, "+") if "(" in part]


def encoder_methods(spelling: str, positions: str = TABLE) -> EncoderMethods:
    """Methods from their spelling: ``pi``, ``grouped(effective_window=128)``, ``pi+tempscale+late-chunking``.

    Of an encoder that rotates, names are those of methods for language models: ``yarn+late-chunking``.

    Args:
        spelling: ids, with options in brackets.
        positions: what decides how far the encoder reads, of ``families``.

    Raises:
        UserError: for an unknown id or option, a wrong value, or two methods that decide the same.
    """
    spelled_parts, turning = split(spelling, "+"), ""
    if positions == ROPE:
        ours = [part for part in spelled_parts if _fits(part, positions)]
        turning = "+".join(part for part in spelled_parts if part not in ours)
        spelled_parts = ours
    parts: list[EncoderMethod | None] = [_rotary(turning)] if turning else []
    parts += [_one(part, positions) for part in spelled_parts]
    made = tuple(part for part in parts if part is not None)
    if len(made) < len(parts) > 1:
        raise UserError(f"{PLAIN} composes with nothing, seen in {spelling!r}", "Leave it out.")
    for axis in {part.axis for part in made}:
        same = [part.id for part in made if part.axis == axis]
        if len(same) > 1:
            raise UserError(f"{' and '.join(same)} both decide the {axis} of {spelling!r}", "Choose one of them.")
    growing = [part.id for part in made if isinstance(part, Growing)]
    if len(growing) > 1:
        raise UserError(f"{' and '.join(growing)} both decide how far {spelling!r} reads", "Choose one of them.")
    return EncoderMethods(made)


def _fits(spelling: str, positions: str) -> bool:
    entry = BY_ID.get(spelling.partition("(")[0].strip())
    return entry is not None and entry.axis in FITTING[positions]


def _rotary(spelling: str) -> RopeMethod:
    for part in split(spelling, "+"):
        name = part.partition("(")[0].strip()
        if name in BY_ID and name not in BY_NAME:
            raise UserError(
                f"{name} is for other encoders: this one rotates, and has no {BY_ID[name].axis} to change",
                "Choose a method of 'ropewalk methods', such as yarn.",
            )
    chosen = method(spelling)
    if chosen.measured or any(one.fit is not None for one in getattr(chosen, "parts", (chosen,))):
        raise UserError(f"{chosen.id} is fitted on models that write, and an encoder is none", "Choose another method.")
    return RopeMethod(chosen)


def _one(spelling: str, positions: str) -> EncoderMethod | None:
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", spelling, re.DOTALL)
    if match is None or match[1] not in BY_ID:
        name = spelling.partition("(")[0].strip()
        why = ", which is for those that rotate" if name in BY_NAME else did_you_mean(name, BY_ID)
        why += "; what this one knows of positions is unknown here" if positions == UNKNOWN else ""
        names = ", ".join(one.id for one in ENCODER_METHODS if one.axis in FITTING[positions])
        raise UserError(f"unknown method for encoders {spelling!r}{why}", f"There are {names}.")
    if match[1] == PLAIN:
        return None
    module, name = BY_ID[match[1]].where.split(":")
    cls: Any = getattr(import_module(f"ropewalk.encoders.encoder_methods.{module}"), name)
    made: EncoderMethod = cls(**options_of(cls, cls.name, match[2] or ""))
    return made
