"""Which method to take: what a race over the catalogue ends in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ropewalk.common.command_lines import command
from ropewalk.common.naming import counted
from ropewalk.common.results import Result, columns
from ropewalk.common.statistics import Mean
from ropewalk.methods.fit_file import ONE, Fit, Limit, apart, is_fit, limit_said, trusting

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 50  # characters of a spelling in a table
How = Literal["extend", "export", "gguf", "serve", "nothing"]


@dataclass(frozen=True)
class Against:
    """The recommended method against another one, on texts that nobody searched on.

    Attributes:
        method: the other one's spelling.
        times: how many times the other one's perplexity the recommended method has; paired by text.
        short: how many times the plain model's perplexity the other one has on texts within the window.
        documents: that the texts are of; of one, its pieces make an interval, and nothing sure.
    """

    method: str
    times: Mean
    short: Mean
    documents: int

    @property
    def sure(self) -> bool:
        """Whether the recommended method is surely the better one."""
        return self.documents > 1 and self.times.high is not None and self.times.high < 1


@dataclass(frozen=True)
class Family:
    """The best candidate of one method.

    Attributes:
        method: its spelling.
        times: how many times the recommended one's perplexity it has, on those texts of the search that it read; None
            where it read none, since it taxes short texts too much.
        texts: how many that were.
        plain: how many times the plain model's, on those that both read.
        other: the same on texts that nobody searched on; of the recommended one and the runner-up.
        short: the same on texts within the window; None where it read none.
        candidates: how many of the method were tried.
        read: tokens that these read.
    """

    method: str
    times: float | None
    texts: int
    plain: float | None = None
    other: Mean | None = None
    short: float | None = None
    candidates: int = 1
    read: int = 0


@dataclass(frozen=True, repr=False)
class Recommendation(Result):
    """One method for a model, a target and the user's limits.

    Attributes:
        method: its spelling, in full.
        to: target length in tokens.
        model: name and fingerprint.
        settings: the limits, and how much was tried.
        rivals: the recommended method against the best of another name, if there is one, and against the plain model;
            all keep the limits on the texts of the search. Between them, where the limit to the tax is over on other
            texts, the next one that keeps it there.
        short: how many times the plain model's perplexity it has on texts within the window, on other texts too.
        limit: whether the limit to the tax is kept there: kept, not surely kept, or over; None if there is none.
        families: every method that took part.
        left_out: method -> why it did not take part.
        data: source; number of texts searched on, of those whose first windows told the tax, of those compared on, and
            of the documents that these are of; and how many copies, and documents that are too short, were not read.
        candidates: how many were tried.
        tokens: that they read, and that the comparison read.
        how: it is put to use: in a configuration, for an engine, in a GGUF file or by our server.
        fit: the options that were found; None if it is taken at its defaults.
        unwritten: the file that was asked for, where there is nothing to write.
        removed: whether what another search had found lay there until now.
        page: beside the file, whether or not that is written.
        loading: words of a line that opens the model as it was opened.
    """

    method: str
    to: int
    model: dict[str, str]
    settings: dict[str, Any]
    rivals: list[Against]
    short: Mean
    limit: Limit | None
    families: list[Family]
    left_out: dict[str, str]
    data: dict[str, Any]
    candidates: int
    tokens: int
    how: How
    fit: Fit | None
    unwritten: str = ""
    removed: bool = False
    page: str = ""
    loading: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """What applies it; none if it is the plain model."""
        use = self.fit.use if self.fit and self.fit.path else self.method
        name, to = self.model["name"], str(self.to)
        out, trust = apart(name, self.to), trusting(self.loading)
        method = ["--to", to, "--method", use]
        engine = self.settings["engine"]
        words: dict[How, list[list[str]]] = {
            "nothing": [],
            "extend": [["extend", name, *method, *trust, "-o", out]],
            "export": [["export", name, "--engine", engine, *method, "-o", f"{out}-{engine}"]],
            "gguf": [
                ["extend", name, *method, *trust, "-o", out],
                ["export", out, "--engine", engine, "--gguf", f"{out}.gguf"],
            ],
            "serve": [["serve", name, *method, *self.loading]],
        }
        return [command(*line) for line in words[self.how]]

    def written(self, path: Path, overwrite: bool = False) -> Recommendation:
        """The same, with what was found in a file; of a method at its defaults there is nothing to write.

        A fit file that may be overwritten is then removed: it holds what another search found.

        Raises:
            UserError: as ``Fit.written``.
        """
        if self.fit is not None:
            self.fit.written(path, overwrite)
        elif overwrite and is_fit(path):
            path.unlink()
            return replace(self.at(path), removed=True)
        return self.at(path)

    def at(self, path: Path) -> Recommendation:
        """The same, as it lies in a file."""
        return replace(self, unwritten=str(path)) if self.fit is None else replace(self, fit=self.fit.at(path))

    @property
    def runner_up(self) -> str:
        """Spelling of the best of another name; empty if nothing else took part."""
        return next((one.method for one in self.rivals if one.method != "none"), "")

    @property
    def sure(self) -> bool:
        """Whether it is surely better than all that it was compared with, and surely keeps the limit to the tax."""
        return bool(self.rivals) and all(one.sure for one in self.rivals) and self.limit in (None, "kept")

    @property
    def instead(self) -> str:
        """Spelling of the next one that keeps the limit to the tax on other texts; empty unless this one does not."""
        if self.limit != "over":
            return ""
        return next(one.method for one in self.rivals if one.short.value <= 1 + self.settings["tax"])

    @property
    def about_limit(self) -> str:
        """What other texts say against the limit to the tax; empty if they say nothing."""
        if self.limit is None:
            return ""
        return limit_said(self.limit, self.settings["tax"], self.short.value, self.short.high)

    @property
    def intervals(self) -> str:
        """What they are over."""
        texts, documents = self.data["compared"], self.data["documents"]
        if documents > 1:
            return f"intervals are 95 %, over the {documents} documents of {texts:,} other texts"
        return f"intervals are over the {texts:,} other texts, all of one document, which makes nothing sure"

    def to_dict(self) -> dict[str, Any]:
        rivals = [
            {"method": one.method, **asdict(one.times), "sure": one.sure, "short": asdict(one.short)}
            for one in self.rivals
        ]
        besides = "how", "fit", "unwritten", "removed", "page", "loading"
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in besides}
        return plain | {
            "rivals": rivals,
            "short": asdict(self.short),
            "families": [asdict(one) for one in self.families],
            "runner_up": self.runner_up,
            "instead": self.instead,
            "sure": self.sure,
            "found": {} if self.fit is None else self.fit.found,
            "file": "" if self.fit is None else self.fit.path,
            "lines": self.lines,
        }

    def show(self, console: Console) -> None:
        table = columns("method", ">times the best", ">texts")
        for family in self.families:
            times = "over the tax" if family.times is None else f"{family.times:.4f}"
            table.add_row(shortened(family.method), times, str(family.texts))
        console.print(table)
        whys: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            whys.setdefault(why, []).append(name)
        for why, names in whys.items():
            console.print(f"left out, {why}: {', '.join(names)}", style="dim")
        searched = counted(self.data["searched"], "text")
        if self.limit is not None:
            searched += f", their tax on {counted(self.data['short'], 'window')}"
        console.print(f"\n{self.candidates} candidates on {searched}, {self.tokens:,} tokens in all")
        console.print(self.intervals + ("" if self.data["documents"] > 1 else ": give more, --data"))
        if self.data["copies"]:
            console.print(f"of copies among the texts not read: {counted(self.data['copies'], 'piece')}")
        if self.data["too short"]:
            console.print(f"too short to be read: {counted(self.data['too short'], 'document')}")
        if self.about_limit:
            console.print(f"{self.about_limit}{self.instead_said(shortened)}", style="bold")
        console.print(f"{shortened(self.method)} for {self.to:,} tokens", style="bold")
        for one in self.rivals:
            who = "the model as it is" if one.method == "none" else shortened(one.method)
            verdict = (
                ""
                if one.sure
                else "; not surely better" + (", nor better at all there" if one.times.value >= 1 else "")
            )
            console.print(f"{_interval(one.times)} times the perplexity of {who}{verdict}")
        console.print(f"{_interval(self.short)} times the plain model's on texts within the window")
        if not self.lines:
            console.print("Leave the model as it is: no method that took part reads far tokens better.")
        if self.unwritten:
            was = ", and what another search found is no longer there" * self.removed
            console.print(f"{self.unwritten} is not written{was}: the method's name says it all.")
        elif self.fit is not None and self.fit.path:
            console.print(f"written to {self.fit.path}")
        if self.page:
            console.print(f"the race is on {self.page}")
        if self.how == "serve":
            console.print("It needs code at run time; for what any engine reads: --settings exportable=true")
        for line in self.lines:
            console.print(line)

    def instead_said(self, named: Callable[[str], str]) -> str:
        """Who keeps a limit that is over; empty if it is not."""
        if not self.instead:
            return ""
        return f"; {'only the plain model' if self.instead == 'none' else named(self.instead)} keeps it there"


def _interval(mean: Mean) -> str:
    bounds = ONE if mean.low is None else f"{mean.low:.4g} to {mean.high:.4g}"
    return f"{mean.value:.4g} ({bounds})"


def shortened(spelling: str) -> str:
    """A spelling that fits into a line."""
    return spelling if len(spelling) <= SHOWN else f"{spelling.partition('(')[0]}(...)"
