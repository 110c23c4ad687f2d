"""The rope that weights were trained with, where their configuration does not say it: it needs code, and is missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD
from ropewalk.common.lengths import show
from ropewalk.methods.catalogue import method, split
from ropewalk.rope.config import record_of
from ropewalk.rope.problems import Problem
from ropewalk.rope.spec import ALL

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CODE = "rope-not-written"
PLAIN = "none"


@dataclass(frozen=True)
class Unwritten:
    """A rope that must be put on whenever the model is read.

    Attributes:
        model: as the user named it.
        method: as the catalogue reads it.
        target: tokens that it was trained to.
    """

    model: str
    method: str
    target: int

    @classmethod
    def of(cls, model: str, record: Mapping[str, Any], config: PreTrainedConfig) -> Unwritten | None:
        """What a folder's record says of a training, unless its configuration says the same.

        Args:
            model: as the user named it.
            record: of the folder.
            config: as transformers reads it.

        Raises:
            UserError: if what ropewalk noted in the configuration cannot be read.
        """
        found, target = record.get("method"), record.get("target")
        if "trained" not in record or not isinstance(found, str) or type(target) is not int:
            return None
        noted = record_of(config)
        said = PLAIN if noted is None else str(noted["method"])
        return None if _parts(found) in (_parts(said), _parts(PLAIN)) else cls(model, found, target)

    @property
    def seen(self) -> str:
        return f"{self.method} to {self.target:,} tokens"

    def line(self, verb: str, option: str) -> str:
        """The command in which a verb puts it on."""
        return command(verb, self.model, option, self.method, "--to", show(self.target))

    @property
    def problem(self) -> Problem:
        return Problem(
            CODE, ALL, f"{RECORD}:method", self.seen,
            "a rope that config.json says; the weights were trained with this one, which needs code at every reading",
            f"{self.line('evaluate', '--methods')}   (to answer requests: {self.line('serve', '--method')})",
        )  # fmt: skip

    def among(self, methods: Iterable[str]) -> bool:
        """Whether one of the methods is it, or is composed with it."""
        return any(_parts(self.method) <= _parts(one) for one in methods)

    @property
    def warning(self) -> str:
        return (
            f"{self.model} was trained with {self.seen}, which its configuration does not say: without it the model "
            "rotates by another rope than in its training"
        )

    @property
    def in_python(self) -> str:
        """What puts it on a live model."""
        return f"with ropewalk.method({self.method!r}).on(model, {self.target}): ..."

    def refuse(self, mend: str) -> None:
        """Refuse to read the model without it.

        Raises:
            UserError: always.
        """
        raise UserError(self.warning, mend)


def _parts(spelling: str) -> frozenset[str]:
    """Canonical spellings of what a method is composed of."""
    with suppress(UserError):  # of another version, or its fit file is gone
        spelling = method(spelling).id
    return frozenset(split(spelling, "+"))
