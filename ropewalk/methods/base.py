"""What every extension method is: a frozen value with an id, applied to a model for a while or for good."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, fields, replace
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from ropewalk.common.errors import UserError
from ropewalk.common.lengths import parse, show
from ropewalk.common.naming import spelled
from ropewalk.methods.fit_file import Fit, refuse_elsewhere, refuse_unfitted
from ropewalk.methods.ranges import Range
from ropewalk.rope.live import ON, decoder

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


USE_IT_LIVE = "Use it at run time (method.on(model)), or save a static method such as yarn or ntk-aware."


class Method:
    """Base of all methods; subclasses are frozen dataclasses whose fields are the method's options.

    Attributes:
        name: the id in the catalogue.
        axes: what the method decides, of "frequencies", "refinement", "temperature", "positions", "visibility",
            "sparsity", "bias", "memory"; methods compose if their axes differ.
        length_dependent: True if a token's result changes with the length of what follows it, so that one forward
            cannot serve several lengths.
        cache_exact: False if reading a text in pieces, on top of a cache, gives other results than reading it at once;
            length-dependent methods never are, whatever this says.
        causal: False if queries that are read together choose keys together, so that what a token gets changes with
            tokens behind it; then losses cannot be taken from one forward pass.
        target_free: True if texts are read the same whatever target the method is put on for, so that options that
            were fitted for one target hold for shorter ones.
        exact_near: whether a text of few tokens (an eighth of the window at least) is read as by the plain model, bit
            for bit, when the target is the window.
        measured: options that ``ropewalk fit`` finds on a model; the method does not run without them.
        tunable: numbers among the options that it also runs without, which ``ropewalk fit`` searches, and where.
        given: options that the user must give; the method does not run without them.
        how_given: a sentence that says how.
        fit: where measured options come from, if a file holds them.
        held: options that were spelled out, at their defaults too.
    """

    name: ClassVar[str]
    axes: ClassVar[frozenset[str]]
    measured: ClassVar[tuple[str, ...]] = ()
    tunable: ClassVar[Mapping[str, Range]] = {}
    given: ClassVar[tuple[str, ...]] = ()
    how_given: ClassVar[str] = ""
    fit: Fit | None = None
    held: frozenset[str] = frozenset()
    length_dependent: ClassVar[bool] = False
    cache_exact: ClassVar[bool] = True
    causal: ClassVar[bool] = True
    target_free: ClassVar[bool] = False
    exact_near: ClassVar[bool] = True

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        """The method as tests build it for a model, to reach twice its window, which may be 64 tokens.

        The usual form comes first.
        Everything that the catalogue's tests check is checked with each of these. Override it where the defaults do not
        fit so small a window, stand for something fitted to a model, or leave out another way of working.
        """
        return (cls(),)

    @property
    def id(self) -> str:
        """Canonical spelling: the name, and options that differ from their defaults, e.g. ``yarn(beta_fast=16)``.

        Tuples out of a fit file are spelled as a hash of their values, ``tca(fitted='0c1f..')``.
        """
        changed = self.changed()
        return spelled(self.name, changed if self.fit is None else self.fit.hashed(changed))

    @property
    def spelling(self) -> str:
        """What ``method`` reads as this one: the id, but for measured options the file that holds them."""
        if self.fit is None:
            return self.id
        chosen = {k: v for k, v in self.changed().items() if k not in self.fit.found}
        return spelled(self.name, chosen | self.fit.asked)

    @property
    def unfitted(self) -> str:
        """The spelling without measured options, as ``ropewalk fit`` takes it."""
        measured = self.measured if self.fit is None else self.fit.found
        redone = () if self.absent(self.measured) else measured  # what is given in part stays
        return spelled(self.name, {k: v for k, v in self.changed().items() if k not in redone})

    @property
    def bare(self) -> Any:
        """The same by its values alone, whatever file they are from: for who has seen that they belong here."""
        return replace(self) if self.fit else self  # type: ignore[type-var]

    def absent(self, options: tuple[str, ...]) -> list[str]:
        """Those of ``options`` that have no value."""
        return [name for name in options if getattr(self, name) in (None, (), "")]

    @property
    def inert(self) -> bool:
        """Whether the measured options have values, but such that the model stays the plain one."""
        return False

    def check_found(self, to: int) -> None:
        """Refuse options out of a fit file that no fit for a target finds.

        Raises:
            UserError: naming the value.
        """

    def changed(self) -> dict[str, Any]:
        """Options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not _is_default(self, f)}  # type: ignore[arg-type]

    @property
    def free(self) -> dict[str, Range]:
        """The options that a search may choose: tunable, and left open."""
        given = self.held | self.changed().keys()
        return {} if self.fit else {name: one for name, one in self.tunable.items() if name not in given}

    def fingerprint(self, model: nn.Module, to: int, whole: Method | None = None) -> str:
        """Hash of all that the method does to ``model`` for target length ``to``; results are stored under it.

        Args:
            model: a live transformers model.
            to: target length in tokens.
            whole: the method that this one is a part of.
        """
        raise TypeError(f"{type(self).__name__} has no fingerprint")

    def require(self, model: nn.Module | PreTrainedConfig, to: int | None, whole: Method | None = None) -> None:
        """Refuse to run without the options that must be measured or given, or with those measured for something else.

        Args:
            model: the live model; of its configuration alone, it cannot be told whether options are of another one.
            to: target length in tokens, and for the line that mends it.
            whole: the method that this one is a part of.

        Raises:
            UserError: with the line that fits the method, or the option to give.
        """
        refuse_unfitted(self, getattr(model, "config", model), to, whole or self)
        if self.fit is not None:
            refuse_elsewhere(self, model, to, whole or self)

    @contextmanager
    def on(self, model: nn.Module, to: int | str | None = None) -> Iterator[None]:
        """Apply the method for a while; the model is as before, bit for bit, on leaving.

        Args:
            model: a live transformers model.
            to: target length in tokens, 131072 or "128k"; None means the length that the configuration promises.

        Raises:
            UserError: if the method, its options and the model do not fit, or another method is on.
        """
        to = None if to is None else parse(to)
        refuse_if_on(model, self.id)
        self.require(model, to)
        body = decoder(model)
        setattr(body, ON, self.id)
        try:
            with self.installed(model), self.applied(model, to):
                yield
        finally:
            delattr(body, ON)

    def installed(self, model: nn.Module) -> AbstractContextManager[None]:
        """What a trained method brings with it, on the model for a while: its parameters, weights of the base."""
        return nullcontext()

    def begun(self) -> Method:
        """The same as a training begins with it: what would have to be trained is new, and is not asked for."""
        return self

    def reads(self, model: nn.Module) -> int | None:
        """Tokens that the model can read with the method, text and answer; None where no row of a table runs out."""
        return None

    def costs(self, model: nn.Module) -> str:
        """What reading with it takes beyond the tokens of a text, for a page of results; empty if nothing."""
        return ""

    def applied(self, model: nn.Module, to: int | None) -> AbstractContextManager[None]:
        """What ``on`` does, without asking whether another method is on: a part of several is applied by this."""
        raise TypeError(f"{type(self).__name__} cannot be applied")

    def extend(self, model: PreTrainedModel, to: int | str, on_top: bool | None = None) -> None:
        """Apply the method for good, to the model and to its configuration, so that ``save_pretrained`` keeps it.

        Raises:
            UserError: if the method cannot be saved (it depends on length, layer, head or token).
        """
        raise UserError(f"{self.id} cannot be saved in a configuration: {self.why_not_saved()}", USE_IT_LIVE)

    def why_not_saved(self) -> str:
        """The reason, for methods that cannot be saved in a configuration."""
        return "it needs code at run time"


