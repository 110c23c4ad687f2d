"""A recipe is plain values: it goes through JSON, takes other values, and refuses what cannot be."""

import json
from dataclasses import fields

import pytest

from ropewalk.common.errors import UserError
from ropewalk.training.recipe import CHOICES, Recipe, Stage
from ropewalk.verbs.request import attributes


def test_every_field_is_described() -> None:
    assert set(attributes(Recipe)) == {one.name for one in fields(Recipe)}


def test_it_survives_json() -> None:
    recipe = Recipe(stages=(Stage(3, reach=0.5), Stage(1, method="pi")), targets=("q_proj", "v_proj"), trainable="lora")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(("steps", "expected"), [(600, [400, 200]), (6, [4, 2]), (1, [1]), (2, [1, 1]), (3, [2, 1])])
def test_other_steps_keep_the_proportions(steps: int, expected: list[int]) -> None:
    recipe = Recipe(steps=600, stages=(Stage(400), Stage(200)), warmup=60).with_changes({"steps": steps})
    assert [n for _, n in recipe.schedule_of_stages()] == expected
    assert recipe.warmup == 60 * steps // 600


def test_a_warmup_that_is_asked_for_stays() -> None:
    assert Recipe(steps=100, warmup=10).with_changes({"steps": 10, "warmup": 7}).warmup == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({name: "nothing"}, name) for name in CHOICES),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": "much"}, "learning_rate"),
        ({"floor": 1.5}, "from 0 to 1"),
        ({"window": 1}, "window"),
        ({"scope": "sequence"}, "one document"),
        ({"packing": "documents", "positions": "pose"}, "pick from one document"),
        ({"quantise": "nf4"}, "adapters"),
        ({"stages": ({"steps": 1},)}, "stages"),
        ({"rate": 1}, "'rate'"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Recipe().with_changes(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": [{"steps": 1.5}]}, "steps of a stage"),
        ({"stages": [{"steps": 1, "reach": "far"}]}, "reach of a stage"),
        ({"stages": [{"steps": 1, "lenght": 1}]}, "lenght"),
        ({"stages": 3}, "stages is 3"),
        ({"learning_rates": 1}, "learning_rates"),
    ],
)
def test_a_file_that_says_no_recipe_is_refused(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Recipe.from_dict(Recipe().to_dict() | change)


def test_a_file_that_lacks_fields_is_refused() -> None:
    with pytest.raises(UserError, match="no seed"):
        Recipe.from_dict({key: value for key, value in Recipe().to_dict().items() if key != "seed"})
