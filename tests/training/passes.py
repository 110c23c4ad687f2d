"""Batches, and the gradients that a pass over them leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ropewalk.training.training_batch import Batch, Row

JUMP = 20  # that positions leave out


def row(n: int, *lengths: int, jump: int | None = None, holes: slice | None = None, seed: int = 0) -> Row:
    """``n`` tokens in documents of ``lengths`` (one by default); positions jump at ``jump``, ``holes`` have no loss."""
    rng = np.random.default_rng(seed)
    lengths = lengths or (n,)
    assert sum(lengths) == n
    positions = np.concatenate([np.arange(length) for length in lengths])
    if jump is not None:
        positions[jump:] += JUMP
    weights = rng.uniform(0.5, 1.5, n).astype(np.float32)
    if holes is not None:
        weights[holes] = 0
    documents = np.repeat(np.arange(len(lengths)), lengths)
    return Row(rng.integers(3, 97, n), positions, documents, weights)


def gradients(model: nn.Module, how: Any, batch: Batch, denominator: float = 50.0) -> tuple[float, dict[str, Tensor]]:
    """The loss of one backward pass, and the gradient of every weight that has one."""
    model.zero_grad()
    loss = how.backward(model, batch, denominator)
    assert not loss.requires_grad
    return float(loss), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def error(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative L2 error of all gradients together."""
    assert set(got) == set(expected)
    off = sum(float((got[name].double() - expected[name].double()).square().sum()) for name in expected)
    return (off / sum(float(gradient.double().square().sum()) for gradient in expected.values())) ** 0.5


def alone(batch: Batch) -> list[Batch]:
    """Each document of each row as a batch of its own."""
    found = []
    for b, documents in enumerate(batch.document_ids):
        for document in documents.unique():
            where = documents == document
            columns = (batch.input_ids, batch.targets, batch.weights, batch.position_ids, batch.document_ids)
            found.append(Batch(*(x[b, where][None] for x in columns)))
    return found


def fractional(batch: Batch) -> Batch:
    """The same at positions that are fractions, as E2-LLM has them."""
    return Batch(batch.input_ids, batch.targets, batch.weights, batch.position_ids / 3 + 0.25, batch.document_ids)


def trainable(model: nn.Module, part: str) -> nn.Module:
    """``model`` with only the weights trainable whose name has ``part`` in it."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(part in name)
    return model


def summed(found: list[tuple[float, dict[str, Tensor]]]) -> tuple[float, dict[str, Tensor]]:
    """Losses and gradients of several passes together."""
    return sum(loss for loss, _ in found), {name: sum(each[name] for _, each in found) for name in found[0][1]}  # type: ignore[misc]


def written_out(model: nn.Module, batch: Batch, denominator: float = 50.0) -> tuple[float, dict[str, Tensor]]:
    """By the model as it is, a document at a time, and cross-entropy of all logits."""
    model.zero_grad()
    total = 0.0
    for one in alone(batch):
        ones = torch.ones_like(one.input_ids)
        logits = model(one.input_ids, attention_mask=ones, position_ids=one.position_ids, use_cache=False).logits
        losses = nn.functional.cross_entropy(logits[0].float(), one.targets[0], reduction="none")
        loss = (losses * one.weights[0]).sum() / denominator
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
