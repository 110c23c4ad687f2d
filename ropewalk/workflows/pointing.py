"""Which numbered paragraphs a reply points at, by their marks or in words, and whether all of it was read."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ropewalk.workflows.tags import unused

TAG = "para"
NUMBER = r"(?<!\d)\d{1,9}(?!\d)"
TO = r"\s*(?:[-\u2010-\u2014~]|\.{2,3}|\u2026|\b(?:to|through|thru)\b)\s*"
ONE = rf"{NUMBER}(?:{TO}{NUMBER})?"
SOME = rf"{ONE}(?:(?:[\s,;&]|and|or)+{ONE})*"
ALONE = re.compile(rf"\W*({SOME})\W*", re.IGNORECASE)
ITEM = re.compile(r"^[^\S\n]*\d{1,3}[.)]\s+(?=\W*(?:para|nos?\.|numbers?)|[<¶§#])", re.IGNORECASE | re.MULTILINE)
CLAUSE = re.compile(r"(?<!\bno)(?<!\bnos)[.;!?]\s+|\n+|,\s+(?=(?:only|not)\b)|,?\s+(?=(?:but|except)\b)", re.IGNORECASE)
NO = r"\bno\b(?!\.?\s*\d)"  # which "no. 7" is not
NOTHING = re.compile(rf"\W*(?:{NO}|(?:none|nothing)\b)", re.IGNORECASE)
DENIED = re.compile(rf"{NO}|\b(?:none|not|neither|nor|never|nothing|without|except)\b|n['’]t\b", re.IGNORECASE)
OWN = re.compile(r"(?:\bpara(?:graph)?s?|[¶§])[\W_]{0,3}\d", re.IGNORECASE)


@dataclass(frozen=True)
class Pointed:
    """What a reply points at.

    Attributes:
        numbers: of paragraphs that were shown, in its order.
        marked: whether it named them by their marks.
        whole: whether every number in it was read as that of a paragraph that was shown.
    """

    numbers: tuple[int, ...] = ()
    marked: bool = True
    whole: bool = True


def pointed(reply: str, shown: Collection[int], tag: str = TAG) -> Pointed:
    """What a reply names of what was shown; where it has marks, they alone count.

    Args:
        reply: to the question for marks.
        shown: numbers of the paragraphs.
        tag: of their marks, ``<tag 3>``.
    """
    mark = rf"<[\s/]*{tag}(?:[\s_:=#\"']|id)*({SOME})[\s\"']*/?>"
    kind = rf"(?:\b(?:{tag}|paras?|paragraphs|nos?\.|numbers?)|[¶§#])"
    words = rf"\bparagraph[\W_]{{0,3}}({ONE})|{kind}[\W_]{{0,3}}({SOME})"  # "paragraph 4, 5 coins" is one
    marked = bool(re.search(mark, reply, re.IGNORECASE))
    if not marked and unused(TAG, reply) != TAG != tag:
        return Pointed((), False, False)  # marks that are the text's own
    names = re.compile(mark if marked else words, re.IGNORECASE)
    ends = mark if marked else rf"(?:\bparagraph|{kind})[\W_]{{0,3}}({NUMBER})"
    ranges = re.compile(f"{ends}{TO}{ends}", re.IGNORECASE)
    found, whole = dict[int, None](), True
    for clause in CLAUSE.split(ITEM.sub("", reply)):
        if NOTHING.match(clause):
            continue
        clause = ranges.sub(rf"<{tag} \1-\2>", clause)
        alone = None if marked else ALONE.fullmatch(clause)
        said = [] if DENIED.search(clause) else [alone] if alone else list(names.finditer(clause))
        left = "" if alone else names.sub("", clause) if said else clause
        whole = whole and not re.search(r"\d", left)
        for some in said:
            for one in re.finditer(ONE, next(filter(None, some.groups())), re.IGNORECASE):
                first, last = min(two := [int(n) for n in re.findall(r"\d+", one[0])]), max(two)
                whole = whole and first in shown and last in shown
                found |= dict.fromkeys(i for i in sorted(shown) if first <= i <= last)
    return Pointed(tuple(found), marked, whole)
