"""What lies in the folder of an adapter: low-rank factors for a model that lies elsewhere, and the rope they belong to.

The files are those of peft. The rope stands in the header of the weights, where no copying of single files loses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.files import listed
from ropewalk.common.lengths import show
from ropewalk.common.outside import parse, read_json
from ropewalk.common.results import Result
from ropewalk.rope.config import spec_from_json
from ropewalk.rope.spec import STILL, RopeSpec

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.checkpoint.weights import Header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of all names in the file
KEY = "ropewalk"  # of the header's metadata
READ = frozenset("peft_type r lora_alpha lora_dropout use_rslora modules_to_save ensure_weight_tying".split())
ELSEWHERE = frozenset(  # which modules, the file itself says; the rest is about making and finding the adapter
    "target_modules exclude_modules layers_to_transform layers_pattern base_model_name_or_path revision task_type "
    "auto_mapping inference_mode peft_version megatron_core qalora_group_size".split()
)


@dataclass(frozen=True, repr=False)
class AdapterFolder(Result):
    """An adapter on disk; nothing is unpickled, and its weights are not read.

    Attributes:
        folder: where it lies.
        base: the model that it belongs to, as it was named in training.
        settings: of peft, as they stand in the file.
        header: name of a tensor -> its shape, and its type.
        rope: layer type -> the rope that it was trained under; None if it does not say.
        extension: how ropewalk extended the base for that; None if it did not.
        digest: of the base's weights; empty if it does not say.
        training: what a folder's record says of the training; empty if it does not say.
    """

    folder: Path
    base: str
    settings: dict[str, Any]
    header: Header
    rope: dict[str, RopeSpec] | None = None
    extension: dict[str, Any] | None = None
    digest: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> AdapterFolder:
        """The adapter in a folder.

        Raises:
            UserError: if there is none, it is of a kind that is not read here, or what it says cannot be read.
        """
        folder = Path(folder).expanduser()
        if not (folder / CONFIG).is_file():
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder", "Give the folder of an adapter.")
            inner = next((one.parent for one in sorted(folder.glob(f"*/{CONFIG}"))), None)
            mend = "Give the folder of an adapter." if inner is None else f"Give the one inside of it: {inner}"
            raise UserError(f"{folder} holds no adapter: it has no {CONFIG}", mend)
        from safetensors import safe_open

        from ropewalk.checkpoint.weights import read_headers

        settings = read_json(folder / CONFIG)
        _refuse_strange(folder / CONFIG, settings)
        weights = folder / WEIGHTS
        if not weights.is_file() and (folder / "adapter_model.bin").is_file():
            raise UserError(
                f"{folder} holds its weights pickled (adapter_model.bin), which ropewalk does not load",
                "Save the adapter again with peft, which writes safetensors.",
            )
        header = read_headers([weights])
        with safe_open(weights, "pt") as stream:
            said = (stream.metadata() or {}).get(KEY)
        base = str(settings.get("base_model_name_or_path") or "")
        if said is None:
            return cls(folder, base, settings, header)
        try:
            content = parse(said)
            rope = {key: spec_from_json(entry) for key, entry in content["rope"].items()}
            extension = content["extension"] and dict(content["extension"])
            training = dict(content.get("training", {}))
            return cls(folder, base, settings, header, rope, extension, str(content["digest"]), training)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{weights}: what ropewalk noted of the rope cannot be read: {error!r}", "Download the file again."
            ) from None

    @property
    def rank(self) -> int:
        return int(self.settings["r"])

    @property
    def factors(self) -> list[str]:
        """Modules that have low-rank factors, as the base calls them."""
        return sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in self.header if ".lora_" in name})

    @property
    def replaced(self) -> list[str]:
        """Parameters of the base that the file holds whole, as the base calls them."""
        return sorted(name.removeprefix(PREFIX) for name in self.header if ".lora_" not in name)

    @property
    def what(self) -> str:
        """What it is, in words."""
        whole = f", and {_kinds(self.replaced)} whole" if self.replaced else ""
        return (
            f"a LoRA adapter of {self.base or 'a model that it does not name'}: rank {self.rank}, "
            f"alpha {self.settings['lora_alpha']:g}, on {_kinds(self.factors)}{whole}"
        )

    @property
    def trained(self) -> str:
        """The rope that it was trained under, in words."""
        if self.rope is None:
            return "a rope that it does not name"
        how = "" if self.extension is None else f" ({self.extension['method']})"
        return spoken(self.rope) + how

    @property
    def merging(self) -> str:
        """The command that makes a model of it."""
        return command("merge", self.folder, *([] if self.base else ["--base", "MODEL"]))

    def show(self, console: Console) -> None:
        console.print(f"{self.folder}: {self.what}")
        console.print(f"trained under {self.trained}")
        console.print(f"a model of it: {self.merging}")

    def to_dict(self) -> dict[str, Any]:
        return {
            "adapter": str(self.folder),
            "base": self.base,
            "rank": self.rank,
            "alpha": self.settings["lora_alpha"],
            "factors": self.factors,
            "replaced": self.replaced,
            "rope": self.trained,
            "extension": self.extension,
        }

    def refuse_as_model(self) -> None:
        """Say that this is no model, to all who take it for one.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.folder} is no model, but {self.what}, trained under {self.trained}", self.merging)

    def refuse_other_rope(self, live: Mapping[str, RopeSpec], model: str) -> None:
        """Refuse a model that rotates by another rope than the adapter was trained under.

        Args:
            live: layer type -> the model's rope.
            model: its name, for messages.

        Raises:
            UserError: with the command that extends the base as it was for the training.
        """
        if self.rope is None or alike(self.rope, live):
            return
        mend = f"Take the base as it was in training: {self.base}."
        if self.extension is not None:
            to, method = self.extension["target"], self.extension["method"]
            line = command("extend", self.base, "--to", show(to), "--method", method)
            mend = f"Extend the base first: {line}   (in Python: ropewalk.method({method!r}).extend(model, to={to}))"
        raise UserError(
            f"{self.folder} was trained under {self.trained}, and {model} rotates by {spoken(live)}: its factors would "
            "meet angles that they were not trained at",
            mend,
        )


