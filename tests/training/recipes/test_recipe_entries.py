"""Every recipe of the list: plain values of its paper, that a run can be made of. Oracles are the papers' numbers."""

import json
from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.fitting.rope_factors import RopeFactors
from ropewalk.methods.fit_file import Fit
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.training.loop import parts
from ropewalk.training.recipe import Recipe
from ropewalk.training.recipes.interpolation import longrope
from ropewalk.training.recipes.recipe_entries import RECIPES, recipe
from ropewalk.training.schedule import factor
from tests.fitting.grounds import ground
from tests.models import shared, tokens

IDS = [entry.id for entry in RECIPES]
WINDOW, TARGET = 4096, 131072


@pytest.mark.parametrize("name", IDS)
def test_it_says_its_name_and_survives_json(name: str) -> None:
    found = recipe(name)
    assert found.name == name
    assert Recipe.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("name", IDS)
def test_its_stages_fit_a_target(name: str) -> None:
    stages = parts(recipe(name), TARGET, WINDOW, cue=(1, 2, 3))
    assert sum(stage.steps for stage in stages) == recipe(name).steps
    assert stages[-1].rope == TARGET
    assert all(stage.window <= stage.reach <= stage.rope <= TARGET for stage in stages)
    before = [sum(one.rows * one.steps for one in stages[:i]) for i in range(len(stages))]
    assert [stage.first for stage in stages] == before


@pytest.mark.parametrize("name", IDS)
def test_its_ropes_are_in_the_catalogue(name: str) -> None:
    found = recipe(name)
    for stage, _ in found.schedule_of_stages():
        assert found.rope_method(stage).id


@pytest.mark.parametrize(
    ("name", "step", "rate"),
    [
        ("pi", 0, 2e-6), ("pi", 10, 1.1e-5), ("pi", 20, 2e-5), ("pi", 999, 2e-5),
        ("yarn", 10, 1e-5), ("yarn", 20, 2e-5), ("yarn", 210, 1e-5), ("yarn", 400, 0),
        ("longrope", 0, 2e-5), ("longrope", 200, 1e-5), ("longrope", 400, 0), ("harpe", 1429, 2e-5),
        ("drope", 50, 5e-5), ("drope", 100, 1e-4), ("drope", 2550, 5e-5), ("drope", 5000, 0),
        ("prolong", 250, 5e-6), ("prolong", 500, 1e-5), ("prolong", 2750, 5.5e-6), ("prolong", 5000, 1e-6),
        ("llama-2-long", 1000, 1e-5), ("llama-2-long", 2000, 2e-5), ("llama-2-long", 51000, 1.1e-5),
        ("llama-2-long", 100_000, 2e-6),
    ],
)  # fmt: skip
def test_its_learning_rate_is_the_papers(name: str, step: int, rate: float) -> None:
    found = recipe(name)
    first = found.schedule_of_stages()[0][1] if found.restart else found.steps
    how = {key: getattr(found, key) for key in ("warmup", "warmup_from", "schedule", "floor")}
    assert factor(step, first, **how) * found.learning_rate == pytest.approx(rate, rel=1e-6, abs=1e-12)


def test_growlength_keeps_tokens_per_step() -> None:
    stages = parts(recipe("growlength"), TARGET, WINDOW)
    assert [stage.window for stage in stages] == [4096, 8192, 16384, 32768, 65536, 131072]
    assert len({stage.rows * stage.window for stage in stages}) == 1


def test_lwms_ladder_is_its_table() -> None:
    stages = parts(recipe("lwm"), 1 << 20, 4096)
    assert [stage.window for stage in stages] == [1 << 15, 1 << 17, 1 << 18, 1 << 19, 1 << 20]
    assert [stage.steps for stage in stages] == [1200, 3000, 3000, 720, 450]
    assert {stage.rows * stage.window for stage in stages} == {1 << 22}  # 4 M tokens
    bases = ("1000000.0", "10000000.0", "10000000.0", "25000000.0", "50000000.0")
    assert [stage.stage.method for stage in stages] == [f"abf(base={base})" for base in bases]


