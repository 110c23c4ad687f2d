"""What can be measured: a checkpoint with any method on it, or a backend as it is (a server, a stand-in)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ropewalk.backends.backend import Backend
from ropewalk.carriers.carrier import carrier_of, has_none
from ropewalk.common.errors import UserError
from ropewalk.common.store import Records
from ropewalk.methods import catalogue
from ropewalk.methods.base import Method, require_beyond
from ropewalk.methods.carriers import carrier_entries
from ropewalk.methods.carriers.carrier_method import CarrierMethod, carrier_in
from ropewalk.methods.carriers.plain_carrier import PlainCarrier
from ropewalk.report.schema import PLAIN, Spectrum
from ropewalk.workflows.strategic import Strategic
from ropewalk.workflows.strategy import Strategy
from ropewalk.workflows.strategy_entries import BY_ID

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ropewalk.backends.chat.chat import Chat


class Contestant:
    """A model of an experiment, opened once.

    Attributes:
        name: as asked for.
        window: tokens that it was trained on; None where that is not known.
        length: tokens that its configuration promises.
        reads: tokens that a server reads, where it tells.
    """

    name: str
    window: int | None = None
    length: int | None = None
    reads: int | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        raise TypeError(f"{type(self).__name__} has no tokenizer")

    def check(self, method: Method, to: int | None) -> None:
        """Refuse what cannot be measured, before anything is.

        Raises:
            UserError: if the method does not fit.
        """

    def varies(self, method: Method) -> bool:
        """Whether losses need one forward per length."""
        return False

    def describe(self, method: Method, to: int | None) -> dict[str, Any]:
        """Facts of a ``report.schema.Subject``."""
        return {"title": title(method), "causal": method.causal}

    def asked(self, method: Method, to: int | None) -> Any:
        """Context manager of the backend that is asked."""
        raise TypeError(f"{type(self).__name__} answers nothing")

    def calls_of(self, window: int | None) -> int:
        """Tokens that the calls of a strategy may have.

        Args:
            window: as asked for; None: as many as the model reads.

        Raises:
            UserError: if nobody says, or it is more than the model reads.
        """
        own = self.reads or self.length or self.window
        if window is None and own is None:
            raise UserError(f"{self.name} does not say how much it reads", "Say it: --window 8k.")
        if window is not None and own is not None and window > own:
            raise UserError(f"window is {window:,}, where {self.name} reads {own:,}", f"Say no more than {own}.")
        return window or own or 0

    def chatting(self, window: int) -> Any:
        """Context manager of what answers the calls of a strategy: the model without any method.

        Args:
            window: of each call.

        Raises:
            UserError: if nothing does.
        """
        raise UserError(f"{self.name} answers no prompts in words", "Leave --strategies out.")

    @contextmanager
    def read(
        self, strategy: Strategy, window: int | None, spend: float, store: Records, embed: str = ""
    ) -> Iterator[Strategic]:
        """The backend that reads by a strategy.

        Args:
            strategy: how texts are read.
            window: see ``calls_of``.
            spend: see ``Strategic``.
            store: where the answer of every call is kept.
            embed: folder or hub id of an embedding model; empty if there is none.

        Raises:
            UserError: if this model cannot.
        """
        from ropewalk.workflows.embedding import Embedding

        size = self.calls_of(window)
        with self.chatting(size) as chat:
            vectors = Embedding(embed) if embed else None
            yield Strategic(strategy, chat, self.tokenizer, size, spend, store, vectors, embed)


class AsItIs(Contestant):
    """A backend that takes no method: a server, or a stand-in with known results."""

    def __init__(self, backend: Backend, name: str = ""):
        self.backend, self.name = backend, name or str(backend.describe()["name"])
        self.reads = backend.reads

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.backend.tokenizer

    def describe(self, method: Method, to: int | None) -> dict[str, Any]:
        return super().describe(method, to) | {"title": "As served"}  # extended or not

    def check(self, method: Method, to: int | None) -> None:
        self.refuse(method)

    @staticmethod
    def refuse(method: Method) -> None:
        """Refuse a method.

        Raises:
            UserError: for all but the plain model.
        """
        if method.id != PLAIN:
            raise UserError(
                f"{method.id} cannot be applied to a server", "Extend the checkpoint (ropewalk extend), and serve that."
            )

    @contextmanager
    def asked(self, method: Method, to: int | None) -> Iterator[Backend]:
        yield self.backend

    @contextmanager
    def chatting(self, window: int) -> Iterator[Chat]:
        from ropewalk.backends.chat.endpoint import Endpoint
        from ropewalk.backends.openai import Server

        if not isinstance(self.backend, Server):
            super().chatting(window)
        assert isinstance(self.backend, Server)
        endpoint = Endpoint(self.backend.url, self.backend.served, workers=self.backend.workers)
        endpoint.varies = False  # the likeliest text alone, as everybody else is asked
        yield endpoint


class Live(Contestant):
    """A transformers model in this process.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        name: as asked for.
        window: tokens that it was trained on; None means what its configuration says.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "", window: int | None = None
    ):
        self.model, self._tokenizer = model, tokenizer
        self.config: PreTrainedConfig = model.config
        self.name = name or str(self.config.name_or_path)
        self.window, self.length = reach(self.config)
        self.window = window or self.window

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer

    @cached_property
    def fingerprint(self) -> str:
        from ropewalk.common.fingerprints import model_fingerprint

        return model_fingerprint(self.model)

    def check(self, method: Method, to: int | None) -> None:
        if to is not None and self.window is not None:
            require_beyond([method], to, self.window)
        method.fingerprint(self.model, to or 0)

    def varies(self, method: Method) -> bool:
        from ropewalk.backends.local import length_dependent

        return length_dependent(method, self.model)

    def describe(self, method: Method, to: int | None) -> dict[str, Any]:
        if isinstance(method, CarrierMethod):
            return self._without_rope(method, to)
        assert to is not None and self.window is not None
        parts = [part.split("(")[0] for part in catalogue.split(method.id, "+")]
        entries = [one for part in parts for one in catalogue.CATALOGUE if one.id == part]
        exportable, change = saved(method, self.config, to)
        return {
            "title": title(method),
            "paper": next((entry.paper for entry in entries if entry.paper), ""),
            "factor": 1.0 if method.id == PLAIN else to / self.window,
            "training_free": " / ".join(dict.fromkeys(entry.training_free for entry in entries)),
            "exportable": exportable,
            "note": "; ".join(entry.summary for entry in entries),
            "causal": method.causal,
            "length_dependent": self.varies(method),
            "fingerprint": method.fingerprint(self.model, to),
            "rope": spectra(method, self.config, to),
            "config_diff": change,
        }

    def _without_rope(self, method: CarrierMethod, to: int | None) -> dict[str, Any]:
        assert to is not None
        one = method.entry
        window = method.check(carrier_in(self.model), to)
        return {
            "title": title(method),
            "paper": one.paper,
            "factor": 1.0 if method.id == PLAIN else to / window,
            "training_free": one.training_free,
            "exportable": one.exportable,
            "note": one.summary,
            "causal": method.causal,
            "length_dependent": self.varies(method),
            "fingerprint": method.fingerprint(self.model, to),
        }

    @contextmanager
    def asked(self, method: Method, to: int | None) -> Iterator[Backend]:
        assert to is not None
        if self.config.is_encoder_decoder:
            from ropewalk.backends.encoder_decoder import encoder_decoder

            with encoder_decoder(self.model, self.tokenizer, method, to, self.fingerprint) as reading:
                yield reading
            return
        from ropewalk.backends.local import live

        with live(self.model, self.tokenizer, method, to, self.fingerprint) as backend:
            yield backend

    @contextmanager
    def chatting(self, window: int) -> Iterator[Chat]:
        from ropewalk.backends.chat.chat_model import ChatModel
        from ropewalk.backends.local import live

        if self.config.is_encoder_decoder:
            super().chatting(window)
        plain = PlainCarrier() if has_none(self.config.to_dict()) else catalogue.method(PLAIN)
        with live(self.model, self.tokenizer, plain, window, self.fingerprint) as backend:
            yield ChatModel(backend, self.name, window)


