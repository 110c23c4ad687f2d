from __future__ import annotations

import random
import re

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.sessions import OWNED, PERSONS, SessAbstain, SessUpdate, read, refused
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

DATE = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d)\]")
OLD, NEW = "brisk-amber-otter", "calm-teal-moose"


def test_chats_stand_in_time_and_the_question_behind_them(tokenizer: PreTrainedTokenizerFast) -> None:
    units, said = TokenUnits(tokenizer), 0
    for seed in range(20):
        sample = SessUpdate().sample(4000, random.Random(seed), units)
        text = units.decode(sample.prompt)
        dates = DATE.findall(text)
        assert dates == sorted(dates) and len(dates) > 8
        assert re.findall(r"It is (\d{4}-\d\d-\d\d)\.", text)[0] > dates[-1]
        owned = re.findall(rf"is {OWNED} today", text)[0]
        assert tuple(read(text)[owned]) == sample.facts["versions"] and sample.facts["versions"][-1] == sample.text
        assert len(set(sample.facts["versions"])) == len(sample.facts["versions"]) >= 2
        told = re.findall(rf"(Something changed: )?[Mm]{' '.join(owned)[1:]} is (now )?", text)
        said += sample.facts["said to be new"]
        assert sample.facts["said to be new"] == any(any(words) for words in told)
        everything = [value for values in read(text).values() for value in values]
        assert len(set(everything)) == len(everything), "no value is both stale and current"
    assert 4 <= said <= 16


@pytest.mark.parametrize("asks", ["current", "earlier"])
def test_the_answer_is_told_at_its_depth(asks: str, tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for depth in (0.0, 0.5, 1.0):
        sample = SessUpdate(asks).sample(8000, random.Random(4), units, depth)
        text = units.decode(sample.prompt)
        assert text.index(sample.text) / len(text) == pytest.approx(depth, abs=0.2)


def test_changes_are_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [SessUpdate("changes").sample(2000, random.Random(seed), TokenUnits(tokenizer)) for seed in range(24)]
    assert {one.text for one in samples} == {"0", "1", "2", "3"}
    assert SessUpdate("changes").score(" 2 times", Sample([1], [2], "2", 0.5)) == 1.0


def test_the_last_value_of_an_answer_counts() -> None:
    sample, task = Sample([1], [2], NEW, 0.5, facts={"versions": (OLD, NEW)}), SessUpdate()
    assert task.score(f" {NEW}", sample) == task.score(f" It was {OLD}, now it is {NEW.title()}.", sample) == 1.0
    assert task.score(f" {OLD}", sample) == task.score(f" {NEW}? No, {OLD}", sample) == task.score("", sample) == 0.0
    assert task.score(f" {NEW}. [2020-01-01 10:00] User: it is {OLD}", sample) == 1.0
    assert task.readings(f" {OLD}", sample) == {"stale value": 1.0}
    assert task.readings(f" {NEW}", sample) == task.readings(" none", sample) == {"stale value": 0.0}
    before = Sample([1], [2], OLD, 0.5, facts={"versions": (OLD, NEW)})
    assert SessUpdate("earlier").readings(f" {NEW}", before) == {"value of today": 1.0}


def test_what_is_not_told_is_told_nowhere(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for seed in range(12):
        sample = SessAbstain().sample(4000, random.Random(seed), units)
        text = units.decode(sample.prompt)
        asked = re.findall(OWNED, text[text.rindex("What are") :])[:2]
        table = read(text)
        told, untold = asked if sample.facts["told first"] else asked[::-1]
        assert table[told] == [sample.facts["value"]] and untold not in table and told[0] == untold[0]
        alike = [key for key in table if key[0] == told[0] and (key[1] in PERSONS) == (untold[1] in PERSONS)]
        assert any(sample.facts["bait"] in table[key] for key in alike)


@pytest.mark.parametrize(
    ("said", "told", "untold", "bait"),
    [
        (f" {OLD}; unknown", 1, 1, 0),
        (f" {OLD} and no chat does not say it", 1, 1, 0),
        (f" {OLD}\nThe chats don't say", 1, 1, 0),
        (" unknown; unknown", 0, 1, 0),
        (f" {OLD}; {NEW}", 1, 0, 1),
        (f" {OLD}; unknown, perhaps {NEW}", 1, 0, 1),
        (f" {OLD}, unknown", 1, 1, 0),
        (f" {OLD}", 1, 0, 0),
        (f" unknown; {OLD}", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_both_of_a_pair_have_to_be_right(said: str, told: int, untold: int, bait: int) -> None:
    facts = {"value": OLD, "bait": NEW, "told first": True}
    sample, task = Sample([1], [2], f"{OLD}; unknown", 0.5, facts=facts), SessAbstain()
    assert tuple(task.readings(said, sample).values()) == (told, untold, bait)
    assert task.score(said, sample) == min(told, untold)
    assert task.guess("") == "unknown; unknown"
    other_way = Sample([1], [2], f"unknown; {OLD}", 0.5, facts=facts | {"told first": False})
    assert task.score(f" unknown; {OLD}", other_way) == 1.0


def test_refusals_are_words() -> None:
    assert refused("That is not mentioned.") and refused("I don't know") and not refused("an unknowncode")
