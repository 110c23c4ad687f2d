"""Accelerators as data, and how much of their memory tensors can have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.lengths import amount, said
from ropewalk.common.naming import find, plain

GIB = 2**30
CONTEXT = 1 * GIB  # CUDA context, libraries, workspaces
SLACK = 0.05  # of the memory: error correction on some cards, a fragmented allocator on all


@dataclass(frozen=True)
class GPU:
    """One accelerator.

    Attributes:
        name: as on the command line.
        memory: bytes.
        tflops: dense bfloat16 matrix products with float32 accumulation, 10^12 operations per second.
        bandwidth: of its memory, bytes per second.
        source: where the numbers are from.
    """

    name: str
    memory: int
    tflops: float
    bandwidth: float
    source: str


def _gpu(name: str, gib: int, tflops: float, terabytes: float, source: str) -> GPU:
    return GPU(name, gib * GIB, tflops, terabytes * 1e12, source)


GPUS = (
    _gpu("h100-80gb", 80, 989.4, 3.35, "NVIDIA H100 datasheet, SXM; bf16 without sparsity"),
    _gpu("h100-pcie", 80, 756.0, 2.0, "NVIDIA H100 datasheet, PCIe; bf16 without sparsity"),
    _gpu("h100-nvl", 94, 835.5, 3.9, "NVIDIA H100 NVL datasheet; bf16 without sparsity"),
    _gpu("h200", 141, 989.4, 4.8, "NVIDIA H200 datasheet, SXM; bf16 without sparsity"),
    _gpu("b200", 180, 2250.0, 8.0, "NVIDIA HGX B200 datasheet; bf16 without sparsity"),
    _gpu("a100-80gb", 80, 312.0, 2.039, "NVIDIA A100 datasheet, SXM 80 GB"),
    _gpu("a100-40gb", 40, 312.0, 1.555, "NVIDIA A100 datasheet, 40 GB"),
    _gpu("l40s", 48, 362.05, 0.864, "NVIDIA L40S datasheet; bf16 without sparsity"),
    _gpu("l4", 24, 121.0, 0.3, "NVIDIA L4 datasheet; bf16 without sparsity"),
    _gpu("a10", 24, 125.0, 0.6, "NVIDIA A10 datasheet"),
    _gpu("a6000", 48, 154.8, 0.768, "NVIDIA GA102 whitepaper, RTX A6000"),
    _gpu("rtx6000-ada", 48, 364.2, 0.96, "NVIDIA RTX 6000 Ada datasheet; bf16 without sparsity"),
    _gpu(
        "rtx3060",
        12,
        25.5,
        0.36,
        "GA106: 112 tensor cores at 1.777 GHz, counted as in NVIDIA's GA102 whitepaper; 12 GB",
    ),
    _gpu("rtx3080", 10, 59.5, 0.76, "NVIDIA GA102 whitepaper; bf16, float32 accumulation; 10 GB"),
    _gpu("rtx3090", 24, 71.0, 0.936, "NVIDIA GA102 whitepaper; bf16, float32 accumulation"),
    _gpu("rtx4080", 16, 97.5, 0.717, "NVIDIA Ada whitepaper; bf16, float32 accumulation"),
    _gpu("rtx4090", 24, 165.2, 1.008, "NVIDIA Ada whitepaper; bf16, float32 accumulation"),
    _gpu("rtx5080", 16, 112.6, 0.96, "NVIDIA RTX Blackwell whitepaper; bf16, float32 accumulation"),
    _gpu("rtx5090", 32, 209.5, 1.792, "NVIDIA RTX Blackwell whitepaper; bf16, float32 accumulation"),
    _gpu("mi300x", 192, 1307.4, 5.3, "AMD Instinct MI300X datasheet"),
)
DEFAULT = "h100-80gb"
BY_NAME = {gpu.name: gpu for gpu in GPUS}
UNITS = {"m": 2**20, "g": GIB, "t": 2**40}
BESIDE = re.compile(r"nvidia|amd|geforce|tesla|instinct|gpu|generation|sxm\d?|hbm\d?e?")  # words beside the name


def gpu(name: str) -> GPU:
    """The accelerator of that name, as people and drivers write it: ``RTX-4090``, ``4090``, ``NVIDIA A100-SXM4-80GB``.

    Raises:
        UserError: for an unknown one; the nearest is offered.
    """
    words = [word for word in re.split(r"[\s_-]+", name.lower()) if not BESIDE.fullmatch(word)]
    short = {plain(key).removeprefix("rtx").removesuffix(end): key for end in ("80gb", "gb", "") for key in BY_NAME}
    found = find("".join(words).removeprefix("rtx"), short)
    if found is not None:
        return BY_NAME[short[found]]
    raise UserError(
        f"unknown GPU {name!r}{did_you_mean(' '.join(words), BY_NAME)}",
        f"Known: {', '.join(BY_NAME)}. Of another ropewalk plan takes the memory of each, --memory 24G, and how many, "
        "--gpus 8: then all but times is known.",
    )


def parse_memory(text: str) -> int:
    """Bytes in ``text``: 24G, 24GB, 24 GiB, 1.5T; all units are powers of 1024, as drivers count.

    Raises:
        UserError: if it is no size, or has no unit.
    """
    size = amount(text, {unit + more: size for unit, size in UNITS.items() for more in ("", "b", "ib")})
    if not UNITS["m"] <= size <= 2**50:
        raise UserError(f"memory is {said(text)}, expected a size with its unit", "Write --memory 24G.")
    return int(size)


def usable(memory: int) -> int:
    """Bytes that tensors can have on a device with ``memory`` bytes."""
    return max(0, int(memory * (1 - SLACK)) - CONTEXT)
