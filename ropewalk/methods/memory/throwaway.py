"""Parameters that are trained on one text while it is read, and forgotten with it: what such readers share.

No weight of the model is written. While a text is read, some linear layers give something else than they would: their
outputs pass through what was trained on that text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ropewalk.attention import cache_argument
from ropewalk.common.errors import UserError
from ropewalk.methods.memory.reader import Reader
from ropewalk.rope.live import decoder

Change = Callable[[Tensor, Tensor], Tensor]  # a layer's input and output -> what it gives


class Learner(Reader):
    """A reader that trains; rows are read each for itself.

    Args:
        model: a live transformers model with a head.
        name: of the method, for errors.

    Attributes:
        read_tokens: tokens of texts so far.
        trained_tokens: tokens that went through training steps for them, forward and backward.

    Raises:
        UserError: if the model has no head, or its cache is no list of keys and values.
    """

    apart = True

    def __init__(self, model: nn.Module, name: str):
        self.model: Any = model
        self.body: Any = decoder(model)
        self.name = name
        self.read_tokens = self.trained_tokens = 0
        if self.body is model or model.get_output_embeddings() is None:  # type: ignore[operator]
            raise UserError(f"{name} trains on the loss of a text, and {type(model).__name__} has no head")
        config: Any = self.body.config
        kinds = getattr(config, "layer_types", None) or ()
        strange = [type(one).__name__ for one in DynamicCache(config=config).layers
                   if not isinstance(one, DynamicLayer)]  # fmt: skip
        if strange or "chunked_attention" in kinds:
            raise UserError(
                f"{name} goes on from keys and values, and layers of {type(model).__name__} keep "
                f"{strange[0] if strange else 'those of a chunk'}",
                "Choose a model all of whose layers attend to keys and values.",
            )

    def require_still(self) -> None:
        """Refuse modes in which a text cannot be trained on, or would be read with dropout.

        Raises:
            UserError: naming the mode.
        """
        if torch.is_inference_mode_enabled():
            raise UserError(f"{self.name} trains while it reads, which inference_mode forbids", "Use torch.no_grad().")
        if self.body.training:
            raise UserError(
                f"{self.name} trains on texts that are read, and the model is being trained itself",
                "Call model.eval(), or train it without this method.",
            )

    def hidden(self, ids: Tensor, cache: Cache, changes: Mapping[nn.Module, Change]) -> Tensor:
        """Last hidden states [1, n, D] of tokens behind what a cache holds; their keys and values are added to it."""
        with torch.no_grad(), giving(changes):
            found: Tensor = self.body(**self._given(ids, cache), use_cache=True)[0]
        return found

    def loss(self, ids: Tensor, keep: int, cache: Cache | None, changes: Mapping[nn.Module, Change]) -> Tensor:
        """Mean loss of the last ``keep`` tokens of a row int64 [1, n] that stands behind what a cache holds."""
        given = self._given(ids[:, :-1], cache) | {"use_cache": cache is not None}
        if "logits_to_keep" in inspect.signature(type(self.model).forward).parameters:
            given["logits_to_keep"] = keep
        with torch.enable_grad(), giving(changes):
            logits: Tensor = self.model(**given).logits
            found = F.cross_entropy(logits[0, -keep:].float(), ids[0, -keep:])
        self.trained_tokens += ids.shape[1] - 1
        return found

    def _given(self, ids: Tensor, cache: Cache | None) -> dict[str, Any]:
        past = 0 if cache is None else int(cache.get_seq_length())
        places = torch.arange(past, past + ids.shape[1], device=ids.device)[None]
        mask = torch.ones(1, past + ids.shape[1], dtype=torch.long, device=ids.device)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
        return given | cache_argument.as_argument(self.body, cache)


@contextmanager
def giving(changes: Mapping[nn.Module, Change]) -> Iterator[None]:
    """Let layers give something else for a while."""

    def hook(change: Change) -> Any:
        return lambda _, inputs, output: change(inputs[0], output)

    hooks = [module.register_forward_hook(hook(change)) for module, change in changes.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def step(loss: Tensor, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, clip: float = 0.0) -> None:
    """One step on some parameters; no other's ``grad`` is touched.

    Args:
        loss: to be lowered.
        parameters: of the optimizer.
        optimizer: that steps.
        clip: the largest norm of all gradients together; 0 means any.
    """
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad()


def before(cache: Cache, tokens: int) -> Cache:
    """The keys and values of the first tokens of a cache, in one of its own; nothing is copied."""
    layers: list[Any] = []
    every: list[Any] = list(cache.layers)
    for whole in every:
        layer: Any = DynamicLayer()
        layer.lazy_initialization(whole.keys, whole.values)
        layer.keys, layer.values = whole.keys[:, :, :tokens], whole.values[:, :, :tokens]
        layers.append(layer)
    return Cache(layers=layers)


def generator(seed: int, place: int, device: torch.device) -> torch.Generator:
    """What is drawn at some place of a text: the same however the text is cut, or what was read before it."""
    return torch.Generator(device).manual_seed((seed << 32) + place)
