"""Attention alignment of T5: a temperature, so that long texts are attended to as sharply as short ones.

arXiv 2311.00684. T5's bias is a part of its logits, l = q k + B without 1/sqrt(d), so that both are divided by tau.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.methods.base import require_above
from ropewalk.methods.carriers.carrier_method import CarrierMethod
from ropewalk.rope.live import still

if TYPE_CHECKING:
    from ropewalk.carriers.carrier import Carrier

SMALLEST = 0.05  # tau; below, attention is a maximum
STEPS = 12  # of a bisection: to a four-thousandth
QUERIES = 64  # of a text, evenly spread, whose attention is looked at
Statistic = Literal["entropy", "max-prob"]


def gaussian_tau(sigma: float, window: int, to: int) -> float:
    """The tau at which the entropy over T keys is that over L, if logits are normal: it is ln n - sigma^2 / (2 tau^2).

    Args:
        sigma: standard deviation of the logits.
        window: L.
        to: T.
    """
    return math.sqrt(sigma**2 / (sigma**2 + 2 * math.log(to / window)))


@dataclass(frozen=True)
class BiasAlignment(CarrierMethod):
    """Logits of self-attention over tau, by its projections of queries and its bias.

    Attributes:
        tau: the temperature; None means that of ``sigma``, or what is measured on texts.
        sigma: standard deviation of the logits, for the closed form.
        statistic: what is to be alike at both lengths, where tau is measured: the mean entropy, or the mean of the
            largest probability.
        part: whose self-attention: of the encoder alone, or of the decoder, too.
    """

    tau: float | None = None
    sigma: float | None = None
    statistic: Statistic = "entropy"
    part: Literal["encoder", "both"] = "encoder"

    name: ClassVar[str] = "t5-align"

    def __post_init__(self) -> None:
        require_above(0, self, "tau", "sigma")
        if self.tau is not None and self.sigma is not None:
            raise UserError(f"{self.name}: tau and sigma both say the temperature", "Leave one of them out.")

    @property
    def measures(self) -> bool:
        """Whether tau is still to be measured."""
        return self.tau is None and self.sigma is None

    def temperature(self, carrier: Carrier, to: int) -> float:
        """The temperature.

        Raises:
            UserError: if nothing says it.
        """
        window = self.check(carrier, to)
        if self.sigma is not None:
            return gaussian_tau(self.sigma, window, to)
        if self.tau is None:
            raise UserError(f"{self.name} has neither tau nor sigma", "extend measures it; here say t5-align(tau=0.8).")
        return self.tau

    def weights(self, carrier: Carrier, pretrained: Mapping[str, Tensor], to: int) -> dict[str, Tensor]:
        factor = 1 / self.temperature(carrier, to)
        ends = carrier.family.queries, carrier.family.bias
        part = "encoder." if self.part == "encoder" else ""
        chosen = {name: one for name, one in pretrained.items() if name.startswith(part) and name.endswith(ends)}
        if not all(any(name.endswith(end) for name in chosen) for end in ends):
            raise UserError(f"no weights of {part or 'the model'} end in {' and '.join(ends)}, which scale logits")
        return {name: (one.double() * factor).to(one.dtype) for name, one in chosen.items()}

    def acting(self, model: nn.Module, carrier: Carrier, to: int) -> Iterator[None]:
        own = {name: one.detach() for name, one in model.named_parameters()}
        with _holding(model, self.weights(carrier, own, to)):
            yield

    def calibrated(self, model: Any, carrier: Carrier, ids: Sequence[int], to: int) -> BiasAlignment:
        """The method with the tau at which attention of the encoder at T tokens is as sharp as at L, by bisection.

        Args:
            model: a live T5.
            carrier: of it.
            ids: tokens of texts, T or more.
            to: T.

        Raises:
            UserError: if there are fewer tokens, or attention is no flatter at T.
        """
        window = self.check(carrier, to)
        if len(ids) < to:
            raise UserError(f"{len(ids):,} tokens of texts, expected {to:,} to measure on", "Say t5-align(tau=0.8).")
        row = torch.tensor([list(ids[:to])], device=model.device)
        sign = 1 if self.statistic == "entropy" else -1
        wanted = sharpness(model, row[:, :window], self.statistic)

        own = dict(model.named_parameters())

        def flatter(tau: float) -> bool:
            with _holding(model, replace(self, tau=tau).weights(carrier, own, to)):
                return sign * (sharpness(model, row, self.statistic) - wanted) > 0

        if not flatter(1.0):
            raise UserError(
                f"attention to {to:,} tokens is no flatter than to {window:,} by its {self.statistic}",
                "Measure the model as it is on longer texts.",
            )
        low, high = SMALLEST, 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if flatter(middle) else (middle, high)
        return replace(self, tau=round(low, 4))


@contextmanager
def _holding(model: nn.Module, changed: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other values of some parameters."""
    own = dict(model.named_parameters())
    before = {name: own[name].detach().clone() for name in changed}
    try:
        with torch.no_grad():
            for name, value in changed.items():
                own[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)


def sharpness(model: Any, ids: Tensor, statistic: Statistic) -> float:
    """Mean over layers, heads and some queries of the encoder's self-attention: of its entropy, or largest probability.

    Args:
        model: a live T5.
        ids: int64 [1, n], without padding.
        statistic: which.
    """
    found: list[Tensor] = []
    attentions = [block.layer[0].SelfAttention for block in model.get_encoder().block]
    n = ids.shape[1]
    rows = torch.linspace(0, n - 1, min(n, QUERIES), device=ids.device).long()

    def look(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        states = arguments[0] if arguments else keywords["hidden_states"]
        biased = module if module.has_relative_attention_bias else attentions[0]
        bias = biased.compute_bias(n, n)[0, :, rows]  # [H, Q, n]
        queries, keys = (p(states)[0].view(n, module.n_heads, -1).transpose(0, 1) for p in (module.q, module.k))
        p = (queries[:, rows] @ keys.transpose(1, 2) + bias).double().softmax(-1)
        found.append(torch.special.entr(p).sum(-1).mean() if statistic == "entropy" else p.amax(-1).mean())

    hooks = [one.register_forward_pre_hook(look, with_kwargs=True) for one in attentions]
    try:
        with still(model), torch.no_grad():
            model.get_encoder()(input_ids=ids)
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.stack(found).mean())
