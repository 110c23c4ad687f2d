"""Full attention over a whole text with the activations of one chunk: exact, whatever the length.

A first pass reads the text in chunks, without gradients, and keeps every layer's keys and values. A second one takes
the chunks from the last to the first: each is read again, with gradients, on top of what lies before it; its backward
pass leaves, beside gradients of weights, those of the keys and values before it, which earlier chunks take up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from ropewalk.attention import cache_argument
from ropewalk.attention.engine import Engine, attending_plainly
from ropewalk.attention.forward import Standing
from ropewalk.attention.merge import Own
from ropewalk.common.errors import UserError
from ropewalk.rope.live import decoder, restored, rotaries, still
from ropewalk.rope.spec import ALL
from ropewalk.training.checkpointing import checkpointed
from ropewalk.training.loss import Head
from ropewalk.training.tiled_mlp import tiled_mlps
from ropewalk.training.training_batch import Batch

EMBEDDED = 8192  # tokens whose gradients go back to the embeddings together: each time costs one gradient of the table
TRIED = 24  # tokens that a model is tried on, in chunks of TRIED_CHUNK
TRIED_CHUNK = 7
BY_LENGTH = ("dynamic", "longrope")  # rope types that go by the length of what a forward pass is given
KEEPS_CACHE = "_can_checkpoint_with_cache"  # of transformers' layers; those that write once only may say so
MEND = "Train it with memory='checkpointed'."
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}  # of a gradient's size; half precision: 0.1

_tried: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Recurrent:
    """Chunk by chunk, with gradients equal to those of one pass to rounding.

    Methods that are on stay on. What is random in a forward pass (dropout of adapters) is drawn per chunk, the same in
    both passes.

    Attributes:
        chunk: tokens whose activations are held.
        checkpoint: of these, keep each layer's input alone, and compute the rest again.
        offload: keep keys, values and their gradients in the host's memory; takes ``checkpoint``, else the chunk's
            activations would hold them all on the device again. On the CPU there is nothing to move.
        tiled_mlp: MLPs over pieces of a chunk, which are computed again.
    """

    chunk: int = 2048
    checkpoint: bool = False
    offload: bool = False
    tiled_mlp: bool = False

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise UserError(f"chunk is {self.chunk}, expected 1 token at least")
        if self.offload and not self.checkpoint:
            raise UserError("offload without checkpoint moves nothing out of the way", "Set checkpoint=True too.")

    def backward(self, model: nn.Module, batch: Batch, denominator: float) -> Tensor:
        """The weighted sum of the tokens' losses over ``denominator``; gradients are added to ``.grad``.

        Args:
            model: a live transformers model with a language-model head.
            batch: on the model's device.
            denominator: what the sum is divided by: the weights of all tokens of the step, over all its batches.

        Raises:
            UserError: if head, attention or cache cannot be followed.
        """
        if self.checkpoint and not hasattr(GradientCheckpointingLayer, KEEPS_CACHE):
            raise UserError(
                f"layers of transformers {transformers.__version__} lose their cache when they are computed again",
                "Set checkpoint=False, or: pip install -U transformers",
            )
        head = Head.of(model)
        with _followed(model, batch.position_ids) as engine:
            _try(model, engine)
            with checkpointed(model, self.checkpoint), tiled_mlps(model, self.tiled_mlp):
                return self._backward(model, head, batch, denominator)

    @torch.no_grad()
    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of every place, float32 [B, N], 0 where there is no target; without gradients and weights.

        Raises:
            UserError: as ``backward``.
        """
        head, found = Head.of(model), []
        with _followed(model, batch.position_ids) as engine:
            with torch.enable_grad():
                _try(model, engine)
            text, embeddings = _Text(model, batch, self.chunk, self.offload), _Embeddings(model, batch.input_ids)
            for start, end in text.chunks:
                hidden = text.read(embeddings.of(start, end), start, end)
                losses = head.losses(hidden.flatten(0, 1), batch.targets[:, start:end].flatten())
                found.append(losses.view(-1, end - start))
        return torch.cat(found, 1)

    def _backward(self, model: nn.Module, head: Head, batch: Batch, denominator: float) -> Tensor:
        text = _Text(model, batch, self.chunk, self.offload)
        embeddings = _Embeddings(model, batch.input_ids)
        states, device = [], batch.input_ids.device
        with torch.no_grad():
            for start, end in text.chunks[:-1]:
                states.append(_random(device))
                text.read(embeddings.of(start, end), start, end)
        states.append(_random(device))
        loss, after = torch.zeros((), device=device), states[-1]
        for (start, end), state in zip(reversed(text.chunks), reversed(states), strict=True):
            _set_random(state, device)
            embedded = embeddings.of(start, end)
            hidden = text.read(embedded, start, end).flatten(0, 1)
            part = slice(start, end)
            weights = batch.weights[:, part].flatten() / denominator
            found = head.loss(hidden, batch.targets[:, part].flatten(), weights)
            if end == text.length:
                after = _random(device)
            if found.requires_grad:  # also where no token has a loss: later ones have left gradients here
                found.backward()
            embeddings.take(embedded, start)
            loss = loss + found.detach()
        _set_random(after, device)
        return loss


