"""Every attention method a second time, pair by pair in float64: who is seen, at which distance, with which factor.

Nothing here knows of regions: each function states the paper's formula for query position m [Q, 1] and key position
n [1, K]. Rotations are complex numbers, and only distances enter them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pairs:
    """What a method says about every pair.

    Attributes:
        seen: bool [Q, K], or [H, Q, K].
        distance: at which the two meet, float64 [Q, K].
        factor: multiplies the logits of a query, float64 [Q, 1], or [H, 1, 1].
        other: a second distance, for logits interpolated between two; None if there is one.
        weight: of the second distance's logit, float64 [1, K].
    """

    seen: Tensor
    distance: Tensor
    factor: Tensor | float = 1.0
    other: Tensor | None = None
    weight: Tensor | float = 0.0


Rule = Callable[[Tensor, Tensor, int], Pairs]  # query and key positions, length of the text -> Pairs


def plain(m: Tensor, n: Tensor, length: int) -> Pairs:
    return Pairs(m >= n, m - n)


def self_extend(group: int, window: int) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        far = m // group - n // group + window - window // group
        return Pairs(m >= n, torch.where(m - n < window, m - n, far))

    return rule


def string(window: int, shift: int, local: int) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        return Pairs(m >= n, torch.where(m - n < shift, m - n, (m - n - shift) % (window - local) + local))

    return rule


def dual_chunk(chunk: int, ceiling: int) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        apart = m // chunk - n // chunk
        next_chunk = (m % chunk + chunk).clamp_max(ceiling)
        further = torch.full_like(m, min(2 * chunk - 1, ceiling))
        query = torch.where(apart == 0, m % chunk, torch.where(apart == 1, next_chunk, further))
        return Pairs(m >= n, query - n % chunk)

    return rule


def rerope(window: int) -> Rule:
    return lambda m, n, length: Pairs(m >= n, (m - n).clamp_max(window))


def leaky_rerope(window: int, divisor: float) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        d = (m - n).double()
        return Pairs(d >= 0, torch.where(d < window, d, window + (d - window) / divisor))

    return rule


def lm_infinite(window: int, sinks: int) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        d = m - n
        return Pairs((d >= 0) & ((d < window) | (n < sinks)), d.clamp_max(window))

    return rule


def partial_context(window: int, sinks: int, block: int = 1, stride: int = 0) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        d = m - n
        strided = (n // block) % stride == stride - 1 if stride else torch.zeros_like(d, dtype=torch.bool)
        return Pairs((d >= 0) & ((d < window) | (n < sinks) | strided), d)

    return rule


def earlier_windows(window: int) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        return Pairs(m >= n, torch.where(m // window == n // window, m - n, m % window))

    return rule


def streaming(sinks: int, recent: int) -> Rule:
    """By the list of cached tokens as it is at every query: it drops the oldest token behind the sinks."""

    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        seen = torch.zeros(len(m), n.shape[1], dtype=torch.bool)
        distance = torch.zeros(len(m), n.shape[1])
        cached: list[int] = []
        for position in range(int(m.max()) + 1):
            cached.append(position)
            if len(cached) > sinks + recent:
                del cached[sinks]
            for row in (m[:, 0] == position).nonzero()[:, 0].tolist():
                for slot, key in enumerate(cached):
                    seen[row] |= n[0] == key
                    distance[row, n[0] == key] = len(cached) - 1 - slot
        return Pairs(seen, distance)

    return rule


def s2(group: int, heads: int) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        straight = m // group == n // group
        shifted = (m - group // 2) // group == (n - group // 2) // group
        seen = torch.stack([straight] * (heads // 2) + [shifted] * (heads - heads // 2))
        return Pairs(seen & (m >= n), m - n)

    return rule


def scca(pattern: str, heads: int, chunk: int | None = None, groups: int = 4) -> Rule:
    """A key that is moved back by its group's shift falls into the query's chunk."""

    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        w = chunk or math.ceil(length / 4)
        shares = groups if pattern == "flow" else 2
        seen = []
        for head in range(heads):
            group = max(g for g in range(shares) if heads * g // shares <= head)
            shift = group * w if pattern == "flow" else group * w // 2
            moved = (n + shift) // w == m // w
            seen.append(torch.where(m // w * w < shift, n < w, moved))
        return Pairs(torch.stack(seen) & (m >= n), m - n)

    return rule


def gali_positions(length: int, window: int, local: int) -> list[Fraction]:
    """The paper's procedure: split the oldest whole positions into g, one after the other, until there are enough."""
    found = [Fraction(i) for i in range(min(length, window))]
    g = math.ceil((length - local) / (window - local))
    split: list[Fraction] = []
    while len(split) + len(found) < length:
        position = found.pop(0)
        missing = length - len(split) - len(found)
        split += [position + Fraction(j, g) for j in range(min(g, missing))]
    return split + found


