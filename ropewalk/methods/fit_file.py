"""What measuring found for a method on one model: a small JSON file, and who refuses to run without it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ropewalk.common import naming
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError, cut
from ropewalk.common.lengths import MOST, show
from ropewalk.common.outside import read_json, spelled
from ropewalk.common.results import Result
from ropewalk.common.whole import new_file
from ropewalk.methods.typed import LARGEST_OPTION, typed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from torch import nn
    from transformers import PreTrainedConfig

    from ropewalk.methods.base import Method

KIND = "ropewalk fit"
# What a search has seen on texts that it was not searched on, by the words that a terminal shows.
VERSUS = "on other texts, times the perplexity of"  # rivals, with intervals
SHORT_OTHERS = "on other texts, short ones, times the perplexity of"  # the plain model, with its interval
DOCUMENTS = "documents that they are of"
LIMIT = "the limit to the tax there"
Limit = Literal["kept", "not surely kept", "over"]
AGAIN = "Make it again, with ropewalk fit."
DOUBT = "what losses hardly tell"
ONE = "no interval: of one text"
TRUST = "--trust-remote-code"
LABELS = {"window": "trained window"}  # where a key is also the name of an option
TEXTS: dict[str, dict[str, type]] = {  # what is in a file's objects
    "model": {"name": str, "fingerprint": str},
    "data": {"source": str, "texts": int, "tokens": int, "hash": str},
}
SHOWN = 12  # characters of a hash
DIGITS = 15  # of a tax


@dataclass(frozen=True, repr=False)
class Fit(Result):
    """Options that were measured, and all that they were measured for.

    Attributes:
        method: its id in the catalogue.
        found: the measured options.
        options: those that the user chose for it.
        beside: id of every method that was on as well -> how it was spelled. Ids are of values; spellings, of lines.
        to: target length in tokens.
        model: name and fingerprint.
        data: source, number of texts, tokens read, and a hash of them.
        settings: of the search.
        seen: what the search measured on the way.
        ropewalk: version.
        path: of its file.
        page: the page beside it, if there is one.
        tax: by which ``found`` was picked from the front.
        exportable: whether a configuration says it.
        loading: words of a line that opens the model as it was opened: --dtype float32 --trust-remote-code.
    """

    method: str
    found: dict[str, Any]
    options: dict[str, Any]
    beside: dict[str, str]
    to: int
    model: dict[str, str]
    data: dict[str, Any]
    settings: dict[str, Any]
    seen: dict[str, Any]
    ropewalk: str
    path: str = field(default="", compare=False)
    page: str = field(default="", compare=False)
    tax: float | None = field(default=None, compare=False)
    exportable: bool = field(default=False, compare=False)
    loading: tuple[str, ...] = field(default=(), compare=False)

    def written(self, path: Path, overwrite: bool = False) -> Fit:
        """The same, in a file that is written atomically.

        Raises:
            UserError: if something is there already (with ``overwrite``, if it is no fit file), or the place cannot be
                written.
        """
        with new_file(path, is_fit, [], overwrite) as file:
            file.write_text(json.dumps({"kind": KIND, **self.content}, indent=1, allow_nan=False) + "\n", "utf-8")
        return self.at(path)

    def at(self, path: Path) -> Fit:
        """The same, as it lies in a file."""
        return replace(self, path=str(path))

    @property
    def content(self) -> dict[str, Any]:
        """What its file holds."""
        return {one.name: asdict(self)[one.name] for one in fields(self) if one.compare}

    def to_dict(self) -> dict[str, Any]:
        """The same, with where it lies, what is said of it, and what to run."""
        said = {"limit": self.limit, "verdict": self.verdict if self.found else ""}
        return {**self.content, "file": self.path, "page": self.page, **said, "lines": self.lines}

    @property
    def asked(self) -> dict[str, Any]:
        """The options that ask for it."""
        return {"fitted": self.path} | ({} if self.tax is None else {"tax": self.tax})

    @property
    def use(self) -> str:
        """What puts it on, with what it was fitted beside."""
        if not self.path:
            return self.spelling
        how = ", ".join(f"{name}={_word(value)}" for name, value in self.asked.items())
        return "+".join([f"{self.method}({how})", *self.beside.values()])

    def picked(self, tax: float) -> Fit:
        """The same with other options of the front: the best on far texts of those that keep a tax on short ones.

        Args:
            tax: by what share of the plain model's perplexity short texts may be read worse, 0.01: by a hundredth.

        Raises:
            UserError: if there is no front, or none on it keeps the tax.
        """
        front = self.seen.get("front")
        if front is None:
            raise UserError(
                f"{self.path} has no front of long texts against short ones, so that a tax picks nothing",
                "Leave tax out, or fit what is searched for: --method longrope.",
            )
        if not (isinstance(front, list) and front and all(map(_on_front, front))):
            raise UserError(
                f"fit file {self.path}: its front is {cut(repr(front))}, expected options, perplexity and tax of each",
                AGAIN,
            )
        kept = [one for one in front if one["tax"] <= 1 + tax]
        if not kept:
            least = min(one["tax"] for one in front) - 1
            raise UserError(
                f"nothing on the front of {self.path} keeps tax={tax:g}: the least there is {least:.4g}",
                f"Say tax={math.ceil(least * 1000) / 1000}, or more.",
            )
        return replace(self, found=options_on(min(kept, key=lambda one: float(one["perplexity"]))), tax=tax)

    def picking(self, one: dict[str, Any]) -> float:
        """The tax of the fewest digits that picks a point of the front."""
        share = one["tax"] - 1
        for digits in range(2, DIGITS):
            tax = math.ceil(share * 10**digits) / 10**digits
            if self.picked(tax).found == options_on(one):
                return tax
        return float(share)

    @property
    def limit(self) -> str:
        """What texts that were not searched on say against the limit to the tax; empty if they say nothing."""
        kept, tax = self.seen.get(LIMIT), self.settings.get("tax")
        if kept is None or tax is None:
            return ""
        (short,) = self.seen[SHORT_OTHERS].values()
        said = limit_said(kept, tax, short["value"], short["high"])
        if kept == "over":
            keeping = [one for one in self.seen.get("front", []) if one.get("other", math.inf) <= 1 + tax]
            there = [replace(self, **({"tax": self.picking(one)} if self.path else {"found": options_on(one)})).use
                     for one in keeping]  # fmt: skip
            said += f"; {there[0]} keeps it there" if there else "; nothing that was found keeps it there"
        return said

    @property
    def rival(self) -> str:
        """Of those that a search was compared with, the one that comes nearest, or is ahead; empty if there is none."""
        versus = self.seen.get(VERSUS, {})
        return max(versus, key=lambda name: float(versus[name]["value"]), default="")

    @property
    def verdict(self) -> str:
        """Whether what was found is better than its rivals; empty if it was compared with none."""
        if not self.rival:
            return ""
        versus = self.seen[VERSUS]
        several = self.seen.get(DOCUMENTS) != 1  # pieces of one are more alike than texts are
        worse = [name for name, one in versus.items() if several and one["low"] is not None and one["low"] > 1]
        better = [name for name, one in versus.items() if several and one["high"] is not None and one["high"] < 1]
        unsure = [name for name in versus if name not in (*worse, *better)]
        said = [("worse than", worse), ("not surely better than", unsure), ("better than", better)]
        words = ", and ".join(f"it is {how} {', '.join(names)}" for how, names in said if names)
        of = "" if several else " (pieces of one document, which make nothing sure: give more, --data or --samples)"
        return f"{words} on texts that were not searched on{of}" + (f": take {self.rival}" if worse else "")

    @property
    def lines(self) -> list[str]:
        """What tries it, and what writes it into a checkpoint, where a configuration says it."""
        name, to = self.model["name"], ["--to", str(self.to)]
        methods = ",".join(dict.fromkeys(["none", *[self.rival] * bool(self.rival), self.use]))
        compare = ["compare", name, *to, "--methods", methods, *self.loading]
        compare += ["--data", self.data["source"]] if self.data["source"] else []
        extend = ["extend", name, *to, "--method", self.use, *trusting(self.loading), "-o", apart(name, self.to)]
        return [command(*line) for line in (compare, *[extend] * self.exportable)]

    def show(self, console: Console) -> None:
        texts, tokens = self.data["texts"], self.data["tokens"]
        beside = f" beside {'+'.join(self.beside.values())}" if self.beside else ""
        of = f"{self.method}{beside} for {self.to:,} tokens, on {texts:,} text{'s' * (texts != 1)}, {tokens:,} tokens"
        console.print(of)
        for words, value in self.seen.items():
            if isinstance(value, dict):  # of several methods, an interval each
                for name, one in value.items():
                    bounds = f"{one['low']:.4g} to {one['high']:.4g}" if one["low"] is not None else ONE
                    console.print(f"{words} {name}: {one['value']:.4g} ({bounds})")
            elif not isinstance(value, list):
                shown = value if isinstance(value, str) else f"{value:{',' if isinstance(value, int) else '.5g'}}"
                console.print(f"{LABELS.get(words, words)}: {shown}")
        for name, value in self.found.items():
            if not isinstance(value, tuple):
                console.print(f"found {name}: {value:.5g}")
        if not self.found:
            console.print(f"nothing that was tried is better than {naming.spelled(self.method, self.options)} as it is")
        for said in filter(None, (self.limit, self.verdict if self.found else "")):
            console.print(said, style="bold")
        needed = any("fitted=" in one for one in self.beside.values()) or any(map(_is_list, self.found.values()))
        if self.path and not needed:
            console.print(f"without its file: {self.spelling}")
        if self.path:
            console.print(f"written to {self.path}" + (f"; its page is {self.page}" if self.page else ""))
        for how, line in zip(("compare it", "write it into a checkpoint"), self.lines, strict=False):
            console.print(f"{how}:\n{line}")
        if self.data["source"]:
            console.print("What is compared there was read here, too: other texts tell more, --data.", style="dim")

    @classmethod
    def read(cls, path: Path) -> Fit:
        """The content of a file.

        Raises:
            UserError: if there is none, or it is not what ``write`` writes.
        """
        content = read_json(path, mend=AGAIN)
        expected = {f.name: str(f.type).partition("[")[0] for f in fields(cls) if f.compare}
        kind = content.pop("kind", None)
        if kind != KIND:
            raise UserError(f"{path} is no fit file: its 'kind' is {kind!r}, expected {KIND!r}", AGAIN)
        if content.keys() != expected.keys():
            raise UserError(f"fit file {path} has the keys {sorted(content)}, expected {sorted(expected)}", AGAIN)
        wrong = [(key, value, f"a {expected[key]}") for key, value in content.items()
                 if type(value).__name__ != expected[key]]  # fmt: skip
        for key, value, wanted in wrong or _out_of_place(content):
            raise UserError(f"fit file {path}: {key} is {cut(repr(value))}, expected {wanted}", AGAIN)
        for key in ("found", "options"):
            content[key] = {name: _tuples(value) for name, value in content[key].items()}
        return cls(**content, path=str(path))

    @property
    def spelling(self) -> str:
        """What says it in full, without a file."""
        return "+".join([naming.spelled(self.method, self.options | self.found), *self.beside.values()])

    def again(self, spelling: str, to: int) -> str:
        """The command that fits a method on the same model."""
        return _command(self.model["name"], spelling, to, spelling.partition("(")[0])

    def hashed(self, changed: dict[str, Any]) -> dict[str, Any]:
        """Options as an id shows them: a hash in place of measured tuples."""
        long = {name: value for name, value in changed.items() if name in self.found and isinstance(value, tuple)}
        short = {name: value for name, value in changed.items() if name not in long}
        hashed = hashlib.sha256(repr(sorted(long.items())).encode()).hexdigest()[:SHOWN]
        return short | ({"fitted": hashed} if long else {})


def limit_said(kept: Limit, tax: float, value: float, high: float | None) -> str:
    """Words for a limit to the tax that other texts than those of a search do not bear out; else empty.

    Args:
        kept: whether they do.
        tax: the limit.
        value: how many times the plain model's perplexity short texts have there.
        high: upper end of its interval.
    """
    how = "worse" if value >= 1 else "better"
    read = f"short texts that were not searched on are read {abs(100 * (value - 1)):.3g}% {how} than by the plain model"
    if kept == "over":
        return f"{read}, over the limit of {100 * tax:.3g}%"
    if kept == "kept":
        return ""
    why = f"up to {100 * (high - 1):+.3g}% by their interval" if high and high > 1 + tax else "of one document"
    return f"the limit of {100 * tax:.3g}% to the tax is not surely kept: {read}, {why}"


def is_fit(file: Path) -> bool:
    """Whether a file is one that ``written`` wrote."""
    try:
        Fit.read(file)
    except UserError:
        return False
    return True


def fitted(cls: type[Method], file: str, options: dict[str, Any], tax: float | None = None) -> Method:
    """A method with the measured options of a file.

    Args:
        cls: the method's class.
        file: as the user spells it.
        options: what the user says beside it.
        tax: picks others of the file's front.

    Raises:
        UserError: if the file is of another method, or was measured under other options, or none keeps the tax.
    """
    fit = Fit.read(spelled(file))
    if fit.method != cls.name:
        raise UserError(
            f"{file} was fitted for {fit.method}, not for {cls.name}",
            f"Say {fit.method}(fitted={file}), or fit this one: {fit.again(cls.name, fit.to)}",
        )
    if tax is not None:
        fit = fit.picked(tax)
    measured = fit.options | fit.found
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(measured.keys() - known.keys()) or sorted(set(cls.measured) - fit.found.keys()):
        raise UserError(f"{file}: {cls.name} and the file do not agree on the option {unknown[0]!r}", "Fit it again.")
    for name, value in options.items():
        at = measured.get(name, getattr(cls, name, None))
        if value != at:
            raise UserError(
                f"{file} was fitted with {name} = {at!r}, not {value!r}",
                f"Leave {name} out, or fit with it: {fit.again(f'{cls.name}({name}={value!r})', fit.to)}",
            )
    try:
        made = cls(**{name: typed(cls.name, name, known[name], value) for name, value in measured.items()})
        made.check_found(fit.to)
    except (UserError, TypeError, ValueError, OverflowError) as error:
        why = error.message if isinstance(error, UserError) else f"values that {cls.name} cannot use: {error}"
        raise UserError(f"{file}: {why}", AGAIN) from None
    object.__setattr__(made, "fit", fit)
    return made


def refuse_unfitted(method: Method, config: Any, to: int | None, whole: Method) -> None:
    """Refuse a method that lacks what must be measured or given.

    Raises:
        UserError: with the line that fits it, or the option to give.
    """
    absent = method.absent((*method.measured, *method.given))
    if method.inert:
        raise UserError(f"{method.id} would be the plain model", _line(method, config, to, whole))
    if not absent:
        return
    names = " and ".join(absent)
    if method.measured:
        raise UserError(
            f"{method.name} has no {names}: measured on every model anew, and unfitted it would be the plain model",
            _line(method, config, to, whole),
        )
    raise UserError(f"{method.name} has no {names}: what it does comes from there", method.how_given)


def refuse_elsewhere(method: Method, model: nn.Module | PreTrainedConfig, to: int | None, whole: Method) -> None:
    """Refuse what was fitted beside other methods, for another target, or on another model.

    Shorter targets are allowed where texts are read the same whatever the target is. Of a configuration alone, the
    model cannot be told.

    Args:
        method: the part that was fitted.
        model: live, or its configuration.
        to: target length in tokens; None: what the configuration promises.
        whole: what the part is put on with.

    Raises:
        UserError: naming both.
    """
    from transformers import PreTrainedModel

    from ropewalk.common.fingerprints import model_fingerprint
    from ropewalk.rope.config import promised_by, read

    assert method.fit is not None
    fit, config = method.fit, cast("PreTrainedConfig", getattr(model, "config", model))
    line = _line(method, config, to, whole)
    others = [part.id for part in _below(method, whole)]
    if sorted(others) != sorted(fit.beside):
        then, now = (f"beside {'+'.join(one)}" if one else "by itself" for one in (fit.beside, others))
        raise UserError(f"{fit.path} was fitted {then}, and is used {now}", line)
    if to is None and not whole.target_free:
        to = promised_by(read(config))
    if to is not None and to != fit.to and not (to < fit.to and whole.target_free):
        raise UserError(
            f"{fit.path} was fitted for {fit.to:,} tokens, and {to:,} are the target",
            f"Say --to {fit.to}, or fit it anew:\n{_line(method, config, to, whole)}",
        )
    if not isinstance(model, PreTrainedModel):
        return
    here, fitted_on = model_fingerprint(model), fit.model
    if here != fitted_on["fingerprint"]:
        dtype = str(model.dtype).removeprefix("torch.")
        then = fitted_on.get("dtype", dtype)
        line = _line(method, config, to, whole, () if then == dtype else ("--dtype", dtype))
        raise UserError(
            f"{fit.path} was fitted on {fitted_on['name']}, {fitted_on['fingerprint'][:SHOWN]}; this model is "
            f"{model.config.name_or_path or 'another'}, {here[:SHOWN]} (configuration, dtype and weights count)",
            line if then == dtype else f"Open it as it was then, --dtype {then}; or fit what it is now: {line}",
        )


def _below(method: Method, whole: Method) -> list[Method]:
    """The parts that a part stands beside, without those that were fitted on top of it, which look at it themselves."""
    return [
        part
        for part in _parts(whole)
        if part is not method
        and not (part.fit and any(one.partition("(")[0] == method.name for one in part.fit.beside))
    ]


def _parts(whole: Method) -> list[Method]:
    """The methods that one is composed of."""
    parts = getattr(whole, "parts", None)
    return [whole] if parts is None else [one for part in parts for one in _parts(part)]


def _line(method: Method, config: Any, to: int | None, whole: Method, more: tuple[str, ...] = ()) -> str:
    """The command that fits a method beside those that it stands beside, and how its file is used."""
    kept = (method, *_below(method, whole))
    spelling = "+".join(
        part.unfitted if part is method else part.spelling for part in _parts(whole) if any(part is one for one in kept)
    )
    line = _command(str(getattr(config, "_name_or_path", "") or ""), spelling, to, method.name, more)
    return f"{line}\nThen say {method.name}(fitted={method.name}.json)."


def _command(model: str, spelling: str, to: int | None, file: str, more: tuple[str, ...] = ()) -> str:
    """The line that fits a method; where the model has no name, a sentence."""
    said = shlex.join(["--method", spelling, *(["--to", str(to)] if to else []), *more, "-o", f"{file}.json"])
    return f"{command('fit', model)} {said}" if model else f"Fit it on this model: ropewalk fit, with {said}"


def apart(model: str, to: int) -> str:
    """Where what is made of a model goes: into this folder or, where that lies in the model's own, beside it."""
    place, here = Path(model).expanduser().resolve(), Path.cwd().resolve()
    if here.is_relative_to(place):
        return os.path.relpath(place.with_name(f"{place.name}-{show(to)}") if place.name else here)
    return f"{Path(model).name}-{show(to)}"


