"""What is compared with STCA: pooling, DIN and a two-stage search, on the same tokens and terms, over flat batches.

Every model takes `scorer.model.flat.FlatInputs` and gives logits [M, 1, A]. Shape suffixes: see `ragged.py`, and H
heads or hidden units, J attention terms, A tasks.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scorer.experiment.plan import BaselinePlan
from scorer.experiment.ragged import Tiles, cut_tiles, mean_by_request, owners, sum_by_target, top_tokens
from scorer.features.settings import CONTEXT_WIDTH, FeatureSettings
from scorer.model.blocks import TokenEmbedding

if TYPE_CHECKING:
    from scorer.model.flat import FlatInputs

#: Tokens of a tile.
_TILE: Final = 64
#: Where the null key's competitors start, as in `scorer.model.stca`: below an exact match, above most others.
_THRESHOLD: Final = -3.0


class Baseline(nn.Module):
    """Tokens, what a subclass reads from the history, and an MLP over [t, o, t * o, readout, context]."""

    def __init__(self, plan: BaselinePlan, features: FeatureSettings, tasks: int, readout: int) -> None:
        super().__init__()
        self.plan, self.terms = plan, features.terms
        self.embedding = TokenEmbedding(plan.d, plan.table_dim, features)
        self.norm = nn.LayerNorm(plan.d)
        self.head = nn.Linear(3 * plan.d + readout + CONTEXT_WIDTH, plan.hidden)
        self.middle = nn.Linear(plan.hidden, plan.hidden)
        self.logits = nn.Linear(plan.hidden, tasks)

    def forward(self, inputs: FlatInputs) -> Tensor:
        """Logits [M, 1, A]."""
        x_LD = self.embedding.history(inputs.history)
        terms_LJ = inputs.terms
        if not len(x_LD):
            # Nothing to index would be an error; nobody owns this row.
            x_LD, terms_LJ = x_LD.new_zeros(1, x_LD.shape[1]), terms_LJ.new_zeros(1, self.terms)
        t_MD = self.embedding.targets(inputs.targets)
        read_MD, readout = self.read(
            x_LD, t_MD, terms_LJ, inputs.request_terms, inputs.ragged.token_offsets, inputs.ragged.target_offsets
        )
        o_MD = self.norm(read_MD.to(t_MD.dtype))
        parts = [t_MD, o_MD, t_MD * o_MD, readout.to(t_MD.dtype), inputs.context.to(t_MD.dtype)]
        h = silu(self.head(torch.cat(parts, dim=-1)))
        out: Tensor = self.logits(h + silu(self.middle(h)))
        return out[:, None]

    @abstractmethod
    def read(
        self,
        x_LD: Tensor,
        t_MD: Tensor,
        terms_LJ: Tensor,
        request_terms_MJ: Tensor,
        token_offsets: Tensor,
        target_offsets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the history says to each target, [M, D], and more of any scale that the head should see, [M, ..]."""

    def tiles(self, x_LD: Tensor, t_MD: Tensor, token_offsets: Tensor, target_offsets: Tensor) -> Tiles:
        """The batch in tiles."""
        return cut_tiles(token_offsets, target_offsets, len(x_LD), len(t_MD), self.plan.most_targets, _TILE)


