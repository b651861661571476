"""The training loss: binary cross-entropy per task, and a listwise term within each request."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def ranking_losses(
    logits_TA: Tensor,
    labels_TA: Tensor,
    shares_TA: Tensor,
    request_T: Tensor,
    weights_R: Tensor,
    weights_A: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(binary, listwise), each summed over requests and tasks with their weights; meant to be added with a weight.

    binary: the mean over a request's targets. listwise: the cross-entropy between the softmax of a request's logits and
    its `shares`. Targets are still scored independently of each other: only the loss compares them.

    Args:
        labels_TA: 0 or 1, or a probability.
        shares_TA: see `listwise_shares`.
        request_T: which of the R requests each target belongs to.
        weights_R: of the requests; 1 / R for their mean, 0 for one that does not count.
        weights_A: of the tasks in both sums; None: 1 for all.
    """
    requests, tasks = len(weights_R), logits_TA.shape[1]
    weights_A = logits_TA.new_ones(tasks) if weights_A is None else weights_A
    counts_R = weights_R.new_zeros(requests).index_add(0, request_T, torch.ones_like(request_T, dtype=weights_R.dtype))
    weights_T = weights_R[request_T]
    per_target_TA = binary_cross_entropy_with_logits(logits_TA, labels_TA, reduction="none")
    binary = ((per_target_TA * weights_A).sum(1) * weights_T / counts_R[request_T]).sum()

    index_TA = request_T[:, None].expand(-1, tasks)
    highest_RA = logits_TA.new_full((requests, tasks), -torch.inf)
    highest_RA = highest_RA.scatter_reduce(0, index_TA, logits_TA.detach(), "amax")
    shifted_TA = logits_TA - highest_RA[request_T]
    total_RA = logits_TA.new_zeros(requests, tasks).index_add(0, request_T, shifted_TA.exp())
    log_share_TA = shifted_TA - total_RA.log()[request_T]
    listwise = -(log_share_TA * shares_TA * weights_A * weights_T[:, None]).sum()
    return binary, listwise


def listwise_shares(labels_TA: NDArray[np.uint8], request_offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    """A request's positives in equal parts, float32 [T, A]; zeros for a request without one: it adds nothing.

    Args:
        request_offsets: targets of request r are offsets[r] .. offsets[r + 1], none of them empty; [R + 1].
    """
    positives = np.add.reduceat(labels_TA, request_offsets[:-1], axis=0, dtype=np.float32)
    per_target = np.repeat(np.maximum(positives, 1), np.diff(request_offsets), axis=0)
    shares: NDArray[np.float32] = labels_TA.astype(np.float32) / per_target
    return shares
