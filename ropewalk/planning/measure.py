"""Counting the memory that a piece of work really takes: every allocation of tensor memory, not the process's size."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_bytes(work: Callable[[], object], device: str | torch.device = "cpu") -> int:
    """The most tensor memory that ``work`` held at one moment beyond what was held before, in bytes.

    On CUDA this is the caching allocator's own count. On the CPU every allocation and release of torch's allocator is
    recorded by the profiler, those inside kernels included; memory of libraries with allocators of their own is not.
    The profiler prints two lines on standard error unless KINETO_LOG_LEVEL=99 is set before torch is loaded.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
