"""The forward pass of training: many requests at once, those of one user over one encoding of their history.

The same function as `STCA.encode` and `STCA.score`; a test holds them together. Shape suffixes: see
`scorer/model/stca.py` and `scorer/training/batches.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from scorer.model.stca import STCA


class RequestGroup(Protocol):
    """Requests of one user; see `scorer.training.batches.Group`."""

    @property
    def tokens(self) -> slice: ...
    @property
    def targets(self) -> slice: ...
    @property
    def requests(self) -> int: ...
    @property
    def terms(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor | None: ...


def score_grouped(
    model: STCA,
    history: dict[str, Tensor],
    targets: dict[str, Tensor],
    context: Tensor,
    groups: Sequence[RequestGroup],
) -> Tensor:
    """Logits [P, A] of all groups' targets, from `token_features`, `target_features` and contexts [P, 7]."""
    t_PD = model.embedding.targets(targets)
    keys, values = model.encode_content(history)
    outputs: list[Tensor] = []
    readouts: list[Tensor] = []
    for i, layer in enumerate(model.cross_attentions()):
        q_PHC, coefficients_PHJ = layer.queries(model.query_input(i, t_PD, outputs))
        parts = [
            _attend(
                q_PHC[group.targets],
                coefficients_PHJ[group.targets],
                keys[i][group.tokens],
                values[i][group.tokens],
                group,
            )
            for group in groups
        ]
        outputs.append(layer.out(torch.cat([content for content, _, _ in parts])))
        null_share = torch.cat([share for _, share, _ in parts])
        readouts.append(model.read_out(null_share, torch.cat([terms for _, _, terms in parts])))
    return model.rank(t_PD, outputs, readouts, context)


def _attend(
    q_PHC: Tensor, coefficients_PHJ: Tensor, k_LHC: Tensor, v_LHC: Tensor, group: RequestGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Attended content [P, H * C], the null key's share [P, H], attended terms [P, H, J] of one group."""
    targets, heads, content = q_PHC.shape
    r, m = group.requests, targets // group.requests
    g, j = group.terms.shape[1:]
    null = k_LHC.new_zeros(1, heads, content)
    k_HCG = torch.cat([null, k_LHC]).permute(1, 2, 0)
    v_HGC = torch.cat([null, v_LHC]).transpose(0, 1)
    coefficients_RXJ = coefficients_PHJ.view(r, m, heads, j).transpose(1, 2).reshape(r, heads * m, j)
    by_content = (q_PHC.transpose(0, 1) @ k_HCG).view(heads, r, m, g)
    by_terms = (coefficients_RXJ @ group.terms.transpose(1, 2)).view(r, heads, m, g).transpose(0, 1)
    logits_HRMG = by_content + by_terms
    if group.mask is not None:
        logits_HRMG = logits_HRMG + group.mask[:, None, :]
    shares_HRMG = torch.softmax(logits_HRMG, dim=-1)
    shares_HPG = shares_HRMG.view(heads, targets, g)
    attended = (shares_HPG @ v_HGC).transpose(0, 1).reshape(targets, heads * content)
    shares_RXG = shares_HRMG.transpose(0, 1).reshape(r, heads * m, g)
    terms = (shares_RXG @ group.terms).view(r, heads, m, j).transpose(1, 2).reshape(targets, heads, j)
    return attended, shares_HPG[..., 0].T, terms
