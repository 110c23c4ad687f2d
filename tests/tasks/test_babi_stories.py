from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from ropewalk.tasks.babi_stories import KINDS, OFFSETS, STEPS, BabiStories, paths, pick, positions
from ropewalk.tasks.babilong import PEOPLE, PLACES
from ropewalk.tasks.task import Sample

KEPT = (
    "Ludmila is in the attic. Ludmila is not in the cellar. "
    "Anselm went to the garden. Anselm is no longer in the garden."
)
MAYBE = (
    "Anselm is either in the attic or the cellar. "
    "Henrike is either in the attic or the stable. Henrike went to the cellar."
)
THEN = (
    "Anselm went to the attic. Then he moved to the cellar. "
    "Ludmila went to the stable. After that she hurried to the attic."
)
PAIRS = (
    "Anselm and Ludmila went to the attic. "
    "Ludmila and Henrike walked to the stable. Casimir and Anselm moved to the bakery."
)
THEY = "Anselm and Ludmila went to the attic. Then they moved to the cellar. Ludmila and Henrike walked to the stable."
TIMES = (
    "This evening Anselm went to the attic. "
    "Anselm moved to the cellar yesterday. Anselm walked to the stable this morning."
)
FEARS = (
    "Badgers are afraid of ravens. Anselm is a heron. "
    "Herons are afraid of weasels. Ludmila is a badger. Ravens are afraid of herons."
)
HUES = "Anselm is a heron. Ludmila is a raven. Henrike is a heron. Henrike is gray. Ludmila is white."
LIES = "The red star is above the blue cross. The green ring is to the right of the blue cross."
SIZES = (
    "The blue chest fits inside the red box. "
    "The blue chest is bigger than the green crate. The white trunk is bigger than the red box."
)
MAP = (
    "The attic is north of the cellar. The stable is east of the cellar. "
    "The garden is north of the stable. The bakery is west of the attic."
)
MOODS = (
    "Anselm is hungry. Ludmila is tired. Anselm went to the kitchen. "
    "Henrike is bored. Henrike moved to the garden. Henrike took the kite."
)


@pytest.mark.parametrize(
    ("qa", "story", "question", "answer"),
    [
        (9, KEPT, "Is Ludmila in the cellar?", "no"),
        (9, KEPT, "Is Anselm in the garden?", "no"),
        (9, KEPT + " Anselm is in the garden.", "Is Anselm in the garden?", "yes"),
        (10, MAYBE, "Is Anselm in the cellar?", "maybe"),
        (10, MAYBE, "Is Anselm in the stable?", "no"),
        (10, MAYBE, "Is Henrike in the cellar?", "yes"),
        (11, THEN, "Where is Anselm?", "cellar"),
        (11, THEN, "Where is Ludmila?", "attic"),
        (12, PAIRS, "Where is Ludmila?", "stable"),
        (12, PAIRS, "Where is Anselm?", "bakery"),
        (13, THEY, "Where is Anselm?", "cellar"),
        (13, THEY, "Where is Henrike?", "stable"),
        (14, TIMES, "Where was Anselm before the attic?", "stable"),
        (14, TIMES, "Where was Anselm before the stable?", "cellar"),
        (15, FEARS, "What is Anselm afraid of?", "weasel"),
        (15, FEARS, "What is Ludmila afraid of?", "raven"),
        (16, HUES, "What colour is Anselm?", "gray"),
        (17, LIES, "Is the red star above the green ring?", "yes"),
        (17, LIES, "Is the green ring to the left of the red star?", "no"),
        (18, SIZES, "Is the red box bigger than the green crate?", "yes"),
        (18, SIZES, "Does the white trunk fit inside the blue chest?", "no"),
        (19, MAP, "How do you go from the attic to the stable?", "s,e"),
        (19, MAP, "How do you go from the cellar to the bakery?", "n,w"),
        (20, MOODS, "Where will Ludmila go?", "bedroom"),
        (20, MOODS, "Why did Anselm go to the kitchen?", "hungry"),
        (20, MOODS, "Why did Henrike take the kite?", "bored"),
    ],
)  # fmt: skip
def test_a_story_by_hand(qa: int, story: str, question: str, answer: str) -> None:
    assert BabiStories(qa).solve(f"{story} {question} Answer:") == answer