def test_yarns_second_leg_changes_the_rope_alone() -> None:
    first, second = parts(recipe("yarn"), TARGET, WINDOW)
    assert (first.reach, first.window) == (second.reach, second.window) == (TARGET // 2, TARGET // 2)
    assert (first.rope, second.rope) == (TARGET // 2, TARGET)


def test_longropes_legs_have_their_factors_or_are_refused() -> None:
    config = shared("llama").config
    pairs = range(config.head_dim // 2)
    half, whole = [1 + i / 7 for i in pairs], [1 + 3 * i / 7 for i in pairs]
    first, second = (method.factors for stage in parts(longrope(half, whole), TARGET, WINDOW)
                     for method in [longrope(half, whole).rope_method(stage.stage)])  # fmt: skip
    assert (first, second) == (tuple(half), tuple(whole))
    longrope(half, whole).require(config, TARGET)
    with pytest.raises(UserError, match=r"stage 1 of 2 of longrope, to 0.5 of the target: longrope has no factors"):
        recipe("longrope").require(config, TARGET)
    with pytest.raises(UserError, match="stage 2 of 2"):
        longrope(half).require(config, TARGET)


@pytest.mark.slow
def test_longropes_legs_take_what_a_search_wrote(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = shared("llama")
    wanted, data = {}, {"source": "", "texts": 1, "tokens": 1, "hash": ""}
    for name, to in (("half", 128), ("whole", 256)):
        found = RopeFactors(rounds=1).search(LongRoPE(), ground(model, tokens(4, to), to=to))
        fit = Fit("longrope", found.options, {}, {}, to, {"name": "tiny", "fingerprint": "0"}, data, {}, {}, "0")
        fit.written(Path(f"{name}.json"))
        wanted[name] = LongRoPE(**found.options)
    made = recipe("longrope(half=half.json, whole=whole.json)")
    assert [made.rope_method(stage.stage) for stage in parts(made, 256, 64)] == [wanted["half"], wanted["whole"]]
    made.require(model.config, 256)
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made, "as values: the files may go"


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("longrope(hole=a.json)", "longrope takes half and whole Write it as longrope(half=FILE, whole=FILE)."),
        ("longrope(half=a.json", "longrope takes half and whole"),
        ("longrope()", "longrope takes half and whole"),
        ("pose(half=a.json)", "pose takes nothing Write it as pose."),
        ("longrope(half=nowhere.json)", "nowhere.json"),
        ("lngrope(half=a.json)", "no recipe 'lngrope'; did you mean"),
        ("temp-lora", "temp-lora is a method that needs no training of its own Put it on: --methods temp-lora."),
    ],
)
def test_what_a_recipe_does_not_take_is_refused(spelling, message) -> None:
    with pytest.raises(UserError) as raised:
        recipe(spelling)
    assert message in " ".join(str(raised.value).split())


def test_drope_trains_at_the_window_a_rope_for_the_target() -> None:
    (only,) = parts(recipe("drope"), TARGET, WINDOW)
    assert (only.window, only.reach, only.rope) == (WINDOW, WINDOW, TARGET)
    assert only.steps * only.rows * only.window == pytest.approx(10.5e9, rel=1e-2)


def test_harpes_tokens_are_the_papers() -> None:
    (only,) = parts(recipe("harpe"), TARGET, WINDOW)
    assert only.steps * only.rows * only.window == pytest.approx(6e9, rel=1e-3)


@pytest.mark.parametrize("attention", ["vertical-slash", "dca+vertical-slash", "infllm"])
def test_an_attention_without_gradients_is_refused(attention: str) -> None:
    with pytest.raises(UserError, match="has no gradient"):
        recipe("pi").with_changes({"attention": attention}).require(shared("llama").config, TARGET)
