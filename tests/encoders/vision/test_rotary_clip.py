"""A text tower that rotates: against complex numbers, transformers' dynamic NTK, and itself out of a file."""

import pytest
import torch
from transformers import AutoModel, CLIPTextModelWithProjection, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ropewalk.common.errors import UserError
from ropewalk.encoders.vision.rotary_clip import RotaryCLIPText, RotatedProjection, stretched_base
from tests.clips import captions, clip, tower

THETA = 10000.0
TABLE = "text_model.embeddings.position_embedding.weight"


@pytest.fixture
def student():
    return RotaryCLIPText.of(tower())


def vectors(model, ids):
    with torch.no_grad():
        return model(ids).text_embeds


def test_heads_turn_as_complex_numbers_do():
    torch.manual_seed(0)
    projection, x = RotatedProjection(24, 3, THETA), torch.randn(2, 50, 24)
    plain = torch.nn.functional.linear(x, projection.weight, projection.bias).double()
    pairs = torch.view_as_complex(plain.reshape(2, 50, 3, 4, 2))
    angles = torch.outer(torch.arange(50).double(), THETA ** (-torch.arange(4).double() / 4))
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(2)
    assert torch.allclose(projection(x).double(), expected, atol=1e-5)
    assert torch.equal(projection(x)[:, 0], plain[:, 0].float())


def test_the_student_has_the_teachers_weights_and_no_table(student):
    weights, taught = student.state_dict(), tower().state_dict()
    assert taught.keys() == weights.keys()
    assert [name for name in taught if not torch.equal(weights[name], taught[name])] == [TABLE]
    assert weights[TABLE].shape == (0, 32)
    ids = captions(30)
    assert not torch.allclose(vectors(student, ids), vectors(tower(), ids), atol=1e-3)


def test_positions_count_by_distance_alone(student):
    ids = captions(12)[:1]
    turned = ids[:, [0, 2, 1, *range(3, 12)]]
    assert not torch.allclose(vectors(student, ids), vectors(student, turned), atol=1e-4)
    states = [torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))]
    states.append(torch.cat([torch.zeros(1, 5, 32), states[0]], 1))
    attention = student.text_model.encoder.layers[0].self_attn
    logits = []
    for one in states:
        q, k = (projection(one)[0, -9:].unflatten(-1, (4, 8)) for projection in (attention.q_proj, attention.k_proj))
        logits.append(torch.einsum("ihd,jhd->hij", q, k))
    assert torch.allclose(*logits, atol=1e-5)


def test_it_is_saved_and_loaded_and_nothing_else_loads_it(student, tmp_path):
    longer = student.longer(248)
    longer.save_pretrained(tmp_path)
    again = RotaryCLIPText.from_pretrained(tmp_path)
    assert again.config.rope_theta == longer.config.rope_theta != THETA
    assert torch.equal(vectors(again, captions(248)), vectors(longer, captions(248)))
    with pytest.raises(ValueError, match="rotary_clip_text_model"):
        AutoModel.from_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        CLIPTextModelWithProjection.from_pretrained(tmp_path)


def test_longer_is_the_same_where_nothing_is_longer(student):
    same, longer = student.longer(77), student.longer(248)
    assert same.config.rope_theta == THETA and longer.config.max_position_embeddings == 248
    assert torch.equal(vectors(same, captions(77)), vectors(student, captions(77)))
    assert not torch.allclose(vectors(longer, captions(77)), vectors(student, captions(77)), atol=1e-4)
    assert vectors(longer, captions(248)).isfinite().all()


@pytest.mark.parametrize(("head", "to", "stretch"), [(64, 248, 8.0), (64, 154, 2.0), (32, 300, 1.0)])
def test_the_base_is_that_of_dynamic_ntk(head, to, stretch):
    config = LlamaConfig(hidden_size=head, num_attention_heads=1, max_position_embeddings=77, rope_parameters={
        "rope_type": "dynamic", "factor": stretch, "rope_theta": THETA})  # fmt: skip
    expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=to)
    base = stretched_base(THETA, head, 77, to, stretch)
    assert torch.allclose(base ** (-torch.arange(0, head, 2) / head), expected, rtol=1e-5)


def test_a_rope_does_not_shrink(student):
    assert stretched_base(THETA, 64, 77, 77, 8.0) == THETA
    with pytest.raises(UserError, match="231 tokens is below the 248"):  # the defaults of the paper's code
        student.longer(248).longer(231)
    with pytest.raises(UserError, match="stretch is 0"):
        stretched_base(THETA, 64, 77, 248, 0)


def test_bases_that_turn_nothing_are_refused(student):
    for base in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="the base of the rope is"):
            RotaryCLIPText.of(tower(), base)
    with pytest.raises(UserError, match="the base of the rope is"):
        student.longer(248, float("inf"))
    with pytest.raises(UserError, match="heads have 2 dimensions"):
        stretched_base(THETA, 2, 77, 248)


def test_a_student_is_no_teacher(student):
    with pytest.raises(UserError, match="the teacher has a rope"):
        RotaryCLIPText.of(student)


def test_what_it_does_not_read_is_refused(student):
    with pytest.raises(UserError, match="78 tokens, expected 77 at most"):
        student(captions(78))
    with pytest.raises(UserError, match="no positions"):
        student(captions(9), position_ids=torch.arange(9)[None])
    with pytest.raises(UserError, match="heads have 3 dimensions"):
        RotaryCLIPText.of(CLIPTextModelWithProjection(clip(hidden_size=12).config.text_config))
