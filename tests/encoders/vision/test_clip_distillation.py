"""TULIP's stages on tiny models: losses fall, the teacher stays, oracles hold."""

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.encoders.training.encoder_training import Pace, contrastive
from ropewalk.encoders.vision.clip_distillation import captions_loss, distil, tune_on_captions, turned
from ropewalk.encoders.vision.clip_training import Captioned
from ropewalk.encoders.vision.rotary_clip import RotaryCLIPText
from tests.clips import SIDE, captions, clip, tower

FAST = Pace(3e-3, weight_decay=0.01, warmup=2)


def test_the_distance_is_of_directions():
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert float(turned(x, x)) == pytest.approx(0, abs=1e-6) and float(turned(x, 3 * x)) == pytest.approx(0, abs=1e-6)
    assert float(turned(x, -x)) == pytest.approx(2)
    assert float(turned(torch.eye(3), torch.eye(3)[[1, 2, 0]])) == pytest.approx(1)


def test_the_student_learns_the_teacher_who_stays(tmp_path):
    teacher = tower()
    before = {name: one.clone() for name, one in teacher.state_dict().items()}
    student = RotaryCLIPText.of(teacher)
    texts = [captions(n, 8, n) for n in (5, 20, 40, 77)] * 15
    unseen = captions(33, 16, 99)
    with torch.no_grad():
        at_first = float(turned(teacher(unseen).text_embeds, student(unseen).text_embeds))
    losses = distil(teacher, student, texts, FAST)
    with torch.no_grad():
        at_last = float(turned(teacher(unseen).text_embeds, student(unseen).text_embeds))
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4]) and at_last < 0.8 * at_first
    assert all(torch.equal(one, before[name]) for name, one in teacher.state_dict().items())
    assert all(one.grad is None for one in teacher.parameters())
    student.save_pretrained(tmp_path)
    again = RotaryCLIPText.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(unseen).text_embeds, student(unseen).text_embeds)


def data():
    pixels = torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return Captioned(pixels, captions(200, 6, 1), captions(12, 6, 2))


def test_images_find_long_captions():
    model = clip()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    student = RotaryCLIPText.of(tower()).longer(248)
    losses = tune_on_captions(student, model, [data()] * 20, FAST)
    assert losses[-1] < losses[0] - 0.3
    changed = {name for name, one in model.state_dict().items() if not torch.equal(one, before[name])}
    assert changed and not any(name.startswith("text") for name in changed)
    assert not student.training and not model.vision_model.training


def test_what_a_caller_froze_stays():
    model, student = clip(), RotaryCLIPText.of(tower()).longer(248)
    model.requires_grad_(False)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    assert len(tune_on_captions(student, model, [data()] * 2, FAST)) == 2
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_the_loss_is_that_of_both_captions():
    model, student, batch = clip(), RotaryCLIPText.of(tower()).longer(248), data()
    with torch.no_grad():
        pictures = model.get_image_features(batch.pixels).pooler_output
        total = 0.0
        for ids in (batch.long, batch.short):
            vectors = student(ids).text_embeds
            cosines = torch.nn.functional.cosine_similarity(pictures[:, None], vectors[None], dim=-1)
            total += float(contrastive(cosines, torch.eye(6), model.logit_scale.exp()))
        assert float(captions_loss(student, model, batch)) == pytest.approx(total, rel=1e-5)
        model.logit_scale.fill_(50.0)
        assert captions_loss(student, model, batch).isfinite()


def test_texts_that_a_teacher_does_not_read_are_refused():
    teacher = tower()
    student = RotaryCLIPText.of(teacher).longer(248)
    with pytest.raises(UserError, match="a text has 78 tokens, and 77 are read"):
        distil(teacher, student, [captions(78)], FAST)
    with pytest.raises(UserError, match="no end token"):
        distil(teacher, student, [captions(20)[:, :-1]], FAST)
    with pytest.raises(UserError, match="a text has 249 tokens, and 248 are read"):
        tune_on_captions(student, clip(), [Captioned(data().pixels, captions(249, 6), captions(9, 6))], FAST)
