"""A survey as a page: how long the texts are, and where the tokens are."""

from __future__ import annotations

from ropewalk.common.naming import counted
from ropewalk.data.survey import Survey
from ropewalk.report import numbers, svg
from ropewalk.report.page import (
    LEADER_STYLES,
    PLAIN_STYLE,
    Chart,
    Column,
    KeyFigure,
    Page,
    Section,
    Table,
    Text,
    chart,
    facts,
    with_numbers,
)


def page_of_survey(found: Survey) -> Page:
    """What is on the page."""
    middle = found.quantiles["50%"]
    return Page(
        title=f"{found.source}: texts",
        subject=f"{found.source}, tokens of {found.tokenizer}",
        headline=f"{counted(found.documents, 'text')} of {found.tokens:,} tokens; half are shorter than {middle:,}, "
        f"the longest has {found.longest:,}.",
        notes=found.remarks[1:] if found.scripts else found.remarks,
        figures=[
            KeyFigure("Texts", f"{found.documents:,}", f"{found.empty:,} empty" if found.empty else ""),
            KeyFigure("Tokens", f"{found.tokens:,}"),
            KeyFigure("Near duplicates", "not looked for" if found.duplicates is None else f"{found.duplicates:,}"),
        ],
        sections=[
            Section("Where the tokens are", "Of all texts and of all tokens, the share in texts of that length at "
                    "least.", with_numbers(_chart(found), _above(found), "")),
            Section("Letters", "By script, in the first 2,000 characters of every text.",
                    [facts({name: f"{share:.1%}" for name, share in found.scripts.items()})]),
            *([Section("Near duplicates", "Texts of whose n-grams four fifths are another one's.", [
                Table.of("text", [Column("nearly")], found.copied, words=True)])] if found.copied else []),
            *([Section("Not read", "", [Text(one) for one in found.left_out[:20]])] if found.left_out else []),
        ],
    )  # fmt: skip


def _chart(found: Survey) -> list[Chart]:
    if len(found.above) < 2:
        return []
    shares = {
        "texts": [one.documents / found.documents for one in found.above],
        "tokens": [one.tokens / found.tokens for one in found.above],
    }
    x = svg.Axis("tokens of a text", found.above[0].length, found.above[-1].length, numbers.tokens, base=2)
    y = svg.Axis("share", 0.0, 1.0, numbers.percent)
    series = [
        svg.Series(name, name, style, [
            svg.Point(one.length, numbers.Estimate(share), f"{name} from {one.length:,} tokens on: {share:.1%}")
            for one, share in zip(found.above, values, strict=True)
        ])
        for (name, values), style in zip(shares.items(), (PLAIN_STYLE, LEADER_STYLES[0]), strict=True)
    ]  # fmt: skip
    return chart("", series, x, y, "shares by length")


def _above(found: Survey) -> Table:
    rows = [
        (f"{one.length:,}", f"{one.documents:,}", f"{one.documents / found.documents:.1%}", f"{one.tokens:,}",
         f"{one.tokens / found.tokens:.1%}")
        for one in found.above
    ]  # fmt: skip
    return Table.of("from a length of", [Column("texts"), Column("share"), Column("tokens"), Column("share")], rows)
