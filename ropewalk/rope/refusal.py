"""What transformers refuses of a configuration, told by the key: its classes raise errors of their own code."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Any

from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import said
from ropewalk.common.outside import RESTORE

WORDS = {
    "bool": "true or false", "int": "a whole number", "float": "a number with a point", "str": "a text",
    "list": "a list", "tuple": "a list", "None": "null", "dtype": "the name of a type of numbers", "Literal": "a text",
}  # fmt: skip
OBJECT = "an object"
FIELD = re.compile(r"Validation error for field '(\w+)'")
BEFORE = re.compile(r"^(?:Class v|V)alidation error for \w+ '\w+':\s+\w+: ")  # the sentence that tells
Read = Callable[[Mapping[str, Any]], bool]


def refusal(raw: Mapping[str, Any], error: Exception, file: Path) -> UserError:
    """The error of transformers on a configuration, as a user can act on it.

    Args:
        raw: the file's content, of a model type that transformers knows.
        error: what was raised on it.
        file: where it stands.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def read(content: Mapping[str, Any]) -> bool:
        try:
            CONFIG_MAPPING[content["model_type"]].from_dict(copy.deepcopy(dict(content)))
        except Exception:  # of many kinds
            return False
        return True

    reason = " ".join(BEFORE.sub("", str(error).split("\n\n")[0]).split()[:40])
    reason = reason if " " in reason else f"{type(error).__name__} {reason}".strip()
    steps = () if read(raw) else _culprit(raw, lambda content: "model_type" in content and read(content))
    named = FIELD.match(str(error))
    if not steps and named and named[1] in raw:  # the first of several
        steps = (named[1],)
    if not steps:
        return UserError(f"transformers cannot read {file}: {reason}", RESTORE)
    key, seen = ".".join(steps), reduce(lambda content, step: content[step], steps, raw)
    taken = _types(raw, steps)
    local = file.name == "config.json" and not file.is_symlink()  # as in the hub's cache
    inside: list[str] = _types(raw, steps, inside=True) if isinstance(seen, list) else []
    kept = [one for one in seen if type(one).__name__.removesuffix("Type") in inside] if inside else seen
    if kept != seen:
        wrong = next(one for one in seen if type(one).__name__.removesuffix("Type") not in inside)
        expected = " or ".join(dict.fromkeys(WORDS.get(name, OBJECT) for name in inside))
        mends = (
            bool(kept) and file.name == "config.json" and not file.is_symlink() and read(_replaced(raw, steps, kept))
        )
        mend = setting(file.parent, {key: kept}) if mends else RESTORE
        return UserError(f"{file}: {key} holds {said(wrong)}, expected {expected} in its place", mend)
    if not taken or type(seen).__name__.removesuffix("Type") in taken:  # the type is right, and the value is not
        return UserError(f"{file}: {key} is {said(seen)}, which transformers refuses: {reason}", RESTORE)
    expected = " or ".join(dict.fromkeys(WORDS.get(name, OBJECT) for name in taken))
    meant = (value for value in _meant(seen, taken) if local and read(_replaced(raw, steps, value)))
    lines = (setting(file.parent, {key: value}) for value in meant)
    return UserError(f"{file}: {key} is {said(seen)}, expected {expected}", next(lines, RESTORE))


def _culprit(raw: Mapping[str, Any], read: Read) -> tuple[str, ...]:
    """Steps to a value without which the rest is read, as deep inside as there is one; none if several are wrong."""
    for key, value in raw.items():
        if read({name: one for name, one in raw.items() if name != key}):
            inner = value if isinstance(value, dict) else {}
            return (key, *_culprit(inner, lambda part, key=key: read({**raw, key: part})))  # type: ignore[misc]
    return ()


def _types(raw: Mapping[str, Any], steps: tuple[str, ...], inside: bool = False) -> list[str]:
    """Names of the types that the class of the object around a key takes there; empty where it does not say.

    Args:
        raw: the file's content.
        steps: to the key.
        inside: those of the items of a list instead.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[raw["model_type"]]
    for step in steps[:-1]:
        raw = raw[step]
        kind = getattr(kind, "sub_configs", {}).get(step)
        if not hasattr(kind, "attribute_map"):  # AutoConfig: it says itself what it is
            kind = CONFIG_MAPPING[raw["model_type"]] if raw.get("model_type") in CONFIG_MAPPING else None
    if kind is None:
        return []
    name = kind.attribute_map.get(steps[-1], steps[-1])
    annotations = (str(one.type) for one in fields(kind) if one.name == name)
    annotation = next(annotations, "")
    items = re.search(r"\blist\[([^\[\]]*)\]", annotation)
    part = (items[1] if items else "") if inside else re.sub(r"\[.*?\]|\bclass\b", "", annotation)
    found = re.findall(r"[\w.]+", part)
    return [one.rpartition(".")[2] for one in found]


def _meant(seen: Any, taken: list[str]) -> Iterator[float]:
    """Numbers that a value of a wrong type says."""
    try:
        value = float(seen)
    except (TypeError, ValueError):
        return
    if "int" in taken and value == int(value):
        yield int(value)
    if "float" in taken:
        yield value


def _replaced(raw: Mapping[str, Any], steps: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = steps
    return {**raw, first: _replaced(raw[first], tuple(rest), value) if rest else value}
