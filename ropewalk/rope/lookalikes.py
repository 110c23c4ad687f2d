"""Keys that nobody reads, and that look like one which decides the rope or the length.

transformers takes any key without a word, and the class's own value in place of what was meant.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ropewalk.rope.config import STATED
from ropewalk.rope.keys import WHOLE

DICTS = ("rope_scaling", "rope_parameters")  # two names of one thing
LENGTH = "max_position_embeddings"
DECIDING = ("rope_theta", *DICTS, LENGTH, "original_max_position_embeddings", "head_dim", "partial_rotary_factor")
PARTS = (  # what the words of a name say, and the key that says it
    (re.compile(r"rope.*(scal|param|factor)"), DICTS[0]),
    (re.compile(r"(rope|rotary).*(theta|base|freq)"), "rope_theta"),
    (re.compile(r"max.*position|context_?(window|length|size)"), LENGTH),
    (re.compile(r"(attn_|attention_)?head_?(dims?|size)|dim_?head"), "head_dim"),
)
NEAR = 0.87  # of the letters of two names in common: a slip, not another word


@cache
def _code(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).read_text("utf-8") if file and module.startswith("transformers.") else ""


def known(defaults: Any, key: str) -> bool:
    """Whether the class of a configuration has a key, under this name or an old one, or its code speaks of it."""
    kind = type(defaults)
    named = key in defaults.to_dict() or key in getattr(kind, "attribute_map", {}) or key in dir(kind)
    return named or any(f'"{key}"' in _code(base.__module__) for base in kind.__mro__)


def meant(key: str, defaults: Any) -> str:
    """The key which decides something that an unknown ``key`` looks like; empty if it looks like none."""
    if key in (*DECIDING, *WHOLE) or known(defaults, key):
        return ""
    near = nearest(key, DECIDING, NEAR)
    by_parts = next((target for pattern, target in PARTS if pattern.search(key.lower())), "")
    return near or by_parts or (LENGTH if key in STATED else "")


def nearest(key: str, names: Iterable[str], cutoff: float) -> str:
    """The name that ``key`` is spelled most like; empty if none is near."""
    return "".join(difflib.get_close_matches(key.lower(), list(names), n=1, cutoff=cutoff))


def is_said(target: str, raw: Mapping[str, Any]) -> bool:
    """Whether a configuration says what ``target`` decides; a rope dict that scales nothing does not."""
    dicts = [raw[name] for name in DICTS if isinstance(raw.get(name), dict)]
    if target == "rope_theta":
        return raw.get(target) is not None or any(target in one for one in dicts)
    if target in DICTS:
        return any((one.get("rope_type") or one.get("type") or "default") != "default" for one in dicts)
    return raw.get(target) is not None or any(target in one for one in dicts)