class _Text:
    """A batch on its way through a model, chunk by chunk."""

    def __init__(self, model: nn.Module, batch: Batch, chunk: int, offload: bool = False):
        self.body: Any = decoder(model)
        self.length = batch.input_ids.shape[1]
        self.chunks = [(a, min(a + chunk, self.length)) for a in range(0, self.length, chunk)]
        self.positions, self.documents = batch.position_ids, batch.document_ids
        self.on_cpu = batch.position_ids.cpu(), batch.document_ids.cpu() if batch.packed else None
        self.reach = int(batch.position_ids.max()) + 1
        home = torch.device("cpu") if offload else batch.input_ids.device
        self.cache = KeyValues(self.length, home)

    def read(self, embedded: Tensor, start: int, end: int) -> Tensor:
        """Last hidden states of a chunk, [B, end - start, D]."""
        positions, documents = self.on_cpu
        documents_before = None if documents is None else documents[:, :start]
        before = Standing(positions[:, :start], documents_before, self.reach, self.cache.own)
        self.cache.at(start, end, before)
        given: dict[str, Any] = cache_argument.as_argument(self.body, self.cache)
        if documents is not None:
            given["document_ids"] = self.documents[:, start:end]
        positions_now = self.positions[:, start:end]
        hidden: Tensor = self.body(inputs_embeds=embedded, position_ids=positions_now, use_cache=False, **given)[0]
        self.cache.standing = None  # it knows the cache: the stores would outlive the pass until garbage is collected
        return hidden


class _Embeddings:
    """The embeddings of a batch; their gradients go back many chunks at a time, since each time costs a whole table."""

    def __init__(self, model: nn.Module, ids: Tensor):
        self.module: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        self.ids, self.end = ids, ids.shape[1]
        self.trained = any(weight.requires_grad for weight in self.module.parameters())
        self.left: list[Tensor] = []  # gradients of chunks, the last chunk first

    def of(self, start: int, end: int) -> Tensor:
        """A chunk, [B, end - start, D], as the beginning of a graph of its own."""
        with torch.no_grad():
            embedded: Tensor = self.module(self.ids[:, start:end])
        return embedded.requires_grad_(self.trained and torch.is_grad_enabled())

    def take(self, embedded: Tensor, start: int) -> None:
        """Take in what the backward pass left at the chunk that begins at ``start``; chunks come last to first."""
        if not self.trained:
            return
        assert embedded.grad is not None
        self.left.append(embedded.grad)
        if start == 0 or sum(gradient.shape[1] for gradient in self.left) >= EMBEDDED:
            again = self.module(self.ids[:, start : self.end])
            again.backward(torch.cat(self.left[::-1], 1))
            self.left, self.end = [], start


