"""OOLONG-like: every line has to be classified, and the answer is a statistic of the classes (arXiv 2511.02817).

A line has a date, a user and a thing; what kind of thing it is decides the class, by a small lexicon (``kinds``) that
rules can read. As there, four fifths of the lines are of a fifth of the users, the mix of classes is drawn for each
context, and a number earns 0.75 for each step that it is off. Pairs of users follow the appendix of arXiv 2512.24601.

Not as there: the texts; no ties, but for "equally common"; an answer may stand anywhere in the first sentence, where
the official reader takes what is behind the last colon, to the letter. Strictly, it has to be all that the first line
says.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

from ropewalk.tasks.context import (
    SPARE,
    Question,
    SharedContext,
    as_many_as_fit,
    context_tokens,
    label,
    mentions,
    pose,
    records_context,
)
from ropewalk.tasks.kinds import LEXICON, a, things
from ropewalk.tasks.metrics import first_integer, set_f1
from ropewalk.tasks.task import Sample, TooShort
from ropewalk.tasks.words import in_random_order
from ropewalk.texts.pieces import TokenUnits

KINDS = range(3, 6)  # of a context
BUSY, THEIRS = 0.2, 0.8  # share of users who write most, and of the lines that they write
LINES_EACH, FEWEST = 4, 4  # lines of a user in the mean, and users
STEP = 0.75  # what a number earns that is off by one
DAYS = 28  # of every month
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
VERBS = ("wrote about", "talked about", "was asked about", "had a dream about")
MORE, LESS, ALIKE = "more common", "less common", "equally common"
LINE = re.compile(rf"On (\d+) ({'|'.join(MONTHS)}), user (\d+) (?:{'|'.join(VERBS)}) an? (\w+)\.")
INTRODUCTION = " Each line below is about a thing of one of these kinds: {kinds}. The lines:"
LISTED = re.compile(r"about a thing of one of these kinds: ([\w, ]+)\. The lines:")
LEAST = 6  # lines
TRIES = 100  # at a question of which something is asked, or at a context


class Line(NamedTuple):
    """Who spoke of what, and when; ``date`` counts days of months of 28."""

    date: int
    user: int
    thing: str

    @property
    def kind(self) -> str:
        return things()[self.thing][1]

    @property
    def month(self) -> str:
        return MONTHS[self.date // DAYS]


def spelled(date: int) -> str:
    """``3 March``"""
    return f"{date % DAYS + 1} {MONTHS[date // DAYS]}"


def days(text: str) -> int:
    """The date that is spelled so."""
    day, month = text.split()
    return MONTHS.index(month) * DAYS + int(day) - 1


def told(line: Line) -> str:
    """One record; the verb says nothing."""
    return f" On {spelled(line.date)}, user {line.user} {VERBS[line.date % len(VERBS)]} {a(line.thing)}."


def read(text: str) -> tuple[list[str], list[Line]]:
    """The kinds and the lines of a prompt."""
    listed = LISTED.search(text)
    lines = [Line(days(f"{day} {month}"), int(user), thing) for day, month, user, thing in LINE.findall(text)]
    return listed[1].split(", ") if listed else [], lines


def first(times: Mapping[Any, int], least: bool = False) -> str:
    """What occurs most often, or least; empty where several do."""
    wanted = (min if least else max)(times.values(), default=0)
    found = [one for one, n in times.items() if n == wanted]
    return str(found[0]) if len(found) == 1 else ""


@dataclass(frozen=True)
class Statistic:
    """What may be asked of lines.

    Attributes:
        group: "counting", "user" or "timeline".
        text: the question, with places for kind, other, user and date.
        answer: "kind", "number", "user", "month" or "comparison".
        least: whether the rarest is asked for.
    """

    group: str
    text: str
    answer: str
    least: bool = False

    def chosen(self, lines: Sequence[Line], about: Mapping[str, Any]) -> list[Line]:
        """The lines of the named user, before the date, or from it on."""
        since = "since" in self.text
        return [
            one
            for one in lines
            if about.get("user") in (None, one.user)
            and ("date" not in about or (one.date >= about["date"] if since else one.date < about["date"]))
        ]

    def value(self, lines: Sequence[Line], kinds: Sequence[str], about: Mapping[str, Any]) -> str:
        """The answer; empty where there is none, or several."""
        some, kind = self.chosen(lines, about), about.get("kind")
        times = {one: 0 for one in kinds} | Counter(one.kind for one in some)
        if self.answer == "kind":
            return first(times, self.least)
        if self.answer == "comparison":
            ours, theirs = times[about["kind"]], times[about["other"]]
            return (MORE if ours > theirs else LESS if ours < theirs else ALIKE) if ours or theirs else ""
        of_kind = [one for one in some if one.kind == kind]
        if self.answer == "number":
            return str(len(of_kind)) if of_kind else ""
        return first(Counter(getattr(one, self.answer) for one in of_kind))

    def guess(self, lines: Sequence[Line], kinds: Sequence[str], about: Mapping[str, Any]) -> str:
        """The same of somebody who counts lines, but cannot tell their kinds."""
        some = self.chosen(lines, about)
        if self.answer in ("user", "month"):
            [(best, _)] = Counter(getattr(one, self.answer) for one in some).most_common(1)
            return str(best)
        return {"kind": kinds[0], "comparison": MORE, "number": str(max(1, round(len(some) / len(kinds))))}[self.answer]


STATISTICS = {
    "most common": Statistic("counting", "Which kind is the most common?", "kind"),
    "least common": Statistic("counting", "Which kind is the least common?", "kind", least=True),
    "count": Statistic("counting", "How many lines are about the kind {kind}?", "number"),
    "comparison": Statistic(
        "counting", "Is the kind {kind} more common, less common or equally common as {other}?", "comparison"
    ),
    "most of a kind": Statistic("user", "Which user has the most lines about the kind {kind}?", "user"),
    "count of a user": Statistic("user", "How many lines of user {user} are about the kind {kind}?", "number"),
    "most common of a user": Statistic("user", "Which kind is the most common in the lines of user {user}?", "kind"),
    "month": Statistic("timeline", "Which month has the most lines about the kind {kind}?", "month"),
    "count before": Statistic("timeline", "How many lines before {date} are about the kind {kind}?", "number"),
    "comparison since": Statistic(
        "timeline", "Is the kind {kind} more common, less common or equally common as {other} since {date}?",
        "comparison",
    ),
}  # fmt: skip
PLACES = {"kind": r"(?P<kind>\w+)", "other": r"(?P<other>\w+)", "user": r"(?P<user>\d+)", "date": r"(?P<date>\d+ \w+)"}


def asked(text: str) -> tuple[Statistic, dict[str, Any]]:
    """The last question of a prompt, and what it is about."""
    for one in STATISTICS.values():
        if found := re.search(rf" {one.text.replace('?', '').format_map(PLACES)}\? Answer:$", text.rstrip()):
            about: dict[str, Any] = found.groupdict()
            return one, about | {key: int(about[key]) for key in ("user",) if key in about} | (
                {"date": days(about["date"])} if "date" in about else {}
            )
    raise ValueError("no question")


class OverLines(SharedContext):
    """A task about lines of users; subclasses write ``about``."""

    name: str

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """Up to one question per depth about one context; the depths are not used, all lines count."""
        kinds = rng.sample(list(LEXICON), rng.choice(KINDS))
        introduction = INTRODUCTION.format(kinds=", ".join(kinds))
        each = len(units.ids(told(Line(MONTHS.index("September") * DAYS + DAYS - 1, 999, "chameleon"))))
        longest = self.longest(n_tokens, units)
        n_lines = LEAST * each + context_tokens(
            self.name, n_tokens, units, longest, units.bos, units.ids(introduction), [0] * (LEAST * each)
        )
        for _ in range(TRIES):
            lines = as_many_as_fit(n_lines, self.drawn(kinds, n_lines // each, rng), told, units)
            questions = self.about(lines, kinds, longest, rng, len(depths))
            if questions:
                break
        else:
            raise TooShort(f"{self.name} finds nothing to ask about {n_tokens} tokens")
        spread = [i / len(lines) for i in range(len(lines))]
        context, _ = records_context(
            self.name, n_tokens, units, introduction, list(map(told, lines)), spread, questions, ()
        )
        return pose(context, questions, n_tokens, units)

    def drawn(self, kinds: Sequence[str], n: int, rng: random.Random) -> Iterator[Line]:
        """Lines without end, of which about ``n`` are needed; few users write most."""
        users, weights = users_of(n, 900, rng), [rng.uniform(0.2, 1) for _ in kinds]
        while True:
            [kind] = rng.choices(kinds, weights)
            yield a_line(writer(users, rng), kind, rng)

    def longest(self, n_tokens: int, units: TokenUnits) -> list[Question]:
        """Questions of which one is as long as any."""
        raise NotImplementedError

    def about(
        self, lines: list[Line], kinds: list[str], longest: list[Question], rng: random.Random, n: int
    ) -> list[Question]:
        """Up to ``n`` questions."""
        raise NotImplementedError


def users_of(n: int, most: int, rng: random.Random) -> list[int]:
    """The users of ``n`` lines, at most so many."""
    return rng.sample(range(100, 1000), min(most, max(FEWEST, n // LINES_EACH)))


def writer(users: Sequence[int], rng: random.Random) -> int:
    """Of most lines one of the first users."""
    busy = max(1, round(BUSY * len(users)))
    return rng.choice(users[:busy] if rng.random() < THEIRS else users[busy:])


def a_line(user: int, kind: str, rng: random.Random) -> Line:
    """Of any day, about any thing of the kind."""
    of_kind = [thing for thing, (_, its) in things().items() if its == kind]
    return Line(rng.randrange(len(MONTHS) * DAYS), user, rng.choice(of_kind))


@dataclass(frozen=True)
class Oolong(OverLines):
    """Statistics of the kinds of things in lines.

    Attributes:
        group: "counting", "user" or "timeline".
    """

    group: str = "counting"
    name: str = field(init=False, default="oolong-like")
    scope: str = "large"
    diffusion: str = "high"
    free: bool = True  # a number may be off

    def __post_init__(self) -> None:
        label(self, name=f"oolong-like_{self.group}")

    @property
    def statistics(self) -> dict[str, Statistic]:
        return {name: one for name, one in STATISTICS.items() if one.group == self.group}

    def longest(self, n_tokens: int, units: TokenUnits) -> list[Question]:
        """Every question about what is spelled longest."""
        kinds = sorted(LEXICON, key=lambda kind: len(units.ids(f" {kind}")))
        date = max(range(len(MONTHS) * DAYS), key=lambda date: len(units.ids(f" {spelled(date)}")))
        about = {"kind": kinds[-1], "other": kinds[-1], "user": 999, "date": date}
        answers = {"kind": kinds[-1], "number": "9999", "user": "999", "month": "September", "comparison": ALIKE}
        return [posed(name, about, answers[one.answer]) for name, one in self.statistics.items()]

    def about(
        self, lines: list[Line], kinds: list[str], longest: list[Question], rng: random.Random, n: int
    ) -> list[Question]:
        """Questions of all sorts in turn, none twice."""
        found: dict[str, Question] = {}
        names = list(in_random_order(self.statistics, rng))
        for i in range(TRIES):
            one = self.statistics[names[i % len(names)]]
            kind, other = rng.sample(kinds, 2)
            every = {"kind": kind, "other": other, "user": rng.choice(lines).user, "date": rng.choice(lines).date}
            about = {key: value for key, value in every.items() if f"{{{key}}}" in one.text}
            if value := one.value(lines, kinds, about):
                question = posed(names[i % len(names)], about, value)
                found.setdefault(question.stem, question)
            if len(found) == n:
                break
        return list(found.values())

    def solve(self, prompt_text: str) -> str:
        """The statistic, counted."""
        one, about = asked(prompt_text)
        kinds, lines = read(prompt_text)
        return one.value(lines, kinds, about)

    def guess(self, prompt_text: str) -> str:
        """What somebody says who counts lines, but cannot tell their kinds."""
        one, about = asked(prompt_text)
        kinds, lines = read(prompt_text)
        return one.guess(lines, kinds, about)

    def score(self, prediction: str, sample: Sample) -> float:
        """Of a number 0.75 to the power of its error; else 1.0 if the first sentence names the right one alone."""
        said, answer = re.split(r"[.\n]", prediction.strip())[0], sample.facts["answer"]
        number = first_integer(re.sub(r"(?<=\d),(?=\d{3})", "", said))[:18]
        if answer == "number":
            return float(STEP ** abs(int(number) - int(sample.text))) if number else 0.0
        if answer == "user":
            return float(number == sample.text)
        names: Sequence[str] = {"kind": list(LEXICON), "month": MONTHS, "comparison": (MORE, LESS, ALIKE)}[answer]
        return float([one for one in names if mentions(said, one)] == [sample.text])

    def score_strictly(self, prediction: str, sample: Sample) -> float | None:
        """1.0 if the first line is the answer and nothing else."""
        return float(prediction.strip().split("\n")[0].strip() == sample.text)


def posed(name: str, about: Mapping[str, Any], answer: str) -> Question:
    """A question of that name."""
    one = STATISTICS[name]
    said = dict(about) | ({"date": spelled(about["date"])} if "date" in about else {})
    facts = {"asked": name, "answer": one.answer}
    return Question(f" {one.text.format_map(said)} Answer:", answer, facts=facts, spare=SPARE)


Counts = Mapping[str, int]  # of one user's lines, by kind


@dataclass(frozen=True)
class Relation:
    """What makes two users a pair.

    Attributes:
        text: what holds of them, with places for kinds and a date.
        one: what holds of the lines of one of them.
        other: of those of the other.
    """

    text: str
    one: Callable[[Sequence[Line], Mapping[str, Any]], bool]
    other: Callable[[Sequence[Line], Mapping[str, Any]], bool]

    def pairs(self, lines: Sequence[Line], about: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Every pair of users, the lower number first."""
        own: dict[int, list[Line]] = {}
        for line in lines:
            own.setdefault(line.user, []).append(line)
        one, other = ({user: rule(some, about) for user, some in own.items()} for rule in (self.one, self.other))
        return [(a, b) for a, b in combinations(sorted(own), 2) if (one[a] and other[b]) or (one[b] and other[a])]


