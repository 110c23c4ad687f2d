"""HyLo: some layers attend through latent keys, others become linear, and the model teaches them (arXiv 2604.24715).

Beside it, HALO's position scheme HyPE (arXiv 2601.22156): linear layers rotate, layers that attend do not, and their
queries grow with the logarithm of their position once training is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.memory.delta_rule import gated_delta
from ropewalk.methods.memory.latent_keys import LatentKeys, full_rank
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.methods.memory.mixers import MixedReader, Mixer, Parts, reader_on, taken_apart
from ropewalk.methods.memory.trained_memory import PLACE, TrainedMemory

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PIECE = 2048  # tokens that are read at once where no gradient is asked for
DECAY = 1.0, 16.0  # between which the rates of forgetting lie before training, and
STEP = 1e-3, 1e-1  # the step sizes, as Mamba begins them


def logarithmic(positions: Tensor, base: float) -> Tensor:
    """HyPE's scale of a query at a position t, ln(t + base) / ln(base); 1 at the first token."""
    return (positions + base).log() / math.log(base)


def attending_layers(count: int, share: float) -> list[int]:
    """Which of ``count`` layers attend: a share of them, as far apart as they can be."""
    return [i for i in range(count) if math.floor((i + 1) * share + 1e-9) > math.floor(i * share + 1e-9)]


def copied(linear: nn.Linear) -> nn.Linear:
    """A linear map of its own with the same numbers."""
    made = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None)
    made.load_state_dict(linear.state_dict())
    return made.to(linear.weight.dtype)


class LatentAttention(nn.Module):
    """A layer's attention with keys and values of a latent vector; what it begins with is the layer's own, by an SVD.

    Args:
        parts: of the layer.
        rank: numbers of a latent vector.
    """

    def __init__(self, parts: Parts, rank: int):
        super().__init__()
        module = parts.module
        self.q, self.o = copied(module.q_proj), copied(module.o_proj)
        self.keys = LatentKeys(module.k_proj, module.v_proj, rank)


