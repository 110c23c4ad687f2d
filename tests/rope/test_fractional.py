"""Frames at fractions of a position: by the formula, on rotary modules, and in whole models."""

import pytest
import torch

from ropewalk import UserError
from ropewalk.rope.fractional import fractional_frames, fractional_time
from ropewalk.rope.live import rotaries
from tests.vision import AXES, VIDEO, film, logits, pictures, positions, shared, turned, words

GREEDY = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1, "return_dict_in_generate": True,
          "output_scores": True}  # fmt: skip
KINDS = ("qwen2_vl", "qwen2_5_vl")  # Qwen3-VL and Qwen3.5 write the time of frames as text


def counted(n):
    """A video of n frames of one token, from 0 on."""
    return torch.arange(n).expand(3, 1, -1), torch.ones(1, n, dtype=torch.bool)


def test_frames_between_two_latents():
    found = fractional_time(*counted(42), 4)
    assert found.dtype == torch.float32 and found[0, 0, [1, 2, 3, 41]].tolist() == [0.25, 0.5, 0.75, 10.25]
    assert torch.equal(found[0, 0, ::4], torch.arange(11.0)) and torch.equal(found[1:], counted(42)[0][1:].float())


def test_every_video_begins_where_it_did_and_what_stands_around_stays():
    places = torch.tensor([0, 1, 2, 4, 6, 8, 9, 11, 12]).expand(3, 1, -1).clone()
    video = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1, 0]]).bool()
    found = fractional_time(places, video, 4)
    assert found[0, 0].tolist() == [0, 1, 2, 2.5, 3, 8, 9, 9.5, 12]
    with_text = torch.cat([torch.arange(9).expand(1, 1, -1), places])
    assert torch.equal(fractional_time(with_text, video, 4), torch.cat([with_text[:1].float(), found]))


def test_rows_of_a_batch_have_videos_of_their_own():
    places = torch.arange(6).expand(3, 2, -1)
    video = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]]).bool()
    assert fractional_time(places, video, 2)[0].tolist() == [[0, 0.5, 1, 3, 4, 5], [0, 1, 2, 2.5, 3, 3.5]]


@pytest.mark.parametrize("kind", KINDS)
def test_rotary_modules_take_fractions_and_whole_multiples_to_the_last_bit(kind):
    model = shared(kind)
    whole, found = turned(model, counted(11)[0]), turned(model, fractional_time(*counted(41), 4))
    time = [i for i, axis in enumerate(AXES[kind]) if axis == 0]
    for table, stated in zip(found, whole, strict=True):
        assert torch.equal(table[::4, time], stated[:, time])
    exact = torch.outer(torch.arange(41).double() / 4, rotaries(model)[0].inv_freq[time].double())
    assert torch.allclose(found[0][:, time].double(), exact.cos(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_alone_is_read_as_with_slower_pairs_of_time(kind):
    """Time that passes N times slower is frequencies of time that are N times lower."""
    model, read = shared(kind), film(30, at=0)
    plain = logits(model, read)
    with fractional_frames(model, 4):
        found = logits(model, read)
    rotary = rotaries(model)[0]
    before = rotary.inv_freq.clone()
    try:
        rotary.inv_freq[torch.tensor(AXES[kind]) == 0] /= 4
        assert torch.allclose(found, logits(model, read), atol=1e-4)
    finally:
        rotary.inv_freq.copy_(before)
    assert not torch.allclose(found, plain, atol=1e-2) and torch.equal(logits(model, read), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_that_the_caller_hands_over_are_read_alike(kind):
    model, read = shared(kind), film()
    with fractional_frames(model, 4):
        found = logits(model, read)
    places = fractional_time(positions(model, read), read["input_ids"] == VIDEO, 4)
    assert torch.equal(logits(model, read, position_ids=places), found)


def test_one_within_another_divides_too_and_leaves_it_on():
    model, read = shared(KINDS[0]), film()
    plain = logits(model, read)
    with fractional_frames(model, 8):
        eight = logits(model, read)
    with fractional_frames(model, 4):
        four = logits(model, read)
        with fractional_frames(model, 2):
            assert torch.equal(logits(model, read), eight)
        assert torch.equal(logits(model, read), four)
    assert torch.equal(logits(model, read), plain) and not torch.allclose(four, eight, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_of_one_step_is_read_as_before(kind):
    model, read = shared(kind), film(steps=1)
    plain = logits(model, read)
    with fractional_frames(model, 4):
        assert torch.equal(logits(model, read), plain)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_generation_goes_on_from_where_it_would(kind):
    model, read = shared(kind), film()
    with fractional_frames(model, 4):
        found = model.generate(**read, attention_mask=torch.ones_like(read["input_ids"]), **GREEDY)
        places, deltas = model.model.get_rope_index(
            read["input_ids"], read["mm_token_type_ids"], video_grid_thw=read["video_grid_thw"]
        )
    whole = found.sequences[:, :-1]
    later = torch.arange(70, whole.shape[1]).expand(3, 1, -1) + deltas
    types = torch.nn.functional.pad(read["mm_token_type_ids"], (0, 3))
    once = logits(model, read | {"input_ids": whole, "mm_token_type_ids": types},
                  position_ids=torch.cat([places, later], -1))  # fmt: skip
    assert torch.allclose(torch.stack(found.scores, 1), once[:, -4:], atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_text_and_pictures_are_read_as_before_bit_for_bit(kind):
    model = shared(kind)
    for read in (words(90), pictures()):
        before = logits(model, read)
        with fractional_frames(model, 4):
            assert torch.equal(logits(model, read), before)
    assert "get_rope_index" not in vars(model.model)


@pytest.mark.parametrize(
    ("places", "video", "frames", "message"),
    [
        (torch.zeros(1, 5), torch.ones(1, 5).bool(), 4, r"positions have the shape \[1, 5\], expected \[3, batch"),
        (torch.zeros(3, 1, 5), torch.ones(1, 4).bool(), 4, r"video has the shape \[1, 4\], expected \[1, 5\]"),
        (counted(5)[0], counted(5)[1], 0.5, "frames is 0.5, expected a number of at least 1"),
        (counted(5)[0], counted(5)[1], float("nan"), "frames is nan"),
        (torch.zeros(3, 1, 5), torch.ones(1, 5).bool(), 4, "no time to divide"),
    ],
)
def test_what_cannot_be_divided_is_refused(places, video, frames, message):
    with pytest.raises(UserError, match=message):
        fractional_time(places, video, frames)


def test_a_model_without_videos_is_refused():
    from tests.models import shared as text

    with (
        pytest.raises(UserError, match="LlamaForCausalLM works out no positions of pictures or videos"),
        fractional_frames(text("llama"), 4),
    ):
        pass
