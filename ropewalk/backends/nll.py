"""What a causal language model thinks of each token, computed without ever holding all logits.

The hidden states of a batch are computed once; the vocabulary head then runs over a chunk of positions at a time, and
only over those that are scored. At 128k tokens and 128k words, all logits at once would be 67 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.attention.cache_argument import as_argument
from ropewalk.common.errors import UserError
from ropewalk.rope.live import still

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

BATCH_TOKENS = 4096  # per forward; on a CPU, larger batches are slower
CHUNK = 1024  # positions whose logits exist at the same time
LOGITS = 2**26  # so many logits may exist at the same time
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}  # of the largest logit; half precision: 0.02

_head_suffices: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def token_nll(model: PreTrainedModel, ids: Tensor, *, keep: int | None = None, chunk: int = CHUNK) -> Tensor:
    """Negative log-likelihood of each token given the tokens before it.

    Args:
        model: any causal language model of transformers.
        ids: int64 [B, T], rows without padding.
        keep: score the last ``keep`` tokens of each row only (default: all but the first, which has no context).
        chunk: how many positions' logits to hold at once.

    Returns:
        float32 [B, T - 1], or [B, keep], in nats, on the CPU.

    Raises:
        ValueError: if ``ids`` has no token to score, or ``keep`` is not in 1..T-1.
    """
    return scan(model, ids, keep, chunk, lambda logits, targets: F.cross_entropy(logits, targets, reduction="none"))


def answer_match(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    batch_tokens: int = BATCH_TOKENS,
) -> list[tuple[bool, float]]:
    """Whether greedy decoding of each prompt would begin with its answer, by one forward on prompt and answer.

    Under teacher forcing every answer token is the argmax exactly if greedy decoding writes that answer.

    Args:
        model: any causal language model of transformers.
        prompts: token ids of each prompt.
        answers: token ids of each expected answer; all ``prompt + answer`` have the same length.
        batch_tokens: how many tokens to run at once.

    Returns:
        For each prompt, whether the argmax is right at every answer token, and the mean log-probability of these.

    Raises:
        ValueError: if the rows differ in length, or an answer is empty.
    """
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"prompt + answer must have one length, got {sorted({len(row) for row in rows})}")
    if not all(answers):
        raise ValueError("an answer has no tokens")
    verdicts: list[tuple[bool, float]] = []
    size = max(1, batch_tokens // len(rows[0])) if rows else 1
    for first in range(0, len(rows), size):
        some = answers[first : first + size]
        scanned = scan(model, torch.tensor(rows[first : first + size]), max(map(len, some)), CHUNK, _best_and_nll)
        for row, answer in zip(scanned, some, strict=True):
            best, loss = row[-len(answer) :].unbind(-1)
            verdicts.append((best.tolist() == answer, -loss.mean().item()))
    return verdicts


def best_and_nll(
    model: PreTrainedModel,
    ids: Tensor,
    keep: Sequence[int],
    targets: Sequence[int],
    cache: Cache | None = None,
    **forward: object,
) -> Tensor:
    """The likeliest next token at some positions of a row, and the loss of given ones, by a forward of the caller's.

    Args:
        model: any causal language model of transformers, in evaluation mode.
        ids: int64 [1, N], on the model's device.
        keep: K positions of the row.
        targets: the token whose loss is wanted behind each of them.
        cache: keys and values of what was read before.
        **forward: what else goes to the model (mask, positions).

    Returns:
        float32 [K, 2] on the CPU: the argmax (a whole number, exact below 2 ** 24) and the target's loss in nats.
    """
    body = model.get_decoder()
    if not keep:
        body(input_ids=ids, **as_argument(body, cache), **forward)
        return torch.zeros(0, 2)
    whole = _head_is_enough(model)
    reader = body if whole else model
    out = reader(input_ids=ids, **as_argument(reader, cache), **forward)
    states = out[0] if whole else out.logits
    rows = states[0, torch.tensor(keep, device=states.device)]
    goals = torch.tensor(targets, device=states.device)
    size = max(1, min(CHUNK, LOGITS // model.config.get_text_config(decoder=True).vocab_size))
    parts = zip(rows.split(size), goals.split(size), strict=True)
    return torch.cat(
        [_best_and_nll(_read_out(model, row) if whole else row.float(), goal) for row, goal in parts]
    ).cpu()


def _best_and_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """float32 [N, 2]"""
    loss = F.cross_entropy(logits, targets.to(logits.device), reduction="none")
    return torch.stack([logits.argmax(-1).float(), loss], -1)


def scan(
    model: PreTrainedModel,
    ids: Tensor,
    keep: int | None,
    chunk: int,
    reduce: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """``reduce(logits [N, V] float32, targets [N])`` over chunks of the last ``keep`` targets of each row."""
    batch, length = ids.shape
    keep = length - 1 if keep is None else keep
    if not 1 <= keep < length:
        raise ValueError(f"cannot score {keep} tokens of rows of {length}: the first token has no context")
    ids = ids.to(model.device)
    targets = ids[:, -keep:].flatten()
    with still(model), torch.no_grad():  # not inference_mode: what the model caches must stay usable in training
        _forget_length(model)
        if _head_is_enough(model):
            states = _hidden(model, ids)[:, -keep - 1 : -1].flatten(0, 1)
            logits: Iterator[Tensor] = (_read_out(model, part) for part in states.split(chunk))
        else:
            whole = _own_logits(model, ids)[:, -keep - 1 : -1].flatten(0, 1)
            logits = (part.float() for part in whole.split(chunk))
        parts = [reduce(part, goal.to(part.device)) for part, goal in zip(logits, targets.split(chunk), strict=True)]
    scanned = torch.cat(parts).cpu()
    return scanned.view(batch, keep, *scanned.shape[1:])


def _forget_length(model: PreTrainedModel) -> None:
    """Make the result depend on the input alone.

    The dynamic rope of transformers keeps the frequencies of the longest input it has seen until it sees one that is
    shorter than the window; a single token is.
    """
    if any("dynamic" in str(getattr(module, "rope_type", "")) for module in model.modules()):
        _hidden(model, torch.zeros(1, 1, dtype=torch.long, device=model.device))


# The mask of ones is always passed: without one, transformers may infer padding or packing from ids and positions.
def _hidden(model: PreTrainedModel, ids: Tensor) -> Tensor:
    states: Tensor = model.get_decoder()(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
    ).last_hidden_state
    return states


def _own_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


def _read_out(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """float32 logits of hidden states, with what Cohere, Granite, Falcon-H1 and Gemma 2 do behind the head."""
    config = model.config.get_text_config(decoder=True)
    logits: Tensor = model.get_output_embeddings()(hidden).float()
    scale = (getattr(config, "logit_scale", None) or 1.0) * (getattr(config, "lm_head_multiplier", None) or 1.0)
    scale /= getattr(config, "logits_scaling", None) or 1.0
    if scale != 1.0:
        logits = logits * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def _head_is_enough(model: PreTrainedModel) -> bool:
    """Whether ``_read_out`` gives the model's own logits; tried once per model on a few tokens."""
    if model not in _head_suffices:
        if model.get_output_embeddings() is None:
            return False
        ids = torch.arange(8, device=model.device)[None]
        own, ours = _own_logits(model, ids).float(), _read_out(model, _hidden(model, ids))
        same_shape = own.shape == ours.shape
        allowed = TOLERANCE.get(model.dtype, 0.02) * own.abs().max()
        _head_suffices[model] = same_shape and bool((own - ours).abs().max() <= allowed)
    return _head_suffices[model]


def require_finite(values: Any, what: str) -> None:
    """Refuse losses or log-probabilities that are NaN or infinite.

    Raises:
        UserError: naming ``what``.
    """
    if not torch.as_tensor(values).isfinite().all():
        raise UserError(
            f"{what} is not finite; the weights hold NaN, or numbers too large for their type",
            "Try --dtype float32, or download the checkpoint again.",
        )
