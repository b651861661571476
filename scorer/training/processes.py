"""What the processes of one training say to each other; nothing where there is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist


def same_weights(model: nn.Module) -> None:
    """Every process starts with the first one's."""
    if dist.is_initialized():
        for weight in model.state_dict().values():
            dist.broadcast(weight, src=0)


def agreed_steps(steps: int, device: torch.device) -> int:
    """The fewest steps that any process has: none may wait for a gradient that nobody sends."""
    if not dist.is_initialized():
        return steps
    fewest = torch.tensor(steps, device=device)
    dist.all_reduce(fewest, dist.ReduceOp.MIN)
    return int(fewest)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Over all processes, in one exchange."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients]) / dist.get_world_size()
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def gathered(rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and gradients of all processes, so that their tables stay the same."""
    if not dist.is_initialized():
        return rows, gradient
    world = dist.get_world_size()
    all_rows = [torch.empty_like(rows) for _ in range(world)]
    all_gradients = [torch.empty_like(gradient) for _ in range(world)]
    dist.all_gather(all_rows, rows.contiguous())
    dist.all_gather(all_gradients, gradient.contiguous())
    return torch.cat(all_rows), torch.cat(all_gradients) / world
