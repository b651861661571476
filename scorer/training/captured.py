"""A CUDA graph over flat batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from scorer.training.flat import FlatBatch


class CapturedStep:
    """What is done with a batch as one CUDA graph: the processor launches it whole instead of some hundred kernels.

    The graph reads one set of addresses, so every batch is copied there first.
    """

    #: Steps that run as they are: compilation, the optimizer's state and the libraries' handles come into being there.
    WARM_UP: Final = 3

    def __init__(self, work: Callable[[FlatBatch], Tensor]) -> None:
        self._work = work
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: FlatBatch | None = None
        self._result: Tensor | None = None
        self._steps = 0

    def __call__(self, batch: FlatBatch) -> Tensor:
        """Works on a batch in pinned memory; returns what `work` does, valid until the next call."""
        if self._batch is None:
            self._batch = batch.to(torch.device("cuda"))
        else:
            for name in FlatBatch.__dataclass_fields__:
                getattr(self._batch, name).copy_(getattr(batch, name), non_blocking=True)
        self._steps += 1
        if self._steps <= self.WARM_UP:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                result = self._work(self._batch)
            torch.cuda.current_stream().wait_stream(self._stream)
            return result
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            # The loader's thread goes on allocating pinned memory meanwhile: none of this capture's business.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._result = self._work(self._batch)
        self._graph.replay()
        assert self._result is not None
        return self._result
