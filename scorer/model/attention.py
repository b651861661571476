"""Attention of each request's targets to its own history, over flat tokens and offsets; no padding, any length.

Shape suffixes: see `scorer/model/stca.py`; here L and M run over all requests of a batch.

A head's keys are [learned content | event terms], its values likewise. The terms are the same for all heads, so they
are never copied into per-head keys: both implementations join them on the fly. Every softmax has a null key, logit 0,
whose value is `NULL_VALUE` in the first term column and zeros elsewhere; an event's first value term is 0. So the first
attended term is the null key's share, times `NULL_VALUE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

#: A power of two that keeps a small null share above half precision's subnormals.
NULL_VALUE: Final = 256.0


@dataclass(frozen=True)
class Ragged:
    """Where each request's tokens and targets are. The kernels' tiles are cut by `scorer.training.flat.tiles`."""

    #: int32 [R + 1] each; request r has rows offsets[r] .. offsets[r + 1].
    token_offsets: Tensor
    target_offsets: Tensor
    #: int32 [n, 2], (request, first row): pieces of targets and of tokens, request -1 for none. CUDA only.
    target_tiles: Tensor | None = None
    token_tiles: Tensor | None = None
    #: No request has more targets than one piece.
    single: bool = False


def attend(q_MHK: Tensor, kv_L2HC: Tensor, key_terms_LJ: Tensor, value_terms_LJ: Tensor, ragged: Ragged) -> Tensor:
    """Attended [content | terms], [M, H, K]; logits are q . [key | key terms], not scaled further.

    Gradients reach queries, keys and values, not the terms.
    """
    if not q_MHK.is_cuda:
        return attend_reference(q_MHK, kv_L2HC, key_terms_LJ, value_terms_LJ, ragged)
    from scorer.model.kernels import ragged_attention

    if ragged.target_tiles is None or ragged.token_tiles is None:
        raise ValueError("attention on the GPU needs the batch's tiles")
    return ragged_attention(
        q_MHK,
        kv_L2HC,
        key_terms_LJ,
        value_terms_LJ,
        ragged.token_offsets,
        ragged.target_offsets,
        ragged.target_tiles,
        ragged.token_tiles,
        ragged.single,
    )


def attend_reference(
    q_MHK: Tensor, kv_L2HC: Tensor, key_terms_LJ: Tensor, value_terms_LJ: Tensor, ragged: Ragged
) -> Tensor:
    """`attend` request by request in plain torch, in the inputs' own precision."""
    heads = q_MHK.shape[1]
    tokens, targets = ragged.token_offsets.tolist(), ragged.target_offsets.tolist()
    null_value = null_row(value_terms_LJ, kv_L2HC.shape[3]).expand(1, heads, -1)
    parts: list[Tensor] = []
    for begin, end, first, last in zip(tokens, tokens[1:], targets, targets[1:], strict=False):
        if first == last:
            continue
        k_LHK = with_terms(kv_L2HC[begin:end, 0], key_terms_LJ[begin:end])
        v_LHK = with_terms(kv_L2HC[begin:end, 1], value_terms_LJ[begin:end])
        k_HKG = torch.cat([torch.zeros_like(null_value), k_LHK]).permute(1, 2, 0)
        v_HGK = torch.cat([null_value, v_LHK]).transpose(0, 1)
        shares_HMG = torch.softmax(q_MHK[first:last].transpose(0, 1) @ k_HKG, dim=-1)
        parts.append((shares_HMG @ v_HGK).transpose(0, 1))
    return torch.cat(parts) if parts else q_MHK.new_zeros(q_MHK.shape)


def with_terms(content_LHC: Tensor, terms_LJ: Tensor) -> Tensor:
    """[content | terms], [L, H, K]."""
    heads = content_LHC.shape[1]
    return torch.cat([content_LHC, terms_LJ[:, None].to(content_LHC.dtype).expand(-1, heads, -1)], dim=-1)


def null_row(terms: Tensor, content: int) -> Tensor:
    """The null key's value, [C + J], for terms [.., J]."""
    share = terms.new_full((1,), NULL_VALUE)
    return torch.cat([terms.new_zeros(content), share, terms.new_zeros(terms.shape[-1] - 1)])