def number_of(lines: Sequence[Line], kind: str) -> int:
    return sum(line.kind == kind for line in lines)


def of_either(lines: Sequence[Line], about: Mapping[str, Any]) -> bool:
    return number_of(lines, about["kind"]) + number_of(lines, about["other"]) > 0


def of_one(lines: Sequence[Line], about: Mapping[str, Any]) -> bool:
    return number_of(lines, about["kind"]) > 0


def all_before(lines: Sequence[Line], about: Mapping[str, Any]) -> bool:
    dates = [line.date for line in lines if line.kind == about["kind"]]
    return bool(dates) and max(dates) < about["date"]


def just_one(lines: Sequence[Line], about: Mapping[str, Any]) -> bool:
    return number_of(lines, about["kind"]) == 1 and number_of(lines, about["other"]) > 0


def of_third(lines: Sequence[Line], about: Mapping[str, Any]) -> bool:
    return number_of(lines, about["third"]) > 0


RELATIONS = {
    "either kind": Relation("both have a line about the kind {kind} or {other}", of_either, of_either),
    "one kind": Relation("both have a line about the kind {kind}", of_one, of_one),
    "before": Relation(
        "both have lines about the kind {kind}, all of them before {date}", all_before, all_before
    ),
    "exactly one": Relation(
        "one has exactly one line about the kind {kind} and some about {other}, and the other has some about {third}",
        just_one, of_third,
    ),
}  # fmt: skip
PAIR_STEM = " Of which pairs of users is it true that {text}? Answer:"
PAIR_PLACES = {**PLACES, "third": r"(?P<third>\w+)"}
PAIR = re.compile(r"\((\d+), ?(\d+)\)")
PAIRS, DENSITY = 200, 0.3  # at most so many pairs, and so many of all that there are
USERS = 40  # at most
OFTEN, ONCE = 0.3, 0.2  # shares of users who speak of a kind often, and once
ROOM = 1 / 8  # of all tokens, for the answer


