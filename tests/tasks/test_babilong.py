from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.babilong import EVENT, KINDS, PLACES, Babilong, World
from ropewalk.tasks.context import Background
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

STORY = (
    " Anselm went to the attic. Anselm took the hammer. Henrike walked to the attic. Anselm picked up the apple."
    " Anselm handed the apple to Henrike. Henrike hurried to the cellar. Henrike moved to the stable."
    " Henrike put down the apple. Henrike went to the garden. The attic is east of the stable."
)


@pytest.mark.parametrize(
    ("qa", "question", "answer"),
    [
        (1, "Where is Anselm?", "attic"),
        (1, "Where is Henrike?", "garden"),
        (2, "Where is the apple?", "stable"),
        (2, "Where is the hammer?", "attic"),
        (3, "Where was the apple before it was in the stable?", "cellar"),
        (4, "What is west of the attic?", "stable"),
        (4, "What is east of the stable?", "attic"),
        (5, "Who gave the apple to Henrike?", "Anselm"),
        (5, "What did Anselm give to Henrike?", "apple"),
        (5, "To whom did Anselm give the apple?", "Henrike"),
        (6, "Is Henrike in the garden?", "yes"),
        (6, "Is Henrike in the stable?", "no"),
        (7, "How many things does Anselm carry?", "one"),
        (7, "How many things does Henrike carry?", "none"),
        (8, "What does Anselm carry?", "hammer"),
        (8, "What does Henrike carry?", "nothing"),
    ],
)
def test_a_story_by_hand(qa: int, question: str, answer: str) -> None:
    assert Babilong(qa).solve(f"{STORY} {question} Answer:") == answer


def test_exactly_the_right_labels_of_the_first_sentence_count() -> None:
    sample = Sample([1], [2], "stable", 0.5, facts={"question": "Where was the apple before it was in the cellar?"})
    task = Babilong(3)
    assert task.score(" The stable. Then the garden", sample) == 1.0
    assert task.score(" before the cellar, in the Stable", sample) == 1.0
    assert task.score(" stable or garden", sample) == task.score(" Unsure. stable", sample) == 0.0
    several = Sample([1], [2], "apple, violin", 0.5, ("apple", "violin"), facts={"question": "What does Anselm carry?"})
    assert Babilong(8).score(" violin and apple", several) == 1.0 and Babilong(8).score(" apple", several) == 0.0


@pytest.mark.parametrize("qa", KINDS)
def test_nobody_does_what_the_world_does_not_allow(qa: int, tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(5):
        text = TokenUnits(tokenizer).decode(
            Babilong(qa).sample(4000, random.Random(seed), TokenUnits(tokenizer)).prompt
        )
        world = World()
        for event in EVENT.finditer(text):
            who, verb, what, receiver, *_ = event.groups()
            if verb in ("dropped", "put down", "left behind", "gave", "handed", "passed"):
                assert world.holder[what] == who
            if receiver:
                assert world.place[who] == world.place[receiver]
            if verb in ("took", "picked up", "grabbed"):
                assert what not in world.holder and world.trail.get(what, [world.place[who]])[-1] == world.place[who]
            world.read(event.group())
            assert all(len(world.carried(one)) <= 3 for one in world.place)


def test_facts_stand_behind_sentences_of_natural_text_and_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    hay = tokenizer(" The sky is very blue today. The grass is tall.", add_special_tokens=False).input_ids
    ends = frozenset(i for i in hay if str(tokenizer.decode([i])).strip() == ".")
    units, task = TokenUnits(tokenizer), Babilong(1, Background(tuple(hay), ends))
    for seed in range(5):
        text = units.decode(task.sample(1500, random.Random(seed), units).prompt)
        for fact in EVENT.finditer(text):
            assert text[: fact.start()].rstrip().endswith(".")
        assert len(re.findall("sky", text)) > 5


def test_without_the_supporting_fact_the_answer_is_another(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    right = 0
    for seed in range(40):
        sample = Babilong(1).sample(1500, random.Random(seed), units)
        who = sample.facts["question"].removeprefix("Where is ").removesuffix("?")
        text = units.decode(sample.prompt)
        last = list(re.finditer(rf"{who} (?:went|moved|walked|hurried) to the \w+\.", text))[-1]
        right += Babilong(1).score(Babilong(1).solve(text[: last.start()] + text[last.end() :]), sample)
    assert right <= 4


def test_half_of_the_yes_no_questions_are_yes(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    answers = Counter(Babilong(6).sample(1000, random.Random(seed), units).text for seed in range(60))
    assert answers["yes"] + answers["no"] == 60 and 20 <= answers["yes"] <= 40


def test_answers_are_places_of_the_world(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = Babilong(2).questions(3000, random.Random(0), TokenUnits(tokenizer), 10)
    assert {sample.text for sample in samples} <= set(PLACES) and len(samples) >= 2
    assert len({sample.facts["question"] for sample in samples}) == len(samples)
