"""What transformers makes of a checkpoint: its own functions, at a given length.

transformers 5 reads ``rope_parameters``, or the older pair ``rope_theta`` and ``rope_scaling``. transformers 4 reads
the pair only: where it is missing, the class's own base is taken and nothing is scaled, without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ropewalk.attention.selftest import TESTED
from ropewalk.common.errors import UserError
from ropewalk.engines.reading import Files, numbers
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import ALL, Reading

LATEST = TESTED[1]


def read(files: Files, length: int, version: str = LATEST) -> dict[str, Reading]:
    """Layer type -> the rotation of a forward whose longest row has ``length`` tokens.

    Raises:
        UserError: if the parameters cannot be read.
    """
    if numbers(version) < (5,):
        files = as_version_4(files)
    specs = rope_config.read(files.config)
    readings = {}
    for layer_type, spec in specs.items():
        inv_freq = spec.inv_freq
        if spec.rope_type == "dynamic" or spec.long_factors is not None:
            inv_freq = _at_length(files, layer_type, length)
        steps = rope_config.stairs(files.entries.get(layer_type, {}))
        readings[layer_type] = Reading(inv_freq, spec.attention_factor, spec.length, spec.logit_scale, steps)
    return readings


def _at_length(files: Files, layer_type: str, length: int) -> torch.Tensor:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = files.entries[layer_type]["rope_type"]
    name = None if layer_type == ALL else layer_type
    inv_freq, _ = ROPE_INIT_FUNCTIONS[kind](files.config, torch.device("cpu"), seq_len=length, layer_type=name)
    return inv_freq.double()


def as_version_4(files: Files) -> Files:
    """The files as transformers 4 reads them.

    Raises:
        UserError: if the parameters are given per layer type, or it would refuse them.
    """
    if ALL not in files.entries:
        raise UserError("transformers 4 knows no rope_parameters per layer type")
    raw: Mapping[str, Any] = files.raw
    with rope_config.quiet():
        default = type(files.config)().rope_parameters or {}
    theta = raw.get("rope_theta", raw.get("rotary_emb_base", default.get("rope_theta", 10000.0)))
    scaling = dict(raw.get("rope_scaling") or {})
    if files.model_type == "phi3" and scaling and scaling.keys() != {"type", "short_factor", "long_factor"}:
        raise UserError(
            "transformers 4 stops: Phi-3's rope_scaling has the keys "
            f"{', '.join(sorted(scaling))}, expected exactly type, short_factor and long_factor",
            "Load it with transformers 5.",
        )
    kind = scaling.pop("type", "default")
    if kind in ("yarn", "longrope") or scaling.get("rope_type") in ("yarn", "longrope"):
        original = raw.get("original_max_position_embeddings", files.length)
        scaling.setdefault("original_max_position_embeddings", original)
    partial = {key: raw[key] for key in ("partial_rotary_factor",) if key in raw}
    return files.replaced({"rope_parameters": {"rope_type": kind, **partial, **scaling, "rope_theta": theta}})
