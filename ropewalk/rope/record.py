"""Whether a configuration still says what ropewalk noted in it: somebody may have changed the one and not the other."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.rope import architecture, problems
from ropewalk.rope import config as rope_config
from ropewalk.rope.problems import Problem
from ropewalk.rope.spec import ALL, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CODE = "record-contradicted"
CLOSE = 1e-5  # relative; formulas are rounded to float32


def contradicted(config: PreTrainedConfig, raw: Mapping[str, Any], model: str) -> list[Problem]:
    """The problem that rope or length are not those of ropewalk's record; none where they are, or there is no record.

    Args:
        config: as transformers reads it.
        raw: the same as it stands in the file.
        model: how the user named the model; goes into the mend.

    Raises:
        UserError: if the record cannot be read.
    """
    record = rope_config.record_of(config)
    if record is None:
        return []
    noted = copy.deepcopy(config)
    try:
        rope_config.write(noted, record["rope_parameters"], int(record["target"]), record)
        want = rope_config.read(noted)
    except (UserError, ValueError, KeyError, TypeError, RuntimeError):
        want = {}
    try:
        have = rope_config.read(config)
    except UserError:
        have = {}
    if want and want.keys() == have.keys() and all(_same(have[key], spec) for key, spec in want.items()):
        return []
    inside = isinstance(raw.get("text_config"), dict)
    raw, prefix = (raw["text_config"], "text_config.") if inside else (raw, "")
    forget = f"{prefix}{rope_config.RECORD}=null"
    changes = _changes(rope_config.text_config(noted), raw) if want else {}
    restored = problems.find({**raw, **changes}, model)
    if not changes or any(one.code in problems.BLOCKING for one in restored):  # the record is at fault
        mend = setting(model, {prefix + rope_config.RECORD: None})
        seen = {key: record[key] for key in ("target", "rope_parameters")}
        expected = "the rope and the length that stand in the file"
        return [Problem(CODE, ALL, prefix + rope_config.RECORD, seen, expected, mend)]
    key, seen, expected = _first(raw, changes)
    mend = setting(model, {prefix + name: value for name, value in changes.items()})
    mend += f"   (as ropewalk wrote it; if the change is meant, and only then: --set {forget})"
    return [Problem(CODE, ALL, prefix + key, seen, expected, mend)]


def _same(one: RopeSpec, other: RopeSpec) -> bool:
    """Whether two ropes are one, to rounding."""
    if (one.long_factors is None) != (other.long_factors is None) or one.rotary_dim != other.rotary_dim:
        return False
    pairs = [*zip(one.wavelengths, other.wavelengths, strict=True)]
    if one.long_factors is not None and other.long_factors is not None:
        pairs += zip(one.long_factors, other.long_factors, strict=True)
    return (
        one.length == other.length
        and one.beside == other.beside
        and math.isclose(one.attention_factor, other.attention_factor, rel_tol=CLOSE)
        and math.isclose(one.logit_scale, other.logit_scale, rel_tol=CLOSE)
        and all(math.isclose(1 / a, 1 / b, rel_tol=CLOSE, abs_tol=1e-15) for a, b in pairs)
    )


def _changes(noted: PreTrainedConfig, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the file that would have to be others, in every spelling that it has; None where one is to go."""
    rope = noted.rope_parameters
    flat = not any(isinstance(value, dict) for value in rope.values())
    wanted: dict[str, Any] = {
        "rope_parameters": rope,
        "max_position_embeddings": noted.max_position_embeddings,
        "rope_theta": rope.get("rope_theta"),
        "rope_scaling": {key: value for key, value in rope.items() if key != "rope_theta"} if flat else None,
    }
    if flat and rope.get("rope_type", "default") == "default":
        wanted["rope_scaling"] = None
    others = {*rope_config.STATED, "original_max_position_embeddings", *architecture.listed_bases(noted, 1.0)}
    wanted |= {key: getattr(noted, key, None) for key in others}
    always = ("rope_parameters", "max_position_embeddings")
    return {
        key: value for key, value in wanted.items() if (key in always or key in raw) and not _is(raw.get(key), value)
    }


def _is(seen: Any, wanted: Any) -> bool:
    return bool(json.loads(json.dumps(wanted)) == seen)


def _first(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """The first key that differs, as deep as it can be named, with both values."""
    path, value = next(iter(changes.items()))
    seen = raw.get(path)
    while isinstance(seen, dict) and isinstance(value, dict):
        inner = next((key for key in {**value, **seen} if not _is(seen.get(key), value.get(key))), None)
        if inner is None:
            break
        path, seen, value = f"{path}.{inner}", seen.get(inner), value.get(inner)
    return path, seen, value