@pytest.mark.parametrize("qa", KINDS)
def test_what_is_told_is_what_is_read(qa: int) -> None:
    kind, n = KINDS[qa], 0
    for seed in range(60):
        story, asked = kind.tell(random.Random(seed))
        assert asked and len({question for question, _ in asked}) == len(asked)
        for question, (answer,) in asked:
            assert answer in kind.labels and kind.read(f"{''.join(story)} {question} Answer:") == answer
            n += 1
    assert n >= 60


@pytest.mark.parametrize(("qa", "answers"), [(9, 2), (10, 3), (17, 2), (18, 2)])
def test_no_answer_is_the_likeliest(qa: int, answers: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(40):
        found.update(answer for _, (answer,) in KINDS[qa].tell(random.Random(seed))[1])
    assert len(found) == answers and len(set(found.values())) == 1


def test_labels_are_words_and_those_of_the_question_do_not_count() -> None:
    sample = Sample([1], [2], "no", 0.5, facts={"question": "Is Anselm in the garden?"})
    task = BabiStories(9)
    assert task.score(" No, he is not.", sample) == 1.0
    assert (
        task.score(" I do not know", sample)
        == task.score(" nowhere", sample)
        == task.score(" no or yes", sample)
        == 0.0
    )
    sample = Sample([1], [2], "yes", 0.5, facts={"question": "Is Anselm in the garden?"})
    assert task.score(" yesterday he was", sample) == 0.0
    before = Sample([1], [2], "stable", 0.5, facts={"question": "Where was Anselm before the attic?"})
    assert BabiStories(14).score(" before the attic, the stable", before) == 1.0


@pytest.mark.parametrize("said", [" s,e", " S, E", " south, then east", " go south and east. Then", " it's s,e"])
def test_a_way_may_be_said_in_letters_or_words(said: str) -> None:
    sample = Sample([1], [2], "s,e", 0.5, facts={"question": "How do you go from the attic to the stable?"})
    assert BabiStories(19).score(said, sample) == 1.0
    assert BabiStories(19).score(said.replace("s", "n").replace("S", "N"), sample) == 0.0


def test_there_is_one_shortest_way_even_if_places_side_by_side_are_linked() -> None:
    for seed in range(60):
        story, [(question, (answer,))] = paths(random.Random(seed))
        at, facts = {}, re.findall(r"The (\w+) is (\w+) of the (\w+)\.", "".join(story))
        at[facts[0][2]] = (0, 0)
        while len(at) < 5:
            for one, way, other in facts:
                right, up = STEPS[way]
                if other in at:
                    at[one] = at[other][0] + right, at[other][1] + up
                elif one in at:
                    at[other] = at[one][0] - right, at[one][1] - up
        assert len(set(at.values())) == 5
        start, goal = re.findall(r"the (\w+)", question)
        ways = [
            f"{a[0]},{b[0]}"
            for a, (x, y) in STEPS.items()
            for b, (u, v) in STEPS.items()
            if (at[start][0] + x, at[start][1] + y) in at.values()
            and (at[start][0] + x + u, at[start][1] + y + v) == at[goal]
        ]
        assert ways == [answer]


def test_shapes_differ_on_the_asked_axis() -> None:
    for seed in range(60):
        story, asked = positions(random.Random(seed))
        ways = re.findall(r"(above|below|to the left of|to the right of)", "".join(story))
        assert len(ways) == 2 and asked
        for question, _ in asked:
            axis = OFFSETS[re.findall(r"(above|below|to the left of|to the right of)", question)[0]]
            assert any(sum(a * b for a, b in zip(axis, OFFSETS[way], strict=True)) for way in ways)


def test_as_many_questions_have_each_answer() -> None:
    asked = [("a?", ("yes",)), ("b?", ("yes",)), ("c?", ("no",))]
    assert Counter(answer for _, (answer,) in pick(asked, ("yes", "no"), random.Random(0))) == {"yes": 1, "no": 1}
    assert pick(asked, ("yes", "no", "maybe"), random.Random(0)) == []


def test_examples_are_about_others() -> None:
    for kind in KINDS.values():
        assert not any(re.search(rf"\b{name}\b", kind.example) for name in PEOPLE)
        assert kind.labels != PLACES or not any(re.search(rf"\b{place}\b", kind.example) for place in PLACES)
