"""What a change of a model's JSON files would do, asked before: no key that nobody reads, no new problem."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.checkpoint import defaults
from ropewalk.checkpoint.edits import LENGTHS
from ropewalk.checkpoint.weights import check_weights, compared
from ropewalk.common.errors import UserError, cut, did_you_mean
from ropewalk.common.lengths import said
from ropewalk.common.outside import read_json
from ropewalk.rope import config as rope_config
from ropewalk.rope import lookalikes, problems, record, trial
from ropewalk.rope.config import STATED
from ropewalk.rope.keys import WHOLE, impossible, impossible_beside

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Impossible = Iterator[tuple[str, Any, str]]  # key, value seen, what is expected
INNER = "text_config"
FITS = trial.RUNS + 1
SPECIAL = frozenset({"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"})
COMMON = frozenset({*lookalikes.DECIDING, *WHOLE, *STATED, INNER, rope_config.RECORD, "auto_map", "torch_dtype"})
TOGETHER = "Nothing was written. What belongs together goes in one line: --set KEY=VALUE --set KEY=VALUE."
FORGET = (
    "Nothing was written: ropewalk extended this model, and noted its rope in the key 'ropewalk'. Extend the original "
    "to another length or with another method, or forget the note in the same line: --set ropewalk=null"
)


def refuse_worse(
    file: Path,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    changed: Sequence[list[str]],
    configuration: str = "config.json",
) -> None:
    """Refuse a change of one file.

    Args:
        file: that would change.
        before: its content.
        after: what it would be.
        changed: keys that were set, each by its steps.
        configuration: name of the file that configures the model; others stand beside it.

    Raises:
        UserError: for a key that nobody knows and that is spelled like one that is known, for what could not be read
            any more, and for a problem that was not there before and stops every verb; a change that mends something
            may bring to light what is wrong with keys beside it.
    """
    if file.name != configuration:
        for *_, key in changed:
            near = lookalikes.nearest(key, LENGTHS, lookalikes.NEAR)
            if near and near != key and key not in before:
                raise UserError(f"{file.name} has no key {key!r}; did you mean {near!r}?", "Nothing was written.")
        _refuse_new(file, impossible_beside(file.name, before), impossible_beside(file.name, after), changed)
        if file.name == "generation_config.json" and (beside := file.with_name("config.json")).is_file():
            raw = read_json(beside)
            _refuse_new(file, _past_vocabulary(before, raw), _past_vocabulary(after, raw), changed)
        return
    for steps in changed:
        for key, hint in _unknown(steps, before, after):
            raise UserError(f"neither {file.name} nor transformers knows the key {key!r}{hint}", "Nothing was written.")
    _refuse_new(file, impossible(before), impossible(after), changed)
    _refuse_new(file, _unusable(before), _unusable(after), changed)
    was, is_now = (_Looked.at(content, file.parent) for content in (before, after))
    old = {(one.code, one.key) for one in was.problems}
    mends = bool(old - {(one.code, one.key) for one in is_now.problems}) or any(impossible(before))

    def own(one: problems.Problem) -> bool:
        """Whether it is about what was set."""
        return one.code != record.CODE and any(f"{one.key}.".startswith(f"{'.'.join(steps)}.") for steps in changed)

    for one in sorted(is_now.problems, key=own, reverse=True):
        new = one.code in problems.BLOCKING and (one.code, one.key) not in old
        if new and (own(one) or not mends):
            mend = FORGET if one.code == record.CODE else TOGETHER
            raise UserError(f"{one.code}: {one.key} would be {one.seen!r}, expected {one.expected}", mend)
    if is_now.config is None:
        if not mends and not was.reason:
            raise UserError(
                f"{_said(changed, before, after)}: {file.name} could not be read any more: {is_now.reason}", TOGETHER
            )
        return
    far, why = is_now.reached
    if why and far < was.reached[0]:
        expected = "what the model can be made of, and runs with"
        if far == trial.RUNS:
            expected = "what the weights beside it are of"
        elif any(steps[-1] == "num_key_value_heads" for steps in changed):
            expected = "a divisor of num_attention_heads"
        raise UserError(f"{_said(changed, before, after)}: {why}; expected {expected}", TOGETHER)
    if why:
        logging.getLogger("ropewalk").warning("%s: it is no model yet: %s", file, why)


def _refuse_new(file: Path, before: Impossible, after: Impossible, changed: Sequence[list[str]]) -> None:
    """Refuse values that no model can have, but for those that stand there already."""
    known, own = {key for key, *_ in before}, {".".join(steps) for steps in changed}
    for key, seen, expected in after:
        if key not in known or key in own or key.split(".")[0] in own:
            raise UserError(f"{file.name}: {key} would be {said(seen)}, expected {expected}", "Nothing was written.")


def _past_vocabulary(content: Mapping[str, Any], config: Mapping[str, Any]) -> Impossible:
    """Special tokens without a row of the embedding; published files have such, so they are refused only where set."""
    inner = config.get(INNER)
    size = (inner if isinstance(inner, dict) else config).get("vocab_size")
    for key, value in content.items():
        ids = value if isinstance(value, list) else [value]
        if key in SPECIAL and isinstance(size, int) and any(isinstance(one, int) and one >= size for one in ids):
            yield key, value, f"a number below the vocabulary's {size:,}"


def _unusable(config: Mapping[str, Any]) -> Impossible:
    """What no model of transformers can be made of; other engines know more, so it is refused only where it is set."""
    import transformers
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as QUANTISED

    yield from _past_vocabulary(config, config)
    inner = config.get(INNER)
    if isinstance(inner, dict):
        yield from ((f"{INNER}.{key}", *more) for key, *more in _past_vocabulary(inner, config))  # type: ignore[misc]
    for name in config.get("architectures") or []:
        if "auto_map" not in config and not isinstance(getattr(transformers, name, None), type):
            yield "architectures", config["architectures"], "names of classes of transformers"
            break
    quantised = config.get("quantization_config")
    if quantised is not None and not isinstance(quantised, dict):
        yield "quantization_config", quantised, "an object"
    elif quantised is not None and not _bitsandbytes(quantised) and quantised.get("quant_method") not in QUANTISED:
        known = ", ".join(sorted(QUANTISED))
        yield "quantization_config.quant_method", quantised.get("quant_method"), f"one of {known}"


def _bitsandbytes(quantised: Mapping[str, Any]) -> bool:
    """Older files name no method where it is this one."""
    return bool(quantised.get("load_in_8bit") or quantised.get("load_in_4bit"))


def _said(changed: Sequence[list[str]], before: Any, after: Any) -> str:
    """Keys that are set, with both values."""
    said_of = lambda content, steps: cut(repr(reduce(_inside, steps, content)))  # noqa: E731
    return ", ".join(
        f"{'.'.join(steps)} would be {said_of(after, steps)} (it is {said_of(before, steps)})" for steps in changed
    )


def _inside(value: Any, step: str) -> Any:
    return value.get(step) if isinstance(value, Mapping) else None


@dataclass(frozen=True)
class _Looked:
    """What there is to say of the content of a config.json.

    Attributes:
        folder: where it lies, or would.
        config: as transformers reads it; None if it does not, or what reads ropes does not.
        reason: why not.
        problems: misconfigurations.
    """

    folder: Path
    config: PreTrainedConfig | None
    reason: str
    problems: list[problems.Problem]

    @classmethod
    def at(cls, content: Mapping[str, Any], folder: Path) -> _Looked:
        for key, seen, expected in impossible(content):
            return cls(folder, None, f"{key} is {said(seen)}, expected {expected}", [])
        found = problems.find(content, str(folder), defaults(content))
        with TemporaryDirectory() as place:
            Path(place, "config.json").write_text(json.dumps(content), "utf-8")
            try:
                config = rope_config.load_config(place)
                found = [*record.contradicted(config, content, str(folder)), *found]
                rope_config.read(config)
            except UserError as error:
                return cls(folder, None, error.message.replace(f"{place}/", ""), found)
        return cls(folder, config, "", found)

    @cached_property
    def reached(self) -> tuple[int, str]:
        """How far one gets with its model, see ``trial.reached``; ``FITS`` with the weights, -1 if it is unreadable.

        What is wrong with the weights themselves is left to whoever opens them.
        """
        if self.config is None:
            return -1, self.reason
        far, why = trial.reached(self.config)
        if why:
            return far, why
        try:
            files = check_weights(self.folder)
        except UserError:
            return FITS, ""
        try:
            compared(files, self.config)
        except UserError as error:
            return far, error.message
        return FITS, ""


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