@dataclass(frozen=True)
class OolongPairs(OverLines):
    """All pairs of users whose lines are of certain kinds."""

    name: str = "oolong-like_pairs"
    scope: str = "large"
    diffusion: str = "high"
    free: bool = True  # pairs in any order

    def drawn(self, kinds: Sequence[str], n: int, rng: random.Random) -> Iterator[Line]:
        """Each user speaks of some kinds alone, and of some once, however many lines there are."""
        users = users_of(n, USERS, rng)
        often = {user: {rng.choice(kinds), *(kind for kind in kinds if rng.random() < OFTEN)} for user in users}
        once = {(user, kind) for user in users for kind in kinds if kind not in often[user] and rng.random() < ONCE}
        while True:
            user = writer(users, rng)
            kind = rng.choice(kinds)
            if kind in often[user] or (user, kind) in once:
                once.discard((user, kind))
                yield a_line(user, kind, rng)

    def longest(self, n_tokens: int, units: TokenUnits) -> list[Question]:
        """Every relation with as many pairs as there is room for."""
        kind = max(LEXICON, key=lambda kind: len(units.ids(f" {kind}")))
        date = max(range(len(MONTHS) * DAYS), key=lambda date: len(units.ids(f" {spelled(date)}")))
        most = int(max(1, min(PAIRS, n_tokens * ROOM // len(units.ids(", (999, 999)")))))
        about = {"kind": kind, "other": kind, "third": kind, "date": date}
        return [paired(name, about, [(999, 999)] * most) for name in RELATIONS]

    def about(
        self, lines: list[Line], kinds: list[str], longest: list[Question], rng: random.Random, n: int
    ) -> list[Question]:
        """Questions of all relations in turn, none twice; of no pairs or too many, none."""
        found: dict[str, Question] = {}
        users = len({line.user for line in lines})
        most = min(longest[0].facts["pairs"], int(DENSITY * users * (users - 1) / 2))
        names = list(in_random_order(RELATIONS, rng))
        for i in range(TRIES):
            one = RELATIONS[names[i % len(names)]]
            about: dict[str, Any] = dict(zip(("kind", "other", "third"), rng.sample(kinds, 3), strict=True))
            user = rng.choice(lines).user
            last = max((line.date for line in lines if (line.user, line.kind) == (user, about["kind"])), default=0)
            about["date"] = min(last + 1, len(MONTHS) * DAYS - 1)
            about = {key: value for key, value in about.items() if f"{{{key}}}" in one.text}
            if 1 <= len(pairs := one.pairs(lines, about)) <= most:
                question = paired(names[i % len(names)], about, pairs)
                found.setdefault(question.stem, question)
            if len(found) == n:
                break
        return list(found.values())

    def solve(self, prompt_text: str) -> str:
        """The pairs, by the lines of every user."""
        text = prompt_text.rpartition(PAIR_STEM.partition("{")[0])[2]
        for one in RELATIONS.values():
            if found := re.fullmatch(one.text.format_map(PAIR_PLACES) + r"\? Answer:", text):
                about: dict[str, Any] = found.groupdict()
                about |= {"date": days(about["date"])} if "date" in about else {}
                return listed(one.pairs(read(prompt_text)[1], about))
        return ""

    def guess(self, prompt_text: str) -> str:
        """All pairs."""
        return listed(list(combinations(sorted({line.user for line in read(prompt_text)[1]}), 2)))

    def score(self, prediction: str, sample: Sample) -> float:
        """F1 of the pairs, whichever user comes first."""
        return set_f1(pairs_of(prediction.strip().split("\n")[0]), pairs_of(sample.text))

    def score_strictly(self, prediction: str, sample: Sample) -> float | None:
        """1.0 if the first line has all pairs, and no others."""
        return float(pairs_of(prediction.strip().split("\n")[0]) == pairs_of(sample.text))


def paired(name: str, about: Mapping[str, Any], pairs: Sequence[tuple[int, int]]) -> Question:
    """A question for the pairs of a relation."""
    said = dict(about) | ({"date": spelled(about["date"])} if "date" in about else {})
    facts = {"asked": name, "pairs": len(pairs)}
    return Question(
        PAIR_STEM.format(text=RELATIONS[name].text.format_map(said)), listed(pairs), facts=facts, spare=SPARE
    )


def listed(pairs: Sequence[tuple[int, int]]) -> str:
    """An answer."""
    return ", ".join(f"({one}, {other})" for one, other in pairs)


def pairs_of(text: str) -> set[tuple[int, ...]]:
    """The pairs that a text names."""
    return {tuple(sorted(map(int, pair))) for pair in PAIR.findall(text)}