def alike(one: Mapping[str, RopeSpec], other: Mapping[str, RopeSpec]) -> bool:
    """Whether two models rotate alike at every length; what they promise may differ."""
    return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)


def _alike(one: RopeSpec, other: RopeSpec) -> bool:
    def by_length(spec: RopeSpec) -> Any:
        return spec.long_factors and (spec.long_factors, spec.window), spec.rope_type == "dynamic" and spec.length

    import torch

    return (
        one.style == other.style
        and one.inv_freq.shape == other.inv_freq.shape
        and torch.allclose(one.inv_freq, other.inv_freq, rtol=1e-6, atol=STILL)
        and abs(one.attention_factor - other.attention_factor) <= 1e-6
        and abs(one.logit_scale - other.logit_scale) <= 1e-6
        and one.beside == other.beside
        and by_length(one) == by_length(other)
    )


def spoken(specs: Mapping[str, RopeSpec]) -> str:
    """Ropes in a few words: types, bases, lengths."""
    said = (f"{spec.rope_type}, base {spec.base:,.0f}, {spec.length:,} tokens" for spec in specs.values())
    return "a rope of " + "; ".join(dict.fromkeys(said))


def described(
    rope: Mapping[str, Any], extension: Mapping[str, Any] | None, digest: str, training: Mapping[str, Any]
) -> dict[str, str]:
    """The metadata that says these."""
    said = {"rope": rope, "extension": extension, "digest": digest, "training": training}
    return {"format": "pt", KEY: json.dumps(said)}


def _kinds(names: list[str]) -> str:
    kinds = dict.fromkeys(name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2] for name in names)
    return listed(kinds) if len(kinds) > 4 else ", ".join(kinds)


def _refuse_strange(file: Path, settings: Mapping[str, Any]) -> None:
    """Refuse kinds of adapters whose forward is another than that of plain low-rank factors."""
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{file}: peft_type is {settings.get('peft_type')!r}, expected 'LORA'")
    for key in ("r", "lora_alpha"):
        value = settings.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            raise UserError(f"{file}: {key} is {value!r}, expected a number above 0")
    known = READ | ELSEWHERE | {"init_lora_weights"}
    plain: tuple[Any, ...] = (None, False, [], {}, 0, "none")
    strange = {key: value for key, value in settings.items() if key not in known and value not in plain}
    if isinstance(settings.get("init_lora_weights"), str) and settings["init_lora_weights"] != "gaussian":
        strange["init_lora_weights"] = settings["init_lora_weights"]  # these change the base as well
    for key, value in strange.items():
        raise UserError(
            f"{file}: {key} is {value!r:.60}, with which an adapter is more than low-rank factors",
            "Merge it with peft: model.merge_and_unload().save_pretrained(OUT).",
        )
