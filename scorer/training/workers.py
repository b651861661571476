"""Threads that each run whole forward and backward passes.

torch's own threads split every operation and meet at a barrier after it, some hundred microseconds apart: on a machine
that does anything else besides, one late thread holds up the other, and they burn the processor while they wait. Here
each thread takes a share of a step, runs its operations alone, and they meet once per step.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def torch_workers(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `workers` threads in which every torch operation runs on the calling thread alone."""
    before = torch.get_num_threads()
    with ThreadPoolExecutor(workers, "torch", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        torch.set_num_threads(1)
        try:
            yield pool
        finally:
            torch.set_num_threads(before)
