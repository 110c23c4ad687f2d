"""What a memory method is: a reader that takes a text in pieces and carries something from piece to piece."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ropewalk import __version__
from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, digest
from ropewalk.methods.memory.reader import Reader, reading
from ropewalk.rope import config as rope_config

MEMORY = "memory"


@dataclass(frozen=True)
class MemoryMethod(Method):
    """A method that reads with a memory. Subclasses write ``reader``, and say ``cache_exact`` where cuts do not matter.

    What asks the model, asks through the reader: losses, ``generate``, training. Rows of one length are read together,
    rows that are padded on their left each for itself; what a reader cannot follow is refused.
    """

    axes: ClassVar[frozenset[str]] = frozenset({MEMORY})
    cache_exact: ClassVar[bool] = False

    def reader(self, model: nn.Module, to: int) -> Reader:
        """What reads texts of up to ``to`` tokens while the method is on.

        Its calls of ``model``, or of its decoder, come to the forward of before.

        Raises:
            UserError: if the options do not fit the model.
        """
        raise NotImplementedError

    # What follows is the same for all methods.

    def fingerprint(self, model: nn.Module, to: int, whole: Method | None = None) -> str:
        self.require(model, to, whole)
        specs = rope_config.read(model.config)  # type: ignore[arg-type]
        numbers = sorted((key, spec.window, spec.inv_freq.tolist()) for key, spec in specs.items())
        return digest(MEMORY, __version__, self.id, to, numbers)

    @contextmanager
    def applied(self, model: nn.Module, to: int | None) -> Iterator[None]:
        promised = rope_config.promised_by(rope_config.read(model.config))  # type: ignore[arg-type]
        if to is not None and to < promised:
            raise UserError(
                f"target {to:,} is shorter than the {promised:,} tokens that the model reads as it is",
                f"Choose a target of at least {promised} tokens; shorter inputs already fit.",
            )
        with reading(model, self.reader(model, to or promised)):
            yield
