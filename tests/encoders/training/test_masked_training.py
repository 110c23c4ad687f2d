"""The long stage: global layers turn by another base, rows grow, and transformers reads what is saved."""

from __future__ import annotations

from copy import deepcopy
from math import pi
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForMaskedLM, ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.encoders.training.encoder_training import Pace
from ropewalk.encoders.training.masked_training import MaskedRecipe, MaskedStage, modernbert_long, train_masked
from ropewalk.rope.config import read
from tests.encoders.rotating_models import IDS, SHAPE, WINDOW
from tests.tokenizers import byte_level

TO = 4 * WINDOW
TEXTS = ["The ship sails at nine. Its cook is called Mara, and she comes from Riga. " * 6, "The cat stays. " * 40]
RECIPE = MaskedRecipe((MaskedStage(WINDOW, 6, 4), MaskedStage(2 * WINDOW, 6, 4), MaskedStage(TO, 18, 4)),
                      pace=Pace(3e-3, hold=24, fall="root"))  # fmt: skip


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    found = byte_level()
    found.add_special_tokens({"mask_token": "<mask>"})
    ends = {one: found.convert_tokens_to_ids(one) for one in ("<s>", "</s>")}
    found.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[*ends.items()])
    return found


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> ModernBertForMaskedLM:
    more: dict[str, Any] = {"vocab_size": len(tokenizer), "initializer_range": 0.02}
    torch.manual_seed(0)
    config = ModernBertConfig(**(SHAPE | IDS | more), cls_token_id=0, sep_token_id=1, local_attention=16,
                              rope_parameters={kind: {"rope_type": "default", "rope_theta": 10000.0}
                                               for kind in ("full_attention", "sliding_attention")})  # fmt: skip
    return ModernBertForMaskedLM(config).eval()


