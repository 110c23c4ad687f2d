"""What every method of the catalogue computes, a second time: a row here for each, or the matrix fails by its name.

- ``FACTORS``: w / w' of a frequency method at d = 128, b = 10000, L = 4096, T = 16384, from hand or the authors' code.
- ``PAIRS``: an attention method's formula for every pair of a query and a key.
- ``CHOICES``: methods that choose keys by content, or heads, by plain loops, at L = 32, T = 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.attention import oracle
from tests.methods.attention import choices
from tests.methods.attention.pairs import Seen

L, T = 64, 100  # trained window and target of the pairs
AT = [0, 16, 32, 40, 48, 63]  # indices of the factors
ANY = math.nan  # decided by the rounding of the angles
FACTORS: dict[str, list[float]] = {
    "none": [1, 1, 1, 1, 1, 1],
    "pi": [4, 4, 4, 4, 4, 4],
    "ntk-aware": [1, 1.422015, 2.022126, 2.411350, 2.875493, 4],
    "dynamic-ntk": [1, 1.422015, 2.022126, 2.411350, 2.875493, 4],
    "ntk-by-parts": [1, 1, 2.607400, 3.627380, 4, 4],
    "yarn": [1, 1, 1.529412, 2.363636, 4, 4],
    "yarn(truncate=False)": [1, 1, 1.525094, 2.459707, 4, 4],
    "yarn(ramp='paper')": [1, 1, 2.607400, 3.627380, 4, 4],
    "mr-rope": [1, 1, 1.360790, 2.291959, 4, 4],
    "mr-rope(rise='uniform')": [1, 1, 1.896155, 2.904846, 4, 4],
    "abf": [1, 1.636583, 2.678403, 3.426454, 4.383429, 6.956340],
    "abf(rule='ntk')": [1, 1.422015, 2.022126, 2.411350, 2.875493, 4],
    "abf(base=500000)": [1, 2.659148, 7.071068, 11.530715, 18.803015, 47.035265],
    "entropy-abf": [1, 2.659148, 7.071068, 11.530715, 18.803015, 47.035265],
    "longembed-rope": [1, 1.778279, 3.162278, 4.216965, 5.623413, 9.646616],
    "resonance": [0.954930, 1.002676, 0.999493, 1.000041, 0.999971, 0.999997],
    "resonance+yarn": [0.954930, 1.002676, 1.529479, 2.363460, 4.000041, 4.000008],
    "giraffe(basis='linear')": [4, 4, 4, 4, 4, 4],
    "giraffe(basis='linear', stretch=2)": [8, 8, 8, 8, 8, 8],
    "giraffe(basis='power')": [1, 1.029186, 1.071773, 1.103054, 1.148698, 1.515717],
    "giraffe(basis='power', k=0.5)": [1, 1.154701, 1.414214, 1.632993, 2, 8],
    "giraffe(basis='power', k=0)": [1, 1, 1, 1, 1, 1],
    "llama3": [1, 1, 1, 1.940349, 4, 4],
    "longrope(factors=[" + ", ".join(str(1 + 3 * i / 63) for i in range(64)) + "])": [
        1, 1.761905, 2.523810, 2.904762, 3.285714, 4],
    "dprope": [ANY, ANY, ANY, 4, 4, 4],
    "clex(weights='zero')": [1, 1.639185, 2.686929, 3.440093, 4.404374, 7],
    "cope": [1, 1, 1, 1, 1.034944, 1e30],
    "cope(n=20)": [1, 1, 1, 1, 1.117855, 1e30],
    "fope": [1, 1, 1, 1, 1e30, 1e30],
    "drope": [1e30] * 6,
    "mrope-pp(section=(16, 24, 24))": [1, 1.422081, 2.022314, 2.411631, 2.875895, 4.000733],
    "mrope-pp(ntk_factor=0.5, section=(16, 24, 24))": [1, 2.098207, 2.686428, 2.411631, 2.875895, 4.000733],
    "mrope-pp(form='paper', section=(16, 24, 24))": [1, 1.115834, 3.417908, 4, 4, 4],
    "visual-window(effective_window=2048)": [1, 1, 2.272727, 6.25, 8, 8],
    "visual-window(effective_window=4096)": [1, 1, 1.529412, 2.363636, 4, 4],
    "harpe(base_min=500000, base_max=500000)": [1, 2.659148, 7.071068, 11.530715, 18.803015, 47.035265],
}  # fmt: skip

PAIRS: dict[str, oracle.Rule] = {
    "self-extend(group=7, window=9)": oracle.self_extend(7, 9),
    "self-extend(group=10, window=20)": oracle.self_extend(10, 20),
    "dca(chunk_size=20, local_size=5)": oracle.dual_chunk(15, 20),
    "dca(chunk_size=9, local_size=8)": oracle.dual_chunk(1, 9),
    "dca(chunk_size=32, local_size=1)": oracle.dual_chunk(31, 32),
    "rerope(window=8)": oracle.rerope(8),
    "string(shift=11, local=2)": oracle.string(L, 11, 2),
    "leaky-rerope(window=8, slope_divisor=6.5)": oracle.leaky_rerope(8, 6.5),
    "lm-infinite(window=16, sinks=3)": oracle.lm_infinite(16, 3),
    "lm-infinite(window=7, sinks=0)": oracle.lm_infinite(7, 0),
    "longgen(full=0.0, window=16, sinks=3)": oracle.partial_context(16, 3),
    "longgen(full=0.0, window=9, sinks=3, pattern='blocks', block=5, stride=3)": oracle.partial_context(9, 3, 5, 3),
    "streaming-llm(sinks=3, recent=13)": oracle.streaming(3, 13),
    "streaming-llm(sinks=0, recent=1)": oracle.streaming(0, 1),
    "streaming-llm(sinks=20, recent=5)": oracle.streaming(20, 5),
    "gali(local_window=6)": oracle.gali(L, 6, 6),
    "gali(local_window=6, chunk=17)": oracle.gali(L, 6, 17),
    "string(shift=40, local=3)": oracle.string(L, 40, 3),
    "fot(layers=[0], window=16)": oracle.earlier_windows(16),
    "fot(layers=[0], window=9)": oracle.earlier_windows(9),
    "log-n": oracle.log_n(L),
    "yarn-temperature": oracle.yarn_temperature(L, T),
    "yarn-temperature(growing=True)": oracle.yarn_temperature(L, None),
    "s2-attention(group_size=16)": oracle.s2(16, 4),
    "scca(chunk=16)": oracle.scca("flow", 4, 16),
    "scca(chunk=7, groups=3)": oracle.scca("flow", 4, 7, 3),
    "scca(pattern='fixed', chunk=16)": oracle.scca("fixed", 4, 16),
    "scca(pattern='fixed', chunk=9)": oracle.scca("fixed", 4, 9),
    "dca(chunk_size=20, local_size=5)+yarn-temperature(growing=True)": oracle.yarn_temperature(
        L, None, oracle.dual_chunk(15, 20)
    ),
    "rerope(window=8)+log-n": oracle.log_n(L, oracle.rerope(8)),
    "streaming-llm(sinks=3, recent=13)+yarn-temperature": oracle.yarn_temperature(L, T, oracle.streaming(3, 13)),
    # what options left out mean
    "self-extend": oracle.self_extend(math.ceil((T - L // 4) / (2 * L // 3 - L // 4)), L // 4),
    "dca": oracle.dual_chunk(5 * L // 8, 3 * L // 4),
    "rerope": oracle.rerope(L // 4),
    "string": oracle.string(L, L // 3, L // 8),
    "leaky-rerope": oracle.leaky_rerope(L // 4, (T - L // 4) / (L - L // 4)),
    "lm-infinite": oracle.lm_infinite(L, 10),
    "streaming-llm": oracle.streaming(4, L - 4),
    "rerope(effective_window=16)": oracle.rerope(4),
    "log-n(effective_window=16)": oracle.log_n(16),
    "attention-alignment(tau=0.8)": oracle.heated(1.25),
    "scca": oracle.scca("flow", 4),
    "scca(pattern='fixed')": oracle.scca("fixed", 4),
    "head-scale(scales=((1.0, 1.3, 0.7, 1.6),))": oracle.heated([1.0, 1.3, 0.7, 1.6]),
}

PLAN = ((0.5, 0.35, 0.2), (0.45, 0.4, 0.3))
CHOICES: dict[str, Callable[[Seen], choices.Choice]] = {
    "infllm(window=16, sinks=3, block_size=6, topk=2, representatives=2, execution_block=5)": (
        lambda seen: choices.infllm(seen, 16, 3, 6, 2, 2, 5)
    ),
    "longcache(sinks=2, local=9, span=4, recalled=3, votes=1, block=1)": (
        lambda seen: choices.longcache(seen, 2, 9, 4, 3, 1, 1)
    ),
    "ihip-rope(early_layers=1, sinks=2, window=9, kept=8, stages=(8, 2), block=4)": (
        lambda seen: choices.ihip(seen, "chunk", 2, 9, 16, (8, 2), 4)
    ),
    "ihip-rope(early_layers=0, sinks=2, window=9, kept=8, stages=(8, 2), block=4)": (
        lambda seen: choices.ihip(seen, "relative", 2, 9, 8, (8, 2), 4)
    ),
    "attendre(memory=16, chunk=5, topk=9)": lambda seen: choices.attendre(seen, 16, 5, 9, "lra"),
    "attendre(memory=16, chunk=5, topk=9, policy='lfa')": lambda seen: choices.attendre(seen, 16, 5, 9, "lfa"),
    "attendre(memory=11, chunk=7, topk=40, policy='fifo')": lambda seen: choices.attendre(seen, 11, 7, 40, "fifo"),
    "fot(layers=[0], window=13, topk=5)": lambda seen: choices.earlier_windows(seen, 13, 5),
    "longheads(chunk=4, attended=32)": lambda seen: choices.longheads(seen, 4, 8),
    "squeezed(prefix=60, threshold=0.02, clusters=0.25, observed=20)": (
        lambda seen: choices.squeezed(seen, 60, 0.02, 0.25, 20)
    ),
    "dope(heads=((1,),))": lambda seen: choices.dope(seen, {1}),
    f"tca(block=8, local=16, plan=({PLAN},))": lambda seen: choices.tca(seen, 8, 16, PLAN),
    "vertical-slash(vertical=12, slash=20, sinks=3, near=5, last=10, threshold=100)": (
        lambda seen: choices.vertical_slash(seen, choices.plain, 12, 20, 3, 5, 10)
    ),
}


def covered() -> set[str]:
    """Names of the methods that stand alone in a row."""
    return {spelling.split("(")[0] for spelling in [*FACTORS, *PAIRS, *CHOICES]}
