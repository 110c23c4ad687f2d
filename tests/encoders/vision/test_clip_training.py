"""Long-CLIP's training on a tiny CLIP: its loss written out, what learns, and that it does."""

import pytest
import torch
from transformers import CLIPModel

from ropewalk.common.errors import UserError
from ropewalk.encoders.training.encoder_training import Pace
from ropewalk.encoders.vision.clip_training import (
    Captioned,
    LongClipTraining,
    long_clip_loss,
    primary,
    train_long_clip,
)
from ropewalk.verbs.extend import extend
from tests.clips import END, SIDE, SIZE, captions, clip, save, texts

TABLE = "text_model.embeddings.position_embedding.weight"
SETTINGS = LongClipTraining(components=3, pace=Pace(2e-3, weight_decay=0.1, warmup=2))


def batch(n=6):
    pixels = torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return Captioned(pixels, captions(120, n, 1), captions(12, n, 2))


@pytest.fixture
def model(tmp_path):
    longer = extend(save(tmp_path / "clip"), to=248, method="stretch", out=tmp_path / "longer").folder
    return CLIPModel.from_pretrained(longer)


def test_it_learns_and_what_was_well_trained_stays(model, tmp_path):
    before = {name: one.clone() for name, one in model.state_dict().items()}
    short = captions(20)
    losses = train_long_clip(model, [batch()] * 25, SETTINGS)
    assert len(losses) == 25 and losses[-1] < losses[0] - 0.3
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert torch.equal(after[TABLE][:20], before[TABLE][:20])
    assert (after[TABLE][20:] != before[TABLE][20:]).any(1).all()
    # all else learns; what the keys are shifted by is nothing to softmax, and moves by rounding at most
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert all(name.endswith(("k_proj.bias", "position_ids")) for name in still)
    model.save_pretrained(tmp_path / "trained")
    again = CLIPModel.from_pretrained(tmp_path / "trained")
    assert torch.equal(texts(again, short), texts(model, short)) and not model.training


def test_the_loss_is_what_the_paper_says(model):
    """Against cross-entropy with soft targets, and components found through the covariance."""
    model.double()
    data = batch()
    data = Captioned(data.pixels.double(), data.long, data.short)
    with torch.no_grad():
        images = model.get_image_features(data.pixels).pooler_output
        images = images / images.norm(dim=1, keepdim=True)
        mean = images.mean(0)
        _, vectors = torch.linalg.eigh((images - mean).T @ (images - mean))
        coarse = sum((images - mean) @ torch.outer(v, v) for v in vectors.T[-3:]) + mean
        total = 0.0
        for pictures, ids in ((images, data.long), (coarse, data.short)):
            vectors_of_texts = texts(model, ids)
            vectors_of_texts = vectors_of_texts / vectors_of_texts.norm(dim=1, keepdim=True)
            logits = model.logit_scale.exp() * pictures @ vectors_of_texts.T
            target = 0.9 * torch.eye(6) + 0.1 / 6
            total -= (target * (logits.log_softmax(0) + logits.log_softmax(1))).sum() / 12
        assert float(long_clip_loss(model, data, SETTINGS)) == pytest.approx(float(total), rel=1e-5)


def test_primary_components():
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(primary(x, 5), x) and torch.allclose(primary(x, 32), x)  # six points span five directions
    assert torch.allclose(primary(x, 0), x.mean(0).expand_as(x))
    few = primary(x, 2)
    assert torch.linalg.matrix_rank(few - few.mean(0)) == 2 and torch.allclose(primary(few, 2), few)
    varied = x.clone().requires_grad_()
    primary(varied, 2).square().sum().backward()
    assert varied.grad.isfinite().all() and primary(torch.ones(4, 3), 2).isfinite().all()


def test_what_would_be_wrong_in_silence_is_refused(model):
    data = batch()
    endless = Captioned(data.pixels, data.long[:, :-1], data.short)
    with pytest.raises(UserError, match="6 of 6 texts have no end token"):
        train_long_clip(model, [endless], SETTINGS)
    with pytest.raises(UserError, match="rows are frozen"):
        train_long_clip(model, [data], LongClipTraining(keep=248))


def test_a_clip_of_before_2023_trains_too():
    model = clip(2)
    losses = train_long_clip(model, [Captioned(batch().pixels, captions(60, 6), captions(9, 6))] * 3, SETTINGS)
    assert len(losses) == 3


def test_where_the_highest_id_pools_it_has_to_be_the_end():
    model, data = clip(2), Captioned(batch().pixels, captions(60, 6).clone(), captions(9, 6))
    data.long[1:, -1] = 5
    with pytest.raises(UserError, match=rf"5 of 6 texts have no end token \({END}, as the highest id\)"):
        train_long_clip(model, [data], SETTINGS)
    data.long[:, -1] = 600  # beyond the end that the caller names
    with pytest.raises(UserError, match="6 of 6 texts"):
        train_long_clip(model, [data], SETTINGS, end=END)
    with pytest.raises(UserError, match=f"end is 7, and the model pools at {END}"):
        train_long_clip(clip(), [data], SETTINGS, end=7)
    roomy = clip(2, vocab_size=SIZE + 6)  # rows that no token has
    assert train_long_clip(roomy, [Captioned(data.pixels, captions(60, 6), captions(9, 6))], SETTINGS, end=END)


def test_what_cannot_be_read_is_refused_before_the_first_step():
    model, data = clip(), batch()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    fits = Captioned(data.pixels, captions(60, 6), data.short)
    with pytest.raises(UserError, match="a text has 120 tokens, and 77 are read"):
        train_long_clip(model, [fits, data], SETTINGS)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    data.pixels[2] = float("nan")
    with pytest.raises(UserError, match="1 of 6 images have vectors that are not finite"):
        train_long_clip(model, [Captioned(data.pixels, captions(60, 6), data.short)], SETTINGS)


@pytest.mark.parametrize("said", [{"smoothing": 1.0}, {"smoothing": -0.1}, {"smoothing": float("nan")},
                                  {"components": 0}, {"keep": -1}])  # fmt: skip
def test_settings_that_say_nothing_are_refused(said):
    with pytest.raises(UserError, match=f"{next(iter(said))} is"):
        LongClipTraining(**said)
