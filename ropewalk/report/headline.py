"""What results bear out, in words: nothing is called more or less than another unless their intervals say so."""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.report.numbers import Estimate, in_full, interval, percent, quantity, tax, tokens
from ropewalk.report.schema import Average
from ropewalk.report.view import Line, View

NAMED = 3  # methods in a sentence, at most


def headline(view: View) -> str:
    """What was found: page and terminal say the same."""
    if len(view.lines) == 1:
        return _alone(view, view.lines[0])
    best, plain = leader(view), rival(view)
    if best.score.value is not None:
        return _scores(view, best, plain)
    if best.perplexity.value is not None:
        return _perplexities(view, best, plain)
    return f"{view.name}: {len(view.lines)} subjects on {', '.join(task.title for task in view.results.tasks)}."


def notes(view: View) -> list[str]:
    """What belongs to the headline: how sure it is, and what it leaves out."""
    said = _about_one(view, view.lines[0]) if len(view.lines) == 1 else _order(view)
    return [*said, *view.warnings()]


def leader(view: View) -> Line:
    """Whom the headline is about: the first method of the list, or of several models the one with the best score."""
    some = view.extended or view.lines
    if len(view.results.models) > 1:
        return max(some, key=lambda one: -1.0 if one.score.value is None else one.score.value)
    return some[0]