def _is_default(method: Method, field: Any) -> bool:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return bool(getattr(method, field.name) == default)


def refuse_if_on(model: nn.Module, method: str) -> None:
    """Refuse ``method`` while another one is on: the two would overwrite or ignore each other.

    Raises:
        UserError: naming the method that is on.
    """
    active = getattr(decoder(model), ON, None)
    if active is not None:
        raise UserError(
            f"{active} is on this model already; {method} cannot be put on top of it",
            "Leave the first with-block, or join methods that decide different things with ropewalk.compose.",
        )


def require_above(bound: float, method: Method, *options: str) -> None:
    """Refuse options that are not finite numbers above ``bound``; None is left alone.

    Raises:
        UserError: naming the option and its value.
    """
    for option in options:
        value = getattr(method, option)
        if value is not None and not (isinstance(value, (int, float)) and bound < value < inf):
            raise UserError(f"{method.name}: {option} is {value!r}, expected a number above {bound:g}")


def require_beyond(methods: Iterable[Method], to: int, window: int) -> None:
    """Refuse a target at which a method would be the plain model.

    Args:
        methods: what is to reach the target.
        to: target length in tokens.
        window: of the model; a method that believes in less of it (``effective_window``) works inside it too.

    Raises:
        UserError: naming target and window.
    """
    every = [method for method in methods if method.name != "none"]
    idle = [method.id for method in every if to <= _believed(method, window)]
    if idle:
        which = "every method is" if len(idle) == len(every) > 1 else f"{', '.join(idle)} {'are' if idle[1:] else 'is'}"
        raise UserError(
            f"the target of {to:,} tokens is not beyond the window of {window:,}, where {which} the plain model",
            f"Say --to {show(2 * window)}, or any target of more than {window:,} tokens; within the window there is "
            "the method none.",
        )


def _believed(method: Method, window: int) -> int:
    parts = getattr(method, "parts", (method,))
    return min(window, *(getattr(part, "effective_window", None) or window for part in parts))


def digest(*parts: object) -> str:
    """Short hash of the text of ``parts``."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]
