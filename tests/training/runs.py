"""Short runs of real trainers on tiny models, and attention by what transformers decides for kernels of GPUs."""

from __future__ import annotations

import copy
import random
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel, Trainer, TrainingArguments
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask, flex_attention_mask
from transformers.modeling_flash_attention_utils import (
    _get_unpad_data,
    _is_packed_sequence,
    prepare_fa_kwargs_from_position_ids,
)

from ropewalk import PositionInterpolation, SkipwiseCollator, TrainingPositions
from tests.models import tiny

WINDOW, TARGET, VOCABULARY = 64, 256, 97


def texts(n: int, tokens: int = TARGET, vocabulary: int = VOCABULARY, seed: int = 0) -> list[dict[str, list[int]]]:
    rng = random.Random(seed)
    return [{"input_ids": [rng.randrange(3, vocabulary) for _ in range(tokens)]} for _ in range(n)]


def model_for(positions: TrainingPositions, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """A tiny model that reads the target, or, where positions are squeezed, the window alone."""
    return copy.deepcopy(_model(positions.rope == "extended", positions.reach(WINDOW, WINDOW), vocabulary))


@cache
def _model(extended: bool, window: int, vocabulary: int) -> PreTrainedModel:
    model = tiny("llama", max_position_embeddings=window, vocab_size=vocabulary)
    if extended:
        PositionInterpolation().extend(model, to=TARGET)
    return model


def arguments(folder: Any, kind: type[TrainingArguments] = TrainingArguments, **more: Any) -> TrainingArguments:
    usual: dict[str, Any] = dict(max_steps=4, per_device_train_batch_size=2, learning_rate=1e-3, use_cpu=True,
                                 report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1)  # fmt: skip
    return kind(output_dir=str(folder), **(usual | more))


class Recorder(Trainer):
    """Keeps the batches that reach the model."""

    def training_step(self, model, inputs, *rest, **more):
        self.__dict__.setdefault("batches", []).append({k: v.clone() for k, v in inputs.items()})
        return super().training_step(model, inputs, *rest, **more)


def trainer(collator: SkipwiseCollator, model: PreTrainedModel, folder: Any, data: Any, **more: Any) -> Recorder:
    return Recorder(
        model=model,
        args=arguments(folder, **more),
        train_dataset=data,
        data_collator=collator,
        callbacks=[collator],
    )


def as_flash(module, query, key, value, attention_mask, scaling=None, position_ids=None, **_):
    """Attention inside the sequences that transformers would hand to FlashAttention: [B, H, N, D] to [B, N, H, D]."""
    rows, _, n, _ = query.shape
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    places = torch.arange(rows * n)
    if attention_mask is not None:
        places, cuts, *_ = _get_unpad_data(attention_mask)
    elif _is_packed_sequence(position_ids, rows):
        (cuts, _), _ = prepare_fa_kwargs_from_position_ids(position_ids)
    else:
        cuts = torch.arange(0, rows * n + 1, n)
    out = torch.zeros_like(flat[0])
    for start, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        q, k, v = (x[places[start:end]].transpose(0, 1)[None] for x in flat)
        own = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        out[places[start:end]] = own[0].transpose(0, 1)
    return out.view(rows, n, *out.shape[1:]), None


def as_flex(module, query, key, value, attention_mask, scaling=None, **_):
    """Attention between the pairs that the block mask of FlexAttention allows, which cannot be trained on a CPU."""
    rows, _, n, _ = query.shape
    q, k = torch.arange(n)[:, None], torch.arange(n)[None]
    seen = torch.stack([attention_mask.mask_mod(torch.tensor(b), torch.tensor(0), q, k) for b in range(rows)])
    seen = seen.expand(rows, n, n)[:, None] | torch.eye(n, dtype=torch.bool)  # padding sees something, as on a GPU
    out = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


def block_mask(*given, **named):
    """transformers' block mask, without the blocks, whose making is compiled for a minute."""
    with patch(
        "transformers.masking_utils.create_block_mask", lambda mask_mod, **_: SimpleNamespace(mask_mod=mask_mod)
    ):
        return flex_attention_mask(*given, **named)


for name, function, mask in (("varlen_decisions", as_flash, flash_attention_mask),
                             ("block_decisions", as_flex, block_mask)):  # fmt: skip
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask)
BACKENDS = ("eager", "sdpa", "varlen_decisions", "block_decisions")


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
