"""Attention methods: time and memory against stock SDPA, and against the two score matrices of papers' reference code.

    python bench/attention.py [--quick] [--threads 1 2] --json FILE

A small model (8 query heads, 2 key-value heads of 64, everything else tiny, random weights) reads a prompt with one
layer, and decodes token by token with eight, on top of a cache of random keys. Ours runs with ``method.on(model)``. The
peers are the plain model with transformers' own SDPA, and for methods with two rotations of all keys the formulation of
their authors: two score matrices of queries by keys, chosen between entry by entry, one softmax. All run in this
process, in alternation.

Times are seconds inside attention: tables of cosines and sines, rotation, attention itself, and what the engine does
once per forward. Projections and the key-value cache are outside, where both sides do the same; the seconds of the
whole forward stand beside. ``ours`` and ``peer`` are minima, medians are in the setting. ``ratio`` is ours / peer:
below 1, ours is faster, or smaller.

Every method must give the plain model's logits where its windows hold the whole text, and those of the score matrices
wherever they are computed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from common.row import row
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache, LlamaConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.models.llama import modeling_llama

from ropewalk import AttentionMethod, DualChunk, LeakyReRoPE, LMInfinite, LogN, ReRoPE, SelfExtend, StreamingLLM
from ropewalk.attention.cache_owner import SETTING, claim
from ropewalk.attention.regions import Layer, Region
from ropewalk.rope.probe import identity_rotary
from ropewalk.rope.rotation import rotate, tables

TRAINED, TARGET = 4096, 32768  # tokens
PREFILL_LAYERS, DECODE_LAYERS = 1, 8
HEADS, KV_HEADS, WIDTH, VOCABULARY = 8, 2, 64, 256
SHAPE = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": WIDTH}
SHORT, STEPS = 1000, 8  # tokens that the windows of every method hold, read and then decoded
EQUAL = {torch.float32: 1e-4, torch.bfloat16: 1e-1}  # of the largest logit
SDPA, MATRICES = "stock SDPA", "two score matrices"
MIB = 2**20


class PlainRegions(AttentionMethod):
    """One region, all keys where they stand: what the engine costs."""

    name: ClassVar[str] = "none"
    far: ClassVar[bool] = True


METHODS = [
    PlainRegions(),
    SelfExtend(),
    ReRoPE(),
    LeakyReRoPE(),
    DualChunk(),
    LogN(),
    LMInfinite(),
    LMInfinite(window=1024),
    StreamingLLM(),
    StreamingLLM(recent=1020),
]
TWO_ROTATIONS = (SelfExtend, ReRoPE)  # of all keys; leaky ReRoPE is a ReRoPE
WINDOWED = (LMInfinite, StreamingLLM)


@dataclass(frozen=True)
class Scale:
    """What is measured.

    Attributes:
        prefill: tokens of a text -> how often it is read.
        decode: tokens in a cache that is decoded on top of.
        steps: tokens decoded.
        matrices: tokens up to which score matrices are computed.
        memory: tokens of texts whose peak memory is taken.
    """

    prefill: dict[int, int]
    decode: tuple[int, ...]
    steps: int
    matrices: int
    memory: tuple[int, ...]


FULL = Scale({2048: 5, 8192: 2, 32768: 1}, (8192, 32768), 16, matrices=8192, memory=(32768,))  # matrices: 2 GiB each
QUICK = Scale({2048: 3, 4096: 1}, (4096,), 8, matrices=2048, memory=(4096,))


@dataclass
class Stopwatch:
    """Adds up the seconds between ``start`` and ``stop``."""

    device: str
    seconds: float = 0.0
    _began: float = 0.0

    def start(self, *_: Any) -> None:
        self._began = self._now()

    def stop(self, *_: Any) -> None:
        self.seconds += self._now() - self._began

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed_work(*arguments: Any, **keywords: Any) -> Any:
            self.start()
            result = work(*arguments, **keywords)
            self.stop()
            return result

        return timed_work

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclass
class Reader:
    """A model that reads text, its cache, and how long that took.

    Attributes:
        model: plain, or with a method on it.
        attention: runs while any model attends.
        seconds: (phase, "attention" or "forward") -> of every forward pass.
    """

    model: PreTrainedModel
    attention: Stopwatch
    cache: DynamicCache = field(default_factory=DynamicCache)
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def prefill(self, ids: Tensor) -> Tensor:
        """Logits after a text that starts here."""
        self.cache = DynamicCache()
        return self.read(ids, "prefill")

    def read(self, ids: Tensor, phase: str = "decode") -> Tensor:
        """Logits after more tokens, float32 [vocabulary]."""
        forward = Stopwatch(self.attention.device)
        self.attention.seconds = 0.0
        forward.start()
        logits = self.model(ids, past_key_values=self.cache, logits_to_keep=1).logits
        forward.stop()
        self.seconds[phase, "attention"].append(self.attention.seconds)
        self.seconds[phase, "forward"].append(forward.seconds)
        return logits[0, -1].float()

    def summary(self, phase: str) -> dict[str, float]:
        """Least and median seconds of attention, least seconds of the whole forward."""
        attention, forward = (self.seconds[phase, part] for part in ("attention", "forward"))
        return {"min": min(attention), "median": statistics.median(attention), "forward": min(forward)}


def llama(layers: int, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The same weights every time, large enough for attention to look at something."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=WIDTH,
        max_position_embeddings=TRAINED,
        initializer_range=0.15,
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()


def random_text(n: int, device: str) -> Tensor:
    return torch.randint(VOCABULARY, (1, n), generator=torch.Generator().manual_seed(n)).to(device)


def random_cache(n: int, dtype: torch.dtype, device: str) -> DynamicCache:
    generator = torch.Generator().manual_seed(n)
    cache = DynamicCache()
    for layer in range(DECODE_LAYERS):
        keys, values = torch.randn(2, 1, KV_HEADS, n, WIDTH, generator=generator).to(device, dtype)
        cache.update(keys, values, layer)
    return cache


@contextmanager
def two_score_matrices(method: AttentionMethod, model: PreTrainedModel) -> Iterator[None]:
    """The method as its authors' code computes it: two matrices of queries by keys; all keys rotated in every step."""
    near, far = method.regions(Layer(0, TRAINED, TARGET, HEADS, KV_HEADS))
    inv_freq = model.model.rotary_emb.inv_freq

    def attention(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: None, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        keys = torch.arange(k.shape[-2], device=q.device)
        queries = keys[-q.shape[-2] :]

        def scores(region: Region) -> Tensor:
            turned_q = rotate(q, *tables(region.q_pos(queries)[None], inv_freq, 1.0), style="half")
            turned_k = rotate(k, *tables(region.k_pos(keys)[None], inv_freq, 1.0), style="half")
            return turned_q @ repeat_kv(turned_k, HEADS // KV_HEADS).mT * scaling

        chosen = torch.where(keys >= near.lo(queries)[:, None], scores(near), scores(far))
        chosen.masked_fill_(keys > queries[:, None], -torch.inf)
        weights = chosen.softmax(-1, dtype=torch.float32).to(q.dtype)
        return (weights @ repeat_kv(v, HEADS // KV_HEADS)).transpose(1, 2).contiguous(), None

    AttentionInterface.register(MATRICES, attention)
    model.config._attn_implementation = MATRICES
    with identity_rotary(model):  # the cache holds keys as they are before rotation
        yield


@contextmanager
def watching(models: list[PreTrainedModel], device: str) -> Iterator[Stopwatch]:
    """A watch that runs during all that belongs to attention: tables, rotation, attention, the engine's hook."""
    watch = Stopwatch(device)
    with ExitStack() as stack:
        rotate_both = watch.timed(modeling_llama.apply_rotary_pos_emb)
        stack.enter_context(patch.object(modeling_llama, "apply_rotary_pos_emb", rotate_both))
        for model in models:
            body, rotary = model.model, model.model.rotary_emb
            for hook in (
                body.register_forward_pre_hook(watch.start, prepend=True),
                body.register_forward_pre_hook(watch.stop),
                rotary.register_forward_pre_hook(watch.start),
                rotary.register_forward_hook(watch.stop),
            ):
                stack.callback(hook.remove)
            name = model.config._attn_implementation
            attend = AttentionInterface()[name]
            AttentionInterface.register(name, watch.timed(attend))
            stack.callback(AttentionInterface.register, name, attend)
        yield watch


@contextmanager
def readers(
    method: AttentionMethod, layers: int, dtype: torch.dtype, device: str, matrices: bool = False
) -> Iterator[dict[str, Reader]]:
    """Ours, and its peers by name."""
    models = {name: llama(layers, dtype, device) for name in ["ours", SDPA, *([MATRICES] if matrices else [])]}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(method.on(models["ours"], to=TARGET))
        if matrices:
            stack.enter_context(two_score_matrices(method, models[MATRICES]))
        watch = stack.enter_context(watching(list(models.values()), device))
        yield {name: Reader(model, watch) for name, model in models.items()}


def check_equal(what: str, ours: Tensor, peer: Tensor, dtype: torch.dtype) -> None:
    error = float((ours - peer).abs().max() / peer.abs().max())
    if error > EQUAL[dtype]:
        raise SystemExit(f"{what}: logits differ by {error:.1e} of the largest")


def check_short(method: AttentionMethod, dtype: torch.dtype, device: str) -> None:
    """Inside its windows, a method is plain attention: in one forward, and on top of a cache."""
    text = random_text(SHORT + STEPS, device)
    with readers(method, DECODE_LAYERS, dtype, device) as by_name:
        found = {name: reader.prefill(text[:, :SHORT]) for name, reader in by_name.items()}
        check_equal(f"{method.id} within its windows", found["ours"], found[SDPA], dtype)
        for ids in text[:, SHORT:].split(1, -1):
            found = {name: reader.read(ids) for name, reader in by_name.items()}
            check_equal(f"{method.id} within its windows, decoding", found["ours"], found[SDPA], dtype)


def has_matrices(method: AttentionMethod, n: int, scale: Scale) -> bool:
    return isinstance(method, TWO_ROTATIONS) and n <= scale.matrices


def time_prefill(
    method: AttentionMethod, n: int, scale: Scale, dtype: torch.dtype, device: str
) -> Iterator[dict[str, Any]]:
    """Rows, one per peer."""
    text, what = random_text(n, device), f"{method.id}, prefill of {n} tokens"
    with readers(method, PREFILL_LAYERS, dtype, device, has_matrices(method, n, scale)) as by_name:
        for _ in range(scale.prefill[n]):
            found = {name: reader.prefill(text) for name, reader in by_name.items()}
            for name in ([SDPA] if isinstance(method, PlainRegions) else []) + (
                [MATRICES] if MATRICES in found else []
            ):
                check_equal(what, found["ours"], found[name], dtype)
    most = 1.2 if not isinstance(method, WINDOWED) else 0.5 if n == 8192 else None
    yield from compared(what, by_name, "prefill", most, tokens=n, layers=PREFILL_LAYERS, dtype=dtype, device=device)


def time_decode(
    method: AttentionMethod, n: int, scale: Scale, dtype: torch.dtype, device: str
) -> Iterator[dict[str, Any]]:
    """Rows, one per peer; seconds per token."""
    what = f"{method.id}, a token after {n}"
    with readers(method, DECODE_LAYERS, dtype, device, has_matrices(method, n, scale)) as by_name:
        for reader in by_name.values():
            reader.cache = random_cache(n, dtype, device)
            if setting := getattr(reader.model.model, SETTING, ""):
                claim(reader.cache.layers, setting)  # as if it had read them
        for ids in random_text(scale.steps, device).split(1, -1):
            found = {name: reader.read(ids) for name, reader in by_name.items()}
            if MATRICES in found:
                check_equal(what, found["ours"], found[MATRICES], dtype)
    most = 1.0 if dtype == torch.float32 else 1.2
    yield from compared(what, by_name, "decode", most, tokens=n, layers=DECODE_LAYERS, dtype=dtype, device=device)


def compared(
    what: str, by_name: dict[str, Reader], phase: str, most: float | None, dtype: torch.dtype, **setting: Any
) -> Iterator[dict[str, Any]]:
    """Rows of ours against each peer; against SDPA with the ratio that we aim at."""
    ours = by_name["ours"].summary(phase)
    for name in by_name.keys() - {"ours"}:
        peer = by_name[name].summary(phase)
        yield row(
            f"{what}, against {name}",
            ours["min"],
            peer["min"],
            "s",
            len(by_name[name].seconds[phase, "attention"]),
            aim=most if name == SDPA else None,
            dtype=str(dtype).removeprefix("torch."),
            medians={"ours": ours["median"], "peer": peer["median"]},
            whole_forward={"ours": ours["forward"], "peer": peer["forward"]},
            **SHAPE,
            **setting,
        )


def memory_of_method(method: AttentionMethod, n: int, scale: Scale, device: str) -> Iterator[dict[str, Any]]:
    """Rows of the peak memory of a prefill, against each peer.

    Raises:
        SystemExit: if ours is more than a single score matrix of one head.
    """
    text = random_text(n, device)
    with readers(method, PREFILL_LAYERS, torch.float32, device, has_matrices(method, n, scale)) as by_name:
        peaks = {name: peak(partial(reader.prefill, text), device) for name, reader in by_name.items()}
    ours = peaks.pop("ours")
    if ours >= 4 * n * n:
        raise SystemExit(f"{method.id}: prefill of {n} tokens takes {ours / MIB:.0f} MiB")
    for name, peer in peaks.items():
        title = f"{method.id}, peak memory of a prefill of {n} tokens, against {name}"
        yield row(
            title, ours / MIB, peer / MIB, "MiB", 1, **SHAPE, tokens=n, layers=PREFILL_LAYERS, dtype="float32",
            device=device,
        )  # fmt: skip


def peak(work: Callable[[], Any], device: str) -> int:
    """Most bytes of tensors that are alive at once, of those that ``work`` allocates."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    alive = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


def measure(scale: Scale, threads: list[int]) -> Iterator[dict[str, Any]]:
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for n_threads in threads if device == "cpu" else threads[:1]:
            torch.set_num_threads(n_threads)
            for dtype, method in product(EQUAL, METHODS):
                check_short(method, dtype, device)
                for n in scale.prefill:
                    yield from time_prefill(method, n, scale, dtype, device)
                for n in scale.decode:
                    yield from time_decode(method, n, scale, dtype, device)
        for method, n in product(METHODS, scale.memory):
            yield from memory_of_method(method, n, scale, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="measure with so many; on CPU")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    arguments = parser.parse_args()
    rows = []
    for found in measure(QUICK if arguments.quick else FULL, arguments.threads):
        rows.append(found)
        bound = found["setting"].get("aim")
        missed = f", the aim is {bound}" if bound is not None and found["ratio"] > bound else ""
        print(
            f"{found['setting']['device']} {found['setting']['dtype']}, {found['name']}: "
            f"{found['ours']:.4g} against {found['peer']:.4g} {found['unit']}, ratio {found['ratio']:.2f}{missed}",
            flush=True,
        )
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")  # what is measured stays, whatever comes


if __name__ == "__main__":
    main()
