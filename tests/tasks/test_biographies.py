from __future__ import annotations

import random
import re
from itertools import combinations

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.biographies import ATTRIBUTES, FREE, PEOPLE, SKILLS, UNKNOWN, Biographies, Life, read_lives
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

PLAIN = (
    " Biography of Ada Nora Quillfold. Ada Nora Quillfold was born on May 3, 1980. Ada Nora Quillfold was born in"
    " Oakby. Ada Nora Quillfold is 44 years old. Biography 12345 of Otto Leo Yewmantle. Otto Leo Yewmantle was born in"
    " the same place as Ada Nora Quillfold. Otto Leo Yewmantle is 51 years old."
)


def read(task: Biographies, seed: int, tokenizer: PreTrainedTokenizerFast, n: int = 4000) -> tuple[str, Sample]:
    units = TokenUnits(tokenizer)
    sample = task.sample(n, random.Random(seed), units)
    return units.decode(sample.prompt), sample


def test_lives_are_read_as_they_were_written() -> None:
    assert read_lives(PLAIN) == {
        "Ada Nora Quillfold": Life(
            "Ada Nora Quillfold", {"birth date": "May 3, 1980", "birthplace": "Oakby", "age": "44"}
        ),
        "Otto Leo Yewmantle": Life(
            "Otto Leo Yewmantle", {"birthplace": "the same place as Ada Nora Quillfold", "age": "51"}, 12345
        ),
    }


ADA, OTTO = "Ada Nora Quillfold", "Otto Leo Yewmantle"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (f" What is the birthplace of {ADA}? The answer is", "Oakby"),
        (f" What is the hobby of {ADA}? If the text does not say it, answer unknown. The answer is", UNKNOWN),
        (f" In which town was {OTTO} born? The town is", "Oakby"),
        (f" By how many years do the ages of {ADA} and {OTTO} differ? They differ by", "7"),
        (f" What is the order of {OTTO}, {ADA} from the youngest to the oldest? The order is", f"{ADA}, {OTTO}"),
        (" Which two people have ages that differ by exactly 7 years? The two are", f"{ADA} and {OTTO}"),
        (f" What is the age of {OTTO}? Cite the number of each biography in brackets. It is", "51 [12345]"),
    ],
)
def test_questions_of_every_kind_by_hand(question: str, answer: str) -> None:
    assert Biographies().solve(PLAIN + question) == answer


def test_exactly_one_pair_has_the_asked_difference(tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(20):
        text, sample = read(Biographies("twodiff"), seed, tokenizer, 12000)
        asked = int(re.findall(r"exactly (\d+) years", text)[-1])
        ages = {name: int(one.values["age"]) for name, one in read_lives(text).items()}
        pairs = [{a, b} for a, b in combinations(ages, 2) if abs(ages[a] - ages[b]) == asked]
        assert len(ages) > 20 and pairs == [set(sample.references)]


def test_what_is_asked_and_not_told_is_told_of_everybody_else(tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(10):
        text, sample = read(Biographies("idk"), seed, tokenizer)
        silent = [one for one in read_lives(text).values() if len(one.values) < len(ATTRIBUTES)]
        assert [set(ATTRIBUTES) - set(one.values) for one in silent] == [set(sample.facts["attributes"])]
        assert sample.text == UNKNOWN


def test_birth_dates_agree_with_ages(tokenizer: PreTrainedTokenizerFast) -> None:
    text, _ = read(Biographies("paraphrase"), 0, tokenizer, 12000)
    for one in read_lives(text).values():
        assert int(one.values["birth date"][-4:]) + int(one.values["age"]) == 2024


def test_only_paraphrases_vary_the_wording_and_pronouns_hide_the_name(tokenizer: PreTrainedTokenizerFast) -> None:
    births = {skill: set() for skill in ("standard", "paraphrase", "pronoun")}
    for skill, found in births.items():
        text, _ = read(Biographies(skill), 0, tokenizer, 12000)
        for name, one in read_lives(text).items():
            [sentence] = re.findall(rf"[^.]*{one.values['birth date']}[^.]*\.", text)[:1]
            found.add(sentence.replace(name, "X").replace(one.values["birth date"], "D"))
    assert births["standard"] == {" X was born on D."} and births["pronoun"] == {" I was born on D."}
    assert len(births["paraphrase"]) >= 5


def test_a_chain_stands_among_other_chains(tokenizer: PreTrainedTokenizerFast) -> None:
    text, sample = read(Biographies("multihop", 3), 1, tokenizer, 12000)
    linked = sum(one.values["birthplace"].startswith("the same place") for one in read_lives(text).values())
    assert linked >= 6 and sample.facts["hops"] == 3


def test_ranks_are_right_in_their_order_alone_and_several_answers_only_together() -> None:
    sample = Sample([1], [2], "A, B", 0.5, ("Ada", "Bo"))
    assert Biographies("rank", 2).score("Ada, then Bo", sample) == 1.0
    assert Biographies("rank", 2).score("Bo, Ada", sample) == 0.0
    several = Biographies("multi_standard", 2)
    assert several.score("bo and ADA", sample) == 1.0 and several.score("Adam and Bo", sample) == 0.0


def test_names_and_labels_follow_the_skill() -> None:
    assert Biographies("rank", 5).name == "longbio_rank_5" and Biographies("idk").name == "longbio_idk"
    assert set(PEOPLE) < set(SKILLS)
    for skill in SKILLS:
        task = Biographies(skill, PEOPLE.get(skill, 1))
        assert (task.scope, task.diffusion) == SKILLS[skill] and task.free == (skill in FREE)


@pytest.mark.parametrize(("skill", "n"), [("rank", 1), ("standard", 2), ("idk", 3), ("citation", 0), ("poetry", 1)])
def test_skills_that_make_no_sense_are_refused(skill: str, n: int) -> None:
    with pytest.raises(ValueError, match=r"skill must be one of standard, .*, not 'poetry'|does not take"):
        Biographies(skill, n)
