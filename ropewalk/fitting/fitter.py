"""From a method that lacks what must be measured to a fit: texts are read, the method's fitter searches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ropewalk import __version__
from ropewalk.attention.attending import VISIBILITY
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import model_fingerprint
from ropewalk.common.store import Records, SampleStore
from ropewalk.methods.base import Method
from ropewalk.methods.catalogue import CATALOGUE, entry, options_of
from ropewalk.methods.compose import compose
from ropewalk.methods.fit_file import DOUBT, Fit
from ropewalk.rope.config import promised_by, read, trained_window
from ropewalk.texts.documents import tokenise
from ropewalk.texts.opening import opening
from ropewalk.texts.pieces import TokenUnits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FITTERS = {  # method -> "module:Class" of this package
    "attention-alignment": "temperature:Temperature",
    "dope": "noisy_heads:NoisyHeads",
    "head-scale": "head_scales:HeadScales",
    "longrope": "rope_factors:RopeFactors",
    "squeezed": "threshold:Threshold",
    "tca": "budgets:Budgets",
}
RUN = 16  # tokens; fewer are common in texts that know nothing of each other
COPIED = 0.5  # of a piece's runs: a copy with every 23rd token changed has so many
OPTIONS = "option_values:OptionValues"  # of methods that run without a fit, and have options to search

Progress = Callable[..., None]  # (done, total, words = "")
AnyFitter = TypeVar("AnyFitter")


@dataclass(frozen=True, eq=False)
class Ground:
    """What a fitter measures on.

    Attributes:
        model: live, in evaluation mode; left as it was.
        documents: token ids, each begun as the tokenizer begins texts.
        bos: ids that start every text, [BOS] or none.
        samples: at most so many texts are read.
        window: tokens that the model was trained on.
        to: target length in tokens.
        others: methods that are on as well.
        progress: told steps done and in all, and what there is to say of them.
        units: of the model's tokenizer, for those who plant needles.
        records: what was measured of candidates before, for those who search.
        turn: which of how many workers this is, that do the same and share their records.
        name: of the model, for the file.
        source: of the texts, for the file.
    """

    model: PreTrainedModel
    documents: Sequence[Sequence[int]]
    bos: Sequence[int]
    samples: int
    window: int
    to: int
    others: tuple[Method, ...] = ()
    progress: Progress = lambda done, total, words="": None
    units: TokenUnits | None = None
    records: Records = field(default_factory=SampleStore)
    turn: tuple[int, int] = (0, 1)
    name: str = ""
    source: str = ""

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        documents: Mapping[str, str],
        to: int | None = None,
        samples: int = 8,
        **more: Any,
    ) -> Ground:
        """What is measured on, of a model and texts.

        Args:
            model: in evaluation mode.
            tokenizer: its tokenizer.
            documents: texts by name; none needs to be as long as the target for every method.
            to: target length in tokens; None means what the configuration promises, or four times the trained window
                where it promises no more.
            samples: at most so many texts are read.
            more: fields as they are.
        """
        window, promised = trained_window(model.config), promised_by(read(model.config))
        target = to if to is not None else promised if promised > window else 4 * window
        if samples < 1:
            raise UserError(f"samples is {samples}, expected at least 1")
        ids = list(tokenise(documents, tokenizer, 2).values())
        units = TokenUnits(tokenizer)
        return cls(model, ids, opening(tokenizer), samples, window, target, units=units, **more)

    def texts(self, length: int) -> Tensor:
        """Pieces of documents, spread evenly over all there are: int64 [up to samples, length].

        Raises:
            UserError: if no document is that long.
        """
        return _spread([piece for pieces in self._pieces(length) for piece in pieces], self.samples)

    def halves(self, length: int) -> Halves:
        """Texts to search on, and as many others that tell what was found by chance.

        No piece is there twice, nor one that is mostly made of what stands in those before it: a copy with another
        title would tell of other texts what was searched for on it. Others are of other documents; where there is but
        one, of its other half: they are more alike than other documents would be.
        """
        cut = self._pieces(length)
        new = iter(_new(np.array([piece for pieces in cut for piece in pieces])[:, len(self.bos) :]))
        kept = [[piece for piece in pieces if next(new)] for pieces in cut]
        documents = [pieces for pieces in kept if pieces]
        copies = sum(map(len, cut)) - sum(map(len, kept))
        if len(documents) == 1:
            (only,) = documents
            documents = [only[: (len(only) + 1) // 2], only[(len(only) + 1) // 2 :]]
        searched, others = (_taken(half, self.samples) for half in (documents[::2], documents[1::2]))
        none = torch.zeros(0, length, dtype=torch.int64)
        rows = torch.tensor([piece for _, piece in others]) if others else none
        return Halves(torch.tensor([piece for _, piece in searched]), rows, [which for which, _ in others], copies)

    def _pieces(self, length: int) -> list[list[list[int]]]:
        """Of every document that is long enough, its pieces."""
        head, step = len(self.bos), length - len(self.bos)
        cut = [
            [[*self.bos, *document[start : start + step]] for start in range(head, len(document) - step + 1, step)]
            for document in self.documents
        ]
        if not any(cut):
            longest = max(map(len, self.documents), default=0)
            raise UserError(f"no text has {length:,} tokens, the longest has {longest:,}", "Give longer texts: --data.")
        return [pieces for pieces in cut if pieces]

    def too_short(self, length: int) -> int:
        """How many documents have no piece of that length, and are not read."""
        return sum(len(document) < length for document in self.documents)

    def shared(self) -> int:
        """How many tokens all documents start with."""
        return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*self.documents, strict=False)))

    def with_method(self, method: Method) -> Any:
        """A context in which ``method`` is on, with all others; the plain model is these alone.

        Others that were fitted are on by their values: what comes on top of them is not yet in a file.
        """
        others = [one.bare for one in self.others]
        parts = [one for one in (method, *others) if one.name != "none" or not others]
        return compose(*parts).on(self.model, self.to)


def _spread(pieces: Sequence[Sequence[int]], count: int) -> Tensor:
    """At most ``count`` of them, evenly over all."""
    count = min(count, len(pieces))
    return torch.tensor([pieces[i * len(pieces) // count] for i in range(count)])


class Halves(NamedTuple):
    """Texts of a search.

    Attributes:
        searched: that are searched on, int64 [texts, tokens].
        others: that tell what was found by chance, int64 [others, tokens]; there may be none.
        documents: which each of the others is a piece of.
        copies: how many pieces were left out, being copies of others.
    """

    searched: Tensor
    others: Tensor
    documents: list[int]
    copies: int


def _new(pieces: NDArray[np.int64]) -> list[bool]:
    """Which pieces, [pieces, tokens], are no copies: less than half of their runs stand in those that were kept before.

    A run is of ``RUN`` tokens. Runs are numbered by doubling, pairs of shorter runs by pairs of their numbers, so that
    equal numbers are equal runs and no others.
    """
    runs, step = _numbered(pieces), 1
    while step < RUN and runs.shape[1] > step:
        runs, step = _numbered(runs[:, :-step] * (runs.max() + 1) + runs[:, step:]), 2 * step
    known, kept = np.zeros(runs.max() + 1, bool), []
    for row in runs:
        kept.append(bool(known[row].mean() < COPIED))
        known[row] |= kept[-1]
    return kept


def _numbered(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for every value, from 0 on."""
    numbers: NDArray[np.int64] = np.unique(values, return_inverse=True)[1].reshape(values.shape)
    return numbers


