"""Trained id tables: gathered before the forward pass and updated after it, so that no gradient is as large as a table.

Row-wise Adagrad (Duchi et al., JMLR 2011; one accumulator per row as in "Deep Learning Recommendation Model", arXiv
1906.00091): the rows of a step are read, changed and written, the others are not touched. Every shape is that of the
step, so a captured training step contains it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class TableState:
    """One table's optimizer: accumulator [B] and a buffer [B, e] that is zero between steps."""

    weight: nn.Parameter
    squares: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, weight: nn.Parameter) -> TableState:
        """For a table that has not been trained; takes it out of autograd."""
        weight.requires_grad_(False)
        return cls(
            weight=weight,
            squares=torch.zeros(len(weight), device=weight.device),
            gradient=torch.zeros_like(weight, dtype=torch.float32),
        )

    def gather(self, rows: Tensor) -> Tensor:
        """The sums [n, e] of rows [n, hashes], as a leaf that collects its gradient."""
        return self.weight.detach()[rows].sum(1).requires_grad_()

    def update(self, rows: Tensor, gradient: Tensor, rate: Tensor, decay: float) -> None:
        """One step for rows [n, hashes] of which each got `gradient` [n, e].

        A row that occurs often is written often, with the same value: what is read is read before.

        Args:
            rate: learning rate, a scalar on the table's device.
            decay: per step and learning rate, of the touched rows; not of row 0, which padding touches, too.
        """
        flat = rows.flatten()
        spread = gradient.float()[:, None].expand(-1, rows.shape[1], -1).flatten(0, 1)
        self.gradient.index_add_(0, flat, spread)
        g = self.gradient[flat]
        squares = self.squares[flat] + g.square().mean(1)
        weight = self.weight.detach()
        old = weight[flat]
        decayed = decay * old * (flat != 0)[:, None]
        new = old - rate * (g / (squares.sqrt() + _EPSILON)[:, None] + decayed)
        self.squares.index_copy_(0, flat, squares)
        weight.index_copy_(0, flat, new.to(weight.dtype))
        self.gradient.index_fill_(0, flat, 0.0)


#: Keeps a row whose gradients are nothing from being divided by nothing.
_EPSILON = 1e-8
