"""The parts the model is made of. Shape suffixes: see `scorer/model/stca.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scorer.features.settings import ENGAGEMENT_WIDTH, FeatureSettings


class SwiGLUFFN(nn.Module):
    """W_o(silu(W_u x) * W_v x), Shazeer, "GLU Variants Improve Transformer" (arXiv 2002.05202); no biases."""

    def __init__(self, d_in: int, d_hidden: int, d_out: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_in, d_hidden, bias=False)
        self.up = nn.Linear(d_in, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] to [..., d_out]."""
        return self.finish(self.gate(x), self.up(x))

    def finish(self, gate: Tensor, up: Tensor) -> Tensor:
        """The rest, from the first two products [..., d_hidden]."""
        out: Tensor = self.down(silu(gate) * up)
        return out


class HistoryEncoder(nn.Module):
    """LN(x + SwiGLUFFN(x)), token-wise: no token looks at another.

    The residual is ours: it keeps an id's code visible at every depth.
    """

    def __init__(self, d: int, ffn_ratio: int, *, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.ffn = SwiGLUFFN(d, ffn_ratio * d, d)
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.finish(x, self.ffn.gate(x), self.ffn.up(x))

    def first_weights(self) -> list[Tensor]:
        """What the tokens are multiplied with first, [hidden, D] each."""
        return [self.ffn.gate.weight, self.ffn.up.weight]

    def finish(self, x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        """The rest, from [..., D] and the products [..., hidden] with `first_weights`."""
        y = self.ffn.finish(gate, up)
        out: Tensor = self.norm(x + y if self.residual else y)
        return out


class IdEmbedding(nn.Module):
    """What events and candidates have in common: the fixed codes and the trained tables of item and group."""

    def __init__(self, d: int, table_dim: int, features: FeatureSettings) -> None:
        super().__init__()
        self.item_table = nn.Embedding(features.item_buckets, table_dim)
        self.group_table = nn.Embedding(features.group_buckets, table_dim)
        # Small: an id that was never trained should differ by its code, not by its table rows' noise.
        for table in (self.item_table, self.group_table):
            nn.init.normal_(table.weight, std=0.01)
        self.item_code = nn.Linear(features.code_bits, d, bias=False)
        self.group_code = nn.Linear(features.code_bits, d, bias=False)
        self.tables = nn.Linear(2 * table_dim, d, bias=False)

    def table_weights(self) -> list[nn.Parameter]:
        """Of items and of groups."""
        weights = (self.item_table.weight, self.group_table.weight)
        return [weight for weight in weights if isinstance(weight, nn.Parameter)]

    def forward(self, features: dict[str, Tensor], prefix: str = "") -> Tensor:
        """Rows int64 [N, 2] and codes int8 [N, bits] of items and groups to [N, D].

        `item_vectors` and `group_vectors`, [N, table_dim] each, stand for the sums of the tables' rows, where training
        has gathered them already.
        """
        dtype = self.item_code.weight.dtype
        if f"{prefix}item_vectors" in features:
            looked_up = [features[f"{prefix}item_vectors"], features[f"{prefix}group_vectors"]]
        else:
            looked_up = [
                self.item_table(features[f"{prefix}item_rows"]).sum(1),
                self.group_table(features[f"{prefix}group_rows"]).sum(1),
            ]
        out: Tensor = (
            self.item_code(features[f"{prefix}item_code"].to(dtype))
            + self.group_code(features[f"{prefix}group_code"].to(dtype))
            + self.tables(torch.cat(looked_up, dim=-1))
        )
        return out


class TokenEmbedding(nn.Module):
    """Events and candidates in one space, told apart by what only an event has (action, surface, engagement)."""

    def __init__(self, d: int, table_dim: int, features: FeatureSettings) -> None:
        super().__init__()
        self.ids = IdEmbedding(d, table_dim, features)
        self.action = nn.Embedding(features.actions, d)
        self.surface = nn.Embedding(features.surfaces, d)
        for table in (self.action, self.surface):
            nn.init.normal_(table.weight, std=0.1)
        self.engagement = nn.Linear(ENGAGEMENT_WIDTH, d, bias=False)
        self.target = nn.Parameter(0.1 * torch.randn(d))

    def history(self, features: dict[str, Tensor]) -> Tensor:
        """X [L, D] of `token_features`."""
        ids: Tensor = self.ids(features)
        out: Tensor = (
            ids
            + _rows_of(self.action, features["action_row"])
            + _rows_of(self.surface, features["surface_row"])
            + self.engagement(features["engagement"])
        )
        return out

    def targets(self, features: dict[str, Tensor]) -> Tensor:
        """The candidates' tokens [M, D]."""
        ids: Tensor = self.ids(features, "target_")
        return ids + self.target


def _rows_of(table: nn.Embedding, rows: Tensor) -> Tensor:
    """The table's rows [L, D]. On the GPU as a product: as a gather, its gradient is atomics into a handful of rows."""
    if rows.is_cuda and torch.is_grad_enabled():
        chosen = rows[:, None] == torch.arange(table.num_embeddings, device=rows.device)
        out: Tensor = chosen.to(table.weight.dtype) @ table.weight
        return out
    looked_up: Tensor = table(rows)
    return looked_up


class RankMixer(nn.Module):
    """Parameter-free token mixing and one FFN per token, Zhu et al., "RankMixer" (arXiv 2507.15551).

    Mixing: T tokens of width D, each cut into T pieces; piece t of every token makes the new token t.
    """

    def __init__(self, tokens: int, d: int, ffn_ratio: int) -> None:
        super().__init__()
        if d % tokens:
            raise ValueError(f"width {d} is not divisible by {tokens} tokens")
        self.tokens = tokens
        self.mixed_norm = nn.LayerNorm(d)
        self.norm = nn.LayerNorm(d)
        self.ffns = nn.ModuleList(SwiGLUFFN(d, ffn_ratio * d, d) for _ in range(tokens))

    def forward(self, x_MTD: Tensor) -> Tensor:
        """[M, T, D] to [M, T, D]."""
        m, t, d = x_MTD.shape
        mixed = x_MTD.reshape(m, t, t, d // t).transpose(1, 2).reshape(m, t, d)
        s_MTD = self.mixed_norm(x_MTD + mixed)
        ffn = torch.stack([ffn(s_MTD[:, i]) for i, ffn in enumerate(self.ffns)], dim=1)
        out: Tensor = self.norm(s_MTD + ffn)
        return out