@dataclass(eq=False)
class _Store:
    """One layer's keys or values, [B, Hkv, N, D], and the gradients that later chunks left at them."""

    whole: Tensor
    gradients: Tensor | None = None
    written: set[int] = field(default_factory=set)  # starts of chunks

    def left(self, end: int) -> Tensor:
        """The gradients at the first ``end`` tokens."""
        if self.gradients is None:
            self.gradients = torch.zeros_like(self.whole)
        return self.gradients[:, :, :end]


class KeyValues(Cache):
    """Keys and values of a whole text; reads see what lies before the present chunk, and gradients find their way back.

    A chunk that is read again (second pass, checkpoints) finds its own keys and values in their place: nothing is
    written twice, so that what earlier reads saved for their backward passes stays as it was.

    Args:
        length: tokens of the text.
        home: where stores are kept.
    """

    def __init__(self, length: int, home: torch.device):
        super().__init__(layers=[])
        self.length, self.home = length, home
        self.start = self.end = 0
        self.standing: Standing | None = None
        self.stores: dict[tuple[int, int], _Store] = {}
        self.returned: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}  # by a layer's update, for its attention

    def at(self, start: int, end: int, before: Standing) -> None:
        """Go to a chunk; ``before`` says where the tokens before it stand."""
        self.start, self.end, self.standing = start, end, before

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *more: Any, **keywords: Any) -> Any:
        """Keys and values of all tokens up to the chunk's end."""
        found = self._kept(key_states, layer_idx, 0), self._kept(value_states, layer_idx, 1)
        self.returned[layer_idx] = (*found, key_states, value_states)
        return found

    def own(self, layer: int, key: Tensor, value: Tensor) -> Own | None:
        """Where attention leaves the gradients of what ``update`` returned, if it came there as it was."""
        returned = self.returned.pop(layer, None)
        if returned is None or returned[0] is not key or returned[1] is not value or not torch.is_grad_enabled():
            return None
        own_key, own_value = returned[2:]
        if not (own_key.requires_grad and own_value.requires_grad and self.home == own_key.device):
            return None
        to_keys, to_values = (self.stores[layer, which].left(self.end) for which in (0, 1))
        return Own(own_key, own_value, to_keys, to_values)

    def _kept(self, own: Tensor, layer: int, which: int) -> Tensor:
        store = self.stores.get((layer, which))
        if store is None:
            shape = *own.shape[:2], self.length, own.shape[-1]
            store = self.stores[layer, which] = _Store(torch.empty(shape, dtype=own.dtype, device=self.home))
        if self.start not in store.written:
            store.written.add(self.start)
            store.whole[:, :, self.start : self.end] = own.detach()
        if own.requires_grad and torch.is_grad_enabled():
            found: Tensor = _Placed.apply(own, store, self.start, self.end)
            return found
        return store.whole[:, :, : self.end].to(own.device)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the present chunk."""
        return self.start

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys that the present chunk sees, and the first of them."""
        return self.start + query_length, 0


