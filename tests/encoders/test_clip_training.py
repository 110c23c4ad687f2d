"""Long-CLIP's training on a tiny CLIP: its loss written out, what learns, and that it does."""

import pytest
import torch
from transformers import CLIPModel

from ropewalk.common.errors import UserError
from ropewalk.encoders.clip_training import (
    Captioned,
    LongClipTraining,
    long_clip_loss,
    primary,
    train_long_clip,
)
from ropewalk.encoders.encoder_training import Pace
from ropewalk.verbs.extend import extend
from tests.clips import SIDE, captions, clip, save, texts

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
