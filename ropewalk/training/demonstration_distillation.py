"""MEND: demonstrations become a few vectors that stand before a prompt (arXiv 2403.06914, by its authors' code).

A second language model, the distiller, reads demonstrations and writes the vectors; a frozen one answers behind them.
Two stages: on texts cut in two the distiller learns by the divergence alone, then on tasks by that and by the answers.
Vectors are for the one model that they were learnt with, and no checkpoint holds them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropewalk.common.errors import UserError


class Distiller(nn.Module):
    """Writes ``count`` vectors behind the demonstrations that it reads.

    Learnt inputs stand behind the demonstrations, and the last hidden states there are the vectors; where widths
    differ, through a linear map and tanh. The learnt inputs begin as embeddings of random tokens.

    Args:
        language: a language model of transformers, with or without its head; it is copied, and learns.
        count: vectors.
        width: of the embeddings of the model that is to read them.
        seed: of the tokens that learnt inputs begin as, and of the linear map.

    Raises:
        UserError: if there are no vectors.
    """

    def __init__(self, language: nn.Module, count: int, width: int, seed: int = 0) -> None:
        super().__init__()
        if count < 1:
            raise UserError(f"count is {count}, expected 1 vector at least", "Give 16, or another number.")
        body: Any = copy.deepcopy(getattr(language, "model", language))
        self.language: Any = body.float().requires_grad_()
        table: Tensor = self.language.get_input_embeddings().weight
        random = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(table), (count,), generator=random)
        self.places = nn.Parameter(table.detach()[chosen.to(table.device)].clone())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            bridge = nn.Linear(table.shape[1], width)
        self.bridge = None if table.shape[1] == width else bridge.to(table.device)

    def forward(self, demonstrations: Tensor) -> Tensor:
        """Vectors, float32 [B, count, width], of demonstrations, int64 [B, D]."""
        words = self.language.get_input_embeddings()(demonstrations)
        inputs = torch.cat([words, self.places.expand(len(words), -1, -1)], 1)
        vectors: Tensor = self.language(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -len(self.places) :]
        return vectors if self.bridge is None else self.bridge(vectors).tanh()


def behind(model: nn.Module, vectors: Tensor, prompts: Tensor) -> Tensor:
    """Logits of a model at every token of prompts that stand behind vectors, [B, n, V].

    Args:
        model: a language model of transformers.
        vectors: [B, count, width]; of no count, the prompts stand alone.
        prompts: int64 [B, n].
    """
    words = model.get_input_embeddings()(prompts)  # type: ignore[operator]
    inputs = torch.cat([vectors.to(words.dtype), words], 1)
    logits: Tensor = model(inputs_embeds=inputs, use_cache=False).logits
    return logits[:, vectors.shape[1] :]


@torch.no_grad()
def taught(model: nn.Module, demonstrations: Tensor, prompts: Tensor) -> Tensor:
    """Logits at every token of prompts behind the demonstrations themselves, [B, n, V]."""
    whole = torch.cat([demonstrations, prompts], 1)
    logits: Tensor = model(input_ids=whole, use_cache=False).logits
    return logits[:, demonstrations.shape[1] :]


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) in nats, the mean over tokens of prompts."""
    mine, theirs = (logits.float().log_softmax(-1).flatten(0, 1) for logits in (student, teacher))
    return F.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def answered(student: Tensor, prompts: Tensor, answers: Tensor) -> Tensor:
    """Loss of each token of the answers in nats, in their order, [answers.sum()].

    Args:
        student: logits, [B, n, V].
        prompts: int64 [B, n].
        answers: the tokens of answers, bool [B, n]; never the first of a row.

    Raises:
        UserError: if there are none, or a row begins with one, which nothing predicts.
    """
    if not bool(answers.any()) or bool(answers[:, 0].any()):
        raise UserError(
            "answers are empty, or begin a prompt, and the first token of a prompt is not predicted",
            "Put a question before each answer.",
        )
    asked = answers[:, 1:]
    return F.cross_entropy(student[:, :-1][asked].float(), prompts[:, 1:][asked], reduction="none")


def distillation_loss(
    distiller: Distiller, model: nn.Module, demonstrations: Tensor, prompts: Tensor, answers: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """The loss of a batch: of the first stage the divergence; of the second the answers' loss + weight * divergence.

    Only the distiller has a gradient.

    Args:
        distiller: in training.
        model: frozen, and the distiller's vectors are for it.
        demonstrations: int64 [B, D]; in the first stage the beginning of a text.
        prompts: int64 [B, n]; in the first stage the rest of it.
        answers: bool [B, n], in the second stage; None in the first.
        weight: lambda.

    Raises:
        UserError: if the model is not frozen.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("the model that reads the vectors is not frozen", "Call model.requires_grad_(False).")
    student = behind(model, distiller(demonstrations), prompts)
    apart = divergence(student, taught(model, demonstrations, prompts))
    return apart if answers is None else answered(student, prompts, answers).mean() + weight * apart
