"""What the device can do at most, measured: a large matrix product, a large copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def gemm_flops(device: torch.device, size: int = 8192, repeats: int = 20) -> float:
    """Floating point operations per second of a square product of random numbers: bfloat16 on a GPU, float32 else."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: torch.mm(one, other), device, repeats)


def copied_bytes(device: torch.device, size: int = 1 << 30, repeats: int = 20) -> float:
    """Bytes per second, read and written, of a copy on the device."""
    source = torch.randint(0, 255, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device, repeats)


def _seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median of `repeats` runs, each waited for, after three."""
    taken = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[3:])