class LinearLayer(nn.Module):
    """A gated linear layer in a layer's place, of the layer's own projections; gates are new.

    Args:
        parts: of the layer.
    """

    def __init__(self, parts: Parts):
        super().__init__()
        module, heads = parts.module, parts.heads
        self.q, self.k, self.v, self.o = (
            copied(one) for one in (module.q_proj, module.k_proj, module.v_proj, module.o_proj)
        )
        width = self.q.in_features
        self.step, self.beta = nn.Linear(width, heads), nn.Linear(width, heads)
        self.rate = nn.Parameter(torch.empty(heads).uniform_(*DECAY).log())
        self.gate, self.norm = nn.Linear(width, heads * parts.width), nn.RMSNorm(parts.width, eps=1e-6)
        steps = torch.empty(heads).uniform_(*map(math.log, STEP)).exp()
        with torch.no_grad():
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # what softplus turns into them

    def gates(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the decay and beta, float32 [B, H, n]."""
        step = F.softplus(self.step(hidden).float())
        return (-self.rate.float().exp() * step).mT, self.beta(hidden).float().sigmoid().mT


@dataclass(eq=False)
class _Attends:
    """Latent attention; its state is the latent vectors of all tokens, [B, n, rank]."""

    parts: Parts
    layer: LatentAttention
    base: float | None

    def begin(self, rows: int) -> None:
        return None

    def mix(self, hidden: Tensor, start: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        own, layer = self.parts, self.layer
        latent = layer.keys.latent(hidden)
        latent = latent if state is None else torch.cat([state, latent], 1)
        key, value = layer.keys(latent)
        q, k = own.queries(layer.q(hidden)), own.keys(key)
        if self.base is None:
            q, k = own.turned(q, start), own.turned(k, 0)
        elif not layer.training:
            places = torch.arange(start, start + q.shape[2], device=q.device).float()
            q = (q.float() * logarithmic(places, self.base)[:, None]).to(q.dtype)
        out: Tensor = layer.o(own.attended(q, k, own.values(value)).transpose(1, 2).flatten(2))
        return out, latent


@dataclass(eq=False)
class _Linear:
    """A gated linear layer; its state is the recurrence's, [B, H, D, D], however long the text."""

    parts: Parts
    layer: LinearLayer
    corrects: bool
    rotates: bool

    def begin(self, rows: int) -> None:
        return None

    def mix(self, hidden: Tensor, start: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        own, layer = self.parts, self.layer
        q, k, v = own.queries(layer.q(hidden)), own.keys(layer.k(hidden)), own.values(layer.v(hidden))
        if self.rotates:
            q, k = own.turned(q, start), own.turned(k, start)
        q, k, v = (F.normalize(q.float(), dim=-1), F.normalize(k.float(), dim=-1), v.float())
        k, v = (one.repeat_interleave(own.heads // own.kv_heads, 1) for one in (k, v))
        out, state = gated_delta(q, k, v, *layer.gates(hidden), state, self.corrects)
        gate = F.silu(layer.gate(hidden)).unflatten(-1, (own.heads, -1))
        mixed: Tensor = layer.o((layer.norm(out.transpose(1, 2).to(hidden.dtype)) * gate).flatten(2))
        return mixed, state


@dataclass(frozen=True)
class HyLo(TrainedMemory, MemoryMethod):
    """Every layer is upcycled: a share attends through latent keys, which are all that grows with the text.

    Training has three stages, as its recipe has: each layer is taught the output of the attention that it replaces,
    then the model its own former predictions, then it reads on at length. The model itself stays frozen, so that it is
    there as the teacher.

    Attributes:
        attention: share of the layers that attend.
        layers: which ones do, if not those of that share, evenly spaced.
        rank: numbers of a latent vector, as a share of those that the layer's keys and values have.
        linear: what the others are: "gated-delta", or "mamba2", which takes values in whatever the state says already.
        positions: "rope": layers that attend rotate, linear ones do not; "hype": the other way round, and queries are
            scaled by ln(t + base) / ln(base) except in training.
        base: of that logarithm.
    """

    attention: float = 0.25
    layers: tuple[int, ...] = ()
    rank: float = 0.4
    linear: Literal["gated-delta", "mamba2"] = "gated-delta"
    positions: Literal["rope", "hype"] = "rope"
    base: float = 500.0

    name: ClassVar[str] = "hylo"
    exact_near: ClassVar[bool] = False
    target_free: ClassVar[bool] = True
    cache_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(0, self, "rank")
        require_above(1, self, "base")
        if not 0 <= self.attention <= 1:
            raise UserError(f"{self.name}: attention is {self.attention}, expected a share of the layers, 0 to 1")
        for option, known in (("linear", ("gated-delta", "mamba2")), ("positions", ("rope", "hype"))):
            if getattr(self, option) not in known:
                raise UserError(f"{self.name}: {option} is {getattr(self, option)!r}, expected {' or '.join(known)}")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return cls(attention=0.5, rank=0.5).begun(), cls(attention=0.5, linear="mamba2", positions="hype").begun()

    def attends(self, count: int) -> list[int]:
        """Which of ``count`` layers attend.

        Raises:
            UserError: if one of ``layers`` is none.
        """
        strange = [one for one in self.layers if not 0 <= one < count]
        if strange:
            raise UserError(f"{self.name}: layers names {strange[0]}, expected 0 to {count - 1}")
        return sorted(set(self.layers)) or attending_layers(count, self.attention)

    def rank_of(self, parts: Parts) -> int:
        """Numbers of a layer's latent vector; more than the layer's full rank would be of no use."""
        key, value = parts.module.k_proj, parts.module.v_proj
        return min(max(1, round(self.rank * (key.out_features + value.out_features))), full_rank(key, value))

    def added(self, model: PreTrainedModel) -> nn.Module:
        parts = taken_apart(model)
        attends = self.attends(len(parts))
        return nn.ModuleList(
            LatentAttention(one, self.rank_of(one)) if order in attends else LinearLayer(one)
            for order, one in enumerate(parts)
        )

    def reader(self, model: nn.Module, to: int) -> MixedReader:
        parts, hype = taken_apart(model), self.positions == "hype"
        mixers: list[Mixer] = []
        for one, layer in zip(parts, cast("list[nn.Module]", list(getattr(model, PLACE))), strict=True):
            if isinstance(layer, LatentAttention):
                mixers.append(_Attends(one, layer, self.base if hype else None))
            else:
                mixers.append(_Linear(one, cast(LinearLayer, layer), self.linear == "gated-delta", hype))
        return MixedReader(model, parts, mixers, PIECE)

    def taught(self, model: PreTrainedModel, batch: Any, left: int) -> Tensor | None:
        """Outputs of every layer where two stages or more are left, the teacher's predictions where one is."""
        if left == 0:
            return None
        reader, real = reader_on(model), batch.targets >= 0
        if left > 1:
            return _outputs(model, reader, batch.input_ids, real)
        with torch.no_grad(), reader.plainly():
            teacher = model(input_ids=batch.input_ids, use_cache=False).logits[real].float().log_softmax(-1)
        own = model(input_ids=batch.input_ids, use_cache=False).logits[real].float().log_softmax(-1)
        return F.kl_div(own, teacher, reduction="sum", log_target=True)


def _outputs(model: PreTrainedModel, reader: MixedReader, ids: Tensor, real: Tensor) -> Tensor:
    """Squared differences of every layer to what it replaces on the teacher's way, over the mean square of that."""
    with torch.no_grad():
        taught = reader.taught(ids)
    loss = torch.zeros((), device=ids.device)
    for mixer, (hidden, wanted) in zip(reader.mixers, taught, strict=True):
        found, _ = mixer.mix(hidden, 0, mixer.begin(len(ids)))
        off = (found - wanted)[real].float().square().sum(-1)
        loss = loss + off.sum() / wanted[real].float().square().sum(-1).mean()
    return loss / len(taught)
