"""What measuring found for a method on one model: a small JSON file, and who refuses to run without it."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common import naming
from ropewalk.common.errors import UserError, cut
from ropewalk.common.outside import read_json, spelled
from ropewalk.common.results import Result
from ropewalk.common.whole import new_file

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn
    from transformers import PreTrainedConfig

    from ropewalk.methods.base import Method

KIND = "ropewalk fit"
VERSUS = "on other texts, times the perplexity of"  # of what a search has seen: rivals, with intervals
AGAIN = "Make it again, with ropewalk fit."
SHOWN = 12  # characters of a hash


@dataclass(frozen=True, repr=False)
class Fit(Result):
    """Options that were measured, and all that they were measured for.

    Attributes:
        method: its id in the catalogue.
        found: the measured options.
        options: those that the user chose for it.
        beside: spelling of the methods that were on as well; empty if none was.
        to: target length in tokens.
        model: name and fingerprint.
        data: source, number of texts, tokens read, and a hash of them.
        settings: of the search.
        seen: what the search measured on the way.
        ropewalk: version.
        path: of its file.
        page: the page beside it, if there is one.
        tax: by which ``found`` was picked from the front.
    """

    method: str
    found: dict[str, Any]
    options: dict[str, Any]
    beside: str
    to: int
    model: dict[str, str]
    data: dict[str, Any]
    settings: dict[str, Any]
    seen: dict[str, Any]
    ropewalk: str
    path: str = field(default="", compare=False)
    page: str = field(default="", compare=False)
    tax: float | None = field(default=None, compare=False)

    def written(self, path: Path, overwrite: bool = False) -> Fit:
        """The same, in a file that is written atomically.

        Raises:
            UserError: if something is there already (with ``overwrite``, if it is no fit file), or the place cannot be
                written.
        """
        with new_file(path, is_fit, [], overwrite) as file:
            file.write_text(json.dumps({"kind": KIND, **self.to_dict()}, indent=1, allow_nan=False) + "\n", "utf-8")
        return replace(self, path=str(path))

    def to_dict(self) -> dict[str, Any]:
        """What its file holds."""
        return {one.name: asdict(self)[one.name] for one in fields(self) if one.compare}

    @property
    def asked(self) -> dict[str, Any]:
        """The options that ask for it."""
        return {"fitted": self.path} | ({} if self.tax is None else {"tax": self.tax})

    @property
    def use(self) -> str:
        """What puts it on, with what it was fitted beside."""
        if not self.path:
            return self.spelling
        how = ", ".join(f"{name}={value}" for name, value in self.asked.items())
        return f"{self.method}({how})" + (f"+{self.beside}" if self.beside else "")

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
        worse = [name for name, one in versus.items() if one["low"] is not None and one["low"] > 1]
        better = [name for name, one in versus.items() if one["high"] is not None and one["high"] < 1]
        unsure = [name for name in versus if name not in (*worse, *better)]
        said = [("worse than", worse), ("not surely better than", unsure), ("better than", better)]
        words = ", and ".join(f"{how} {', '.join(names)}" for how, names in said if names)
        return f"it is {words} on texts that were not searched on" + (f": take {self.rival}" if worse else "")

    def show(self, console: Console) -> None:
        texts, tokens = self.data["texts"], self.data["tokens"]
        beside = f" beside {self.beside}" if self.beside else ""
        of = f"{self.method}{beside} for {self.to:,} tokens, on {texts:,} text{'s' * (texts != 1)}, {tokens:,} tokens"
        console.print(of)
        for words, value in self.seen.items():
            if isinstance(value, dict):  # of several methods, an interval each
                for name, one in value.items():
                    bounds = f" ({one['low']:.4g} to {one['high']:.4g})" if one["low"] is not None else ""
                    console.print(f"{words} {name}: {one['value']:.4g}{bounds}")
            elif not isinstance(value, list):
                console.print(f"{words}: {value:{',' if isinstance(value, int) else '.5g'}}")
        for name, value in self.found.items():
            if not isinstance(value, tuple):
                console.print(f"{name}: {value:.5g}")
        if not self.found:
            console.print(f"nothing that was tried is better than {naming.spelled(self.method, self.options)} as it is")
        elif self.verdict:
            console.print(self.verdict, style="bold")
        needed = "fitted=" in self.beside or any(isinstance(value, tuple) for value in self.found.values())
        if self.path and not needed:
            console.print(f"without its file: {self.spelling}")
        methods = ",".join(dict.fromkeys(["none", *[self.rival] * bool(self.rival), self.use]))
        line = ["ropewalk", "compare", self.model["name"], "--to", str(self.to), "--methods", methods]
        line += ["--data", self.data["source"]] if self.data["source"] else []
        where = f"{self.path}; its page is {self.page}" if self.page else self.path
        written = f"written to {where}; " if where else ""
        console.print(f"{written}compare it:\n{shlex.join(line)}")

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
        for key, value in content.items():
            if type(value).__name__ != expected[key]:
                raise UserError(f"fit file {path}: {key} is {value!r}, expected a {expected[key]}", AGAIN)
        if not {"name", "fingerprint"} <= content["model"].keys():
            raise UserError(f"fit file {path}: model is {content['model']}, expected name and fingerprint", AGAIN)
        if not all(map(_numbers, content["found"].values())):
            raise UserError(f"fit file {path}: found is {content['found']}, expected numbers", AGAIN)
        for key in ("found", "options"):
            content[key] = {name: _tuples(value) for name, value in content[key].items()}
        return cls(**content, path=str(path))

    @property
    def spelling(self) -> str:
        """What says it in full, without a file."""
        return naming.spelled(self.method, self.options | self.found) + (f"+{self.beside}" if self.beside else "")

    def again(self, spelling: str, to: int) -> str:
        """The command that fits a method on the same model."""
        return _command(self.model["name"], spelling, to, spelling.partition("(")[0])

    def hashed(self, changed: dict[str, Any]) -> dict[str, Any]:
        """Options as an id shows them: a hash in place of measured tuples."""
        long = {name: value for name, value in changed.items() if name in self.found and isinstance(value, tuple)}
        short = {name: value for name, value in changed.items() if name not in long}
        hashed = hashlib.sha256(repr(sorted(long.items())).encode()).hexdigest()[:SHOWN]
        return short | ({"fitted": hashed} if long else {})


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
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(measured.keys() - known) or sorted(set(cls.measured) - fit.found.keys()):
        raise UserError(f"{file}: {cls.name} and the file do not agree on the option {unknown[0]!r}", "Fit it again.")
    for name, value in options.items():
        at = measured.get(name, getattr(cls, name, None))
        if value != at:
            raise UserError(
                f"{file} was fitted with {name} = {at!r}, not {value!r}",
                f"Leave {name} out, or fit with it: {fit.again(f'{cls.name}({name}={value!r})', fit.to)}",
            )
    for name, value in measured.items():
        if isinstance(value, tuple) != isinstance(cls.__dataclass_fields__[name].default, tuple):  # type: ignore[attr-defined]
            raise UserError(f"{file}: {name} is {value!r}, which {cls.name} cannot use", "Fit it again.")
    try:
        made = cls(**measured)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: values that {cls.name} cannot use: {error}", "Fit it again.") from None
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
    """Refuse what was fitted beside other methods, for shorter texts, or on another model.

    Of a configuration alone, the last cannot be told.

    Raises:
        UserError: naming both.
    """
    from transformers import PreTrainedModel

    from ropewalk.common.fingerprints import model_fingerprint

    assert method.fit is not None
    line = _line(method, getattr(model, "config", model), to, whole)
    parts = [part for part in getattr(whole, "parts", ()) if part is not method]
    on_top = [part for part in parts if part.fit and method.name in part.fit.beside]  # came later, knows this one
    beside = "+".join(part.spelling for part in parts if part not in on_top)
    if sorted(beside.split("+")) != sorted(method.fit.beside.split("+")):
        then, now = (f"beside {one}" if one else "by itself" for one in (method.fit.beside, beside))
        raise UserError(f"{method.fit.path} was fitted {then}, and is used {now}", line)
    if to is not None and to > method.fit.to:
        raise UserError(f"{method.fit.path} was fitted for {method.fit.to:,} tokens, and {to:,} are the target", line)
    if not isinstance(model, PreTrainedModel):
        return
    here, fitted_on = model_fingerprint(model), method.fit.model
    if here != fitted_on["fingerprint"]:
        raise UserError(
            f"{method.fit.path} was fitted on {fitted_on['name']}, {fitted_on['fingerprint'][:SHOWN]}; this model is "
            f"{model.config.name_or_path or 'another'}, {here[:SHOWN]} (configuration, dtype and weights count)",
            line,
        )


def _line(method: Method, config: Any, to: int | None, whole: Method) -> str:
    """The command that fits a method, and how its file is used."""
    line = _command(str(getattr(config, "_name_or_path", "") or ""), whole.unfitted, to, method.name)
    return f"{line}\nThen say {method.name}(fitted={method.name}.json)."


def _command(model: str, spelling: str, to: int | None, file: str) -> str:
    """The line that fits a method; where the model has no name, a sentence."""
    said = shlex.join(["--method", spelling, *(["--to", str(to)] if to else []), "-o", f"{file}.json"])
    return f"ropewalk fit {shlex.quote(model)} {said}" if model else f"Fit it on this model: ropewalk fit, with {said}"


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
    """Whether a value is a number or lists of numbers."""
    return all(map(_numbers, value)) if isinstance(value, (list, tuple)) else type(value) in (int, float)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