def _word(value: Any) -> str:
    """A value of an option as it is written, in quotes only where it needs them."""
    return str(value) if re.fullmatch(r"[\w./~-]+", str(value)) else repr(value)


def trusting(loading: tuple[str, ...]) -> list[str]:
    """Of the words that open a model, those of a line that reads its configuration alone."""
    return [word for word in loading if word == TRUST]


def options_on(one: dict[str, Any]) -> dict[str, Any]:
    """The options of a point of a front."""
    return {name: _tuples(value) for name, value in one["options"].items()}


def _on_front(one: Any) -> bool:
    """Whether something is what a front is made of."""
    return (
        isinstance(one, dict)
        and isinstance(one.get("options"), dict)
        and all(map(_numbers, one["options"].values()))
        and all(_finite(one.get(key)) for key in ("perplexity", "tax"))
    )


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _numbers(value: Any) -> bool:
    """Whether a value is a number that a method may have as an option, or lists of such."""
    if _is_list(value):
        return all(map(_numbers, value))
    return _finite(value) and abs(value) <= LARGEST_OPTION


def _out_of_place(content: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """What in a file's objects is not what it should be: its key, the value, and what was expected."""
    for key, kinds in TEXTS.items():
        held = content[key]
        if not (held.keys() >= kinds.keys() and all(type(held[name]) is kind for name, kind in kinds.items())):
            yield key, held, " and ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        elif not all(1 <= value <= MOST for value in held.values() if type(value) is int):
            yield key, held, "counts of 1 or more"
    if not 1 <= content["to"] <= MOST:
        yield "to", content["to"], "tokens"
    if not all(map(_numbers, content["found"].values())):
        yield "found", content["found"], "numbers"
    if not all(isinstance(one, str) for one in content["beside"].values()):
        yield "beside", content["beside"], "a spelling of each"
    if type(content["model"].get("dtype", "")) is not str:
        yield "model's dtype", content["model"]["dtype"], "a word"
    for name, value in content["seen"].items():
        intervals = isinstance(value, dict) and all(map(_bounded, value.values()))
        if not (_finite(value) or isinstance(value, (str, list)) or intervals):
            yield f"seen, {name},", value, "a number, a word, a list, or an interval of each method"


def _bounded(one: Any) -> bool:
    """Whether something is a value with its interval, or without one."""
    if not (isinstance(one, dict) and {"value", "low", "high"} <= one.keys()):
        return False
    return _finite(one["value"]) and (
        one["low"] is one["high"] is None or (_finite(one["low"]) and _finite(one["high"]))
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