def test_what_is_trained_is_saved_and_read_again(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    turned = {key: one.inv_freq for key, one in read(model.config).items()}
    losses = train_masked(model, tokenizer, TEXTS, RECIPE)
    assert len(losses) == 30 and sum(losses[-5:]) < 0.7 * sum(losses[:5]) and not model.training
    assert all(not torch.equal(before[name], one) for name, one in model.named_parameters())
    model.save_pretrained(tmp_path / "long")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "long").eval()
    bases = {key: one["rope_theta"] for key, one in again.config.rope_parameters.items()}
    assert bases == {"full_attention": 160000.0, "sliding_attention": 10000.0}
    assert again.config.max_position_embeddings == TO
    after = {key: one.inv_freq for key, one in read(again.config).items()}
    assert torch.equal(after["sliding_attention"], turned["sliding_attention"])
    assert not torch.equal(after["full_attention"], turned["full_attention"])
    ids = torch.randint(3, 500, (1, TO), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_what_is_kept_is_gone_on_from_by_the_same_training_alone(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    recipe, other = (MaskedRecipe((MaskedStage(TO, 2, 2),), seed=seed) for seed in (0, 1))
    again = deepcopy(model)
    losses = train_masked(model, tokenizer, TEXTS, recipe, tmp_path / "at.safetensors")
    with pytest.raises(UserError, match="of another descent"):
        train_masked(again, tokenizer, TEXTS, other, tmp_path / "at.safetensors")
    assert train_masked(again, tokenizer, TEXTS, recipe, tmp_path / "at.safetensors") == losses
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items())
    assert again.config.to_dict() == model.config.to_dict()


def test_the_bases_are_those_of_transformers_own_default() -> None:
    """Whose slowest pairs turn once in so many tokens, of heads of 64."""
    slowest = {key: float(2 * pi / one.inv_freq[-1]) for key, one in read(ModernBertConfig()).items()}
    assert slowest["sliding_attention"] == pytest.approx(47117.2428)
    assert slowest["full_attention"] == pytest.approx(691307.234)
    assert MaskedRecipe((MaskedStage(8192, 1),)).method == "abf(base=160000)"


def test_rows_grow_and_what_is_to_be_told_is_masked(model: Any, tokenizer: Any, monkeypatch: Any) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = model.forward

    def forward(input_ids: torch.Tensor, labels: torch.Tensor, **more: Any) -> Any:
        seen.append((input_ids, labels))
        return plain(input_ids=input_ids, labels=labels, **more)

    monkeypatch.setattr(model, "forward", forward)
    train_masked(model, tokenizer, TEXTS, RECIPE)
    assert [tuple(ids.shape) for ids, _ in seen] == [(4, WINDOW)] * 6 + [(4, 2 * WINDOW)] * 6 + [(4, TO)] * 18
    told = torch.cat([(labels != -100).flatten() for _, labels in seen])
    masked = torch.cat([(ids == tokenizer.mask_token_id).flatten() for ids, _ in seen])
    assert 0.28 < told.float().mean() < 0.32 and 0.77 < (masked & told).sum() / told.sum() < 0.83
    assert not (masked & ~told).any()
    for ids, labels in seen:
        assert (ids[:, 0] == 0).all() and (ids[:, -1] == 1).all() and (labels[:, [0, -1]] == -100).all()


def test_the_same_seed_trains_the_same(model: Any, tokenizer: Any) -> None:
    import copy

    short = MaskedRecipe((MaskedStage(2 * WINDOW, 3, 2),))
    twin = copy.deepcopy(model)
    assert train_masked(model, tokenizer, TEXTS, short) == train_masked(twin, tokenizer, TEXTS, short)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_papers_stage_holds_its_rate_and_lets_it_fall() -> None:
    recipe = modernbert_long(8192, 300)
    assert recipe.stages == (MaskedStage(8192, 300),)
    assert [recipe.pace.factor(step, 300) for step in (0, 249, 250, 275)] == pytest.approx([1, 1, 1, 1 - 0.5**0.5])


def test_what_does_not_fit_is_refused_before_a_step(model: Any, tokenizer: Any) -> None:
    before, weights = model.config.to_dict(), [one.detach().clone() for one in model.parameters()]
    few, last = MaskedStage(4, 9, 1), RECIPE.stages[-1]
    for who, what, texts, recipe, said in (
        (model.model, tokenizer, TEXTS, RECIPE, "ModernBertModel tells no masked tokens"),
        (model, byte_level(), TEXTS, RECIPE, "no token for the mask"),
        (model, tokenizer, TEXTS[0], RECIPE, "texts is one string, expected a list"),
        (model, tokenizer, TEXTS, MaskedRecipe((MaskedStage(2, 1), last)), "rows of 2 tokens, and 2 stand around"),
        (model, tokenizer, TEXTS, MaskedRecipe((few, last), masked=0.05), "masks none of its 1 x 2"),
        (model, tokenizer, ["Short."], RECIPE, "fewer than the 254 of a row"),
        (model, tokenizer, TEXTS, MaskedRecipe((MaskedStage(WINDOW, 1),)), "not beyond the window of 64"),
    ):
        with pytest.raises(UserError, match=said):
            train_masked(who, what, texts, recipe)
    assert all(torch.equal(one, other) for one, other in zip(weights, model.parameters(), strict=True))
    with pytest.raises(UserError, match="float32"):
        train_masked(model.bfloat16(), tokenizer, TEXTS, RECIPE)
    tokenizer.add_tokens(["<one>"])
    with pytest.raises(UserError, match=rf"tokenizer has {len(tokenizer)} tokens and the model {len(tokenizer) - 1}"):
        train_masked(model, tokenizer, TEXTS, RECIPE)
    for stages, masked, said in (
        ((), 0.3, "stages are of"), ((MaskedStage(9, 1), MaskedStage(8, 1)), 0.3, "lengths that grow"),
        ((MaskedStage(8, 0),), 0.3, "a step each"), ((MaskedStage(8, 1, 0),), 0.3, r"\[0\] rows in a step"),
        ((MaskedStage(8, 1),), 1.0, "masked is 1.0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            MaskedRecipe(stages, masked=masked)
    assert model.config.to_dict() | {"dtype": None} == before | {"dtype": None}
