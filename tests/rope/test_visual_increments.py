"""Visual tokens closer together than words: by the formula of the authors' code, and in whole models."""

import math

import pytest
import torch

from ropewalk import UserError, visual_increment, visual_positions
from ropewalk.rope.fractional import fractional_frames
from ropewalk.rope.live import rotaries
from tests.vision import IMAGE, MODELS, VIDEO, film, logits, pictures, positions, shared, turned, words

GREEDY = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1, "return_dict_in_generate": True,
          "output_scores": True}  # fmt: skip
SEEN = [pictures(), film()]


def seen_by(kind):
    """Films too, but for models that write the time of each frame as text: theirs is told apart by frame."""
    return SEEN if kind in ("qwen2_vl", "qwen2_5_vl") else SEEN[:1]


def of_one_axis(visual, increment):
    """As the authors' code goes: on from the last position, and text from the next whole one."""
    found, last = [], -1.0
    for i, seen in enumerate(visual):
        last = last + increment if seen else (math.ceil(last) if i and visual[i - 1] else last) + 1
        found.append(last)
    return found


@pytest.mark.parametrize("increment", [1, 1 / 2, 1 / 4, 1 / 256])
def test_one_axis_is_that_of_the_authors(increment):
    visual = torch.tensor([[0] * 3 + [1] * 10 + [0] * 5 + [1] * 4 + [0], [0] * 23])[:, :23].bool()
    found, moved = visual_positions(torch.arange(23).expand(2, -1), visual, increment)
    for row in range(2):
        assert found[row].tolist() == pytest.approx(of_one_axis(visual[row].tolist(), increment))
    assert found.dtype == torch.float32 and torch.equal(found[1], torch.arange(23.0)) and moved[1] == 0
    assert moved[0] == found[0, -1] - 22 and torch.equal(found[0, ~visual[0]], found[0, ~visual[0]].round())


def test_every_axis_of_a_picture_is_scaled_and_text_moves_up():
    """Text at 0, 1; a picture of 2 x 4 tokens from 2 on; text at 6, 7."""
    high, wide = torch.tensor([0] * 4 + [1] * 4), torch.tensor([0, 1, 2, 3] * 2)
    places = torch.stack([torch.cat([torch.tensor([0, 1]), 2 + part, torch.tensor([6, 7])])
                          for part in (torch.zeros(8, dtype=torch.long), high, wide)])[:, None]  # fmt: skip
    visual = torch.tensor([[0, 0] + [1] * 8 + [0, 0]]).bool()
    found, moved = visual_positions(places, visual, 0.5)
    assert found[2, 0].tolist() == [0, 1, 1.5, 2, 2.5, 3, 1.5, 2, 2.5, 3, 4, 5]
    assert found[1, 0].tolist() == [0, 1, *[1.5] * 4, *[2] * 4, 4, 5] and moved.tolist() == [-2]


@pytest.mark.parametrize(("increment", "most"), [(1 / 256, 65_536), (3 / 4, 2**22), (1 / 3, 2**20), (0.05, 2**17)])
def test_steps_are_as_large_as_far_as_a_float32_goes_and_refused_beyond(increment, most):
    """A run of 256 tokens ends at the largest position that holds; one position on, it is refused."""
    visual = torch.ones(1, 257).bool()
    visual[0, 0] = False
    far = torch.arange(257)[None] + most - math.ceil(256 * increment)
    steps = visual_positions(far, visual, increment)[0].double().diff()[0]
    assert (steps / increment - 1).abs().max() <= (0 if increment in (1 / 256, 3 / 4) else 1 / 4)
    with pytest.raises(UserError, match=f"expected {most:,} at most: beyond, a float32 does not hold steps of"):
        visual_positions(far + 1, visual, increment)
    assert visual_positions(far + 1, torch.zeros_like(visual), increment)[1] == 0


def test_text_goes_on_behind_the_next_whole_position():
    found, _ = visual_positions(torch.arange(6)[None], torch.tensor([[0, 1, 1, 1, 1, 0]]).bool(), 1 / 3)
    assert found[0, 4:].tolist() == [pytest.approx(4 / 3), 3]


