"""What methods that choose keys let a query see, by plain loops: keys and distances for a head and a query."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from ropewalk.methods.attention.squeezed import clustered
from tests.methods.attention.pairs import Distances, N

Choice = Callable[[int, int], Distances]  # of a head and a query


def infllm(seen, w, sinks, size, topk, representatives, run, ends=(N,)):
    """The paper's r_m, block scores and choice; queries of one run that reach attention together choose together."""
    tokens_, heads = seen.q.shape[1], range(len(seen.q))
    turned = [torch.stack([seen.rotated(x[:, i], i) for i in range(tokens_)], 1) for x in (seen.q, seen.k)]
    products = turned[0] @ turned[1].mT  # [H, queries, keys]

    def weight(n, h):
        return float(products[h, n + 1 : n + w + 1, n].sum()) / w

    blocks = []
    for start in range(sinks, tokens_ - w - size + 1, size):
        kept = []
        for h in heads:
            ranked = sorted(range(start, start + size), key=lambda n: -weight(n, h))
            kept.append(seen.k[h, ranked[:representatives]].mean(0))
        blocks.append((start, kept))

    def distances(head, m):
        first, last = m // run * run, min(m // run * run + run, tokens_)
        for a, b in zip((0, *ends), ends, strict=False):
            if a <= m < b:
                together = range(max(first, a), min(last, b))
        complete = [(start, kept) for start, kept in blocks if start + size - 1 <= first - w]

        queries = [seen.rotated(seen.q[h, list(together)].mean(0), w - 1) for h in heads]

        def score(block):
            return sum(float(queries[h] @ block[1][h]) for h in heads)

        chosen = {start for start, _ in sorted(complete, key=score, reverse=True)[:topk]}
        found = {n: m - n for n in range(max(0, m - w + 1), m + 1)}
        loose = sinks + len(complete) * size
        for n in range(m - w + 1):
            if n < sinks or n >= loose or sinks + (n - sinks) // size * size in chosen:
                found[n] = w - 1
        return found

    return distances