def rival(view: View) -> Line | None:
    """The plain model that the leader is measured by."""
    best = leader(view)
    return next((o for o in view.lines if o.is_plain and o.subject.model == best.subject.model and o is not best), None)


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """``A, B and C``, or of more than ``most`` + 1 names ``A, B, C and 4 other methods``."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} other methods"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def change(times: Estimate, whose: str = "") -> str:
    """A perplexity over another one, in words: ``3.6% lower than YaRN’s (−7.4% to +0.2%)``, ``1/298 of YaRN’s``."""
    value, spread = times.value, bounds(times)
    assert value is not None
    if 0.5 <= value < 2:
        said = f"{100 * abs(value - 1):.1f}% {'higher' if value > 1 else 'lower'}{f' than {whose}' if whose else ''}"
    else:
        said = relative(value, value) + (f" {'of ' * (value < 1)}{whose}" if whose else "")
    return f"{said} ({spread})" if spread else said


def bounds(times: Estimate) -> str:
    """The interval of a ratio: ``−7.4% to +0.2%``."""
    return interval(times, lambda bound: relative(bound, times.value), " to ")


def relative(value: float | None, like: float | None) -> str:
    """A ratio as ``−3.6%``, ``3.2 times`` or ``1/298``, whichever suits ``like``, the value of an interval."""
    if value is None or like is None or 0.5 <= like < 2:
        return tax(None if value is None else value - 1)
    return f"{quantity(value)} times" if value >= 1 or like >= 2 else f"1/{quantity(1 / value)}" if value > 0 else "0"


def differs(times: Estimate) -> str:
    """Whether a ratio is surely ``lower`` or ``higher`` than 1; empty where its interval holds 1, or is not known."""
    same = Estimate(1.0, 1.0, 1.0)
    return "lower" if same.above(times) else "higher" if times.above(same) else ""


def _answers(one: Estimate) -> str:
    """How much of what was asked is right."""
    if one.n == 1:
        share = "" if one.value == 1 else f"{percent(one.value)} "
        return "its only question " + ("wrong" if one.value == 0 else f"{share}right")
    if one.n and one.value == 1:
        return f"all {one.n:,} questions right"
    if one.n and one.value == 0:
        return f"none of {one.n:,} questions right"
    return f"{percent(one.value)} of {f'{one.n:,}' if one.n else 'the'} questions right"


def _scores(view: View, best: Line, plain: Line | None) -> str:
    at = f"At {tokens(view.model(best.subject).to)} tokens, "
    ours = f"{best.brief} answers {_answers(best.score)}"
    if plain is None or plain.score.value is None:
        others = [one for one in view.lines if one is not best and one.score.value is not None]
        ahead = bool(others) and all(best.score.above(one.score) for one in others)
        return f"{at}{ours}{', more than every other' if ahead else ''}."
    said = f"the plain model {_short_answers(plain.score)}"
    if best.score.above(plain.score):
        return f"{at}{ours}; {said}."
    if all(plain.score.above(one.score) for one in view.extended if one.subject.model == plain.subject.model):
        return f"{at}every method answers less than the plain model, which answers {_answers(plain.score)}."
    return f"{at}{ours}, {said}; {_unsure(best.score, plain.score)}."


def _unsure(one: Estimate, other: Estimate) -> str:
    why = "not all have intervals" if None in (one.low, one.high, other.low, other.high) else "their intervals overlap"
    return f"{why}, so no difference is sure"


def _short_answers(one: Estimate) -> str:
    return {0.0: "none", 1.0: "all"}.get(one.value or 0.0, percent(one.value))


def _perplexities(view: View, best: Line, plain: Line | None) -> str:
    at = tokens(view.model(best.subject).to)
    ours, n = f"{best.brief} has a perplexity of {in_full(best.perplexity, quantity)}", best.perplexity.n
    where = f"At {at} tokens, "
    others = [one for one in view.lines if one is not best and one.perplexity.value is not None]
    if best.perplexity.high is None:
        few = f"On {'one text' if n == 1 else f'{n} texts'} of {at} tokens, " if n else where
        said = f", the plain model {quantity(plain.perplexity.value)}" if plain else ""
        return f"{few}{ours}{said}: too few texts to put methods in order."
    if plain is None or plain.perplexity.value is None:
        ahead = bool(others) and all(one.perplexity.above(best.perplexity) for one in others)
        return f"{where}{ours}{', lower than every other' if ahead else ''}."
    said = f"the plain model {in_full(plain.perplexity, quantity)}"
    if plain.perplexity.above(best.perplexity):
        return f"{where}{ours}, {said}."
    return f"{where}{ours}, {said}; {_unsure(best.perplexity, plain.perplexity)}."


def _order(view: View) -> list[str]:
    """What is to say of all other methods, and of how far the leader reaches."""
    best, plain, said = leader(view), rival(view), []
    by_score = best.score.value is not None
    others = [one for one in view.lines if one not in (best, plain)]
    worse = [
        one.brief
        for one in others
        if (best.score.above(one.score) if by_score else one.perplexity.above(best.perplexity))
    ]
    measured = [one for one in others if (one.score if by_score else one.perplexity).value is not None]
    close = [one.brief for one in measured if one.brief not in worse]
    what, how = ("score", "lower") if by_score else ("perplexity", "higher")
    if close and (best.score if by_score else best.perplexity).high is not None:
        tail = f" Surely {how}: {listed(worse)}." if worse else ""
        said.append(f"This run does not tell {best.brief} from {listed(close)}: their intervals overlap.{tail}")
    elif worse[1:]:
        said.append(f"The {what} of every other method is surely {how} than that of {best.brief}.")
    reach = best.effective_length
    if reach.value is not None and reach.low is not None and reach.low != reach.value:
        printer = best.printer("effective_length", tokens)
        said.append(
            f"How far it reaches is not settled: {printer(reach.value)} tokens by the measured scores, and "
            f"{printer(reach.low)} to {printer(reach.high)} within their intervals. More {view.repeats} narrow that."
        )
    return said


def _alone(view: View, line: Line) -> str:
    """How much of its context one subject uses."""
    name = line.name if line.is_plain else f"{line.name} with {line.brief}"
    reach, tested = line.effective_length, line.tested
    if reach.value is None or not tested:
        return _reads(view, line, name)
    if reach.low:
        only = "" if len({*view.lengths}) > 1 else " and only"
        end = f", the longest{only} length tested" if reach.low >= tested[-1].length else ""
        more = f"; by the measured scores {tokens(reach.value)}" if reach.value > reach.low else ""
        return f"{name} uses its context up to {tokens(reach.low)} tokens{end}{more}."
    if reach.high == 0:
        return (
            f"At {tokens(tested[0].length)} tokens, {name} answers {_answers(tested[0].estimate)}, surely less than "
            f"the {percent(view.threshold)} that count as passing."
        )
    one = tested[-1]
    return (
        f"At {tokens(one.length)} tokens, {name} answers {_answers(one.estimate)}: too few to tell how far it reaches."
    )


def _reads(view: View, line: Line, name: str) -> str:
    """Of one subject that answered nothing a threshold is for."""
    benchmarks = list(dict.fromkeys(task.benchmark for task in view.results.tasks if task.benchmark))
    if benchmarks:
        return f"{name} on {', '.join(benchmarks)}"
    if line.tested:
        return f"At {tokens(line.tested[-1].length)} tokens, {name} answers {_answers(line.tested[-1].estimate)}."
    rows = [row for task in view.tasks("perplexity") for row in view.of(line, task.id)]
    scored = [(task, row) for task in view.tasks("score") for row in view.of(line, task.id)]
    if not rows and scored:
        task, row = scored[0]
        return f"{name} on {task.title}: {_answers(row.estimate)}."
    if not rows:
        return f"{name}: nothing that can be said in a sentence was measured"
    last = rows[-1]
    text = f"{last.n} text{'s' * (last.n != 1)}"
    return (
        f"{name} reads {text} of {tokens(last.length)} tokens with a perplexity of {in_full(last.estimate, quantity)}."
    )


def _about_one(view: View, line: Line) -> list[str]:
    averages: list[Average] = line.tested
    if not averages:
        return []
    said = []
    passing = [
        f"{percent(one.passing)} up to {tokens(one.length)} tokens" for one in averages if one.passing is not None
    ]
    if passing:
        said.append(f"Probability that the average stays at {percent(view.threshold)} or more: {', '.join(passing)}.")
    asked = {row.length for task in view.tasks("score") if not task.benchmark for row in view.of(line, task.id)}
    if min(asked, default=averages[0].length) < averages[0].length:
        said.append(f"Below {tokens(averages[0].length)} tokens not every task was asked.")
    return said