class Pooling(Baseline):
    """The mean of the history's tokens. Terms have no place: nothing is weighed."""

    def __init__(self, plan: BaselinePlan, features: FeatureSettings, tasks: int) -> None:
        super().__init__(plan, features, tasks, readout=0)

    def read(
        self,
        x_LD: Tensor,
        t_MD: Tensor,
        terms_LJ: Tensor,  # noqa: ARG002
        request_terms_MJ: Tensor,
        token_offsets: Tensor,
        target_offsets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See `Baseline.read`."""
        mean_RD = mean_by_request(x_LD, token_offsets)
        return mean_RD[owners(target_offsets, len(t_MD))], request_terms_MJ[:, :0]


class DIN(Baseline):
    """Zhou et al., "Deep Interest Network" (arXiv 1706.06978): an MLP weighs each event for each target, no softmax.

    The activation unit sees target, event, their product and difference, and the terms. Its first layer is linear in
    target, event and difference, so these come from one product per token and one per target; only the element-wise
    product needs the pair. The paper's sum grows with the history; here its mean and the logarithm of its weight are
    told apart, and the terms are summed with the same weights.
    """

    def __init__(self, plan: BaselinePlan, features: FeatureSettings, tasks: int) -> None:
        super().__init__(plan, features, tasks, readout=1 + features.terms)
        width, units = plan.unit_width, plan.unit_hidden
        self.event = nn.Linear(plan.d, width, bias=False)
        self.event_part = nn.Linear(width, units)
        self.target_part = nn.Linear(width, units, bias=False)
        self.product = nn.Parameter(torch.randn(width, units) / width)
        self.term_part = nn.Linear(features.terms, units, bias=False)
        self.weight = nn.Linear(units, 1)

    def read(
        self,
        x_LD: Tensor,
        t_MD: Tensor,
        terms_LJ: Tensor,
        request_terms_MJ: Tensor,
        token_offsets: Tensor,
        target_offsets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See `Baseline.read`."""
        tiles = self.tiles(x_LD, t_MD, token_offsets, target_offsets)
        e_LE, g_ME = self.event(x_LD), self.event(t_MD)
        # All targets of a request have its terms: those of its first.
        first = target_offsets[:-1].long().clamp_max(max(len(t_MD) - 1, 0))
        now_LJ = terms_LJ * request_terms_MJ[first][owners(token_offsets, len(x_LD))]
        token_LH = self.event_part(e_LE) + self.term_part(now_LJ)
        n, tokens = tiles.tokens.shape
        width, units = self.product.shape
        scaled = (e_LE[tiles.tokens][..., None] * self.product).transpose(2, 3).reshape(n, tokens * units, width)
        pairs_nTHC = (scaled @ g_ME[tiles.targets].transpose(1, 2)).view(n, tokens, units, -1)
        target_nHC = self.target_part(g_ME)[tiles.targets].transpose(1, 2)
        hidden = silu(pairs_nTHC + token_LH[tiles.tokens][..., None] + target_nHC[:, None])
        weights = self.weight(hidden.transpose(2, 3)).squeeze(-1)
        weights_nTC = weights * (tiles.token_mask[:, :, None] & tiles.target_mask[:, None, :])
        with_mass = torch.cat([x_LD, now_LJ.to(x_LD.dtype)], dim=-1)
        summed = sum_by_target(weights_nTC, with_mass, tiles, len(t_MD))
        mass = sum_by_target(weights_nTC.abs(), torch.ones_like(x_LD[:, :1]), tiles, len(t_MD))
        d = x_LD.shape[1]
        mean = summed / (1 + mass)
        return mean[:, :d], torch.cat([torch.log1p(mass), mean[:, d:]], dim=-1)


class TwoStage(Baseline):
    """Search, then attend: after Chang et al., "TWIN" (arXiv 2302.02352), with one relevance for both stages.

    The search ranks a request's events by the inner product of the target's and the event's projections plus the
    terms, mean over the heads, exactly, over the whole history; multi-head attention runs over the best K, with a null
    key as in STCA. Gradients reach the projections through the attention.
    """

    def __init__(self, plan: BaselinePlan, features: FeatureSettings, tasks: int) -> None:
        super().__init__(plan, features, tasks, readout=plan.heads * (1 + features.terms))
        width = plan.heads * plan.head_dim
        self.key = nn.Linear(plan.d, width, bias=False)
        self.value = nn.Linear(plan.d, width, bias=False)
        self.query = nn.Linear(plan.d, width, bias=False)
        self.query_terms = nn.Linear(plan.d, plan.heads * features.terms)
        self.out = nn.Linear(width, plan.d, bias=False)
        self.token_norm = nn.LayerNorm(plan.d)
        # As in STCA: equal ids attract from the first step.
        nn.init.normal_(self.key.weight, std=plan.d**-0.5)
        self.query.weight.data.copy_(self.key.weight)
        nn.init.normal_(self.query_terms.weight, std=0.01)
        nn.init.zeros_(self.query_terms.bias)
        self.query_terms.bias.data.view(plan.heads, -1)[:, 0] = _THRESHOLD

    def read(
        self,
        x_LD: Tensor,
        t_MD: Tensor,
        terms_LJ: Tensor,
        request_terms_MJ: Tensor,
        token_offsets: Tensor,
        target_offsets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See `Baseline.read`."""
        heads, targets = self.plan.heads, len(t_MD)
        x_LD, t_MD = self.token_norm(x_LD), self.token_norm(t_MD)
        k_LHC, v_LHC = (of(x_LD).unflatten(-1, (heads, -1)) for of in (self.key, self.value))
        q_MHC = self.query(t_MD).unflatten(-1, (heads, -1)) / math.sqrt(self.plan.head_dim)
        c_MHJ = self.query_terms(t_MD).unflatten(-1, (heads, -1)) * request_terms_MJ[:, None]
        with torch.no_grad():
            tiles = self.tiles(x_LD, t_MD, token_offsets, target_offsets)
            keys = torch.cat([k_LHC.flatten(1), heads * terms_LJ.to(k_LHC.dtype)], dim=-1)
            queries = torch.cat([q_MHC.flatten(1), c_MHJ.mean(1).to(q_MHC.dtype)], dim=-1)
            scores_nTC = keys[tiles.tokens] @ queries[tiles.targets].transpose(1, 2)
            rows_MK, real_MK = top_tokens(scores_nTC, tiles, targets, self.plan.top_k)
        terms_MKJ = terms_LJ[rows_MK]
        logits_MHK = torch.einsum("mhc,mkhc->mhk", q_MHC, k_LHC[rows_MK]).float()
        logits_MHK = logits_MHK + torch.einsum("mhj,mkj->mhk", c_MHJ, terms_MKJ.to(c_MHJ.dtype)).float()
        logits_MHK = logits_MHK.masked_fill(~real_MK[:, None], -torch.inf)
        shares = torch.cat([torch.zeros_like(logits_MHK[..., :1]), logits_MHK], dim=-1).softmax(-1)
        attended = torch.einsum("mhk,mkhc->mhc", shares[..., 1:].to(v_LHC.dtype), v_LHC[rows_MK])
        recency = torch.einsum("mhk,mkj->mhj", shares[..., 1:], terms_MKJ) * request_terms_MJ[:, None]
        found = -torch.log(shares[..., 0].clamp_min(1e-20))
        return self.out(attended.flatten(1)), torch.cat([found, recency.flatten(1)], dim=-1)


_KINDS: Final[dict[str, type[Pooling] | type[DIN] | type[TwoStage]]] = {
    "pooling": Pooling,
    "din": DIN,
    "two_stage": TwoStage,
}


def new_baseline(plan: BaselinePlan, features: FeatureSettings, tasks: int, base_rate: float, seed: int) -> Baseline:
    """An untrained model; the same seed gives the same weights. Its logits start at the labels' log odds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Baseline = _KINDS[plan.kind](plan, features, tasks)
    rate = min(max(base_rate, 1e-4), 1 - 1e-4)
    with torch.no_grad():
        model.logits.bias.fill_(math.log(rate / (1 - rate)))
    return model