def longcache(seen, sinks, local, span, recalled, votes, block):
    heads = range(len(seen.q))

    @functools.cache
    def listed(start, end):
        """The middle keys that the queries of a block recall."""
        count = dict.fromkeys(range(sinks, end), 0)
        for h in heads:
            for i in range(start, min(start + block, seen.q.shape[1])):
                score = dict(zip(count, (seen.k[h, sinks:end] @ seen.q[h, i]).tolist(), strict=True))
                for n in sorted(count, key=lambda n: -score[n])[:votes]:
                    count[n] += 1
        centres = [n for n in sorted(count, key=lambda n: (-count[n], n)) if count[n]][:recalled]
        return sorted({n + i for n in centres for i in range(-(span // 2), span - span // 2)} & set(count))

    def distances(head, m):
        start = m // block * block
        end = start - local + 1
        if end <= sinks:
            return {n: m - n for n in range(m + 1)}
        keys = [*range(sinks), *listed(start, end), *range(end, m + 1)]
        return {n: len(keys) - 1 - place for place, n in enumerate(keys)}

    return distances


def ihip(seen, style, sinks, window, kept, stages, block):
    """``kept`` is that of the layer."""
    tokens_ = seen.q.shape[1]

    @functools.cache
    def chosen(head, first):
        end = first - window + 1
        queries = list(range(first, min(first + block, tokens_)))

        def score(token, place, half, count):
            if token >= end:
                return -math.inf
            m = torch.tensor(queries).double()[:, None]
            q_at, k_at = {
                "chunk": (m.clamp_max(count + window), place),
                "relative": (torch.full_like(m, window + 1), half),
                "exact": (m, token),
            }[style]
            key = seen.rotated(seen.k[head, token], k_at)
            return float((seen.rotated(seen.q[head, queries], q_at) @ key).max())

        def stands_for(place, start, size, count):
            best = score(start, place, 0, count)
            while size > 1:
                size //= 2
                left, right = score(start, place, 0, count), score(start + size, place, 1, count)
                best, start = max(left, right), start + size if right > left else start
            return best

        pieces, before = [*range(sinks, end, stages[0])], stages[0]
        for i, size in enumerate(stages):
            pieces = [start + offset for start in pieces for offset in range(0, before, size)]
            scores = [stands_for(place, start, size, len(pieces)) for place, start in enumerate(pieces)]
            ranked = sorted(range(len(pieces)), key=lambda place: -scores[place])
            goes_on = ranked[: kept * 4 ** (len(stages) - 1 - i) // size]
            pieces, before = [pieces[place] for place in sorted(goes_on)], size
        return [n for start in pieces for n in range(start, start + before) if n < end]

    def distances(head, m):
        first = m // block * block
        end = first - window + 1
        if end <= sinks:
            return {n: m - n for n in range(m + 1)}
        older = [*range(sinks), *chosen(head, first)]
        return {n: m - (end - len(older) + i) for i, n in enumerate(older)} | {n: m - n for n in range(end, m + 1)}

    return distances


def longheads(seen, size, k):
    def bidirectional(head, start):
        n = range(start, start + size)
        q, keys = ([seen.rotated(x[head, i], i - start) for i in n] for x in (seen.q, seen.k))
        keys = torch.stack(keys)
        mean = sum((keys @ x / 4).softmax(0) @ seen.v[head, start : start + size] for x in q) / size
        return (keys @ mean / 4).softmax(0) @ keys

    chunks = seen.q.shape[1] // size
    of = {(h, c): bidirectional(h, c * size) for h in range(len(seen.q)) for c in range(chunks)}

    def distances(head, m):
        own = m // size
        if own < k:
            return {n: m - n for n in range(m + 1)}
        ranked = sorted(range(1, own - 1), key=lambda c: -float(seen.q[head, m] @ of[head, c]))
        chosen = [0, *sorted(ranked[: k - 3]), own - 1, own]
        listed = [n for c in chosen for n in range(c * size, (c + 1) * size)]
        q = (k - 1) * size + m % size
        return {n: q - place for place, n in enumerate(listed) if n <= m}

    return distances


def earlier_windows(seen, window, k):
    def distances(head, m):
        first = m // window * window
        logits = seen.logits(head, m, dict.fromkeys(range(first), m - first)).tolist() if first else []
        chosen = sorted(range(first), key=lambda n: -logits[n])[:k]
        return dict.fromkeys(chosen, m - first) | {n: m - n for n in range(first, m + 1)}

    return distances


def attendre(seen, memory, chunk, k, policy):
    """Heads that share keys share a memory; what it holds is asked of every head and query once."""
    found = {}
    for kv in range(seen.kv_heads):
        held, worth = [], {}
        for start in range(0, seen.q.shape[1], chunk):
            kept = sorted(held, key=lambda n: (worth[n], n))[max(0, len(held) - memory) :]
            held = sorted(kept)
            for m in range(start, min(start + chunk, seen.q.shape[1])):
                held.append(m)
                worth.setdefault(m, 0 if policy == "lfa" else m)
            for m in range(start, held[-1] + 1):
                visible = [n for n in held if n <= m]
                for head in range(kv * seen.group, (kv + 1) * seen.group):
                    distances = {n: len(visible) - 1 - place for place, n in enumerate(visible)}
                    logits = dict(zip(visible, seen.logits(head, m, distances).tolist(), strict=True))
                    chosen = sorted(visible, key=lambda n: -logits[n])[:k]
                    found[head, m] = {n: distances[n] for n in chosen}
                    for n in chosen:
                        if policy != "fifo":
                            worth[n] = worth[n] + 1 if policy == "lfa" else max(worth[n], m)
    return lambda head, m: found[head, m]


def plain(m, n):
    return m - n


def vertical_slash(seen, distance, vertical, slash, sinks, near, last, start=0):
    """What each head keeps, from the attention of the last queries to all keys."""
    end = seen.q.shape[1]
    sets = []
    for head in range(len(seen.q)):
        column, diagonal = dict.fromkeys(range(end), 0.0), dict.fromkeys(range(end), 0.0)
        for m in range(end - last, end):
            row = seen.logits(head, m, {n: distance(m, n) for n in range(m + 1)}).softmax(0)
            for n, share in enumerate(row.tolist()):
                column[n] += share
                diagonal[m - n] += share
        for scores, always in ((column, sinks), (diagonal, near)):
            scores |= dict.fromkeys(range(always), torch.inf)
        columns, diagonals = (
            set(sorted(scores, key=lambda i: -scores[i])[:budget])
            for scores, budget in ((column, vertical), (diagonal, slash))
        )
        sets.append((columns, diagonals))

    def distances(head, m):
        columns, diagonals = sets[head]
        if m < start:
            return {n: distance(m, n) for n in range(m + 1)}
        block = m // 64 * 64
        met = {n for d in diagonals for n in range(block - d, block - d + 64)}
        return {n: distance(m, n) for n in range(m + 1) if n in columns or n in met}

    return distances


def squeezed(seen, prefix, threshold, clusters, observed):
    """Clusters are the library's, which has tests of its own; scores are written out."""
    keys = prefix - observed
    turned = torch.stack([seen.rotated(seen.k[:, n], n) for n in range(keys)], 1)
    count = round(clusters * keys)
    centroids, belongs = clustered(turned[None, :: seen.group].float(), count, 300, 0)

    def distances(head, m):
        kv = head // seen.group
        query = seen.rotated(seen.q[head, m], m)
        weight = [math.exp(float(query @ centroids[0, kv, i].double()) / 4) for i in range(count)]
        total = sum(weight[i] for i in belongs[0, kv].tolist())
        dropped = {n for n in range(keys) if weight[int(belongs[0, kv, n])] / total <= threshold}
        return {n: m - n for n in range(m + 1) if m < prefix or n not in dropped}

    return distances


def dope(seen, still):
    return lambda head, m: {n: 0 if head // seen.group in still else m - n for n in range(m + 1)}


def tca(seen, block, local, plan, budgets=None):
    """``budgets`` collects the budgets that were given out."""
    n_tokens = seen.q.shape[1]

    def core(kv, start):
        keys = seen.k[kv * seen.group, start : start + block]
        cosine = torch.nn.functional.cosine_similarity(keys, keys.mean(0, keepdim=True)).tolist()
        budget = 2 ** sum(sum(cosine) / block <= bound for bound in plan[kv])
        if budgets is not None:
            budgets.add(budget)
        return {start + i for i in sorted(range(block), key=cosine.__getitem__)[:budget]}

    starts = range(block, n_tokens - block + 1, block)
    kept = [set().union(*(core(kv, start) for start in starts)) for kv in range(seen.kv_heads)]

    def distances(head, m):
        first = m // block * block - local
        return {n: m - n for n in range(m + 1) if n < block or n >= first or n in kept[head // seen.group]}

    return distances
