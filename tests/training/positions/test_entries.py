"""What every entry of the list of training positions must do: a file and one line meet all of this."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

import ropewalk
from ropewalk import Picks, TrainingPositions, UserError
from ropewalk.training.positions.entries import ANY, POSITIONS, positions

WINDOW, TARGET, LONG = 64, 256, 300

every_entry = pytest.mark.parametrize("entry", POSITIONS, ids=lambda entry: entry.id)
CASES = [(entry, made) for entry in POSITIONS for made in entry.load().examples()]
every_case = pytest.mark.parametrize("made", [made for _, made in CASES], ids=lambda made: made.id)


def window(made: TrainingPositions, target: int = TARGET) -> int:
    return made.window_for(WINDOW, target)


def picked(made: TrainingPositions, seed: int, tokens: int = LONG) -> Picks:
    return made.pick(tokens, window(made), TARGET, np.random.default_rng(seed))


# What the list says


@every_entry
def test_an_entry_loads_the_class_of_its_name_which_is_public(entry):
    assert entry.load().name == entry.id and getattr(ropewalk, entry.load().__name__) is entry.load()


@every_entry
def test_an_entry_says_what_the_class_needs(entry):
    made = entry.load().examples()[0]
    long = {ANY: made.shortest(64, 512) < 64, "a window": made.shortest(64, 512) == 64}
    assert long.get(entry.texts, entry.texts == "the target" and made.shortest(64, 512) == 512)
    assert entry.rope == {"extended": "extended", "trained": "as trained"}[made.rope]


@every_entry
def test_the_docstring_explains_every_option(entry):
    assert [f.name for f in fields(entry.load()) if f"{f.name}: " not in entry.load().__doc__] == []


@every_entry
def test_an_unknown_option_is_refused(entry):
    with pytest.raises(UserError, match=f"{entry.id} has no option 'optoin'"):
        positions(f"{entry.id}(optoin=1)")


@pytest.mark.parametrize("spelling", ["pos", "pose(", "", "pose+cream"])
def test_an_unknown_spelling_is_refused(spelling):
    with pytest.raises(UserError, match="unknown training positions"):
        positions(spelling)


# A frozen value


@every_case
def test_the_id_reads_back(made):
    assert positions(made.id) == made and positions(made.id).id == made.id


@every_case
def test_copies_and_pickles_are_equal(made):
    assert copy.deepcopy(made) == made == pickle.loads(pickle.dumps(made)) and hash(made) == hash(copy.copy(made))


@every_case
def test_options_cannot_be_assigned(made):
    with pytest.raises(FrozenInstanceError):
        setattr(made, next((f.name for f in fields(made)), "option"), 1)


@every_case
def test_numbers_that_are_none_are_refused(made):
    for name in (f.name for f in fields(made) if str(f.type).split(" |")[0] in ("int", "float")):
        for value in (-1, math.nan, math.inf, "x", True):
            with pytest.raises(UserError, match=name):
                replace(made, **{name: value})


# What it draws


@every_case
def test_picks_are_tokens_of_the_text_in_order_at_rising_positions_inside_the_target(made):
    for seed in range(200):
        found = picked(made, seed)
        n = len(found.index)
        assert n == window(made) and found.position.shape == found.document.shape == found.weight.shape == (n,)
        assert found.index.dtype == found.document.dtype == np.int64 and found.weight.dtype == np.float32
        assert found.position.dtype in (np.int64, np.float64) and not found.document.any()
        assert (np.diff(found.index) > 0).all() and 0 <= found.index[0] <= found.index[-1] < LONG + len(made.cue)
        assert (np.diff(found.position) > 0).all() and found.position[0] >= 0
        assert found.position[-1] < made.reach(window(made), TARGET) <= TARGET
        assert found.weight[0] == 0 and ((found.weight >= 0) & (found.weight <= 1)).all() and found.weight.any()


@every_case
def test_a_seed_draws_the_same_and_another_one_does_not(made):
    one, again, other = picked(made, 1), picked(made, 1), picked(made, 2)
    for name in ("index", "position", "document", "weight"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    differs = not np.array_equal(one.position, other.position)
    assert differs == (made.skips and made.id != "endprompt(cue=(5, 6, 7))")  # which has one layout only


@every_case
def test_training_comes_near_the_end_of_the_target(made):
    furthest = max(picked(made, seed).position[-1] for seed in range(200))
    assert furthest >= 0.95 * made.reach(window(made), TARGET)


@every_case
def test_a_target_of_the_window_is_plain_training(made):
    tokens = 128 - len(made.cue)
    for seed in range(20):
        found = made.pick(tokens, 128, 128, np.random.default_rng(seed))
        assert np.array_equal(found.index, np.arange(128)) and np.array_equal(found.position, np.arange(128))
        if made.id != "segmented(form='prefix')":  # whose loss is on the last segment alone
            assert np.array_equal(found.weight, np.arange(128) > 0)


@every_case
def test_a_text_that_is_too_short_is_refused(made):
    shortest = made.shortest(window(made), TARGET)
    assert len(picked(made, 0, shortest).index)
    with pytest.raises(UserError, match=rf"{shortest:,} or more[^$]*dataset.filter"):
        picked(made, 0, shortest - 1)


@every_case
def test_a_short_text_is_drawn_whole(made):
    if (shortest := made.shortest(window(made), TARGET)) < 20:
        found = picked(made, 3, 20)
        assert np.array_equal(found.index, np.arange(20 + len(made.cue))) and shortest > 0


@every_case
@pytest.mark.parametrize(("size", "target"), [(64, 63), (1, 256), (0, 0)])
def test_a_target_below_the_window_is_refused(made, size, target):
    with pytest.raises(UserError):
        made.pick(1000, size, target, np.random.default_rng(0))


class Falling(TrainingPositions):
    """What a stranger may write; its options are its class's."""

    id = name = "falling"

    def __init__(self, **changes):
        self.changes = changes

    def draw(self, tokens, window, target, rng):
        index = self.changes.get("index", np.arange(8))
        return Picks.of_text(index, self.changes.get("position", np.arange(len(index))))


@pytest.mark.parametrize(("changes", "what"), [
    ({"position": np.arange(8)[::-1]}, "do not rise"),
    ({"position": np.zeros(8)}, "do not rise"),
    ({"position": np.arange(8) + 25}, r"stand outside 0 .. 31"),
    ({"position": np.arange(8) - 1}, r"stand outside 0 .. 31"),
    ({"index": np.arange(9)}, "take more than 8 tokens"),
    ({"index": np.arange(8) + 13}, "that are not there"),
    ({"index": np.array([0, 0, 1])}, "twice, or out of order"),
])  # fmt: skip
def test_picks_that_are_no_way_to_train_are_refused(changes, what):
    assert len(Falling().pick(20, 8, 32, np.random.default_rng(0)).index) == 8
    with pytest.raises(UserError, match=what):
        Falling(**changes).pick(20, 8, 32, np.random.default_rng(0))
