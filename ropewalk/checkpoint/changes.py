"""What a change of a model's JSON files would do, asked before: no key that nobody reads, no new problem."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ropewalk.checkpoint.checkpoint import defaults
from ropewalk.checkpoint.edits import LENGTHS
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.files import RECORD
from ropewalk.rope import config as rope_config
from ropewalk.rope import lookalikes, problems
from ropewalk.rope.config import STATED
from ropewalk.rope.keys import WHOLE, refuse_impossible

INNER = "text_config"
COMMON = frozenset({*lookalikes.DECIDING, *WHOLE, *STATED, INNER, RECORD.partition(".")[0], "auto_map", "torch_dtype"})
TOGETHER = "Nothing was written. What belongs together goes in one line: --set KEY=VALUE --set KEY=VALUE."


def refuse_worse(file: Path, before: Mapping[str, Any], after: Mapping[str, Any], changed: Sequence[list[str]]) -> None:
    """Refuse a change of one file.

    Args:
        file: that would change.
        before: its content.
        after: what it would be.
        changed: keys that were set, each by its steps.

    Raises:
        UserError: for a key that nobody knows and that is spelled like one that is known, for what could not be read
            any more, and for a problem that was not there before and stops every verb; a change that mends something
            may bring to light what is wrong with keys beside it.
    """
    if file.name != "config.json":
        for *_, key in changed:
            near = lookalikes.nearest(key, LENGTHS, lookalikes.NEAR)
            if near and near != key and key not in before:
                raise UserError(f"{file.name} has no key {key!r}; did you mean {near!r}?", "Nothing was written.")
        return
    for steps in changed:
        for key, hint in _unknown(steps, before, after):
            raise UserError(f"neither {file.name} nor transformers knows the key {key!r}{hint}", "Nothing was written.")
    refuse_impossible(after, file)
    old = {(one.code, one.key) for one in problems.find(before, file.name, defaults(before))}
    found = problems.find(after, file.name, defaults(after))
    mends = bool(old - {(one.code, one.key) for one in found})

    def own(one: problems.Problem) -> bool:
        """Whether it is about what was set."""
        return any(f"{one.key}.".startswith(f"{'.'.join(steps)}.") for steps in changed)

    for one in sorted(found, key=own, reverse=True):
        new = one.code in problems.BLOCKING and (one.code, one.key) not in old
        if new and (own(one) or not mends):
            raise UserError(f"{one.code}: {one.key} would be {one.seen!r}, expected {one.expected}", TOGETHER)
    if (reason := _unreadable(after)) and not mends and not _unreadable(before):
        raise UserError(f"{file.name} could not be read any more: {reason}", TOGETHER)


def _unreadable(content: Mapping[str, Any]) -> str:
    """Why transformers, or what reads ropes, would not take a configuration; empty if they do."""
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(content), "utf-8")
        try:
            rope_config.read(rope_config.load_config(folder))
        except UserError as error:
            return error.message.replace(f"{folder}/", "")
    return ""


def _unknown(steps: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A step of a key that was set and that nobody knows, and what it may mean."""
    made, path = defaults(after), ".".join(steps)
    inner = isinstance(after.get(INNER), dict)
    if inner and steps[0] == INNER and len(steps) > 1:
        steps, before, after = steps[1:], before.get(INNER) or {}, after[INNER]
    elif inner:
        made = None  # of the language model alone
    first, *deeper = steps
    if first not in after:  # removed
        return
    if first not in before and first not in COMMON:
        target = lookalikes.nearest(first, lookalikes.DECIDING, lookalikes.NEAR)
        target = target or (lookalikes.meant(first, made) if made is not None else "")
        if not target and made is not None and not lookalikes.known(made, first):
            target = lookalikes.nearest(first, [*before, *made.to_dict()], lookalikes.NEAR)  # another may be a note
        if target:
            yield path, f"; did you mean {target!r}?"
    elif first in lookalikes.DICTS and deeper:
        there, now = before.get(first) or {}, after[first]
        if isinstance(now.get(deeper[0]), dict) and len(deeper) > 1:  # of one type of layers
            there, now, deeper = there.get(deeper[0]) or {}, now[deeper[0]], deeper[1:]
        if deeper[0] in now and deeper[0] not in (*there, *problems.KNOWN_KEYS):
            yield path, did_you_mean(deeper[0], problems.KNOWN_KEYS)
