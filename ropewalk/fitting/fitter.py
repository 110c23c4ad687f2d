"""From a method that lacks what must be measured to a fit: texts are read, the method's fitter searches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ropewalk import __version__
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import model_fingerprint
from ropewalk.methods.base import Method
from ropewalk.methods.catalogue import options_of
from ropewalk.methods.compose import compose
from ropewalk.methods.fit_file import Fit
from ropewalk.rope.config import promised_by, read, trained_window
from ropewalk.texts.documents import tokenise
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FITTERS = {  # method -> "module:Class" of this package
    "attention-alignment": "temperature:Temperature",
    "dope": "noisy_heads:NoisyHeads",
    "head-scale": "head_scales:HeadScales",
    "squeezed": "threshold:Threshold",
    "tca": "budgets:Budgets",
}


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
        progress: told steps done and in all.
    """

    model: PreTrainedModel
    documents: Sequence[Sequence[int]]
    bos: Sequence[int]
    samples: int
    window: int
    to: int
    others: tuple[Method, ...] = ()
    progress: Callable[[int, int], None] = lambda done, total: None

    def texts(self, length: int) -> Tensor:
        """Pieces of documents, spread evenly over all there are: int64 [up to samples, length].

        Raises:
            UserError: if no document is that long.
        """
        head, step = len(self.bos), length - len(self.bos)
        cut = [
            [*self.bos, *document[start : start + step]]
            for document in self.documents
            for start in range(head, len(document) - step + 1, step)
        ]
        if not cut:
            longest = max(map(len, self.documents), default=0)
            raise UserError(f"no text has {length:,} tokens, the longest has {longest:,}", "Give longer texts: --data.")
        count = min(self.samples, len(cut))
        return torch.tensor([cut[i * len(cut) // count] for i in range(count)])

    def shared(self) -> int:
        """How many tokens all documents start with."""
        return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*self.documents, strict=False)))

    def with_method(self, method: Method) -> Any:
        """A context in which ``method`` is on, with all others."""
        return compose(method, *self.others).on(self.model, self.to)


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


def fitter(method: str, settings: str = "") -> Fitter:
    """The fitter of a method, with settings as a user writes them: ``tolerance=0.1, candidates=64``.

    Raises:
        UserError: for settings that it does not have.
    """
    module, name = FITTERS[method].split(":")
    cls = getattr(import_module(f"ropewalk.fitting.{module}"), name)
    made: Fitter = cls(**options_of(cls, f"the fit of {method}", settings))
    return made


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    documents: Mapping[str, str],
    *,
    to: int | None = None,
    settings: str = "",
    samples: int = 8,
    name: str = "",
    source: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fit:
    """Measure what ``method`` lacks, on a model and texts.

    Args:
        model: in evaluation mode; left as it was.
        tokenizer: its tokenizer.
        method: one that can be fitted, alone or composed with others, which are on while it is fitted.
        documents: texts by name; none needs to be as long as the target for every method.
        to: target length in tokens; None means what the configuration promises, or four times the trained window where
            it promises no more.
        settings: of the search, by keyword.
        samples: at most so many texts are read.
        name: of the model, for the file.
        source: of the texts, for the file.
        progress: told steps done and in all.

    Raises:
        UserError: for everything that a user can mend.
    """
    parts = list(getattr(method, "parts", (method,)))
    chosen = [part for part in parts if part.name in FITTERS]
    if not chosen:
        raise UserError(f"{method.id} has nothing to fit", f"Methods that have: {', '.join(sorted(FITTERS))}.")
    if len(chosen) > 1:
        names = " and ".join(one.name for one in chosen)
        raise UserError(
            f"{method.id} has several things to fit, {names}", f"Fit one at a time: --method {parts[0].name}."
        )
    (part,) = chosen
    search = fitter(part.name, settings)
    others = tuple(one for one in parts if one is not part)
    for other in others:
        other.require(model, to)
    window, promised = trained_window(model.config), promised_by(read(model.config))
    target = to if to is not None else promised if promised > window else 4 * window
    if samples < 1:
        raise UserError(f"samples is {samples}, expected at least 1")
    ids = list(tokenise(documents, tokenizer, 2).values())
    ground = Ground(model, ids, opening(tokenizer), samples, window, target, others, progress)
    found = search.search(part, ground)
    texts_hash = hashlib.sha256(found.texts.to(torch.int32).numpy().tobytes()).hexdigest()
    return Fit(
        method=part.name,
        found=found.options,
        options={key: value for key, value in part.changed().items() if key not in found.options},
        beside="+".join(other.spelling for other in others),
        to=target,
        model={"name": name or str(model.config.name_or_path), "fingerprint": model_fingerprint(model)},
        data={"source": source, "texts": len(found.texts), "tokens": found.texts.numel(), "hash": texts_hash},
        settings=asdict(search),  # type: ignore[call-overload]
        seen=found.seen,
        ropewalk=__version__,
    )