@pytest.mark.parametrize("kind", MODELS)
def test_text_and_an_increment_of_one_are_read_as_before_bit_for_bit(kind):
    model = shared(kind)
    text, read = words(90), pictures()
    plain, seen = logits(model, text), logits(model, read)
    with visual_increment(model, 0.25):
        assert torch.equal(logits(model, text), plain) and not torch.allclose(logits(model, read), seen, atol=1e-2)
    with visual_increment(model, 1):
        assert torch.equal(logits(model, text), plain) and torch.equal(logits(model, read), seen)
    assert torch.equal(logits(model, read), seen) and "get_rope_index" not in vars(model.model)


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_reads_at_the_positions_that_the_formula_gives(kind):
    model = shared(kind)
    for read in seen_by(kind):
        visual = (read["input_ids"] == IMAGE) | (read["input_ids"] == VIDEO)
        places, moved = visual_positions(positions(model, read), visual, 0.25)
        assert int(moved) < 0 and float(places[0, 0, -1]) == positions(model, read)[0, 0, -1] + int(moved)
        with visual_increment(model, 0.25):
            found = logits(model, read)
        assert torch.equal(logits(model, read, position_ids=places), found)
        angles = torch.outer(places[0, 0].double(), rotaries(model)[0].inv_freq[:1].double())[:, 0]
        assert torch.allclose(turned(model, places)[0][:, 0].double(), angles.cos(), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_generation_goes_on_from_where_the_text_ends(kind):
    model = shared(kind)
    for read in seen_by(kind):
        grids = {key: value for key, value in read.items() if key.endswith("grid_thw")}
        with visual_increment(model, 0.25):
            found = model.generate(**read, attention_mask=torch.ones_like(read["input_ids"]), **GREEDY)
            places, deltas = model.model.get_rope_index(read["input_ids"], read["mm_token_type_ids"], **grids)
        n, whole = read["input_ids"].shape[1], found.sequences[:, :-1]
        later = torch.arange(n, whole.shape[1]).expand(3, 1, -1) + deltas
        assert float(later[0, 0, 0]) == float(places[0, 0, -1]) + 1 and not deltas.is_floating_point()
        types = torch.nn.functional.pad(read["mm_token_type_ids"], (0, 3))
        once = logits(model, read | {"input_ids": whole, "mm_token_type_ids": types},
                      position_ids=torch.cat([places, later], -1))  # fmt: skip
        assert torch.allclose(torch.stack(found.scores, 1), once[:, -4:], atol=1e-4)


def test_time_may_be_divided_besides():
    model, read = shared("qwen2_vl"), film()
    with visual_increment(model, 0.5):
        half = logits(model, read)
        with fractional_frames(model, 2):
            both = logits(model, read)
        assert torch.equal(logits(model, read), half) and not torch.allclose(both, half, atol=1e-3)


@pytest.mark.parametrize(
    ("places", "visual", "increment", "message"),
    [
        (torch.zeros(5), torch.ones(1, 5).bool(), 0.5, r"positions have the shape \[5\]"),
        (torch.zeros(3, 1, 5), torch.ones(1, 4).bool(), 0.5, r"visual \[1, 4\]"),
        (torch.zeros(3, 1, 5), torch.ones(1, 5).bool(), 0, "increment is 0, expected a number above 0 and at most 1"),
        (torch.zeros(3, 1, 5), torch.ones(1, 5).bool(), 1.5, "increment is 1.5"),
        (torch.full((3, 1, 5), 0.5), torch.ones(1, 5).bool(), 0.5, "positions are fractions"),
        (torch.arange(15).reshape(3, 1, 5), torch.ones(1, 5).bool(), 0.5, r"begin at \[0.0, 5.0, 10.0\]"),
    ],
)
def test_what_cannot_be_scaled_is_refused(places, visual, increment, message):
    with pytest.raises(UserError, match=message):
        visual_positions(places, visual, increment)


def test_a_model_without_eyes_and_an_increment_that_is_none_are_refused():
    from tests.models import shared as text

    with (
        pytest.raises(UserError, match="LlamaForCausalLM works out no positions of pictures or videos"),
        visual_increment(text("llama"), 0.5),
    ):
        pass
    with pytest.raises(UserError, match="increment is 2"), visual_increment(shared("qwen2_vl"), 2):
        pass