def _taken(documents: Sequence[Sequence[Sequence[int]]], count: int) -> list[tuple[int, Sequence[int]]]:
    """At most ``count`` pieces, of as many documents as there are; of one document, evenly over it."""
    if len(documents) == 1:
        (only,), count = documents, min(count, len(documents[0]))
        return [(0, only[i * len(only) // count]) for i in range(count)]
    turns = [(place, which) for which, pieces in enumerate(documents) for place in range(len(pieces))]
    return [(which, documents[which][place]) for place, which in sorted(turns)[:count]]


@dataclass(frozen=True)
class Found:
    """What a search ends with.

    Attributes:
        options: the measured options.
        texts: the token ids that were read, [texts, tokens].
        seen: numbers that say what the search saw.
    """

    options: dict[str, Any]
    texts: Tensor
    seen: dict[str, Any]


class Fitter(Protocol):
    """How a method's measured options are found: a frozen dataclass, whose fields are the settings of the search."""

    def search(self, method: Any, ground: Ground) -> Found:
        """Find the options that ``method`` says are measured.

        Raises:
            UserError: if the texts say nothing, or nothing but the plain model comes out.
        """


def loaded(method: str) -> type[Fitter]:
    """The class of a method's fitter."""
    module, name = FITTERS.get(method, OPTIONS).split(":")
    cls: type[Fitter] = getattr(import_module(f"ropewalk.fitting.{module}"), name)
    return cls


def fitter(method: str, settings: str = "") -> Fitter:
    """The fitter of a method, with settings as a user writes them: ``tolerance=0.1, candidates=64``.

    Raises:
        UserError: for settings that it does not have.
    """
    cls = loaded(method)
    made: Fitter = cls(**options_of(cls, f"the fit of {method}", settings))
    return made


def fitted_part(method: Method) -> Method:
    """What ``fit`` fits of a method: of several that are joined, the one that does not run without.

    Raises:
        UserError: if there is none, or more than one.
    """
    parts = list(getattr(method, "parts", (method,)))
    lacking = [part for part in parts if part.absent(part.measured)]
    free = [part for part in parts if part.free and not part.measured]
    chosen = lacking or free
    if not chosen and any(part.measured or part.tunable for part in parts):
        raise UserError(
            f"{method.id} has nothing to fit: all of it is given",
            f"Leave out what is to be found: --method {parts[0].name}.",
        )
    if not chosen:
        have = [entry.id for entry in CATALOGUE if (kind := entry.load()).measured or kind.tunable]
        raise UserError(f"{method.id} has nothing to fit", f"Methods that have: {', '.join(sorted(have))}.")
    if len(chosen) > 1:
        names = " and ".join(one.name for one in chosen)
        raise UserError(
            f"{method.id} has several things to fit, {names}",
            f"Fit one, --method {chosen[0].name} -o one.json, and then the other beside it: --method "
            f'"{"+".join([f"{chosen[0].name}(fitted=one.json)", *(one.name for one in chosen[1:])])}".',
        )
    return chosen[0]


def fitting(method: Method, settings: str = "", seed: int | None = None) -> Callable[[Ground], Fit]:
    """What measures, on a model and texts, what ``method`` lacks.

    Args:
        method: one that can be fitted, alone or composed with others, which are on while it is fitted; of several,
            the one that does not run without.
        settings: of the search, by keyword.
        seed: of what the search draws; None: the fitter's own.

    Raises:
        UserError: for everything that a user can mend without a model; what it gives does so for the rest.
    """
    part = fitted_part(method)
    search = seeded(fitter(part.name, settings), seed, part.name, settings)
    others = tuple(one for one in getattr(method, "parts", ()) if one is not part)

    def fit(ground: Ground) -> Fit:
        if others:
            compose(*others).require(ground.model, ground.to)
        beside = replace(ground, others=others)
        return recorded(part, search.search(part, beside), beside, search)

    return fit


def seeded(search: AnyFitter, seed: int | None, name: str, settings: str = "") -> AnyFitter:
    """A search that draws from ``seed``; None leaves it its own.

    Raises:
        UserError: if it draws nothing, or its settings say a seed as well.
    """
    if seed is None:
        return search
    if "seed" not in {one.name for one in fields(search)}:  # type: ignore[arg-type]
        raise UserError(f"the fit of {name} draws nothing: it has no seed", "Leave out --seed.")
    if "seed" in options_of(type(search), f"the fit of {name}", settings):
        raise UserError(f"the seed is said twice, --seed {seed} and --settings {settings!r}", "Leave one of them out.")
    return replace(search, seed=seed)  # type: ignore[type-var]


def recorded(part: Method, found: Found, ground: Ground, search: object) -> Fit:
    """What a search found of a method, with all that it was found for."""
    texts_hash = hashlib.sha256(found.texts.to(torch.int32).numpy().tobytes()).hexdigest()
    config: Any = ground.model.config
    return Fit(
        method=part.name,
        found=found.options,
        options={key: value for key, value in part.changed().items() if key not in found.options},
        beside={other.id: other.spelling for other in ground.others},
        to=ground.to,
        model={
            "name": ground.name or str(config.name_or_path),
            "fingerprint": model_fingerprint(ground.model),
            "dtype": str(ground.model.dtype).removeprefix("torch."),
        },
        data={"source": ground.source, "texts": len(found.texts), "tokens": found.texts.numel(), "hash": texts_hash},
        settings=asdict(search),  # type: ignore[call-overload]
        seen=found.seen | _doubt((part, *ground.others), search),
        ropewalk=__version__,
        exportable=exportable(part.name, found.options, ground.others),
    )


def exportable(method: str, options: Collection[str], beside: Collection[Any]) -> bool:
    """Whether a configuration says what was found."""
    return bool(options) and not beside and entry(method).exportable.startswith("yes")


def _doubt(methods: Sequence[Method], search: object) -> dict[str, str]:
    """What the losses of a search do not tell of some methods."""
    forgets = [one.name for one in methods if VISIBILITY in one.axes]
    if getattr(search, "by", "") != "perplexity" or not forgets:
        return {}
    return {DOUBT: f"that {forgets[0]} forgets what is far (--settings by=needles does)"}
