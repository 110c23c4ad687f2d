"""Reading a GGUF file: its keys, its factor tensors, and the rope that llama.cpp makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.checkpoint.gguf import llama_rope
from ropewalk.checkpoint.gguf.header import AGAIN, Header, Place, read_header
from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.checkpoint.gguf.rope_keys import FACTOR_TENSORS, SAME, error
from ropewalk.common.errors import UserError
from ropewalk.rope.keys import LAYERS
from ropewalk.rope.spec import ALL, Reading, RopeSpec

# Rotations of neighbours, as the file's rows are laid out; the others rotate halves.
INTERLEAVED = frozenset(
    "arcee baichuan chameleon chatglm cohere2 command-r deci deepseek deepseek2 ernie4_5 granite granitemoe internlm2 "
    "llada llama llama4 minicpm mistral3 nanbeige olmo smollm3 starcoder xverse".split()
)
WORD, NUMBER, NOT_NEGATIVE = "a word", "a number", "a number, 0 or above"
COUNT = "a whole number, 0 or above"
WHOLE, POSITIVE, ABOVE_ONE = "a whole number above 0", "a number above 0", "a number above 1"
EXPECTED = {
    key: expected
    for expected, keys in {
        WORD: "rope.scaling.type",
        WHOLE: "context_length block_count embedding_length attention.head_count attention.head_count_kv "
        "attention.key_length attention.value_length rope.dimension_count rope.scaling.original_context_length",
        ABOVE_ONE: "rope.freq_base rope.freq_base_swa",
        POSITIVE: "rope.scaling.attn_factor rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow",
        NOT_NEGATIVE: "rope.scaling.factor rope.scale_linear attn_logit_softcapping final_logit_softcapping",
        COUNT: "attention.sliding_window attention.sliding_window_pattern",
        NUMBER: "rope.scaling.yarn_ext_factor rope.scaling.yarn_attn_factor rope.scaling.yarn_log_multiplier",
    }.items()
    for key in keys.split()
}
MOST_DIMENSIONS = 1 << 16


RECORD_KEY = "ropewalk.extension"  # the record of an extension, as a configuration has it, in JSON


@dataclass(frozen=True)
class RopeOfFile:
    """What a GGUF says about its rope.

    Attributes:
        path: the file.
        architecture: ``general.architecture``.
        keys: keys of the architecture, without its name; lists are left out.
        factors: tensor name without ``.weight`` -> divisors of the plain frequencies.
        header: all of the file's keys and tensors.
    """

    path: Path
    architecture: str
    keys: dict[str, Any]
    factors: dict[str, tuple[float, ...]]
    header: Header

    @property
    def rotary_dim(self) -> int:
        """Rotated dimensions per head."""
        given = self.keys.get("rope.dimension_count") or self.keys.get("attention.key_length")
        return int(given or self.keys["embedding_length"] // self.keys["attention.head_count"])

    def reading(self, sliding: bool = False) -> Reading:
        """The rotation that llama.cpp derives without flags; ``sliding``: in sliding-window layers.

        Raises:
            UserError: if llama.cpp would refuse the file.
        """
        return llama_rope.read({**self.keys, **self.factors}, architecture=self.architecture, sliding=sliding)

    def spec(self, layer_type: str = ALL) -> RopeSpec:
        """The same as a RopeSpec: factors relative to the base of these layers.

        Raises:
            UserError: if llama.cpp would refuse the file.
        """
        sliding, keys = layer_type == "sliding_attention", self.keys
        reading = self.reading(sliding)
        heads = int(keys.get("attention.head_count", 1))
        head_dim = int(keys.get("attention.key_length") or keys.get("embedding_length", 0) // heads)
        kind = str(keys.get("rope.scaling.type") or ("longrope" if self.factors else "default"))
        base, n_rot = llama_rope.base(keys, self.architecture, sliding), 2 * len(reading.inv_freq)
        length = int(keys["context_length"])
        stretch = float(keys.get("rope.scaling.factor") or 1.0) if kind in ("linear", "yarn") else 1.0
        unscaled = kind in ("none", "linear") and stretch == 1.0
        unscaled |= sliding and self.architecture in llama_rope.UNSTRETCHED_SLIDING
        plain = RopeSpec.plain(
            base,
            n_rot,
            int(keys.get("rope.scaling.original_context_length") or max(1, round(length / stretch))),
            length=length,
            head_dim=head_dim or n_rot,
            kv_heads=int(keys.get("attention.head_count_kv", heads)),
            attention_factor=reading.attention_factor,
            rope_type="default" if unscaled else kind,
            layer_type=layer_type,
            sliding=sliding,
            style="interleaved" if self.architecture in INTERLEAVED else "half",
        )
        factors = (plain.base_inv_freq / reading.inv_freq).tolist()
        return replace(plain, factors=tuple(1.0 if abs(f - 1.0) < 1e-12 else f for f in factors))


def refuse_other(path: Path, specs: Iterable[RopeSpec]) -> None:
    """Read a file back that was just written.

    Args:
        path: the file.
        specs: the rope of every kind of layer.

    Raises:
        UserError: if llama.cpp would derive another rope from it in one of them.
    """
    file = read(path)
    for spec in specs:
        reading = file.reading(spec.sliding)
        off, t = error(reading, spec), reading.attention_factor
        if off > SAME or abs(t - spec.attention_factor) > SAME:
            layers = "" if spec.layer_type == ALL else f" in {spec.layer_type} layers"
            raise UserError(
                f"what llama.cpp would derive{layers} is off by {off:.2g} in frequency and has the attention factor "
                f"{t:.6g}, expected {spec.attention_factor:.6g}; nothing was written"
            )


def read(path: Path) -> RopeOfFile:
    """The rope of a GGUF file.

    Raises:
        UserError: if the file is broken, or a value has the wrong type; file, key and value are named.
    """
    header = read_header(path)
    architecture = header.values.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise UserError(f"{path}: key 'general.architecture' is {architecture!r}, expected a name", AGAIN)
    prefix = f"{architecture}."
    keys = {key.removeprefix(prefix): value for key, value in header.values.items() if key.startswith(prefix)}
    places = {name: header.tensors.get(f"{name}.weight") for name in FACTOR_TENSORS}
    factors = {name: _factors(path, f"{name}.weight", place) for name, place in places.items() if place is not None}
    found = RopeOfFile(path, architecture, keys, factors, header)
    _check_values(found)
    return found


def _factors(path: Path, name: str, place: Place) -> tuple[float, ...]:
    kind = gguf().GGMLQuantizationType(place.kind).name
    if kind != "F32" or place.elements > MOST_DIMENSIONS:
        raise UserError(f"{path}: tensor {name!r} is {kind} of {place.elements:,} elements, expected few of F32", AGAIN)
    values = tuple(np.fromfile(path, "<f4", place.elements, offset=place.start).tolist())
    for i, value in enumerate(values):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{path}: tensor {name!r}[{i}] is {value}, expected a number above 0", AGAIN)
    return values


def _check_values(file: RopeOfFile) -> None:
    for key, expected in EXPECTED.items():
        if key in file.keys and not _fits(file.keys[key], expected):
            name = f"{file.architecture}.{key}"
            raise UserError(f"{file.path}: key '{name}' is {file.keys[key]!r}, expected {expected}", AGAIN)
    sized = "rope.dimension_count" in file.keys or "attention.key_length" in file.keys
    needed = ("context_length",) if sized else ("context_length", "embedding_length", "attention.head_count")
    for key in needed:
        if key not in file.keys:
            raise UserError(f"{file.path}: key '{file.architecture}.{key}' is missing", AGAIN)
    if (layers := file.keys.get("block_count", 1)) > LAYERS:
        raise UserError(f"{file.path}: key '{file.architecture}.block_count' is {layers:,}, at most {LAYERS:,}", AGAIN)
    n_rot = file.rotary_dim
    if n_rot % 2 or not 0 < n_rot <= MOST_DIMENSIONS:
        raise UserError(
            f"{file.path}: {n_rot} rotary dimensions, expected an even number up to {MOST_DIMENSIONS}", AGAIN
        )
    for name, values in file.factors.items():
        if len(values) != n_rot // 2:
            raise UserError(
                f"{file.path}: tensor '{name}.weight' has {len(values)} entries, expected {n_rot // 2}", AGAIN
            )


def _fits(value: Any, expected: str) -> bool:
    if expected == WORD:
        return isinstance(value, str)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return False
    if expected in (WHOLE, COUNT):
        return isinstance(value, int) and (expected == WHOLE) <= value < 1 << 32
    if expected == NOT_NEGATIVE:
        return value >= 0
    return expected == NUMBER or value > (1 if expected == ABOVE_ONE else 0)