def gali(window: int, local: int, chunk: int) -> Rule:
    """The text first has ``window`` tokens, then ``chunk`` more at a time; a query sees it at the end of its chunk."""

    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        above, below, weight = [], [], []
        for query in m[:, 0].tolist():
            at = gali_positions(window + max(0, math.ceil((query + 1 - window) / chunk)) * chunk, window, local)
            seen = [at[i] if i <= query else Fraction(0) for i in n[0].tolist()]
            above.append([math.ceil(at[query]) - math.ceil(p) for p in seen])
            below.append([math.ceil(at[query]) - math.floor(p) for p in seen])
            weight.append([float(math.ceil(p) - p) for p in seen])
        return Pairs(m >= n, torch.tensor(above), other=torch.tensor(below), weight=torch.tensor(weight).double())

    return rule


def log_n(window: int, of: Rule = plain) -> Rule:
    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        factors = [[max(1.0, math.log(i + 1) / math.log(window))] for i in m[:, 0].tolist()]
        return _heated(of(m, n, length), torch.tensor(factors, dtype=torch.float64))

    return rule


def yarn_temperature(window: int, target: int | None, of: Rule = plain) -> Rule:
    """With ``target`` None, every query counts the tokens up to itself."""

    def rule(m: Tensor, n: Tensor, length: int) -> Pairs:
        scales = [max(1.0, (i + 1 if target is None else target) / window) for i in m[:, 0].tolist()]
        factors = [[(0.1 * math.log(s) + 1) ** 2] for s in scales]
        return _heated(of(m, n, length), torch.tensor(factors, dtype=torch.float64))

    return rule


def heated(factor: float | list[float]) -> Rule:
    """Plain attention with one factor, or one for each head."""
    factors = torch.tensor(factor, dtype=torch.float64).reshape(-1, 1, 1)
    return lambda m, n, length: Pairs(m >= n, m - n, factors)


def _heated(pairs: Pairs, factor: Tensor) -> Pairs:
    return Pairs(pairs.seen, pairs.distance, pairs.factor * factor, pairs.other, pairs.weight)


def base_frequencies(d: int, base: float = 1e4) -> Tensor:
    return base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)


def _complex(x: Tensor) -> Tensor:
    """Pairs (i, i + d/2) of [H, P, d] as complex numbers [H, P, d/2]."""
    return torch.complex(*x.double().chunk(2, dim=-1))


def attention(q: Tensor, k: Tensor, v: Tensor, pairs: Pairs, inv_freq: Tensor) -> Tensor:
    """Softmax attention of unrotated q [H, Q, D] and k, v [Hkv, K, D], in float64: [H, Q, D]."""
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)

    def logits(distance: Tensor) -> Tensor:
        turn = torch.polar(torch.ones((), dtype=torch.float64), distance.double()[..., None] * inv_freq)
        return torch.einsum("hqd,hkd,qkd->hqk", _complex(q), _complex(k).conj(), turn).real

    scores = logits(pairs.distance)
    if pairs.other is not None:
        scores = (1 - pairs.weight) * scores + pairs.weight * logits(pairs.other)
    scores = scores * pairs.factor / math.sqrt(q.shape[-1])
    return scores.masked_fill(~pairs.seen, -torch.inf).softmax(-1) @ v.double()


@dataclass
class Seen:
    """Queries, keys, values and outputs of the attention calls of one layer, [B, H, tokens, D] each."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor


@contextmanager
def watched(model: Any) -> Iterator[Callable[[], Seen]]:
    """Record the first attention layer of a Llama; calls (chunks of one text) are joined."""
    layer = model.model.layers[0].self_attn
    found: dict[str, list[Tensor]] = {"q": [], "k": [], "v": [], "out": []}

    def recorder(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Sequence[Tensor], *output: Tensor) -> None:
            x = output[0] if output else arguments[0]
            found[name].append(x.detach().unflatten(-1, (-1, layer.head_dim)).transpose(1, 2))

        return hook

    hooks = [getattr(layer, f"{name}_proj").register_forward_hook(recorder(name)) for name in "qkv"]
    hooks.append(layer.o_proj.register_forward_pre_hook(recorder("out")))
    try:
        yield lambda: Seen(**{name: torch.cat(parts, 2) for name, parts in found.items()})
    finally:
        for hook in hooks:
            hook.remove()


def expected(seen: Seen, rule: Rule, inv_freq: Tensor, row: int, ends: Sequence[int], first: int = 0) -> Tensor:
    """Outputs [H, tokens, D] of the text that starts at token ``first`` of a row, read in pieces up to ``ends``."""
    found, start = [], 0
    for end in ends:
        q = seen.q[row, :, first + start : first + end]
        k, v = (x[row, :, first : first + end] for x in (seen.k, seen.v))
        m, n = torch.arange(start, end)[:, None], torch.arange(end)[None]
        found.append(attention(q, k, v, rule(m, n, end), inv_freq))
        start = end
    return torch.cat(found, 1)
