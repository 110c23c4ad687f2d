"""What every engine's file works with: the checkpoint's keys on one side, the rotation it computes on the other."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.common.outside import read_json
from ropewalk.rope import architecture, formulas
from ropewalk.rope.config import INTERLEAVED, load_config, logit_scale, text_config
from ropewalk.rope.keys import read_beside
from ropewalk.rope.problems import WITH_AXES
from ropewalk.rope.spec import ALL
from ropewalk.rope.trial import auto_class

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True, eq=False)
class Files:
    """What engines read of a checkpoint.

    Attributes:
        folder: where engines find it.
        raw: the language model's part of config.json as it stands in the file.
        config: the same as transformers 5 reads it, which is what vLLM and SGLang start from.
        tokenizer_limit: ``model_max_length`` of tokenizer_config.json, None if it is not there.
        prefix: "text_config." where config.json holds the language model's keys inside another's.
        name: as the user spelled it; goes into messages.
        auto: the auto class of transformers that loads it.
    """

    folder: str
    raw: Mapping[str, Any]
    config: PreTrainedConfig
    tokenizer_limit: int | None = None
    prefix: str = ""
    name: str = ""
    auto: str = "AutoModelForCausalLM"

    @classmethod
    def load(cls, folder: Path, config: PreTrainedConfig | None = None) -> Files:
        """Read a local checkpoint folder; ``config`` is its configuration, where that was read before.

        Raises:
            UserError: if transformers cannot read its configuration.
        """
        raw = read_json(folder / "config.json")
        inner = raw.get("text_config")
        config = config or load_config(str(folder))
        limit = read_beside(folder / "tokenizer_config.json").get("model_max_length")
        return cls(
            str(folder),
            inner if isinstance(inner, dict) else raw,
            text_config(config),
            int(limit) if limit is not None and limit < 1e18 else None,  # transformers writes 1e30 for "no limit"
            "text_config." if isinstance(inner, dict) else "",
            str(config.name_or_path),
            auto_class(config).__name__,
        )

    def replaced(self, overrides: Mapping[str, Any]) -> Files:
        """The same with keys replaced after loading, as vLLM does it: nothing fills or checks what is new."""
        config = copy.deepcopy(self.config)
        for key, value in overrides.items():
            setattr(config, "rope_parameters" if key == "rope_scaling" else key, value)
        return replace(self, config=config, raw={**self.raw, **overrides})

    @property
    def model_type(self) -> str:
        return str(self.config.model_type)

    def head_dim(self, layer_type: str = ALL) -> int:
        """Of the layers of this type."""
        far = "full_attention" if layer_type == ALL else layer_type
        return architecture.head_dim(architecture.of_layer(self.config, far))

    def logit_scale(self, entry: Mapping[str, Any]) -> float:
        """What latent attention makes of ``mscale_all_dim``, in every engine alike."""
        return logit_scale(self.config, entry.get("rope_type", "default"), entry)

    @property
    def length(self) -> int:
        """``max_position_embeddings``."""
        return int(self.config.max_position_embeddings)

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Layer type -> rope parameters, ``ALL`` where they are not nested."""
        parameters = dict(getattr(self.config, "rope_parameters", None) or {})
        nested = {key: dict(entry) for key, entry in parameters.items() if isinstance(entry, dict)}
        return nested or {ALL: parameters}


class Since(Protocol):
    @property
    def since(self) -> str: ...


AnyRules = TypeVar("AnyRules", bound=Since)


def rules_of(table: Iterable[AnyRules], engine: str, version: str) -> AnyRules:
    """The last of ``table`` (oldest first) that began with ``version`` or before.

    Raises:
        UserError: if the version is older than what is known, or no version number.
    """
    table = list(table)
    try:
        known = [rules for rules in table if numbers(rules.since) <= numbers(version)]
    except ValueError:
        raise UserError(
            f"{version!r} is no version of {engine}", f"Write a number such as {table[-1].since}."
        ) from None
    if not known:
        raise UserError(f"{engine} {version} is older than what ropewalk knows", f"Use {table[0].since} or later.")
    return known[-1]


def numbers(version: str) -> tuple[int, ...]:
    """(0, 11, 2) of "0.11.2.post1"."""
    parts = version.split(".")
    return tuple(int(part) for part in parts[:3] if part.isdigit()) or (int(version),)


def need(entry: Mapping[str, Any], key: str, engine: str) -> Any:
    """A key that the engine reads without a default.

    Raises:
        UserError: if it is missing.
    """
    if entry.get(key) is None:
        raise UserError(f"{engine} stops: rope_parameters has no key {key!r} (rope_type {entry.get('rope_type')!r})")
    return entry[key]


def longrope(
    files: Files, entry: Mapping[str, Any], base: float, d: int, long: bool, original: int, engine: str, start: str
) -> tuple[Tensor, float]:
    """Frequencies and attention factor by the one factor set in use, as vLLM and SGLang take them.

    Raises:
        UserError: if keys are missing or do not fit, or the model rotates neighbours; ``start`` is the line that then
            runs transformers' own code.
    """
    if files.model_type in INTERLEAVED:
        raise UserError(f"{engine} stops: longrope rotates halves, {files.model_type} rotates neighbours", start)
    factors = torch.tensor(need(entry, "long_factor" if long else "short_factor", engine), dtype=torch.float64)
    if len(factors) != d // 2:
        raise UserError(
            f"{engine} stops: longrope has {len(factors)} factors, the head rotates {d} dimensions as {engine} reads it"
        )
    default = formulas.longrope_magnitude(files.length, original)
    given = entry.get("long_mscale" if long else "short_mscale")
    return formulas.plain(base, d) / factors, default if given is None else float(given)


def refuse_axes(entry: Mapping[str, Any], engine: str) -> None:
    """Refuse M-RoPE in a type in which an engine takes one position per token.

    Raises:
        UserError: naming the type.
    """
    kind = entry.get("rope_type", "default")
    if entry.get("mrope_section") and kind not in WITH_AXES:
        raise UserError(
            f"{engine} has M-RoPE in the types {' and '.join(sorted(WITH_AXES))} alone; rope_type is {kind!r}",
            "Extend the model by yarn or ntk-aware, which these types say; or add --model-impl transformers.",
        )


def proportional(base: float, head_dim: int, rotated: int) -> Tensor:
    """Gemma 4's rotation: frequencies of the whole head, the last of them 0, [head_dim / 2]."""
    w = formulas.plain(base, head_dim)
    return torch.where(torch.arange(head_dim // 2) < rotated // 2, w, torch.zeros_like(w))


def linear_factor(entry: Mapping[str, Any], engine: str) -> float:
    """The factor of ``linear``; vLLM's and SGLang's classes take a whole number for a list and stop.

    Raises:
        UserError: if it is missing or a whole number.
    """
    factor = need(entry, "factor", engine)
    if not isinstance(factor, float):
        raise UserError(f"{engine} stops: the factor of 'linear' is {factor!r}, expected a number with a point")
    return factor