def reach(config: PreTrainedConfig) -> tuple[int | None, int | None]:
    """The window that a configuration was trained on, and the length that it promises; None without a rope."""
    from ropewalk.rope.config import promised_by, read, starting_specs, window_of

    if has_none(config.to_dict()):
        window = carrier_of(config).window
        return window, window
    try:
        return window_of(starting_specs(config)), promised_by(read(config))
    except UserError:
        return None, None


def title(method: Method) -> str:
    """The name of a method in reports, with options that are not the default; of lists, the file that they are from."""
    both = zip(catalogue.split(method.id, "+"), catalogue.split(method.spelling, "+"), strict=True)
    parts = [said if "fitted=" in part else part for part, said in both]
    listed = carrier_entries.CARRIER_METHODS if isinstance(method, CarrierMethod) else catalogue.CATALOGUE
    known = {entry.id: entry.title for entry in listed}
    options = "".join(part[part.index("(") :] for part in parts if "(" in part)
    names = [known.get(part.split("(")[0], part.split("(")[0]) for part in parts]
    return " + ".join(names) + (f" {options}" if options else "")


def about(strategy: Strategy) -> dict[str, Any]:
    """Facts of a ``report.schema.Subject``, of a strategy."""
    entry = BY_ID[strategy.name]
    options = strategy.spelling.removeprefix(strategy.name)
    return {
        "title": entry.title + (f" {options}" if options else ""),
        "paper": entry.paper,
        "training_free": "yes",
        "exportable": "no: it asks the model as it is",
        "note": entry.summary,
    }


def saved(method: Method, config: PreTrainedConfig, to: int) -> tuple[str, str]:
    """Whether a checkpoint can say the method, and the change of config.json (or why there is none)."""
    from ropewalk.checkpoint.write import diff, extended_config

    try:
        changed, written = extended_config(config, method, to)
    except UserError as error:
        return "no: " + error.message.partition(": ")[2], error.message
    kinds = " / ".join(sorted({str(parameters["rope_type"]) for parameters in written.values()}))
    return f"yes: {kinds}", "unchanged" if method.id == PLAIN else diff(config, changed)


def spectra(method: Method, config: PreTrainedConfig, to: int) -> dict[str, Spectrum]:
    """Layer type -> wavelengths at the target; empty where heads differ or frequencies are not what is changed."""
    from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
    from ropewalk.rope.config import read

    if not isinstance(method, FrequencyMethod):
        return {}
    specs, found = read(config), {}
    for key, frequencies in method.plan(config, to).items():
        if frequencies.inv_freq.ndim != 1:
            return {}
        waves = (2 * math.pi / frequencies.inv_freq.clamp_min(1e-30)).tolist()
        found[key] = Spectrum(waves, frequencies.attention_factor, specs[key].window)
    return found
