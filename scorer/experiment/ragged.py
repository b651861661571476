"""Flat histories and flat targets brought together: tiles, sums and top K of constant shapes, for a captured GPU step.

Shape suffixes
    L  tokens of all requests      M  targets of all requests      R  requests
    n  tiles                       T  tokens of a tile             C  most candidates of a request
    D  width                       K  events that a search keeps

A tile is up to T tokens of one request beside all of its targets. What one request has in targets beyond C (only the
trainer's filling has that) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """Rows of tokens [n, T] and of targets [n, C], clamped into range, and which of them are real."""

    tokens: Tensor
    token_mask: Tensor
    targets: Tensor
    target_mask: Tensor


def owners(offsets: Tensor, rows: int) -> Tensor:
    """Which request each of `rows` rows belongs to, from offsets [R + 1]; int64 [rows]."""
    at = torch.arange(rows, device=offsets.device, dtype=offsets.dtype)
    return torch.searchsorted(offsets[1:].contiguous(), at, right=True).clamp_max(max(len(offsets) - 2, 0))


def cut_tiles(
    token_offsets: Tensor, target_offsets: Tensor, tokens: int, targets: int, most_targets: int, tile: int
) -> Tiles:
    """Tiles of `tile` tokens of a batch of so many tokens and targets; their number depends on shapes alone.

    Args:
        token_offsets, target_offsets: int [R + 1].
    """
    token_offsets, target_offsets = token_offsets.long(), target_offsets.long()
    requests = len(token_offsets) - 1
    counts = (token_offsets.diff() + tile - 1) // tile
    ends = counts.cumsum(0)
    piece = torch.arange(-(-tokens // tile) + requests, device=token_offsets.device)
    request = torch.searchsorted(ends, piece, right=True)
    real = (request < requests)[:, None]
    request = request.clamp_max(requests - 1)
    first = token_offsets[request] + (piece - (ends - counts)[request]) * tile
    rows_nT = first[:, None] + torch.arange(tile, device=piece.device)
    rows_nC = target_offsets[request][:, None] + torch.arange(most_targets, device=piece.device)
    return Tiles(
        tokens=rows_nT.clamp(0, max(tokens - 1, 0)),
        token_mask=real & (rows_nT < token_offsets[request + 1][:, None]),
        targets=rows_nC.clamp(0, max(targets - 1, 0)),
        target_mask=real & (rows_nC < target_offsets[request + 1][:, None]),
    )


def mean_by_request(x_LD: Tensor, token_offsets: Tensor) -> Tensor:
    """Mean of each request's tokens, zeros for one without, float32 [R, D]."""
    requests = len(token_offsets) - 1
    sums = x_LD.new_zeros(requests, x_LD.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, owners(token_offsets, len(x_LD)), x_LD.float())
    return sums / token_offsets.diff().clamp_min(1)[:, None]


def sum_by_target(weights_nTC: Tensor, x_LD: Tensor, tiles: Tiles, targets: int) -> Tensor:
    """For each target the sum over its request's tokens of weight times token, float32 [M, D].

    Args:
        weights_nTC: zero wherever a token or a target is not real.
    """
    parts_nCD = weights_nTC.transpose(1, 2) @ x_LD[tiles.tokens]
    out = x_LD.new_zeros(targets, x_LD.shape[1], dtype=torch.float32)
    return out.index_add(0, tiles.targets.flatten(), parts_nCD.flatten(0, 1).float())


def top_tokens(scores_nTC: Tensor, tiles: Tiles, targets: int, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` tokens of the highest scores for each target: rows [M, K], and which are real [M, K].

    Two stable sorts, by score and then by target, give each target's tokens as one run, best first: an exact search.
    """
    pairs = tiles.token_mask[:, :, None] & tiles.target_mask[:, None, :]
    by_score = torch.where(pairs, scores_nTC.float(), -torch.inf).flatten().argsort(descending=True, stable=True)
    # What is not real belongs to no target: behind the last.
    target = torch.where(pairs, tiles.targets[:, None, :], targets).flatten()[by_score]
    target, order = target.sort(stable=True)
    token = tiles.tokens[:, :, None].expand_as(pairs).flatten()[by_score][order]
    begin = torch.searchsorted(target, torch.arange(targets + 1, device=target.device))
    at_MK = begin[:-1, None] + torch.arange(keep, device=target.device)
    real = at_MK < begin[1:, None]
    return token[at_MK.clamp_max(max(len(token) - 1, 0))], real