class _Placed(torch.autograd.Function):
    """A chunk's own keys (or values) among those before it, which the store holds: nothing is copied."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, store: _Store, start: int, end: int) -> Tensor:
        ctx.store, ctx.start, ctx.end = store, start, end
        return store.whole[:, :, :end].to(own.device)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), store, start = gradients, ctx.store, ctx.start
        left = store.left(ctx.end)
        left += gradient.to(left.device)
        return left[:, :, start:].to(gradient.device), None, None, None


@contextmanager
def _followed(model: nn.Module, positions: Tensor) -> Iterator[Engine]:
    """Attention by the engine, rotation as of the whole text, and layers that keep the cache when checkpointed.

    Raises:
        UserError: if a rotation depends on the length in a way that cannot be held still.
    """
    live = rotaries(model)
    for rotary in live:
        module: Any = rotary.module
        if rotary.asks_anew and module.config.rope_parameters["rope_type"] in BY_LENGTH:
            raise UserError(
                f"{type(module).__name__} rotates by the length of what it is given at a time, which is a chunk", MEND
            )
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        engine = stack.enter_context(attending_plainly(model))
        for rotary in live:
            if rotary.rope_type in BY_LENGTH:
                kind = () if rotary.layer_type == ALL else (rotary.layer_type,)
                rotary.module(torch.zeros(1, device=positions.device), positions, *kind)
        for rotary in live:
            rotary.rope_type = "default"
        for layer in decoder(model).modules():
            if isinstance(layer, GradientCheckpointingLayer):
                vars(layer)[KEEPS_CACHE] = True  # ours is written once, however often a layer is computed
                stack.callback(vars(layer).pop, KEEPS_CACHE)
        yield engine


def _try(model: nn.Module, engine: Engine) -> None:
    """Compare gradients by chunks and by one pass, once per model and method, on a few tokens.

    Raises:
        UserError: if they differ: layers that keep more from token to token than keys and values, or share them.
    """
    known = _tried.setdefault(model, set())
    if engine.setting in known:
        return
    body: Any = decoder(model)
    table = model.get_input_embeddings()  # type: ignore[operator]
    device = next(body.parameters()).device
    ids = torch.arange(3, 3 + TRIED, device=device)[None] % int(body.config.vocab_size)
    places = torch.arange(TRIED, device=device)[None]
    batch = Batch(ids, ids, torch.ones_like(ids).float(), places, torch.zeros_like(ids))
    try:
        with still(body):
            leaf = table(ids).detach().requires_grad_()
            whole = body(inputs_embeds=leaf, position_ids=places, use_cache=False)[0]
            _require_embeddings_alone(model, ids, {"position_ids": places, "use_cache": False})
            asked = torch.linspace(-1, 1, whole.numel(), device=device).reshape(whole.shape).to(whole.dtype).sin_()
            (expected,) = torch.autograd.grad(whole, leaf, asked)
            text, found = _Text(model, batch, TRIED_CHUNK), []
            with torch.no_grad():
                for start, end in text.chunks[:-1]:
                    text.read(leaf[:, start:end], start, end)
            for start, end in reversed(text.chunks):
                piece = leaf[:, start:end].detach().requires_grad_()
                found += torch.autograd.grad(text.read(piece, start, end), piece, asked[:, start:end])
    except UserError:
        raise
    except Exception as error:
        kinds = ", ".join(sorted(set(getattr(body.config, "layer_types", None) or ["full_attention"])))
        raise UserError(
            f"{type(model).__name__} cannot be read in chunks; its layers are {kinds} "
            f"({type(error).__name__}: {error})",
            MEND,
        ) from error
    off = float((torch.cat(found[::-1], 1) - expected).norm() / expected.norm())
    if not off <= TOLERANCE.get(expected.dtype, 0.1):
        raise UserError(
            f"gradients of {type(model).__name__} by chunks are off by {off:.2g} of their size on {TRIED} tokens: its "
            "layers keep more from token to token than keys and values of their own",
            MEND,
        )
    known.add(engine.setting)


@torch.no_grad()
def _require_embeddings_alone(model: nn.Module, ids: Tensor, given: dict[str, Any]) -> None:
    """Refuse a model that looks up more of a token than its embedding, which is all that a chunk is given as.

    What is looked up may have no effect yet, so that no output tells.

    Raises:
        UserError: naming the table.
    """
    body, table = decoder(model), model.get_input_embeddings()  # type: ignore[operator]
    asked: dict[str, int] = {}

    def note(name: str, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].shape == ids.shape and bool((inputs[0] == ids).all()):
            asked[name] = asked.get(name, 0) + 1

    with ExitStack() as stack:
        for name, module in body.named_modules():
            if isinstance(module, nn.Embedding) and module is not table:
                hook = module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs))
                stack.callback(hook.remove)
        body(inputs_embeds=table(ids), **given)
        found, asked = asked, {}
        body(input_ids=ids, **given)
    left_out = [name for name in asked if asked[name] != found.get(name)]
    if left_out:
        raise UserError(
            f"{type(model).__name__} reads {left_out[0]} beside the embedding of a token, which is all that a chunk is "
            "given as",
            MEND,
        )


def _random(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The state of the random numbers that a forward pass on ``device`` draws."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
