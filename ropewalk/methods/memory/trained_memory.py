"""Methods that have to be trained: what ``ropewalk train`` writes of one, and how a model has it for a while.

A memory lies in a folder of its own: every parameter that it adds, every weight of the base that was trained, and a
small ``memory.json`` that says of which base they are. The base stays as it is, and another one is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from ropewalk import __version__
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError, cut
from ropewalk.common.lengths import MOST
from ropewalk.common.naming import spelled
from ropewalk.common.outside import read_json
from ropewalk.common.outside import spelled as spelled_path
from ropewalk.common.whole import write_text
from ropewalk.methods.base import Method, digest
from ropewalk.methods.memory.memory_method import MEMORY
from ropewalk.methods.typed import typed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

KIND = "ropewalk memory"
FILE, TENSORS = "memory.json", "memory.safetensors"
PLACE = "ropewalk_memory"  # the submodule of a model that a method's own parameters are in
BASE = "name", "fingerprint"  # what is said of the base
SAID = "method", "options", "beside", "to", "model"
SHOWN = 12  # characters of a hash
AGAIN = "Train it again: ropewalk train."
KINDS: dict[str, type] = {
    "method": str, "options": dict, "beside": dict, "to": int, "model": dict, "tensors": str, "ropewalk": str,
    "torch": str, "transformers": str,
}  # fmt: skip

__all__ = ["MEMORY", "MemoryFolder", "TrainedMemory"]
AnyMemory = TypeVar("AnyMemory", bound="TrainedMemory")


@dataclass(frozen=True)
class MemoryFolder:
    """What lies in the folder of a memory.

    Attributes:
        method: its id in the catalogue.
        options: those that are not the defaults.
        beside: id of every method that was on as well -> its spelling.
        to: target length in tokens.
        model: name and fingerprint of the base.
        tensors: sha256 of the file that holds them.
        ropewalk: version.
        torch: version.
        transformers: version.
        path: of the folder.
    """

    method: str
    options: dict[str, Any]
    beside: dict[str, str]
    to: int
    model: dict[str, str]
    tensors: str
    ropewalk: str
    torch: str
    transformers: str
    path: str

    @classmethod
    def read(cls, folder: str) -> MemoryFolder:
        """What ``write`` wrote.

        Raises:
            UserError: if it is not that.
        """
        place = spelled_path(folder)
        if not (place / FILE).is_file():
            raise UserError(f"{folder} holds no trained memory: {FILE} is missing", "Name what ropewalk train wrote.")
        content = read_json(place / FILE, mend=AGAIN)
        if content.pop("kind", None) != KIND or content.keys() != KINDS.keys():
            raise UserError(f"{place / FILE} is no file of a trained memory", AGAIN)
        for name, kind in KINDS.items():
            value = content[name]
            fits = type(value) is kind
            if fits and name in ("model", "beside"):
                fits = all(type(value.get(key)) is str for key in (BASE if name == "model" else value))
            if not fits or (kind is int and not 1 <= value <= MOST):
                raise UserError(f"{place / FILE}: {name} is {cut(repr(value))}, expected what a training writes", AGAIN)
        return cls(**content, path=folder)

    @property
    def spelling(self) -> str:
        """What puts it on, beside what it was trained beside."""
        return "+".join([*self.beside.values(), spelled(self.method, {"trained": self.path})])

    def load(self) -> dict[str, Tensor]:
        """Its tensors, by the names that a model which has them gives them.

        Raises:
            UserError: if they are not those that were written, or what ``memory.json`` says was said otherwise.
        """
        from safetensors import SafetensorError, safe_open

        file = spelled_path(self.path) / TENSORS
        if not file.is_file():
            raise UserError(f"{file} is missing", "Copy the folder again from where it was written.")
        if hash_of(file) != self.tensors:
            raise UserError(
                f"{file} is not what the training wrote: its hash is another than {FILE} says",
                "Copy the folder again from where it was written.",
            )
        try:
            with safe_open(file, "pt") as opened:
                said = (opened.metadata() or {}).get("said")
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, no mapping
        except SafetensorError as error:
            raise UserError(f"{file} holds no tensors: {error}", AGAIN) from None
        if said != self.said:
            raise UserError(
                f"{spelled_path(self.path) / FILE} does not say what it said when {file} was written",
                "Copy the folder again from where it was written.",
            )
        return found

    @property
    def said(self) -> str:
        """A digest of all that must be as it was in the training."""
        return digest(*(json.dumps(getattr(self, name), sort_keys=True) for name in SAID))

    def refuse_elsewhere(self, model: Any, to: int | None, part: Method, whole: Method) -> None:
        """Refuse another base, or other methods beside it.

        Args:
            model: live, or a configuration, of which it cannot be told.
            to: target length in tokens.
            part: the memory.
            whole: what it is put on with.

        Raises:
            UserError: naming both.
        """
        from transformers import PreTrainedModel

        from ropewalk.common.fingerprints import base_fingerprint

        parts = getattr(whole, "parts", (whole,))
        others = {one.id for one in parts if one.name != part.name}
        if others != set(self.beside):
            then, now = (f"beside {'+'.join(sorted(one))}" if one else "by itself" for one in (self.beside, others))
            raise UserError(
                f"{self.path} was trained {then}, and is used {now}", f"Say --methods {shlex.quote(self.spelling)}."
            )
        free = all(one.target_free or one is part for one in parts)
        if self.beside and to is not None and to != self.to and not free:
            raise UserError(
                f"{self.path} was trained for {self.to:,} tokens by {'+'.join(sorted(others))}, and {to:,} are the "
                "target",
                f"Say --to {self.to}; --lengths says at which lengths.",
            )
        if not isinstance(model, PreTrainedModel):
            return
        here, base = base_fingerprint(model), self.model["fingerprint"]
        if here != base:
            raise UserError(
                f"{self.path} is a memory of {self.model['name']}, {base[:SHOWN]}; this model is "
                f"{model.config.name_or_path or 'another'}, {here[:SHOWN]} (configuration and weights count)",
                "Train one for this model: ropewalk train.",
            )


def hash_of(file: Path) -> str:
    """sha256 of a file, which is not read twice while it stays as it is."""
    stamp = file.stat()
    return _hash(str(file), stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=64)
def _hash(file: str, changed: int, size: int) -> str:
    found = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()


@dataclass(frozen=True)
class TrainedMemory(Method):
    """A method whose parameters are learnt: its own ones, the base's, or both.

    Subclasses say what is new (``added``) and what of the base is trained (``learns``); ``ropewalk train`` does the
    rest, with the recipe of the same name.

    Attributes:
        trained: the folder that ``ropewalk train`` wrote; other options come from there.
        chosen: those of them that may be others when the memory is used.
        trained_in: values of a recipe's ``memory`` with which it can be trained.
    """

    trained: str = field(default="", kw_only=True)

    given: ClassVar[tuple[str, ...]] = ("trained",)
    chosen: ClassVar[tuple[str, ...]] = ()
    trained_in: ClassVar[tuple[str, ...]] = ("plain", "selective", "checkpointed")
    is_begun: ClassVar[bool] = False  # of single ones: that nobody has trained, and that are put on nevertheless
    is_seen: ClassVar[bool] = False  # likewise: of which it is known that they belong to the model

    def __post_init__(self) -> None:
        if not self.trained:
            return
        for name, value in self.folder_options().items():
            own = getattr(self, name)
            if own == _default(self, name):
                object.__setattr__(self, name, value)
            elif own != value and name not in self.chosen:
                self._refuse_other(name, value, own)

    # What a memory says of itself.

    def added(self, model: PreTrainedModel) -> nn.Module | None:
        """The parameters that are new, as training begins with them; chance comes from torch's generator.

        While the method is on, they are ``model.ropewalk_memory``.

        Args:
            model: the base, which may be copied from and must not be changed.
        """
        return None

    def learns(self, name: str) -> bool:
        """Whether a parameter of the base, by its name in the model, is trained."""
        return False

    @property
    def leaves_base(self) -> bool:
        """Whether no parameter of the base is trained."""
        return type(self).learns is TrainedMemory.learns

    def taught(self, model: PreTrainedModel, batch: Any, left: int) -> Tensor | None:
        """The loss of a stage in place of the next token's, summed over a batch's tokens; None where there is none.

        Args:
            model: in training, with the method on.
            batch: as of ``auxiliary``.
            left: stages of the training after this one.
        """
        return None

    def auxiliary(self, model: PreTrainedModel, batch: Any) -> Tensor | None:
        """A further loss, summed over a batch's tokens, with gradients; None if there is none.

        Args:
            model: in training, with the method on.
            batch: a ``training.training_batch.Batch``, on the model's device.
        """
        return None

    # What follows is the same for all.

    @property
    def memory(self) -> MemoryFolder:
        """What lies in the folder that ``trained`` names.

        Raises:
            UserError: if it is no memory of this method.
        """
        found = MemoryFolder.read(self.trained)
        if found.method != self.name:
            raise UserError(
                f"{self.trained} holds a trained {found.method}, not {self.name}",
                f"Say {found.method}(trained={self.trained}).",
            )
        return found

    def folder_options(self) -> dict[str, Any]:
        """The options that its folder says, defaults included.

        Raises:
            UserError: if folder and class do not agree on what options there are.
        """
        known = {one.name: one for one in fields(self) if one.name != "trained"}
        found = self.memory.options
        if unknown := sorted(found.keys() - known.keys()):
            raise UserError(f"{self.trained}: {self.name} has no option {unknown[0]!r}", AGAIN)
        said = {name: typed(self.name, name, known[name], value) for name, value in found.items()}
        return {name: _default(self, name) for name in known} | said

    def refuse_others(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the folder does not say, defaults included.

        Raises:
            UserError: naming the option and both values.
        """
        for name, value in options.items():
            if getattr(self, name) != value and name not in self.chosen:
                self._refuse_other(name, getattr(self, name), value)

    def _refuse_other(self, name: str, trained: Any, said: Any) -> None:
        raise UserError(
            f"{self.trained} was trained with {name} = {trained!r}, not {said!r}",
            f"Leave {name} out, or train one with it: --method '{spelled(self.name, {name: said})}'.",
        )

    def begun(self: AnyMemory) -> AnyMemory:
        """The same as training begins with it, with parameters that nobody has trained; only Python can say so."""
        made = replace(self)
        object.__setattr__(made, "is_begun", True)
        return made

    @property
    def bare(self) -> Any:
        made = replace(self)
        object.__setattr__(made, "is_begun", self.is_begun)
        object.__setattr__(made, "is_seen", True)
        return made

    def require(self, model: nn.Module | PreTrainedConfig, to: int | None, whole: Method | None = None) -> None:
        if self.is_begun or self.is_seen:
            return
        if not self.trained:
            raise UserError(
                f"{self.name} has no trained: what it does is learnt, for every model anew",
                self._line(str(getattr(getattr(model, "config", model), "_name_or_path", "") or "MODEL")),
            )
        self.memory.refuse_elsewhere(model, to, self, whole or self)

    def _line(self, model: str) -> str:
        """The command that trains it, and how its folder is used."""
        own = self.changed()
        words = [
            "train",
            self.name,
            model,
            "TEXTS",
            *(["--method", spelled(self.name, own)] if own else []),
            "-o",
            "OUT",
        ]
        return f"{command(*words)}\nThen say {self.name}(trained=OUT)."

    def fingerprint(self, model: nn.Module, to: int, whole: Method | None = None) -> str:
        own = super().fingerprint(model, to, whole)
        return digest(own, self.memory.tensors) if self.trained else own

    def carried(self, model: PreTrainedModel, seed: int = 0) -> None:
        """Give a model the memory for good, to train it: what is trained has gradients, and nothing else.

        Args:
            model: the base.
            seed: of the new parameters.

        Raises:
            UserError: if it starts from a memory of another base.
        """
        held: dict[str, Tensor] = {}
        if self.trained:
            self.memory.refuse_elsewhere(model, None, self, self)
            held = self.memory.load()
        self._attach(model, seed)
        for name, value in self._places(model, held).items():
            value.data.copy_(held[name])
        for name, one in model.named_parameters():
            one.requires_grad_(name.startswith(f"{PLACE}.") or self.learns(name))

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        if self.is_begun and hasattr(model, PLACE):  # which is being trained
            yield
            return
        if hasattr(model, PLACE):
            raise UserError(f"the model carries a memory in training, and {self.id} is another", "Put it on the base.")
        live, held = cast("PreTrainedModel", model), self.memory.load() if not self.is_begun else {}
        before: dict[str, Tensor] = {}
        self._attach(live, 0)
        try:
            for name, value in self._places(live, held).items():
                before[name] = value.data
                value.data = held[name].to(value.device, value.dtype)
            yield
        finally:
            if hasattr(live, PLACE):
                delattr(live, PLACE)
            for name, one in live.named_parameters():
                if name in before:
                    one.data = before[name]

    def _attach(self, model: PreTrainedModel, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            new = self.added(model)
        if new is not None:
            setattr(model, PLACE, new.to(model.device, model.dtype).train(model.training))

    def _places(self, model: PreTrainedModel, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The live tensors that held ones belong in.

        Raises:
            UserError: if the model has not all of them, or of another shape.
        """
        if not held:
            return {}
        live = self._kept(model)
        wrong = sorted(held.keys() ^ live.keys())
        wrong += [name for name in held.keys() & live.keys() if held[name].shape != live[name].shape]
        if wrong:
            raise UserError(
                f"{self.trained}: {wrong[0]} is not there, or of another shape, in the memory or in the model", AGAIN
            )
        return live

    def _kept(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """What a folder holds of a model that has the memory: its own state, and the trained weights of the base."""
        own: nn.Module | None = getattr(model, PLACE, None)
        state = {} if own is None else {f"{PLACE}.{name}": one for name, one in own.state_dict(keep_vars=True).items()}
        of_base = {name: one for name, one in model.named_parameters() if not name.startswith(f"{PLACE}.")}
        return state | {name: one for name, one in of_base.items() if self.learns(name)}

    def write(
        self, folder: Path, model: PreTrainedModel, base: Mapping[str, str], to: int, beside: Mapping[str, str]
    ) -> None:
        """Put what was trained into a folder.

        Args:
            folder: that is there.
            model: which carries it.
            base: name and fingerprint of the model without it.
            to: target length in tokens.
            beside: id of every method that was on as well -> its spelling.

        Raises:
            UserError: if something that was trained is not finite.
        """
        import transformers
        from safetensors.torch import save_file

        kept = {name: one.detach().contiguous().cpu() for name, one in self._kept(model).items()}
        for name, one in kept.items():
            if one.is_floating_point() and not math.isfinite(float(one.double().abs().sum())):
                raise UserError(f"{name} is not finite after the training", "Say a lower --learning-rate.")
        options = {name: value for name, value in self.changed().items() if name != "trained"}
        content = MemoryFolder(
            self.name, options, dict(beside), to, dict(base), "", __version__, torch.__version__,
            transformers.__version__, "",
        )  # fmt: skip
        save_file(kept, folder / TENSORS, {"format": "pt", "said": content.said})
        content = replace(content, tensors=hash_of(folder / TENSORS))
        told = {name: value for name, value in asdict(content).items() if name != "path"}
        write_text(folder / FILE, json.dumps({"kind": KIND, **told}, indent=1) + "\n")


def memory_of(method: Method) -> TrainedMemory | None:
    """The part of a method that is a trained memory, if there is one."""
    parts = getattr(method, "parts", (method,))
    return next((part for part in parts if isinstance(part, TrainedMemory)), None)


def spelled_with(method: Method, folder: str | Path) -> str:
    """A method whose memory lies in a folder, as ``ropewalk.method`` reads it."""
    parts = getattr(method, "parts", (method,))
    return "+".join(
        spelled(part.name, {"trained": str(folder)}) if isinstance(part, TrainedMemory) else part.spelling
        for part in parts
    )


def beside(method: Method) -> dict[str, str]:
    """What is on beside the memory of a method: id -> spelling."""
    parts = getattr(method, "parts", (method,))
    return {part.id: part.spelling for part in parts if not isinstance(part, TrainedMemory)}


def _default(method: TrainedMemory, name: str) -> Any:
    one = next(one for one in fields(method) if one.name == name)
    return one.default_factory() if one.default_factory is not MISSING else one.default
