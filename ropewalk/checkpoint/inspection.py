"""Everything that a model's files say about its context window, gathered for a person or a program."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.common.results import Result
from ropewalk.rope import architecture
from ropewalk.rope.config import promised_by, spec_to_json, text_config, window_of
from ropewalk.rope.keys import read_beside
from ropewalk.rope.problems import Problem
from ropewalk.rope.spec import RopeSpec

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}


@dataclass(frozen=True)
class Head:
    """One query head, over the last queries of some texts.

    Attributes:
        layer: index of the layer.
        head: index of the query head.
        slow_correlation: how well the part of the logit that comes from slow pairs of dimensions (those that make no
            full turn inside the window) follows the whole logit over all distances: Pearson's correlation over the keys
            of a query, averaged over queries; None where no pair is slow.
        far_share: share of the attention that goes to the further half of the keys.
    """

    layer: int
    head: int
    slow_correlation: float | None
    far_share: float


@dataclass(frozen=True, repr=False)
class Inspection(Result):
    """What ``ropewalk inspect`` shows.

    Attributes:
        model: as the user named it.
        architecture: class name in the configuration, or the model type.
        layers: layer type -> number of layers.
        specs: layer type -> RopeSpec; empty if transformers cannot read the file.
        window: pretrained window in tokens; None if unknown.
        length: length in tokens that the configuration promises; None if unknown.
        kv_bytes_per_token: bytes of key-value cache that one more token costs at full length (sliding-window layers,
            whose cache stops growing, are not counted); None if unknown.
        dtype: of that cache.
        reach: tokens that a rotating layer sees at most, where that is bounded; None if a layer sees all.
        base_is_default: config.json names no base, so that the class's own is taken.
        extended_by: the method that ropewalk applied, if it did.
        unreadable: why transformers cannot read the configuration, if so.
        problems: misconfigurations; empty for a sound model.
        notes: what to know of a promise that engines take differently.
        heads: what each does with distance, where the weights were looked at.
        wrote: file that was changed -> where its old content is.
    """

    model: str
    architecture: str
    layers: dict[str, int]
    specs: dict[str, RopeSpec]
    window: int | None
    length: int | None
    kv_bytes_per_token: int | None
    dtype: str
    extended_by: str | None
    unreadable: str | None
    problems: list[Problem]
    reach: int | None = None
    base_is_default: bool = False
    notes: list[str] = field(default_factory=list)
    heads: list[Head] | None = None
    wrote: dict[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not self.problems and self.unreadable is None

    def show(self, console: Console) -> None:
        from ropewalk.checkpoint.inspection_view import show

        show(self, console)

    def to_dict(self) -> dict[str, Any]:
        rope = {
            key: {
                **spec_to_json(spec),
                "critical_dimension": spec.critical_dimension,
                "dimensions_without_a_full_turn": spec.rotary_dim // 2 - spec.critical_dimension,
                "wavelengths": list(spec.wavelengths),
            }
            for key, spec in self.specs.items()
        }
        plain = {key: value for key, value in vars(self).items() if key not in ("specs", "problems", "heads")}
        heads = {} if self.heads is None else {"heads": [asdict(head) for head in self.heads]}
        return {**plain, "rope": rope, "problems": [asdict(problem) for problem in self.problems], **heads}


def inspect(model: str | Path | Checkpoint, trust_remote_code: bool = False) -> Inspection:
    """Inspect a folder, a config.json or a hub id; no weights are needed.

    Raises:
        UserError: if there is no configuration, or it cannot be read and no problem explains why.
    """
    checkpoint = Checkpoint.open(model, trust_remote_code, sound=False)
    found, name = list(checkpoint.problems), checkpoint.name
    try:
        config, specs = checkpoint.outline, checkpoint.specs
    except UserError as error:
        if not found:
            raise
        raw = checkpoint.raw
        kind = str((raw.get("architectures") or [raw.get("model_type", "unknown")])[0])
        return Inspection(name, kind, {}, {}, None, None, None, "", None, error.message, found)
    text = text_config(config)
    window, length = window_of(specs), promised_by(specs)
    if checkpoint.beside is not None:
        found += _tokenizer_problems(checkpoint.beside, name, window, length)
    if checkpoint.unwritten is not None:
        found.append(checkpoint.unwritten.problem)
    record = checkpoint.record
    dtype = str(text.dtype or config.dtype or "bfloat16").removeprefix("torch.")
    return Inspection(
        model=name,
        architecture=str((config.architectures or [config.model_type])[0]),
        layers=layer_types(text),
        specs=specs,
        window=window,
        length=length,
        kv_bytes_per_token=kv_bytes_per_token(text, dtype),
        dtype=dtype,
        extended_by=None if record is None else str(record.get("method")),
        unreadable=None,
        problems=found,
        reach=architecture.reach(text),
        base_is_default=not _names_a_base(checkpoint.raw),
        notes=checkpoint.notes,
    )


def _names_a_base(raw: dict[str, Any]) -> bool:
    """Whether a configuration says the base of its rope anywhere."""
    own = raw.get("text_config") if isinstance(raw.get("text_config"), dict) else raw
    names = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "compress_rope_theta")
    return any(f'"{name}"' in json.dumps(own) for name in names)


def layer_types(text: PreTrainedConfig) -> dict[str, int]:
    """Layer type -> number of layers, in order of appearance."""
    types = architecture.layers(text)
    return {kind: types.count(kind) for kind in dict.fromkeys(types)}


def kv_bytes_per_token(text: PreTrainedConfig, dtype: str) -> int:
    """Bytes of cache for one more token in all layers whose cache grows with the text."""
    return sum(_width(text, layer) for layer in architecture.grown_layers(text)) * BYTES.get(dtype, 2)


def _width(text: PreTrainedConfig, layer: int) -> int:
    """Elements that one more token adds to the cache of a layer."""
    if architecture.latent(text):  # multi-head latent attention, as transformers caches it
        return int(text.num_attention_heads) * (int(text.qk_head_dim) + int(text.v_head_dim))
    own = architecture.of_layer(text, layer)
    heads = int(getattr(own, "num_key_value_heads", None) or own.num_attention_heads)
    ratios = getattr(text, "compress_ratios", None) or {}  # tokens that share one entry of the cache
    ratio = ratios.get(architecture.layers(text)[layer], 1) if isinstance(ratios, dict) else ratios[layer]
    return 2 * heads * architecture.head_dim(own) // max(int(ratio or 1), 1)


def _tokenizer_problems(folder: Path, model: str, window: int, length: int) -> list[Problem]:
    limit = read_beside(folder / "tokenizer_config.json").get("model_max_length")
    if limit is None or limit > window or length <= window:
        return []
    mend = setting(model, {"tokenizer_config.json:model_max_length": length})
    return [Problem("tokenizer-shorter", "all", "tokenizer_config.json:model_max_length", limit, length, mend)]
