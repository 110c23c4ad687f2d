from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.context import Background
from ropewalk.tasks.context_rot import AGAIN, LEAST, REPEAT, RotDistract, RotRepeat
from ropewalk.tasks.task import Sample, TooShort
from ropewalk.texts.pieces import TokenUnits

FACT = re.compile(
    r"On (\d+ \w+ \d+), ([A-Z]\w+ [A-Z]\w+ [A-Z]\w+) (named|no longer named) the (\S+) as the (\w+) present\."
)
KINDS = {"another day": 0, "another person": 1, "what was taken back": 2, "another rank": 4}


def background(tokenizer: PreTrainedTokenizerFast) -> Background:
    """Twenty sentences that can be told from each other."""
    text = "".join(
        f" The {one} is blue." for one in "sky sun sea hat cat dog car bus pen cup bed box bag map key jar".split()
    )
    hay = tokenizer(text, add_special_tokens=False).input_ids
    return Background(tuple(hay), frozenset(i for i in hay if str(tokenizer.decode([i])).strip() == "."))


def test_the_odd_word_stands_at_its_depth_and_the_text_twice_in_the_length(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for depth in (0.0, 0.25, 1.0):
        sample = RotRepeat().sample(2000, random.Random(3), units, depth)
        words, n = sample.text.split(), sample.facts["words"]
        assert len(words) == n > 100 and words.count(sample.facts["odd"]) == 1
        assert words.index(sample.facts["odd"]) == sample.facts["index"] == round(depth * (n - 1))
        assert units.decode(sample.prompt).count(f" {sample.text} ") == 1
        assert len(sample.prompt) - sample.before - sample.after == len(sample.answer)
        each = len(sample.answer) / n
        filler = sample.before - len(units.bos) - 80  # what is less than a word and its repetition stands in front
        assert filler < 2 * (each + 1)
    with pytest.raises(TooShort):
        RotRepeat().sample(150, random.Random(3), units)
    assert len(RotRepeat().sample(330, random.Random(3), units).text.split()) >= LEAST


def test_what_is_wrong_with_a_repetition_is_told() -> None:
    gold = "apple apple apples apple apple"
    sample = Sample([1], [2], gold, 0.5, facts={"words": 5, "index": 2, "odd": "apples"})
    task = RotRepeat()

    def read(said: str) -> tuple[float, ...]:
        return task.score(said, sample), *task.readings(said, sample).values()

    assert read(f" {gold}\nand more") == (1.0, 1.0, 1.0, 1.0, 1.0)
    assert read("apple apple apple apple apple") == (pytest.approx(29 / 30), 0.0, 0.0, 0.0, 1.0)
    assert read("apple apple apples apple") == (0.8, 0.0, 1.0, 1.0, 0.8)
    assert read("apples apple apple apple apple")[2:4] == (1.0, 0.0)
    assert read("") == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert task.guess(f"{REPEAT} a b b{AGAIN}") == "b b b"


def test_a_rival_differs_in_one_thing(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for task in (RotDistract(1), RotDistract(4), RotDistract(share=0.4)):
        sample = task.sample(3000, random.Random(7), units, 0.5)
        facts = {one[3]: one for one in FACT.findall(units.decode(sample.prompt))}
        true = facts.pop(sample.text)
        assert {value: kind for value, kind in sample.facts["rivals"].items()}.keys() == facts.keys()
        for value, kind in sample.facts["rivals"].items():
            differ = [i for i, (one, other) in enumerate(zip(true, facts[value], strict=True)) if one != other]
            assert differ == sorted([KINDS[kind], 3])
        counts = Counter(sample.facts["rivals"].values())
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(facts) == task.rivals or task.share


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_rivals_are_the_asked_share_of_the_text(share: float, tokenizer: PreTrainedTokenizerFast) -> None:
    units, task = TokenUnits(tokenizer), RotDistract(share=share, background=background(tokenizer))
    sample = task.sample(6000, random.Random(1), units)
    text = units.decode(sample.prompt)
    rivals = [one.group() for one in FACT.finditer(text) if one.group(4) != sample.text]
    n_text = len(sample.prompt) - sample.before - sample.after
    measured = sum(len(units.ids(f" {one}")) for one in rivals) / n_text
    assert measured == pytest.approx(sample.facts["rival_share"], abs=1e-9)
    assert share - 100 / n_text < measured <= share


def test_shuffled_sentences_are_the_same_tokens_in_another_order(tokenizer: PreTrainedTokenizerFast) -> None:
    units, hay = TokenUnits(tokenizer), background(tokenizer)
    plain, shuffled = (
        RotDistract(0, shuffled=mixed, background=hay).sample(1500, random.Random(2), units, 0.5)
        for mixed in (False, True)
    )
    assert plain.text == shuffled.text and Counter(plain.prompt) == Counter(shuffled.prompt)
    first, second = (re.findall(r"The (\w+) is blue\.", units.decode(one.prompt)) for one in (plain, shuffled))
    assert first != second and Counter(first) == Counter(second) and len(first) > 30
    assert len(FACT.findall(units.decode(shuffled.prompt))) == 1


def test_the_first_value_counts_and_whose_it_is_is_told() -> None:
    facts = {"rivals": {"big-red-hat": "another day", "old-tan-cup": "another person"}, "rival_share": 0.1}
    sample, task = Sample([1], [2], "shy-teal-owl", 0.5, facts=facts), RotDistract(2)
    assert task.score(" the Shy-teal-owl, not the big-red-hat", sample) == 1.0
    assert task.score(" big-red-hat or shy-teal-owl", sample) == 0.0
    assert task.readings(" big-red-hat or shy-teal-owl", sample) == {
        "right value anywhere": 1.0, "rival of another day": 1.0, "rival of another person": 0.0,
        "share of the text that rivals are": 0.1,
    }  # fmt: skip
