"""The page of a race: it says of every method what the race saw, and recommends no more than that bears."""

import re
from dataclasses import replace
from html import unescape

from ropewalk.common.statistics import Mean
from ropewalk.fitting.race_page import named, page_of_race
from ropewalk.fitting.recommendation import Against, Family, Recommendation

SELF, YARN = "self-extend(group=6)", "yarn(beta_fast=7.614)"


def mean(value: float, low: float, high: float) -> Mean:
    return Mean(value, 0.01, low, high, 4)


SHORT, SAME = mean(1.05, 1.0, 1.1), mean(1.0, 1.0, 1.0)


def made(**other) -> Recommendation:
    values = {
        "method": SELF, "to": 256, "model": {"name": "tiny", "fingerprint": "0" * 64},
        "settings": {"tax": None, "engine": "", "exportable": False, "seed": 7},
        "rivals": [Against(YARN, mean(0.98, 0.9, 1.1), SHORT, 4), Against("none", mean(0.25, 0.2, 0.3), SAME, 4)],
        "short": mean(1.01, 0.99, 1.02), "limit": None,
        "families": [
            Family(SELF, 1.0, 3, 0.24, mean(0.25, 0.2, 0.3), 1.01, 29, 70_000),
            Family(YARN, 1.02, 3, 0.26, mean(0.26, 0.2, 0.4), 1.05, 30, 65_000),
            Family("pi", None, 0, None, None, 3.0, 1, 192),
            Family("none", 4.1, 1, 1.0, None, 1.0, 1, 448),
        ],
        "left_out": {"tca": "it is measured by a fit of its own"}, "candidates": 61, "tokens": 140_000, "how": "serve",
        "data": {"source": "topics", "searched": 3, "short": 6, "compared": 4, "documents": 4, "copies": 0,
                 "too short": 0},
        "fit": None,
    } | other  # fmt: skip
    return Recommendation(**values)


def page_of(found: Recommendation) -> str:
    return " ".join(unescape(page_of_race(found).render()).split())


def test_every_method_has_its_row_and_who_took_no_part_a_reason() -> None:
    page = page_of(made())
    for said in (
        "Take SelfExtend (group=6): at 256 tokens its perplexity is 1/4.00 of the plain model’s (1/5.00 to 1/3.33).",
        "not surely better than the runner-up, YaRN (beta_fast=7.614): its perplexity is 2.0% lower than that of YaRN "
        "(beta_fast=7.614) (−10.0% to +10.0%).", "<dd>+1.0%<small>against the plain model, within the window −1.0%",
        "61 candidates", "140,000 tokens",
        "ropewalk serve tiny --to 256 --method 'self-extend(group=6)'", "it is measured by a fit of its own",
    ):  # fmt: skip
        assert said in page, said
    rows = {re.sub("<.*?>", "", row.partition("<small>")[0]): row for row in page.split('<th scope="row">')[1:]}
    assert "1/4.17" in rows["SelfExtend (group=6)"] and "70,000" in rows["SelfExtend (group=6)"]
    assert "+5.0%" in rows["YaRN (beta_fast=7.614)"] and ">yes<" in rows["YaRN (beta_fast=7.614)"]
    assert "over the tax" in rows["Position Interpolation"] and "+200.0%" in rows["Position Interpolation"]
    assert ">no<" in rows["SelfExtend (group=6)"]


def test_no_more_is_said_than_was_seen() -> None:
    unsure = made(rivals=[Against("none", mean(0.9, 0.7, 1.2), SAME, 4)])
    assert "which is not surely better" in page_of(unsure) and "runner-up, " not in page_of(unsure)
    plain = replace(made(), method="none", how="nothing", rivals=[Against(YARN, mean(0.9, 0.8, 0.95), SHORT, 4)])
    assert "leave the model as it is" in page_of(plain) and "surely better than the runner-up" in page_of(plain)


def test_names_are_titles() -> None:
    assert named("yarn(beta_fast=7.6141234)") == "YaRN (beta_fast=7.614)"
    assert named("longrope(factors=(1.0, 2.0))") == "LongRoPE"
